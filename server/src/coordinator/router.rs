//! The coordinator's paths: who may ask, how bodies are read, how long an answer may take.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequest, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post, put};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::{Core, adopt, backup, coverage, events, facts, push, read, reconcile, repair, servers};
use crate::auth::{self, Role, Token};
use crate::wire::{Code, PAGE_ROWS_MAX, PageQuery, REQUEST_BYTES_MAX};
use crate::{Error, Result};

/// Bytes of a join or a hello at most: a hello is read before its MAC can be checked.
const SERVER_BYTES_MAX: usize = 4096;

/// A request is answered or given up within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Who asks: the id of the token, which what it brings is stamped with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller(pub(super) i64);

/// All paths.
pub(super) fn router(core: Arc<Core>) -> Router {
    let owner = Router::new()
        .route("/v1/vault", get(servers::vault).put(servers::put_vault))
        .route("/v1/servers", get(servers::list))
        .route("/v1/servers/{id}", delete(servers::remove))
        .route("/v1/servers/{id}/mode", put(servers::set_mode))
        .route("/v1/servers/{id}/replace", post(servers::replace))
        .route("/v1/status", get(servers::status))
        .route("/v1/facts", get(facts::page))
        .route("/v1/adoption", get(adopt::status).post(adopt::begin))
        .route("/v1/adoption/finish", post(adopt::finish))
        .route("/v1/unindexed", get(adopt::unindexed))
        .route("/v1/index", post(adopt::index))
        .route("/v1/leases", post(push::begin))
        .route("/v1/leases/{id}", delete(push::close))
        .route("/v1/leases/{id}/renew", post(push::renew))
        .route("/v1/have", post(push::have))
        .route("/v1/place", post(push::place))
        .route("/v1/stripes", get(read::stripes).post(push::commit_stripe))
        .route("/v1/snapshots", get(read::snapshots).post(push::commit_snapshot))
        .route("/v1/lost-chunks", get(read::lost_chunks))
        .route("/v1/locate", post(read::locate))
        .route("/v1/stripe-maps", post(read::stripe_maps))
        .route("/v1/read-tickets", post(read::read_tickets))
        .route("/v1/reports", post(read::report))
        .route("/v1/coverage", post(coverage::note))
        .route("/v1/coverage/oldest", get(coverage::oldest))
        .route("/v1/coverage/stripes", post(coverage::of_stripes))
        .route("/v1/drills", post(coverage::drill))
        .route("/v1/reconcile", get(reconcile::list).post(reconcile::begin))
        .route("/v1/stripes/{digits}/repair", get(repair::order))
        .route("/v1/repairs", get(repair::last).post(repair::begin))
        .route("/v1/repairs/unmended", get(repair::unmended))
        .route("/v1/repair", get(repair::status).put(repair::set))
        .route("/v1/rebalance", get(repair::plan))
        .route("/v1/ledger", get(repair::ledger))
        .route("/v1/events", get(events::list))
        .route("/v1/backup", get(backup::status).post(backup::begin))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&core), owner_only));
    let join = Router::new()
        .route("/v1/join", post(servers::join).layer(DefaultBodyLimit::max(SERVER_BYTES_MAX)))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&core), join_only));
    Router::new()
        .route("/v1/hello", post(servers::hello).layer(DefaultBodyLimit::max(SERVER_BYTES_MAX)))
        .merge(owner)
        .merge(join)
        .method_not_allowed_fallback(no_such_path)
        .fallback(no_such_path)
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .layer(middleware::from_fn(in_time))
        .with_state(core)
}

async fn no_such_path(request: Request) -> Error {
    let what = format!("the coordinator has no {} {}", request.method(), request.uri().path());
    Error::refuse(Code::NotFound, what)
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let after = format!("no answer within {} s, try again", REQUEST_TIMEOUT.as_secs());
            Error::refuse(Code::Busy, after).into_response()
        }
    }
}

async fn owner_only(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    with_token(&core, Role::Owner, request, next).await
}

async fn join_only(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    with_token(&core, Role::Join, request, next).await
}

async fn with_token(core: &Core, role: Role, mut request: Request, next: Next) -> Response {
    match caller(core, role, &request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// The token that a request came with, which must be of this role. Compares hashes, all of
/// them and in constant time.
fn caller(core: &Core, role: Role, request: &Request) -> Result<Caller> {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let secret = header
        .and_then(|v| v.strip_prefix("Bearer "))
        .ok_or_else(|| Error::refuse(Code::Unauthorized, "no token was sent"))?;
    let hash = Token::secret_hash(secret);
    let mut known = None;
    for token in &core.tokens {
        if auth::same(&token.hash, hash.as_bytes()) {
            known = Some(token);
        }
    }
    match known {
        None => Err(Error::refuse(Code::Unauthorized, "this coordinator knows no such token")),
        Some(token) if token.role == role => Ok(Caller(token.id)),
        Some(_) => Err(Error::refuse(Code::Forbidden, "the token does not allow this")),
    }
}

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Error;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Error::refuse(Code::TooLarge, "the body is longer than this request may be")
            } else {
                bad_request("the body was cut off")
            }
        })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|e| bad_request(format!("the body: {e}")))
    }
}

/// Runs `work` to its end even if the client goes away meanwhile, which ends its handler: what
/// the catalog has, memory must have too.
pub(super) async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let failed = "the request was not carried out, see the coordinator's log";
    tokio::spawn(work).await.map_err(|_| Error::refuse(Code::Internal, failed))?
}

/// A malformed request.
pub(super) fn bad_request(message: impl Into<String>) -> Error {
    Error::refuse(Code::BadRequest, message)
}

/// The query of a list.
pub(super) struct List {
    after: Option<String>,
    /// Rows of a page.
    pub(super) limit: usize,
}

impl List {
    /// Where the page begins.
    pub(super) fn after<T: std::str::FromStr>(&self) -> Result<Option<T>> {
        let parse = |after: &String| after.parse().map_err(|_| after.clone());
        let bad = |after| bad_request(format!("no page begins after {after:?}"));
        self.after.as_ref().map(parse).transpose().map_err(bad)
    }
}

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for List {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, state: &S) -> Result<Self> {
        let query = Query::<PageQuery>::from_request_parts(parts, state).await;
        let PageQuery { after, limit } =
            query.map_err(|e| bad_request(format!("the query: {e}")))?.0;
        let limit = limit.unwrap_or(PAGE_ROWS_MAX).clamp(1, PAGE_ROWS_MAX);
        Ok(Self { after, limit: limit as usize })
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_began_ends_when_its_client_is_gone() {
        let (commit, committed) = oneshot::channel();
        let (noted, is_noted) = oneshot::channel();
        let mut handler = Box::pin(to_the_end(async move {
            committed.await.unwrap();
            noted.send(()).unwrap();
            Ok(())
        }));
        let begun = tokio::time::timeout(Duration::ZERO, &mut handler).await;
        assert!(begun.is_err(), "it waits for the commit");
        drop(handler);
        commit.send(()).unwrap();
        is_noted.await.unwrap();
    }
}
