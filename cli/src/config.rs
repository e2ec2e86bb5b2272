//! The vaults that this machine knows: `arc/config.toml` in the XDG config folder.
//!
//! The file holds tokens, so only its user may read it. It is replaced as a
//! whole, durably, under a lock.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use codec::VaultId;
use codec::fact::Head;
use etcetera::base_strategy::{BaseStrategy as _, Xdg};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

/// A config file longer than this is none of ours.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Where a vault is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Location {
    /// A coordinator.
    Url(String),
    /// A folder of a vault on local disks; absolute.
    Dir(PathBuf),
}

impl Location {
    /// Whether `text` is to be read as a URL.
    pub fn is_url(text: &str) -> bool {
        text.starts_with("http://") || text.starts_with("https://")
    }
}

impl From<String> for Location {
    fn from(text: String) -> Self {
        if Self::is_url(&text) {
            Self::Url(text.trim_end_matches('/').to_owned())
        } else {
            Self::Dir(text.into())
        }
    }
}

impl From<Location> for String {
    fn from(location: Location) -> Self {
        match location {
            Location::Url(url) => url,
            Location::Dir(dir) => dir.to_string_lossy().into_owned(),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::Dir(dir) => f.write_str(&crate::ui::path_text(dir)),
        }
    }
}

/// A vault that `init` made or connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Where it is.
    pub location: Location,
    /// The owner token, for a vault on a coordinator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The vault that was found there first.
    pub vault: VaultId,
    /// The highest generation of its record that was seen: an older one is refused.
    pub generation: u64,
    /// The end of the chain of stamps, the farthest that was seen: one that does not go on from
    /// there is refused. What stands there and is none counts as nothing seen.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "head_or_none")]
    pub head: Option<Head>,
}

fn head_or_none<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Head>, D::Error> {
    Ok(toml::Value::deserialize(d)?.try_into().ok())
}

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The vault that is meant when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// The vaults by name.
    #[serde(default)]
    pub vaults: BTreeMap<String, Known>,
}

impl Config {
    /// Reads the file; without one there are no vaults.
    pub fn load() -> Result<Self, Failure> {
        Self::read(&folder()?.join("config.toml"))
    }

    /// Changes the file: reads it under a lock, lets `change` work on it, replaces it.
    pub fn update<T>(change: impl FnOnce(&mut Self) -> T) -> Result<T, Failure> {
        Self::update_in(&folder()?, change)
    }

    fn update_in<T>(folder: &Path, change: impl FnOnce(&mut Self) -> T) -> Result<T, Failure> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(Failure::io("cannot make", folder))?;
        let lock_path = folder.join("config.lock");
        let lock = private().open(&lock_path).map_err(Failure::io("cannot open", &lock_path))?;
        // Held for milliseconds only: no need for a bound.
        lock.lock().map_err(Failure::io("cannot lock", &lock_path))?;
        let path = folder.join("config.toml");
        let mut config = Self::read(&path)?;
        let before = config.clone();
        let result = change(&mut config);
        if config != before {
            let text = toml::to_string(&config).map_err(|e| {
                Failure::new(Exit::Failed, "cannot write the configuration").why(e.to_string())
            })?;
            write_durably(&path, text.as_bytes()).map_err(Failure::io("cannot write", &path))?;
        }
        Ok(result)
    }

    fn read(path: &Path) -> Result<Self, Failure> {
        match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Ok(metadata) if metadata.len() > CONFIG_BYTES_MAX => {
                return Err(not_ours(path, "it is too long"));
            }
            _ => {}
        }
        let text = fs::read_to_string(path).map_err(Failure::io("cannot read", path))?;
        toml::from_str(&text).map_err(|e| not_ours(path, e.message()))
    }

    /// The vault of that name, with the name.
    pub fn named(&self, name: &str) -> Option<(&str, &Known)> {
        self.vaults.get_key_value(name).map(|(name, known)| (name.as_str(), known))
    }

    /// The vault at that place.
    pub fn at(&self, location: &Location) -> Option<(&str, &Known)> {
        let found = self.vaults.iter().find(|(_, known)| known.location == *location);
        found.map(|(name, known)| (name.as_str(), known))
    }

    /// The vault that is meant when none is named: the default, or the only one.
    pub fn meant(&self) -> Option<(&str, &Known)> {
        match &self.default {
            Some(name) => self.named(name),
            None => match self.vaults.len() {
                1 => self.vaults.iter().next().map(|(name, known)| (name.as_str(), known)),
                _ => None,
            },
        }
    }

    /// Remembers a vault under `wish` or, when another has that name, under `wish-2`, …; what
    /// was known of the same place is replaced. The first one becomes the default.
    /// The stamps that were seen of the same vault stay.
    pub fn remember(&mut self, wish: &str, mut known: Known) -> String {
        let here = self.at(&known.location);
        let same = here.filter(|(_, before)| before.vault == known.vault);
        known.head = known.head.or(same.and_then(|(_, before)| before.head));
        let here = here.map(|(name, _)| name.to_owned());
        let name = here.unwrap_or_else(|| self.free_name(wish));
        if self.vaults.is_empty() {
            self.default = Some(name.clone());
        }
        self.vaults.insert(name.clone(), known);
        name
    }

    fn free_name(&self, wish: &str) -> String {
        let numbered = |n: u32| if n == 1 { wish.to_owned() } else { format!("{wish}-{n}") };
        let free = (1..).map(numbered).find(|name| !self.vaults.contains_key(name));
        free.unwrap_or_else(|| wish.to_owned())
    }
}

fn not_ours(path: &Path, why: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        format!("{} is not a configuration of arc", crate::ui::path_text(path)),
    )
    .why(why)
    .next("mend it, or move it away and run `arc init` again: the vault itself is not touched")
}

/// `$XDG_CONFIG_HOME/arc`, or `~/.config/arc`.
fn folder() -> Result<PathBuf, Failure> {
    let dirs = Xdg::new().map_err(|e| {
        Failure::new(Exit::Usage, "no home folder to keep the configuration in")
            .why(e.to_string())
            .next("set HOME or XDG_CONFIG_HOME")
    })?;
    Ok(dirs.config_dir().join("arc"))
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options
}

/// Replaces the file at `path`: after this returns, a crash leaves the new contents; before,
/// the old ones. Only its user may read it.
pub fn write_durably(path: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = folder.join(name);
    let written = private().truncate(true).open(&temporary).and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&temporary, path));
    if renamed.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    renamed.and_then(|()| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn known(location: &str) -> Known {
        Known {
            location: location.to_owned().into(),
            token: Location::is_url(location).then(|| "arc1.owner.x".into()),
            vault: VaultId([7; 16]),
            generation: 3,
            head: None,
        }
    }

    #[test]
    fn what_was_remembered_is_read_back_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("arc");
        let name =
            Config::update_in(&folder, |c| c.remember("home", known("http://h:7070/"))).unwrap();
        assert_eq!(name, "home");
        Config::update_in(&folder, |c| c.remember("disks", known("/srv/vault"))).unwrap();
        let path = folder.join("config.toml");
        let config = Config::read(&path).unwrap();
        assert_eq!(config.named("home").unwrap().1, &known("http://h:7070"));
        assert_eq!(config.named("disks").unwrap().1, &known("/srv/vault"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "no temporary file is left: {left:?}");
    }

    #[test]
    fn the_stamps_that_were_seen_are_kept_unless_they_are_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("arc");
        let path = folder.join("config.toml");
        let head = Some(Head { number: 7, hash: codec::Digest([0xab; 32]) });
        let seen = Known { head, ..known("/srv/vault") };
        Config::update_in(&folder, |c| c.remember("v", seen)).unwrap();
        // Made known once more, as by `arc init`.
        Config::update_in(&folder, |c| c.remember("v", known("/srv/vault"))).unwrap();
        assert_eq!(Config::read(&path).unwrap().vaults["v"].head, head);
        let other = Known { vault: VaultId([8; 16]), ..known("/srv/vault") };
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("abababab", "?")).unwrap();
        assert_eq!(Config::read(&path).unwrap().vaults["v"], known("/srv/vault"));
        fs::write(&path, text).unwrap();
        Config::update_in(&folder, |c| c.remember("v", other)).unwrap();
        assert_eq!(Config::read(&path).unwrap().vaults["v"].head, None);
    }

    #[test]
    fn the_first_vault_is_meant_until_another_is_named() {
        let mut config = Config::default();
        assert_eq!(config.meant(), None);
        config.remember("a", known("/a"));
        config.remember("b", known("/b"));
        assert_eq!(config.meant().unwrap().0, "a");
        config.default = None;
        assert_eq!(config.meant(), None);
        config.vaults.remove("a");
        assert_eq!(config.meant().unwrap().0, "b");
    }

    #[test]
    fn one_place_has_one_name_and_one_name_has_one_place() {
        let mut config = Config::default();
        assert_eq!(config.remember("v", known("/a")), "v");
        assert_eq!(config.remember("v", known("/b")), "v-2");
        assert_eq!(config.remember("other", known("/a")), "v");
        assert_eq!(config.vaults.len(), 2);
    }

    #[test]
    fn a_file_that_is_not_ours_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "vaults = 3").unwrap();
        let failure = Config::update_in(dir.path(), |c| c.remember("v", known("/a"))).unwrap_err();
        assert_eq!(failure.code, Exit::Usage);
        assert_eq!(fs::read_to_string(&path).unwrap(), "vaults = 3");
    }
}
