//! `arc repair`: how repair is doing; holds it, has it go on, sets its pace.

use serde_json::json;
use server::client::CoordinatorClient;
use server::wire::{
    LedgerCounts, LedgerRow, LedgerState, PageQuery, RepairSettings, RepairStatus, SetRepair,
};

use super::Global;
use super::quantity::parse_bytes;
use super::servers::brake_text;
use crate::exit::{Exit, Failure};
use crate::ui::{bytes_text, escaped, plural, time_text};
use crate::vault;

/// Stripes that could not be repaired are named, up to so many; --json names all.
const NAMED_MAX: usize = 20;

/// Show how the coordinator's own repair is doing, hold it, or set its pace.
///
/// The coordinator finds by itself what lacks shards and has it made again, worst first. Needs no
/// passphrase. Exit 4 says that stripes could not be repaired yet.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc repair
  arc repair pause
  arc repair resume
  arc repair --bytes-per-second 50M --at-once 2")]
pub struct Args {
    /// What to do [default: show]
    #[arg(value_enum, value_name = "ACTION")]
    pub action: Option<Action>,
    /// As in `arc throttle`; 0: no limit
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub bytes_per_second: Option<u64>,
    /// Stripes repaired or moved at once, as in `arc throttle`
    #[arg(long, value_name = "N")]
    pub at_once: Option<u32>,
}

/// What to do with repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Action {
    /// Begin no repair until told otherwise, after a restart too
    Pause,
    /// Go on, also where many servers went together
    Resume,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let connection = vault::connect(global).await?;
    let told = tell(args, &connection.coordinator, global).await;
    connection.close().await;
    told
}

async fn tell(
    args: Args,
    coordinator: &CoordinatorClient,
    global: &Global,
) -> Result<Exit, Failure> {
    let Args { action, bytes_per_second, at_once } = args;
    let wanted = SetRepair {
        paused: action.map(|action| action == Action::Pause),
        bytes_per_second,
        at_once,
        lift_brake: action == Some(Action::Resume),
        ..SetRepair::default()
    };
    let status = if wanted == SetRepair::default() {
        coordinator.repair_status().await?
    } else {
        coordinator.set_repair(&wanted).await?
    };
    let ui = &global.ui;
    let mut named = 0;
    let mut query = PageQuery::default();
    loop {
        let page = coordinator.ledger(&query).await?;
        for row in &page.rows {
            let failed = matches!(row.state, LedgerState::Failed | LedgerState::Unknown);
            if ui.is_json() {
                ui.json("stripe", json!(row));
            } else if failed && named < NAMED_MAX {
                named += 1;
                ui.data(told(row));
            }
        }
        query.after = page.next;
        if query.after.is_none() || (named == NAMED_MAX && !ui.is_json()) {
            break;
        }
    }
    ui.summary(&lines(&status), json!(status));
    let LedgerCounts { failed, unknown, .. } = status.counts;
    Ok(if failed + unknown > 0 { Exit::Repairable } else { Exit::Done })
}

fn told(row: &LedgerRow) -> String {
    let why = escaped(row.why.as_deref().unwrap_or("not known").as_bytes());
    let again = match i64::try_from(row.due_ms) {
        Ok(i64::MAX) | Err(_) => "not tried again".to_owned(),
        Ok(0) => "tried again now".to_owned(),
        Ok(due_ms) => format!("tried again at {}", time_text(due_ms)),
    };
    let tries = plural(row.attempts.into(), "try").replace("trys", "tries");
    format!("stripe {:.8} was not repaired in {tries}: {why}; {again}", row.stripe)
}

fn lines(status: &RepairStatus) -> Vec<String> {
    let LedgerCounts { needed, repaired, failed, waiting, unknown } = status.counts;
    let mut lines = vec![if needed == 0 {
        "nothing to repair".to_owned()
    } else {
        format!(
            "{} lacking shards or away: {repaired} repaired, {failed} failed, {waiting} waiting, \
             {unknown} unknown",
            plural(needed, "stripe")
        )
    }];
    if !status.running.is_empty() {
        lines.push(format!("{} being repaired now", plural(status.running.len() as u64, "stripe")));
    }
    if status.made_shards > 0 {
        lines.push(format!(
            "since the coordinator's start: {} made again, {}, {} read from other servers",
            plural(status.made_shards, "shard"),
            bytes_text(status.made_bytes),
            bytes_text(status.read_bytes)
        ));
    }
    if status.moved_shards > 0 {
        lines
            .push(format!("{} moved to servers that joined", plural(status.moved_shards, "shard")));
    }
    if let Some(brake) = &status.brake {
        lines.push(format!("repair {}", brake_text(brake)));
        lines.push("next: arc repair resume, if they will not come back".to_owned());
    }
    let RepairSettings { bytes_per_second, per_server, .. } = status.settings;
    let pace = match (bytes_per_second, per_server) {
        (None, None) => "at full speed".to_owned(),
        (Some(pace), _) => format!("{} a second, but for what is at risk", bytes_text(pace)),
        (None, Some(pace)) => {
            format!("{} a second for each server, but for what is at risk", bytes_text(pace))
        }
    };
    lines.push(match (status.automatic, status.settings.paused) {
        (false, _) => "repairs only what is asked for: arc repair-scan --fix".to_owned(),
        (true, true) => "paused; next: arc repair resume".to_owned(),
        (true, false) => format!("goes on by itself, {} at once, {pace}", status.settings.at_once),
    });
    lines
}
