//! `arc drill`: the command line of restoring for practice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use server::wire::DrillResult;

use super::Global;
use crate::drill::{self, Outcome};
use crate::exit::{Exit, Failure};
use crate::ui::{Counters, Ui, View, bytes_text, duration_text, escaped, plural};
use crate::vault::{self, Vault};
use crate::verify::Share;
use crate::{snapshots, tree};

/// What is restored unless `--subset` says otherwise.
const SUBSET: Share = Share::percent(5);

/// Restore files at random, as if servers were gone, and check every byte.
///
/// As many shards of each stripe as may be lost are withheld, at random; nothing is written. Of the
/// snapshots of each host and sources, one is drawn. The coordinator keeps date and result for
/// `arc status`. Exit 4 says that damage was met that can be repaired, 5 that a file is lost, 7 that
/// servers are away.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc drill
  arc drill latest --subset 20%
  17 3 * * 0  arc drill --quiet       in a crontab, once a week")]
pub struct Args {
    /// Only files of this snapshot: an id, its first digits, or latest
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: Option<String>,
    /// So much of each snapshot's bytes [default: 5%]
    #[arg(long, value_name = "SHARE")]
    pub subset: Option<Share>,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let vault = vault::open(global).await?;
    let drilled = drill_in(&vault, args, &global.ui).await;
    vault.close().await;
    drilled
}

async fn drill_in(vault: &Vault, args: Args, ui: &Ui) -> Result<Exit, Failure> {
    let snapshot = match &args.snapshot {
        Some(name) => Some(snapshots::find(&vault.coordinator, name).await?),
        None => None,
    };
    let began = Instant::now();
    let counters = Arc::new(Counters::default());
    let watch = ui.watch(Arc::clone(&counters), View::Verify);
    let outcome = drill::drill(vault, snapshot, args.subset.unwrap_or(SUBSET), &counters).await;
    watch.finish();
    let outcome = outcome?;
    if let Err(error) = vault.coordinator.note_drill(&outcome.kept()).await {
        ui.warn(&format!("the coordinator did not take note of this drill: {error}"), None);
    }
    Ok(tell(&outcome, began.elapsed(), ui))
}

fn tell(outcome: &Outcome, took: Duration, ui: &Ui) -> Exit {
    for heal in &outcome.bad {
        ui.heal(heal);
    }
    for (server, why) in &outcome.away {
        ui.warn(&format!("server {} took no part: {why}", escaped(server.as_bytes())), None);
    }
    for (snapshot, (why, _)) in &outcome.unread_snapshots {
        ui.warn(&format!("snapshot {snapshot:.8} cannot be read on: {why}"), None);
    }
    for (snapshot, path) in &outcome.lost {
        ui.warn(&format!("lost from snapshot {snapshot:.8}"), Some(&tree::absolute(path)));
    }
    for (snapshot, path) in &outcome.unread {
        let what = format!("out of reach in snapshot {snapshot:.8}: too few servers answer");
        ui.warn(&what, Some(&tree::absolute(path)));
    }
    let kept = outcome.kept();
    let fields = json!({
        "snapshots": outcome.snapshots,
        "files": kept.files,
        "bytes": kept.bytes,
        "stripes": outcome.stripes,
        "withheld_shards": outcome.withheld,
        "bad_shards": kept.bad_shards,
        "lost_files": kept.lost_files,
        "unread_files": outcome.unread.len(),
        "unread_snapshots": outcome.unread_snapshots.keys().collect::<Vec<_>>(),
        "away": outcome.away.keys().collect::<Vec<_>>(),
        "result": kept.result,
        "took_ms": took.as_millis() as u64,
    });
    ui.summary(&lines(outcome, took), fields);
    let is_lost = kept.result == DrillResult::Lost;
    let is_short = !(outcome.unread.is_empty() && outcome.away.is_empty())
        || outcome.unread_snapshots.values().any(|(_, lost)| !lost);
    let found = [
        (is_lost, Exit::Lost),
        (is_short, Exit::BelowTarget),
        (!outcome.bad.is_empty(), Exit::Repairable),
    ];
    let exits: Vec<Exit> = found.into_iter().filter(|(is, _)| *is).map(|(_, exit)| exit).collect();
    ui.note_all(&exits);
    Exit::worst(&exits)
}

fn lines(outcome: &Outcome, took: Duration) -> Vec<String> {
    let mut lines = vec![format!(
        "restored {}, {}, of {} in {}; every byte is as it was pushed",
        plural(outcome.files, "file"),
        bytes_text(outcome.bytes),
        plural(outcome.snapshots.len() as u64, "snapshot"),
        duration_text(took),
    )];
    if outcome.withheld > 0 {
        lines.push(format!(
            "without {} of {}, withheld at random",
            plural(outcome.withheld, "shard"),
            plural(outcome.stripes, "stripe")
        ));
    }
    if !outcome.bad.is_empty() {
        lines.push(format!(
            "{} missing or damaged; next: arc verify; arc repair-scan --fix",
            plural(outcome.bad.len() as u64, "shard")
        ));
    }
    let unread = (outcome.unread.len() + outcome.unread_snapshots.len()) as u64;
    if unread > 0 {
        lines.push(format!("{} could not be read to the end; see above", plural(unread, "name")));
    }
    lines.push(match outcome.result() {
        DrillResult::Lost => {
            format!("{} lost; next: arc verify", plural(outcome.lost.len() as u64, "file"))
        }
        DrillResult::OutOfReach => "servers are away: arc servers".to_owned(),
        DrillResult::Repairable => "nothing is lost".to_owned(),
        DrillResult::Well if outcome.snapshots.is_empty() => "nothing is stored yet".to_owned(),
        DrillResult::Well => "all well".to_owned(),
    });
    lines
}
