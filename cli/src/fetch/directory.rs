//! The directory of a pack, read from the pack's end.

use std::sync::Arc;

use codec::VaultId;
use codec::keys::VaultKeys;
use codec::pack::Directory;
use codec::seal::PackKey;
use codec::shard::Kind;
use server::wire::StripeMap;

use super::columns::Reach;
use super::span::Span;
use super::{FetchError, Fetcher, Result};

/// Most directories are shorter than this, footer included.
const TAIL_BYTES: u64 = 16 * 1024;

/// The key of a whole pack. The coordinator, which has no keys, makes stripes of records; all others
/// come from those who have them.
pub fn pack_key(map: &StripeMap, keys: &VaultKeys, vault: VaultId) -> codec::Result<PackKey> {
    match map.kind {
        Kind::Record => PackKey::unwrap_from_anyone(&map.pack_key, keys, vault),
        Kind::Data | Kind::Metadata | Kind::Snapshot => {
            PackKey::unwrap_field(&map.pack_key, keys, vault)
        }
    }
}

impl Fetcher {
    /// What the pack of a stripe says of itself; the stripe's map need have no frames. Read
    /// straight from the shard that has it, or else through columns.
    pub async fn directory(&self, map: &Arc<StripeMap>) -> Result<Directory> {
        let lost = |error| FetchError::Lost(format!("stripe {:.8}: {error}", map.stripe));
        let key = pack_key(map, &self.keys, self.vault).map_err(lost)?;
        if let Some(Ok(directory)) = self.read_directory(map, &key, false).await? {
            return Ok(directory);
        }
        match self.read_directory(map, &key, true).await? {
            Some(opened) => opened.map_err(lost),
            None => Err(lost(codec::Error::damaged("pack directory", "it cannot be read"))),
        }
    }

    /// `None`: it cannot be had straight.
    async fn read_directory(
        &self,
        map: &Arc<StripeMap>,
        key: &PackKey,
        through_columns: bool,
    ) -> Result<Option<codec::Result<Directory>>> {
        let mut start = map.pack_bytes.saturating_sub(TAIL_BYTES);
        loop {
            let span = Span { pack: start..map.pack_bytes, frames: Vec::new() };
            let tail = match through_columns {
                true => Some(self.read_through_columns(map, &span, Reach::Span).await?),
                false => self.read_direct(map, &span, Reach::Span).await?,
            };
            let Some(tail) = tail else { return Ok(None) };
            match Directory::range(map.pack_bytes, &tail) {
                Ok(range) if range.start < start => start = range.start,
                Ok(_) => {
                    let opened = Directory::open_tail(self.vault, key, map.pack_bytes, &tail);
                    return Ok(Some(opened));
                }
                Err(error) => return Ok(Some(Err(error))),
            }
        }
    }
}
