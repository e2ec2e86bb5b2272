//! What a reader knows of servers and shards that failed it, and its tickets.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use codec::StripeId;
use server::client::CoordinatorClient;
use server::wire::{Found, ReadTicket, Report, ServerId, State, StripeMap};
use tokio::sync::RwLock;

use super::Result;

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
    /// Servers that did not answer in time, and why.
    silent: HashMap<ServerId, String>,
    /// Shards that are not what they should be.
    bad: HashSet<(StripeId, u8)>,
    heals: Vec<Heal>,
}

/// How much is known against reading one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    /// Nothing.
    None,
    /// The coordinator's probes miss its server.
    Suspect,
    /// Its server did not answer this reader in time.
    Silent,
    /// It was reported bad before; it may have been mended since.
    Reported,
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

    pub(super) fn silent_server(&self, server: ServerId, why: String) {
        self.known().silent.insert(server, why);
    }

    pub(super) fn why_silent(&self, server: ServerId) -> Option<String> {
        self.known().silent.get(&server).cloned()
    }

    /// Remembers that a shard is bad; told to the coordinator once.
    pub(super) async fn bad_shard(&self, map: &StripeMap, index: u8, found: Found) {
        let Some(holder) = map.shards.iter().find(|h| h.index == index) else { return };
        if !self.known().bad.insert((map.stripe, index)) {
            return;
        }
        let server = match self.tickets().await {
            Ok(tickets) => tickets.servers.get(&holder.server).map(|t| t.name.clone()),
            Err(_) => None,
        };
        let server = server.unwrap_or_else(|| format!("server {}", holder.server.0));
        self.known().heals.push(Heal { stripe: map.stripe, index, server, found: found.clone() });
        let report = Report { stripe: map.stripe, index, server: holder.server, found };
        if let Err(error) = self.coordinator.report(&report).await {
            tracing::warn!(%error, "could not report a bad shard");
        }
    }

    pub(super) fn is_bad(&self, stripe: StripeId, index: u8) -> bool {
        self.known().bad.contains(&(stripe, index))
    }

    pub(super) fn doubt(&self, tickets: &Tickets, server: ServerId, reported: bool) -> Doubt {
        let suspect = tickets
            .servers
            .get(&server)
            .is_none_or(|t| matches!(t.state, State::Suspect | State::Down));
        match () {
            () if reported => Doubt::Reported,
            () if self.known().silent.contains_key(&server) => Doubt::Silent,
            () if suspect => Doubt::Suspect,
            () => Doubt::None,
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // Nothing panics while the lock is held; what stands there is whole in any case.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
