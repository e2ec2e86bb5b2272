//! Requests about the vault and its servers: join, hello, vault record, lists, status.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use codec::keys::VaultRecord;

use super::events::{Kind, Told, of_mode};
use super::fleet::Member;
use super::router::{Body, List, bad_request, to_the_end};
use super::{Core, backup, placement, prober, roster};
use crate::wire::{
    Blob, Code, Hello, HelloAnswer, JoinAnswer, JoinRequest, Page, PutVault, RECENT_MS, Replaced,
    ServerId, ServerInfo, SetMode, State as Health, Status, StatusQuery, VaultInfo,
};
use crate::{Error, Result, auth, tls};

/// Whoever changes the vault record waits so long for servers that do not take it.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a name or a zone at most.
const NAME_BYTES_MAX: usize = 64;
/// Bytes of a URL at most.
const URL_BYTES_MAX: usize = 256;

/// `POST /v1/join`
pub(super) async fn join(
    State(core): State<Arc<Core>>,
    Body(mut request): Body<JoinRequest>,
) -> Result<Json<JoinAnswer>> {
    check_name("name", &request.name)?;
    check_name("zone", &request.zone)?;
    request.url = checked_url(&request.url)?;
    // What the catalog's signed integers hold.
    request.capacity_bytes = request.capacity_bytes.min(i64::MAX as u64);
    request.free_bytes = request.free_bytes.min(request.capacity_bytes);
    to_the_end(take_in(core, request)).await.map(Json)
}

async fn take_in(core: Arc<Core>, request: JoinRequest) -> Result<JoinAnswer> {
    let heard = |m: &Member| m.row.name == request.name && m.row.last_seen_ms.is_some();
    let heard = core.fleet.members().iter().any(heard);
    let row = core.catalog.join(request, auth::random::<32>()?, heard).await?;
    let (server, shared_key) = (row.server, row.shared_key);
    tracing::info!(name = row.name, zone = row.zone, url = row.url, "server joined");
    let now_ms = core.catalog.clock.now_ms();
    roster::write(&core).await?;
    let told = Told::of(Kind::Joined, format!("zone {}, at {}", row.zone, row.url));
    core.journal.note(told.on(&row.name), now_ms);
    if core.fleet.add(row, now_ms) {
        tokio::spawn(prober::watch(Arc::downgrade(&core), server));
    }
    Ok(JoinAnswer {
        server,
        vault: core.catalog.vault,
        shared_key: Blob(shared_key.to_vec()),
        ticket_key: Blob(core.signer.public_key()),
    })
}

/// `POST /v1/hello`
pub(super) async fn hello(
    State(core): State<Arc<Core>>,
    Body(hello): Body<Hello>,
) -> Result<Json<HelloAnswer>> {
    let member = core.fleet.get(hello.server).ok_or_else(|| unknown_server(hello.server))?;
    if !auth::same(&auth::hello_mac(&member.row.shared_key, &hello), &hello.mac.0) {
        return Err(Error::refuse(Code::Unauthorized, "the hello is not that server's"));
    }
    let url = checked_url(&hello.url)?;
    if i64::try_from(hello.starts).is_err() {
        return Err(bad_request(format!("{} starts", hello.starts)));
    }
    let (moving, moved, weight) = (Arc::clone(&core), url.clone(), hello.weight);
    to_the_end(async move {
        moving.catalog.hello(hello.server, moved.clone(), hello.starts, weight).await?;
        moving.fleet.moved(hello.server, moved, weight);
        roster::write(&moving).await
    })
    .await?;
    let now_ms = core.catalog.clock.now_ms();
    if weight != member.row.weight {
        let told = Told::of(Kind::Weight, format!("{} → {weight}", member.row.weight));
        core.journal.note(told.on(&member.row.name), now_ms);
        core.fleet.has_changed();
    }
    let (epoch, record) = (core.catalog.epoch(), record(&core));
    let certified = |wish| core.certifier.answer(hello.server, &url, wish, now_ms);
    let tls = hello.tls.as_ref().map(certified).transpose().inspect_err(|error| {
        let told = Told::of(Kind::Certificate, format!("not made: {error}"));
        core.journal.note(told.on(&member.row.name), now_ms);
    })?;
    let mut answer = HelloAnswer { epoch, now_ms, record, tls, mac: Blob::default() };
    answer.mac.0 = auth::hello_answer_mac(&member.row.shared_key, &hello, &answer);
    Ok(Json(answer))
}

/// `GET /v1/vault`
pub(super) async fn vault(State(core): State<Arc<Core>>) -> Json<VaultInfo> {
    Json(vault_info(&core))
}

/// `PUT /v1/vault`. The same record again changes nothing.
pub(super) async fn put_vault(
    State(core): State<Arc<Core>>,
    Body(PutVault { record }): Body<PutVault>,
) -> Result<Json<VaultInfo>> {
    let decoded = VaultRecord::decode(&record.0).map_err(|e| bad_request(e.to_string()))?;
    if decoded.vault != core.catalog.vault {
        return Err(bad_request("the vault record is another vault's"));
    }
    let making = Arc::clone(&core);
    to_the_end(async move {
        making.catalog.put_record(record.0.clone()).await?;
        roster::write(&making).await?;
        let hash = blake3::hash(&record.0);
        making.record.send_replace(Some(record.0.into()));
        making.fleet.wake_all();
        making.fleet.recorded(hash, RECORD_PATIENCE).await;
        Ok(())
    })
    .await?;
    Ok(Json(vault_info(&core)))
}

/// `GET /v1/servers`
pub(super) async fn list(
    State(core): State<Arc<Core>>,
    list: List,
) -> Result<Json<Page<ServerInfo>>> {
    let after: u32 = list.after()?.unwrap_or(0);
    core.fleet.probed(core.timings.probe_timeout).await;
    let shards = core.catalog.shards_by_server().await?;
    let members = core.fleet.members();
    let record = core.record.borrow().clone();
    let geometry = record.and_then(|record| VaultRecord::decode(&record).ok()).map(|r| r.geometry);
    let shares: Vec<Option<f64>> = match geometry {
        None => vec![None; members.len()],
        Some(geometry) => {
            let hefts: Vec<f64> = members.iter().map(Member::heft).collect();
            placement::shares_of(&hefts, geometry.shards()).into_iter().map(Some).collect()
        }
    };
    let members = members.into_iter().zip(shares);
    let mut wanted = members.filter(|(m, _)| m.row.server.0 > after);
    let rows: Vec<ServerInfo> = wanted
        .by_ref()
        .take(list.limit)
        .map(|(m, share)| {
            let held = shards.iter().find(|(server, ..)| *server == m.row.server);
            ServerInfo {
                server: m.row.server,
                name: m.row.name,
                zone: m.row.zone,
                url: m.row.url,
                state: m.health.state,
                mode: m.mode,
                last_seen_ms: m.row.last_seen_ms,
                capacity_bytes: m.row.capacity_bytes,
                free_bytes: m.row.free_bytes,
                shards: held.map_or(0, |h| h.1),
                shard_bytes: held.map_or(0, |h| h.2),
                weight: m.row.weight,
                share,
                scrub: m.scrub,
            }
        })
        .collect();
    let next = wanted.next().and(rows.last()).map(|row| row.server.0.to_string());
    Ok(Json(Page { rows, next }))
}

/// `GET /v1/status`
pub(super) async fn status(
    State(core): State<Arc<Core>>,
    query: Result<Query<StatusQuery>, QueryRejection>,
) -> Result<Json<Status>> {
    let Query(query) = query.map_err(|e| bad_request(format!("the query: {e}")))?;
    core.fleet.probed(core.timings.probe_timeout).await;
    let states: Vec<Health> = core.fleet.members().iter().map(|m| m.health.state).collect();
    let servers =
        Health::ALL.map(|state| (state, states.iter().filter(|s| **s == state).count() as u32));
    let counts = core.catalog.counts(core.fleet.up(), query.chunks).await?;
    let now_ms = core.catalog.clock.now_ms();
    Ok(Json(Status {
        vault: core.catalog.vault,
        epoch: core.catalog.epoch(),
        now_ms,
        snapshots: counts.snapshots,
        stripes: counts.stripes,
        chunks: counts.chunks,
        pack_bytes: counts.pack_bytes,
        shard_bytes: counts.shard_bytes,
        margins: counts.margins,
        stripes_below_target: counts.stripes_below_target,
        leases: counts.leases,
        leftover_shards: counts.leftover_shards,
        servers: servers.into_iter().filter(|(_, n)| *n > 0).collect(),
        brake: core.fleet.brake(now_ms),
        repairs: counts.repairs,
        whole: counts.whole,
        backup: backup::told(&core).await?,
        catalog_old: core.facts.why_old(&core.fleet),
        read_recently: core.catalog.read_since(now_ms.saturating_sub(RECENT_MS)).await?,
        last_drill: core.catalog.last_drill().await?,
    }))
}

/// `PUT /v1/servers/{id}/mode`
pub(super) async fn set_mode(
    State(core): State<Arc<Core>>,
    Path(id): Path<u32>,
    Body(SetMode { mode }): Body<SetMode>,
) -> Result<Json<()>> {
    let server = ServerId(id);
    let member = core.fleet.get(server).ok_or_else(|| unknown_server(server))?;
    tracing::info!(name = member.row.name, ?mode, "server's mode is set");
    to_the_end(async move {
        core.catalog.set_mode(server, mode).await?;
        core.fleet.has_mode(server, mode);
        roster::write(&core).await?;
        let told = of_mode(&member.row.name, member.mode, mode);
        core.journal.note(told, core.catalog.clock.now_ms());
        Ok(Json(()))
    })
    .await
}

/// `POST /v1/servers/{id}/replace`
pub(super) async fn replace(
    State(core): State<Arc<Core>>,
    Path(id): Path<u32>,
) -> Result<Json<Replaced>> {
    let server = ServerId(id);
    let member = core.fleet.get(server).ok_or_else(|| unknown_server(server))?;
    if member.health.state == Health::Up {
        let what = format!("{} is up: stop it first, or drain it", member.row.name);
        return Err(Error::refuse(Code::Conflict, what));
    }
    let former = former_name(&member.row.name, server);
    to_the_end(async move {
        core.catalog.give_up(server, former.clone()).await?;
        let now_ms = core.catalog.clock.now_ms();
        core.fleet.replace(server, former.clone(), now_ms);
        let told = Told::of(Kind::Replaced, format!("given up; it is {former} now"));
        core.journal.note(told.on(&member.row.name), now_ms);
        roster::write(&core).await?;
        Ok(Json(Replaced { former }))
    })
    .await
}

/// The name of a server whose own is free from now on: too long a one is cut before the mark.
fn former_name(name: &str, server: ServerId) -> String {
    let mark = format!(".replaced-{}", server.0);
    let kept = name.floor_char_boundary(NAME_BYTES_MAX.saturating_sub(mark.len()));
    format!("{}{mark}", &name[..kept])
}

/// `DELETE /v1/servers/{id}`
pub(super) async fn remove(State(core): State<Arc<Core>>, Path(id): Path<u32>) -> Result<Json<()>> {
    let server = ServerId(id);
    let member = core.fleet.get(server).ok_or_else(|| unknown_server(server))?;
    to_the_end(async move {
        let up = |m: &Member| m.row.server != server && m.counts();
        let members = core.fleet.members();
        let up = members.iter().filter(|m| up(m)).map(|m| m.row.server).collect();
        core.catalog.remove_server(server, up).await?;
        core.fleet.remove(server);
        core.comparisons.forget(server);
        roster::write(&core).await?;
        let told = Told::of(Kind::Removed, "forgotten").on(&member.row.name);
        core.journal.note(told, core.catalog.clock.now_ms());
        Ok(Json(()))
    })
    .await
}

fn vault_info(core: &Core) -> VaultInfo {
    let members = core.fleet.members();
    let zones: BTreeSet<&str> = members.iter().map(|m| m.row.zone.as_str()).collect();
    let record = record(core);
    let hash = record.as_ref().map(|record| blake3::hash(&record.0));
    let record_on = members.iter().filter(|m| hash.is_some() && m.record == hash).count();
    VaultInfo {
        vault: core.catalog.vault,
        record,
        epoch: core.catalog.epoch(),
        now_ms: core.catalog.clock.now_ms(),
        servers: members.len() as u32,
        zones: zones.len() as u32,
        record_on: record_on as u32,
        head: Some(core.facts.stored()),
        catalog_old: core.facts.why_old(&core.fleet),
    }
}

fn record(core: &Core) -> Option<Blob> {
    core.record.borrow().as_ref().map(|record| Blob(record.to_vec()))
}

/// That there is no such server.
pub(super) fn unknown_server(server: ServerId) -> Error {
    Error::refuse(Code::NotFound, format!("no server {} has joined this vault", server.0))
}

fn check_name(what: &str, name: &str) -> Result<()> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(bad_request(format!(
        "{name:?} is no {what}: 1 to {NAME_BYTES_MAX} letters, digits, dots, underscores and dashes"
    )))
}

/// A URL without the slash at its end.
fn checked_url(url: &str) -> Result<String> {
    let parsed = reqwest::Url::parse(url).ok().filter(|u| {
        ["http", "https"].contains(&u.scheme())
            && u.host_str().is_some_and(|host| !tls::is_reserved(host))
            && u.path() == "/"
            && u.query().is_none()
            && u.fragment().is_none()
            && u.username().is_empty()
            && u.password().is_none()
    });
    match parsed {
        Some(parsed) if url.len() <= URL_BYTES_MAX => {
            Ok(parsed.as_str().trim_end_matches('/').to_owned())
        }
        _ => Err(bad_request(format!("{url:?} is no server's URL, such as https://10.0.0.7:7071"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_former_name_says_so_however_long_the_name_was() {
        assert_eq!(former_name("c", ServerId(7)), "c.replaced-7");
        let long = "ä".repeat(NAME_BYTES_MAX / 2);
        let former = former_name(&long, ServerId(u32::MAX));
        assert!(former.len() <= NAME_BYTES_MAX && former.ends_with("ä.replaced-4294967295"));
    }

    #[test]
    fn names_are_plain() {
        for name in ["a", "disk-1.rack_2", &"x".repeat(64)] {
            assert!(check_name("name", name).is_ok(), "{name}");
        }
        for name in ["", "a b", "ä", "a/b", "a\n", &"x".repeat(65)] {
            assert!(check_name("name", name).is_err(), "{name}");
        }
    }

    #[test]
    fn urls_are_bare_http_addresses() {
        assert_eq!(checked_url("http://127.0.0.1:7071/").unwrap(), "http://127.0.0.1:7071");
        assert_eq!(checked_url("https://[::1]:7071").unwrap(), "https://[::1]:7071");
        for url in [
            "",
            "127.0.0.1:7071",
            "ftp://a",
            "https://server-1.storage.arc.invalid",
            "https://Storage.ARC.invalid:7070",
            "file:///etc/passwd",
            "http://a/b",
            "http://u:p@a",
            "http://a?b",
        ] {
            assert!(checked_url(url).is_err(), "{url}");
        }
    }
}
