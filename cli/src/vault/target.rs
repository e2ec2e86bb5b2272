//! Which vault is meant, and whether it is the one that this machine knows.

use std::path::Path;

use codec::keys::VaultRecord;
use server::client::CoordinatorClient;
use server::wire::VaultInfo;

use super::head;
use crate::config::{Config, Known, Location};
use crate::exit::{Exit, Failure};
use crate::ui::{escaped, path_text};

/// Which vault is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) location: Location,
    pub(super) name: Option<String>,
    pub(super) known: Option<Known>,
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
pub(super) fn select(config: &Config, wanted: Option<&str>) -> Result<Target, Failure> {
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
        Ok(dir) if super::local::Settings::exist(&dir) => {
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

/// Refuses another vault, or an older record, than was seen at this place before.
pub(super) fn recognise(target: &Target, record: &VaultRecord) -> Result<(), Failure> {
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
pub(super) async fn recognise_head(
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
