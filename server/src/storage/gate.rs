//! Who is let in: the checks of every ticket, and the epoch that fences old ones.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use super::clock::Clock;
use super::folder::Folder;
use super::identity::Identity;
use super::server::blocking;
use crate::auth::{Grant, Ticket, verify_ticket};
use crate::wire::{Code, Refusal};
use crate::{Error, Result};

const EPOCH_FILE: &str = "epoch";

/// Checks tickets against what the server knows of its coordinator.
pub(super) struct Gate {
    pub(super) identity: Identity,
    pub(super) clock: Arc<Clock>,
    epoch: Arc<Epoch>,
}

/// The highest epoch seen.
struct Epoch {
    folder: Arc<Folder>,
    highest: AtomicU64,
    /// The highest that is in the folder, or could not be put there.
    settled: AtomicU64,
    /// Held while one is written there.
    writing: Mutex<()>,
}

impl Gate {
    pub(super) fn open(folder: Arc<Folder>, identity: Identity, clock: Arc<Clock>) -> Result<Self> {
        let kept = folder.read_number(EPOCH_FILE)?;
        let (highest, settled) = (AtomicU64::new(kept), AtomicU64::new(kept));
        let epoch = Arc::new(Epoch { folder, highest, settled, writing: Mutex::default() });
        Ok(Self { identity, clock, epoch })
    }

    /// The ticket that came with a request, if it is good here and now and its grant `fits`.
    pub(super) async fn admit(
        &self,
        headers: &HeaderMap,
        fits: impl Fn(&Grant) -> bool,
    ) -> Result<Ticket> {
        let text = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let text = text.and_then(|text| text.strip_prefix("Ticket "));
        let text = text.ok_or_else(|| Error::refuse(Code::Unauthorized, "no ticket"))?;
        let ticket = verify_ticket(text, &self.identity.ticket_key.0)?;
        self.check(&ticket, fits)?;
        self.raise_epoch(ticket.epoch).await;
        Ok(ticket)
    }

    fn check(&self, ticket: &Ticket, fits: impl Fn(&Grant) -> bool) -> Result<()> {
        let identity = &self.identity;
        if (ticket.vault, ticket.server) != (identity.vault, identity.server) {
            let why = format!("the ticket is for another server than {:?}", identity.name);
            return Err(Error::refuse(Code::Forbidden, why));
        }
        if !fits(&ticket.grant) {
            return Err(Error::refuse(Code::Forbidden, "the ticket does not allow this"));
        }
        self.require_epoch(ticket.epoch)?;
        // Clients get no such tickets: the coordinator itself is speaking.
        if ticket.grant == Grant::Control {
            self.clock.advance(ticket.issued_ms);
        }
        let now_ms = self.now_ms()?;
        if now_ms >= ticket.expires_ms {
            let late_ms = now_ms - ticket.expires_ms;
            let why = format!("the ticket ended {late_ms} ms ago");
            return Err(Error::refuse(Code::Expired, why));
        }
        Ok(())
    }

    /// Refuses what an epoch that is over had allowed.
    pub(super) fn require_epoch(&self, epoch: u64) -> Result<()> {
        let highest = self.epoch.highest();
        if epoch < highest {
            let why = format!("the ticket is of epoch {epoch}, the present one {highest}");
            // A coordinator whose catalog was restored from an older copy goes on above it.
            let refusal = Refusal::new(Code::StaleEpoch, why);
            return Err(Error::Refuse(Refusal { epoch: Some(highest), ..refusal }));
        }
        Ok(())
    }

    /// The coordinator's time.
    pub(super) fn now_ms(&self) -> Result<u64> {
        self.clock.now_ms().ok_or_else(|| {
            Error::refuse(Code::NotReady, "this server has not heard from its coordinator yet")
        })
    }

    /// Refuses tickets of epochs before `epoch` from now on, and after the next start too.
    pub(super) async fn raise_epoch(&self, epoch: u64) {
        self.epoch.highest.fetch_max(epoch, Ordering::AcqRel);
        // Whoever comes with it meanwhile waits for it to be kept, too.
        if epoch > self.epoch.settled.load(Ordering::Acquire) {
            let raised = Arc::clone(&self.epoch);
            blocking(move || raised.keep()).await;
        }
    }
}

impl Epoch {
    fn highest(&self) -> u64 {
        self.highest.load(Ordering::Acquire)
    }

    /// A full disk must not keep shards from being read: what cannot be written counts all the
    /// same. The next start takes no ticket before it has heard of the epoch again.
    fn keep(&self) {
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.highest();
        if epoch <= self.settled.load(Ordering::Acquire) {
            return;
        }
        if let Err(error) = self.folder.write_number(EPOCH_FILE, epoch) {
            tracing::error!(%error, epoch, "the epoch is not kept");
        }
        self.settled.store(epoch, Ordering::Release);
    }
}
