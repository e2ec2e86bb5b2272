//! Requests of readers: where things are, tickets for reading, what was met there.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use codec::ChunkId;

use super::Core;
use super::clock::millis;
use super::events::of_damage;
use super::router::{Body, List, bad_request};
use crate::Result;
use crate::auth::Grant;
use crate::wire::{
    CHUNKS_PER_REQUEST_MAX, Found, LocateAnswer, LocateRequest, PAGE_ROWS_MAX, Page, ReadTicket,
    ReadTickets, Report, SnapshotRow, StripeMap, StripeMapsRequest,
};

/// `GET /v1/snapshots`
pub(super) async fn snapshots(
    State(core): State<Arc<Core>>,
    list: List,
) -> Result<Json<Page<SnapshotRow>>> {
    Ok(Json(core.catalog.snapshots(list.after()?, list.limit).await?))
}

/// `GET /v1/stripes`
pub(super) async fn stripes(
    State(core): State<Arc<Core>>,
    list: List,
) -> Result<Json<Page<StripeMap>>> {
    Ok(Json(core.catalog.stripes(list.after()?.unwrap_or(0), list.limit).await?))
}

/// `GET /v1/lost-chunks`
pub(super) async fn lost_chunks(
    State(core): State<Arc<Core>>,
    list: List,
) -> Result<Json<Page<ChunkId>>> {
    Ok(Json(core.catalog.lost_chunks(list.after()?, list.limit).await?))
}

/// `POST /v1/locate`
pub(super) async fn locate(
    State(core): State<Arc<Core>>,
    Body(LocateRequest { chunks }): Body<LocateRequest>,
) -> Result<Json<LocateAnswer>> {
    check_count("chunks", chunks.0.len(), CHUNKS_PER_REQUEST_MAX)?;
    Ok(Json(core.catalog.locate(chunks.0).await?))
}

/// `POST /v1/stripe-maps`
pub(super) async fn stripe_maps(
    State(core): State<Arc<Core>>,
    Body(StripeMapsRequest { stripes }): Body<StripeMapsRequest>,
) -> Result<Json<Vec<StripeMap>>> {
    check_count("stripes", stripes.len(), PAGE_ROWS_MAX as usize)?;
    Ok(Json(core.catalog.stripe_maps(stripes).await?))
}

/// `POST /v1/read-tickets`
pub(super) async fn read_tickets(State(core): State<Arc<Core>>) -> Result<Json<ReadTickets>> {
    let now_ms = core.catalog.clock.now_ms();
    let expires_ms = now_ms.saturating_add(millis(core.timings.ticket));
    core.fleet.probed(core.timings.probe_timeout).await;
    let epoch = core.catalog.epoch();
    let ticket_for = |m: super::fleet::Member| {
        Ok(ReadTicket {
            server: m.row.server,
            ticket: core.ticket(Grant::Read, m.row.server, epoch, now_ms, expires_ms)?,
            name: m.row.name,
            zone: m.row.zone,
            url: m.row.url,
            state: m.health.state,
        })
    };
    let servers = core.fleet.members().into_iter().map(ticket_for).collect::<Result<_>>()?;
    Ok(Json(ReadTickets { servers, expires_ms, now_ms }))
}

/// `POST /v1/reports`
pub(super) async fn report(
    State(core): State<Arc<Core>>,
    Body(report): Body<Report>,
) -> Result<()> {
    let (server, found) = (core.fleet.get(report.server), report.found.clone());
    if core.catalog.report(report).await? {
        core.fleet.has_changed();
        let (missing, damaged) = match found {
            Found::Good => (0, 0),
            Found::Missing => (1, 0),
            Found::Damaged(_) => (0, 1),
        };
        let told = server.and_then(|member| of_damage(&member.row.name, missing, damaged));
        core.journal.note(told, core.catalog.clock.now_ms());
    }
    Ok(())
}

/// Refuses more than a request may name.
pub(super) fn check_count(what: &str, count: usize, max: usize) -> Result<()> {
    if count <= max {
        return Ok(());
    }
    Err(bad_request(format!("{count} {what} in one request; at most {max} are taken")))
}
