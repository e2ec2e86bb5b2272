//! `arc pull`: the command line of getting things back.

use std::ffi::OsString;
use std::path::PathBuf;

use super::Global;
use crate::exit::{Exit, Failure};

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
    /// What to do with files that are there already
    #[arg(long, value_name = "WHEN", default_value = "never")]
    pub overwrite: Overwrite,
}

/// What to do with files that are there already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Overwrite {
    /// Refuse to begin when one is in the way
    #[default]
    Never,
    /// Replace those that differ in size or time
    IfChanged,
    /// Replace them all
    Always,
}

/// See [`Args`].
pub async fn run(_args: Args, _global: &Global) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Failed, "not built yet"))
}
