//! What a reader knows of servers and shards that failed it, and its tickets.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use codec::StripeId;
use server::client::CoordinatorClient;
use server::wire::{Code, Found, Holder, ReadTicket, Report, ServerId, State, StripeMap};
use tokio::sync::RwLock;

use super::Result;

/// A server that was waited for in vain is not asked again for this long.
const GIVEN_UP_FOR: Duration = Duration::from_secs(60);

/// Something that reading met and got around.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heal {
    /// The stripe.
    pub stripe: StripeId,
    /// Index of the shard.
    pub index: u8,
    /// The server's name.
    pub server: String,
    /// What was found there.
    pub found: Found,
}

/// A server that was asked and gave no usable answer: others were read in its stead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// The server's name.
    pub server: String,
    /// What happened.
    pub why: String,
    /// It did answer, but not as a sound server does.
    pub is_nonsense: bool,
}

/// Tickets for every server, by its number.
#[derive(Debug)]
pub struct Tickets {
    /// The tickets.
    pub servers: HashMap<ServerId, ReadTicket>,
    good_until: Instant,
}

pub(super) struct Trouble {
    coordinator: CoordinatorClient,
    tickets: RwLock<Option<Arc<Tickets>>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Servers that gave no usable answer.
    passed_over: HashMap<ServerId, PassedOver>,
    /// Those of them that were waited for patiently, and when that was in vain.
    given_up: HashMap<ServerId, Instant>,
    /// Shards that are not what they should be.
    bad: HashSet<(StripeId, u8, ServerId)>,
    heals: Vec<Heal>,
}

/// How much is known against reading one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    /// Nothing.
    None,
    /// The coordinator's probes miss its server.
    Suspect,
    /// Its server gave this reader no usable answer.
    PassedOver,
    /// It was reported bad before; it may have been mended since.
    Reported,
}

/// Whether a server refused a ticket that another may replace.
pub(super) fn is_stale(error: &server::Error) -> bool {
    matches!(error.code(), Some(Code::Expired | Code::StaleEpoch | Code::Unauthorized))
}

impl Trouble {
    pub(super) fn new(coordinator: CoordinatorClient) -> Self {
        Self { coordinator, tickets: RwLock::new(None), known: Mutex::default() }
    }

    pub(super) fn heals(&self) -> Vec<Heal> {
        self.known().heals.clone()
    }

    pub(super) async fn tickets(&self) -> Result<Arc<Tickets>> {
        if let Some(tickets) = self.tickets.read().await.as_ref()
            && Instant::now() < tickets.good_until
        {
            return Ok(Arc::clone(tickets));
        }
        let answer = self.coordinator.read_tickets().await?;
        // Renewed well before the servers would refuse them.
        let lasts = Duration::from_millis(answer.expires_ms.saturating_sub(answer.now_ms)) / 2;
        let tickets = Arc::new(Tickets {
            servers: answer.servers.into_iter().map(|t| (t.server, t)).collect(),
            good_until: Instant::now() + lasts,
        });
        *self.tickets.write().await = Some(Arc::clone(&tickets));
        Ok(tickets)
    }

    /// Has the next read ask for new tickets.
    pub(super) async fn renew_tickets(&self) {
        *self.tickets.write().await = None;
    }

    pub(super) fn passed_over(&self) -> Vec<PassedOver> {
        let mut servers: Vec<_> = self.known().passed_over.values().cloned().collect();
        servers.sort_by(|a, b| a.server.cmp(&b.server));
        servers
    }

    pub(super) fn pass_over(&self, ticket: &ReadTicket, error: &server::Error, patient: bool) {
        let mut known = self.known();
        let is_nonsense = matches!(error, server::Error::Nonsense { .. });
        // That it was slow once does not cover up nonsense.
        let is_told =
            known.passed_over.get(&ticket.server).is_some_and(|p| p.is_nonsense || !is_nonsense);
        if !is_told {
            let (server, why) = (ticket.name.clone(), error.to_string());
            known.passed_over.insert(ticket.server, PassedOver { server, why, is_nonsense });
        }
        if patient {
            known.given_up.insert(ticket.server, Instant::now());
        }
    }

    /// Whether a server was waited for in vain just now: every stripe would wait as long again.
    pub(super) fn is_given_up(&self, server: ServerId) -> bool {
        self.known().given_up.get(&server).is_some_and(|at| at.elapsed() < GIVEN_UP_FOR)
    }

    pub(super) fn is_passed_over(&self, server: ServerId) -> bool {
        self.known().passed_over.contains_key(&server)
    }

    /// Remembers that a shard is bad; told to the coordinator once.
    pub(super) async fn bad_shard(&self, map: &StripeMap, holder: &Holder, found: Found) {
        let Holder { index, server, .. } = *holder;
        if !self.known().bad.insert((map.stripe, index, server)) {
            return;
        }
        let name = match self.tickets().await {
            Ok(tickets) => tickets.servers.get(&server).map(|t| t.name.clone()),
            Err(_) => None,
        };
        let server = name.unwrap_or_else(|| format!("server {}", server.0));
        self.known().heals.push(Heal { stripe: map.stripe, index, server, found: found.clone() });
        self.report(map, holder, found).await;
    }

    /// Tells the coordinator that a shard is whole after all.
    pub(super) async fn good_shard(&self, map: &StripeMap, holder: &Holder) {
        self.report(map, holder, Found::Good).await;
    }

    async fn report(&self, map: &StripeMap, holder: &Holder, found: Found) {
        let Holder { index, server, .. } = *holder;
        let report = Report { stripe: map.stripe, index, server, found };
        if let Err(error) = self.coordinator.report(&report).await {
            tracing::warn!(%error, "could not report what was found of a shard");
        }
    }

    pub(super) fn is_bad(&self, stripe: StripeId, holder: &Holder) -> bool {
        self.known().bad.contains(&(stripe, holder.index, holder.server))
    }

    /// How many of the stripe's shards are known to be nowhere: each of their holders was found
    /// bad, or they have none.
    pub(super) fn bad_shards(&self, map: &StripeMap) -> usize {
        let gone = |index: &u8| {
            let mut holders = map.shards.iter().filter(|holder| holder.index == *index);
            holders.all(|holder| self.is_bad(map.stripe, holder))
        };
        (0..map.geometry.shards() as u8).filter(gone).count()
    }

    pub(super) fn doubt(&self, tickets: &Tickets, server: ServerId, reported: bool) -> Doubt {
        let suspect = tickets
            .servers
            .get(&server)
            .is_none_or(|t| matches!(t.state, State::Suspect | State::Down));
        match () {
            () if reported => Doubt::Reported,
            () if self.is_passed_over(server) => Doubt::PassedOver,
            () if suspect => Doubt::Suspect,
            () => Doubt::None,
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // Nothing panics while the lock is held; what stands there is whole in any case.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use codec::Geometry;
    use codec::seal::PackKeyField;
    use codec::shard::Kind;

    use super::*;

    #[tokio::test]
    async fn a_shard_is_gone_when_all_its_holders_are_bad_or_it_has_none() {
        // Nobody listens there: what is found is remembered all the same.
        let nobody = CoordinatorClient::new("http://127.0.0.1:1", "").unwrap();
        let trouble = Trouble::new(nobody.with_patience(Duration::ZERO));
        let holder = |index, server| Holder { index, server: ServerId(server), bad: false };
        let map = StripeMap {
            stripe: StripeId([1; 32]),
            kind: Kind::Data,
            geometry: Geometry::new(2, 2).unwrap(),
            pack_bytes: 1,
            pack_key: PackKeyField(vec![0]),
            frames: vec![],
            shards: vec![holder(0, 1), holder(1, 2), holder(1, 3), holder(2, 4)],
        };
        assert_eq!(trouble.bad_shards(&map), 1, "shard 3 has no holder");
        trouble.bad_shard(&map, &map.shards[2], Found::Missing).await;
        assert_eq!(trouble.bad_shards(&map), 1, "shard 1 has another holder");
        assert!(!trouble.is_bad(map.stripe, &map.shards[1]));
        trouble.bad_shard(&map, &map.shards[1], Found::Missing).await;
        assert_eq!(trouble.bad_shards(&map), 2);
        trouble.good_shard(&map, &map.shards[0]).await;
        assert_eq!(trouble.bad_shards(&map), 2, "a shard that is whole is not bad");
        assert_eq!(trouble.heals().len(), 2);
    }
}
