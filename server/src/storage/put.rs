//! `PUT /v1/shards/{stripe}/{index}`: the network half. The bytes go through a
//! short channel to a thread that checks and writes them.

use axum::Json;
use axum::body::{Body, HttpBody as _};
use axum::extract::Path;
use axum::http::HeaderMap;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;

use super::address::Address;
use super::router::work;
use super::server::{Open, Server, blocking, next_piece};
use crate::auth::Grant;
use crate::wire::{Code, Receipt, Work};
use crate::{Error, Result};

/// Pieces that wait for the disk; hyper makes them of up to 128 KiB. With several the writer is
/// woken once for all of them.
const PIECES_WAITING: usize = 4;

pub(super) async fn put(
    Open(server): Open,
    Path((stripe, index)): Path<(String, String)>,
    headers: HeaderMap,
    mut body: Body,
) -> Result<Json<Receipt>> {
    let answer = match Address::of_segments(&stripe, &index) {
        Ok(address) => receive(&server, address, &headers, &mut body).await,
        Err(error) => Err(error),
    };
    server.drain(body);
    answer.map(Json)
}

async fn receive(
    server: &Arc<Server>,
    address: Address,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Receipt> {
    let ticket =
        server.gate.admit(headers, |grant| granted_bytes(grant, address).is_some()).await?;
    let file_bytes = granted_bytes(&ticket.grant, address).unwrap_or_default();
    check_length(body.size_hint().exact(), file_bytes)?;
    let slot = server.put_slot().await?;
    let work = work(headers);
    let _served = server.throttle.serve(work);
    let (feed, mut pieces) = mpsc::channel(PIECES_WAITING);
    let writer = Arc::clone(server);
    let writing = blocking(move || {
        // Held to the end even when the client is gone by then, and the folder's lock with it.
        let _slot = slot;
        writer.shelf.put(address, file_bytes, std::iter::from_fn(|| pieces.blocking_recv()))
    });
    let (fed, written) = tokio::join!(feed_body(body, feed, server, work), writing);
    // Why the pieces stopped says more than that they stopped; a receipt needs no more of them.
    let header_hash = written.or_else(|error| fed.and(Err(error)))?;
    Ok(server.receipt(address, header_hash, ticket.epoch))
}

/// The length of the file that `grant` allows to be stored at `address`.
fn granted_bytes(grant: &Grant, address: Address) -> Option<u64> {
    match *grant {
        Grant::Put { stripe, index, file_bytes } if Address { stripe, index } == address => {
            Some(file_bytes)
        }
        _ => None,
    }
}

fn check_length(content_bytes: Option<u64>, file_bytes: u64) -> Result<()> {
    let code = match content_bytes {
        Some(bytes) if bytes == file_bytes => return Ok(()),
        Some(bytes) if bytes > file_bytes => Code::TooLarge,
        _ => Code::BadRequest,
    };
    let said = content_bytes.map_or("none".to_owned(), |bytes| bytes.to_string());
    let why =
        format!("the ticket is for {file_bytes} bytes, the request's Content-Length is {said}");
    Err(Error::refuse(code, why))
}

/// Passes the body on until it ends or nobody wants more of it.
async fn feed_body(
    body: &mut Body,
    feed: mpsc::Sender<Bytes>,
    server: &Server,
    work: Work,
) -> Result<()> {
    loop {
        // The writer may be done (it refused, or has the shard) while the client is silent.
        let piece = tokio::select! {
            piece = next_piece(body, server.limits.client_silence) => piece?,
            () = feed.closed() => return Ok(()),
        };
        let Some(piece) = piece else { return Ok(()) };
        server.throttle.work(work, piece.len() as u64, server.peer_wait()).await;
        if feed.send(piece).await.is_err() {
            return Ok(());
        }
    }
}
