//! `arc catalog backup`: the coordinator's folder goes onto the storage servers now.

use std::time::{Duration, Instant};

use serde_json::json;
use server::client::CoordinatorClient;
use server::wire::{BackupInfo, BackupStatus};

use crate::commands::Global;
use crate::exit::{Exit, Failure};
use crate::ui::{bytes_text, duration_text, escaped, plural};
use crate::vault;

/// From one look at how it goes to the next.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Back the coordinator's catalog and keys up now, onto the storage servers.
///
/// The coordinator does so by itself every day (arc serve coordinator --backup-every); `arc status`
/// says when it last did. What it writes only the passphrase opens. When the coordinator's machine is
/// lost, `arc rescue DIR… --coordinator OUT` gets it back.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Example:
  arc catalog backup")]
pub struct Args {}

/// See [`Args`].
pub async fn run(_args: Args, global: &Global) -> Result<Exit, Failure> {
    let began = Instant::now();
    let connection = vault::connect(global).await?;
    let made = back_up(&connection.coordinator).await;
    connection.close().await;
    let BackupInfo { record, made_ms, bytes, stripes } = made?;
    let line = format!(
        "catalog and keys backed up: {} in {}, in {}",
        bytes_text(bytes),
        plural(stripes, "stripe"),
        duration_text(began.elapsed())
    );
    let fields = json!({
        "record": record,
        "made_ms": made_ms,
        "bytes": bytes,
        "stripes": stripes,
        "took_ms": began.elapsed().as_millis() as u64,
    });
    global.ui.summary(&[line], fields);
    Ok(Exit::Done)
}

/// Has one made and waits for it.
async fn back_up(coordinator: &CoordinatorClient) -> Result<BackupInfo, Failure> {
    let begun = coordinator.begin_backup().await?;
    loop {
        let status = coordinator.backup().await?;
        if status.epoch != begun.epoch {
            return Err(Failure::new(Exit::Failed, "the coordinator was started anew meanwhile")
                .state("whether a backup was made, `arc status` says")
                .next("arc catalog backup    # again"));
        }
        if status.ended >= begun.run {
            return made(status);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn made(status: BackupStatus) -> Result<BackupInfo, Failure> {
    let before = match &status.last {
        Some(last) => format!("the last one is of {}", vault_time(last)),
        None => "there is none so far".to_owned(),
    };
    let failed = |why: String| {
        Failure::new(Exit::Failed, "the coordinator could not make a backup")
            .why(escaped(why.as_bytes()))
            .state(before)
            .next("arc servers           # whether enough of them are up, and have room")
            .next("arc catalog backup    # again")
    };
    match (status.failed, status.last) {
        (None, Some(last)) => Ok(last),
        (why, _) => Err(failed(why.unwrap_or_else(|| "it is not in its catalog".into()))),
    }
}

fn vault_time(last: &BackupInfo) -> String {
    crate::ui::time_text(last.made_ms as i64)
}
