//! A verify: proves that a pull could succeed, as thoroughly as was asked.
//!
//! `map`: every shard that the catalog has is on its server, with its full length and
//! a sound header; what was reported damaged stays so. `shards`: the servers read and
//! hash every byte. `data`: besides, every stripe's pack is read as a pull reads it, and
//! opened here, every chunk's id is computed, and every chunk that a snapshot needs is
//! looked up. `restore`: the same with m random shards of every stripe withheld.
//!
//! Of what was found good the coordinator is told, so that the next one can begin with what was
//! looked at longest ago.

mod chunks;
mod data;
mod draw;
mod ids;
mod select;
mod shards;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use codec::StripeId;
use server::wire::{Covered, Found, SnapshotRow, State, StripeMap};
use tokio::task::JoinSet;

use self::chunks::Walk;
use self::select::Stripes;
use crate::exit::Failure;
use crate::fetch::{FetchError, Fetcher, Heal, PassedOver};
use crate::snapshots::Rows;
use crate::ui::Counters;
use crate::vault::Vault;

pub use self::draw::{Draw, Share, Subset};
pub use self::select::offer;

/// Stripes that are looked at together.
const GROUP_STRIPES: usize = 64;

/// How thorough a verify is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Level {
    /// Every shard is where the catalog says, by its length and header
    Map,
    /// Servers read and hash every byte of their shards
    Shards,
    /// Besides, every stripe is read, decoded and opened here
    Data,
    /// The same without as many shards of every stripe, at random, as may be lost
    Restore,
}

/// A shard that is not what it should be.
#[derive(Debug, Clone)]
pub struct BadShard {
    /// The stripe.
    pub stripe: StripeId,
    /// Index of the shard.
    pub index: u8,
    /// The server's name.
    pub server: String,
    /// What is there.
    pub found: Found,
}

/// What a verify found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Stripes looked at.
    pub stripes: u64,
    /// Stripes that there are, where only a part of them was to be looked at.
    pub of_stripes: Option<u64>,
    /// Shards that were withheld while stripes were read.
    pub withheld: u64,
    /// Shards looked at.
    pub shards: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Shards that are missing or damaged.
    pub bad: Vec<BadShard>,
    /// Servers that did not answer, or not as a sound server does, and why.
    pub unreachable: BTreeMap<String, String>,
    /// Stripes with fewer shards than their code has.
    pub below_target: u64,
    /// Stripes with more than m shards known bad, or whose contents do not open.
    pub lost: BTreeMap<StripeId, String>,
    /// Snapshots whose manifests cannot be read on after some path, and why: of their other files
    /// not even the names are known.
    pub lost_manifests: BTreeMap<StripeId, (Vec<u8>, String)>,
    /// Stripes that too few servers answered for.
    pub unknown: BTreeSet<StripeId>,
    /// Files that cannot be read back, with the snapshot that has them.
    pub lost_files: BTreeSet<(StripeId, Vec<u8>)>,
    /// Files that cannot be read just now, for too few servers answer.
    pub unknown_files: BTreeSet<(StripeId, Vec<u8>)>,
    /// The fewest shards that any stripe has beyond those it needs.
    pub margin_min: Option<i32>,
}

/// One verify under way.
struct Verify<'a> {
    fetcher: Arc<Fetcher>,
    level: Level,
    counters: &'a Counters,
    /// What was found good in the group under way.
    covered: BTreeMap<StripeId, Covered>,
    outcome: Outcome,
    /// Names of servers with shards that no other server gave.
    missed: BTreeSet<String>,
    /// How long each server took to look at its own shards, by its name.
    checking: BTreeMap<String, Duration>,
}

/// Verifies one snapshot or all of the vault, or a part of either.
pub async fn verify(
    vault: &Vault,
    snapshot: Option<SnapshotRow>,
    level: Level,
    subset: Option<Subset>,
    counters: &Arc<Counters>,
) -> Result<Outcome, Failure> {
    let fetcher = Fetcher::new(vault, Arc::clone(counters))?;
    let fetcher = if level == Level::Restore { fetcher.withholding() } else { fetcher };
    let mut verify = Verify {
        fetcher: Arc::new(fetcher),
        level,
        counters,
        covered: BTreeMap::new(),
        outcome: Outcome::default(),
        missed: BTreeSet::new(),
        checking: BTreeMap::new(),
    };
    let mut stripes = match &snapshot {
        Some(row) => {
            let stripes = verify.walk(row, &BTreeSet::new()).await?;
            Stripes::of(stripes.into_values().collect(), level, subset, vault).await?
        }
        None => Stripes::all(level, subset, vault).await?,
    };
    verify.outcome.of_stripes = subset.map(|_| stripes.count);
    if subset.is_none() {
        counters.total_files.store(stripes.count, Relaxed);
    }
    let looks_up_all = snapshot.is_none() && subset.is_none() && level >= Level::Data;
    // Mostly nothing is lost, and then this is all that is to be said of the files. Not where shards
    // are withheld: of those that were not looked at yet, the wrong ones.
    let mut ahead = JoinSet::new();
    if looks_up_all && level == Level::Data {
        let (fetcher, rows) = (Arc::clone(&verify.fetcher), Rows::new(vault.coordinator.clone()));
        ahead.spawn(chunks::walk_all(fetcher, rows, BTreeSet::new()));
    }
    loop {
        let maps = stripes.next(GROUP_STRIPES).await?;
        if maps.is_empty() {
            break;
        }
        verify.group(maps).await?;
        let covered = std::mem::take(&mut verify.covered).into_values().collect();
        // What was found is as true where the coordinator cannot write it down.
        if let Err(error) = vault.coordinator.note_coverage(covered).await {
            tracing::warn!(%error, "what was read whole is not remembered");
        }
    }
    let lost: BTreeSet<StripeId> = verify.outcome.lost.keys().copied().collect();
    if !lost.is_empty() {
        ahead.shutdown().await;
    }
    match ahead.join_next().await {
        Some(walks) => {
            let walks = walks.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
            verify.book_all(walks)?;
        }
        None if looks_up_all || !lost.is_empty() => {
            verify.name_lost_files(vault, snapshot, lost).await?;
        }
        None => {}
    }
    verify.outcome.withheld = verify.fetcher.withheld().1;
    verify.outcome.add_reading(&verify.fetcher);
    verify.forgive_the_lost().await?;
    Ok(verify.outcome)
}

impl Verify<'_> {
    async fn group(&mut self, maps: Vec<Arc<StripeMap>>) -> Result<(), Failure> {
        let maps = self.check_shards(maps).await?;
        if self.level >= Level::Data {
            self.read_data(&maps).await?;
        }
        for map in &maps {
            self.outcome.stripes += 1;
            let bytes = map.geometry.shard_bytes(map.pack_bytes) * map.shards.len() as u64;
            self.outcome.bytes += bytes;
            self.counters.done_files.fetch_add(1, Relaxed);
            self.counters.done_bytes.fetch_add(bytes, Relaxed);
        }
        Ok(())
    }

    /// A lost server that does not answer is no matter where all that it held is elsewhere.
    async fn forgive_the_lost(&mut self) -> Result<(), Failure> {
        let tickets = self.fetcher.tickets().await?;
        let lost = tickets.servers.values().filter(|server| server.state == State::Lost);
        for server in lost.filter(|server| !self.missed.contains(&server.name)) {
            self.outcome.unreachable.remove(&server.name);
        }
        Ok(())
    }

    /// Which files of which snapshots the damage costs.
    async fn name_lost_files(
        &mut self,
        vault: &Vault,
        snapshot: Option<SnapshotRow>,
        lost: BTreeSet<StripeId>,
    ) -> Result<(), Failure> {
        if let Some(row) = snapshot {
            return self.walk(&row, &lost).await.map(drop);
        }
        let rows = Rows::new(vault.coordinator.clone());
        let walks = chunks::walk_all(Arc::clone(&self.fetcher), rows, lost).await?;
        self.book_all(walks)
    }

    /// The stripes of a snapshot; names the files that need others than `lost` ones in vain.
    async fn walk(
        &mut self,
        row: &SnapshotRow,
        lost: &BTreeSet<StripeId>,
    ) -> Result<BTreeMap<StripeId, Arc<StripeMap>>, Failure> {
        let mut walk = chunks::walk(&self.fetcher, row, lost).await;
        let stripes = std::mem::take(&mut walk.1.stripes);
        self.book(walk)?;
        Ok(stripes)
    }

    fn book_all(&mut self, walks: Vec<Walk>) -> Result<(), Failure> {
        walks.into_iter().try_for_each(|walk| self.book(walk))
    }

    fn book(&mut self, (id, walked, result): Walk) -> Result<(), Failure> {
        let of_row = |path: &Vec<u8>| (id, path.clone());
        self.outcome.lost_files.extend(walked.lost_files.iter().map(of_row));
        self.outcome.unknown_files.extend(walked.unknown_files.iter().map(of_row));
        match result {
            Ok(()) => {}
            Err(FetchError::Lost(why)) => {
                self.outcome.lost_manifests.insert(id, (walked.last, why));
            }
            Err(error) => self.outcome.unread(id, "its manifest", error)?,
        }
        Ok(())
    }
}

impl Outcome {
    /// Books why a stripe, or what hangs on it, cannot be read: lost, or out of reach just now.
    fn unread(&mut self, stripe: StripeId, what: &str, error: FetchError) -> Result<(), Failure> {
        match error {
            FetchError::Lost(why) => {
                self.lost.entry(stripe).or_insert(format!("{what} cannot be read: {why}"));
            }
            FetchError::TooFewServers(_) => drop(self.unknown.insert(stripe)),
            error @ FetchError::Coordinator(_) => return Err(error.into()),
        }
        Ok(())
    }

    /// Takes in what reading met. A server that is merely slow to be read was checked all the
    /// same; one that answers nonsense was not.
    fn add_reading(&mut self, fetcher: &Fetcher) {
        self.add_heals(fetcher.heals());
        for PassedOver { server, why, is_nonsense } in fetcher.passed_over() {
            if is_nonsense {
                self.unreachable.entry(server).or_insert(why);
            }
        }
    }

    /// Takes in damage that no check had told.
    fn add_heals(&mut self, heals: Vec<Heal>) {
        let key = |bad: &BadShard| (bad.stripe, bad.index, bad.server.clone());
        let known: BTreeSet<_> = self.bad.iter().map(key).collect();
        let heals = heals.into_iter().map(|heal| {
            let Heal { stripe, index, server, found } = heal;
            BadShard { stripe, index, server, found }
        });
        self.bad.extend(heals.filter(|bad| !known.contains(&key(bad))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_reach_is_not_called_lost() {
        let mut outcome = Outcome::default();
        let (away, gone) = (StripeId([1; 32]), StripeId([2; 32]));
        outcome.unread(away, "it", FetchError::TooFewServers("1 of 2".into())).unwrap();
        assert!(outcome.lost.is_empty() && outcome.unknown.contains(&away));
        outcome.unread(gone, "it", FetchError::Lost("bad".into())).unwrap();
        assert_eq!(outcome.lost.keys().collect::<Vec<_>>(), [&gone]);
    }

    #[test]
    fn damage_that_only_reading_met_is_told_once() {
        let stripe = StripeId([1; 32]);
        let heal = |index| {
            let found = Found::Damaged("why".into());
            Heal { stripe, index, server: "a".into(), found }
        };
        let mut outcome = Outcome::default();
        outcome.add_heals(vec![heal(0), heal(1)]);
        outcome.add_heals(vec![heal(0), heal(1)]);
        assert_eq!(outcome.bad.len(), 2);
    }
}
