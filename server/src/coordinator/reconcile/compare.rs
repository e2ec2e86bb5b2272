//! One comparison: what a server says that it holds, beside the map, and what comes of it.

use std::time::Duration;

use codec::StripeId;
use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Address;
use super::due::Look;
use super::sort::sort;
use crate::auth::Grant;
use crate::coordinator::catalog::{Condition, MapDigests, Mapped, Standing};
use crate::coordinator::events::of_damage;
use crate::coordinator::fleet::Member;
use crate::coordinator::{Core, prober, repair};
use crate::wire::{
    BUCKETS, Bucket, CheckAnswer, CheckRequest, Counts, Digests, Found, InventoryRow,
    NAMED_SHARDS_MAX, PAGE_ROWS_MAX, Page, Thoroughness,
};

/// How long a server may take to say what it holds: a cold disk lists its folders.
const DIGESTS_TIMEOUT: Duration = Duration::from_secs(120);
/// How long one page may take, or an order to trash.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a check of some shards may take, each read whole.
const CHECK_TIMEOUT: Duration = Duration::from_secs(600);
/// Shards in one request that are read whole.
const CHECKED_AT_ONCE: usize = 16;
/// How often a bucket is gone through in which something changed meanwhile.
const ROUNDS: usize = 3;

/// What a comparison came to.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    pub(super) found: Counts,
    pub(super) surplus: Vec<Address>,
    pub(super) unknown: Vec<Address>,
}

/// Compares a server, and books what differs.
pub(super) async fn compare(core: &Core, member: &Member, look: Look) -> Result<Outcome, String> {
    let mut comparing = Comparing { core, member, outcome: Outcome::default() };
    comparing.bury().await?;
    let mut held = comparing.digests(look).await?;
    let map = comparing.map().await?;
    if held != map.buckets && look == Look::Remembered {
        held = comparing.digests(Look::Anew).await?;
    }
    for (number, bucket) in (0..=u8::MAX).zip(&held) {
        let (mapped, missing) =
            (map.buckets[usize::from(number)], map.missing[usize::from(number)]);
        if *bucket == mapped {
            let found = &mut comparing.outcome.found;
            found.good += bucket.shards - bucket.bad;
            found.damaged += bucket.bad;
            found.missing += missing;
        } else {
            comparing.bucket(number).await?;
        }
    }
    comparing.bury().await?;
    let Outcome { found, surplus, unknown } = &comparing.outcome;
    let name = &member.row.name;
    if found.surplus + found.unknown > 0 {
        let (surplus, unknown) = (surplus.first(), unknown.first());
        tracing::info!(name, ?found, ?surplus, ?unknown, "server compared");
    } else {
        tracing::debug!(name, ?found, "server compared");
    }
    Ok(comparing.outcome)
}

/// Has a server look at a shard that somebody else met otherwise than the map has it, and books what
/// it finds.
pub(in crate::coordinator) async fn look_again(
    core: &Core,
    member: &Member,
    shard: Mapped,
) -> Result<(), String> {
    let mut comparing = Comparing { core, member, outcome: Outcome::default() };
    comparing.check(&[shard]).await.map(drop)
}

/// One server's comparison.
struct Comparing<'a> {
    core: &'a Core,
    member: &'a Member,
    outcome: Outcome,
}

impl Comparing<'_> {
    async fn digests(&self, look: Look) -> Result<Vec<Bucket>, String> {
        let walk = look == Look::Anew;
        let path = format!("inventory/digests?walk={walk}");
        let control = Grant::Control;
        let Digests { buckets } =
            self.ask(control, Method::GET, &path, &(), DIGESTS_TIMEOUT).await?;
        let sound = |b: &Bucket| b.bad <= b.shards && b.shards <= i64::MAX as u64;
        if buckets.len() != BUCKETS || !buckets.iter().all(sound) {
            return Err("digests that do not hold".to_owned());
        }
        Ok(buckets)
    }

    async fn map(&self) -> Result<MapDigests, String> {
        let _alone = self.core.comparisons.digesting.acquire().await.map_err(text)?;
        self.core.catalog.digests(self.member.row.server).await.map_err(text)
    }

    /// Goes through a bucket that differs, again while things change under way.
    async fn bucket(&mut self, number: u8) -> Result<(), String> {
        let (before, mut round) = (self.outcome.clone(), 1);
        while self.pages(number).await? > 0 {
            if round == ROUNDS {
                return Err(format!("bucket {number} changed {ROUNDS} times meanwhile"));
            }
            self.outcome = before.clone();
            round += 1;
        }
        Ok(())
    }

    /// Compares all pages of a bucket; gives how many shards changed meanwhile.
    async fn pages(&mut self, number: u8) -> Result<usize, String> {
        let end = (bound(number, u8::MAX), u8::MAX);
        let mut after = number.checked_sub(1).map(|before| (bound(before, u8::MAX), u8::MAX));
        let mut changed = 0;
        loop {
            let (rows, is_last) = self.page(after, end).await?;
            let last = match rows.last() {
                Some(row) if !is_last => (row.stripe, row.index),
                _ => end,
            };
            let from = after.map_or(bound(0, 0), |(stripe, _)| stripe).max(bound(number, 0));
            let server = self.member.row.server;
            let mut mapped = self.core.catalog.mapped(server, from, last.0).await.map_err(text)?;
            mapped.retain(|m| {
                let address = (m.stripe, m.index);
                after.is_none_or(|after| address > after) && address <= last
            });
            changed += self.settle(&mapped, &rows).await?;
            if is_last {
                return Ok(changed);
            }
            after = Some(last);
        }
    }

    /// The rows of a page up to `end`, and whether these are the last.
    async fn page(
        &self,
        after: Option<Address>,
        end: Address,
    ) -> Result<(Vec<InventoryRow>, bool), String> {
        let mut path = format!("inventory?limit={PAGE_ROWS_MAX}");
        if let Some((stripe, index)) = after {
            path.push_str(&format!("&after={stripe}.{index}"));
        }
        let control = Grant::Control;
        let Page::<InventoryRow> { mut rows, next } =
            self.ask(control, Method::GET, &path, &(), PAGE_TIMEOUT).await?;
        let addresses = rows.iter().map(|row| Some((row.stripe, row.index)));
        let is_sound = std::iter::once(after).chain(addresses).is_sorted_by(|a, b| a < b);
        if !is_sound || rows.len() > PAGE_ROWS_MAX as usize || (rows.is_empty() && next.is_some()) {
            return Err("a page of its inventory that does not go on where it should".to_owned());
        }
        let all = rows.len();
        rows.retain(|row| (row.stripe, row.index) <= end);
        let is_last = next.is_none() || rows.len() < all;
        Ok((rows, is_last))
    }

    /// Books what differs between a page and the map; gives how many shards changed meanwhile.
    async fn settle(&mut self, mapped: &[Mapped], rows: &[InventoryRow]) -> Result<usize, String> {
        let sorted = sort(mapped, rows);
        add(&mut self.outcome.found, &sorted.agreed);
        let mut changed = 0;
        // What is not there takes no time to look for.
        for (doubted, at_once) in
            [(sorted.absent, PAGE_ROWS_MAX as usize), (sorted.present, CHECKED_AT_ONCE)]
        {
            for doubted in doubted.chunks(at_once) {
                changed += self.check(doubted).await?;
            }
        }
        if !sorted.strangers.is_empty() {
            self.judge(sorted.strangers).await?;
        }
        Ok(changed)
    }

    /// Has the server look at shards of which it said otherwise than the map, and books what it
    /// finds; gives how many changed meanwhile.
    async fn check(&mut self, doubted: &[Mapped]) -> Result<usize, String> {
        let shards: Vec<Address> = doubted.iter().map(|m| (m.stripe, m.index)).collect();
        let request = CheckRequest { shards, thoroughness: Thoroughness::Whole };
        let answer: CheckAnswer =
            self.ask(Grant::Read, Method::POST, "check", &request, CHECK_TIMEOUT).await?;
        if answer.found.len() != doubted.len() {
            return Err("not one finding a shard".to_owned());
        }
        let mut otherwise = Vec::new();
        for (mapped, found) in doubted.iter().zip(answer.found) {
            let (condition, count) = match found {
                Found::Good => (Condition::Good, &mut self.outcome.found.good),
                Found::Missing => (Condition::Missing, &mut self.outcome.found.missing),
                Found::Damaged(_) => (Condition::Damaged, &mut self.outcome.found.damaged),
            };
            *count += 1;
            if condition != mapped.condition {
                otherwise.push(Mapped { condition, ..*mapped });
            }
        }
        if otherwise.is_empty() {
            return Ok(0);
        }
        let (name, shards) = (&self.member.row.name, otherwise.len());
        tracing::warn!(name, shards, "shards are otherwise than the map had them");
        let count = |is| otherwise.iter().filter(|mapped| mapped.condition == is).count() as u64;
        let told = of_damage(name, count(Condition::Missing), count(Condition::Damaged));
        self.core.journal.note(told, self.core.catalog.clock.now_ms());
        let booked = self.core.catalog.book(self.member.row.server, otherwise).await;
        self.core.fleet.has_changed();
        booked.map_err(text)
    }

    /// Sorts out what the map does not have there.
    async fn judge(&mut self, strangers: Vec<Address>) -> Result<(), String> {
        let (catalog, server) = (&self.core.catalog, self.member.row.server);
        let standings = catalog.standings(server, strangers.clone()).await.map_err(text)?;
        let Outcome { found, surplus, unknown } = &mut self.outcome;
        let mut left_over = Vec::new();
        let name = |list: &mut Vec<Address>, shard| {
            if list.len() < NAMED_SHARDS_MAX {
                list.push(shard);
            }
        };
        // An older copy takes what was committed after it was made for left over.
        let is_old = self.core.facts.why_old(&self.core.fleet).is_some();
        for (shard, standing) in strangers.into_iter().zip(standings) {
            match standing {
                Standing::LeftOver if is_old => found.pending += 1,
                Standing::Pending => found.pending += 1,
                Standing::LeftOver => left_over.push(shard),
                Standing::Surplus => {
                    found.surplus += 1;
                    name(surplus, shard);
                }
                Standing::Unknown => {
                    found.unknown += 1;
                    name(unknown, shard);
                }
            }
        }
        if left_over.is_empty() {
            return Ok(());
        }
        let all = left_over.len() as u64;
        let condemned = catalog.condemn(server, left_over).await.map_err(text)?;
        found.leftover += condemned;
        // The others were taken over by a push meanwhile.
        found.pending += all - condemned;
        Ok(())
    }

    /// Has the server trash what is left over, as far as it has not said yet that it did.
    async fn bury(&self) -> Result<(), String> {
        repair::trash(self.core, self.member.row.server).await.map_err(text)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        grant: Grant,
        method: Method,
        path: &str,
        body: &impl Serialize,
        timeout: Duration,
    ) -> Result<T, String> {
        let (core, member) = (self.core, self.member);
        let ticket = prober::ticket(core, member, grant, core.catalog.epoch()).map_err(text)?;
        let sent = prober::send(core, member, ticket, method, path, body, timeout);
        let bytes = sent.await.map_err(|missed| missed.why)?;
        serde_json::from_slice(&bytes).map_err(text)
    }
}

fn add(counts: &mut Counts, more: &Counts) {
    counts.good += more.good;
    counts.missing += more.missing;
    counts.damaged += more.damaged;
}

/// The first or the last stripe id of a bucket.
fn bound(number: u8, rest: u8) -> StripeId {
    let mut id = [rest; StripeId::LEN];
    id[0] = number;
    StripeId(id)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
