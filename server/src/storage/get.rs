//! `GET` and `HEAD /v1/shards/{stripe}/{index}`: a whole shard file or one
//! range of it, read in pieces by positional reads.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::address::Address;
use super::buffers::Buffers;
use super::fault::Fault;
use super::inspect::{read_header, unreadable_is_damaged};
use super::room::is_unreadable;
use super::router::work;
use super::server::{Open, Server, blocking};
use super::shelf::Shelf;
use crate::auth::Grant;
use crate::wire::{Code, Refusal, Work};
use crate::{Error, Result};

/// Bytes that are read at a time. Each read is handed to another thread: that costs more than the
/// reading where they are few.
const PIECE_BYTES_MAX: u64 = 1024 * 1024;
/// The pieces of all GETs of one moment. There is twice that in memory: one is read, one is sent.
const PIECES_BYTES: u64 = 4 * 1024 * 1024;
/// A piece is sent in parts of so much: a slow client takes one now and then. It is also a piece
/// where there is a pace to keep.
const PART_BYTES: u64 = 256 * 1024;

pub(super) async fn get(
    Open(server): Open,
    Path((stripe, index)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response> {
    let address = Address::of_segments(&stripe, &index)?;
    server.gate.admit(&headers, |grant| *grant == Grant::Read).await?;
    let slot = server.get_slot().await?;
    let shelf = Arc::clone(&server.shelf);
    let asked = headers.get(RANGE).map(|value| value.to_str().unwrap_or_default());
    let ranged = asked.is_some();
    let opened = blocking(move || Opened::open(&shelf, address, ranged)).await;
    let opened = opened.map_err(unreadable_is_damaged)?;
    let range = match asked {
        None => 0..opened.file_bytes(),
        // Of a file whose length is unknown, what is not there was cut off.
        Some(text) => match parse_range(text, opened.whole_bytes.unwrap_or(u64::MAX)) {
            Some(range) => range,
            None => return Ok(not_satisfiable(text, opened.file_bytes())),
        },
    };
    if range.end > opened.present_bytes {
        let (present, whole) = (opened.present_bytes, opened.whole_bytes);
        let whole = whole.map_or("unknown".to_owned(), |bytes| bytes.to_string());
        let why = format!("shard {address} was cut short: {present} of {whole} bytes are there");
        return Err(Error::refuse(Code::Damaged, why));
    }
    let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, opened.file_bytes());
    let answer = Response::builder()
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(ACCEPT_RANGES, "bytes")
        .header(CONTENT_LENGTH, range.end - range.start);
    let answer = match asked {
        None => answer.status(StatusCode::OK),
        Some(_) => answer.status(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, content_range),
    };
    let body = match method {
        Method::HEAD => Body::empty(),
        _ => stream(server, address, opened.file, range, (slot, work(&headers))),
    };
    answer.body(body).map_err(|error| Error::refuse(Code::Internal, error.to_string()))
}

/// A shard file that is open for reading.
struct Opened {
    file: Arc<File>,
    /// Bytes it should have, by its header; `None` when that is damaged.
    whole_bytes: Option<u64>,
    present_bytes: u64,
}

impl Opened {
    fn open(shelf: &Shelf, address: Address, ranged: bool) -> Result<Self> {
        let path = shelf.path(address);
        let Some(file) = shelf.open(address)? else {
            return Err(Error::refuse(Code::NotFound, format!("no shard {address} here")));
        };
        shelf.require_readable(address)?;
        let present_bytes = file.metadata().map_err(Error::io("cannot read", &path))?.len();
        // A range behind a damaged header is given as it is: the reader checks all it gets.
        let whole_bytes = match read_header(&file, &path, present_bytes) {
            Ok(header) => Some(header.file_bytes()),
            Err(_) if ranged && present_bytes > 0 => None,
            Err(error) => return Err(error),
        };
        Ok(Self { file: Arc::new(file), whole_bytes, present_bytes })
    }

    fn file_bytes(&self) -> u64 {
        self.whole_bytes.unwrap_or(self.present_bytes)
    }
}

/// The bytes that `bytes=a-b` asks for of a file of `file_bytes`, where there are any.
fn parse_range(text: &str, file_bytes: u64) -> Option<Range<u64>> {
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| digits)
    };
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last && first < file_bytes).then(|| first..last.saturating_add(1).min(file_bytes))
}

fn not_satisfiable(text: &str, file_bytes: u64) -> Response {
    let message = format!("{text:?} is not a range bytes=a-b of {file_bytes} bytes");
    let refusal = Refusal::new(Code::BadRequest, message);
    let whole = [(CONTENT_RANGE, format!("bytes */{file_bytes}"))];
    (StatusCode::RANGE_NOT_SATISFIABLE, whole, Json(refusal)).into_response()
}

/// Reads `range` one piece ahead of the client. Ends early, and so cuts the connection, when the
/// file does, or when the client takes nothing for too long.
fn stream(
    server: Arc<Server>,
    address: Address,
    file: Arc<File>,
    range: Range<u64>,
    (slot, work): (OwnedSemaphorePermit, Work),
) -> Body {
    let shelf = Arc::clone(&server.shelf);
    let throttle = Arc::clone(&server.throttle);
    let (served, longest) = (throttle.serve(work), server.peer_wait());
    let silence = server.limits.client_silence;
    let (feed, mut parts) = mpsc::channel(1);
    let held = Arc::new((slot, served));
    let while_sent = Arc::clone(&held);
    tokio::spawn(async move {
        let _held = held;
        let (mut at, mut longest_piece) = (range.start, 0);
        let mut buffers = Buffers::default();
        while at < range.end {
            let most = if throttle.is_free() { PIECE_BYTES_MAX } else { PART_BYTES };
            let piece_bytes = most.min(PIECES_BYTES / server.gets_now().max(1));
            if piece_bytes < longest_piece {
                buffers = Buffers::default();
            }
            longest_piece = piece_bytes;
            let wanted = (range.end - at).min(piece_bytes);
            throttle.work(work, wanted, longest).await;
            let (shelf, source) = (Arc::clone(&shelf), Arc::clone(&file));
            let buffer = buffers.of(wanted as usize);
            let piece = blocking(move || read_piece(&shelf, address, &source, at, buffer)).await;
            let mut left = match piece {
                Ok(piece) => buffers.give(piece),
                Err(error) => {
                    let _ = tokio::time::timeout(silence, feed.send(Err(error))).await;
                    return;
                }
            };
            while !left.is_empty() {
                let part = left.split_to(left.len().min(PART_BYTES as usize));
                let sent = tokio::time::timeout(silence, feed.send(Ok(part))).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
            at += wanted;
        }
    });
    Body::from_stream(futures_util::stream::poll_fn(move |context| {
        let _held = &while_sent;
        parts.poll_recv(context)
    }))
}

/// Fills `piece` with what stands at `at`.
fn read_piece(
    shelf: &Shelf,
    address: Address,
    file: &File,
    at: u64,
    mut piece: BytesMut,
) -> io::Result<BytesMut> {
    let planted = shelf.reach_read(Fault::ReadFails, address);
    planted.and_then(|()| file.read_exact_at(&mut piece, at)).inspect_err(|error| {
        tracing::error!(%error, "cannot read {} bytes of shard {address} at {at}", piece.len());
        if is_unreadable(error) {
            shelf.note_unreadable(address, file, error);
        }
    })?;
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_single_range_from_a_to_b_is_taken() {
        for (text, range) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=3-9", Some(3..10)),
            ("bytes=3-99", Some(3..10)),
            ("bytes=0-18446744073709551615", Some(0..10)),
            ("bytes=10-11", None),
            ("bytes=5-4", None),
            ("bytes=5-", None),
            ("bytes=-5", None),
            ("bytes=0-1,3-4", None),
            ("bytes=+1-2", None),
            ("items=0-1", None),
            ("", None),
        ] {
            assert_eq!(parse_range(text, 10), range, "{text}");
        }
        assert_eq!(parse_range("bytes=0-0", 0), None);
    }
}
