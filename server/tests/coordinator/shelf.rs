//! What a fake server holds, and what it answers when it is asked for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_server::auth::{Grant, verify_ticket};
use arc_server::wire::*;
use axum::extract::{Query, State as Shared};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use axum::{Json, Router};
use codec::StripeId;
use tokio::sync::{oneshot, watch};

/// Where a test can have an answer wait: it is made up by then, and not given.
pub(crate) struct Gate {
    pub(crate) path: &'static str,
    pub(crate) reached: oneshot::Sender<()>,
    pub(crate) open: oneshot::Receiver<()>,
}

/// The shards of one server.
pub(crate) struct Shelf {
    identity: watch::Sender<Option<JoinAnswer>>,
    /// Shards, and whether they are known to be bad.
    held: Mutex<BTreeMap<(StripeId, u8), bool>>,
    /// Bad, and not known to be.
    rotten: Mutex<Vec<(StripeId, u8)>>,
    /// What was asked for, in order.
    asked: Mutex<Vec<String>>,
    gate: Mutex<Option<Gate>>,
    /// Which path is refused.
    refused: Mutex<Option<&'static str>>,
}

impl Shelf {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            identity: watch::Sender::new(None),
            held: Mutex::default(),
            rotten: Mutex::default(),
            asked: Mutex::default(),
            gate: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    pub(crate) fn belong_to(&self, answer: &JoinAnswer) {
        self.identity.send_replace(Some(answer.clone()));
    }

    pub(crate) fn router(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/v1/inventory/digests", get(digests))
            .route("/v1/inventory", get(inventory))
            .route("/v1/check", post(check))
            .route("/v1/trash", post(trash))
            .with_state(Arc::clone(self))
    }

    pub(crate) fn hold(&self, stripe: StripeId, index: u8, bad: bool) {
        self.held.lock().unwrap().insert((stripe, index), bad);
    }

    pub(crate) fn lose(&self, stripe: StripeId, index: u8) {
        self.remove(stripe, index).unwrap();
    }

    pub(crate) fn remove(&self, stripe: StripeId, index: u8) -> Option<bool> {
        self.held.lock().unwrap().remove(&(stripe, index))
    }

    /// A check finds it good again.
    pub(crate) fn heal(&self, stripe: StripeId, index: u8) {
        self.rotten.lock().unwrap().retain(|&rotten| rotten != (stripe, index));
    }

    /// Whether it is there and a check finds it good.
    pub(crate) fn is_good(&self, shard: (StripeId, u8)) -> bool {
        self.held.lock().unwrap().contains_key(&shard)
            && !self.rotten.lock().unwrap().contains(&shard)
    }

    /// A check finds it bad from here on.
    pub(crate) fn rot(&self, stripe: StripeId, index: u8) {
        self.rotten.lock().unwrap().push((stripe, index));
    }

    pub(crate) fn held(&self) -> Vec<(StripeId, u8)> {
        self.held.lock().unwrap().keys().copied().collect()
    }

    /// What it was asked for since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    pub(crate) fn refuse(&self, path: Option<&'static str>) {
        *self.refused.lock().unwrap() = path;
    }

    /// Has the next answer from `path` wait; tells when it does, and is told to go on.
    pub(crate) fn gate(
        &self,
        path: &'static str,
    ) -> (impl Future<Output = ()> + use<>, oneshot::Sender<()>) {
        let (reached, is_reached) = oneshot::channel();
        let (go_on, open) = oneshot::channel();
        *self.gate.lock().unwrap() = Some(Gate { path, reached, open });
        let in_time = tokio::time::timeout(Duration::from_secs(30), is_reached);
        let is_reached = async { in_time.await.expect("it was not asked for").unwrap() };
        (is_reached, go_on)
    }

    fn begin(&self, path: &'static str, headers: &HeaderMap, grant: Grant) -> Result<(), Refusal> {
        self.asked.lock().unwrap().push(path.to_owned());
        let header = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let ticket = header.strip_prefix("Ticket ").unwrap_or_default();
        let identity = self.identity.borrow().clone().unwrap();
        let ticket = verify_ticket(ticket, &identity.ticket_key.0).unwrap();
        assert_eq!((ticket.grant, ticket.server), (grant, identity.server), "{path}");
        match *self.refused.lock().unwrap() {
            Some(refused) if refused == path => Err(Refusal::new(Code::Internal, "not now")),
            _ => Ok(()),
        }
    }

    async fn pass(&self, path: &str) {
        let gate = self.gate.lock().unwrap().take_if(|gate| gate.path == path);
        if let Some(Gate { reached, open, .. }) = gate {
            reached.send(()).unwrap();
            open.await.unwrap();
        }
    }
}

type Held = Shared<Arc<Shelf>>;

async fn digests(Shared(shelf): Held, headers: HeaderMap) -> Result<Json<Digests>, Refusal> {
    shelf.begin("digests", &headers, Grant::Control)?;
    let mut buckets = vec![Bucket::default(); BUCKETS];
    for (&(stripe, index), &bad) in &*shelf.held.lock().unwrap() {
        buckets[usize::from(Bucket::of(stripe))].add(stripe, index, bad);
    }
    shelf.pass("digests").await;
    Ok(Json(Digests { buckets }))
}

async fn inventory(
    Shared(shelf): Held,
    headers: HeaderMap,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<InventoryRow>>, Refusal> {
    shelf.begin("inventory", &headers, Grant::Control)?;
    let after = query.after.map(|after| {
        let (stripe, index) = after.split_once('.').unwrap();
        (stripe.parse::<StripeId>().unwrap(), index.parse::<u8>().unwrap())
    });
    // Short pages, so that there are several of them.
    let limit = query.limit.unwrap().min(2) as usize;
    let held = shelf.held.lock().unwrap().clone();
    let mut rows = held.into_iter().filter(|(shard, _)| after.is_none_or(|after| *shard > after));
    let row = |((stripe, index), bad): ((StripeId, u8), bool)| InventoryRow {
        stripe,
        index,
        file_bytes: 1,
        damaged: bad.then(|| "why".to_owned()),
    };
    let page: Vec<InventoryRow> = rows.by_ref().take(limit).map(row).collect();
    let last = page.last().map(|row| format!("{}.{}", row.stripe, row.index));
    let next = rows.next().and(last);
    shelf.pass("inventory").await;
    Ok(Json(Page { rows: page, next }))
}

async fn check(
    Shared(shelf): Held,
    headers: HeaderMap,
    Json(request): Json<CheckRequest>,
) -> Result<Json<CheckAnswer>, Refusal> {
    shelf.begin("check", &headers, Grant::Read)?;
    assert_eq!(request.thoroughness, Thoroughness::Whole);
    let found = |shard: &(StripeId, u8)| match shelf.held.lock().unwrap().get_mut(shard) {
        None => Found::Missing,
        Some(bad) => {
            *bad = shelf.rotten.lock().unwrap().contains(shard);
            if *bad { Found::Damaged("why".into()) } else { Found::Good }
        }
    };
    let found = request.shards.iter().map(found).collect();
    shelf.pass("check").await;
    Ok(Json(CheckAnswer { found }))
}

async fn trash(
    Shared(shelf): Held,
    headers: HeaderMap,
    Json(order): Json<TrashRequest>,
) -> Result<Json<TrashAnswer>, Refusal> {
    shelf.begin("trash", &headers, Grant::Control)?;
    shelf.pass("trash").await;
    let mut held = shelf.held.lock().unwrap();
    let trashed = order.shards.iter().filter(|shard| held.remove(shard).is_some()).count();
    Ok(Json(TrashAnswer { trashed: trashed as u32 }))
}
