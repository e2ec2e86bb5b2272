//! `arc push`: the command line of saving.

use std::path::PathBuf;
use std::time::Duration;

use super::Global;
use super::quantity::{parse_bytes, parse_duration};
use crate::exit::{Exit, Failure};

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
    /// Wait so long for servers that are away before going on without them
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub wait_servers: Option<Duration>,
    /// Memory to work in, as in 256M [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub memory: Option<u64>,
    /// Size of a pack, at least 1M [default: 8M to 64M, by --memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub pack_size: Option<u64>,
}

/// See [`Args`].
pub async fn run(_args: Args, _global: &Global) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Failed, "not built yet"))
}
