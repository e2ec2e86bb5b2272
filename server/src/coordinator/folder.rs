//! The coordinator's folder: what lies beside the catalog, and how it is written.
//!
//! `lock` keeps a second coordinator out, `keys/ticket.key` signs tickets, `keys/ca.pem`
//! certificates, `owner.token` and `join.token` are what people hand on. Every write is durable before it counts.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::auth::{self, Role, Token};
use crate::tls::Authority;
use crate::{Error, Result};

/// A folder that this process alone works on, as long as this value lives.
pub(super) struct Folder {
    path: PathBuf,
    lock: File,
}

impl Folder {
    /// Takes the folder, making it if need be.
    pub(super) fn take(path: &Path) -> Result<Self> {
        make_private(path)?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(Error::io("cannot open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), lock }),
            Err(TryLockError::WouldBlock) => Err(Error::Config(format!(
                "another coordinator runs on {}; stop it first, or use it",
                path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(Error::io("cannot lock", lock_path)(error)),
        }
    }

    /// Lets others have it.
    pub(super) fn release(&self) {
        // Closing the file does the same, should this fail.
        let _ = self.lock.unlock();
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The database's path.
    pub(super) fn catalog(&self) -> PathBuf {
        self.path.join("catalog.db")
    }

    /// The seed of the ticket key; made before the catalog is, never after.
    pub(super) fn ticket_seed(&self) -> Result<[u8; 32]> {
        let keys = self.path.join("keys");
        let path = keys.join("ticket.key");
        match fs::read(&path) {
            Ok(bytes) => bytes.try_into().map_err(|bytes: Vec<u8>| {
                let len = bytes.len();
                Error::Config(format!("{} has {len} bytes, not 32", path.display()))
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if self.catalog().exists() {
                    return Err(Error::Config(format!(
                        "{} is missing, and the storage servers take no other key's tickets; \
                         put it back from where DIR/keys is backed up",
                        path.display()
                    )));
                }
                make_private(&keys)?;
                let seed = auth::random::<32>()?;
                write_durably(&path, &seed)?;
                Ok(seed)
            }
            Err(error) => Err(Error::io("cannot read", path)(error)),
        }
    }

    /// The CA, which is made where there was none yet. Where tokens name one, it must be that:
    /// nobody would believe another.
    pub(super) fn authority(&self) -> Result<Authority> {
        let keys = self.path.join("keys");
        let path = keys.join("ca.pem");
        let not = |what: &str| {
            Error::Config(format!(
                "{} {what}, and clients and servers trust no other CA; put it back from where \
                 DIR/keys is backed up, or delete it, owner.token and join.token to begin with a \
                 new one",
                path.display()
            ))
        };
        let mut named = Vec::new();
        for role in [Role::Owner, Role::Join] {
            let ca = self.read_token(role)?.map(|token| token.ca);
            named.extend(ca.filter(|ca| !ca.is_empty()));
        }
        match fs::read(&path) {
            Ok(bytes) => {
                let authority = Authority::from_pem(&bytes).ok_or_else(|| not("is damaged"))?;
                let pin = authority.fingerprint().to_string();
                match named.iter().all(|ca| ca.contains(&pin)) {
                    true => Ok(authority),
                    false => Err(not("is not the one that the tokens name")),
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if !named.is_empty() {
                    return Err(not("is missing"));
                }
                make_private(&keys)?;
                let authority = Authority::generate()?;
                write_durably(&path, authority.to_pem().as_bytes())?;
                Ok(authority)
            }
            Err(error) => Err(Error::io("cannot read", path)(error)),
        }
    }

    /// The token of a role, if its file is there.
    pub(super) fn read_token(&self, role: Role) -> Result<Option<Token>> {
        let path = self.token_path(role);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("cannot read", path)(error)),
        };
        match text.parse::<Token>() {
            Ok(token) if token.role == role => Ok(Some(token)),
            _ => Err(Error::Config(format!(
                "{} has no such token in it; delete it to have a new one made",
                path.display()
            ))),
        }
    }

    /// Writes a token down, unless it stands there already.
    pub(super) fn write_token(&self, token: &Token) -> Result<()> {
        if self.read_token(token.role)?.as_ref() == Some(token) {
            return Ok(());
        }
        write_durably(&self.token_path(token.role), format!("{token}\n").as_bytes())
    }

    fn token_path(&self, role: Role) -> PathBuf {
        self.path.join(match role {
            Role::Owner => "owner.token",
            Role::Join => "join.token",
        })
    }
}

/// Makes a folder that only its owner can enter.
fn make_private(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io("cannot make", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Puts `bytes` at `path`, readable for its owner only: all of them or what was there before.
fn write_durably(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(Error::io("cannot write", path))?;
    path.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(path: &Path) -> Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path).and_then(|f| f.sync_all()).map_err(Error::io("cannot sync", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn one_coordinator_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::take(dir.path()).unwrap();
        let error = Folder::take(dir.path()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("another coordinator runs on"), "{error}");
        first.release();
        Folder::take(dir.path()).unwrap();
    }

    #[test]
    fn the_ticket_key_is_made_once_and_missed_later() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::take(&dir.path().join("data")).unwrap();
        let seed = folder.ticket_seed().unwrap();
        assert_eq!(folder.ticket_seed().unwrap(), seed);
        let path = dir.path().join("data/keys/ticket.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(folder.catalog(), b"").unwrap();
        fs::remove_file(path).unwrap();
        assert!(folder.ticket_seed().unwrap_err().to_string().contains("is missing"));
    }

    #[test]
    fn the_ca_is_made_once_for_old_folders_too_and_missed_once_tokens_name_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::take(&dir.path().join("data")).unwrap();
        fs::write(folder.catalog(), b"").unwrap();
        let token = Token::generate(Role::Owner, "http://127.0.0.1:1".into()).unwrap();
        folder.write_token(&token).unwrap();
        let made = folder.authority().unwrap().fingerprint();
        assert_eq!(folder.authority().unwrap().fingerprint(), made);
        let path = dir.path().join("data/keys/ca.pem");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        folder.write_token(&Token { ca: made.to_string(), ..token }).unwrap();
        assert_eq!(folder.authority().unwrap().fingerprint(), made);
        let refused = || folder.authority().err().unwrap().to_string();
        fs::write(&path, Authority::generate().unwrap().to_pem()).unwrap();
        assert!(refused().contains("is not the one that the tokens name"), "{}", refused());
        fs::write(&path, "nonsense").unwrap();
        assert!(refused().contains("is damaged"), "{}", refused());
        fs::remove_file(&path).unwrap();
        assert!(refused().contains("is missing"), "{}", refused());
        assert!(!path.exists());
    }

    #[test]
    fn a_token_file_is_private_and_of_its_role() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::take(dir.path()).unwrap();
        let token = Token::generate(Role::Owner, "http://127.0.0.1:1".into()).unwrap();
        folder.write_token(&token).unwrap();
        assert_eq!(folder.read_token(Role::Owner).unwrap(), Some(token));
        let path = dir.path().join("owner.token");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::rename(path, dir.path().join("join.token")).unwrap();
        assert!(folder.read_token(Role::Join).is_err());
    }
}
