//! Running a service: how it speaks where it listens, an accept loop whose
//! connections have a header timer, and before it one for the TLS handshake,
//! and a stop that lets requests under way finish.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::tls::{self, Certificates, OwnCertificate};
use crate::wire::{BUILD_HEADER, Code, PROTOCOL, PROTOCOL_HEADER, Refusal};
use crate::{Error, Result};

/// Connections served at once; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 512;
/// Bytes of a connection that are buffered at most: with 512 connections this bounds a service's memory.
const BUFFER_BYTES_MAX: usize = 128 * 1024;
/// A client has this long to send a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A client has this long to shake hands, before any request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first byte of every TLS connection.
const TLS_HANDSHAKE: u8 = 22;
/// Bytes of a plain request to a TLS service that are read, so that its answer gets through.
const PLAIN_BYTES_MAX: usize = 64 * 1024;

/// Where a service listens, and how it speaks there.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Address and port; port 0 takes any free one.
    pub address: SocketAddr,
    /// How it speaks.
    pub transport: Transport,
}

/// How a service speaks.
#[derive(Debug, Clone, Default)]
pub enum Transport {
    /// Plain HTTP on loopback, TLS elsewhere.
    #[default]
    Usual,
    /// Plain HTTP: on a network that is trusted.
    Plain,
    /// TLS, with a certificate of the vault's CA.
    Tls,
    /// TLS, with this certificate.
    Own(OwnCertificate),
}

impl Listen {
    /// Whatever the service shows; `None` where it speaks plain HTTP. Refuses a URL that says
    /// otherwise, and an address that no certificate could be for.
    pub(crate) fn certificates(
        &self,
        advertise: Option<&str>,
    ) -> Result<Option<Arc<Certificates>>> {
        let certificates = match &self.transport {
            Transport::Plain => None,
            Transport::Usual if self.address.ip().is_loopback() => None,
            Transport::Usual | Transport::Tls => {
                if advertise.is_none() && self.address.ip().is_unspecified() {
                    return Err(Error::Config(format!(
                        "nobody could check a certificate for {}: say with --advertise where \
                         others reach this service",
                        self.address
                    )));
                }
                Some(Certificates::default())
            }
            Transport::Own(own) => Some(Certificates::given(own)?),
        };
        let is_https = advertise.map(|url| url.starts_with("https://"));
        match (advertise, certificates.is_some()) {
            (Some(url), true) if is_https == Some(false) => Err(Error::Config(format!(
                "this service speaks TLS, and others would be told {url}: advertise https://…, or \
                 pass --plain-http if that network is trusted"
            ))),
            (Some(url), false) if is_https == Some(true) => Err(Error::Config(format!(
                "this service speaks plain HTTP, and others would be told {url}: pass --tls, or \
                 advertise http://…"
            ))),
            _ => Ok(certificates.map(Arc::new)),
        }
    }
}

/// A running service.
pub struct Running {
    /// The address in use.
    pub address: SocketAddr,
    scheme: &'static str,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    /// The service's URL on the address it listens on.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Takes no new connections and waits for the requests under way, for `drain` at most; then
    /// their connections are closed.
    pub async fn stop(mut self, drain: Duration) {
        // The task is gone already when the listener failed: nothing is left to stop.
        let _ = self.stop.send(());
        if tokio::time::timeout(drain, &mut self.task).await.is_err() {
            tracing::warn!("requests were cut off after {} s", drain.as_secs());
            // Its connections end with it.
            self.task.abort();
            let _ = self.task.await;
        }
    }
}

/// Serves `router` until [`Running::stop`], by TLS where there are certificates to show. Every
/// request must speak our protocol.
pub async fn start(
    address: SocketAddr,
    certificates: Option<Arc<Certificates>>,
    router: Router,
) -> Result<Running> {
    let path = || PathBuf::from(address.to_string());
    let tls = certificates.map(tls::acceptor).transpose()?;
    let listener =
        TcpListener::bind(address).await.map_err(Error::io("cannot listen on", path()))?;
    let address = listener.local_addr().map_err(Error::io("cannot listen on", path()))?;
    let router = router.layer(middleware::from_fn(require_protocol));
    let scheme = if tls.is_some() { "https" } else { "http" };
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(accept(listener, tls, Speaker::new(router), stopped));
    Ok(Running { address, scheme, stop, task })
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    speaker: Speaker,
    mut stopped: oneshot::Receiver<()>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    let mut handshakes = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // Dropping the sender stops the service too.
            _ = &mut stopped => break,
            accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (listener.accept().await, slot)
            } => accepted,
            Some(shaken) = handshakes.join_next() => {
                if let Ok((Some(stream), slot)) = shaken {
                    connections.spawn(speaker.speak(stream, slot));
                }
                continue;
            }
            Some(_) = connections.join_next() => continue,
        };
        let (Ok((stream, _)), Ok(slot)) = accepted else {
            // Out of descriptors or a connection reset before it was taken: wait, do not spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Receipts and tickets are small and waited for.
        let _ = stream.set_nodelay(true);
        match &tls {
            None => drop(connections.spawn(speaker.speak(stream, slot))),
            Some(tls) => {
                let tls = tls.clone();
                handshakes.spawn(async move { (shake_hands(tls, stream).await, slot) });
            }
        }
    }
    drop(listener);
    // Nothing was asked there yet.
    drop(handshakes);
    speaker.graceful.shutdown().await;
}

/// What all connections share.
struct Speaker {
    http: http1::Builder,
    router: Router,
    graceful: GracefulShutdown,
}

impl Speaker {
    fn new(router: Router) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_headers(64)
            .max_buf_size(BUFFER_BYTES_MAX);
        Self { http, router, graceful: GracefulShutdown::new() }
    }

    /// Answers what is asked on one connection, and gives its slot back.
    fn speak<S>(&self, stream: S, slot: OwnedSemaphorePermit) -> impl Future<Output = ()> + use<S>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = TowerToHyperService::new(self.router.clone());
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        let connection = self.graceful.watch(connection);
        async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(slot);
        }
    }
}

/// The connection once both sides have a key; `None` if that takes too long or fails.
async fn shake_hands(tls: TlsAcceptor, mut stream: TcpStream) -> Option<TlsStream<TcpStream>> {
    let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
            refuse_plain(&mut stream, first[0]).await?;
            return Err(std::io::Error::other("no TLS"));
        }
        tls.accept(stream).await
    });
    match shaken.await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!(%error, "no handshake"),
        Err(_) => tracing::debug!("no handshake within {} s", HANDSHAKE_TIMEOUT.as_secs()),
    }
    None
}

/// Tells whoever speaks plain HTTP to this TLS service so.
async fn refuse_plain(stream: &mut TcpStream, first: u8) -> std::io::Result<()> {
    // Methods are in capitals; anything else is no HTTP.
    if !first.is_ascii_uppercase() {
        return Ok(());
    }
    let why = "this service speaks TLS: its URL begins with https://";
    let refusal = serde_json::to_string(&Refusal::new(Code::Protocol, why))?;
    let answer = format!(
        "HTTP/1.1 426 Upgrade Required\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{refusal}",
        refusal.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Closing on bytes that were not read would take the answer away.
    let mut rest = stream.take(PLAIN_BYTES_MAX as u64);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map(drop)
}

async fn require_protocol(request: Request, next: Next) -> Response {
    match protocol_refusal(request.headers()) {
        None => next.run(request).await,
        Some(refusal) => refusal.into_response(),
    }
}

fn protocol_refusal(headers: &HeaderMap) -> Option<Refusal> {
    let header = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let spoken = header(PROTOCOL_HEADER).and_then(|v| v.parse::<u32>().ok());
    if spoken == Some(PROTOCOL) {
        return None;
    }
    let build = header(BUILD_HEADER).unwrap_or("unknown");
    let side = if spoken > Some(PROTOCOL) { "this service" } else { "the client" };
    let message = format!(
        "this service speaks protocol {PROTOCOL} (arc {}), the client {} (arc {build}); upgrade {side}",
        env!("CARGO_PKG_VERSION"),
        spoken.map_or_else(|| "none".to_owned(), |p| p.to_string()),
    );
    Some(Refusal::new(Code::Protocol, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_or_asked_for() {
        let said = |address: &str, transport: Transport, advertise: Option<&str>| {
            let address = address.parse().unwrap();
            match (Listen { address, transport }).certificates(advertise) {
                Ok(None) => "plain".to_owned(),
                Ok(Some(_)) => "TLS".to_owned(),
                Err(error) => error.to_string(),
            }
        };
        let (home, lan, any) = ("127.0.0.1:0", "10.0.0.1:7070", "0.0.0.0:7070");
        let (plain_url, tls_url) = (Some("http://nas:7070"), Some("https://nas:7070"));
        for (address, transport, advertise, expected) in [
            (home, Transport::Usual, None, "plain"),
            ("[::1]:0", Transport::Usual, plain_url, "plain"),
            (home, Transport::Tls, None, "TLS"),
            (lan, Transport::Usual, None, "TLS"),
            (lan, Transport::Plain, None, "plain"),
            (any, Transport::Usual, tls_url, "TLS"),
            (any, Transport::Plain, plain_url, "plain"),
            (any, Transport::Plain, None, "plain"),
        ] {
            assert_eq!(said(address, transport, advertise), expected, "{address} {advertise:?}");
        }
        for (address, transport, advertise, expected) in [
            (any, Transport::Usual, None, "--advertise"),
            (lan, Transport::Usual, plain_url, "--plain-http"),
            (home, Transport::Usual, tls_url, "--tls"),
            (lan, Transport::Plain, tls_url, "--tls"),
        ] {
            let said = said(address, transport, advertise);
            assert!(said.contains(expected), "{address} {advertise:?}: {said}");
        }
    }
}
