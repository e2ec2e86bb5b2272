//! Repair of a stripe: what it lacks is made again by one of the servers that shall hold it.
//! The coordinator gives the order and books the receipts; no shard passes through it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use codec::StripeId;

use super::Target;
use crate::auth::{self, Grant};
use crate::coordinator::Core;
use crate::coordinator::catalog::{Intended, Mended};
use crate::coordinator::clock::millis;
use crate::coordinator::fail_points::FailPoint;
use crate::coordinator::fleet::Member;
use crate::coordinator::placement::{self, Held, Question};
use crate::coordinator::prober;
use crate::coordinator::push::{candidates, check_receipt};
use crate::wire::{
    Code, Holder, LeaseId, Outcome, Place, ReadTicket, RebuildAnswer, RebuildRequest, ServerId,
    Source, State as Health, StripeMap, Work,
};
use crate::{Error, Result};

/// Why a shard is lacking that has no place.
const NO_PLACE: &str = "no server can take it";

/// Why one is that cannot be made.
const TOO_FEW: &str = "too few whole shards are left, or their servers are away";

/// How a stripe is to be repaired.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Servers that are down are not waited for.
    pub(super) thin: bool,
    /// It goes past the servers' pace.
    pub(super) urgent: bool,
    /// How long the rebuild may take.
    pub(super) timeout: Duration,
}

/// Has what `stripe` lacks made again, for the token `origin`. Nobody else repairs it meanwhile.
pub(super) async fn repair_stripe(
    core: &Core,
    origin: i64,
    stripe: StripeId,
    manner: Manner,
) -> Result<Repaired> {
    core.fleet.probed(core.timings.probe_timeout).await;
    let _claim = core.repairs.claim(stripe).await;
    loop {
        // It is none any more: what is struck out lacks nothing.
        let Some((map, version)) = core.catalog.versioned_map(stripe).await? else {
            return Ok(Repaired::nothing());
        };
        let members: BTreeMap<ServerId, Member> =
            core.fleet.members().into_iter().map(|m| (m.row.server, m)).collect();
        let plan = Plan::new(&map, &members, manner.thin);
        if plan.lacking.is_empty() {
            return Ok(Repaired::nothing());
        }
        let lease = LeaseId(0);
        let mut repair =
            Repair { core, origin, lease, manner, map: &map, version, members: &members };
        if plan.sources.len() < map.geometry.data() {
            let answer = RebuildAnswer::new(Outcome::TooFewSources);
            return Ok(Repaired {
                outcome: Some(answer.outcome),
                lacking: plan.lacking.iter().map(|&index| (index, TOO_FEW.to_owned())).collect(),
                unreachable: repair.unreachable(&answer),
                ..Repaired::nothing()
            });
        }
        let places = repair.places(&plan, map.file_bytes()).await?;
        if places.is_empty() {
            let lacking = plan.lacking.iter().map(|&index| (index, NO_PLACE.to_owned())).collect();
            return Ok(Repaired { lacking, ..Repaired::nothing() });
        }
        let Some(target) = core.repairs.target(&places, manner.urgent) else {
            // By then what was planned is old.
            drop(core.repairs.idle_target(&places, manner.urgent).await);
            continue;
        };
        // What a repair that fails leaves behind is a left-over of this lease.
        let (lease, _) = core.catalog.begin(origin, auth::random()?, core.timings.lease).await?;
        repair.lease = lease;
        core.planted.reach(FailPoint::LeaseBegun);
        let repaired = repair.run(&plan, &places, target).await;
        core.catalog.end_repair(lease).await?;
        core.planted.reach(FailPoint::LeaseEnded);
        if let Ok(Repaired { lacking, rebuilt, .. }) = &repaired
            && lacking.is_empty()
        {
            let bytes = rebuilt.len() as u64 * map.file_bytes();
            core.journal.whole(bytes, core.catalog.clock.now_ms());
        }
        return repaired;
    }
}

/// Has shards of `stripe` made at these places too, if it lacks nothing; gives how many. Where they
/// were is trimmed later.
pub(super) async fn move_shards(
    core: &Core,
    origin: i64,
    stripe: StripeId,
    places: Vec<(u8, ServerId)>,
    manner: Manner,
) -> Result<u64> {
    let _claim = core.repairs.claim(stripe).await;
    let target = core.repairs.idle_target(&places, manner.urgent).await;
    let Some((map, version)) = core.catalog.versioned_map(stripe).await? else { return Ok(0) };
    let members: BTreeMap<ServerId, Member> =
        core.fleet.members().into_iter().map(|m| (m.row.server, m)).collect();
    let mut plan = Plan::new(&map, &members, false);
    let entombed = core.catalog.entombed(stripe).await?;
    let takes = |server: &ServerId| {
        !entombed.contains(server)
            && members
                .get(server)
                .is_some_and(|m| m.takes_writes() && m.row.free_bytes >= map.file_bytes())
    };
    if !plan.lacking.is_empty() || !places.iter().all(|(_, server)| takes(server)) {
        return Ok(0);
    }
    plan.lacking = places.iter().map(|(index, _)| *index).collect();
    let (lease, _) = core.catalog.begin(origin, auth::random()?, core.timings.lease).await?;
    core.planted.reach(FailPoint::MoveBegun);
    let repair = Repair { core, origin, lease, manner, map: &map, version, members: &members };
    let moved = repair.run(&plan, &places, target).await;
    core.planted.reach(FailPoint::MoveBooked);
    core.catalog.end_repair(lease).await?;
    core.planted.reach(FailPoint::MoveEnded);
    Ok(moved?.rebuilt.len() as u64)
}

/// What became of a repair.
pub(super) struct Repaired {
    /// How the rebuild ended; none where nothing was lacking.
    pub(super) outcome: Option<Outcome>,
    /// Shards that were made again, and where they are now.
    pub(super) rebuilt: Vec<(u8, ServerId)>,
    /// Shards that are still lacking, and why.
    pub(super) lacking: Vec<(u8, String)>,
    /// Servers, by name, that hold a shard of the stripe and did not give it just now: while there
    /// is one, nothing is lost.
    pub(super) unreachable: Vec<String>,
    /// Bytes of the files that were made.
    pub(super) made_bytes: u64,
    /// Bytes that went over the network to make them.
    pub(super) read_bytes: u64,
}

impl Repaired {
    /// Nothing was lacking.
    fn nothing() -> Self {
        Self {
            outcome: None,
            rebuilt: Vec::new(),
            lacking: Vec::new(),
            unreachable: Vec::new(),
            made_bytes: 0,
            read_bytes: 0,
        }
    }
}

/// What a stripe has and lacks.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Shards that are good as far as is known, on servers that are not lost.
    held: Vec<(u8, ServerId)>,
    /// Indexes without such a shard.
    lacking: BTreeSet<u8>,
    /// Shards that can be read, damaged ones where nothing better is there.
    sources: Vec<(u8, ServerId)>,
}

impl Plan {
    fn new(map: &StripeMap, members: &BTreeMap<ServerId, Member>, thin: bool) -> Self {
        let state = |holder: &Holder| members.get(&holder.server).map(|m| m.health.state);
        let answers = |holder: &Holder| {
            matches!(state(holder), Some(Health::Up | Health::Suspect | Health::Returned))
        };
        // What a server that is down holds is waited for, what a lost one held is not.
        let counts = |m: &Member| match m.health.state {
            Health::Lost => false,
            Health::Down => !thin,
            state => state.counts_as_holder(m.mode),
        };
        let good =
            |holder: &&Holder| !holder.bad && members.get(&holder.server).is_some_and(counts);
        let mut held: BTreeMap<u8, ServerId> = BTreeMap::new();
        for holder in map.shards.iter().filter(good) {
            held.entry(holder.index).or_insert(holder.server);
        }
        let mut readable: Vec<&Holder> = map.shards.iter().filter(|h| answers(h)).collect();
        readable.sort_by_key(|holder| (holder.index, holder.bad));
        readable.dedup_by_key(|holder| holder.index);
        Self {
            lacking: (0..map.geometry.shards() as u8).filter(|i| !held.contains_key(i)).collect(),
            held: held.into_iter().collect(),
            sources: readable.iter().map(|holder| (holder.index, holder.server)).collect(),
        }
    }
}

/// One repair under way.
struct Repair<'a> {
    core: &'a Core,
    origin: i64,
    lease: LeaseId,
    manner: Manner,
    map: &'a StripeMap,
    /// That of the map.
    version: u64,
    members: &'a BTreeMap<ServerId, Member>,
}

impl Repair<'_> {
    async fn run(
        &self,
        plan: &Plan,
        places: &[(u8, ServerId)],
        target: Target<'_>,
    ) -> Result<Repaired> {
        let (core, map) = (self.core, self.map);
        let mut order = RebuildRequest {
            stripe: map.stripe,
            geometry: map.geometry,
            pack_bytes: map.pack_bytes,
            pack_key_bytes: map.pack_key.0.len() as u16,
            epoch: 0,
            sources: Vec::new(),
            places: Vec::new(),
        };
        let intended = Intended {
            lease: self.lease,
            stripe: map.stripe,
            stored: Vec::new(),
            places: places.to_vec(),
        };
        let terms = core.catalog.record_intent(self.origin, intended).await?;
        core.planted.reach(FailPoint::IntentRecorded);
        let (epoch, now_ms) = (core.catalog.epoch(), core.catalog.clock.now_ms());
        let expires_ms = terms.ticket_end(now_ms, millis(core.timings.ticket));
        let ticket = |grant, server| core.ticket(grant, server, epoch, now_ms, expires_ms);
        for &(index, server) in &plan.sources {
            let Some(Member { row, health, .. }) = self.members.get(&server) else { continue };
            let at = ReadTicket {
                server,
                name: row.name.clone(),
                zone: row.zone.clone(),
                url: row.url.clone(),
                state: health.state,
                ticket: ticket(Grant::Read, server)?,
            };
            order.sources.push(Source { index, at });
        }
        for &(index, server) in places {
            let Some(Member { row, .. }) = self.members.get(&server) else { continue };
            let file_bytes = order.file_bytes();
            let grant = Grant::Put { stripe: map.stripe, index, file_bytes };
            let (name, url) = (row.name.clone(), row.url.clone());
            order.places.push(Place { index, server, name, url, ticket: ticket(grant, server)? });
        }
        order.epoch = epoch;
        let gone = || Error::refuse(Code::TooFewServers, "the server that shall rebuild is gone");
        let member = self.members.get(&target.server).ok_or_else(gone)?;
        let answer = tokio::select! {
            answer = self.send(member, &order) => answer,
            never = core.planted.reach_during(FailPoint::OrderSent) => match never {},
        };
        let answer = answer.inspect_err(|error| {
            // One that is busy, or has just started, is well.
            if error.code() != Some(Code::Busy) {
                core.repairs.shun(target.server);
                core.fleet.failed(&[target.server], core.catalog.clock.now_ms());
            }
        })?;
        core.planted.reach(FailPoint::AnswerReceived);
        self.book(plan, member, places, answer).await
    }

    /// Where each lacking shard shall be: where a damaged one of the same index is, so that only
    /// its bad blocks are made again; else wherever a new one would go.
    async fn places(&self, plan: &Plan, file_bytes: u64) -> Result<Vec<(u8, ServerId)>> {
        let zone = |server: ServerId| self.members.get(&server).map(|m| m.row.zone.clone());
        let shunned = self.core.repairs.shunned();
        let can_take = |server: ServerId| {
            !shunned.contains(&server)
                && self
                    .members
                    .get(&server)
                    .is_some_and(|m| m.takes_writes() && m.row.free_bytes >= file_bytes)
        };
        let mut in_place: BTreeMap<u8, ServerId> = BTreeMap::new();
        for Holder { index, server, bad } in self.map.shards.iter().copied() {
            if bad && plan.lacking.contains(&index) && can_take(server) {
                in_place.entry(index).or_insert(server);
            }
        }
        let held = plan.held.iter().copied().chain(in_place.clone());
        let held: Vec<Held> = held
            .filter_map(|(index, server)| Some(Held { index, server, zone: zone(server)? }))
            .collect();
        let candidates = candidates(self.core, self.members.values(), self.map.geometry).await;
        // A server that holds one, whole or not, takes no other, nor does one that shall trash one.
        let mut avoid: BTreeSet<ServerId> = self.map.shards.iter().map(|h| h.server).collect();
        avoid.extend(self.core.catalog.entombed(self.map.stripe).await?);
        avoid.extend(&shunned);
        let elsewhere = placement::place(&Question {
            stripe: self.map.stripe,
            geometry: self.map.geometry,
            file_bytes,
            candidates: &candidates,
            held: &held,
            avoid: &avoid,
            before: &[],
        });
        Ok(in_place.into_iter().chain(elsewhere).collect())
    }

    async fn send(&self, target: &Member, order: &RebuildRequest) -> Result<RebuildAnswer> {
        let name = &target.row.name;
        let refuse = |code, why: String| {
            let what = format!("{name} did not rebuild stripe {:.12}: {why}", order.stripe);
            Error::refuse(code, what)
        };
        let failed = |why| refuse(Code::TooFewServers, why);
        let work = if self.manner.urgent { Work::Urgent } else { Work::Background };
        let answer = prober::rebuild(self.core, target, order, work, self.manner.timeout);
        let bytes = answer.await.map_err(|missed| match missed.code {
            Some(Code::Busy | Code::NotReady) => refuse(Code::Busy, missed.why),
            _ => failed(missed.why),
        })?;
        serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))
    }

    /// Books what the rebuild met, and then what it made: a shard that was mended in its place is
    /// good in the end.
    async fn book(
        &self,
        plan: &Plan,
        target: &Member,
        places: &[(u8, ServerId)],
        answer: RebuildAnswer,
    ) -> Result<Repaired> {
        let (core, stripe) = (self.core, self.map.stripe);
        let unreachable = self.unreachable(&answer);
        let mut found = Vec::new();
        for (index, server, what) in answer.found {
            let is_known = self.map.shards.iter().any(|h| (h.index, h.server) == (index, server));
            if is_known && server == target.row.server {
                found.push((index, server, what));
            } else {
                // A server's word counts for its own disk: it could talk down all the others.
                let (name, server) = (&target.row.name, server.0);
                tracing::warn!(name, server, index, ?what, "a rebuild met a bad shard elsewhere");
            }
        }
        let mut rebuilt = Vec::with_capacity(answer.receipts.len());
        for receipt in &answer.receipts {
            check_receipt(core, stripe, receipt)?;
            rebuilt.push((receipt.index, receipt.server));
        }
        rebuilt.retain(|made| places.contains(made));
        let mended = Mended { stripe, version: self.version, found, made: rebuilt.clone() };
        core.catalog.book_repair(self.origin, self.lease, mended).await?;
        core.planted.reach(FailPoint::RepairBooked);
        let (made, urgent) = (rebuilt.len() as u64, self.manner.urgent);
        core.repairs.made(made, urgent, self.map.file_bytes(), answer.read_bytes);
        let mut lacking: BTreeMap<u8, String> =
            plan.lacking.iter().map(|&index| (index, NO_PLACE.to_owned())).collect();
        let why = match answer.outcome {
            Outcome::Rebuilt => "it could not be stored",
            Outcome::TooFewSources => TOO_FEW,
            Outcome::Inconsistent => "the stripe's parity never was the code of its data",
        };
        for (index, _) in places {
            lacking.insert(*index, why.to_owned());
        }
        for (index, server, why) in answer.failed {
            let name = self.members.get(&server).map(|m| m.row.name.as_str()).unwrap_or_default();
            lacking.insert(index, format!("{name}: {why}"));
        }
        rebuilt.iter().for_each(|(index, _)| drop(lacking.remove(index)));
        Ok(Repaired {
            outcome: Some(answer.outcome),
            made_bytes: rebuilt.len() as u64 * self.map.file_bytes(),
            rebuilt,
            lacking: lacking.into_iter().collect(),
            unreachable,
            read_bytes: answer.read_bytes,
        })
    }

    /// Servers that failed the rebuild, or hold a shard and were not asked since they are away:
    /// those that are lost are not waited for.
    fn unreachable(&self, answer: &RebuildAnswer) -> Vec<String> {
        let failed: BTreeSet<ServerId> = answer.unreachable.iter().map(|(at, _)| *at).collect();
        let holders: BTreeSet<ServerId> = self.map.shards.iter().map(|h| h.server).collect();
        let is_away = |m: &&Member| match m.health.state {
            Health::Lost => false,
            Health::Down | Health::Unknown => true,
            Health::Up | Health::Suspect | Health::Returned => failed.contains(&m.row.server),
        };
        let members = holders.iter().filter_map(|server| self.members.get(server));
        members.filter(is_away).map(|m| m.row.name.clone()).collect()
    }
}
