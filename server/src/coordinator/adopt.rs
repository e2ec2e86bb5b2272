//! Takes what servers hold into a catalog that does not know it: shards by their headers, stamps by
//! their signatures. Needs no key; what is in the packs is for a client with the passphrase to say.
//!
//! A shard counts by its server's inventory and by its header, which is read and checked against the
//! stripe's id; its body is for the scrub.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract;
use codec::StripeId;
use codec::fact::{self, Fact, Head};
use codec::keys::VaultRecord;
use codec::shard::{Header, PEEK_BYTES};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use reqwest::Method;
use tokio::task::AbortHandle;

use super::catalog::{Adopted, Indexed, Standing};
use super::fleet::Member;
use super::read::check_count;
use super::router::{Body, List, bad_request};
use super::{Core, facts, prober, push};
use crate::auth::Grant;
use crate::client::StorageClient;
use crate::wire::{
    Adopt, Adoption, Code, INDEX_STRIPES_MAX, IndexRequest, InventoryRow, PAGE_ROWS_MAX, Page,
    ReadTicket, Restored, ServerId, State as Health, StripeIndex, StripeMap,
};
use crate::{Error, Result};

/// A server that gives nothing for so long does not answer.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a page of an inventory may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// What is read of a shard at first: most headers are shorter.
const HEAD_BYTES: u64 = 16 * 1024;
/// Headers read at once from one server, and under one ticket.
const HEADERS_AT_ONCE: usize = 4;
const HEADERS_A_TICKET: usize = 64;
/// Stripes taken in together.
const STRIPES_AT_ONCE: usize = 200;

/// The last adoption, and the one under way.
#[derive(Default)]
pub(super) struct State {
    told: Mutex<Adoption>,
    task: Mutex<Option<AbortHandle>>,
}

impl State {
    /// Ends the one under way.
    pub(super) fn stop(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        task.inspect(AbortHandle::abort);
    }

    fn told(&self) -> MutexGuard<'_, Adoption> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is found while servers are gone through.
#[derive(Default)]
struct Found {
    stripes: Mutex<BTreeMap<StripeId, Adopted>>,
    bad: AtomicU64,
}

/// `POST /v1/adoption`
pub(super) async fn begin(
    extract::State(core): extract::State<Arc<Core>>,
    Body(Adopt { merge }): Body<Adopt>,
) -> Result<Json<Adoption>> {
    if !merge && !core.facts.is_new() {
        let what = "the catalog is there and no new one: arc catalog rebuild --merge has it take in \
                    what servers hold and it does not know";
        return Err(Error::refuse(Code::Conflict, what));
    }
    let mut told = core.adoption.told();
    if !told.running {
        *told = Adoption { running: true, ..Adoption::default() };
        let adopting = Arc::clone(&core);
        let task = tokio::spawn(async move {
            let adopted = adopt(&adopting).await;
            let mut told = adopting.adoption.told();
            told.running = false;
            told.failed = adopted.err().map(|error| error.to_string());
            if let Some(why) = &told.failed {
                tracing::warn!(why, "the adoption did not get to its end");
            }
        });
        *core.adoption.task.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(task.abort_handle());
    }
    Ok(Json(told.clone()))
}

/// `GET /v1/adoption`
pub(super) async fn status(extract::State(core): extract::State<Arc<Core>>) -> Json<Adoption> {
    Json(core.adoption.told().clone())
}

async fn adopt(core: &Arc<Core>) -> Result<()> {
    core.fleet.probed(core.timings.probe_timeout).await;
    core.catalog.begin_adoption().await?;
    let members: Vec<Member> =
        core.fleet.members().into_iter().filter(|m| m.health.state != Health::Lost).collect();
    adopt_facts(core, &members).await?;
    let found = Found::default();
    let walks: Vec<_> = members.iter().map(|member| walk(core, member, &found)).collect();
    for (member, walked) in members.iter().zip(join_all(walks).await) {
        if let Err(why) = walked {
            away(core, member, why);
        }
    }
    core.adoption.told().bad_shards = found.bad.load(Relaxed);
    let stripes = found.stripes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut stripes = stripes.into_values();
    loop {
        let batch: Vec<Adopted> = stripes.by_ref().take(STRIPES_AT_ONCE).collect();
        if batch.is_empty() {
            break;
        }
        let (new, shards, incomplete) = core.catalog.adopt(batch).await?;
        let mut told = core.adoption.told();
        told.stripes += new;
        told.adopted_shards += shards;
        told.incomplete += incomplete;
    }
    core.fleet.has_changed();
    Ok(())
}

/// Notes that a server did not give what it has.
fn away(core: &Core, member: &Member, why: String) {
    let name = member.row.name.clone();
    tracing::warn!(name, why, "a server was not gone through");
    let mut told = core.adoption.told();
    told.asked.retain(|asked| *asked != name);
    if !told.away.iter().any(|(known, _)| *known == name) {
        told.away.push((name, why));
    }
}

/// Takes in the longest chain of facts that goes on from the catalog's.
async fn adopt_facts(core: &Core, members: &[Member]) -> Result<()> {
    let from = core.facts.all();
    let chains: Vec<_> = members.iter().map(|member| chain(core, member, from)).collect();
    let chains = join_all(chains).await;
    let mut longest: Option<(Head, u64, Vec<Vec<u8>>)> = None;
    for (member, chain) in members.iter().zip(chains) {
        match chain {
            Ok((head, epoch, facts)) => {
                core.adoption.told().asked.push(member.row.name.clone());
                let is_longer = longest
                    .as_ref()
                    .is_none_or(|(known, of, _)| (head.number, epoch) > (known.number, *of));
                if is_longer {
                    longest = Some((head, epoch, facts));
                }
            }
            Err(why) => away(core, member, why),
        }
    }
    if let Some((head, _, facts)) = longest.filter(|(head, ..)| head.number > from.number) {
        core.catalog.adopt_facts(from, facts).await?;
        core.facts.unsettled();
        core.adoption.told().facts = head.number - from.number;
        facts::grown(core).await?;
        core.fleet.ask_facts();
    }
    Ok(())
}

/// The facts of a server after `from`, each checked: where they end, and the epoch of the last.
async fn chain(
    core: &Core,
    member: &Member,
    from: Head,
) -> Result<(Head, u64, Vec<Vec<u8>>), String> {
    let key = core.signer.public_key();
    let (mut head, mut epoch, mut facts) = (from, 0, Vec::new());
    if let Some(last) = from.number.checked_sub(1) {
        // Another past goes on from no fact of this catalog.
        let same = |bytes: &Vec<u8>| fact::hash(bytes) == from.hash;
        if !chain_page(core, member, last).await?.first().is_none_or(same) {
            return Err(format!("it has another fact {} than this catalog", from.number));
        }
    }
    loop {
        let page = chain_page(core, member, head.number).await?;
        if page.is_empty() {
            return Ok((head, epoch, facts));
        }
        for bytes in page {
            let fact = Fact::open(&bytes, &key).map_err(text)?;
            if fact.vault != core.catalog.vault {
                return Err("it has facts of another vault".to_owned());
            }
            head = head.after(&fact, &bytes).map_err(text)?;
            epoch = fact.epoch;
            facts.push(bytes);
        }
    }
}

async fn chain_page(core: &Core, member: &Member, after: u64) -> Result<Vec<Vec<u8>>, String> {
    match facts::page_of(core, member, after).await {
        // Its build is from before them.
        Err(missed) if missed.code == Some(Code::NotFound) => Ok(Vec::new()),
        page => page.map_err(|missed| missed.why),
    }
}

/// Goes through all that a server has and reads the headers of what the map has not there.
async fn walk(core: &Core, member: &Member, found: &Found) -> Result<(), String> {
    let client = StorageClient::new(SILENCE, &core.certifier.trust(core.catalog.clock));
    let mut after: Option<(StripeId, u8)> = None;
    loop {
        let mut path = format!("inventory?limit={PAGE_ROWS_MAX}");
        if let Some((stripe, index)) = after {
            path.push_str(&format!("&after={stripe}.{index}"));
        }
        let (get, epoch) = (Method::GET, core.catalog.epoch());
        let sent = prober::control(core, member, epoch, get, &path, &(), PAGE_TIMEOUT);
        let bytes = sent.await.map_err(|missed| missed.why)?;
        let Page::<InventoryRow> { rows, next } = serde_json::from_slice(&bytes).map_err(text)?;
        let addresses = rows.iter().map(|row| Some((row.stripe, row.index)));
        let is_sound = std::iter::once(after).chain(addresses).is_sorted_by(|a, b| a < b);
        if !is_sound || rows.len() > PAGE_ROWS_MAX as usize || (rows.is_empty() && next.is_some()) {
            return Err("a page of its inventory that does not go on where it should".to_owned());
        }
        after = rows.last().map(|row| (row.stripe, row.index)).or(after);
        core.adoption.told().shards += rows.len() as u64;
        let shards = rows.iter().map(|row| (row.stripe, row.index)).collect();
        let standings = core.catalog.standings(member.row.server, shards).await.map_err(text)?;
        let strangers: Vec<InventoryRow> = rows
            .into_iter()
            .zip(standings)
            .filter(|(_, standing)| matches!(standing, Standing::Unknown | Standing::Surplus))
            .map(|(row, _)| row)
            .collect();
        for rows in strangers.chunks(HEADERS_A_TICKET) {
            read_headers(core, member, &client, rows, found).await?;
        }
        if next.is_none() {
            return Ok(());
        }
    }
}

async fn read_headers(
    core: &Core,
    member: &Member,
    client: &StorageClient,
    rows: &[InventoryRow],
    found: &Found,
) -> Result<(), String> {
    let ticket = prober::ticket(core, member, Grant::Read, core.catalog.epoch()).map_err(text)?;
    let ticket = ReadTicket {
        server: member.row.server,
        name: member.row.name.clone(),
        zone: member.row.zone.clone(),
        url: member.row.url.clone(),
        state: member.health.state,
        ticket,
    };
    let reads: Vec<_> = rows.iter().map(|row| header(core, client, &ticket, row)).collect();
    let mut reads = futures_util::stream::iter(reads).buffer_unordered(HEADERS_AT_ONCE);
    while let Some(read) = reads.next().await {
        match read {
            Ok(header) => note(found, header, member.row.server),
            Err(Error::Codec(_)) => drop(found.bad.fetch_add(1, Relaxed)),
            Err(error) if matches!(error.code(), Some(Code::NotFound | Code::Damaged)) => {
                found.bad.fetch_add(1, Relaxed);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

/// The header of a shard that a server says it has, checked to be that.
async fn header(
    core: &Core,
    client: &StorageClient,
    ticket: &ReadTicket,
    row: &InventoryRow,
) -> Result<Header> {
    let not = |why: String| Error::Codec(codec::Error::damaged("shard file", why));
    if let Some(why) = &row.damaged {
        return Err(not(why.clone()));
    }
    if row.file_bytes < PEEK_BYTES as u64 {
        return Err(not(format!("{} bytes", row.file_bytes)));
    }
    let (stripe, index) = (row.stripe, row.index);
    let end = row.file_bytes.min(HEAD_BYTES);
    let mut bytes = client.get_range(ticket, stripe, index, 0..end).await?;
    let header_bytes = Header::peek_bytes(&bytes)?;
    if header_bytes > bytes.len() {
        bytes = client.get_range(ticket, stripe, index, 0..header_bytes as u64).await?;
    }
    let header = Header::parse(&bytes[..header_bytes])?;
    let is = (header.vault, header.stripe, header.index, header.file_bytes());
    if is != (core.catalog.vault, stripe, index, row.file_bytes) {
        return Err(not(format!("it is shard {} of stripe {}", header.index, header.stripe)));
    }
    Ok(header)
}

fn note(found: &Found, header: Header, server: ServerId) {
    let Header { stripe, kind, geometry, index, pack_bytes, pack_key, .. } = header;
    let mut stripes = found.stripes.lock().unwrap_or_else(PoisonError::into_inner);
    let new = || Adopted {
        stripe,
        kind,
        geometry,
        pack_bytes,
        pack_key: pack_key.0,
        holders: Vec::with_capacity(geometry.shards()),
    };
    stripes.entry(stripe).or_insert_with(new).holders.push((index, server));
}

/// `GET /v1/unindexed`
pub(super) async fn unindexed(
    extract::State(core): extract::State<Arc<Core>>,
    list: List,
) -> Result<Json<Page<StripeMap>>> {
    Ok(Json(core.catalog.unindexed(list.after()?.unwrap_or(0), list.limit).await?))
}

/// `POST /v1/index`
pub(super) async fn index(
    extract::State(core): extract::State<Arc<Core>>,
    Body(IndexRequest { stripes }): Body<IndexRequest>,
) -> Result<Json<()>> {
    check_count("stripes", stripes.len(), INDEX_STRIPES_MAX)?;
    let checked = |index: StripeIndex| {
        let StripeIndex { stripe, frames, chunks, chunk_frames } = index;
        if frames.is_empty() {
            return Err(bad_request(format!("stripe {stripe:.12}: a pack without frames")));
        }
        push::check_frames(stripe, u64::MAX, &frames, chunks.0.len(), &chunk_frames)?;
        let mut chunks: Vec<_> = chunks.0.into_iter().zip(chunk_frames).collect();
        chunks.sort_unstable();
        Ok(Indexed { stripe, frames, chunks })
    };
    let stripes = stripes.into_iter().map(checked).collect::<Result<_>>()?;
    core.catalog.index(stripes).await?;
    Ok(Json(()))
}

/// `POST /v1/adoption/finish`: refused while fewer servers answered than surely have every stamp.
pub(super) async fn finish(
    extract::State(core): extract::State<Arc<Core>>,
) -> Result<Json<Restored>> {
    let told = core.adoption.told().clone();
    if told.running || told.asked.is_empty() {
        return Err(Error::refuse(Code::Conflict, "no adoption has got to its end yet"));
    }
    if let Some(why) = told.failed {
        return Err(Error::refuse(Code::Conflict, format!("the adoption failed: {why}")));
    }
    let record = core.record.borrow().clone();
    let record = record.map(|record| VaultRecord::decode(&record)).transpose()?;
    let parity = record.map_or(0, |record| record.geometry.parity());
    if told.away.len() > parity {
        let names: Vec<String> =
            told.away.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        return Err(Error::refuse(
            Code::TooFewServers,
            format!(
                "each snapshot's stamp is on {} servers or more, and {} did not answer ({}): some \
                 snapshots may be known to them alone",
                parity + 1,
                told.away.len(),
                names.join("; ")
            ),
        ));
    }
    let restored = core.catalog.restore().await?;
    core.facts.settled();
    facts::grown(&core).await?;
    core.fleet.ask_facts();
    core.fleet.has_changed();
    Ok(Json(restored))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
