//! `arc pull`: the command line of getting things back.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::Global;
use crate::exit::{Exit, Failure};
use crate::fetch::Fetcher;
use crate::pull::{self, Outcome};
use crate::ui::{Counters, Ui, View, bytes_text, duration_text, escaped, path_text, plural};
use crate::vault::{self, Vault};
use crate::{snapshots, tree};

/// Get a snapshot, or a part of it, back.
///
/// Any m of a stripe's servers may be away or damaged: what they lack is computed from the rest,
/// said once, and reported for repair. No file stands under its final name before it is whole.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc pull latest --to ./restored
  arc pull 7c1d09aa:/home/ada/letters --to ./letters
  arc pull latest:/home/ada/notes.txt --to - | less")]
pub struct Args {
    /// The snapshot: an id, its first digits, or latest; with :PATH only what is below that path
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    pub snapshot: OsString,
    /// The folder that the content of PATH lands in; - writes one file to standard output
    #[arg(long, value_name = "DIR|-")]
    pub to: PathBuf,
    /// What to do with files that are there already; without it the folder must be empty
    #[arg(long, value_name = "WHEN")]
    pub overwrite: Option<Overwrite>,
}

/// What to do with files that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Overwrite {
    /// Leave them
    Never,
    /// Replace those that differ in size or time
    IfChanged,
    /// Replace them all
    Always,
}

impl Args {
    /// Whether the file goes to standard output, where nothing else may go then.
    pub(super) fn takes_stdout(&self) -> bool {
        self.to.as_os_str() == "-"
    }
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    if !args.takes_stdout() {
        check_target(&args.to, args.overwrite)?;
    }
    let vault = vault::open(global).await?;
    let pulled = pull_from(&vault, args, &global.ui).await;
    vault.close().await;
    pulled
}

async fn pull_from(vault: &Vault, args: Args, ui: &Ui) -> Result<Exit, Failure> {
    let (name, path) = split(&args.snapshot)?;
    let snapshot = snapshots::find(&vault.coordinator, &name).await?;
    let counters = Arc::new(Counters::default());
    let fetcher = Arc::new(Fetcher::new(vault, Arc::clone(&counters))?);
    if args.takes_stdout() {
        let bytes = pull::to_stdout(&fetcher, &snapshot, &path).await?;
        ui.detail(format!("{} written", bytes_text(bytes)));
        tell_heals(&fetcher, ui);
        return Ok(Exit::Done);
    }
    let began = Instant::now();
    let watch = ui.watch(Arc::clone(&counters), View::Pull);
    let id = snapshot.id;
    let options = pull::Options {
        snapshot,
        path,
        to: args.to.clone(),
        overwrite: policy(args.overwrite),
        is_empty: args.overwrite.is_none(),
    };
    let outcome = pull::pull(&fetcher, options, counters).await;
    watch.finish();
    let outcome = outcome?;
    tell_heals(&fetcher, ui);
    Ok(tell(&outcome, id, &args.to, began.elapsed(), ui))
}

/// What was got around is said once.
fn tell_heals(fetcher: &Fetcher, ui: &Ui) {
    for heal in fetcher.heals() {
        ui.heal(&heal);
    }
    for server in fetcher.passed_over() {
        ui.passed_over(&server);
    }
}

fn tell(
    outcome: &Outcome,
    id: codec::StripeId,
    to: &Path,
    took: std::time::Duration,
    ui: &Ui,
) -> Exit {
    let exits = warn_of(outcome, b"", ui);
    let mut lines = vec![format!(
        "snapshot {id:.8} restored to {}: {}, {} in {}",
        path_text(to),
        plural(outcome.files, "file"),
        bytes_text(outcome.bytes),
        duration_text(took),
    )];
    if outcome.skipped > 0 {
        lines.push(format!("{} left as they were (--overwrite)", plural(outcome.skipped, "name")));
    }
    if !outcome.lost.is_empty() {
        let others = if outcome.missing.is_none() { "; all others were" } else { "" };
        let lost = plural(outcome.lost.len() as u64, "file");
        lines.push(format!("{lost} could not be restored{others}"));
    }
    let after = outcome.missing.as_ref().map(|missing| tree::absolute(&missing.after));
    if let Some(after) = &after {
        lines.push(format!("everything after {} is missing", escaped(after)));
    }
    let fields = json!({
        "snapshot": id,
        "entries": outcome.entries,
        "files": outcome.files,
        "bytes": outcome.bytes,
        "skipped": outcome.skipped,
        "problems": outcome.problems.len(),
        "lost": outcome.lost.len(),
        "missing_after": after.map(|after| String::from_utf8_lossy(&after).into_owned()),
        "took_ms": took.as_millis() as u64,
    });
    ui.summary(&lines, fields);
    ui.note_all(&exits);
    Exit::worst(&exits)
}

/// Tells of what was not restored, and gives the exit codes for it. The paths below the target are
/// shown with `below` in front.
pub(super) fn warn_of(outcome: &Outcome, below: &[u8], ui: &Ui) -> Vec<Exit> {
    let mut exits = vec![Exit::Done];
    for problem in &outcome.problems {
        let path = [below, &problem.path].concat();
        ui.warn(&format!("cannot {}: {}", problem.doing, problem.error), Some(&path));
        exits.push(match problem.error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Exit::NoSpace,
            _ => Exit::Failed,
        });
    }
    for lost in &outcome.lost {
        let exit = Failure::from(lost.why.clone()).code;
        let path = [below, &lost.path].concat();
        ui.warn(&format!("not restored: {}", lost.why), Some(&path));
        exits.push(exit);
    }
    if let Some(missing) = &outcome.missing {
        ui.warn(
            &format!("everything after it is missing: {}", missing.why),
            Some(&tree::absolute(&missing.after)),
        );
        exits.push(Failure::from(missing.why.clone()).code);
    }
    exits
}

pub(super) fn policy(overwrite: Option<Overwrite>) -> tree::Overwrite {
    match overwrite {
        None | Some(Overwrite::Never) => tree::Overwrite::Never,
        Some(Overwrite::IfChanged) => tree::Overwrite::IfChanged,
        Some(Overwrite::Always) => tree::Overwrite::Always,
    }
}

/// Without `--overwrite` nothing may be in the target folder.
pub(super) fn check_target(to: &Path, overwrite: Option<Overwrite>) -> Result<(), Failure> {
    if overwrite.is_some() {
        return Ok(());
    }
    match std::fs::read_dir(to).map(is_empty) {
        Ok(false) => {
            Err(Failure::new(Exit::Usage, format!("the folder {} is not empty", path_text(to)))
                .state("nothing was restored")
                .next("--overwrite never|if-changed|always    restores into it all the same"))
        }
        Ok(true) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::io("cannot restore into", to)(error)),
    }
}

fn is_empty(mut names: std::fs::ReadDir) -> bool {
    names.next().is_none()
}

/// Splits `SNAPSHOT[:PATH]`; the path as in a manifest.
pub(super) fn split(text: &OsStr) -> Result<(String, Vec<u8>), Failure> {
    let (name, path) = snapshots::split(text.as_bytes());
    let name = String::from_utf8(name.to_vec())
        .map_err(|_| Failure::new(Exit::NoSnapshot, "the snapshot's name is not text"))?;
    Ok((name, path.to_vec()))
}
