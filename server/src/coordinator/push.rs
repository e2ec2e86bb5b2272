//! Requests of a push: lease, have, place, commits.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use codec::seal::PACK_KEY_FIELD_BYTES_MAX;
use codec::shard::{Kind, PACK_BYTES_MAX};
use codec::{Geometry, StripeId};

use super::catalog::{Intended, NewStripe, Placing, Stamped};
use super::clock::millis;
use super::fleet::Member;
use super::placement::{self, Candidate, Held, Question};
use super::read::check_count;
use super::router::{Body, Caller, bad_request};
use super::servers::unknown_server;
use super::{Core, facts};
use crate::auth::{self, Grant};
use crate::wire::{
    Begin, BeginRequest, CHUNKS_PER_REQUEST_MAX, Code, CommitSnapshot, CommitStripe, Committed,
    Ended, FrameEnd, HaveAnswer, HaveRequest, Lease, LeaseId, Mode, NONCE_BYTES, Place,
    PlaceRequest, Placement, Receipt, Refusal, Renewed, ServerId, SnapshotRow, State as Health,
};
use crate::{Error, Result};

/// The highest number of a frame's kind.
const FRAME_KIND_MAX: u8 = 3;
/// Bytes of a shard file at most: those of the longest pack and of the longest header.
const FILE_BYTES_MAX: u64 = PACK_BYTES_MAX + codec::shard::HEADER_BYTES_MAX as u64 + 4096;

/// `POST /v1/leases`
pub(super) async fn begin(
    State(core): State<Arc<Core>>,
    Extension(Caller(origin)): Extension<Caller>,
    Body(Begin { nonce, request }): Body<Begin>,
) -> Result<Json<Lease>> {
    let nonce: [u8; NONCE_BYTES] = nonce.0.try_into().map_err(|n: Vec<u8>| {
        bad_request(format!("a nonce of {} bytes, not {NONCE_BYTES}", n.len()))
    })?;
    core.facts.must_be_current(&core.fleet)?;
    let BeginRequest { source_set, parent } = request;
    let parent = core.catalog.parent(origin, source_set, parent).await?;
    let (lost_chunks, stripes_below_target) = core.catalog.deficits().await?;
    let (lease, expires_ms) = core.catalog.begin(origin, nonce, core.timings.lease).await?;
    let (epoch, now_ms) = (core.catalog.epoch(), core.catalog.clock.now_ms());
    Ok(Json(Lease { lease, expires_ms, now_ms, epoch, parent, lost_chunks, stripes_below_target }))
}

/// `POST /v1/leases/{id}/renew`
pub(super) async fn renew(
    State(core): State<Arc<Core>>,
    Extension(Caller(origin)): Extension<Caller>,
    Path(id): Path<u64>,
) -> Result<Json<Renewed>> {
    let expires_ms = core.catalog.renew(origin, LeaseId(id), core.timings.lease).await?;
    Ok(Json(Renewed { expires_ms, now_ms: core.catalog.clock.now_ms() }))
}

/// `DELETE /v1/leases/{id}`
pub(super) async fn close(
    State(core): State<Arc<Core>>,
    Extension(Caller(origin)): Extension<Caller>,
    Path(id): Path<u64>,
) -> Result<Json<Ended>> {
    core.catalog.close_lease(origin, LeaseId(id)).await?;
    let (_, stripes_below_target) = core.catalog.deficits().await?;
    Ok(Json(Ended { stripes_below_target }))
}

/// `POST /v1/have`
pub(super) async fn have(
    State(core): State<Arc<Core>>,
    Extension(Caller(origin)): Extension<Caller>,
    Body(HaveRequest { lease, chunks }): Body<HaveRequest>,
) -> Result<Json<HaveAnswer>> {
    check_count("chunks", chunks.0.len(), CHUNKS_PER_REQUEST_MAX)?;
    let have = core.catalog.have(origin, lease, chunks.0).await?;
    Ok(Json(HaveAnswer { have: have.iter().map(|&yes| if yes { '1' } else { '0' }).collect() }))
}

/// `POST /v1/place`
pub(super) async fn place(
    State(core): State<Arc<Core>>,
    Extension(Caller(origin)): Extension<Caller>,
    Body(request): Body<PlaceRequest>,
) -> Result<Json<Placement>> {
    check_place(&request)?;
    let known = core.catalog.placing(origin, request.lease, request.stripe).await?;
    core.fleet.failed(&request.avoid, core.catalog.clock.now_ms());
    // Just after a start nobody has been probed: that is no reason to store less.
    core.fleet.probed(core.timings.probe_timeout).await;
    let members = core.fleet.members();
    let held = held(&request, &known, &members)?;
    let candidates = candidates(&core, members.iter(), request.geometry).await;
    let mut avoid: BTreeSet<ServerId> = request.avoid.iter().copied().collect();
    let entombed = core.catalog.entombed(request.stripe).await?;
    avoid.extend(&entombed);
    let question = Question {
        stripe: request.stripe,
        geometry: request.geometry,
        file_bytes: request.file_bytes,
        candidates: &candidates,
        held: &held,
        avoid: &avoid,
        before: &known.before,
    };
    let places = placement::place(&question);
    let spares = placement::spares(&question, places.len()) as u32;
    let stored: BTreeSet<u8> = held.iter().map(|h| h.index).collect();
    let will_be_free =
        |m: &Member| entombed.contains(&m.row.server) && m.health.state == Health::Up;
    if stored.len() + places.len() < request.geometry.shards() && members.iter().any(will_be_free) {
        return Err(being_trashed(request.stripe));
    }
    check_enough(&core, &request, stored.len() + places.len(), &members)?;

    let PlaceRequest { lease, stripe, stored, file_bytes, .. } = request;
    let intended = Intended { lease, stripe, stored, places: places.clone() };
    let terms = core.catalog.record_intent(origin, intended).await?;
    let (epoch, now_ms) = (core.catalog.epoch(), core.catalog.clock.now_ms());
    let expires_ms = terms.ticket_end(now_ms, millis(core.timings.ticket));
    let with_ticket = |(index, server)| {
        let member = members.iter().find(|m| m.row.server == server);
        let row = &member.ok_or_else(|| unknown_server(server))?.row;
        let grant = Grant::Put { stripe, index, file_bytes };
        let ticket = core.ticket(grant, server, epoch, now_ms, expires_ms)?;
        Ok(Place { index, server, name: row.name.clone(), url: row.url.clone(), ticket })
    };
    let places = places.into_iter().map(with_ticket).collect::<Result<_>>()?;
    Ok(Json(Placement { epoch, places, spares }))
}

/// That a server still has to trash what was left over or surplus of a stripe.
pub(super) fn being_trashed(stripe: StripeId) -> Error {
    let what = format!("what was left over of stripe {stripe:.12} is being trashed");
    Error::refuse(Code::Busy, what)
}

fn check_place(request: &PlaceRequest) -> Result<()> {
    if !(1..=FILE_BYTES_MAX).contains(&request.file_bytes) {
        return Err(bad_request(format!("a shard file of {} bytes", request.file_bytes)));
    }
    check_shards(&request.stored, request.geometry.shards())
}

/// Shards must be of the stripe, each once, each on a server of its own.
fn check_shards(shards: &[(u8, ServerId)], n: usize) -> Result<()> {
    let indexes: BTreeSet<u8> = shards.iter().map(|s| s.0).collect();
    let servers: BTreeSet<ServerId> = shards.iter().map(|s| s.1).collect();
    if indexes.len() < shards.len() || servers.len() < shards.len() {
        return Err(bad_request("a shard or a server is named twice"));
    }
    match indexes.last() {
        Some(&last) if usize::from(last) >= n => {
            Err(bad_request(format!("shard {last} of a stripe of {n}")))
        }
        _ => Ok(()),
    }
}

/// The shards that need no place: those that the push stored and those committed as good, on
/// servers that are not lost.
fn held(request: &PlaceRequest, known: &Placing, members: &[Member]) -> Result<Vec<Held>> {
    let is_lost = |server: ServerId| {
        members.iter().any(|m| m.row.server == server && m.health.state == Health::Lost)
    };
    let good = known.holders.iter().filter(|h| !h.bad && !is_lost(h.server));
    let committed = good.map(|h| (h.index, h.server));
    let held = |(index, server)| {
        let member = members.iter().find(|m| m.row.server == server);
        let zone = member.ok_or_else(|| unknown_server(server))?.row.zone.clone();
        Ok(Held { index, server, zone })
    };
    let all: BTreeSet<(u8, ServerId)> = committed.chain(request.stored.iter().copied()).collect();
    all.into_iter().map(held).collect()
}

/// The servers that take writes, with their rates for stripes of this code. A server's share is
/// in proportion to its disk and weight.
pub(super) async fn candidates(
    core: &Core,
    members: impl Iterator<Item = &Member> + Clone,
    geometry: Geometry,
) -> Vec<Candidate> {
    let weight = |m: &Member| (m.row.server, m.heft());
    let rates = core.rates.of(members.clone().map(weight).collect(), geometry.shards()).await;
    let candidate = |m: &Member| {
        Some(Candidate {
            server: m.row.server,
            zone: m.row.zone.clone(),
            rate: *rates.get(&m.row.server)?,
            room_bytes: m.row.free_bytes,
        })
    };
    members.filter(|m| m.takes_writes()).filter_map(candidate).collect()
}

/// Refuses a placement of fewer shards than the push is content with, or than can be read back:
/// for lack of room where nothing else is lacking.
fn check_enough(
    core: &Core,
    request: &PlaceRequest,
    shards: usize,
    members: &[Member],
) -> Result<()> {
    let (k, n) = (request.geometry.data(), request.geometry.shards());
    let needed = usize::from(request.min_shards).clamp(k, n);
    if shards >= needed {
        return Ok(());
    }
    let now_ms = core.catalog.clock.now_ms();
    let reasons: Vec<String> =
        members.iter().filter_map(|m| why_not(m, request.file_bytes, now_ms)).collect();
    // Servers that the push avoids refused it: if not for lack of room, it knows better.
    let lacks_room = |m: &&Member| {
        let is_full = m.health.state == Health::Up && m.row.free_bytes < request.file_bytes;
        request.avoid.contains(&m.row.server) || is_full
    };
    let takes = |m: &Member| why_not(m, request.file_bytes, now_ms).is_none();
    let mut others =
        members.iter().filter(|m| request.avoid.contains(&m.row.server) || !takes(m)).peekable();
    let is_full = others.peek().is_some() && others.all(|m| lacks_room(&m));
    let code = if is_full { Code::NoSpace } else { Code::TooFewServers };
    let reasons = if reasons.is_empty() {
        format!("{} have joined", members.len())
    } else {
        reasons.join(", ")
    };
    Err(Error::refuse(
        code,
        format!(
            "a stripe of {} needs {needed} servers of its {n}, {shards} can be had: {reasons}",
            request.geometry
        ),
    ))
}

/// Why a server takes no shard, for a person.
fn why_not(member: &Member, file_bytes: u64, now_ms: u64) -> Option<String> {
    let name = &member.row.name;
    let silent_s = now_ms.saturating_sub(member.health.heard_ms) / 1000;
    match (member.health.state, &member.trouble) {
        (Health::Up, _) if member.mode == Mode::Draining => Some(format!("{name} is draining")),
        (Health::Up, _) if member.mode == Mode::ReadOnly => Some(format!("{name} is read-only")),
        (Health::Up, Some(trouble)) => Some(format!("{name} takes no writes: {trouble}")),
        (Health::Up, None) if member.row.free_bytes < file_bytes => {
            let free = member.row.free_bytes;
            Some(format!("{name} is full: {free} bytes are free beyond the reserve"))
        }
        (Health::Up, None) => None,
        (Health::Unknown, _) => Some(format!("{name} has not answered for {silent_s} s")),
        (Health::Suspect, _) => Some(format!("{name} is suspect, silent for {silent_s} s")),
        (Health::Down, _) => Some(format!("{name} is down, silent for {silent_s} s")),
        (Health::Lost, _) => Some(format!("{name} is lost, silent for {silent_s} s")),
        (Health::Returned, _) => Some(format!("{name} is back, what it holds is being compared")),
    }
}

/// `POST /v1/stripes`
pub(super) async fn commit_stripe(
    State(core): State<Arc<Core>>,
    Extension(Caller(origin)): Extension<Caller>,
    Body(commit): Body<CommitStripe>,
) -> Result<Json<Committed>> {
    if commit.kind == Kind::Snapshot {
        return Err(bad_request("a snapshot's stripe is committed with its snapshot"));
    }
    if commit.kind == Kind::Record {
        return Err(bad_request("stripes of records are the coordinator's own"));
    }
    let lease = commit.lease;
    let new = checked(&core, commit)?;
    let holders = servers_of(&new);
    let stripe = new.stripe;
    let committed = core.catalog.commit_stripe(origin, lease, new).await?;
    note_short(&core, stripe, &holders, committed.holders < committed.target).await?;
    core.fleet.served(&holders, core.catalog.clock.now_ms());
    Ok(Json(committed))
}

/// `POST /v1/snapshots`
pub(super) async fn commit_snapshot(
    State(core): State<Arc<Core>>,
    Extension(Caller(origin)): Extension<Caller>,
    Body(CommitSnapshot { stripe, source_set }): Body<CommitSnapshot>,
) -> Result<Json<SnapshotRow>> {
    if stripe.kind != Kind::Snapshot {
        return Err(bad_request("a snapshot's stripe has the kind snapshot"));
    }
    let lease = stripe.lease;
    let new = checked(&core, stripe)?;
    let holders = servers_of(&new);
    let (stripe, is_short) = (new.stripe, holders.len() < new.geometry.shards());
    core.fleet.probed(core.timings.probe_timeout).await;
    facts::ask_all(&core).await;
    core.facts.must_be_current(&core.fleet)?;
    let signer = Arc::clone(&core.signer);
    let stamped = core.catalog.commit_snapshot(origin, lease, new, source_set, signer).await?;
    let row = match stamped {
        Stamped::Kept(row) => *row,
        Stamped::Stamping(number) => {
            facts::store(&core, number).await?;
            core.catalog.snapshot(stripe).await?
        }
    };
    note_short(&core, stripe, &holders, is_short).await?;
    core.fleet.served(&holders, core.catalog.clock.now_ms());
    Ok(Json(row))
}

/// Has repair look at a stripe that was committed below target, or on a server that went since.
pub(super) async fn note_short(
    core: &Core,
    stripe: StripeId,
    holders: &[ServerId],
    is_short: bool,
) -> Result<()> {
    let counts = |m: &Member| m.health.state.counts_as_holder(m.mode);
    let went = core.fleet.with_members(|members| {
        holders.iter().any(|server| members.get(server).is_some_and(|m| !counts(m)))
    });
    if went {
        core.catalog.note_stripe(stripe).await?;
    }
    if went || is_short {
        core.fleet.has_changed();
    }
    Ok(())
}

/// The servers whose receipts a commit came with.
pub(super) fn servers_of(new: &NewStripe) -> Vec<ServerId> {
    new.holders.iter().map(|&(_, server)| server).collect()
}

/// The stripe of a commit whose fields agree and whose receipts are genuine. Whether tickets
/// were given for its shards is the catalog's to say.
fn checked(core: &Core, commit: CommitStripe) -> Result<NewStripe> {
    check_layout(&commit)?;
    for receipt in &commit.receipts {
        check_receipt(core, commit.stripe, receipt)?;
    }
    let holders: Vec<_> = commit.receipts.iter().map(|r| (r.index, r.server)).collect();
    check_shards(&holders, commit.geometry.shards())?;
    let mut chunks: Vec<_> = commit.chunks.0.into_iter().zip(commit.chunk_frames).collect();
    // In the table's order; random inserts into a long table are seven times as slow.
    chunks.sort_unstable();
    Ok(NewStripe {
        stripe: commit.stripe,
        kind: commit.kind,
        geometry: commit.geometry,
        pack_bytes: commit.pack_bytes,
        pack_key: commit.pack_key.0,
        frames: commit.frames,
        chunks,
        holders,
    })
}

fn check_layout(commit: &CommitStripe) -> Result<()> {
    let CommitStripe { stripe, pack_bytes, frames, chunks, chunk_frames, .. } = commit;
    let wrong = if !(1..=PACK_BYTES_MAX).contains(pack_bytes) {
        format!("a pack of {pack_bytes} bytes")
    } else if !(1..=PACK_KEY_FIELD_BYTES_MAX).contains(&commit.pack_key.0.len()) {
        format!("a pack key of {} bytes", commit.pack_key.0.len())
    } else {
        return check_frames(*stripe, *pack_bytes, frames, chunks.0.len(), chunk_frames);
    };
    Err(bad_request(format!("stripe {stripe:.12}: {wrong}")))
}

/// Refuses frames that do not fit a pack of so many bytes, and chunks that do not fit them.
pub(super) fn check_frames(
    stripe: StripeId,
    pack_bytes: u64,
    frames: &[FrameEnd],
    chunks: usize,
    chunk_frames: &[u32],
) -> Result<()> {
    let last = frames.last().map_or(0, |f| u64::from(f.1));
    let wrong = if !frames.is_sorted_by(|a, b| a.1 < b.1) || last > pack_bytes {
        format!("frames that do not follow each other in {pack_bytes} bytes")
    } else if frames.iter().any(|f| f.0 > FRAME_KIND_MAX) {
        "a frame of an unknown kind".into()
    } else if chunks != chunk_frames.len() {
        format!("{chunks} chunks in {} frame numbers", chunk_frames.len())
    } else if chunk_frames.iter().any(|&f| f as usize >= frames.len()) {
        format!("a chunk beyond the last of {} frames", frames.len())
    } else {
        return Ok(());
    };
    Err(bad_request(format!("stripe {stripe:.12}: {wrong}")))
}

/// Refuses a receipt that is not genuine, or not of this stripe.
pub(super) fn check_receipt(core: &Core, stripe: StripeId, receipt: &Receipt) -> Result<()> {
    let member = core.fleet.get(receipt.server).ok_or_else(|| unknown_server(receipt.server))?;
    let mac = auth::receipt_mac(&member.row.shared_key, core.catalog.vault, receipt);
    let what = format!(
        "the receipt of {} for shard {} of stripe {:.12}",
        member.row.name, receipt.index, receipt.stripe
    );
    if receipt.stripe != stripe {
        return Err(bad_request(format!("{what} is in a commit of {stripe:.12}")));
    }
    if !auth::same(&mac, &receipt.mac.0) {
        return Err(bad_receipt(receipt, format!("{what} is not genuine")));
    }
    if receipt.epoch > core.catalog.epoch() {
        let (named, now) = (receipt.epoch, core.catalog.epoch());
        return Err(bad_receipt(receipt, format!("{what} is of epoch {named}, and this is {now}")));
    }
    Ok(())
}

/// Blames the server, so that the push can do without it.
fn bad_receipt(receipt: &Receipt, message: String) -> Error {
    Error::Refuse(Refusal {
        server: Some(receipt.server),
        ..Refusal::new(Code::BadReceipt, message)
    })
}
