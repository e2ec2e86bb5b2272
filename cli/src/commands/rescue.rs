//! `arc rescue`: files out of bare shard folders, when everything else is gone.

mod coordinator;
mod jobs;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use codec::shard::Kind;
use serde_json::{Value, json};

use self::jobs::{Job, jobs, warn_of_room};
use super::pull::{Overwrite, check_target, policy, warn_of};
use super::{Global, snapshots as listing};
use crate::exit::{Exit, Failure};
use crate::fetch::{FetchError, Fetcher};
use crate::pull;
use crate::rescue::{self, Found, Indexed, Scan};
use crate::ui::{
    Counters, Ui, View, bytes_text, duration_text, path_text, plural, shell_word, time_text,
};
use crate::{secret, tree};

/// Files that cannot be read of which there is a warning each.
const UNREADABLE_SHOWN: usize = 20;

/// Get files back from the folders of storage servers or disks, with nothing else but the passphrase.
///
/// No coordinator, no catalog and no network is needed: for when all of that is gone. The folders
/// are only read. Every shard in them is looked at, every block is checked before it is used, and
/// what too few shards are left of is named with the files it costs. Every snapshot is restored,
/// the newest first, each into a folder of its own.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  arc rescue /mnt/disk1 /mnt/disk2 /mnt/disk4 /mnt/disk5 --list
  arc rescue /mnt/disk* --to ./rescued
  arc rescue /mnt/disk* --snapshot latest:/home/ada/letters --to ./letters
  arc rescue /mnt/disk* --coordinator /srv/arc/coordinator")]
pub struct Args {
    /// Folders of storage servers, disks of a local vault, or copies of their `shards` folders
    #[arg(value_name = "DIR", required = true)]
    pub dirs: Vec<PathBuf>,
    /// The folder that a folder for each snapshot is made in; with --snapshot, the one for its files
    #[arg(long, value_name = "OUT", required_unless_present_any = ["list", "coordinator"])]
    pub to: Option<PathBuf>,
    /// Restore this snapshot alone (an id, its first digits, or latest), or what is below a path in it
    #[arg(long, value_name = "SNAPSHOT[:PATH]")]
    pub snapshot: Option<OsString>,
    /// Restore the coordinator's folder instead, out of the newest backup that it made of itself,
    /// to a folder that is not there yet
    #[arg(long, value_name = "OUT", conflicts_with_all = ["to", "snapshot", "list", "overwrite"])]
    pub coordinator: Option<PathBuf>,
    /// Only say which snapshots there are
    #[arg(long)]
    pub list: bool,
    /// The vault record, where it does not lie in the folders: vault.record of any server
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// What to do with files that are there already; without it the folder of a snapshot must be empty
    #[arg(long, value_name = "WHEN")]
    pub overwrite: Option<Overwrite>,
}

/// What the folders gave.
struct Rescue {
    fetcher: Arc<Fetcher>,
    counters: Arc<Counters>,
    snapshots: Vec<Found>,
    /// Exit codes of what is lost already.
    exits: Vec<Exit>,
    /// What was found, in words and for JSON.
    lines: Vec<String>,
    fields: Value,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let began = Instant::now();
    let dirs = rescue::check_dirs(&args.dirs)?;
    if let Some(out) = &args.coordinator {
        rescue::must_be_elsewhere(out, &dirs)?;
        coordinator::check_out(out)?;
    }
    if let Some(to) = &args.to {
        rescue::must_be_elsewhere(to, &dirs)?;
        if args.snapshot.is_some() && !args.list {
            check_target(to, args.overwrite)?;
        }
    }
    let records = rescue::find_records(&dirs, args.record.as_deref())?;
    let (keys, opened) = secret::unlock_any(&records, &global.secret).await?;
    let vault = records[opened].vault;
    if let Some(out) = &args.coordinator {
        return coordinator::restore(dirs, vault, keys, out, &global.ui).await;
    }
    let rescue = open(dirs, vault, keys, &global.ui).await?;
    if args.list {
        return Ok(list(rescue, &global.ui));
    }
    let Some(to) = args.to.clone() else {
        return Err(Failure::new(Exit::Usage, "--to OUT is missing"));
    };
    restore(rescue, &args, &to, began, &global.ui).await
}

/// Finds the shards, what they hold, and the snapshots.
async fn open(
    dirs: Vec<PathBuf>,
    vault: codec::VaultId,
    keys: codec::keys::VaultKeys,
    ui: &Ui,
) -> Result<Rescue, Failure> {
    let scan = scan(dirs, vault, ui).await;
    tell_unreadable(&scan, ui);
    if scan.newer > 0 {
        let what = format!("{} of a newer arc: upgrade to read them", plural(scan.newer, "shard"));
        ui.warn(&what, None);
    }
    if scan.stripes.is_empty() {
        return Err(Failure::new(
            Exit::NoVault,
            "there are no shards of this vault in these folders",
        )
        .why(format!(
            "{} of other vaults, {} that nothing is known of",
            plural(scan.strangers, "shard"),
            plural(scan.unknown, "file")
        ))
        .state("nothing was written"));
    }
    let counters = Arc::new(Counters::default());
    let stripe_count = scan.stripes.len() as u64;
    let folders = Arc::new(scan.folders);
    let fetcher = Fetcher::of_folders(Arc::clone(&folders), vault, keys, Arc::clone(&counters));
    let (snapshots, others): (Vec<_>, Vec<_>) =
        scan.stripes.into_values().partition(|map| map.kind == Kind::Snapshot);
    let indexing = Arc::new(Counters::default());
    let records = others.iter().filter(|map| map.kind == Kind::Record).count();
    indexing.total_files.store((others.len() - records) as u64, Relaxed);
    let watch = ui.watch(Arc::clone(&indexing), View::Index);
    let Indexed { index, unread } = rescue::index(&fetcher, others.into_iter(), &indexing).await;
    watch.finish();
    let chunks = index.len();
    folders.set_index(index);
    let (snapshots, lost) = rescue::find_snapshots(&fetcher, snapshots.into_iter()).await;
    let mut exits = Vec::new();
    for (id, error) in &lost {
        ui.warn(&format!("a snapshot is lost: {error}"), None);
        ui.json("lost_snapshot", json!({ "snapshot": id }));
        exits.push(Failure::from(error.clone()).code);
    }
    tell_unread(&unread, ui);
    let mut lines = vec![format!(
        "found {} of {} with {}",
        plural(scan.shards, "shard"),
        plural(stripe_count, "stripe"),
        plural(snapshots.len() as u64, "snapshot")
    )];
    if scan.damaged_headers + scan.unknown > 0 {
        lines.push(format!(
            "{} with a damaged header, {} that nothing is known of",
            plural(scan.damaged_headers, "shard"),
            plural(scan.unknown, "file")
        ));
    }
    if !unread.is_empty() {
        let stripes = plural(unread.len() as u64, "stripe");
        lines.push(format!(
            "{stripes} with too few shards: unfinished pushes, or lost (-v names them)"
        ));
    }
    let fields = json!({
        "shards": scan.shards,
        "stripes": stripe_count,
        "chunks": chunks,
        "unread_stripes": unread.len(),
        "damaged_headers": scan.damaged_headers,
        "unknown_files": scan.unknown,
        "newer_files": scan.newer,
        "other_vaults": scan.strangers,
        "unreadable": scan.unreadable.len(),
        "lost_snapshots": lost.len(),
    });
    Ok(Rescue { fetcher: Arc::new(fetcher), counters, snapshots, exits, lines, fields })
}

async fn scan(dirs: Vec<PathBuf>, vault: codec::VaultId, ui: &Ui) -> Scan {
    let counters = Arc::new(Counters::default());
    let watch = ui.watch(Arc::clone(&counters), View::Scan);
    let scanning = tokio::task::spawn_blocking(move || rescue::scan(&dirs, vault, &counters));
    let scan = scanning.await;
    watch.finish();
    scan.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// A disk that fails has many of them.
fn tell_unreadable(scan: &Scan, ui: &Ui) {
    let shown = if ui.verbose() > 0 { scan.unreadable.len() } else { UNREADABLE_SHOWN };
    for (path, error) in scan.unreadable.iter().take(shown) {
        ui.warn(&format!("cannot read: {error}"), Some(path.as_os_str().as_bytes()));
    }
    let more = scan.unreadable.len().saturating_sub(shown);
    if more > 0 {
        ui.warn(
            &format!("{} more cannot be read (-v names them)", plural(more as u64, "file")),
            None,
        );
    }
}

/// Nothing may need them, so they are no warning.
fn tell_unread(unread: &std::collections::BTreeMap<codec::StripeId, FetchError>, ui: &Ui) {
    for (stripe, error) in unread {
        ui.detail(format!("an unfinished push, or lost: {error}"));
        ui.json("unread", json!({ "stripe": stripe, "why": error.to_string() }));
    }
}

fn list(rescue: Rescue, ui: &Ui) -> Exit {
    let Rescue { snapshots, mut exits, lines, mut fields, .. } = rescue;
    if !ui.is_json() && !snapshots.is_empty() {
        ui.data(listing::heading());
    }
    for found in &snapshots {
        tell_found(found, ui);
    }
    if snapshots.is_empty() {
        exits.push(Exit::NoSnapshot);
    }
    lines.iter().for_each(|line| ui.say(line));
    fields["snapshots"] = snapshots.len().into();
    ui.json("summary", fields);
    ui.note_all(&exits);
    Exit::worst(&exits)
}

fn tell_found(Found { row, record }: &Found, ui: &Ui) {
    match ui.is_json() {
        true => ui.json("snapshot", listing::fields(row.id, record)),
        false => ui.data(listing::line(row.id, record.began_ms, record)),
    }
}

async fn restore(
    rescue: Rescue,
    args: &Args,
    to: &Path,
    began: Instant,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let Rescue { fetcher, counters, snapshots, mut exits, mut lines, mut fields } = rescue;
    if snapshots.is_empty() {
        ui.note_all(&exits);
        return Err(Failure::new(Exit::NoSnapshot, "there is no snapshot in these folders")
            .why(lines.join("; "))
            .state("nothing was written")
            .next("give more folders: a snapshot's record lies on m+1 of the servers"));
    }
    let jobs = jobs(snapshots, args, to).await?;
    warn_of_room(&jobs, to, ui);
    let watch = ui.watch(counters.clone(), View::Pull);
    let (mut files, mut bytes, mut lost, mut cut, mut restored) = (0, 0, 0, 0, 0);
    let count = jobs.len();
    for Job { found, path, to, below } in jobs {
        let Found { row, record } = found;
        let id = row.id;
        ui.say(format!(
            "snapshot {id:.8} of {} on {} → {}",
            time_text(record.began_ms),
            crate::ui::escaped(record.host.as_bytes()),
            path_text(&to)
        ));
        let options = pull::Options {
            snapshot: row,
            path,
            to: to.clone(),
            overwrite: policy(args.overwrite),
            is_empty: args.overwrite.is_none(),
        };
        let outcome = pull::pull(&fetcher, options, counters.clone()).await?;
        let of_snapshot = warn_of(&outcome, &below, ui);
        ui.json(
            "restored",
            json!({
                "snapshot": id,
                "to": to.to_string_lossy(),
                "entries": outcome.entries,
                "files": outcome.files,
                "bytes": outcome.bytes,
                "skipped": outcome.skipped,
                "problems": outcome.problems.len(),
                "lost": outcome.lost.len(),
                "missing_after": outcome.missing.as_ref().map(|missing| {
                    String::from_utf8_lossy(&tree::absolute(&missing.after)).into_owned()
                }),
            }),
        );
        files += outcome.files;
        bytes += outcome.bytes;
        lost += outcome.lost.len() as u64;
        cut += u64::from(outcome.missing.is_some());
        restored += 1;
        let is_full = of_snapshot.contains(&Exit::NoSpace);
        exits.extend(of_snapshot);
        if is_full {
            break;
        }
    }
    watch.finish();
    let damaged = tell_damage(&fetcher, ui);
    lines.insert(
        0,
        format!(
            "{} of {} restored to {}: {}, {} in {}",
            restored,
            plural(count as u64, "snapshot"),
            path_text(to),
            plural(files, "file"),
            bytes_text(bytes),
            duration_text(began.elapsed())
        ),
    );
    if damaged > 0 {
        lines.push(format!(
            "{} damaged, and done without (-v names them)",
            plural(damaged, "shard")
        ));
    }
    if lost > 0 {
        lines.push(format!("{} could not be restored", plural(lost, "file")));
    }
    if cut > 0 {
        lines.push(format!("of {} not even all names are known", plural(cut, "snapshot")));
    }
    if lost + cut > 0 {
        let word = shell_word(&to.to_string_lossy());
        lines.push(format!(
            "with more of the vault's folders: arc rescue DIR… --to {word} --overwrite never"
        ));
    }
    let more = json!({
        "snapshots": count,
        "restored": restored,
        "files": files,
        "bytes": bytes,
        "lost": lost,
        "cut_snapshots": cut,
        "damaged_shards": damaged,
        "took_ms": began.elapsed().as_millis() as u64,
    });
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
    ui.summary(&lines, fields);
    ui.note_all(&exits);
    Ok(Exit::worst(&exits))
}

/// Shards that were damaged, and done without: no failure. How many.
fn tell_damage(fetcher: &Fetcher, ui: &Ui) -> u64 {
    let heals = fetcher.heals();
    for heal in &heals {
        ui.damage(heal);
    }
    heals.len() as u64
}
