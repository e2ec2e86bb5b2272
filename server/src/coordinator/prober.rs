//! Asks every server how it is doing, again and again, and gives it the vault record and the
//! facts. What
//! the answers mean is decided in `health`.

use std::sync::{Arc, Weak};
use std::time::Duration;

use codec::StripeId;
use serde::Serialize;

use super::Core;
use super::events::{Kind, Told};
use super::fleet::Member;
use super::{facts, reconcile};
use crate::auth::Grant;
use crate::client::unreachable;
use crate::wire::{
    Blob, CheckAnswer, CheckRequest, Code, Found, Probe, ProbeAnswer, PutVault, RebuildRequest,
    Refusal, ServerId, SetThrottle, Thoroughness, WORK_HEADER, Work,
};
use crate::{Error, Result};

/// A ticket for the coordinator's own requests lasts this long.
pub(super) const CONTROL_TICKET_MS: u64 = 30_000;
/// Every answer is shorter, a page of an inventory too.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How long a server may take to store the vault record.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);
/// How often what the probes found goes into the catalog.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// Probes one server until the coordinator is gone.
pub(super) async fn watch(core: Weak<Core>, server: ServerId) {
    loop {
        let Some(here) = core.upgrade() else { return };
        let Some(member) = here.fleet.get(server) else { return };
        probe(&here, &member).await;
        let every = here.timings.probe_every;
        drop(here);
        // An early wake is a hello, a vault record to give, or word that it failed.
        let _ = tokio::time::timeout(every, member.wake.notified()).await;
    }
}

/// Writes what the probes found into the catalog now and then, until the coordinator is gone.
pub(super) async fn note(core: Weak<Core>) {
    loop {
        tokio::time::sleep(NOTE_EVERY).await;
        let Some(core) = core.upgrade() else { return };
        note_now(&core).await;
    }
}

/// Writes what the probes found into the catalog.
pub(super) async fn note_now(core: &Core) {
    let seen = core.fleet.members().into_iter().filter_map(|m| {
        let row = m.row;
        row.last_seen_ms.map(|ms| (row.server, ms, row.capacity_bytes, row.free_bytes))
    });
    if let Err(error) = core.catalog.note_seen(seen.collect()).await {
        tracing::warn!(%error, "the servers' last answers could not be noted");
    }
}

async fn probe(core: &Arc<Core>, member: &Member) {
    let server = member.row.server;
    let answer = match ask(core, member).await {
        Ok(answer) => Some(answer),
        Err(why) => {
            tracing::debug!(name = member.row.name, url = member.row.url, why, "probe missed");
            None
        }
    };
    let (findings, facts) = (answer.as_ref().map(|a| a.findings), answer.as_ref().map(|a| a.facts));
    let state = core.fleet.observe(server, answer, core.catalog.clock.now_ms());
    let (Some(findings), Some(facts)) = (findings, facts) else { return };
    if let Some(state) = state {
        reconcile::consider(core, server, state, findings);
    }
    give_record(core, server).await;
    facts::heard(core, member, facts).await;
    facts::give(core, server).await;
    give_pace(core, server).await;
}

async fn ask(core: &Core, member: &Member) -> Result<ProbeAnswer, String> {
    let bytes = match send_probe(core, member).await {
        Err(Missed { seen_epoch: Some(seen), why, .. }) => {
            if !go_above(core, member, seen).await {
                return Err(why);
            }
            send_probe(core, member).await
        }
        first => first,
    };
    let bytes = bytes.map_err(|missed| missed.why)?;
    let answer: ProbeAnswer = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if answer.server != member.row.server || answer.vault != core.catalog.vault {
        return Err("another server answers there".into());
    }
    Ok(answer)
}

async fn send_probe(core: &Core, member: &Member) -> Result<Vec<u8>, Missed> {
    let probe = Probe { epoch: core.catalog.epoch(), now_ms: core.catalog.clock.now_ms() };
    let (post, timeout) = (reqwest::Method::POST, core.timings.probe_timeout);
    control(core, member, probe.epoch, post, "probe", &probe, timeout).await
}

/// A server refuses orders since it has `seen` a later epoch: the catalog was restored from an
/// older copy, and its epoch has to rise above that; gives whether it has.
///
/// Nothing authenticates this answer. A lie fences tickets, which are then asked for again,
/// once: no sound server has to say it twice, so each is heard once a start.
async fn go_above(core: &Core, member: &Member, seen: u64) -> bool {
    let name = &member.row.name;
    if seen < core.catalog.epoch() {
        return true;
    }
    if member.outran {
        return false;
    }
    match core.catalog.raise_epoch(seen).await {
        Ok(raised) => {
            core.fleet.has_outrun(member.row.server);
            let epoch = core.catalog.epoch();
            if raised {
                tracing::warn!(name, seen, epoch, "the catalog is an older copy: epoch raised");
            } else {
                tracing::warn!(name, seen, epoch, "a server claims an epoch beyond all reason");
            }
            raised
        }
        Err(error) => {
            tracing::warn!(name, seen, %error, "the epoch could not be raised");
            false
        }
    }
}

/// Gives a server the vault record, unless it has it; tried again after the next probe.
async fn give_record(core: &Core, server: ServerId) {
    let record = core.record.borrow().clone();
    let (Some(record), Some(member)) = (record, core.fleet.get(server)) else { return };
    let hash = blake3::hash(&record);
    if member.record == Some(hash) {
        return;
    }
    let body = PutVault { record: Blob(record.to_vec()) };
    let put = reqwest::Method::PUT;
    let epoch = core.catalog.epoch();
    match control(core, &member, epoch, put, "vault-record", &body, RECORD_TIMEOUT).await {
        Ok(_) => core.fleet.has_record(server, hash),
        Err(Missed { why, .. }) => {
            tracing::warn!(name = member.row.name, why, "vault record was not taken")
        }
    }
}

/// Gives a server its pace, unless it has it; tried again after the next probe.
async fn give_pace(core: &Core, server: ServerId) {
    let wanted = core.fleet.pace(&core.repairs.settings());
    let Some(member) = core.fleet.get(server) else { return };
    if member.pace == Some(wanted) {
        return;
    }
    let order = SetThrottle { bytes_per_second: wanted };
    let (put, epoch) = (reqwest::Method::PUT, core.catalog.epoch());
    match control(core, &member, epoch, put, "throttle", &order, core.timings.probe_timeout).await {
        Ok(_) => core.fleet.has_pace(server, wanted),
        // One of an older build has none.
        Err(Missed { why, .. }) => {
            tracing::debug!(name = member.row.name, why, "the pace was not taken")
        }
    }
}

/// Why an order was not carried out.
pub(super) struct Missed {
    pub(super) why: String,
    /// Why the server refused, if it did.
    pub(super) code: Option<Code>,
    /// The highest epoch that the server has seen, if the order's was lower.
    seen_epoch: Option<u64>,
}

impl From<String> for Missed {
    fn from(why: String) -> Self {
        Self { why, code: None, seen_epoch: None }
    }
}

/// An order that did not reach a server. Of one that is not trusted the log tells, until it
/// counts as away.
fn not_sent(core: &Core, member: &Member, error: Error) -> String {
    if matches!(error, Error::Untrusted { .. }) && !member.health.state.is_away() {
        tracing::warn!(%error, "a server gets no orders");
        let told = Told::of(Kind::Certificate, error.to_string()).on(&member.row.name);
        core.journal.note(told, core.catalog.clock.now_ms());
    }
    error.to_string()
}

/// Sends an order of the coordinator; gives the body of a success.
pub(super) async fn control(
    core: &Core,
    member: &Member,
    epoch: u64,
    method: reqwest::Method,
    path: &str,
    body: &impl Serialize,
    timeout: Duration,
) -> Result<Vec<u8>, Missed> {
    let ticket = ticket(core, member, Grant::Control, epoch).map_err(|e| e.to_string())?;
    send(core, member, ticket, method, path, body, timeout).await
}

/// Has a server look at its shards, every byte of them.
pub(super) async fn check(
    core: &Core,
    member: &Member,
    shards: Vec<(StripeId, u8)>,
    timeout: Duration,
) -> Result<Vec<Found>, Missed> {
    let body = CheckRequest { shards, thoroughness: Thoroughness::Whole };
    let ticket = ticket(core, member, Grant::Read, core.catalog.epoch());
    let ticket = ticket.map_err(|e| e.to_string())?;
    let bytes = send(core, member, ticket, reqwest::Method::POST, "check", &body, timeout).await?;
    let answer: CheckAnswer = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    if answer.found.len() != body.shards.len() {
        return Err("not one finding a shard".to_owned().into());
    }
    Ok(answer.found)
}

/// A ticket for one request of the coordinator itself.
pub(super) fn ticket(core: &Core, member: &Member, grant: Grant, epoch: u64) -> Result<String> {
    let now_ms = core.catalog.clock.now_ms();
    core.ticket(grant, member.row.server, epoch, now_ms, now_ms + CONTROL_TICKET_MS)
}

/// Has a server follow an order to rebuild.
pub(super) async fn rebuild(
    core: &Core,
    member: &Member,
    order: &RebuildRequest,
    work: Work,
    timeout: Duration,
) -> Result<Vec<u8>, Missed> {
    let ticket = ticket(core, member, Grant::Control, order.epoch).map_err(|e| e.to_string())?;
    let request = request(core, member, &ticket, reqwest::Method::POST, "rebuild")?;
    let request = request.timeout(timeout).json(order);
    let request = match work.header() {
        Some(work) => request.header(WORK_HEADER, work),
        None => request,
    };
    answered(core, member, request).await
}

/// Sends a request of the coordinator with any ticket; gives the body of a success.
pub(super) async fn send(
    core: &Core,
    member: &Member,
    ticket: String,
    method: reqwest::Method,
    path: &str,
    body: &impl Serialize,
    timeout: Duration,
) -> Result<Vec<u8>, Missed> {
    let request = request(core, member, &ticket, method, path)?;
    answered(core, member, request.timeout(timeout).json(body)).await
}

fn request(
    core: &Core,
    member: &Member,
    ticket: &str,
    method: reqwest::Method,
    path: &str,
) -> Result<reqwest::RequestBuilder, Missed> {
    let http = core.servers.client(member.row.server).map_err(|e| e.to_string())?;
    let request = http.request(method, format!("{}/v1/{path}", member.row.url));
    Ok(request.header(reqwest::header::AUTHORIZATION, format!("Ticket {ticket}")))
}

async fn answered(
    core: &Core,
    member: &Member,
    request: reqwest::RequestBuilder,
) -> Result<Vec<u8>, Missed> {
    let name = format!("{} {}", member.row.name, member.row.url);
    let mut response =
        request.send().await.map_err(|e| not_sent(core, member, unreachable(&name, &e)))?;
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|e| e.to_string())? {
        if bytes.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(format!("an answer of more than {ANSWER_BYTES_MAX} bytes").into());
        }
        bytes.extend_from_slice(&piece);
    }
    if response.status().is_success() {
        return Ok(bytes);
    }
    let refusal = serde_json::from_slice::<Refusal>(&bytes).ok();
    let code = refusal.as_ref().map(|refusal| refusal.code);
    let stale = refusal.filter(|refusal| refusal.code == Code::StaleEpoch);
    Err(Missed {
        why: format!("status {}: {}", response.status(), String::from_utf8_lossy(&bytes)),
        code,
        seen_epoch: stale.and_then(|refusal| refusal.epoch),
    })
}
