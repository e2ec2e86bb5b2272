//! `arc rescue --coordinator`: the coordinator's folder out of its newest whole backup.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use codec::VaultId;
use codec::backup::BackupRecord;
use codec::keys::VaultKeys;
use codec::shard::Kind;
use serde_json::json;

use super::{scan, tell_damage, tell_unreadable};
use crate::exit::{Exit, Failure};
use crate::fetch::Fetcher;
use crate::rescue;
use crate::rescue::backup::{self, Maps, Unfinished};
use crate::ui::{Counters, Ui, age_text, bytes_text, path_text, plural, shell_word, time_text};

/// `out` must be absent or an empty folder.
pub(super) fn check_out(out: &Path) -> Result<(), Failure> {
    let is_free = match std::fs::read_dir(out) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    if is_free {
        return Ok(());
    }
    Err(Failure::new(Exit::Usage, format!("{} is not empty", path_text(out)))
        .why("the coordinator's folder is restored whole, and over nothing")
        .state("nothing was read or written")
        .next("--coordinator with a folder that is not there yet"))
}

/// Restores the newest backup that is all there.
pub(super) async fn restore(
    dirs: Vec<PathBuf>,
    vault: VaultId,
    keys: VaultKeys,
    out: &Path,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let signer = rescue::coordinator_key(&dirs, vault)?;
    if signer.is_none() {
        let what = "no folder has a server.id: whether the coordinator made these backups, nobody can tell";
        ui.warn(what, None);
    }
    let scan = scan(dirs, vault, ui).await;
    tell_unreadable(&scan, ui);
    let (stripes, folders) = (scan.stripes, Arc::new(scan.folders));
    let fetcher = Fetcher::of_folders(folders, vault, keys, Arc::new(Counters::default()));
    let records = stripes.into_values().filter(|map| map.kind == Kind::Record);
    let maps: Maps = records.map(|map| (map.stripe, Arc::new(map))).collect();
    let (found, unread) = backup::find(&fetcher, &maps, signer.as_deref()).await;
    unread.iter().for_each(|why| ui.detail(format!("perhaps the record of a backup: {why}")));
    if found.is_empty() {
        return Err(none(unread.len()));
    }
    let mut incomplete = Vec::new();
    for record in &found {
        let made = time_text(record.made_ms as i64);
        match backup::restore(&fetcher, &maps, record, out).await {
            Ok(()) => {
                let damaged = tell_damage(&fetcher, ui);
                tell(record, out, [incomplete.len(), unread.len()], damaged, ui);
                return Ok(Exit::Done);
            }
            Err(Unfinished::Incomplete(why)) => {
                ui.warn(&format!("the backup of {made} is not whole: {why}"), None);
                incomplete.push(format!("that of {made}: {why}"));
            }
            Err(Unfinished::Failed(failure)) => return Err(failure.state("nothing was restored")),
        }
    }
    let failure =
        Failure::new(Exit::Lost, "no backup of the coordinator is whole in these folders");
    Err(incomplete
        .into_iter()
        .fold(failure, Failure::why)
        .state("nothing was restored")
        .next("give more folders: a backup needs as many of them as files do")
        .next("arc rescue DIR… --to OUT    gets the files back without a coordinator"))
}

fn none(unread: usize) -> Failure {
    let failure =
        Failure::new(Exit::NoSnapshot, "there is no backup of a coordinator in these folders");
    let failure = match unread {
        0 => failure,
        n => failure.why(format!("{} cannot be read, -v says why", plural(n as u64, "record"))),
    };
    failure
        .state("nothing was restored")
        .next("give more folders: the record of a backup lies on m+1 of the servers")
        .next("arc rescue DIR… --to OUT    gets the files back without a coordinator")
}

/// `passed_over` are newer ones that are not whole, and records that cannot be used.
fn tell(record: &BackupRecord, out: &Path, passed_over: [usize; 2], damaged: u64, ui: &Ui) {
    let [incomplete, unusable] = passed_over;
    let bytes = record.files.iter().map(|file| file.bytes).sum();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = now.saturating_sub(Duration::from_millis(record.made_ms));
    let mut lines = vec![format!(
        "the coordinator's folder restored to {}: {}, as it was {} ago ({})",
        path_text(out),
        bytes_text(bytes),
        age_text(age),
        time_text(record.made_ms as i64)
    )];
    if incomplete > 0 {
        let newer = plural(incomplete as u64, "newer backup");
        lines.push(format!("{newer} could not be used: not all of it is here"));
    }
    if unusable > 0 {
        let records = plural(unusable as u64, "record");
        lines.push(format!("{records} of other backups cannot be used (-v says why)"));
    }
    if damaged > 0 {
        lines.push(format!(
            "{} damaged, and done without (-v names them)",
            plural(damaged, "shard")
        ));
    }
    let word = shell_word(&out.to_string_lossy());
    lines.push(format!("start it at the address that it had: arc serve coordinator --data {word}"));
    lines.push(
        "then: arc catalog rebuild --merge    takes in what came after the backup; no push is \
         taken before"
            .to_owned(),
    );
    let fields = json!({
        "coordinator": out.to_string_lossy(),
        "made_ms": record.made_ms,
        "age_ms": age.as_millis() as u64,
        "epoch": record.epoch,
        "sequence": record.sequence,
        "files": record.files.len(),
        "bytes": bytes,
        "newer_incomplete": incomplete,
        "unusable_records": unusable,
        "damaged_shards": damaged,
    });
    ui.summary(&lines, fields);
}
