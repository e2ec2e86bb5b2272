//! `arc status`: what is stored and what it survives, on one page.

mod forecast;
mod watch;

use std::time::Duration;

use codec::Geometry;
use serde_json::{Value, json};
use server::wire::{
    BackupStatus, DrillResult, LedgerCounts, PastDrill, State, Status, StatusQuery,
};

use super::Global;
use super::servers::{brake_text, state_text};
use crate::exit::{Exit, Failure};
use crate::ui::{age_text, bytes_text, count_text, escaped, plural, time_text};
use crate::vault::{self, survives_any};

/// How the vault is: what is stored and what it survives.
///
/// Exit 7 says that something is stored below target or that a server does not answer.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc status
  arc status --watch")]
pub struct Args {
    /// Show it again every second, with servers, repair and what happens, until Ctrl-C; off a
    /// terminal an object a line every 5 s
    #[arg(long)]
    pub watch: bool,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let connection = vault::connect(global).await?;
    if args.watch {
        let watched = match connection.is_local() {
            true => Err(vault::nothing_goes_on("--watch")),
            false => watch::run(&connection, &global.ui).await,
        };
        connection.close().await;
        return watched;
    }
    let asked = connection.coordinator.status(StatusQuery { chunks: true }).await;
    let geometry = connection.record.geometry;
    let head = head(&connection);
    connection.close().await;
    let status = asked?;
    let lines: Vec<String> = std::iter::once(head).chain(page(&status, geometry)).collect();
    global.ui.summary(&lines, fields(&status, geometry));
    Ok(if is_well(&status, geometry) { Exit::Done } else { Exit::BelowTarget })
}

/// Which vault it is.
fn head(connection: &vault::Connection) -> String {
    let name = connection.name.as_deref().map(|name| format!("{} at ", escaped(name.as_bytes())));
    let (location, geometry) = (&connection.location, connection.record.geometry);
    format!("vault      {}{location}, {geometry}", name.unwrap_or_default())
}

fn fields(status: &Status, geometry: Geometry) -> Value {
    let mut fields = json!({ "code": geometry.to_string(), "well": is_well(status, geometry) });
    if let (Some(to), Ok(Value::Object(from))) =
        (fields.as_object_mut(), serde_json::to_value(status))
    {
        // `vault` and all the counts, as on the wire.
        to.extend(from);
    }
    fields
}

/// Every stripe has all its shards, and every server answers.
fn is_well(status: &Status, geometry: Geometry) -> bool {
    let full = status.margins.iter().all(|&(margin, _)| margin >= geometry.parity() as i32);
    let is_current = status.catalog_old.is_none();
    let all_up = status.servers.iter().all(|&(state, count)| state == State::Up || count == 0);
    status.stripes_below_target == 0 && full && all_up && is_current
}

fn page(status: &Status, geometry: Geometry) -> Vec<String> {
    let mut lines = vec![format!("snapshots  {}", count_text(status.snapshots)), stored(status)];
    lines.extend(labelled("safety", safety(status, geometry)));
    lines.extend(labelled("verified", verified(status)));
    lines.extend(labelled("servers", servers(status)));
    lines.extend(labelled("repair", repair(status)));
    lines.extend(labelled("pushes", pushes(status)));
    lines.extend(labelled("backup", backup(status)));
    let old = status.catalog_old.iter().map(|why| escaped(why.as_bytes())).collect();
    lines.extend(labelled("catalog", old));
    lines
}

/// Lines of which the first has a label.
fn labelled(label: &str, texts: Vec<String>) -> Vec<String> {
    let label = |i| if i == 0 { label } else { "" };
    texts.iter().enumerate().map(|(i, text)| format!("{:<10} {text}", label(i))).collect()
}

fn stored(status: &Status) -> String {
    let overhead = match status.pack_bytes {
        0 => String::new(),
        packs => format!(" ({:.2}x)", status.shard_bytes as f64 / packs as f64),
    };
    let chunks = status.chunks.map(|chunks| format!("{}, ", plural(chunks, "chunk")));
    format!(
        "stored     {}{}: {} in packs, {} on servers{overhead}",
        chunks.unwrap_or_default(),
        plural(status.stripes, "stripe"),
        bytes_text(status.pack_bytes),
        bytes_text(status.shard_bytes),
    )
}

/// The margins in plain words, the worst first.
fn safety(status: &Status, geometry: Geometry) -> Vec<String> {
    let Some(&(lowest, _)) = status.margins.first() else {
        return vec!["nothing is stored yet".into()];
    };
    let target = geometry.parity() as i32;
    let mut lines = Vec::new();
    for &(margin, stripes) in status.margins.iter().filter(|(margin, _)| *margin < target) {
        let which = format!("{} of {}", plural(stripes, "stripe"), count_text(status.stripes));
        lines.push(match usize::try_from(margin) {
            Err(_) => format!(
                "{which} cannot be read just now: more than {target} shards are out of reach"
            ),
            Ok(0) => format!("{which} can be read, but one more loss is too much"),
            Ok(margin) => format!("{which} survive only {}", survives_any(margin, "server")),
        });
    }
    if let Ok(margin) = usize::try_from(lowest) {
        let all = match margin {
            0 => "every stripe can be read".to_owned(),
            _ => format!("every stripe survives {}", survives_any(margin, "server")),
        };
        lines.insert(0, all);
    }
    if status.stripes_below_target > 0 {
        lines.push(format!(
            "{} lack shards for good until they are repaired",
            plural(status.stripes_below_target, "stripe")
        ));
    }
    lines
}

/// How much was read whole of late, and the last drill; nothing where there was neither.
fn verified(status: &Status) -> Vec<String> {
    if status.read_recently == 0 && status.last_drill.is_none() {
        return Vec::new();
    }
    // Never said to be all before it is.
    let percent = status.read_recently * 100 / status.stripes.max(1);
    let mut line = format!("{percent} % of the stripes in the last 30 days");
    if let Some(PastDrill { time_ms, drill }) = &status.last_drill {
        let result = match drill.result {
            DrillResult::Well => "all well",
            DrillResult::Repairable => "damage met, nothing lost",
            DrillResult::OutOfReach => "servers were away",
            DrillResult::Lost => "files were lost",
        };
        line += &format!(
            "; last drill {}: {}, {}, {result}",
            time_text(i64::try_from(*time_ms).unwrap_or(i64::MAX)),
            plural(drill.files, "file"),
            bytes_text(drill.bytes)
        );
    }
    vec![line]
}

fn servers(status: &Status) -> Vec<String> {
    let of = |&(state, count): &(State, u32)| format!("{count} {}", state_text(state));
    let states: Vec<String> =
        status.servers.iter().filter(|(_, count)| *count > 0).map(of).collect();
    match states.is_empty() {
        true => vec!["none has joined yet".into()],
        false => vec![states.join(", ")],
    }
}

/// What is being repaired; that it waits, and what is at stake meanwhile.
fn repair(status: &Status) -> Vec<String> {
    let LedgerCounts { needed, repaired, failed, waiting, unknown } = status.repairs;
    let mut lines = Vec::new();
    if needed > 0 {
        lines.push(format!(
            "{}: {repaired} repaired, {failed} failed, {waiting} waiting, {unknown} unknown",
            plural(needed, "stripe")
        ));
    }
    let Some(brake) = &status.brake else { return lines };
    let thin = status.margins.iter().filter(|(margin, _)| *margin <= 0).map(|(_, n)| n).sum();
    lines.push(brake_text(brake));
    if thin > 0 {
        lines.push(format!("{} with nothing to spare meanwhile", plural(thin, "stripe")));
    }
    lines
}

/// When the coordinator's folder was last backed up; nothing, where nobody wants that.
fn backup(status: &Status) -> Vec<String> {
    let BackupStatus { every_ms, last, failed, .. } = &status.backup;
    let mut lines = match last {
        Some(last) => {
            let age = Duration::from_millis(status.now_ms.saturating_sub(last.made_ms));
            vec![format!("last backup {} ago", age_text(age))]
        }
        None if *every_ms > 0 => {
            vec!["there is none of the coordinator's catalog and keys yet".to_owned()]
        }
        None => Vec::new(),
    };
    if let Some(why) = failed {
        lines.push(format!("the last try failed: {}", escaped(why.as_bytes())));
    }
    lines
}

fn pushes(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    if status.leases > 0 {
        lines.push(format!("{} running or interrupted", status.leases));
    }
    if status.leftover_shards > 0 {
        lines.push(format!(
            "up to {} left over by unfinished ones",
            plural(status.leftover_shards, "shard")
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use codec::VaultId;
    use server::wire::{BackupInfo, Brake};

    use super::*;

    pub(super) fn status(margins: Vec<(i32, u64)>, below: u64, down: u32) -> Status {
        Status {
            vault: VaultId([0; 16]),
            epoch: 1,
            now_ms: 0,
            snapshots: 2,
            stripes: margins.iter().map(|(_, stripes)| stripes).sum(),
            chunks: Some(1500),
            pack_bytes: 1 << 30,
            shard_bytes: 3 << 29,
            margins,
            stripes_below_target: below,
            leases: 0,
            leftover_shards: 0,
            servers: vec![(State::Up, 6 - down), (State::Down, down)],
            brake: None,
            repairs: LedgerCounts::default(),
            catalog_old: None,
            whole: 0,
            read_recently: 0,
            last_drill: None,
            backup: BackupStatus::default(),
        }
    }

    fn code() -> Geometry {
        "4+2".parse().unwrap()
    }

    #[test]
    fn a_whole_vault_is_told_in_four_lines() {
        let status = status(vec![(2, 10)], 0, 0);
        assert!(is_well(&status, code()));
        assert_eq!(
            page(&status, code()),
            [
                "snapshots  2",
                "stored     1,500 chunks, 10 stripes: 1.0 GiB in packs, 1.5 GiB on servers (1.50x)",
                "safety     every stripe survives the loss of any 2 servers",
                "servers    6 up",
            ]
        );
    }

    #[test]
    fn what_is_below_target_is_named_worst_first() {
        let one_down = status(vec![(1, 10)], 0, 1);
        assert!(!is_well(&one_down, code()));
        assert_eq!(safety(&one_down, code())[0], "every stripe survives the loss of any 1 server");
        let bad = status(vec![(-1, 1), (0, 2), (2, 7)], 1, 3);
        assert_eq!(
            safety(&bad, code()),
            [
                "1 stripe of 10 cannot be read just now: more than 2 shards are out of reach",
                "2 stripes of 10 can be read, but one more loss is too much",
                "1 stripe lack shards for good until they are repaired",
            ]
        );
        assert_eq!(servers(&bad), ["3 up, 3 down"]);
        assert_eq!(safety(&status(vec![], 0, 0), code()), ["nothing is stored yet"]);
    }

    #[test]
    fn what_was_read_of_late_and_the_last_drill_are_one_line() {
        use server::wire::Drill;
        let mut status = status(vec![(2, 1000)], 0, 0);
        assert_eq!(verified(&status), [""; 0]);
        status.read_recently = 999;
        assert_eq!(verified(&status), ["99 % of the stripes in the last 30 days"]);
        let (files, bytes, result) = (412, 1 << 30, DrillResult::Well);
        let drill = Drill { files, bytes, bad_shards: 0, lost_files: 0, result };
        status.last_drill = Some(PastDrill { time_ms: 0, drill });
        let line = verified(&status).concat();
        assert!(
            line.contains("; last drill 19") && line.ends_with(": 412 files, 1.0 GiB, all well")
        );
    }

    #[test]
    fn the_last_backup_is_told_and_that_there_is_none_where_one_is_due() {
        let mut status = status(vec![(2, 10)], 0, 0);
        assert_eq!(backup(&status), [""; 0]);
        status.backup.every_ms = 1000;
        let none = "there is none of the coordinator's catalog and keys yet";
        assert_eq!(backup(&status), [none]);
        status.now_ms = 4 * 3_600_000;
        let record = codec::StripeId([1; 32]);
        status.backup.last = Some(BackupInfo { record, made_ms: 3_600_000, bytes: 1, stripes: 1 });
        status.backup.failed = Some("no room".into());
        let last = backup(&status);
        assert_eq!(last, ["last backup 3 h ago", "the last try failed: no room"]);
        let page = page(&status, code()).join("\n");
        assert!(page.contains("\nbackup     last backup 3 h ago\n"), "{page}");
    }

    #[test]
    fn the_brake_is_told_with_what_is_at_stake() {
        let mut status = status(vec![(-1, 1), (0, 2), (2, 7)], 0, 2);
        assert_eq!(repair(&status), [""; 0]);
        let servers = vec!["a".to_owned(), "b".to_owned()];
        let zones = vec!["rack-1".to_owned()];
        status.brake = Some(Brake { since_ms: 0, until_ms: 1, zones, servers });
        status.servers = vec![(State::Up, 3), (State::Lost, 2), (State::Returned, 1)];
        let page = page(&status, code()).join("\n");
        for part in [
            "servers    3 up, 2 lost, 1 returned\n",
            "\nrepair     waits until ",
            "all of zone rack-1 went together",
            "still away: a, b\n           3 stripes with nothing to spare meanwhile",
        ] {
            assert!(page.contains(part), "{page}");
        }
    }
}
