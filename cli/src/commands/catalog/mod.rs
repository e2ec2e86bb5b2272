//! `arc catalog`: the coordinator's own records.

mod backup;
mod rebuild;

use super::Global;
use crate::exit::{Exit, Failure};

/// The coordinator's own records: its catalog and keys.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with them.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Action {
    Backup(backup::Args),
    Rebuild(rebuild::Args),
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    match args.action {
        Action::Backup(args) => backup::run(args, global).await,
        Action::Rebuild(args) => rebuild::run(args, global).await,
    }
}
