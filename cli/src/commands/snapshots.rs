//! `arc snapshots`: the command line of listing snapshots.

use std::sync::Arc;

use codec::StripeId;
use codec::snapshot::Snapshot;
use serde_json::json;
use server::wire::SnapshotRow;

use super::Global;
use crate::exit::{Exit, Failure};
use crate::fetch::Fetcher;
use crate::snapshots::{self, Rows};
use crate::tree;
use crate::ui::{Ui, bytes_text, count_text, escaped, time_text};
use crate::vault::{self, Vault};

/// List the snapshots, newest first.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {}

/// See [`Args`].
pub async fn run(_args: Args, global: &Global) -> Result<Exit, Failure> {
    let vault = vault::open(global).await?;
    let listed = list(&vault, &global.ui).await;
    vault.close().await;
    listed
}

async fn list(vault: &Vault, ui: &Ui) -> Result<Exit, Failure> {
    let fetcher = Fetcher::new(vault, Arc::default())?;
    let mut rows = Rows::new(vault.coordinator.clone());
    let mut exits = Vec::new();
    let mut count = 0;
    while let Some(row) = rows.next().await? {
        if count == 0 && !ui.is_json() {
            ui.data(heading());
        }
        count += 1;
        match snapshots::record(&fetcher, &row).await {
            Ok(record) => tell(&row, &record, ui),
            Err(error) => {
                ui.warn(&format!("snapshot {:.8} cannot be read: {error}", row.id), None);
                exits.push(Failure::from(error).code);
            }
        }
    }
    if count == 0 {
        ui.say("there are no snapshots yet");
    }
    Ok(Exit::worst(&exits))
}

fn tell(row: &SnapshotRow, record: &Snapshot, ui: &Ui) {
    if ui.is_json() {
        let mut fields = fields(row.id, record);
        fields["sequence"] = row.sequence.into();
        fields["received_ms"] = row.received_ms.into();
        return ui.json("snapshot", fields);
    }
    ui.data(line(row.id, row.received_ms as i64, record));
}

/// What stands above the lines.
pub(super) fn heading() -> String {
    format!(
        "{:<8}  {:<19}  {:<12} {:>9} {:>10}  what",
        "snapshot", "saved", "host", "files", "size"
    )
}

/// One snapshot, saved at `saved_ms`.
pub(super) fn line(id: StripeId, saved_ms: i64, record: &Snapshot) -> String {
    let tags = match record.tags.is_empty() {
        true => String::new(),
        false => format!("  [{}]", record.tags.join(", ")),
    };
    format!(
        "{id:.8}  {:<19}  {:<12} {:>9} {:>10}  {}{tags}",
        time_text(saved_ms),
        escaped(record.host.as_bytes()),
        count_text(record.stats.files),
        bytes_text(record.stats.bytes),
        sources(record).join(" "),
    )
}

/// What the record of a snapshot says, for JSON.
pub(super) fn fields(id: StripeId, record: &Snapshot) -> serde_json::Value {
    json!({
        "snapshot": id,
        "host": record.host,
        "user": record.user,
        "sources": sources(record),
        "tags": record.tags,
        "began_ms": record.began_ms,
        "ended_ms": record.ended_ms,
        "parent": record.parent,
        "stats": record.stats,
    })
}

fn sources(record: &Snapshot) -> Vec<String> {
    record.sources.iter().map(|path| escaped(&tree::absolute(path))).collect()
}
