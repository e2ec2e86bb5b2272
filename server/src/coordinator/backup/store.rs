//! From a pack of records to shards on servers: placed, ticketed and stored as a push would, under
//! a lease of the coordinator's own. What it has receipts for is not committed yet.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use bytes::Bytes;
use codec::Geometry;
use codec::pack::Pack;
use codec::seal::PackKeyField;
use codec::shard::Kind;
use codec::stripe::Stripe;
use futures_util::future::join_all;

use crate::client::{PutShard, StorageClient};
use crate::coordinator::Core;
use crate::coordinator::catalog::NewStripe;
use crate::coordinator::push::{self, check_receipt};
use crate::coordinator::router::{Body, Caller};
use crate::wire::{Code, FrameEnd, LeaseId, Place, PlaceRequest, Placement, Receipt, ServerId};
use crate::{Error, Result, cpu};

/// The pause before servers that put a shard off are asked again, and how often they are.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const PUT_OFFS_MAX: usize = 5;

/// What stores the stripes of one backup.
pub(super) struct Store<'a> {
    pub(super) core: &'a Arc<Core>,
    pub(super) client: &'a StorageClient,
    pub(super) origin: i64,
    pub(super) lease: LeaseId,
}

/// The shards of a stripe, to be sent any number of times.
struct Shards {
    stripe: Stripe,
    bodies: Bytes,
}

impl Shards {
    fn new(mut stripe: Stripe) -> Self {
        let bodies = Bytes::from(std::mem::take(&mut stripe.bodies));
        Self { stripe, bodies }
    }

    fn shard(&self, index: u8) -> Option<PutShard> {
        let ends = self.stripe.shards.get(usize::from(index))?;
        let bytes = self.stripe.shard_bytes as usize;
        let at = usize::from(index) * bytes;
        Some(PutShard {
            stripe: self.stripe.id,
            header: Bytes::from(ends.header.clone()),
            header_hash: ends.header_hash,
            body: self.bodies.slice(at..at + bytes),
            footer: Bytes::from(ends.footer.clone()),
            on_sent: Arc::new(|_| ()),
        })
    }
}

impl Store<'_> {
    /// Codes a pack and stores its shards: all of them, or as few as a push would be content with.
    pub(super) async fn store(
        &self,
        pack: Pack,
        pack_key: PackKeyField,
        geometry: Geometry,
    ) -> Result<NewStripe> {
        let (core, vault) = (self.core, self.core.catalog.vault);
        let frames: Vec<FrameEnd> =
            pack.frames.iter().map(|&(kind, end)| (kind as u8, end)).collect();
        let coded =
            cpu::run(move || Stripe::encode(vault, Kind::Record, geometry, pack_key, pack.bytes));
        let shards = Shards::new(coded.await?);
        core.catalog.renew(self.origin, self.lease, core.timings.lease).await?;
        let receipts = self.put(&shards).await?;
        Ok(NewStripe {
            stripe: shards.stripe.id,
            kind: Kind::Record,
            geometry,
            pack_bytes: shards.stripe.pack_bytes,
            pack_key: shards.stripe.pack_key.0,
            frames,
            chunks: Vec::new(),
            holders: receipts.iter().map(|receipt| (receipt.index, receipt.server)).collect(),
        })
    }

    /// Each round stores a shard, avoids one server more, or uses up a put-off: there is a last one.
    async fn put(&self, shards: &Shards) -> Result<Vec<Receipt>> {
        let geometry = shards.stripe.geometry;
        let (k, n) = (geometry.data(), geometry.shards());
        let enough = (n - 1).max(k + 1).min(n);
        let (mut stored, mut avoid, mut put_off) = (Vec::new(), Vec::new(), Vec::new());
        let mut failed = None;
        while stored.len() < n {
            let placement = match self.place(shards, &stored, &avoid, enough).await {
                Ok(placement) => placement,
                Err(error) if is_short(&error) && stored.len() >= enough => break,
                Err(error) => return Err(failed.unwrap_or(error)),
            };
            if placement.places.is_empty() {
                break;
            }
            let puts = placement.places.iter().map(|place| self.put_one(place, &placement, shards));
            let mut pauses = false;
            for (server, outcome) in join_all(puts).await {
                match outcome {
                    Ok(receipt) => stored.push(receipt),
                    Err(error) => {
                        let offs = put_off.iter().filter(|&&other| other == server).count();
                        if is_passing(&error) && offs < PUT_OFFS_MAX {
                            put_off.push(server);
                            pauses = true;
                        } else {
                            avoid.push(server);
                        }
                        tracing::warn!(server = server.0, %error, "a shard of the backup waits");
                        failed = Some(error);
                    }
                }
            }
            if pauses {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
        Ok(stored)
    }

    /// By the same request as that of a push: the intent is on record before a ticket is made.
    async fn place(
        &self,
        shards: &Shards,
        stored: &[Receipt],
        avoid: &[ServerId],
        enough: usize,
    ) -> Result<Placement> {
        let request = PlaceRequest {
            lease: self.lease,
            stripe: shards.stripe.id,
            geometry: shards.stripe.geometry,
            file_bytes: shards.stripe.file_bytes(),
            stored: stored.iter().map(|receipt| (receipt.index, receipt.server)).collect(),
            avoid: avoid.to_vec(),
            min_shards: enough as u8,
        };
        let (core, caller) = (State(Arc::clone(self.core)), Extension(Caller(self.origin)));
        Ok(push::place(core, caller, Body(request)).await?.0)
    }

    async fn put_one(
        &self,
        place: &Place,
        placement: &Placement,
        shards: &Shards,
    ) -> (ServerId, Result<Receipt>) {
        let put = async {
            let gone = || Error::refuse(Code::Internal, format!("no shard {}", place.index));
            let shard = shards.shard(place.index).ok_or_else(gone)?;
            let receipt = self.client.put_shard(place, placement.epoch, shard).await?;
            check_receipt(self.core, shards.stripe.id, &receipt)?;
            Ok(receipt)
        };
        (place.server, put.await)
    }
}

fn is_short(error: &Error) -> bool {
    matches!(error.code(), Some(Code::TooFewServers | Code::NoSpace))
}

fn is_passing(error: &Error) -> bool {
    matches!(error.code(), Some(Code::StaleEpoch | Code::Expired | Code::NotReady | Code::Busy))
}
