//! `arc ls`: the command line of looking into a snapshot.

use std::ffi::OsString;

use super::Global;
use crate::exit::{Exit, Failure};

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
pub async fn run(_args: Args, _global: &Global) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Failed, "not built yet"))
}
