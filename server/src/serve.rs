//! Running a service: where it may listen, an accept loop whose connections
//! have a header timer, and a stop that lets requests under way finish.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use crate::wire::{BUILD_HEADER, Code, PROTOCOL, PROTOCOL_HEADER, Refusal};
use crate::{Error, Result};

/// Connections served at once; more wait in the listen queue.
const CONNECTIONS_MAX: usize = 512;
/// Bytes of a connection that are buffered at most: with 512 connections this bounds a service's memory.
const BUFFER_BYTES_MAX: usize = 128 * 1024;
/// A client has this long to send a request's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a service listens.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Address and port; port 0 takes any free one.
    pub address: SocketAddr,
    /// Plain HTTP beyond loopback was asked for.
    pub plain_http: bool,
}

/// A running service.
pub struct Running {
    /// The address in use.
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    /// The service's URL on the address it listens on.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
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

/// Serves `router` until [`Running::stop`]. Every request must speak our protocol.
pub async fn start(listen: Listen, router: Router) -> Result<Running> {
    if !listen.plain_http && !listen.address.ip().is_loopback() {
        return Err(Error::Config(format!(
            "{} is not on loopback, and what is sent there could be read and altered on the way; \
             pass --plain-http if that network is trusted",
            listen.address
        )));
    }
    let path = || PathBuf::from(listen.address.to_string());
    let listener =
        TcpListener::bind(listen.address).await.map_err(Error::io("cannot listen on", path()))?;
    let address = listener.local_addr().map_err(Error::io("cannot listen on", path()))?;
    let router = router.layer(middleware::from_fn(require_protocol));
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(accept(listener, router, stopped));
    Ok(Running { address, stop, task })
}

async fn accept(listener: TcpListener, router: Router, mut stopped: oneshot::Receiver<()>) {
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(64)
        .max_buf_size(BUFFER_BYTES_MAX);
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // Dropping the sender stops the service too.
            _ = &mut stopped => break,
            accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await;
                (listener.accept().await, slot)
            } => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (Ok((stream, _)), Ok(slot)) = accepted else {
            // Out of descriptors or a connection reset before it was taken: wait, do not spin.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        // Receipts and tickets are small and waited for.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(slot);
        });
    }
    drop(listener);
    graceful.shutdown().await;
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
