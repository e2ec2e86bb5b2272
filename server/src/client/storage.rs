//! The storage servers' endpoints that clients use, as functions.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use codec::{Digest, StripeId};
use futures_util::{Stream, StreamExt as _, stream};
use reqwest::RequestBuilder;

use super::range::ShardRange;
use super::{Servers, cause, json, nonsense, unreachable};
use crate::tls::Trust;
use crate::wire::{CheckAnswer, CheckRequest, Place, ReadTicket, Receipt, WORK_HEADER, Work};
use crate::{Error, Result};

/// Bytes of a body that are handed to the connection at once.
const PIECE_BYTES: usize = 256 * 1024;
/// Longer answers get their memory as they come.
const READ_AT_ONCE_BYTES: usize = 64 * 1024 * 1024;
/// Parts that the wait for something to move is counted in.
const STALL_PARTS: u32 = 8;
/// Whole files are checked at this pace or faster.
const CHECK_TIMEOUT: Duration = Duration::from_secs(600);
/// A server that the coordinator does not hear either may hang: it gets a chance, not minutes.
const SILENT_CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause after the first failed read; doubled up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);

/// The storage servers, spoken to with tickets. Nothing is retried here but reads, for as long
/// as `patience` lasts: what to do about a server that fails is the caller's decision.
#[derive(Clone)]
pub struct StorageClient {
    servers: Servers,
    stall: Duration,
    patience: Duration,
    work: Work,
}

/// A shard on its way to a server.
pub struct PutShard {
    /// The stripe.
    pub stripe: StripeId,
    /// The encoded header.
    pub header: Bytes,
    /// The hash that the receipt must name.
    pub header_hash: Digest,
    /// The body.
    pub body: Bytes,
    /// The footer.
    pub footer: Bytes,
    /// Told how many bytes leave, as they leave.
    pub on_sent: Arc<dyn Fn(u64) + Send + Sync>,
}

/// A shard file that comes in pieces.
pub struct PutPieces<S> {
    /// The stripe.
    pub stripe: StripeId,
    /// The hash that the receipt must name.
    pub header_hash: Digest,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// All of them, in order.
    pub pieces: S,
}

impl StorageClient {
    /// A client that gives a server up when nothing moves for `stall`; over TLS it speaks to
    /// servers only that `trust` knows.
    pub fn new(stall: Duration, trust: &Trust) -> Self {
        Self { servers: Servers::new(trust), stall, patience: Duration::ZERO, work: Work::Client }
    }

    /// The same, repeating reads so long where a server does not answer, is busy or not ready.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The same, for this work.
    pub fn with_work(self, work: Work) -> Self {
        Self { work, ..self }
    }

    /// Stores a shard; the receipt is checked to be about this shard.
    pub async fn put_shard(&self, place: &Place, epoch: u64, shard: PutShard) -> Result<Receipt> {
        let PutShard { stripe, header, header_hash, body, footer, on_sent } = shard;
        let file_bytes = (header.len() + body.len() + footer.len()) as u64;
        let pieces: Vec<Bytes> = std::iter::once(header)
            .chain(
                (0..body.len())
                    .step_by(PIECE_BYTES)
                    .map(|at| body.slice(at..body.len().min(at + PIECE_BYTES))),
            )
            .chain([footer])
            .collect();
        let pieces = stream::iter(pieces).map(move |piece| {
            on_sent(piece.len() as u64);
            Ok(piece)
        });
        self.put_pieces(place, epoch, PutPieces { stripe, header_hash, file_bytes, pieces }).await
    }

    /// The same for a file that is not in memory: its pieces are taken as the server takes them.
    pub async fn put_pieces<S>(
        &self,
        place: &Place,
        epoch: u64,
        shard: PutPieces<S>,
    ) -> Result<Receipt>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let name = format!("{} {}", place.name, place.url);
        let PutPieces { stripe, header_hash, file_bytes, pieces } = shard;
        let moved = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&moved);
        let body = pieces.inspect(move |piece| {
            let bytes = piece.as_ref().map_or(0, Bytes::len);
            counted.fetch_add(bytes as u64, Ordering::Relaxed);
        });
        let request = self
            .servers
            .client(place.server)?
            .put(format!("{}/v1/shards/{stripe}/{}", place.url, place.index))
            .header(reqwest::header::AUTHORIZATION, format!("Ticket {}", place.ticket))
            .header(reqwest::header::CONTENT_LENGTH, file_bytes)
            .body(reqwest::Body::wrap_stream(body));
        let request = self.named(request);
        let answer = async {
            let response = request.send().await.map_err(|e| unreachable(&name, &e))?;
            json::<Receipt>(&name, response).await
        };
        let receipt = tokio::select! {
            biased;
            answer = answer => answer?,
            () = stalled(&moved, self.stall) => return Err(stall_error(&name, self.stall)),
        };
        let right = receipt.stripe == stripe
            && receipt.index == place.index
            && receipt.server == place.server
            && receipt.epoch == epoch
            && receipt.header_hash == header_hash;
        if right { Ok(receipt) } else { Err(nonsense(&name, "a receipt for another shard")) }
    }

    /// Bytes `start..end` of a shard file; exactly these or an error: [`Error::Io`] where the
    /// answer broke off in the middle.
    pub async fn get_range(
        &self,
        server: &ReadTicket,
        stripe: StripeId,
        index: u8,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let mut bytes = BytesMut::new();
        self.read_range(server, stripe, index, range, &mut bytes).await?;
        Ok(bytes.freeze())
    }

    /// Adds the same bytes to `buffer`, in its memory as far as that reaches; on an error nothing.
    pub async fn read_range(
        &self,
        server: &ReadTicket,
        stripe: StripeId,
        index: u8,
        range: Range<u64>,
        buffer: &mut BytesMut,
    ) -> Result<()> {
        let wanted = range.end.saturating_sub(range.start) as usize;
        let before = buffer.len();
        let mut patience = Patience::new(self.patience);
        loop {
            let read = async {
                let range = range.clone();
                let mut opened = self.open_range_once(server, stripe, index, range).await?;
                buffer.reserve(wanted.min(READ_AT_ONCE_BYTES));
                opened.read(buffer, wanted).await
            };
            let Err(error) = read.await else { return Ok(()) };
            buffer.truncate(before);
            patience.pass(error).await?;
        }
    }

    /// The same bytes, to be read part by part.
    pub async fn open_range(
        &self,
        server: &ReadTicket,
        stripe: StripeId,
        index: u8,
        range: Range<u64>,
    ) -> Result<ShardRange> {
        let mut patience = Patience::new(self.patience);
        loop {
            match self.open_range_once(server, stripe, index, range.clone()).await {
                Err(error) => patience.pass(error).await?,
                Ok(opened) => return Ok(opened),
            }
        }
    }

    async fn open_range_once(
        &self,
        server: &ReadTicket,
        stripe: StripeId,
        index: u8,
        range: Range<u64>,
    ) -> Result<ShardRange> {
        let name = format!("{} {}", server.name, server.url);
        let last = range.end.saturating_sub(1);
        let request = self
            .servers
            .client(server.server)?
            .get(format!("{}/v1/shards/{stripe}/{index}", server.url))
            .header(reqwest::header::AUTHORIZATION, format!("Ticket {}", server.ticket))
            .header(reqwest::header::RANGE, format!("bytes={}-{last}", range.start));
        let bytes = range.end.saturating_sub(range.start);
        ShardRange::open(name, self.named(request), bytes, self.stall).await
    }

    /// Says whose work the request is.
    fn named(&self, request: RequestBuilder) -> RequestBuilder {
        match self.work.header() {
            Some(work) => request.header(WORK_HEADER, work),
            None => request,
        }
    }

    /// Has a server look at its own shards.
    pub async fn check(&self, server: &ReadTicket, request: &CheckRequest) -> Result<CheckAnswer> {
        let name = format!("{} {}", server.name, server.url);
        let is_silent = server.state.is_away();
        let timeout = if is_silent { SILENT_CHECK_TIMEOUT } else { CHECK_TIMEOUT };
        let response = self
            .servers
            .client(server.server)?
            .post(format!("{}/v1/check", server.url))
            .header(reqwest::header::AUTHORIZATION, format!("Ticket {}", server.ticket))
            .json(request)
            .timeout(timeout)
            .send()
            .await
            .map_err(|e| unreachable(&name, &e))?;
        let answer: CheckAnswer = json(&name, response).await?;
        if answer.found.len() != request.shards.len() {
            return Err(nonsense(&name, "not one finding a shard"));
        }
        Ok(answer)
    }
}

/// How long one request is repeated.
struct Patience {
    began: Instant,
    longest: Duration,
    pause: Duration,
}

impl Patience {
    fn new(longest: Duration) -> Self {
        Self { began: Instant::now(), longest, pause: RETRY_PAUSE_MIN }
    }

    /// Waits before the request is sent again; an error that it does not wait for is given back.
    async fn pass(&mut self, error: Error) -> Result<()> {
        if !error.is_passing() || self.began.elapsed() + self.pause > self.longest {
            return Err(error);
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(RETRY_PAUSE_MAX);
        Ok(())
    }
}

/// Ends when `moved` stood still for `stall`. Counted in parts: while nobody polls, nothing can
/// move, and all of that time is one part.
pub(super) async fn stalled(moved: &AtomicU64, stall: Duration) {
    let mut last = moved.load(Ordering::Relaxed);
    let mut still = 0;
    while still < STALL_PARTS {
        tokio::time::sleep(stall / STALL_PARTS).await;
        let now = moved.load(Ordering::Relaxed);
        still = if now == last { still + 1 } else { 0 };
        last = now;
    }
}

pub(super) fn broken_off(name: &str, error: &reqwest::Error) -> Error {
    Error::io("cannot read on from", name)(std::io::Error::other(cause(error)))
}

pub(super) fn stall_error(name: &str, stall: Duration) -> Error {
    Error::Unreachable {
        service: name.to_owned(),
        why: format!("nothing moved for {} s", stall.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::wire::{ServerId, State};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_read_that_nobody_polls_is_no_silent_server() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (asked, was_asked) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = was_asked.await;
            let answer = b"HTTP/1.1 206 Partial Content\r\ncontent-length: 3\r\n\r\nabc";
            stream.write_all(answer).await.unwrap();
        });
        let ticket = ReadTicket {
            server: ServerId(1),
            name: "a".into(),
            zone: "z".into(),
            url,
            ticket: "t".into(),
            state: State::Up,
        };
        let stall = Duration::from_secs(2);
        let client = StorageClient::new(stall, &Trust::none());
        let mut read = std::pin::pin!(client.get_range(&ticket, StripeId([1; 32]), 0, 0..3));
        assert!(read.as_mut().now_or_never().is_none());
        asked.send(()).unwrap();
        // As where a slow disk holds up the task that reads.
        std::thread::sleep(stall + Duration::from_millis(200));
        assert_eq!(read.await.unwrap(), "abc");
    }
}
