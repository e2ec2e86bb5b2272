//! Where shards, and word of where they are, come from: the services of a vault, or its
//! servers' bare folders.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use codec::{ChunkId, StripeId};
use server::client::{CoordinatorClient, StorageClient};
use server::wire::{
    CHUNKS_PER_REQUEST_MAX, CheckAnswer, CheckRequest, Code, Holder, ReadTicket, ReadTickets,
    Report, State, StripeMap,
};

use super::Places;
use crate::rescue::Folders;

/// A server that sends nothing for this long is passed over while others can serve.
const HEDGE_AFTER: Duration = Duration::from_secs(2);
/// A server that sends nothing for this long, or refuses to, does not answer.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// What a reader reads from.
pub(super) enum Origin {
    Services(Services),
    Folders(Arc<Folders>),
}

/// A coordinator and its storage servers.
pub(super) struct Services {
    coordinator: CoordinatorClient,
    quick: StorageClient,
    patient: StorageClient,
}

impl Services {
    /// `patience`: for how long a server that refuses is asked again.
    pub(super) fn new(coordinator: CoordinatorClient, patience: Duration) -> Self {
        let quick = StorageClient::new(HEDGE_AFTER, coordinator.trust());
        let patient = StorageClient::new(STALL, coordinator.trust()).with_patience(patience);
        Self { coordinator, quick, patient }
    }
}

impl Origin {
    /// Tickets for every server, or place.
    pub(super) async fn tickets(&self) -> server::Result<ReadTickets> {
        match self {
            Self::Services(services) => services.coordinator.read_tickets().await,
            Self::Folders(folders) => Ok(folders.tickets()),
        }
    }

    /// Tells of a shard that was found missing, damaged or whole, where anybody hears it.
    pub(super) async fn report(&self, report: &Report) -> server::Result<()> {
        match self {
            Self::Services(services) => services.coordinator.report(report).await,
            Self::Folders(_) => Ok(()),
        }
    }

    /// All places of each chunk.
    pub(super) async fn locate(&self, ids: &[ChunkId]) -> server::Result<Places> {
        let mut places = Places::with_capacity(ids.len());
        match self {
            Self::Services(services) => {
                for ids in ids.chunks(CHUNKS_PER_REQUEST_MAX) {
                    let answer = services.coordinator.locate(ids.to_vec()).await?;
                    let stripes: Vec<Arc<StripeMap>> =
                        answer.stripes.into_iter().map(Arc::new).collect();
                    for (id, rows) in ids.iter().zip(answer.places) {
                        let place = |(s, frame)| (Arc::clone(&stripes[s as usize]), frame);
                        places.insert(*id, rows.into_iter().map(place).collect());
                    }
                }
            }
            Self::Folders(folders) => {
                places.extend(ids.iter().map(|id| (*id, folders.places(id))));
            }
        }
        Ok(places)
    }

    /// The maps of stripes as they are now.
    pub(super) async fn maps(&self, stripes: Vec<StripeId>) -> server::Result<Vec<StripeMap>> {
        match self {
            Self::Services(services) => services.coordinator.stripe_maps(stripes).await,
            Self::Folders(_) => Ok(Vec::new()),
        }
    }

    /// Adds bytes of a shard file to `buffer`; `wait` is for servers that do not answer.
    pub(super) async fn read_range(
        &self,
        ticket: &ReadTicket,
        map: &StripeMap,
        holder: &Holder,
        range: Range<u64>,
        wait: bool,
        buffer: &mut BytesMut,
    ) -> server::Result<()> {
        match self {
            Self::Services(services) => {
                let client = if wait { &services.patient } else { &services.quick };
                client.read_range(ticket, map.stripe, holder.index, range, buffer).await
            }
            Self::Folders(folders) => {
                buffer.extend_from_slice(&folders.read(map, *holder, range).await?);
                Ok(())
            }
        }
    }

    /// Has a server look at its own shards.
    pub(super) async fn check(
        &self,
        ticket: &ReadTicket,
        request: &CheckRequest,
    ) -> server::Result<CheckAnswer> {
        match self {
            Self::Services(services) if ticket.state == State::Lost => {
                services.quick.check(ticket, request).await
            }
            Self::Services(services) => services.patient.check(ticket, request).await,
            Self::Folders(_) => {
                Err(server::Error::refuse(Code::BadRequest, "a folder looks at nothing"))
            }
        }
    }

    /// What is said of a chunk that has no place.
    pub(super) fn no_place(&self) -> &'static str {
        match self {
            Self::Services(_) => "in no stripe that the coordinator knows",
            Self::Folders(_) => "in no stripe that the folders give back",
        }
    }
}
