//! The vault a command works on: found by `--vault`, reached, opened.
//!
//! A vault is on a coordinator (a URL) or on local folders (a DIR with
//! `arc.toml`); for the latter the same services run inside this process while
//! the command does. Past this module nothing knows which of the two it is.

mod disks;
mod folders;
mod head;
mod local;
mod lock;
mod survival;
mod target;
mod upkeep;

use std::path::{Path, PathBuf};
use std::time::Duration;

use codec::Geometry;
use codec::keys::{VaultKeys, VaultRecord};
use server::auth::{Role, Token};
use server::client::CoordinatorClient;
use server::tls::Trust;
use server::wire::{PageQuery, ServerInfo, VaultInfo};

use crate::commands::Global;
use crate::config::{Config, Known, Location};
use crate::exit::{Exit, Failure};
use crate::secret;
use crate::ui::{Counters, Ui};
use local::Embedded;
use target::{Target, recognise, recognise_head, select};

pub use disks::{Joined, Place};
pub use survival::{any as survives_any, proposals, words as survival_words, zone_sizes};
pub use upkeep::{Upkeep, forget_replaced};

/// A vault whose coordinator was reached; its contents are still closed.
pub struct Connection {
    /// The coordinator, embedded or not.
    pub coordinator: CoordinatorClient,
    /// Where the vault is.
    pub location: Location,
    /// Its record.
    pub record: VaultRecord,
    /// Its name in the configuration.
    pub name: Option<String>,
    embedded: Option<Embedded>,
}

/// An open vault.
pub struct Vault {
    /// Its keys.
    pub keys: VaultKeys,
    /// Its record.
    pub record: VaultRecord,
    /// Its coordinator.
    pub coordinator: CoordinatorClient,
    /// Where it is.
    pub location: Location,
    embedded: Option<Embedded>,
}

impl Vault {
    /// One on a coordinator elsewhere.
    pub fn remote(
        keys: VaultKeys,
        record: VaultRecord,
        coordinator: CoordinatorClient,
        location: Location,
    ) -> Self {
        Self { keys, record, coordinator, location, embedded: None }
    }

    /// The code of its stripes.
    pub fn geometry(&self) -> Geometry {
        self.record.geometry
    }

    /// The folders of a local vault and its disks; none of one elsewhere.
    pub fn folders(&self) -> Vec<PathBuf> {
        self.embedded.as_ref().map(Embedded::folders).unwrap_or_default()
    }

    /// Repairs and scrubs what is due in a local vault, for `time` at most; one elsewhere does so by
    /// itself.
    pub async fn upkeep(
        &self,
        time: Duration,
        scrub_every: Duration,
        counters: &Counters,
    ) -> Option<Upkeep> {
        let embedded = self.embedded.as_ref()?;
        Some(embedded.upkeep(time, scrub_every, counters).await)
    }

    /// Stops what runs in this process for it.
    pub async fn close(self) {
        stop(self.embedded).await;
    }
}

impl Connection {
    /// Whether its services run in this process, and only while the command does.
    pub fn is_local(&self) -> bool {
        self.embedded.is_some()
    }

    /// The places of a local vault's disks.
    pub fn places(&self) -> Result<Vec<Place>, Failure> {
        Ok(self.embedded.as_ref().ok_or_else(|| no_disks(&self.location))?.places())
    }

    /// Makes the empty folder at `path` one more disk of a local vault.
    pub async fn add_disk(
        &mut self,
        path: &Path,
        name: Option<String>,
        ui: &Ui,
    ) -> Result<Joined, Failure> {
        let embedded = self.embedded.as_mut().ok_or_else(|| no_disks(&self.location))?;
        embedded.add_disk(path, name, ui).await
    }

    /// Gives the disk `name` of a local vault up, and takes the folder at `path` in its place.
    pub async fn replace_disk(
        &mut self,
        name: &str,
        path: &Path,
        ui: &Ui,
    ) -> Result<Joined, Failure> {
        let embedded = self.embedded.as_mut().ok_or_else(|| no_disks(&self.location))?;
        embedded.replace_disk(name, path, ui).await
    }

    /// Stops what runs in this process for it.
    pub async fn close(self) {
        stop(self.embedded).await;
    }

    /// Opens it with the passphrase or key file.
    pub async fn open(self, global: &Global) -> Result<Vault, Failure> {
        match secret::unlock(&self.record, &global.secret).await {
            Ok(keys) => Ok(self.opened(keys)),
            Err(failure) => {
                self.close().await;
                Err(failure)
            }
        }
    }

    fn opened(self, keys: VaultKeys) -> Vault {
        let Self { coordinator, location, record, embedded, .. } = self;
        Vault { keys, record, coordinator, location, embedded }
    }
}

fn no_disks(location: &Location) -> Failure {
    Failure::new(Exit::Usage, format!("the vault at {location} has storage servers, no disks"))
        .next("arc servers")
        .next("arc serve storage --help    # one more")
}

async fn stop(embedded: Option<Embedded>) {
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
}

/// Reaches and opens the vault that the options mean. One that is older than this machine has seen
/// it is refused.
pub async fn open(global: &Global) -> Result<Vault, Failure> {
    reach(global, Rollback::Refused).await?.open(global).await
}

/// Reaches and opens a vault whose catalog may be older than this machine has seen.
pub async fn open_to_rebuild(global: &Global) -> Result<Vault, Failure> {
    reach(global, Rollback::Mended).await?.open(global).await
}

/// Reaches the vault that the options mean, without its passphrase: to look at it, so that one that
/// is older than this machine has seen it is warned of.
pub async fn connect(global: &Global) -> Result<Connection, Failure> {
    reach(global, Rollback::Told).await
}

/// What is done about a vault that is older than this machine has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rollback {
    Refused,
    Told,
    /// The command is about that.
    Mended,
}

async fn reach(global: &Global, rollback: Rollback) -> Result<Connection, Failure> {
    let target = select(&Config::load()?, global.vault.as_deref())?;
    let embedded = match &target.location {
        Location::Dir(dir) => Some(Embedded::start(dir, global.lock_wait, &global.ui).await?),
        Location::Url(_) => None,
    };
    let coordinator = match &embedded {
        Some(embedded) => embedded.client()?,
        None => remote_client(&target)?,
    };
    let checked = async {
        let info = coordinator.vault().await?;
        let record = record_of(&info, &target.location)?;
        recognise(&target, &record)?;
        if rollback != Rollback::Mended {
            let seen = recognise_head(&target, &info, &coordinator, global.accept_rollback).await;
            match seen {
                Err(failure) if rollback == Rollback::Told && failure.code == Exit::WrongKey => {
                    let why = failure.why.join("; ");
                    global.ui.warn(&format!("{}: {why}", failure.what), None);
                }
                seen => seen?,
            }
        }
        Ok(record)
    };
    match checked.await {
        Ok(record) => {
            let Target { location, name, .. } = target;
            Ok(Connection { coordinator, location, record, name, embedded })
        }
        Err(failure) => {
            stop(embedded).await;
            Err(failure)
        }
    }
}

/// Reaches a coordinator with an owner token, whether it has a vault or not.
pub fn client_of_token(url: &str, token: &Token) -> Result<CoordinatorClient, Failure> {
    if token.role != Role::Owner {
        return Err(Failure::new(
            Exit::WrongKey,
            "this is a token for joining servers, not the owner's",
        )
        .next("use DIR/owner.token of the coordinator's folder"));
    }
    let trust = Trust::of(token)?;
    if url.starts_with("https://") && trust.is_none() {
        return Err(Failure::new(Exit::WrongKey, format!("{url} cannot be checked"))
            .why("the token is from before this coordinator spoke TLS: it has no fingerprint")
            .state("nothing was sent there")
            .next(format!("arc init {url} --token-file F    # its present owner.token")));
    }
    Ok(CoordinatorClient::new(url, &token.secret, &trust)?)
}

/// The record in a coordinator's answer.
pub fn record_of(info: &VaultInfo, location: &Location) -> Result<VaultRecord, Failure> {
    let Some(record) = &info.record else {
        return Err(Failure::new(
            Exit::NoVault,
            format!("the coordinator at {location} has no vault yet"),
        )
        .next(format!("arc init {location} --token-file F --code 4+2")));
    };
    let record = VaultRecord::decode(&record.0)?;
    if record.vault != info.vault {
        return Err(Failure::new(
            Exit::Failed,
            format!("{location} gives the record of another vault"),
        )
        .why(format!("the record is of {}, the coordinator of {}", record.vault, info.vault)));
    }
    Ok(record)
}

/// Why a local vault cannot be watched.
pub fn nothing_goes_on(flag: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{flag} is for a vault on a coordinator"))
        .why("the services of a local vault run inside each command, and nothing goes on between")
}

/// All servers of a vault: at most a few hundred rows.
pub async fn all_servers(coordinator: &CoordinatorClient) -> Result<Vec<ServerInfo>, Failure> {
    let mut servers = Vec::new();
    let mut query = PageQuery::default();
    loop {
        let page = coordinator.servers(&query).await?;
        servers.extend(page.rows);
        match page.next {
            // A service that repeats its place would keep us here for ever.
            Some(next) if query.after.as_ref() != Some(&next) => query.after = Some(next),
            _ => {
                servers.sort_by(|a, b| a.name.cmp(&b.name));
                return Ok(servers);
            }
        }
    }
}

/// Makes a vault on local folders; returns it open, with its services running.
pub async fn create_local(
    dir: &Path,
    geometry: Geometry,
    disks: Option<&[PathBuf]>,
    secret: codec::keys::Secret,
    global: &Global,
) -> Result<Vault, Failure> {
    let (embedded, settings) = Embedded::create(dir, geometry, disks, &global.ui).await?;
    let coordinator = embedded.client()?;
    let (keys, record) = create_record(&coordinator, geometry, secret).await?;
    settings.keep(dir)?;
    let location = Location::Dir(dir.to_owned());
    Ok(Vault { keys, record, coordinator, location, embedded: Some(embedded) })
}

/// What would make [`create_local`] refuse, found before a passphrase is asked for.
pub fn check_new_local(
    dir: &Path,
    geometry: Geometry,
    disks: Option<&[PathBuf]>,
) -> Result<(), Failure> {
    folders::check_new(dir, geometry, disks)
}

/// Gives a coordinator its vault record.
pub async fn create_record(
    coordinator: &CoordinatorClient,
    geometry: Geometry,
    secret: codec::keys::Secret,
) -> Result<(VaultKeys, VaultRecord), Failure> {
    use codec::keys::{Argon2Cost, VaultRandom};
    use server::auth::random;
    let vault = coordinator.vault().await?.vault;
    let random = VaultRandom {
        master: random()?,
        salt: random()?,
        nonce: random()?,
        private_key: random()?,
        private_nonce: random()?,
    };
    let make = move || VaultRecord::create(vault, geometry, &secret, Argon2Cost::DEFAULT, random);
    let (record, keys) = server::cpu::run(make).await?;
    coordinator.put_vault(record.encode()).await?;
    Ok((keys, record))
}

/// Has this machine refuse older records than this one from here on.
pub fn remember_record(vault: &Vault, record: &VaultRecord) -> Result<(), Failure> {
    let here = |known: &&mut Known| known.location == vault.location && known.vault == record.vault;
    Config::update(|config| {
        for known in config.vaults.values_mut().filter(here) {
            known.generation = known.generation.max(record.generation);
        }
    })
}

fn remote_client(target: &Target) -> Result<CoordinatorClient, Failure> {
    let token = target.known.as_ref().and_then(|known| known.token.as_deref());
    let (Some(token), Location::Url(url)) = (token, &target.location) else {
        return Err(Failure::new(
            Exit::WrongKey,
            format!("no token is known for {}", target.location),
        )
        .next(format!("arc init {} --token-file F", target.location)));
    };
    client_of_token(url, &token.parse()?)
}
