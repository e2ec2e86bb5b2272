//! `arc snapshots`: the command line of listing snapshots.

use super::Global;
use crate::exit::{Exit, Failure};

/// List the snapshots, newest first.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Args {}

/// See [`Args`].
pub async fn run(_args: Args, _global: &Global) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Failed, "not built yet"))
}
