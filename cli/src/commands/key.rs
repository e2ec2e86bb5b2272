//! `arc key`: what opens the vault beside the passphrase.

use std::io::{self, IsTerminal as _};

use codec::keys::RecoveryKey;
use dialoguer::Confirm;
use serde_json::json;
use server::auth::random;
use server::wire::VaultInfo;

use super::Global;
use crate::exit::{Exit, Failure};
use crate::ui::{Ui, plural};
use crate::vault::{self, Vault};

/// Keys that open the vault beside its passphrase.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with keys.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Action {
    Export(ExportArgs),
}

/// Make a recovery key, and print it once.
///
/// It opens the vault as the passphrase does: write it down and keep it away from the machines. To
/// use it, type it where the passphrase is asked for, or name a file with it in
/// ARC_RECOVERY_KEY_FILE. A vault has one at most.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc key export
  arc key export --replace
  ARC_RECOVERY_KEY_FILE=key.txt arc pull latest --to ./restored")]
pub struct ExportArgs {
    /// Where there is a recovery key already, make another in its place without asking
    #[arg(long)]
    pub replace: bool,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let Action::Export(args) = args.action;
    let vault = vault::open(global).await?;
    let exported = export(&vault, &args, &global.ui).await;
    vault.close().await;
    exported
}

async fn export(vault: &Vault, args: &ExportArgs, ui: &Ui) -> Result<Exit, Failure> {
    let replaces = vault.record.has_recovery_key();
    if replaces && !args.replace {
        confirm().await?;
    }
    let key = RecoveryKey::new(random()?);
    let text = key.to_text();
    let mut record = vault.record.clone();
    record.set_recovery_key(&vault.keys, key, random()?, random()?)?;
    let put = vault.coordinator.put_vault(record.encode()).await;
    let VaultInfo { record_on: on, servers, .. } = put.map_err(|error| {
        Failure::from(error)
            .state("no recovery key was printed; if the answer alone was lost, there is one that nobody knows")
            .next("arc key export --replace")
    })?;
    match ui.is_json() {
        true => ui.json("recovery_key", json!({ "key": *text })),
        false => ui.data(&*text),
    }
    if ui.stdout_closed() {
        return Err(Failure::new(Exit::Failed, "the recovery key could not be printed")
            .state("the vault has it all the same, and nobody knows it")
            .next("arc key export --replace"));
    }
    vault::remember_record(vault, &record)?;
    ui.say("Write it down and keep it away from the machines: it opens the vault, and is not shown again.");
    if replaces {
        ui.say("The recovery key before it opens the vault no more.");
    }
    if on < servers {
        let missing = plural(u64::from(servers - on), "server");
        ui.warn(&format!("{missing} that did not answer will have it once it is back"), None);
    }
    ui.json("summary", json!({ "replaced": replaces, "servers": servers, "record_on": on }));
    Ok(Exit::Done)
}

/// Asks on a thread of its own, so that a signal is heard meanwhile.
async fn confirm() -> Result<(), Failure> {
    let refused = |why: &str| {
        Failure::new(Exit::Usage, "the vault has a recovery key already")
            .why(why)
            .state("nothing was changed: it opens the vault as before")
            .next("arc key export --replace    makes another in its place")
    };
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(refused("there is no terminal to ask on"));
    }
    let question = || {
        Confirm::new()
            .with_prompt("The vault has a recovery key already. Make another, and retire that one?")
            .default(false)
            .interact()
    };
    match tokio::task::spawn_blocking(question).await {
        Ok(Ok(true)) => Ok(()),
        _ => Err(refused("another one was not wanted")),
    }
}
