//! Servers, tokens and the vault record in the catalog.

use codec::keys::VaultRecord;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::rows::{column, lost_changed, shards_changed};
use super::{Catalog, tick};
use crate::auth::Role;
use crate::wire::{Code, JoinRequest, Mode, ServerId, Weight};
use crate::{Error, Result};

/// A server that has joined.
#[derive(Debug, Clone)]
pub(in crate::coordinator) struct ServerRow {
    pub(in crate::coordinator) server: ServerId,
    pub(in crate::coordinator) name: String,
    pub(in crate::coordinator) zone: String,
    pub(in crate::coordinator) url: String,
    pub(in crate::coordinator) shared_key: [u8; 32],
    pub(in crate::coordinator) capacity_bytes: u64,
    pub(in crate::coordinator) free_bytes: u64,
    pub(in crate::coordinator) last_seen_ms: Option<u64>,
    /// Whether what it held is made again elsewhere.
    pub(in crate::coordinator) lost: bool,
    pub(in crate::coordinator) mode: Mode,
    /// What its capacity counts for.
    pub(in crate::coordinator) weight: Weight,
}

/// A token that opens this coordinator.
#[derive(Debug, Clone, Copy)]
pub(in crate::coordinator) struct TokenRow {
    /// The origin that things are stamped with.
    pub(in crate::coordinator) id: i64,
    pub(in crate::coordinator) role: Role,
    pub(in crate::coordinator) hash: [u8; 32],
}

impl Catalog {
    /// The token of a role, if one was made.
    pub(in crate::coordinator) async fn token(&self, role: Role) -> Result<Option<TokenRow>> {
        self.read(move |db| {
            let sql = "SELECT id, hash FROM tokens WHERE role = ?1";
            let row = db.prepare_cached(sql)?.query_row([role_name(role)], |r| {
                Ok(TokenRow { id: r.get(0)?, role, hash: r.get(1)? })
            });
            Ok(row.optional()?)
        })
        .await
    }

    /// Makes `hash` the secret's hash of the role's token, which keeps its id.
    pub(in crate::coordinator) async fn set_token(
        &self,
        role: Role,
        hash: [u8; 32],
    ) -> Result<TokenRow> {
        self.write(move |db| {
            let sql = "INSERT INTO tokens (role, hash) VALUES (?1, ?2)
                       ON CONFLICT (role) DO UPDATE SET hash = excluded.hash RETURNING id";
            let id = db.query_row(sql, params![role_name(role), hash], |r| r.get(0))?;
            Ok(TokenRow { id, role, hash })
        })
        .await
    }

    /// All servers.
    pub(in crate::coordinator) async fn servers(&self) -> Result<Vec<ServerRow>> {
        self.read(|db| {
            let mut rows = db.prepare(
                "SELECT id, name, zone, url, shared_key, capacity_bytes, free_bytes, last_seen_ms,
                        lost, mode, weight
                 FROM servers ORDER BY id",
            )?;
            let rows = rows.query_map([], |r| {
                Ok(ServerRow {
                    server: ServerId(r.get(0)?),
                    name: r.get(1)?,
                    zone: r.get(2)?,
                    url: r.get(3)?,
                    shared_key: r.get(4)?,
                    capacity_bytes: r.get(5)?,
                    free_bytes: r.get(6)?,
                    last_seen_ms: r.get(7)?,
                    lost: r.get(8)?,
                    mode: mode_of(&r.get::<_, String>(9)?),
                    // The table's check has the same bounds.
                    weight: Weight::try_from(r.get::<_, u32>(10)?).unwrap_or_default(),
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// Takes a new server in; its name must be new, or that of one which never came to be: the
    /// answer to its join was lost, so that it was not `heard`, said no hello and got no shard.
    pub(in crate::coordinator) async fn join(
        &self,
        request: JoinRequest,
        shared_key: [u8; 32],
        heard: bool,
    ) -> Result<ServerRow> {
        self.write(move |db| {
            let known = "SELECT url, starts > 0
                             OR EXISTS (SELECT 1 FROM shards WHERE server = id)
                             OR EXISTS (SELECT 1 FROM intents WHERE server = id)
                         FROM servers WHERE name = ?1";
            let known: Option<(String, bool)> =
                db.query_row(known, [&request.name], |r| Ok((r.get(0)?, r.get(1)?))).optional()?;
            if let Some((url, used)) = known
                && (used || heard)
            {
                return Err(name_taken(&request.name, &url));
            }
            let sequence = tick(db)?;
            let server = db.query_row(
                "INSERT INTO servers (id, name, zone, url, shared_key, starts, capacity_bytes,
                                      free_bytes, joined_sequence, lost, mode,
                                      weight)
                 VALUES (1 + max(coalesce((SELECT max(id) FROM servers), 0), coalesce(
                             (SELECT value FROM settings WHERE name = 'last_server'), 0)),
                         ?1, ?2, ?3, ?4, 0, ?5, ?6, ?7, 0, 'normal', ?8)
                 ON CONFLICT (name) DO UPDATE SET
                     zone = excluded.zone, url = excluded.url, shared_key = excluded.shared_key,
                     capacity_bytes = excluded.capacity_bytes, free_bytes = excluded.free_bytes,
                     joined_sequence = excluded.joined_sequence, lost = 0,
                     mode = 'normal', weight = excluded.weight
                 RETURNING id",
                params![
                    request.name,
                    request.zone,
                    request.url,
                    shared_key,
                    request.capacity_bytes,
                    request.free_bytes,
                    sequence,
                    request.weight.hundredths()
                ],
                |r| r.get(0).map(ServerId),
            )?;
            Ok(ServerRow {
                server,
                name: request.name,
                zone: request.zone,
                url: request.url,
                shared_key,
                capacity_bytes: request.capacity_bytes,
                free_bytes: request.free_bytes,
                last_seen_ms: None,
                lost: false,
                mode: Mode::Normal,
                weight: request.weight,
            })
        })
        .await
    }

    /// Notes where a server is now, and what its capacity counts for; refuses a start number lower than one seen before.
    pub(in crate::coordinator) async fn hello(
        &self,
        server: ServerId,
        url: String,
        starts: u64,
        weight: Weight,
    ) -> Result<()> {
        self.write(move |db| {
            let sql = "UPDATE servers SET url = ?2, starts = ?3, weight = ?4
                       WHERE id = ?1 AND starts <= ?3";
            match db.execute(sql, params![server.0, url, starts, weight.hundredths()])? {
                0 => Err(Error::refuse(
                    Code::Conflict,
                    format!(
                        "server {} has said hello since, with a start after {starts}",
                        server.0
                    ),
                )),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Sets what is wanted of a server.
    pub(in crate::coordinator) async fn set_mode(
        &self,
        server: ServerId,
        mode: Mode,
    ) -> Result<()> {
        self.write(move |db| {
            let sql = "UPDATE servers SET mode = ?2 WHERE id = ?1";
            db.execute(sql, params![server.0, mode_name(mode)])?;
            Ok(())
        })
        .await
    }

    /// Gives a server up for lost and its name to another.
    pub(in crate::coordinator) async fn give_up(
        &self,
        server: ServerId,
        former: String,
    ) -> Result<()> {
        self.write(move |db| {
            let sql = "UPDATE servers SET name = ?2, lost = 1 WHERE id = ?1";
            db.execute(sql, params![server.0, former])?;
            lost_changed(db, server)
        })
        .await
    }

    /// Forgets a server of which no stripe has a shard, whole or damaged, that is not good on one
    /// of the servers in `up` too.
    pub(in crate::coordinator) async fn remove_server(
        &self,
        server: ServerId,
        up: Vec<ServerId>,
    ) -> Result<()> {
        let up = serde_json::json!(up).to_string();
        self.write(move |db| {
            let needed: u64 = db.query_row(
                "WITH up AS MATERIALIZED (SELECT value FROM json_each(?2))
                 SELECT count(*) FROM shards h
                 WHERE server = ?1 AND state <> 'missing' AND NOT EXISTS
                     (SELECT 1 FROM shards o WHERE o.stripe = h.stripe AND o.idx = h.idx
                      AND o.server <> ?1 AND o.state = 'good' AND o.server IN up)",
                params![server.0, up],
                |r| r.get(0),
            )?;
            if needed > 0 {
                return Err(Error::refuse(
                    Code::Conflict,
                    format!(
                        "it holds {needed} shards that no other server has and gives; drain it, or \
                         repair what it held, and remove it then"
                    ),
                ));
            }
            let keys: Vec<i64> =
                column(db, "SELECT stripe FROM shards WHERE server = ?1", [server.0])?;
            db.execute("DELETE FROM shards WHERE server = ?1", [server.0])?;
            for key in keys {
                shards_changed(db, key)?;
            }
            for table in ["tombstones", "intents"] {
                db.execute(&format!("DELETE FROM {table} WHERE server = ?1"), [server.0])?;
            }
            db.execute("DELETE FROM servers WHERE id = ?1", [server.0])?;
            // Its number is nobody else's: tickets and requests under way still name it.
            db.execute(
                "INSERT INTO settings VALUES ('last_server', ?1)
                 ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
                [server.0],
            )?;
            Ok(())
        })
        .await
    }

    /// Notes what the last probes of servers found, as (server, seen, capacity, free).
    pub(in crate::coordinator) async fn note_seen(
        &self,
        seen: Vec<(ServerId, u64, u64, u64)>,
    ) -> Result<()> {
        self.write(move |db| {
            let mut update = db.prepare_cached(
                "UPDATE servers SET last_seen_ms = ?2, capacity_bytes = ?3, free_bytes = ?4
                 WHERE id = ?1",
            )?;
            for (server, seen_ms, capacity_bytes, free_bytes) in seen {
                update.execute(params![server.0, seen_ms, capacity_bytes, free_bytes])?;
            }
            Ok(())
        })
        .await
    }

    /// Makes the vault record, unless one is there already, or replaces it by its next generation.
    pub(in crate::coordinator) async fn put_record(&self, record: Vec<u8>) -> Result<()> {
        self.write(move |db| {
            let present: Option<Vec<u8>> =
                db.query_row("SELECT record FROM meta", [], |r| r.get(0))?;
            match present {
                None => {
                    db.execute("UPDATE meta SET record = ?1", [record])?;
                    Ok(())
                }
                Some(same) if same == record => Ok(()),
                Some(present) => {
                    must_follow(&present, &record)?;
                    db.execute("UPDATE meta SET record = ?1", [record])?;
                    Ok(())
                }
            }
        })
        .await
    }

    /// How many shards the catalog has on each server, and the bytes of their bodies.
    pub(in crate::coordinator) async fn shards_by_server(
        &self,
    ) -> Result<Vec<(ServerId, u64, u64)>> {
        self.read(|db: &Connection| {
            let mut rows = db.prepare_cached(
                "SELECT h.server, count(*), sum(s.shard_bytes)
                 FROM shards h JOIN stripes s ON s.key = h.stripe
                 WHERE h.state <> 'missing' GROUP BY h.server",
            )?;
            let rows = rows.query_map([], |r| Ok((ServerId(r.get(0)?), r.get(1)?, r.get(2)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}

/// How a mode stands in the catalog.
pub(super) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Normal => "normal",
        Mode::Draining => "draining",
        Mode::ReadOnly => "read-only",
    }
}

/// The mode of that name.
pub(super) fn mode_of(name: &str) -> Mode {
    match name {
        "draining" => Mode::Draining,
        "read-only" => Mode::ReadOnly,
        _ => Mode::Normal,
    }
}

/// Whether a vault record may take the place of another. Only who has the key could tell more.
fn must_follow(present: &[u8], next: &[u8]) -> Result<()> {
    let (present, next) = (VaultRecord::decode(present)?, VaultRecord::decode(next)?);
    if next.generation == 1 {
        let why = "this coordinator has a vault already; nothing was changed";
        return Err(Error::refuse(Code::VaultExists, why));
    }
    let same_vault = (present.vault, present.geometry) == (next.vault, next.geometry);
    if same_vault && Some(next.generation) == present.generation.checked_add(1) {
        return Ok(());
    }
    let why = format!(
        "a vault record of generation {} and {}, {} and {} is kept: it was changed meanwhile; \
         nothing was changed now",
        next.generation, next.geometry, present.generation, present.geometry
    );
    Err(Error::refuse(Code::Conflict, why))
}

/// The role of that name.
pub(super) fn role_of(name: &str) -> Role {
    match name {
        "join" => Role::Join,
        _ => Role::Owner,
    }
}

/// How a role stands in the catalog.
pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Owner => "owner",
        Role::Join => "join",
    }
}

fn name_taken(name: &str, url: &str) -> Error {
    Error::refuse(
        Code::NameTaken,
        format!(
            "a server named {name} has joined before, at {url}: is its disk not mounted? Start it \
             with the folder that it has, or join this one with another --name"
        ),
    )
}
