//! Which snapshots are restored, and where each goes.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::Args;
use crate::commands::pull::{check_target, split};
use crate::exit::Failure;
use crate::rescue::Found;
use crate::snapshots::{self, Rows};
use crate::ui::{Ui, bytes_text, time_text};

/// One snapshot that is to be restored.
pub(super) struct Job {
    /// The snapshot.
    pub(super) found: Found,
    /// The path in it, empty for all.
    pub(super) path: Vec<u8>,
    /// The folder that it lands in.
    pub(super) to: PathBuf,
    /// What its paths are shown with in front.
    pub(super) below: Vec<u8>,
}

/// Which snapshots are restored, and where each goes.
pub(super) async fn jobs(
    snapshots: Vec<Found>,
    args: &Args,
    to: &Path,
) -> Result<Vec<Job>, Failure> {
    let Some(wanted) = &args.snapshot else {
        let job = |found: Found| {
            let name = folder_name(&found);
            let below = format!("{name}/").into_bytes();
            Job { to: to.join(name), below, path: Vec::new(), found }
        };
        let jobs: Vec<Job> = snapshots.into_iter().map(job).collect();
        jobs.iter().try_for_each(|job| check_target(&job.to, args.overwrite))?;
        return Ok(jobs);
    };
    let (name, path) = split(wanted)?;
    let rows = Rows::of(snapshots.iter().map(|found| found.row.clone()).collect());
    let row = snapshots::find_in(rows, &name).await.map_err(|failure| Failure {
        next: vec!["the same with --list instead of --to OUT    which there are".into()],
        ..failure
    })?;
    let found = snapshots.into_iter().filter(|found| found.row.id == row.id);
    Ok(found.map(|found| Job { found, path: path.clone(), to: to.into(), below: vec![] }).collect())
}

/// As in `7c1d09aa-2026-07-01-091502`.
fn folder_name(Found { row, record }: &Found) -> String {
    let time = time_text(record.began_ms).replace(':', "").replace(' ', "-");
    format!("{:.8}-{time}", row.id)
}

/// The newest come first, so it is the oldest that there is no room for.
pub(super) fn warn_of_room(jobs: &[Job], to: &Path, ui: &Ui) {
    let wanted: u64 =
        jobs.iter().filter(|job| job.path.is_empty()).map(|job| job.found.record.stats.bytes).sum();
    let Some(there) = to.ancestors().find(|path| path.exists()) else { return };
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    let Ok(disk) = rustix::fs::statvfs(there) else { return };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if wanted > free {
        let what = format!(
            "{} are to be restored and {} are free there: the newest snapshots come first; \
             --snapshot takes one of them",
            bytes_text(wanted),
            bytes_text(free)
        );
        ui.warn(&what, Some(to.as_os_str().as_bytes()));
    }
}
