//! `arc status --watch`: the same again and again, with what goes on meanwhile.

use std::time::{Duration, Instant};

use codec::Geometry;
use serde_json::{Value, json};
use server::Result;
use server::client::CoordinatorClient;
use server::wire::{
    Event, EventsQuery, LedgerCounts, RepairStatus, ServerInfo, State, Status, StatusQuery,
};

use super::forecast::Forecast;
use super::{fields, head, labelled, pushes, safety, stored};
use crate::commands::events;
use crate::commands::servers::{brake_text, standing_text};
use crate::exit::{Exit, Failure};
use crate::ui::{Ui, bytes_text, count_text, duration_text, escaped, plural, time_text};
use crate::vault::{self, Connection};

/// From one look to the next, on a terminal and elsewhere.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const TELL_EVERY: Duration = Duration::from_secs(5);
/// A coordinator to which an answer is work is left alone for so many times as long.
const REST_TIMES: u32 = 4;
/// One that gives no answer for so long is away.
const SILENCE: Duration = Duration::from_secs(10);
/// The last events shown, and stripes named that are being repaired.
const EVENTS_SHOWN: u32 = 5;
const STRIPES_NAMED: usize = 3;

/// What one look found.
struct Seen {
    status: Status,
    repair: RepairStatus,
    servers: Vec<ServerInfo>,
    events: Vec<Event>,
}

/// Shows it until the command is stopped.
pub(super) async fn run(connection: &Connection, ui: &Ui) -> Result<Exit, Failure> {
    // A coordinator that is away shall be told at once.
    let coordinator = connection.coordinator.with_patience(Duration::ZERO);
    let (head, geometry) = (head(connection), connection.record.geometry);
    let board = ui.board();
    let every = if board.is_some() { LOOK_EVERY } else { TELL_EVERY };
    let (began, mut forecast) = (Instant::now(), Forecast::default());
    let mut lines = vec![head.clone()];
    let mut away: Option<Instant> = None;
    while !ui.stdout_closed() {
        let asked = Instant::now();
        let looked = tokio::time::timeout(SILENCE, look(&coordinator)).await;
        let silent = format!("no answer for {} s", SILENCE.as_secs());
        match looked.unwrap_or(Err(Failure::new(Exit::CoordinatorUnreachable, silent))) {
            Ok(seen) => {
                away = None;
                let LedgerCounts { needed, repaired, .. } = seen.status.repairs;
                let left = needed.saturating_sub(repaired);
                forecast.update(began.elapsed(), seen.repair.made_bytes, left);
                match &board {
                    Some(_) => lines = page(&head, &seen, &forecast, geometry),
                    None => ui.object("status", object(&seen, &forecast, geometry)),
                }
                if let Some(board) = &board {
                    board.draw(&lines);
                }
            }
            // Only what may pass by itself is waited for.
            Err(failure) if failure.code != Exit::CoordinatorUnreachable => return Err(failure),
            Err(failure) => {
                let is_new = away.is_none();
                let since = *away.get_or_insert(asked);
                match &board {
                    Some(board) => board.draw(&absent(&failure, since.elapsed(), &lines)),
                    None if is_new => ui.warn(&format!("{}; trying on", failure.what), None),
                    None => {}
                }
            }
        }
        tokio::time::sleep(every.max(asked.elapsed() * REST_TIMES)).await;
    }
    Ok(Exit::Done)
}

async fn look(coordinator: &CoordinatorClient) -> Result<Seen, Failure> {
    let query = EventsQuery { limit: Some(EVENTS_SHOWN), newest: true, ..EventsQuery::default() };
    Ok(Seen {
        status: coordinator.status(StatusQuery::default()).await?,
        repair: coordinator.repair_status().await?,
        servers: vault::all_servers(coordinator).await?,
        events: coordinator.events(&query).await?.rows,
    })
}

/// The last page, and above it that it is old.
fn absent(failure: &Failure, since: Duration, last: &[String]) -> Vec<String> {
    let told = format!(
        "the coordinator has not answered for {}, trying on: {}",
        duration_text(since),
        failure.what
    );
    std::iter::once(told).chain(last.iter().cloned()).collect()
}

fn object(seen: &Seen, forecast: &Forecast, geometry: Geometry) -> Value {
    let Seen { status, repair, servers, events } = seen;
    let mut value = fields(status, geometry);
    let again = forecast.whole_again();
    let millis = |time: Duration| time.as_millis() as u64;
    if let Some(to) = value.as_object_mut() {
        to.insert("repair".into(), json!(repair));
        to.insert("repair_bytes_per_second".into(), forecast.bytes_per_second().into());
        to.insert("whole_again_ms".into(), json!(again.map(|(time, _)| millis(time))));
        to.insert("whole_again_off_ms".into(), json!(again.map(|(_, off)| millis(off))));
        to.insert("servers_now".into(), json!(servers));
        to.insert("events".into(), json!(events));
    }
    value
}

/// What a terminal shows, what matters most at the top: it may be too low for all.
fn page(head: &str, seen: &Seen, forecast: &Forecast, geometry: Geometry) -> Vec<String> {
    let Seen { status, repair, servers, events } = seen;
    let now = time_text(i64::try_from(status.now_ms).unwrap_or(i64::MAX));
    let snapshots = plural(status.snapshots, "snapshot");
    let mut lines = vec![format!("{head}, {snapshots}   {now}"), stored(status)];
    lines.extend(labelled("safety", safety(status, geometry)));
    lines.extend(labelled("repair", repair_lines(status, repair, forecast)));
    lines.extend(labelled("pushes", pushes(status)));
    lines.extend(labelled("servers", server_lines(servers)));
    lines.extend(labelled("events", events.iter().map(events::line).collect()));
    lines
}

/// The ledger, each number a count of rows; how fast it is; and what is repaired just now.
fn repair_lines(status: &Status, repair: &RepairStatus, forecast: &Forecast) -> Vec<String> {
    let LedgerCounts { needed, repaired, failed, waiting, unknown } = status.repairs;
    let mut line =
        format!("stripes {}   whole {}", count_text(status.stripes), count_text(status.whole));
    if needed > 0 {
        let [needed, repaired, waiting, failed, unknown] =
            [needed, repaired, waiting, failed, unknown].map(count_text);
        line.push_str(&format!(
            "   needed {needed} = repaired {repaired} + waiting {waiting} + failed {failed} + \
             unknown {unknown}   {}/s",
            bytes_text(forecast.bytes_per_second())
        ));
    }
    if let Some((time, off)) = forecast.whole_again() {
        let (time, off) = (duration_text(time), duration_text(off));
        line.push_str(&format!("   whole again in {time} ± {off}"));
    }
    let mut lines = vec![line];
    if !repair.running.is_empty() {
        let named: Vec<String> =
            repair.running.iter().take(STRIPES_NAMED).map(|id| format!("{id:.8}")).collect();
        let more = repair.running.len().saturating_sub(STRIPES_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        lines.push(format!("now: stripe {}{more}", named.join(", ")));
    }
    if repair.settings.paused {
        lines.push("paused: arc repair resume".to_owned());
    }
    lines.extend(status.brake.as_ref().map(brake_text));
    lines
}

/// One line a server, those first that are not well.
fn server_lines(servers: &[ServerInfo]) -> Vec<String> {
    let mut servers: Vec<&ServerInfo> = servers.iter().collect();
    servers.sort_by_key(|server| server.state == State::Up);
    let name = |server: &ServerInfo| escaped(server.name.as_bytes());
    let width = |text: fn(&ServerInfo) -> String| {
        servers.iter().map(|server| text(server).chars().count()).max().unwrap_or(0)
    };
    let (names, standings) = (width(|s| escaped(s.name.as_bytes())), width(standing_text));
    let line = |server: &&ServerInfo| {
        let scrub = match server.scrub {
            None => String::new(),
            Some(scrub) => {
                let at = match (scrub.paused, scrub.permille) {
                    (true, _) => "scrub paused".to_owned(),
                    (false, None) => "no scrub".to_owned(),
                    (false, Some(done)) => format!("scrub at {}.{} %", done / 10, done % 10),
                };
                let bad = match scrub.bad_known {
                    0 => String::new(),
                    bad => format!(", {} bad", count_text(bad)),
                };
                format!("   {at}{bad}")
            }
        };
        format!(
            "{:<names$}  {:<standings$}  {}, {}, {} free{scrub}",
            name(server),
            standing_text(server),
            plural(server.shards, "shard"),
            bytes_text(server.shard_bytes),
            bytes_text(server.free_bytes)
        )
    };
    servers.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use server::wire::{Mode, RepairSettings, ScrubGlance, ServerId, Weight};

    use super::super::tests::status;
    use super::*;

    fn server(name: &str, state: State, permille: Option<u16>) -> ServerInfo {
        ServerInfo {
            server: ServerId(1),
            name: name.into(),
            zone: "z".into(),
            url: "http://h".into(),
            state,
            mode: Mode::Normal,
            last_seen_ms: None,
            capacity_bytes: 2048,
            free_bytes: 1024,
            shards: 1,
            shard_bytes: 1536,
            weight: Weight::ONE,
            share: None,
            scrub: Some(ScrubGlance { paused: false, permille, bad_known: 2 }),
        }
    }

    fn repair_status() -> RepairStatus {
        RepairStatus {
            settings: RepairSettings {
                paused: true,
                bytes_per_second: None,
                per_server: None,
                at_once: 4,
                rebalances: true,
            },
            automatic: true,
            counts: LedgerCounts::default(),
            running: vec![codec::StripeId([0x9f; 32]); 5],
            brake: None,
            paces: vec![],
            made_shards: 0,
            urgent_shards: 0,
            made_bytes: 0,
            read_bytes: 0,
            moved_shards: 0,
        }
    }

    #[test]
    fn the_ledger_is_one_line_whose_counts_add_up() {
        let mut status = status(vec![(2, 128_402)], 0, 0);
        (status.stripes, status.whole) = (128_402, 128_011);
        status.repairs =
            LedgerCounts { needed: 391, repaired: 214, waiting: 175, failed: 2, unknown: 0 };
        let mut forecast = Forecast::default();
        for n in 0..=10 {
            forecast.update(Duration::from_secs(n), n * (310 << 20), 197 - 2 * n);
        }
        assert_eq!(
            repair_lines(&status, &repair_status(), &forecast),
            [
                "stripes 128,402   whole 128,011   needed 391 = repaired 214 + waiting 175 + \
                 failed 2 + unknown 0   310.0 MiB/s   whole again in 1:28 ± 19 s",
                "now: stripe 9f9f9f9f, 9f9f9f9f, 9f9f9f9f and 2 more",
                "paused: arc repair resume",
            ]
        );
        status.repairs = LedgerCounts::default();
        let idle = repair_lines(&status, &repair_status(), &Forecast::default());
        assert_eq!(idle[0], "stripes 128,402   whole 128,011");
    }

    #[test]
    fn servers_that_are_not_well_come_first_with_their_scrub() {
        let servers = [server("a", State::Up, Some(345)), server("long", State::Suspect, None)];
        assert_eq!(
            server_lines(&servers),
            [
                "long  suspect  1 shard, 1.5 KiB, 1.0 KiB free   no scrub, 2 bad",
                "a     up       1 shard, 1.5 KiB, 1.0 KiB free   scrub at 34.5 %, 2 bad",
            ]
        );
    }

    #[test]
    fn while_the_coordinator_is_away_the_last_page_stays_below_the_word_of_it() {
        let failure = Failure::new(Exit::CoordinatorUnreachable, "refused");
        let lines = absent(&failure, Duration::from_secs(75), &["vault".to_owned()]);
        assert_eq!(
            lines,
            ["the coordinator has not answered for 1:15, trying on: refused", "vault"]
        );
    }
}
