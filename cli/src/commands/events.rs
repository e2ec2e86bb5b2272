//! `arc events`: what happened, as the coordinator keeps it.

use std::time::Duration;

use serde_json::json;
use server::client::CoordinatorClient;
use server::wire::{Event, Events, EventsQuery, PAGE_ROWS_MAX};

use super::Global;
use super::quantity::parse_duration;
use crate::exit::{Exit, Failure};
use crate::ui::{Ui, count_text, escaped, time_text};
use crate::vault;

/// Events shown unless more are asked for.
const SHOWN: u32 = 50;
/// From one look for new ones to the next.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Widths of the columns; a longer name moves the rest of its line.
const SERVER_WIDTH: usize = 8;
const KIND_WIDTH: usize = 13;

/// Show what happened: servers that came and went, repairs, damage, snapshots, settings.
///
/// The coordinator keeps the newest 10,000 events. Needs no passphrase.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc events
  arc events --follow
  arc events --since 24h --server cellar")]
pub struct Args {
    /// Go on with what happens from now on, until Ctrl-C
    #[arg(short, long)]
    pub follow: bool,
    /// Only those of so long before now
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub since: Option<Duration>,
    /// The newest N of them [default: 50; with --since: all]
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<u32>,
    /// Only those about this server
    #[arg(long, value_name = "NAME")]
    pub server: Option<String>,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let connection = vault::connect(global).await?;
    let told = if args.follow && connection.is_local() {
        Err(vault::nothing_goes_on("--follow"))
    } else {
        tell(args, &connection.coordinator, &global.ui).await
    };
    connection.close().await;
    told
}

async fn tell(args: Args, coordinator: &CoordinatorClient, ui: &Ui) -> Result<Exit, Failure> {
    let Args { follow, since, lines, server } = args;
    let within_ms = since.map(|since| since.as_millis().min(u64::MAX.into()) as u64);
    let all = EventsQuery { within_ms, server, ..EventsQuery::default() };
    let mut seen = match lines.or(since.is_none().then_some(SHOWN)) {
        Some(lines) if lines <= PAGE_ROWS_MAX => {
            let query = EventsQuery { limit: Some(lines), newest: true, ..all.clone() };
            let Events { rows, seen, .. } = coordinator.events(&query).await?;
            rows.iter().for_each(|event| print(event, ui));
            seen
        }
        lines => {
            // More than a page: from the first one on, of which the last `lines` are told.
            let (rows, seen) = from_first(coordinator, &all).await?;
            let passed = lines.map_or(0, |lines| rows.len().saturating_sub(lines as usize));
            rows[passed..].iter().for_each(|event| print(event, ui));
            seen
        }
    };
    if !follow {
        return Ok(Exit::Done);
    }
    let mut away = false;
    while !ui.stdout_closed() {
        tokio::time::sleep(LOOK_EVERY).await;
        let query = EventsQuery { after: Some(seen), within_ms: None, ..all.clone() };
        match coordinator.events(&query).await {
            Ok(page) => {
                if std::mem::take(&mut away) {
                    ui.say("the coordinator is back");
                }
                page.rows.iter().for_each(|event| print(event, ui));
                seen = page.seen;
            }
            Err(error) if error.is_passing() => {
                if !std::mem::replace(&mut away, true) {
                    ui.warn(&format!("{error}; trying on"), None);
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Exit::Done)
}

/// All of them, of which there are 10,000 at most.
async fn from_first(
    coordinator: &CoordinatorClient,
    all: &EventsQuery,
) -> Result<(Vec<Event>, u64), Failure> {
    let (mut events, mut after) = (Vec::new(), 0);
    loop {
        let query = EventsQuery { after: Some(after), ..all.clone() };
        let Events { rows, seen, more } = coordinator.events(&query).await?;
        events.extend(rows);
        // A service that repeats its place would keep us here for ever.
        if !more || seen <= after {
            return Ok((events, seen));
        }
        after = seen;
    }
}

fn print(event: &Event, ui: &Ui) {
    match ui.is_json() {
        true => ui.json("event", json!(event)),
        false => ui.data(line(event)),
    }
}

/// An event for a person.
pub(super) fn line(event: &Event) -> String {
    let Event { at_ms, kind, server, stripe, text, times, .. } = event;
    let time = time_text(i64::try_from(*at_ms).unwrap_or(i64::MAX));
    let server = server.as_ref().map_or("-".to_owned(), |name| escaped(name.as_bytes()));
    let kind = escaped(kind.as_bytes());
    let stripe = match stripe {
        // A snapshot is called by its own name.
        Some(stripe) if kind != "snapshot" => format!("stripe {stripe:.8}: "),
        _ => String::new(),
    };
    let text = escaped(text.as_bytes());
    let often = match times {
        0 | 1 => String::new(),
        times => format!(" ({} times in a minute)", count_text((*times).into())),
    };
    format!("{time}  {server:<SERVER_WIDTH$}  {kind:<KIND_WIDTH$}  {stripe}{text}{often}")
}

#[cfg(test)]
mod tests {
    use codec::StripeId;

    use super::*;

    fn event(kind: &str, server: Option<&str>, text: &str) -> Event {
        Event {
            number: 1,
            at_ms: 0,
            kind: kind.into(),
            server: server.map(str::to_owned),
            stripe: None,
            text: text.into(),
            times: 1,
        }
    }

    #[test]
    fn an_event_is_one_line_of_columns_that_cannot_fool_a_terminal() {
        let at = time_text(0);
        let suspect = event("suspect", Some("c"), "no answer for 9 s");
        assert_eq!(line(&suspect), format!("{at}  c         suspect        no answer for 9 s"));
        let often = Event { times: 1204, ..suspect };
        assert!(line(&often).ends_with("no answer for 9 s (1,204 times in a minute)"));
        let stripe = Some(StripeId([0x9f; 32]));
        let failed = Event { stripe, ..event("repair-failed", None, "a\nb\x1b[2J") };
        let expected = "-         repair-failed  stripe 9f9f9f9f: a\\nb\\x1b[2J";
        assert_eq!(line(&failed), format!("{at}  {expected}"));
        let snapshot = Event { stripe, ..event("snapshot", None, "9f9f9f9f by the owner's token") };
        assert!(!line(&snapshot).contains("stripe"));
    }
}
