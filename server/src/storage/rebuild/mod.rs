//! `POST /v1/rebuild`: the missing shards of a stripe are made again here, all
//! from one read of any k others.
//!
//! `sources` gives blocks, `grid` decides which to read, `spools` holds
//! what is made until all of it has given the roots that the stripe records.
//! Nothing is visible before that: a rebuild that ends early, in whatever way,
//! leaves temporary files, which are gone with it or with the next start.

mod flow;
mod grid;
mod make;
mod pace;
mod sources;
mod spools;

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::http::HeaderMap;
use codec::Digest;
use futures_util::{StreamExt as _, stream};

pub(super) use self::flow::FLOWS_MAX;
use self::make::Maker;
use self::pace::Pace;
use self::sources::Sources;
use self::spools::Spools;
use super::address::Address;
use super::fail_points::FailPoint;
use super::inspect::Inspection;
use super::router::{message, work};
use super::server::{Open, Server, blocking};
use crate::auth::Grant;
use crate::client::{PutPieces, StorageClient};
use crate::wire::{Code, Found, Outcome, Place, RebuildAnswer, RebuildRequest, Receipt, Work};
use crate::{Error, Result};

/// Shards stored at once, the own one included.
const STORES_AT_ONCE: usize = 4;

pub(super) async fn rebuild(
    Open(server): Open,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Json<RebuildAnswer>> {
    let ticket = server.gate.admit(&headers, |grant| *grant == Grant::Control).await?;
    let order: RebuildRequest = message(&server, &mut body).await?;
    order.check().map_err(|why| Error::refuse(Code::BadRequest, why))?;
    if order.epoch != ticket.epoch {
        let why = format!("an order of epoch {} by a ticket of {}", order.epoch, ticket.epoch);
        return Err(Error::refuse(Code::BadRequest, why));
    }
    let work = match work(&headers) {
        Work::Urgent => Work::Urgent,
        Work::Client | Work::Background => Work::Background,
    };
    follow(server, Arc::new(order), work).await.map(Json)
}

async fn follow(
    server: Arc<Server>,
    order: Arc<RebuildRequest>,
    work: Work,
) -> Result<RebuildAnswer> {
    let slot = server.rebuild_slot(work).await?;
    server.room.require_sound()?;
    let planted = &server.shelf.planted;
    planted.reach(FailPoint::OrderReceived);
    let pace = Arc::new(Pace::new(&server.throttle, work, order.pack_bytes));
    let peers = server.peers.clone().with_work(work);
    let paced = (peers.clone(), Arc::clone(&pace));
    let mut sources = Sources::new(Arc::clone(&server), Arc::clone(&order), paced);
    let mut answer = RebuildAnswer::new(Outcome::Rebuilt);

    let own = server.gate.identity.server;
    let own_place = order.places.iter().find(|place| place.server == own);
    let mut places: Vec<&Place> = own_place.into_iter().collect();
    if let Some(&Place { index, .. }) = own_place {
        let address = Address { stripe: order.stripe, index };
        let shelf = Arc::clone(&server.shelf);
        match blocking(move || shelf.stored(address)).await? {
            Inspection::Good(header_hash) => {
                answer.receipts.push(server.receipt(address, header_hash, order.epoch));
                places.clear();
            }
            Inspection::Damaged(why) => {
                sources.seen().found.insert((index, own), Found::Damaged(why));
            }
            Inspection::Missing => {}
        }
    }
    places.extend(order.places.iter().filter(|place| place.server != own));
    if places.is_empty() {
        return Ok(answer);
    }

    let wanted: Arc<[u8]> = places.iter().map(|place| place.index).collect();
    let spools = {
        let shelf = Arc::clone(&server.shelf);
        let (order, wanted) = (Arc::clone(&order), Arc::clone(&wanted));
        blocking(move || Spools::create(shelf, &order, &wanted, slot)).await?
    };
    let spools = Arc::new(spools);
    sources.open(own_place.map(|place| place.index)).await?;
    planted.reach(FailPoint::HeadersRead);
    let maker = Maker { sources: &sources, spools: &spools, wanted, pace: &pace };
    let made = maker.make().await?;
    let seen = std::mem::take(&mut *sources.seen());
    // No server holds a slot for what is read no further.
    drop(sources);
    match made {
        Err(outcome) => answer.outcome = outcome,
        Ok(header_hashes) => {
            let (server, order, spools, pace) = (&server, &order, &spools, &pace);
            let store = Store { server, order, spools, pace, peers: &peers };
            store.all(&places, &header_hashes, &mut answer).await;
        }
    }
    answer.found = seen.found.into_iter().map(|((index, at), found)| (index, at, found)).collect();
    answer.unreachable = seen.unreachable.into_iter().collect();
    (answer.read_bytes, answer.own_bytes) = (seen.read_bytes, seen.own_bytes);
    planted.reach(FailPoint::AnswerReady);
    Ok(answer)
}

/// How the shards that were made get to their places.
struct Store<'a> {
    server: &'a Server,
    order: &'a RebuildRequest,
    spools: &'a Arc<Spools>,
    pace: &'a Arc<Pace>,
    peers: &'a StorageClient,
}

impl Store<'_> {
    /// Stores one spool a place; each stands or fails by itself.
    async fn all(&self, places: &[&Place], header_hashes: &[Digest], answer: &mut RebuildAnswer) {
        let stores: Vec<_> = (0..)
            .zip(places.iter().zip(header_hashes))
            .map(|(nth, (place, &header_hash))| self.one(nth, place, header_hash))
            .collect();
        let stored: Vec<_> = stream::iter(stores).buffered(STORES_AT_ONCE).collect().await;
        for (place, stored) in places.iter().zip(stored) {
            match stored {
                Ok(receipt) => answer.receipts.push(receipt),
                Err(error) => {
                    let Place { index, server, ref name, .. } = **place;
                    tracing::warn!(%error, "shard {index} is not stored at {name}");
                    answer.failed.push((index, server, error.to_string()));
                }
            }
        }
    }

    async fn one(&self, nth: usize, place: &Place, header_hash: Digest) -> Result<Receipt> {
        let RebuildRequest { stripe, epoch, .. } = *self.order;
        let file_bytes = self.order.file_bytes();
        let spools = Arc::clone(self.spools);
        if place.server == self.server.gate.identity.server {
            // It is read back.
            self.pace.take(file_bytes).await;
            // Another coordinator may have begun since the order was let in.
            self.server.gate.require_epoch(epoch)?;
            let header_hash = blocking(move || spools.keep(nth)).await?;
            let address = Address { stripe, index: place.index };
            return Ok(self.server.receipt(address, header_hash, epoch));
        }
        let pieces = spools.pieces(nth, Arc::clone(self.pace));
        let shard = PutPieces { stripe, header_hash, file_bytes, pieces };
        let planted = &self.server.shelf.planted;
        planted.reach(FailPoint::PeerPutBegun);
        let receipt = self.peers.put_pieces(place, epoch, shard).await?;
        planted.reach(FailPoint::PeerPutDone);
        Ok(receipt)
    }
}
