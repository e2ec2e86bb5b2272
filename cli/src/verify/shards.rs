//! Has the servers look at their own shards, and counts what is left of each stripe.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use codec::StripeId;
use futures_util::future::join_all;
use server::wire::{CheckRequest, Covered, Found, Holder, ServerId, StripeMap, Thoroughness};

use super::{BadShard, Level, Verify};
use crate::exit::Failure;

/// Shards in one request: hashing them all must not take minutes.
const SHARDS_PER_REQUEST: usize = 32;

/// What is said of a shard that is there, and was reported before.
const UNREAD: &str = "reported damaged before, not read since; --level shards reads it";

/// What servers said of shards.
type Answers = HashMap<(StripeId, u8, ServerId), Found>;

/// What became of the shards of one stripe, by index: one can have several holders.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    /// Some holder has it.
    good: usize,
    /// All its holders said that they do not, or it has none.
    bad: usize,
}

impl Tally {
    /// Of shards 0 to `shards`; a holder whose server did not answer has not been found anything.
    fn new(shards: usize, found: &[(u8, Option<&Found>)]) -> Self {
        let mut tally = Self::default();
        for index in 0..shards as u8 {
            let mut holders = found.iter().filter(|(i, _)| *i == index).map(|(_, found)| *found);
            if holders.clone().any(|found| found == Some(&Found::Good)) {
                tally.good += 1;
            } else if holders.all(|found| found.is_some()) {
                tally.bad += 1;
            }
        }
        tally
    }
}

/// How many different shards of a stripe have a holder that is not lost.
fn held(map: &StripeMap, is_lost: impl Fn(ServerId) -> bool) -> usize {
    let holders = map.shards.iter().filter(|holder| !is_lost(holder.server));
    holders.map(|holder| holder.index).collect::<BTreeSet<u8>>().len()
}

/// Which shards a stripe has, and where.
fn places(map: &StripeMap) -> BTreeSet<(u8, ServerId)> {
    map.shards.iter().map(|holder| (holder.index, holder.server)).collect()
}

impl Verify<'_> {
    /// Gives the maps by which that was done: what is moved meanwhile is looked at where it is then.
    pub(super) async fn check_shards(
        &mut self,
        mut maps: Vec<Arc<StripeMap>>,
    ) -> Result<Vec<Arc<StripeMap>>, Failure> {
        let mut found = self.ask(&maps, Answers::new()).await?;
        while self.follow(&mut maps, &found).await? {
            found = self.ask(&maps, found).await?;
        }
        let unread = Found::Damaged(UNREAD.to_owned());
        for map in &maps {
            let tickets = self.fetcher.tickets().await?;
            let mut told = Vec::with_capacity(map.shards.len());
            for holder in &map.shards {
                self.outcome.shards += 1;
                let found = found.get(&(map.stripe, holder.index, holder.server));
                // A length and a header take nothing back of what somebody read.
                let found = match found {
                    Some(Found::Good) if holder.bad && self.level == Level::Map => Some(&unread),
                    found => found,
                };
                // What a lost server held does not come back.
                let gone = Some(&Found::Missing).filter(|_| tickets.is_lost(holder.server));
                told.push((holder.index, found.or(gone)));
                if found == Some(&Found::Good) && self.level > Level::Map {
                    self.covers(map.stripe).shards.push((holder.index, holder.server));
                }
                match found {
                    Some(Found::Good) if !holder.bad => {}
                    Some(Found::Good) => self.fetcher.note(map, holder, Found::Good).await,
                    Some(bad) => {
                        let server = tickets.servers.get(&holder.server).map(|t| t.name.clone());
                        self.outcome.bad.push(BadShard {
                            stripe: map.stripe,
                            index: holder.index,
                            server: server.unwrap_or_else(|| format!("server {}", holder.server.0)),
                            found: bad.clone(),
                        });
                        if *bad != unread {
                            self.fetcher.note(map, holder, bad.clone()).await;
                        }
                    }
                    // Its server did not answer: unknown, not gone.
                    None => {}
                }
            }
            let whole: BTreeSet<u8> =
                told.iter().filter(|(_, f)| *f == Some(&Found::Good)).map(|(i, _)| *i).collect();
            for holder in map.shards.iter().filter(|holder| !whole.contains(&holder.index)) {
                let server = tickets.servers.get(&holder.server);
                self.missed.extend(server.map(|server| server.name.clone()));
            }
            if held(map, |server| tickets.is_lost(server)) < map.geometry.shards() {
                self.outcome.below_target += 1;
            }
            self.judge(map, &Tally::new(map.geometry.shards(), &told)).await?;
        }
        Ok(maps)
    }

    /// Replaces the maps of stripes that lack shards by the newest; true where one of these names
    /// holders that it did not name before.
    async fn follow(&self, maps: &mut [Arc<StripeMap>], found: &Answers) -> Result<bool, Failure> {
        let tickets = self.fetcher.tickets().await?;
        let lacks = |map: &StripeMap, Holder { index, server, .. }: &Holder| {
            found.get(&(map.stripe, *index, *server)) == Some(&Found::Missing)
                && !tickets.is_lost(*server)
        };
        let lacking = maps.iter().filter(|map| map.shards.iter().any(|holder| lacks(map, holder)));
        let stripes: Vec<StripeId> = lacking.map(|map| map.stripe).collect();
        if stripes.is_empty() {
            return Ok(false);
        }
        let mut any_moved = false;
        for newest in self.fetcher.maps(stripes).await? {
            let Some(map) = maps.iter_mut().find(|map| map.stripe == newest.stripe) else {
                continue;
            };
            any_moved |= !places(&newest).is_subset(&places(map));
            *map = newest;
        }
        Ok(any_moved)
    }

    /// What was found good in a stripe.
    pub(super) fn covers(&mut self, stripe: StripeId) -> &mut Covered {
        let none = || Covered { stripe, shards: Vec::new(), opened: false };
        self.covered.entry(stripe).or_insert_with(none)
    }

    async fn judge(&mut self, map: &Arc<StripeMap>, tally: &Tally) -> Result<(), Failure> {
        let geometry = map.geometry;
        let margin = tally.good as i32 - geometry.data() as i32;
        self.outcome.margin_min =
            Some(self.outcome.margin_min.map_or(margin, |least| least.min(margin)));
        if tally.bad > geometry.parity() {
            // They may be damaged in different blocks, so that each block can be had.
            if let Err(error) = self.fetcher.data_bodies(map).await {
                let what = format!(
                    "{} of {} shards are whole, {} are needed; its data",
                    tally.good,
                    geometry.shards(),
                    geometry.data()
                );
                self.outcome.unread(map.stripe, &what, error)?;
            }
        } else if tally.good < geometry.data() {
            self.outcome.unknown.insert(map.stripe);
        }
        Ok(())
    }

    /// What every server says of its shards, besides what was `found` of them before; a server that
    /// does not answer is left out.
    async fn ask(
        &mut self,
        maps: &[Arc<StripeMap>],
        mut found: Answers,
    ) -> Result<Answers, Failure> {
        let tickets = self.fetcher.tickets().await?;
        let mut wanted: BTreeMap<ServerId, Vec<(StripeId, u8)>> = BTreeMap::new();
        for map in maps {
            let is_open =
                |holder: &&Holder| !found.contains_key(&(map.stripe, holder.index, holder.server));
            for holder in map.shards.iter().filter(is_open) {
                wanted.entry(holder.server).or_default().push((map.stripe, holder.index));
            }
        }
        let thoroughness = match self.level {
            Level::Map => Thoroughness::Present,
            Level::Shards | Level::Data | Level::Restore => Thoroughness::Whole,
        };
        let known = &self.outcome.unreachable;
        let asked = wanted.into_iter().map(|(server, shards)| {
            let (fetcher, ticket) = (&self.fetcher, tickets.servers.get(&server).cloned());
            async move {
                let Some(ticket) = ticket else {
                    return (
                        server,
                        format!("server {}", server.0),
                        Err("it is not a server of this vault".to_owned()),
                    );
                };
                if let Some(why) = known.get(&ticket.name) {
                    return (server, ticket.name, Err(why.clone()));
                }
                let began = Instant::now();
                let mut answers = Vec::with_capacity(shards.len());
                for shards in shards.chunks(SHARDS_PER_REQUEST) {
                    let request = CheckRequest { shards: shards.to_vec(), thoroughness };
                    match fetcher.check(&ticket, &request).await {
                        Ok(answer) => answers.extend(shards.iter().copied().zip(answer.found)),
                        Err(why) => return (server, ticket.name, Err(why)),
                    }
                }
                (server, ticket.name, Ok((answers, began.elapsed())))
            }
        });
        let answers = join_all(asked).await;
        for (server, name, answer) in answers {
            match answer {
                Ok((rows, took)) => {
                    *self.checking.entry(name).or_default() += took;
                    let rows = rows.into_iter();
                    found.extend(rows.map(|((stripe, index), f)| ((stripe, index, server), f)));
                }
                Err(why) => drop(self.outcome.unreachable.insert(name, why)),
            }
        }
        if self.level <= Level::Shards {
            self.counters.limited_by(limit(&self.checking));
        }
        Ok(found)
    }
}

/// What servers that look at their own shards, each in its time, are waited for.
fn limit(checking: &BTreeMap<String, Duration>) -> String {
    let mut longest: Vec<_> = checking.iter().collect();
    longest.sort_unstable_by_key(|(_, took)| std::cmp::Reverse(**took));
    match longest[..] {
        [(name, took), (_, next), ..] if *took > *next * 2 => format!("server disk of {name}"),
        _ => "server disks".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use codec::Geometry;
    use codec::seal::PackKeyField;
    use codec::shard::Kind;

    use super::*;

    #[test]
    fn a_server_whose_disk_alone_is_waited_for_is_named() {
        let limit = |ms: &[u64]| {
            let took = ms.iter().map(|ms| Duration::from_millis(*ms));
            limit(&["a", "b", "c"].map(str::to_owned).into_iter().zip(took).collect())
        };
        assert_eq!(limit(&[10, 30, 14]), "server disk of b");
        assert_eq!(limit(&[10, 30, 15]), "server disks");
        assert_eq!(limit(&[10]), "server disks");
        assert_eq!(limit(&[]), "server disks");
    }

    #[test]
    fn a_shard_without_a_holder_is_lacking_though_another_has_two() {
        let holder = |(index, server)| Holder { index, server: ServerId(server), bad: false };
        let map = |holders: &[(u8, u32)]| StripeMap {
            stripe: StripeId([1; 32]),
            kind: Kind::Data,
            geometry: Geometry::new(4, 2).unwrap(),
            pack_bytes: 1,
            pack_key: PackKeyField(Vec::new()),
            frames: Vec::new(),
            shards: holders.iter().copied().map(holder).collect(),
        };
        let held = |holders: &[(u8, u32)]| held(&map(holders), |server| server == ServerId(9));
        assert_eq!(held(&[(0, 9), (0, 6), (1, 1), (2, 2), (3, 3), (4, 4)]), 5);
        assert_eq!(held(&[(0, 9), (0, 6), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]), 6);
        assert_eq!(held(&[(0, 9), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]), 5, "it is lost");
    }

    #[test]
    fn a_shard_counts_once_however_many_holders_it_has() {
        let (good, gone) = (Some(&Found::Good), Some(&Found::Missing));
        let tally = |found: &[_]| {
            let Tally { good, bad } = Tally::new(3, found);
            (good, bad)
        };
        assert_eq!(tally(&[(0, good), (1, good), (2, good)]), (3, 0));
        assert_eq!(tally(&[(0, good), (0, good), (1, gone)]), (1, 2), "shard 2 has no holder");
        assert_eq!(tally(&[(0, gone), (0, good), (1, None), (2, gone)]), (1, 1));
        assert_eq!(tally(&[(0, gone), (0, None), (1, None), (2, None)]), (0, 0));
    }
}
