//! `arc catalog rebuild`: a catalog that is lost, or older than what the servers hold.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::json;
use server::coordinator::{self, Rebuilt};
use server::wire::{Adoption, Restored, StatusQuery};

use crate::commands::Global;
use crate::exit::{Exit, Failure};
use crate::fetch::{FetchError, Fetcher};
use crate::rescue;
use crate::ui::{Counters, Ui, View, escaped, path_text, plural, shell_word, time_text};
use crate::vault::{self, Vault};

/// Make a lost catalog again: with DIR a new one there, then what the servers hold.
///
/// With the coordinator's folder, which has lost its catalog.db, it makes a new one of the other
/// files in there; the coordinator has to be started then. Without a folder it has the running
/// coordinator take in all shards and stamps that the servers hold, and reads with the passphrase
/// what is in them. With the folder of a local vault it does both. Snapshots have the same ids,
/// numbers and times as before. It can be repeated.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc catalog rebuild /srv/arc/coordinator    on its machine, while it is stopped
  arc catalog rebuild                         then, once it runs again
  arc catalog rebuild ./vault                 a local vault: all in one
  arc catalog rebuild --merge                 an old copy of catalog.db was put back")]
pub struct Args {
    /// The coordinator's folder, or that of a local vault
    #[arg(value_name = "DIR", conflicts_with = "merge")]
    pub dir: Option<PathBuf>,
    /// The catalog is there, but older than what the servers hold: take in what it lacks
    #[arg(long)]
    pub merge: bool,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let Args { dir, merge } = args;
    let mut global = global.clone();
    if let Some(dir) = dir {
        let is_local = dir.join("arc.toml").is_file();
        let data = if is_local { dir.join("coordinator") } else { dir.clone() };
        // One that ended halfway in a local vault goes on.
        if !is_local || !data.join("catalog.db").exists() {
            make(&data, &global.ui)?;
        }
        if !is_local {
            let lines = [
                format!("a new catalog is in {}; it knows the servers only", path_text(&data)),
                "next: start the coordinator as before, then: arc catalog rebuild".to_owned(),
            ];
            global.ui.summary(&lines, json!({ "made": path_text(&data) }));
            return Ok(Exit::Done);
        }
        // A bare name could be another vault's.
        let dir = dir.canonicalize().map_err(Failure::io("cannot find", &dir))?;
        global.vault = Some(dir.to_string_lossy().into_owned());
    }
    let vault = vault::open_to_rebuild(&global).await?;
    let rebuilt = rebuild(&vault, merge, &global.ui).await;
    vault.close().await;
    rebuilt
}

/// Makes a new catalog in a coordinator's folder.
fn make(data: &Path, ui: &Ui) -> Result<(), Failure> {
    let failed = format!("no catalog was made in {}", path_text(data));
    let Rebuilt { vault, servers, has_record } =
        coordinator::rebuild(data).map_err(Failure::when(failed))?;
    ui.say(format!(
        "vault {vault:.8} with {}: {}",
        plural(servers.len() as u64, "server"),
        servers.iter().map(|name| escaped(name.as_bytes())).collect::<Vec<_>>().join(", ")
    ));
    ui.say("settings of repair are as they are by default again");
    if !has_record {
        ui.warn("there was no vault record: `arc init` had made no vault yet", None);
    }
    Ok(())
}

/// What became of it.
struct Outcome {
    adoption: Adoption,
    restored: Restored,
    /// Packs that cannot be read, and why.
    unread: Vec<FetchError>,
}

async fn rebuild(vault: &Vault, merge: bool, ui: &Ui) -> Result<Exit, Failure> {
    let coordinator = &vault.coordinator;
    let counters = Arc::new(Counters::default());
    let watch = ui.watch(Arc::clone(&counters), View::Scan);
    let adopted =
        coordinator.adopt(merge, |told| counters.done_files.store(told.shards, Relaxed)).await;
    watch.finish();
    let adoption = adopted?;
    if let Some(why) = &adoption.failed {
        return Err(Failure::new(Exit::Failed, "what the servers hold was not taken in")
            .why(escaped(why.as_bytes()))
            .state("what was taken in stays")
            .next("the same again"));
    }
    for (name, why) in &adoption.away {
        let (name, why) = (escaped(name.as_bytes()), escaped(why.as_bytes()));
        ui.warn(&format!("server {name} was not gone through: {why}"), None);
    }
    let fetcher = Fetcher::new(vault, Arc::default())?;
    let counters = Arc::new(Counters::default());
    let watch = ui.watch(Arc::clone(&counters), View::Index);
    let unread = rescue::index_adopted(&fetcher, coordinator, &counters).await;
    watch.finish();
    let unread: Vec<FetchError> = unread?.into_values().collect();
    for error in &unread {
        ui.detail(format!("what is in it cannot be read: {error}"));
    }
    let restored = coordinator.finish_adoption().await.map_err(|error| {
        let again = if merge { " --merge" } else { "" };
        Failure::from(error)
            .state("what was taken in stays; no snapshot is known by it yet")
            .next(format!("arc catalog rebuild{again}    # once these servers are back"))
    })?;
    for (id, received_ms) in &restored.missing {
        let when = time_text(i64::try_from(*received_ms).unwrap_or(i64::MAX));
        ui.warn(&format!("snapshot {id:.8}, saved {when}: too little of its record is left"), None);
    }
    let below = coordinator.status(StatusQuery::default()).await?.stripes_below_target;
    Ok(tell(&Outcome { adoption, restored, unread }, below, vault, ui))
}

fn tell(outcome: &Outcome, below: u64, vault: &Vault, ui: &Ui) -> Exit {
    let Outcome { adoption, restored, unread } = outcome;
    let mut lines = vec![format!(
        "{} known now, {} of them by this; {} taken in with {}",
        plural(restored.snapshots, "snapshot"),
        restored.restored,
        plural(adoption.stripes, "stripe"),
        plural(adoption.adopted_shards, "shard"),
    )];
    let counted = [
        (adoption.incomplete, "stripe", "with too few shards: unfinished pushes, or lost"),
        (adoption.bad_shards, "shard", "damaged, and not taken in"),
        (restored.unstamped, "snapshot", "never acknowledged: their pushes were not told so"),
        (unread.len() as u64, "stripe", "cannot be read (-v says why)"),
        (restored.missing_count, "snapshot", "without a readable record"),
        (below, "stripe", "below target: arc repair-scan --fix, or the coordinator by itself"),
    ];
    for (count, noun, what) in counted {
        if count > 0 {
            lines.push(format!("{} {what}", plural(count, noun)));
        }
    }
    let is_away = !adoption.away.is_empty();
    if is_away {
        lines.push("once all servers are back: arc catalog rebuild --merge".to_owned());
    } else {
        let word = match &vault.location {
            crate::config::Location::Url(_) => String::new(),
            dir => format!(" --vault {}", shell_word(&dir.to_string())),
        };
        lines.push(format!("next: arc{word} verify"));
    }
    ui.summary(
        &lines,
        json!({
            "snapshots": restored.snapshots,
            "restored": restored.restored,
            "facts": adoption.facts,
            "stripes": adoption.stripes,
            "shards": adoption.shards,
            "adopted_shards": adoption.adopted_shards,
            "bad_shards": adoption.bad_shards,
            "incomplete_stripes": adoption.incomplete,
            "unread_stripes": unread.len(),
            "unstamped_snapshots": restored.unstamped,
            "missing_snapshots": restored.missing,
            "missing_count": restored.missing_count,
            "below_target": below,
            "away": adoption.away.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        }),
    );
    let found = [
        (!is_away && restored.missing_count > 0, Exit::Lost),
        (is_away || !unread.is_empty(), Exit::BelowTarget),
        (below > 0, Exit::Repairable),
    ];
    let exits: Vec<Exit> = found.into_iter().filter(|(is, _)| *is).map(|(_, exit)| exit).collect();
    ui.note_all(&exits);
    Exit::worst(&exits)
}
