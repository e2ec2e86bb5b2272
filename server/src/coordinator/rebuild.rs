//! A new catalog in a folder whose own is gone: who the servers are, the tokens, the vault record.
//! What the servers hold is taken in once the coordinator runs (`adopt`).

use std::path::Path;

use codec::VaultId;

use super::catalog;
use super::folder::Folder;
use super::roster::{self, Roster};
use crate::auth::{self, Token};
use crate::{Error, Result};

/// What a new catalog was made of.
#[derive(Debug, Clone)]
pub struct Rebuilt {
    /// The vault.
    pub vault: VaultId,
    /// Names of its servers.
    pub servers: Vec<String>,
    /// Whether it has its vault record.
    pub has_record: bool,
}

/// Makes a new catalog in a coordinator's folder. Refused while a coordinator runs on it, where a
/// catalog is, and where keys or the roster are lacking. Blocks.
pub fn rebuild(data: &Path) -> Result<Rebuilt> {
    for name in ["keys/ticket.key", roster::FILE] {
        let path = data.join(name);
        if !path.try_exists().map_err(Error::io("cannot read", &path))? {
            return Err(Error::Config(format!(
                "{} is missing: without it no catalog can be made here. Put it back from where the \
                 coordinator's folder is backed up; without one, arc rescue gets the files out of \
                 the servers' folders",
                path.display()
            )));
        }
    }
    let folder = Folder::take(data)?;
    let roster = Roster::read(data)?;
    let mut hashes = Vec::new();
    for token in &roster.tokens {
        // One whose file is gone is made anew at the start, under the same number.
        hashes.push(match folder.read_token(token.role)? {
            Some(token) => Token::secret_hash(&token.secret).0,
            None => auth::random()?,
        });
    }
    catalog::make(&folder.catalog(), &roster, &hashes)?;
    folder.release();
    Ok(Rebuilt {
        vault: roster.vault,
        servers: roster.servers.into_iter().map(|server| server.name).collect(),
        has_record: roster.record.is_some(),
    })
}
