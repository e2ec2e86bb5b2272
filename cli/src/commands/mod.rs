//! The command line: one file per command with its arguments, their help, and `run`.
//!
//! Every flag can also come from the environment as `ARC_` and its name in
//! capitals; secrets come from there or from files, never from argv.

pub mod catalog;
pub mod demo;
pub mod explain;
pub mod init;
pub mod key;
pub mod ls;
pub mod pull;
pub mod push;
pub mod quantity;
pub mod repair;
pub mod repair_scan;
pub mod rescue;
pub mod serve;
pub mod servers;
pub mod snapshots;
pub mod status;
pub mod verify;

mod compare;
mod settings;

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, CommandFactory as _, FromArgMatches as _};

use crate::exit::{Exit, Failure};
use crate::secret::SecretArgs;
use crate::ui::{self, Ui};

/// An erasure-coded archive on a handful of machines or disks.
///
/// A vault is protected by a code such as 4+2: every pack of data is cut into 4 shards, 2 parity
/// shards are added, and the 6 go to 6 different servers. Any 2 of them may be lost. Everything is
/// compressed and encrypted before it leaves this machine.
#[derive(clap::Parser)]
#[command(name = "arc", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "First steps:
  arc demo                            the whole thing once, with a folder of yours
  arc init ./vault --code 4+2         a vault on local folders or disks
  arc push ~/Documents                save
  arc pull latest --to ./restored     get it back

Every option can also be given as ARC_NAME in the environment, as in ARC_VAULT or ARC_LOCK_WAIT.
The passphrase comes from a prompt, ARC_PASSPHRASE, ARC_PASSPHRASE_FILE, ARC_PASSPHRASE_COMMAND
or a key file, never from the command line; the recovery key opens as well (arc key export).")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How much to say.
    #[command(flatten)]
    pub ui: ui::Options,
    /// The vault: a folder, a coordinator's URL, or a name; else the one made first
    #[arg(long, global = true, value_name = "DIR|URL|NAME", help_heading = "Global options")]
    pub vault: Option<String>,
    /// Where the secret comes from.
    #[command(flatten)]
    pub secret: SecretArgs,
    /// Wait so long for another command on a local vault, then give up [default: without end]
    #[arg(long, global = true, value_name = "TIME", value_parser = quantity::parse_duration, help_heading = "Global options")]
    pub lock_wait: Option<Duration>,
    /// Log to stderr: error, warn, info, debug or a filter [default: info for services]
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Global options")]
    pub log: Option<String>,
}

/// The commands; each one's text for `--help` stands at its arguments.
#[derive(clap::Subcommand)]
pub enum Command {
    Init(init::Args),
    Push(push::Args),
    Pull(pull::Args),
    Verify(verify::Args),
    Rescue(rescue::Args),
    RepairScan(repair_scan::Args),
    Repair(repair::Args),
    Snapshots(snapshots::Args),
    Ls(ls::Args),
    Explain(explain::Args),
    Status(status::Args),
    Servers(servers::Args),
    Key(key::Args),
    Catalog(catalog::Args),
    Serve(serve::Args),
    Demo(demo::Args),
}

impl Command {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Init(_) => "init",
            Self::Push(_) => "push",
            Self::Pull(_) => "pull",
            Self::Verify(_) => "verify",
            Self::Rescue(_) => "rescue",
            Self::RepairScan(_) => "repair-scan",
            Self::Repair(_) => "repair",
            Self::Snapshots(_) => "snapshots",
            Self::Ls(_) => "ls",
            Self::Explain(_) => "explain",
            Self::Status(_) => "status",
            Self::Servers(_) => "servers",
            Self::Key(_) => "key",
            Self::Catalog(_) => "catalog",
            Self::Serve(_) => "serve",
            Self::Demo(_) => "demo",
        }
    }

    /// Whether stdout carries the contents of a file: nothing else may go there.
    pub fn takes_stdout(&self) -> bool {
        matches!(self, Self::Pull(args) if args.takes_stdout())
    }
}

/// What all commands share.
#[derive(Clone)]
pub struct Global {
    /// The mouth.
    pub ui: Ui,
    /// `--vault`.
    pub vault: Option<String>,
    /// What opens it.
    pub secret: SecretArgs,
    /// `--lock-wait`; `None` waits without end.
    pub lock_wait: Option<Duration>,
}

/// Reads the command line, the environment and, for `serve`, the settings file.
pub fn parse(argv: Vec<OsString>) -> Result<Cli, clap::Error> {
    let command = command();
    let matches = command.clone().try_get_matches_from(&argv)?;
    let matches = match settings::from_file(&command, &matches)? {
        more if more.is_empty() => matches,
        more => command.try_get_matches_from(argv.into_iter().chain(more))?,
    };
    Cli::from_arg_matches(&matches)
}

/// Runs it.
pub async fn run(cli: Cli, ui: &Ui) -> Result<Exit, Failure> {
    let Cli { command, vault, secret, lock_wait, .. } = cli;
    let global = Global { ui: ui.clone(), vault, secret, lock_wait };
    match command {
        Command::Init(args) => init::run(args, &global).await,
        Command::Push(args) => push::run(args, &global).await,
        Command::Pull(args) => pull::run(args, &global).await,
        Command::Verify(args) => verify::run(args, &global).await,
        Command::Rescue(args) => rescue::run(args, &global).await,
        Command::RepairScan(args) => repair_scan::run(args, &global).await,
        Command::Repair(args) => repair::run(args, &global).await,
        Command::Snapshots(args) => snapshots::run(args, &global).await,
        Command::Explain(args) => explain::run(args, &global).await,
        Command::Ls(args) => ls::run(args, &global).await,
        Command::Status(args) => status::run(args, &global).await,
        Command::Key(args) => key::run(args, &global).await,
        Command::Servers(args) => servers::run(args, &global).await,
        Command::Catalog(args) => catalog::run(args, &global).await,
        Command::Serve(args) => serve::run(args, &global).await,
        Command::Demo(args) => demo::run(args, &global).await,
    }
}

/// The whole command line, with exit codes in every `--help` and an `ARC_` variable for every flag.
fn command() -> clap::Command {
    finished(Cli::command())
}

fn finished(command: clap::Command) -> clap::Command {
    let own_help = command.get_after_help().map(|text| format!("{text}\n\n")).unwrap_or_default();
    command
        .after_long_help(own_help + &Exit::help())
        .mut_args(with_variable)
        .mut_subcommands(finished)
}

fn with_variable(arg: clap::Arg) -> clap::Arg {
    let Some(long) = arg.get_long() else { return arg };
    match arg.get_action() {
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version => arg,
        // How often -v was given is no value.
        ArgAction::Count => arg,
        action => {
            let is_switch = matches!(action, ArgAction::SetTrue);
            let name = format!("ARC_{}", long.replace('-', "_").to_uppercase());
            let arg = arg.env(name).hide_env(true);
            // ARC_JSON=0 and ARC_JSON= mean no.
            if is_switch { arg.value_parser(FalseyValueParser::new()) } else { arg }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        parse(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_lists_the_exit_codes_and_every_flag_has_a_variable() {
        fn check(command: &mut clap::Command) {
            let help = command.render_long_help().to_string();
            assert!(help.contains("Exit codes"), "{}", command.get_name());
            for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
                let id = arg.get_id().as_str();
                let exempt = ["help", "version", "verbose"].contains(&id);
                assert!(exempt || arg.get_env().is_some(), "{id}");
            }
            command.get_subcommands_mut().filter(|c| c.get_name() != "help").for_each(check);
        }
        let mut command = command();
        command.build();
        check(&mut command);
    }

    #[test]
    fn a_secret_cannot_be_given_in_argv() {
        assert!(parsed("arc status --passphrase x").is_err());
        assert!(parsed("arc init http://h:1 --token x").is_err());
    }

    #[test]
    fn sizes_and_durations_are_understood() {
        let cli =
            parsed("arc push /home -t a --tag b --memory 128M --wait-servers 30m --lock-wait 0");
        let cli = cli.unwrap();
        assert_eq!(cli.lock_wait, Some(Duration::ZERO));
        let Command::Push(args) = cli.command else { panic!("not push") };
        assert_eq!(args.memory, Some(128 << 20));
        assert_eq!(args.wait_servers, Some(Duration::from_secs(1800)));
        assert_eq!(args.tags, ["a", "b"]);
    }
}
