//! Which stripes are looked at, in which order.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use codec::StripeId;
use server::auth;
use server::wire::{
    COVERAGE_STRIPES_MAX, OldestQuery, PAGE_ROWS_MAX, PageQuery, Proof, ServerId, State,
    StatusQuery, StripeMap,
};

use super::{Draw, Level, Share, Subset};
use crate::exit::Failure;
use crate::vault::Vault;

/// Stripes in their order, a page at a time.
pub(super) struct Stripes<'a> {
    vault: &'a Vault,
    /// How many there are, chosen or not.
    pub(super) count: u64,
    source: Source,
    chosen: VecDeque<Arc<StripeMap>>,
}

enum Source {
    /// The catalog's next page begins after this.
    All { after: Option<String> },
    /// The same, and stripes are drawn.
    Drawn { after: Option<String>, draw: Draw<Arc<StripeMap>> },
    /// The next page of those looked at longest ago, and the bytes that are still wanted.
    Oldest { proof: Proof, after: Option<String>, wanted_bytes: u64 },
    /// No more.
    End,
}

impl<'a> Stripes<'a> {
    /// Those of the vault.
    pub(super) async fn all(
        level: Level,
        subset: Option<Subset>,
        vault: &'a Vault,
    ) -> Result<Self, Failure> {
        let status = vault.coordinator.status(StatusQuery::default()).await?;
        let source = match subset {
            None => Source::All { after: None },
            Some(Subset::Random(share)) => {
                Source::Drawn { after: None, draw: Draw::new(share, status.pack_bytes) }
            }
            Some(Subset::Oldest(share)) => Source::Oldest {
                proof: proof(level),
                after: None,
                wanted_bytes: share.of(status.pack_bytes),
            },
        };
        Ok(Self { vault, count: status.stripes, source, chosen: VecDeque::new() })
    }

    /// Those of `maps`.
    pub(super) async fn of(
        maps: Vec<Arc<StripeMap>>,
        level: Level,
        subset: Option<Subset>,
        vault: &'a Vault,
    ) -> Result<Self, Failure> {
        let count = maps.len() as u64;
        let chosen = match subset {
            None => maps,
            Some(Subset::Random(share)) => drawn(maps, share)?,
            Some(Subset::Oldest(share)) => oldest(maps, share, level, vault).await?,
        };
        Ok(Self { vault, count, source: Source::End, chosen: chosen.into() })
    }

    /// The next ones, `limit` at most; none at the end.
    pub(super) async fn next(&mut self, limit: usize) -> Result<Vec<Arc<StripeMap>>, Failure> {
        while self.chosen.len() < limit && !matches!(self.source, Source::End) {
            self.read_page().await?;
        }
        let count = self.chosen.len().min(limit);
        Ok(self.chosen.drain(..count).collect())
    }

    async fn read_page(&mut self) -> Result<(), Failure> {
        let coordinator = &self.vault.coordinator;
        let limit = Some(PAGE_ROWS_MAX);
        self.source = match std::mem::replace(&mut self.source, Source::End) {
            Source::End => Source::End,
            Source::All { after } => {
                let page = coordinator.stripes(&PageQuery { after, limit }).await?;
                self.chosen.extend(page.rows.into_iter().map(Arc::new));
                page.next.map_or(Source::End, |next| Source::All { after: Some(next) })
            }
            Source::Drawn { after, mut draw } => {
                let page = coordinator.stripes(&PageQuery { after, limit }).await?;
                for map in page.rows.into_iter().map(Arc::new) {
                    let bytes = map.pack_bytes;
                    self.chosen.extend(offer(&mut draw, map, bytes)?);
                }
                match page.next {
                    Some(next) => Source::Drawn { after: Some(next), draw },
                    None => {
                        self.chosen.extend(draw.rest());
                        Source::End
                    }
                }
            }
            Source::Oldest { proof, after, mut wanted_bytes } => {
                let page = coordinator.oldest_stripes(&OldestQuery { proof, after, limit }).await?;
                for map in page.rows {
                    if wanted_bytes == 0 {
                        break;
                    }
                    wanted_bytes = wanted_bytes.saturating_sub(map.pack_bytes);
                    self.chosen.push_back(Arc::new(map));
                }
                match page.next.filter(|_| wanted_bytes > 0) {
                    Some(next) => Source::Oldest { proof, after: Some(next), wanted_bytes },
                    None => Source::End,
                }
            }
        };
        Ok(())
    }
}

/// What the coordinator is told of stripes looked at on this level.
fn proof(level: Level) -> Proof {
    match level {
        Level::Map | Level::Shards => Proof::Read,
        Level::Data | Level::Restore => Proof::Opened,
    }
}

/// Offers a part to a draw with the system's dice.
pub fn offer<T>(draw: &mut Draw<T>, part: T, bytes: u64) -> Result<Option<T>, Failure> {
    let mut thrown = Vec::from([auth::random()?, auth::random()?]);
    // An offer throws the dice twice at most.
    Ok(draw.offer(part, bytes, &mut || thrown.pop().map_or(0, u64::from_le_bytes)))
}

fn drawn(maps: Vec<Arc<StripeMap>>, share: Share) -> Result<Vec<Arc<StripeMap>>, Failure> {
    let mut draw = Draw::new(share, maps.iter().map(|map| map.pack_bytes).sum());
    let mut chosen = Vec::new();
    for map in maps {
        let bytes = map.pack_bytes;
        chosen.extend(offer(&mut draw, map, bytes)?);
    }
    chosen.extend(draw.rest());
    Ok(chosen)
}

async fn oldest(
    mut maps: Vec<Arc<StripeMap>>,
    share: Share,
    level: Level,
    vault: &Vault,
) -> Result<Vec<Arc<StripeMap>>, Failure> {
    // Others cannot be reached by a look, which is to put its stripe behind all the same.
    let servers = vault.coordinator.read_tickets().await?.servers;
    let up: HashSet<ServerId> =
        servers.iter().filter(|s| s.state == State::Up).map(|s| s.server).collect();
    let mut times: HashMap<StripeId, u64> = HashMap::with_capacity(maps.len());
    for maps in maps.chunks(COVERAGE_STRIPES_MAX) {
        let ids = maps.iter().map(|map| map.stripe).collect();
        for known in vault.coordinator.coverage(ids).await? {
            let ms = match proof(level) {
                Proof::Read => {
                    let here = known.shards.iter().filter(|(_, server, _)| up.contains(server));
                    here.map(|(.., ms)| ms.unwrap_or(0)).min().unwrap_or(u64::MAX)
                }
                Proof::Opened => known.opened_ms.unwrap_or(0),
            };
            times.insert(known.stripe, ms);
        }
    }
    maps.sort_by_key(|map| times.get(&map.stripe).copied().unwrap_or(0));
    let mut wanted_bytes = share.of(maps.iter().map(|map| map.pack_bytes).sum());
    maps.retain(|map| {
        let is_wanted = wanted_bytes > 0;
        wanted_bytes = wanted_bytes.saturating_sub(map.pack_bytes);
        is_wanted
    });
    Ok(maps)
}
