//! `arc verify`: the command line of checking.

use super::Global;
use crate::exit::{Exit, Failure};

/// Check that everything stored is there and whole.
///
/// Names what is damaged or missing, and says whether it can be repaired (exit 4), is out of reach
/// just now (7), or is lost (5).
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc verify
  arc verify latest --level data")]
pub struct Args {
    /// Only what this snapshot needs: an id, its first digits, or latest
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: Option<String>,
    /// How thorough to be
    #[arg(long, value_name = "LEVEL", default_value = "shards")]
    pub level: Level,
}

/// How thorough to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// Are enough shards where the catalog says? Nothing is read
    Map,
    /// Servers read and hash every shard
    #[default]
    Shards,
    /// Everything is fetched, decoded, opened, and compared with its ids
    Data,
}

/// See [`Args`].
pub async fn run(_args: Args, _global: &Global) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Failed, "not built yet"))
}
