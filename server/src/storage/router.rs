//! The routes of a storage server, and the handlers of its control messages.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post, put};
use codec::StripeId;
use serde::de::DeserializeOwned;

use super::address::Address;
use super::get::get as get_shard;
use super::put::put as put_shard;
use super::rebuild::rebuild;
use super::scrub;
use super::server::{Door, Open, Server, blocking, next_piece};
use crate::auth::Grant;
use crate::wire::{
    BACKGROUND_BYTES_PER_SECOND_MIN, BUCKETS, Blob, CheckAnswer, CheckRequest, Code, Digests,
    DigestsQuery, FACTS_PER_PAGE_MAX, FactsPage, FactsQuery, Head, InventoryRow, PAGE_ROWS_MAX,
    Page, PageQuery, Probe, ProbeAnswer, PutFacts, PutVault, SetThrottle, ThrottleStatus,
    TrashAnswer, TrashRequest, WORK_HEADER, Work,
};
use crate::{Error, Result};

/// A control message is shorter than this: the order to rebuild a stripe of 255 shards, with all
/// its tickets, takes 300 KB, a page of shards 80 KB.
const MESSAGE_BYTES_MAX: usize = 512 * 1024;
const DAY_MS: u64 = 24 * 3600 * 1000;

pub(super) fn router(door: Door) -> Router {
    Router::new()
        .route("/v1/shards/{stripe}/{index}", put(put_shard).get(get_shard).head(get_shard))
        .route("/v1/check", post(check))
        .route("/v1/inventory", get(inventory))
        .route("/v1/inventory/digests", get(digests))
        .route("/v1/trash", post(trash))
        .route("/v1/rebuild", post(rebuild))
        .route("/v1/scrub", get(scrub::status).put(scrub::change))
        .route("/v1/throttle", get(throttle).put(set_throttle))
        .route("/v1/probe", post(probe))
        .route("/v1/vault-record", put(put_vault_record))
        .route("/v1/facts", get(get_facts).put(put_facts))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_path)
        .layer(map_response(say_when_to_retry))
        .with_state(door)
}

async fn check(
    Open(server): Open,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Json<CheckAnswer>> {
    server.gate.admit(&headers, |grant| *grant == Grant::Read).await?;
    let CheckRequest { shards, thoroughness } = message(&server, &mut body).await?;
    let mut found = Vec::new();
    for address in addresses(shards)? {
        let slot = Arc::clone(&server.checks).acquire_owned().await;
        let shelf = Arc::clone(&server.shelf);
        let inspect = move || {
            let _slot = slot;
            shelf.inspect(address, thoroughness)
        };
        found.push(blocking(inspect).await?.into());
    }
    Ok(Json(CheckAnswer { found }))
}

async fn inventory(
    Open(server): Open,
    headers: HeaderMap,
    query: std::result::Result<Query<PageQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Page<InventoryRow>>> {
    admit_coordinator(&server, &headers).await?;
    let Query(PageQuery { after, limit }) =
        query.map_err(|error| Error::refuse(Code::BadRequest, error.to_string()))?;
    let after = after.map(|name| name.parse()).transpose()?;
    let limit = limit.unwrap_or(PAGE_ROWS_MAX).clamp(1, PAGE_ROWS_MAX) as usize;
    let shelf = Arc::clone(&server.shelf);
    blocking(move || shelf.inventory(after, limit)).await.map(Json)
}

async fn digests(
    Open(server): Open,
    headers: HeaderMap,
    query: std::result::Result<Query<DigestsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Digests>> {
    admit_coordinator(&server, &headers).await?;
    let Query(DigestsQuery { walk }) =
        query.map_err(|error| Error::refuse(Code::BadRequest, error.to_string()))?;
    let mut buckets = Vec::with_capacity(BUCKETS);
    // One folder at a time: what was counted stays counted if nobody waits any more.
    for folder in 0..=u8::MAX {
        let shelf = Arc::clone(&server.shelf);
        buckets.push(blocking(move || shelf.bucket(folder, walk)).await?);
    }
    Ok(Json(Digests { buckets }))
}

async fn trash(
    Open(server): Open,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Json<TrashAnswer>> {
    let ticket = server.gate.admit(&headers, |grant| *grant == Grant::Control).await?;
    let TrashRequest { shards } = message(&server, &mut body).await?;
    let addresses = addresses(shards)?;
    let day = server.gate.now_ms()? / DAY_MS;
    let shelf = Arc::clone(&server.shelf);
    // An order that waited longer than its ticket lasts was given again since, and what it names
    // may have been stored anew.
    let gate = Arc::clone(&server);
    let stands = move || {
        gate.gate.require_epoch(ticket.epoch)?;
        let late = || Error::refuse(Code::Busy, "the order's ticket ended before its turn");
        if gate.gate.now_ms()? < ticket.expires_ms { Ok(()) } else { Err(late()) }
    };
    let trashed = blocking(move || shelf.trash(&addresses, day, stands)).await?;
    Ok(Json(TrashAnswer { trashed }))
}

async fn throttle(Open(server): Open, headers: HeaderMap) -> Result<Json<ThrottleStatus>> {
    admit_coordinator(&server, &headers).await?;
    Ok(Json(server.throttle.status()))
}

async fn set_throttle(
    Open(server): Open,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Json<ThrottleStatus>> {
    admit_coordinator(&server, &headers).await?;
    let SetThrottle { bytes_per_second } = message(&server, &mut body).await?;
    if let Some(pace) = bytes_per_second
        && pace < BACKGROUND_BYTES_PER_SECOND_MIN
    {
        let least = BACKGROUND_BYTES_PER_SECOND_MIN;
        let why = format!("{pace} bytes a second, {least} are the least");
        return Err(Error::refuse(Code::BadRequest, why));
    }
    server.throttle.set(bytes_per_second);
    Ok(Json(server.throttle.status()))
}

/// Whose work a request is.
pub(super) fn work(headers: &HeaderMap) -> Work {
    Work::of_header(headers.get(WORK_HEADER).map(HeaderValue::as_bytes))
}

async fn probe(
    Open(server): Open,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Json<ProbeAnswer>> {
    admit_coordinator(&server, &headers).await?;
    let Probe { epoch, now_ms } = message(&server, &mut body).await?;
    server.heard(epoch, now_ms).await;
    let room = Arc::clone(&server.room);
    let space = blocking(move || room.space()).await?;
    Ok(Json(ProbeAnswer {
        server: server.gate.identity.server,
        vault: server.gate.identity.vault,
        capacity_bytes: space.capacity_bytes,
        free_bytes: space.free_bytes,
        trouble: server.room.trouble(),
        findings: server.shelf.bad.findings(),
        facts: Some(server.facts.head()),
        scrub: Some(scrub::glance(&server)),
    }))
}

async fn put_vault_record(
    Open(server): Open,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Json<()>> {
    admit_coordinator(&server, &headers).await?;
    let PutVault { record } = message(&server, &mut body).await?;
    server.keep_record(record.0).await.map(Json)
}

async fn put_facts(Open(server): Open, headers: HeaderMap, mut body: Body) -> Result<Json<Head>> {
    admit_coordinator(&server, &headers).await?;
    let PutFacts { facts } = message(&server, &mut body).await?;
    if facts.len() > FACTS_PER_PAGE_MAX {
        let why = format!("{} facts at once, {FACTS_PER_PAGE_MAX} are the most", facts.len());
        return Err(Error::refuse(Code::TooLarge, why));
    }
    let kept = Arc::clone(&server.facts);
    blocking(move || kept.take(facts.into_iter().map(|fact| fact.0))).await.map(Json)
}

async fn get_facts(
    Open(server): Open,
    headers: HeaderMap,
    query: std::result::Result<Query<FactsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<FactsPage>> {
    admit_coordinator(&server, &headers).await?;
    let Query(FactsQuery { after, limit }) =
        query.map_err(|error| Error::refuse(Code::BadRequest, error.to_string()))?;
    let limit = limit.map_or(FACTS_PER_PAGE_MAX, |limit| limit as usize);
    let kept = Arc::clone(&server.facts);
    let facts = blocking(move || kept.page(after, limit.clamp(1, FACTS_PER_PAGE_MAX))).await?;
    Ok(Json(FactsPage { facts: facts.into_iter().map(Blob).collect() }))
}

async fn no_such_path() -> Error {
    Error::refuse(Code::NotFound, "a storage server has no such path")
}

async fn say_when_to_retry(mut response: Response) -> Response {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

pub(super) async fn admit_coordinator(server: &Server, headers: &HeaderMap) -> Result<()> {
    server.gate.admit(headers, |grant| *grant == Grant::Control).await.map(|_| ())
}

/// A JSON body, of bounded length.
pub(super) async fn message<T: DeserializeOwned>(server: &Server, body: &mut Body) -> Result<T> {
    let mut bytes = Vec::new();
    while let Some(piece) = next_piece(body, server.limits.client_silence).await? {
        if bytes.len() + piece.len() > MESSAGE_BYTES_MAX {
            let why = format!("a message of more than {MESSAGE_BYTES_MAX} bytes");
            return Err(Error::refuse(Code::TooLarge, why));
        }
        bytes.extend_from_slice(&piece);
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::refuse(Code::BadRequest, format!("not the message: {error}")))
}

fn addresses(shards: Vec<(StripeId, u8)>) -> Result<Vec<Address>> {
    if shards.len() > PAGE_ROWS_MAX as usize {
        let why = format!("{} shards at once, {PAGE_ROWS_MAX} are the most", shards.len());
        return Err(Error::refuse(Code::TooLarge, why));
    }
    Ok(shards.into_iter().map(|(stripe, index)| Address { stripe, index }).collect())
}

#[cfg(test)]
mod tests {
    use codec::Geometry;

    use super::*;
    use crate::auth::{Ticket, TicketSigner};
    use crate::wire::{Place, ReadTicket, RebuildRequest, ServerId, Source, State};

    #[test]
    fn the_longest_order_to_rebuild_is_one_message() {
        let geometry = Geometry::new(1, 254).unwrap();
        let stripe = StripeId([0xff; 32]);
        let sign = |grant| {
            let (server, vault) = (ServerId(u32::MAX), codec::VaultId([0xff; 16]));
            let (epoch, issued_ms, expires_ms) = (u64::MAX, u64::MAX, u64::MAX);
            let ticket = Ticket { grant, vault, server, epoch, issued_ms, expires_ms };
            TicketSigner::from_seed(&[1; 32]).unwrap().sign(&ticket).unwrap()
        };
        let (put, read) =
            (sign(Grant::Put { stripe, index: 255, file_bytes: u64::MAX }), sign(Grant::Read));
        let (name, server) = ("n".repeat(63), ServerId(u32::MAX));
        let url = format!("http://{name}:65535");
        let source = |index| Source {
            index,
            at: ReadTicket {
                server,
                name: name.clone(),
                zone: name.clone(),
                url: url.clone(),
                state: State::Suspect,
                ticket: read.clone(),
            },
        };
        let place = |index| Place {
            index,
            server,
            name: name.clone(),
            url: url.clone(),
            ticket: put.clone(),
        };
        let order = RebuildRequest {
            stripe,
            geometry,
            pack_bytes: u64::MAX,
            pack_key_bytes: u16::MAX,
            epoch: u64::MAX,
            sources: (0..255).map(source).collect(),
            places: (0..255).map(place).collect(),
        };
        let bytes = serde_json::to_vec(&order).unwrap().len();
        assert!(bytes < MESSAGE_BYTES_MAX, "{bytes}");
    }
}
