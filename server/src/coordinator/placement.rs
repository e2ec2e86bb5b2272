//! Which servers take which shards of a stripe: weighted rendezvous hashing.
//!
//! Every server has a score for every stripe, -ln(u)/v with u drawn from a hash of both; the
//! lowest scores win. The rates v are solved for the servers' shares. A server more or less moves
//! only the shards it takes or gave. The zones then bound the choice: at most m of a stripe in
//! one, else as even as possible.

mod shares;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use codec::{Geometry, StripeId};

use crate::cpu;
use crate::wire::ServerId;

/// A server that may take a shard.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    /// The server.
    pub(super) server: ServerId,
    /// Its failure domain.
    pub(super) zone: String,
    /// Its rate in [`Rates`].
    pub(super) rate: f64,
    /// Bytes that it can still take.
    pub(super) room_bytes: u64,
}

/// A shard that is stored already.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// Its index.
    pub(super) index: u8,
    /// Where it is.
    pub(super) server: ServerId,
    /// That server's failure domain.
    pub(super) zone: String,
}

/// What to place.
#[derive(Debug)]
pub(super) struct Question<'a> {
    /// The stripe.
    pub(super) stripe: StripeId,
    /// Its code.
    pub(super) geometry: Geometry,
    /// Bytes of each shard file.
    pub(super) file_bytes: u64,
    /// Servers that may take one.
    pub(super) candidates: &'a [Candidate],
    /// Shards stored already: their servers take no other, their indexes are not given again.
    pub(super) held: &'a [Held],
    /// Servers not to name.
    pub(super) avoid: &'a BTreeSet<ServerId>,
    /// What servers were named for before: a server keeps its index where that is still free.
    pub(super) before: &'a [(u8, ServerId)],
}

/// An index and a server for every shard that is not stored yet, by index; fewer when servers
/// are short.
pub(super) fn place(question: &Question) -> Vec<(u8, ServerId)> {
    let stored: BTreeSet<u8> = question.held.iter().map(|h| h.index).collect();
    let free: BTreeSet<u8> =
        (0..question.geometry.shards()).map(|i| i as u8).filter(|i| !stored.contains(i)).collect();
    assign(free.clone(), &choose(question, free.len()), question.before)
}

/// How many servers could take the place of one that fails, `places` being taken already.
pub(super) fn spares(question: &Question, places: usize) -> usize {
    question.open_candidates().count().saturating_sub(places)
}

impl<'a> Question<'a> {
    /// Candidates that have room and no shard of the stripe.
    fn open_candidates(&self) -> impl Iterator<Item = &'a Candidate> {
        let holds = |server| self.held.iter().any(|h| h.server == server);
        self.candidates.iter().filter(move |c| {
            c.room_bytes >= self.file_bytes && !holds(c.server) && !self.avoid.contains(&c.server)
        })
    }
}

/// The `wanted` best servers within the zones' bounds.
fn choose(question: &Question, wanted: usize) -> Vec<ServerId> {
    let mut ranked: Vec<(f64, &Candidate)> =
        question.open_candidates().map(|c| (score(question.stripe, c), c)).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.server.cmp(&b.1.server)));

    let mut in_zone: BTreeMap<&str, usize> = BTreeMap::new();
    for held in question.held {
        *in_zone.entry(&held.zone).or_default() += 1;
    }
    let mut chosen = Vec::with_capacity(wanted);
    let mut rest = Vec::new();
    for (_, candidate) in ranked {
        let filled = in_zone.entry(&candidate.zone).or_default();
        if chosen.len() < wanted && *filled < question.geometry.parity() {
            *filled += 1;
            chosen.push(candidate.server);
        } else {
            rest.push(candidate);
        }
    }
    // Too few zones for the bound: the emptiest one takes the next, the best server first.
    while chosen.len() < wanted {
        let fill = |c: &Candidate| in_zone.get(c.zone.as_str()).copied().unwrap_or(0);
        let Some(at) = (0..rest.len()).min_by_key(|&i| (fill(rest[i]), i)) else { break };
        let candidate = rest.remove(at);
        *in_zone.entry(&candidate.zone).or_default() += 1;
        chosen.push(candidate.server);
    }
    chosen
}

/// Gives each server an index: the one it was named for before, else the next free one.
fn assign(
    mut free: BTreeSet<u8>,
    servers: &[ServerId],
    before: &[(u8, ServerId)],
) -> Vec<(u8, ServerId)> {
    let mut places = BTreeMap::new();
    let mut newly = Vec::new();
    for &server in servers {
        match before.iter().find(|(i, s)| *s == server && free.contains(i)) {
            Some(&(index, _)) => {
                free.remove(&index);
                places.insert(index, server);
            }
            None => newly.push(server),
        }
    }
    places.extend(free.into_iter().zip(newly));
    places.into_iter().collect()
}

/// The lower, the sooner `candidate` is chosen for `stripe`.
fn score(stripe: StripeId, candidate: &Candidate) -> f64 {
    let mut hasher = blake3::Hasher::new_derive_key("arc v0 placement");
    hasher.update(stripe.as_bytes()).update(&candidate.server.0.to_le_bytes());
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    // 53 bits, the middle of each step: never 0 and never 1.
    let u = ((u64::from_le_bytes(first) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    if candidate.rate.is_infinite() {
        // Before all others, and among themselves in another order for each stripe.
        return u - 1.0;
    }
    -u.ln() / candidate.rate.max(f64::MIN_POSITIVE)
}

/// The rates of all servers that there are, up or not, so that one which is away for a while
/// changes no other's. Solved once for each number of shards, until a server or weight changes.
#[derive(Default)]
pub(super) struct Rates(Mutex<Solved>);

#[derive(Default)]
struct Solved {
    servers: Vec<(ServerId, f64)>,
    by_shards: BTreeMap<usize, Arc<BTreeMap<ServerId, f64>>>,
}

impl Rates {
    /// The rates for stripes of `n` shards on servers of these weights, which are above 0.
    pub(super) async fn of(
        &self,
        servers: Vec<(ServerId, f64)>,
        n: usize,
    ) -> Arc<BTreeMap<ServerId, f64>> {
        {
            let mut solved = self.solved();
            if solved.servers != servers {
                *solved = Solved { servers: servers.clone(), by_shards: BTreeMap::new() };
            }
            if let Some(rates) = solved.by_shards.get(&n) {
                return Arc::clone(rates);
            }
        }
        let (servers, rates) = cpu::run(move || {
            let rates = Arc::new(solve(&servers, n));
            (servers, rates)
        })
        .await;
        let mut solved = self.solved();
        if solved.servers == servers {
            solved.by_shards.insert(n, Arc::clone(&rates));
        }
        rates
    }

    fn solved(&self) -> MutexGuard<'_, Solved> {
        // What stands there is whole after every statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The share of all shards, of stripes of `n`, that each of servers of these weights should hold.
pub(super) fn shares_of(weights: &[f64], n: usize) -> Vec<f64> {
    let of_stripes = shares::targets(weights, n);
    let sum: f64 = of_stripes.iter().sum();
    of_stripes.into_iter().map(|share| share / sum).collect()
}

fn solve(servers: &[(ServerId, f64)], n: usize) -> BTreeMap<ServerId, f64> {
    let weights: Vec<f64> = servers.iter().map(|(_, weight)| *weight).collect();
    let rates = shares::rates(&shares::targets(&weights, n), n);
    servers.iter().map(|(server, _)| *server).zip(rates).collect()
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod histories;
