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
use crate::ui::{Counters, Ui, escaped, path_text};
use local::Embedded;

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

/// Which vault is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    location: Location,
    name: Option<String>,
    known: Option<Known>,
}

impl Target {
    fn known((name, known): (&str, &Known)) -> Self {
        Self {
            location: known.location.clone(),
            name: Some(name.to_owned()),
            known: Some(known.clone()),
        }
    }
}

/// `wanted` is a URL, a name that `init` remembered, or a DIR; `None` the default.
fn select(config: &Config, wanted: Option<&str>) -> Result<Target, Failure> {
    let Some(wanted) = wanted else {
        return config.meant().map(Target::known).ok_or_else(|| none_meant(config));
    };
    if Location::is_url(wanted) {
        let location = Location::from(wanted.to_owned());
        return config.at(&location).map(Target::known).ok_or_else(|| {
            Failure::new(Exit::NoVault, format!("{location} is not known on this machine"))
                .next(format!("arc init {location} --token-file F"))
        });
    }
    if let Some(named) = config.named(wanted).filter(|_| !wanted.contains('/')) {
        return Ok(Target::known(named));
    }
    let dir = Path::new(wanted);
    match dir.canonicalize() {
        Ok(dir) if local::Settings::exist(&dir) => {
            let location = Location::Dir(dir);
            let known = config.at(&location).map(Target::known);
            Ok(known.unwrap_or(Target { location, name: None, known: None }))
        }
        _ => Err(Failure::new(Exit::NoVault, format!("no vault {}", path_text(dir)))
            .why("it is neither a name that this machine knows nor a folder with arc.toml")
            .why(known_names(config))
            .next("arc init DIR --code 4+2    # makes one on local folders")),
    }
}

fn none_meant(config: &Config) -> Failure {
    let failure = match config.vaults.len() {
        0 => Failure::new(Exit::NoVault, "there is no vault yet"),
        _ => Failure::new(Exit::NoVault, "which vault? There are several and no default")
            .why(known_names(config))
            .next("--vault NAME, or ARC_VAULT=NAME"),
    };
    failure
        .next("arc init DIR --code 4+2                     # makes one on local folders or disks")
        .next("arc init URL --token-file F --code 4+2      # makes one on a running coordinator")
}

fn known_names(config: &Config) -> String {
    match config.vaults.len() {
        0 => "this machine knows no vault".into(),
        _ => {
            let names: Vec<_> = config.vaults.keys().map(String::as_str).collect();
            format!("this machine knows {}", names.join(", "))
        }
    }
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

/// Refuses another vault, or an older record, than was seen at this place before.
fn recognise(target: &Target, record: &VaultRecord) -> Result<(), Failure> {
    let (Some(name), Some(known)) = (&target.name, &target.known) else { return Ok(()) };
    if known.vault != record.vault {
        return Err(Failure::new(
            Exit::WrongKey,
            format!("{} has another vault than before", target.location),
        )
        .why(format!("it was {:.8}, now it is {:.8}", known.vault, record.vault))
        .state("nothing was read or changed"));
    }
    if record.generation < known.generation {
        return Err(Failure::new(
            Exit::WrongKey,
            format!("the vault at {} was rolled back", target.location),
        )
        .why(format!(
            "its record has generation {}, this machine has seen {}",
            record.generation, known.generation
        ))
        .state("nothing was read or changed"));
    }
    if record.generation > known.generation {
        Config::update(|config| {
            if let Some(known) = config.vaults.get_mut(name) {
                known.generation = known.generation.max(record.generation);
            }
        })?;
    }
    Ok(())
}

/// Refuses a vault whose stamps do not go on from those that were seen, and remembers its own.
async fn recognise_head(
    target: &Target,
    info: &VaultInfo,
    coordinator: &CoordinatorClient,
    accept: bool,
) -> Result<(), Failure> {
    let (Some(name), Some(known)) = (&target.name, &target.known) else { return Ok(()) };
    let given = info.head.unwrap_or_default();
    if known.head == Some(given) {
        return Ok(());
    }
    if !accept {
        let place = target.location.to_string();
        head::check(info.vault, known.head, given, coordinator, &place).await.map_err(
            |failure| match &info.catalog_old {
                Some(why) => failure.why(escaped(why.as_bytes())),
                None => failure,
            },
        )?;
    }
    Config::update(|config| {
        if let Some(known) = config.vaults.get_mut(name).filter(|k| k.vault == info.vault) {
            // Another command may have seen more meanwhile.
            let is_newer = known.head.is_none_or(|seen| seen.number < given.number);
            if accept || is_newer {
                known.head = Some(given);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use codec::VaultId;

    use super::*;

    fn known(location: Location) -> Known {
        Known { location, token: None, vault: VaultId([1; 16]), generation: 5, head: None }
    }

    #[test]
    fn a_vault_is_found_by_name_url_and_folder() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap();
        let mut config = Config::default();
        let no_vault = |config: &Config, wanted| select(config, wanted).unwrap_err().code;
        assert_eq!(no_vault(&config, None), Exit::NoVault);
        config.remember("far", known(Location::Url("http://h:1".into())));
        config.remember("near", known(Location::Dir(folder.clone())));
        let name = |wanted| select(&config, wanted).map(|target| target.name);
        assert_eq!(name(None), Ok(Some("far".into())));
        assert_eq!(name(Some("near")), Ok(Some("near".into())));
        assert_eq!(name(Some("http://h:1/")), Ok(Some("far".into())));
        assert_eq!(no_vault(&config, Some("http://other:1")), Exit::NoVault);
        let path = folder.to_str().unwrap();
        assert_eq!(no_vault(&config, Some(path)), Exit::NoVault);
        std::fs::write(folder.join("arc.toml"), "").unwrap();
        assert_eq!(name(Some(path)), Ok(Some("near".into())));
    }

    #[test]
    fn another_vault_or_an_older_record_is_refused() {
        use codec::keys::{Argon2Cost, Secret, VaultRandom};
        let random = VaultRandom {
            master: [1; 32],
            salt: [2; 32],
            nonce: [3; 12],
            private_key: [4; 32],
            private_nonce: [5; 12],
        };
        let cheap = Argon2Cost { memory_kib: 8, passes: 1, lanes: 1 };
        let secret = Secret::KeyFile(vec![9; 32].into());
        let code = "4+2".parse().unwrap();
        let (mut record, _) =
            VaultRecord::create(VaultId([1; 16]), code, &secret, cheap, random).unwrap();
        let location = Location::Url("http://h:1".into());
        let target = Target {
            location: location.clone(),
            name: Some("far".into()),
            known: Some(known(location)),
        };
        record.generation = 5;
        assert!(recognise(&target, &record).is_ok());
        record.generation = 4;
        assert_eq!(recognise(&target, &record).unwrap_err().code, Exit::WrongKey);
        record.generation = 5;
        record.vault = VaultId([2; 16]);
        assert_eq!(recognise(&target, &record).unwrap_err().code, Exit::WrongKey);
    }
}
