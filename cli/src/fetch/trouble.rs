//! What a reader knows of servers and shards that failed it, and its tickets.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use codec::StripeId;
use server::wire::{Code, Found, Holder, ReadTicket, Report, ServerId, State, StripeMap};
use tokio::sync::RwLock;

use super::Result;
use super::origin::Origin;
use super::pace::{Asked, Pace};

/// A server that was waited for in vain is not asked again for this long.
const GIVEN_UP_FOR: Duration = Duration::from_secs(60);

/// A shard whose bytes broke off this often is not read again; a server that starts again in
/// the middle breaks off those of its header and its body.
const BROKEN_OFF_MAX: u32 = 4;

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

impl Tickets {
    /// Whether what this server held is not waited for any more.
    pub fn is_lost(&self, server: ServerId) -> bool {
        self.servers.get(&server).is_none_or(|ticket| ticket.state == State::Lost)
    }
}

pub(super) struct Trouble {
    origin: Arc<Origin>,
    tickets: RwLock<Option<Arc<Tickets>>>,
    known: Mutex<Known>,
    pace: Mutex<Pace>,
}

#[derive(Default)]
struct Known {
    /// What is told of servers.
    passed_over: HashMap<ServerId, PassedOver>,
    /// Servers that gave no usable answer.
    doubted: HashSet<ServerId>,
    /// Those of them that were waited for patiently, and when that was in vain.
    given_up: HashMap<ServerId, Instant>,
    /// How often the bytes of a shard broke off in the middle.
    broken_off: HashMap<(StripeId, u8, ServerId), u32>,
    /// Shards that are not what they should be.
    amiss: HashMap<(StripeId, u8, ServerId), Amiss>,
    heals: Vec<Heal>,
}

/// What is amiss with a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Amiss {
    /// Some of it is damaged; other blocks of it may be whole.
    Damaged,
    /// Its server does not have it.
    Missing,
    /// Its server does not have it, nor should it: the map that names it is older than the catalog.
    Moved,
}

impl Known {
    fn tell(&mut self, ticket: &ReadTicket, error: &server::Error) {
        use server::Error::{Nonsense, Untrusted};
        let is_nonsense = matches!(error, Nonsense { .. } | Untrusted { .. });
        // That it was slow once does not cover up nonsense.
        let is_told =
            self.passed_over.get(&ticket.server).is_some_and(|p| p.is_nonsense || !is_nonsense);
        if !is_told {
            let (server, why) = (ticket.name.clone(), error.to_string());
            self.passed_over.insert(ticket.server, PassedOver { server, why, is_nonsense });
        }
    }
}

/// How much is known against reading one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    /// Nothing.
    None,
    /// Its server is far slower than the others.
    Slow,
    /// The coordinator's probes miss its server.
    Suspect,
    /// Its server gave this reader no usable answer, for any shard or for this one.
    PassedOver,
    /// It was reported bad before; it may have been mended since.
    Reported,
    /// This reader found it damaged; other blocks of it may be whole.
    Damaged,
}

/// Whether a server refused a ticket that another may replace.
pub(super) fn is_stale(error: &server::Error) -> bool {
    matches!(error.code(), Some(Code::Expired | Code::StaleEpoch | Code::Unauthorized))
}

impl Trouble {
    pub(super) fn new(origin: Arc<Origin>) -> Self {
        Self { origin, tickets: RwLock::new(None), known: Mutex::default(), pace: Mutex::default() }
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
        let answer = self.origin.tickets().await?;
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

    /// Notes that a server gave no usable answer, and, if it was waited for patiently, that this
    /// was in vain.
    pub(super) fn pass_over(&self, ticket: &ReadTicket, error: &server::Error, patient: bool) {
        let mut known = self.known();
        known.tell(ticket, error);
        known.doubted.insert(ticket.server);
        if patient && error.is_passing() {
            known.given_up.insert(ticket.server, Instant::now());
        }
    }

    /// Notes that the bytes of a shard broke off; true when that was once too often.
    pub(super) fn broke_off(
        &self,
        stripe: StripeId,
        holder: &Holder,
        ticket: &ReadTicket,
        error: &server::Error,
    ) -> bool {
        let mut known = self.known();
        known.tell(ticket, error);
        let times = known.broken_off.entry((stripe, holder.index, holder.server)).or_default();
        *times += 1;
        *times >= BROKEN_OFF_MAX
    }

    /// Whether a server was waited for in vain just now: every stripe would wait as long again.
    fn is_given_up(&self, server: ServerId) -> bool {
        self.known().given_up.get(&server).is_some_and(|at| at.elapsed() < GIVEN_UP_FOR)
    }

    /// Whether a server was waited for in vain and has not answered since: it is asked again now
    /// and then, and not waited for.
    pub(super) fn was_given_up(&self, server: ServerId) -> bool {
        self.known().given_up.contains_key(&server)
    }

    /// Notes that a server in doubt gave what it was asked for.
    pub(super) fn answered(&self, server: ServerId) {
        self.known().given_up.remove(&server);
    }

    pub(super) fn is_passed_over(&self, server: ServerId) -> bool {
        self.known().passed_over.contains_key(&server)
    }

    /// Remembers that a shard is bad, and tells the coordinator, once. False: it is not, for the
    /// catalog has it elsewhere by now, or its stripe is gone.
    pub(super) async fn bad_shard(&self, map: &StripeMap, holder: &Holder, found: Found) -> bool {
        let Holder { index, server, .. } = *holder;
        let name = match self.tickets().await {
            Ok(tickets) => tickets.servers.get(&server).map(|t| t.name.clone()),
            Err(_) => None,
        };
        let name = name.unwrap_or_else(|| format!("server {}", server.0));
        let shard = (map.stripe, index, server);
        let is_missing = found == Found::Missing;
        let amiss = if is_missing { Amiss::Missing } else { Amiss::Damaged };
        {
            let mut known = self.known();
            match known.amiss.get(&shard) {
                Some(Amiss::Moved) => return false,
                Some(_) => {
                    known.amiss.insert(shard, amiss);
                    return true;
                }
                None => drop(known.amiss.insert(shard, amiss)),
            }
        }
        let is_expected = self.report(map, holder, found.clone()).await;
        let mut known = self.known();
        if is_missing && !is_expected {
            known.amiss.insert(shard, Amiss::Moved);
            return false;
        }
        known.heals.push(Heal { stripe: map.stripe, index, server: name, found });
        true
    }

    /// Tells the coordinator that a shard is whole after all.
    pub(super) async fn good_shard(&self, map: &StripeMap, holder: &Holder) {
        let _ = self.report(map, holder, Found::Good).await;
    }

    /// False where the catalog has no such shard.
    async fn report(&self, map: &StripeMap, holder: &Holder, found: Found) -> bool {
        let Holder { index, server, .. } = *holder;
        let report = Report { stripe: map.stripe, index, server, found };
        match self.origin.report(&report).await {
            Err(error) if error.code() == Some(Code::NotFound) => return false,
            Err(error) => tracing::warn!(%error, "could not report what was found of a shard"),
            Ok(()) => {}
        }
        true
    }

    pub(super) fn is_missing(&self, stripe: StripeId, holder: &Holder) -> bool {
        self.amiss(stripe, holder) == Some(Amiss::Missing)
    }

    /// Whether any shard was found not to be where the map has it, nor to be expected there.
    pub(super) fn any_moved(&self, map: &StripeMap) -> bool {
        map.shards.iter().any(|holder| self.amiss(map.stripe, holder) == Some(Amiss::Moved))
    }

    fn amiss(&self, stripe: StripeId, holder: &Holder) -> Option<Amiss> {
        self.known().amiss.get(&(stripe, holder.index, holder.server)).copied()
    }

    /// What speaks against reading a shard; `None`: it is not to be read.
    pub(super) fn doubt(
        &self,
        tickets: &Tickets,
        stripe: StripeId,
        holder: &Holder,
    ) -> Option<Doubt> {
        let Holder { index, server, bad } = *holder;
        let ticket = tickets.servers.get(&server)?;
        if self.is_given_up(server) {
            return None;
        }
        let known = self.known();
        let broken_off = known.broken_off.get(&(stripe, index, server)).copied().unwrap_or(0);
        let amiss = known.amiss.get(&(stripe, index, server));
        if amiss.is_some_and(|amiss| *amiss != Amiss::Damaged) || broken_off >= BROKEN_OFF_MAX {
            return None;
        }
        Some(match () {
            () if amiss.is_some() => Doubt::Damaged,
            () if bad => Doubt::Reported,
            () if broken_off > 0 || known.doubted.contains(&server) => Doubt::PassedOver,
            () if ticket.state.is_away() => Doubt::Suspect,
            () if self.pace().is_slow(server, Instant::now()) => Doubt::Slow,
            () => Doubt::None,
        })
    }

    /// Notes that a server is asked for `bytes`.
    pub(super) fn asked(&self, server: ServerId, bytes: u64) -> UnderWay<'_> {
        UnderWay { trouble: self, asked: self.pace().asked(server, bytes) }
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        // As below.
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // Nothing panics while the lock is held; what stands there is whole in any case.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A read of a server, under way until this is dropped.
pub(super) struct UnderWay<'a> {
    trouble: &'a Trouble,
    asked: Asked,
}

impl UnderWay<'_> {
    /// Whether it takes so long that others should be asked in the server's stead.
    pub(super) fn is_late(&mut self, took: Duration) -> bool {
        self.trouble.pace().is_late(&mut self.asked, took)
    }

    /// Notes what it took until it was done or cut off; true when its server is slow from here on.
    pub(super) fn took(&mut self, took: Duration) -> bool {
        self.trouble.pace().took(&mut self.asked, took, Instant::now())
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.trouble.pace().ended(&self.asked);
    }
}
