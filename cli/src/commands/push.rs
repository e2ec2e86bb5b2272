//! `arc push`: the command line of saving.

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use codec::manifest::check_path;
use serde_json::json;
use server::wire::{ServerInfo, State};

use super::Global;
use super::quantity::{parse_bytes, parse_duration};
use crate::exit::{Exit, Failure};
use crate::push::{self, Options, Outcome, Source};
use crate::snapshots;
use crate::tree::{Excludes, Trust};
use crate::ui::{Counters, Ui, View, bytes_text, count_text, duration_text, plural};
use crate::vault::{self, Upkeep, Vault};

/// Memory to work in unless `--memory` says otherwise.
const MEMORY_BYTES: u64 = 256 << 20;
/// The smallest pack worth its requests.
const PACK_BYTES_MIN: u64 = 1 << 20;
/// Packs are bounded by the format's 32-bit offsets; this leaves room for a directory.
const PACK_BYTES_MAX: u64 = 1 << 30;
/// How long to wait for servers unless `--wait-servers` says otherwise.
const WAIT_SERVERS: Duration = Duration::from_secs(120);
/// How long a local vault is looked after unless `--upkeep` says otherwise.
const UPKEEP: Duration = Duration::from_secs(60);
/// How long a pass over its shards takes unless `--scrub-every` says otherwise.
const SCRUB_EVERY: Duration = Duration::from_secs(30 * 24 * 3600);
/// When a server is given up unless `--stall` says otherwise.
const STALL: Duration = Duration::from_secs(30);

/// Save files and folders as a new snapshot.
///
/// Only what the vault does not have yet is sent. A file that looks as in the previous snapshot
/// (size, times, inode) is not opened. Run it again after an interruption: what was committed is
/// not sent twice. Mode, owner, times, symlinks, hard links, extended attributes, holes, empty
/// folders, fifos and devices are kept; sockets are named and skipped.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc push ~/Documents ~/Photos --tag weekly
  arc push / --exclude /proc --exclude /sys --exclude '*.tmp'
  pg_dump shop | arc push - --as shop.sql")]
pub struct Args {
    /// Files and folders; - is standard input and needs --as
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Label the snapshot; may be repeated
    #[arg(short, long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Leave out what matches; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Leave out what matches a line of this file; may be repeated
    #[arg(long, value_name = "FILE")]
    pub exclude_file: Vec<PathBuf>,
    /// The machine's name in the snapshot [default: the host's name]
    #[arg(long)]
    pub host: Option<String>,
    /// Name standard input in the snapshot
    #[arg(long = "as", value_name = "NAME")]
    pub as_name: Option<PathBuf>,
    /// Say what would be saved, and save nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Compare with this snapshot [default: the newest of the same host and paths]
    #[arg(long, value_name = "SNAPSHOT")]
    pub parent: Option<String>,
    /// Compare with no snapshot: read every file
    #[arg(long, conflicts_with = "parent")]
    pub force: bool,
    /// A file is unchanged even when its inode is another one
    #[arg(long)]
    pub ignore_inode: bool,
    /// A file is unchanged even when its change time is another one
    #[arg(long)]
    pub ignore_ctime: bool,
    /// Be content with so many shards of each stripe [default: all; k+1 with servers missing]
    #[arg(long, value_name = "N")]
    pub min_shards: Option<u8>,
    /// Wait so long for servers that are away before going on without them [default: 120s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub wait_servers: Option<Duration>,
    /// Give a server up for a shard when nothing moves for so long [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true)]
    pub stall: Option<Duration>,
    /// Repair and scrub a local vault for so long at most once all is saved; 0: not [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub upkeep: Option<Duration>,
    /// Read each shard of a local vault once in so long [default: 30d]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, hide_short_help = true)]
    pub scrub_every: Option<Duration>,
    /// Memory to work in, as in 256M [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub memory: Option<u64>,
    /// Size of a pack, at least 1M [default: 8M to 64M, by --memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub pack_size: Option<u64>,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let dry_run = args.dry_run;
    let time = args.upkeep.unwrap_or(UPKEEP);
    let scrub_every = args.scrub_every.unwrap_or(SCRUB_EVERY);
    let vault = vault::open(global).await?;
    let pushed = push_into(&vault, args, &global.ui).await;
    let summed = match pushed {
        Ok(outcome) => summary(&vault, &outcome, dry_run, &global.ui).await.map(|()| outcome),
        Err(failure) => Err(failure),
    };
    if summed.is_ok() && !dry_run && !time.is_zero() {
        upkeep(&vault, time, scrub_every, &global.ui).await;
    }
    vault.close().await;
    let outcome = summed?;
    let mut exits = vec![Exit::Done];
    if outcome.stats.warnings > 0 {
        exits.push(Exit::SourcesIncomplete);
    }
    if outcome.stripes_below_target > 0 {
        exits.push(Exit::BelowTarget);
    }
    global.ui.note_all(&exits);
    Ok(Exit::worst(&exits))
}

/// The snapshot is saved: whatever comes of this, the push has done its work.
async fn upkeep(vault: &Vault, time: Duration, scrub_every: Duration, ui: &Ui) {
    let counters = Arc::new(Counters::default());
    let watch = ui.watch(Arc::clone(&counters), View::Upkeep);
    let upkeep = vault.upkeep(time, scrub_every, &counters).await;
    watch.finish();
    let Some(Upkeep { bad, made, lacking, failed }) = upkeep else { return };
    for why in &failed {
        ui.warn(&format!("upkeep: {why}"), None);
    }
    if bad + made + lacking == 0 {
        return;
    }
    ui.json("upkeep", json!({ "bad": bad, "made": made, "lacking_stripes": lacking }));
    let found = match bad + made {
        0 => "upkeep could make nothing again".to_owned(),
        _ => format!(
            "upkeep found {} bad on the vault's disks and made {} again",
            plural(bad, "more shard"),
            plural(made, "shard")
        ),
    };
    match lacking {
        0 => ui.say(format!("{found}; nothing is lacking")),
        _ => ui.warn(
            &format!(
                "{found}; {} still lack shards: arc repair-scan --fix",
                plural(lacking, "stripe")
            ),
            None,
        ),
    }
}

async fn push_into(vault: &Vault, args: Args, ui: &Ui) -> Result<Outcome, Failure> {
    let parent = match &args.parent {
        Some(name) => Some(snapshots::find(&vault.coordinator, name).await?.id),
        None => None,
    };
    let options = options(args, parent)?;
    let counters = Arc::new(Counters::default());
    let watch = ui.watch(Arc::clone(&counters), View::Push);
    let outcome = push::push(vault, options, counters, ui).await;
    watch.finish();
    outcome
}

fn options(args: Args, parent: Option<codec::StripeId>) -> Result<Options, Failure> {
    let usage = |what: String| Failure::new(Exit::Usage, what);
    let source = source(&args)?;
    let mut patterns = args.exclude;
    for file in &args.exclude_file {
        let text = std::fs::read_to_string(file).map_err(Failure::io("cannot read", file))?;
        let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        patterns.extend(lines.map(str::to_owned));
    }
    let excludes = Excludes::new(&patterns).map_err(|error| {
        usage("a pattern of --exclude is not understood".into()).why(error.to_string())
    })?;
    if let Some(bytes) =
        args.pack_size.filter(|bytes| !(PACK_BYTES_MIN..=PACK_BYTES_MAX).contains(bytes))
    {
        return Err(usage(format!(
            "--pack-size {}: it can be from 1 MiB to 1 GiB",
            bytes_text(bytes)
        )));
    }
    Ok(Options {
        source,
        excludes,
        tags: args.tags,
        host: args.host.unwrap_or_else(host_name),
        dry_run: args.dry_run,
        parent,
        force: args.force,
        trust: Trust { ignore_inode: args.ignore_inode, ignore_ctime: args.ignore_ctime },
        min_shards: args.min_shards,
        wait_servers: args.wait_servers.unwrap_or(WAIT_SERVERS),
        stall: args.stall.unwrap_or(STALL),
        memory_bytes: args.memory.unwrap_or(MEMORY_BYTES),
        pack_bytes: args.pack_size,
    })
}

fn source(args: &Args) -> Result<Source, Failure> {
    let usage = |what: &str| {
        Failure::new(Exit::Usage, what).next("pg_dump shop | arc push - --as shop.sql")
    };
    let stdin = args.paths.iter().any(|path| path.as_os_str() == "-");
    match (&args.as_name, stdin) {
        (Some(name), true) if args.paths.len() == 1 => {
            let path = name.as_os_str().as_bytes();
            let path = path.strip_prefix(b"/").unwrap_or(path).to_vec();
            check_path(&path)
                .map_err(|error| usage("--as is no name for a file").why(error.to_string()))?;
            Ok(Source::Stdin(path))
        }
        (None, false) => {
            for path in &args.paths {
                if let Err(error) = std::fs::symlink_metadata(path) {
                    let exit = if error.kind() == std::io::ErrorKind::NotFound {
                        Exit::NoSnapshot
                    } else {
                        Exit::Failed
                    };
                    return Err(Failure::new(
                        exit,
                        format!("cannot push {}", crate::ui::path_text(path)),
                    )
                    .why(error.to_string())
                    .state("nothing was stored"));
                }
            }
            Ok(Source::Paths(args.paths.clone()))
        }
        (None, true) => Err(usage("standard input needs a name: --as NAME")),
        (Some(_), _) => Err(usage("--as names standard input, which is given as the only path: -")),
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

async fn summary(vault: &Vault, outcome: &Outcome, dry_run: bool, ui: &Ui) -> Result<(), Failure> {
    let stats = &outcome.stats;
    let changes = format!(
        "{} new, {} changed, {} removed",
        count_text(stats.files_new),
        count_text(stats.files_changed),
        count_text(stats.files_removed)
    );
    if dry_run {
        let lines = [
            format!("would read {}: {changes}", bytes_text(stats.bytes_new)),
            "nothing was stored (--dry-run)".to_owned(),
        ];
        ui.summary(&lines, json!({ "dry_run": true, "stats": stats }));
        return Ok(());
    }
    let Some(snapshot) = &outcome.snapshot else { return Ok(()) };
    let overhead = match stats.bytes_stored {
        0 => String::new(),
        stored => format!(" ({:.2}x)", stats.bytes_on_servers as f64 / stored as f64),
    };
    let mut lines = vec![
        format!(
            "snapshot {:.8} saved: {}, {} in {} ({changes})",
            snapshot.id,
            plural(stats.files, "file"),
            bytes_text(stats.bytes),
            duration_text(outcome.took),
        ),
        format!(
            "added {} -> stored {}, on servers {}{overhead}",
            bytes_text(stats.bytes_new),
            bytes_text(stats.bytes_stored),
            bytes_text(stats.bytes_on_servers),
        ),
    ];
    // The snapshot is saved, whatever becomes of this question.
    let servers = vault::all_servers(&vault.coordinator).await.unwrap_or_default();
    let geometry = vault.geometry();
    let survives = match outcome.stripes_below_target {
        0 => format!(
            "survives the loss of any {} of {}; every shard synced",
            geometry.parity(),
            plural(servers.len() as u64, "server")
        ),
        short => format!(
            "{} of the vault lack shards that {geometry} asks for, and survive less until they are repaired",
            plural(short, "stripe")
        ),
    };
    lines.push(survives);
    let is_away = |server: &&ServerInfo| server.state != State::Up;
    let away: Vec<&str> = servers.iter().filter(is_away).map(|s| s.name.as_str()).collect();
    if !away.is_empty() {
        lines.push(format!("away just now: {}", away.join(", ")));
    }
    if stats.warnings > 0 {
        lines.push(format!(
            "{} could not be read, or changed meanwhile; see above",
            plural(stats.warnings, "name")
        ));
    }
    let fields = json!({
        "snapshot": snapshot.id,
        "parent": outcome.parent,
        "code": geometry.to_string(),
        "servers": servers.len(),
        "servers_away": away,
        "stripes": outcome.stripes,
        "stripes_below_target": outcome.stripes_below_target,
        "took_ms": outcome.took.as_millis() as u64,
        "stats": stats,
    });
    ui.summary(&lines, fields);
    Ok(())
}
