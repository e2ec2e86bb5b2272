//! The typed client of both services, with its timeouts and retries.

mod coordinator;
mod range;
mod servers;
mod storage;

pub use coordinator::CoordinatorClient;
pub use range::ShardRange;
pub(crate) use servers::Servers;
pub use storage::{PutPieces, PutShard, StorageClient};

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::tls::{self, Peer, Trust};
use crate::wire::{BUILD_HEADER, PROTOCOL, PROTOCOL_HEADER, Refusal};
use crate::{Error, Result};

/// How long a TCP connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Control answers longer than this are nonsense.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The reason of a refusal is cut off here.
const MESSAGE_CHARS_MAX: usize = 1000;

/// An HTTP client for traffic between nodes: no proxy, no redirect, HTTP/1.1 only
/// (parallel h2 uploads stall: hyper#1813), TLS with that peer only.
pub(crate) fn http_client(trust: &Trust, peer: Peer) -> Result<reqwest::Client> {
    let mut headers = reqwest::header::HeaderMap::new();
    headers.insert(PROTOCOL_HEADER, PROTOCOL.into());
    headers
        .insert(BUILD_HEADER, reqwest::header::HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    reqwest::Client::builder()
        .tls_backend_preconfigured(trust.client(peer)?)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(16)
        .default_headers(headers)
        .build()
        .map_err(|e| Error::Config(format!("cannot make an HTTP client: {}", cause(&e))))
}

/// The innermost text of an error: "connection refused" rather than "error sending request".
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Why a request got no answer.
pub(crate) fn unreachable(service: &str, error: &reqwest::Error) -> Error {
    if let Some(error) = tls::explain(service, error) {
        return error;
    }
    let why = if error.is_timeout() { "no answer in time".to_owned() } else { cause(error) };
    Error::Unreachable { service: service.to_owned(), why }
}

/// Turns an answer that is not a success into [`Error::Refused`].
async fn accepted(service: &str, response: reqwest::Response) -> Result<reqwest::Response> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let body = bounded(service, response).await?;
    match serde_json::from_slice::<Refusal>(&body) {
        Ok(mut refusal) => {
            refusal.message = plain(&refusal.message);
            Err(Error::Refused { service: service.to_owned(), refusal })
        }
        Err(_) => Err(nonsense(service, format!("status {status} without a reason"))),
    }
}

/// A service's words as they may be shown: it must not rule the terminal of whoever asks.
fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(MESSAGE_CHARS_MAX).map(shown).collect()
}

async fn json<T: DeserializeOwned>(service: &str, response: reqwest::Response) -> Result<T> {
    let mut body = bounded(service, accepted(service, response).await?).await?;
    if body.is_empty() {
        body.extend_from_slice(b"null");
    }
    serde_json::from_slice(&body).map_err(|e| nonsense(service, e.to_string()))
}

async fn bounded(service: &str, mut response: reqwest::Response) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|e| unreachable(service, &e))? {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(nonsense(
                service,
                format!("an answer of more than {ANSWER_BYTES_MAX} bytes"),
            ));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn nonsense(service: &str, why: impl Into<String>) -> Error {
    Error::Nonsense { service: service.to_owned(), why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_service_hold_no_control_characters_and_end() {
        assert_eq!(
            plain("no \x1b[31mroom\r\n\u{9b}1m"),
            "no \u{fffd}[31mroom\u{fffd}\u{fffd}\u{fffd}1m"
        );
        assert_eq!(plain(&"ä".repeat(2000)).chars().count(), MESSAGE_CHARS_MAX);
    }
}
