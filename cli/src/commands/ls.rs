//! `arc ls`: the command line of looking into a snapshot.

use std::ffi::OsString;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use codec::manifest::{Entry, Node, is_within};
use serde_json::json;

use super::Global;
use crate::exit::{Exit, Failure};
use crate::fetch::{Entries, Fetcher};
use crate::ui::{Ui, escaped, time_text};
use crate::vault::{self, Vault};
use crate::{pull, snapshots, tree};

/// List what is in a snapshot.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc ls latest
  arc ls 7c1d09aa:/home/ada")]
pub struct Args {
    /// The snapshot: an id, its first digits, or latest; with :PATH only what is below that path
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub snapshot: OsString,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let vault = vault::open(global).await?;
    let listed = list(&vault, &args, &global.ui).await;
    vault.close().await;
    listed
}

async fn list(vault: &Vault, args: &Args, ui: &Ui) -> Result<Exit, Failure> {
    let (name, path) = super::pull::split(&args.snapshot)?;
    let row = snapshots::find(&vault.coordinator, &name).await?;
    let fetcher = Arc::new(Fetcher::new(vault, Arc::default())?);
    let record = snapshots::record(&fetcher, &row).await?;
    pull::find(&fetcher, record.manifest, &path).await?;
    let mut entries = Entries::new(Arc::clone(&fetcher), record.manifest);
    entries.seek(path.clone());
    while let Some(entry) = entries.next().await? {
        if !is_within(&entry.path, &path) {
            break;
        }
        tell(&entry, ui);
    }
    Ok(Exit::Done)
}

fn tell(entry: &Entry, ui: &Ui) {
    let (kind, bytes, more) = match &entry.node {
        Node::File { bytes, .. } => ('-', *bytes, String::new()),
        Node::Hardlink { first } => ('h', 0, format!(" => {}", escaped(&tree::absolute(first)))),
        Node::Directory => ('d', 0, String::new()),
        Node::Symlink { target } => ('l', target.len() as u64, format!(" -> {}", escaped(target))),
        Node::Fifo => ('p', 0, String::new()),
        Node::CharDevice { device: (major, minor) } => ('c', 0, format!(" ({major}, {minor})")),
        Node::BlockDevice { device: (major, minor) } => ('b', 0, format!(" ({major}, {minor})")),
    };
    let path = tree::absolute(&entry.path);
    if ui.is_json() {
        let mut fields = json!({
            "path": String::from_utf8_lossy(&path),
            "kind": kind.to_string(),
            "bytes": bytes,
            "mode": entry.mode,
            "uid": entry.uid,
            "gid": entry.gid,
            "mtime": entry.mtime,
        });
        if std::str::from_utf8(&path).is_err() {
            fields["path_b64"] = BASE64.encode(&path).into();
        }
        return ui.json("entry", fields);
    }
    let (seconds, nanos) = entry.mtime;
    let time =
        time_text(seconds.saturating_mul(1_000).saturating_add(i64::from(nanos / 1_000_000)));
    let Entry { mode, uid, gid, .. } = entry;
    ui.data(format!(
        "{kind}{mode:04o} {uid:>5} {gid:>5} {bytes:>12}  {time}  {}{more}",
        escaped(&path)
    ));
}
