//! `arc explain`: where the shards of a file are, and what it survives.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use codec::StripeId;
use serde_json::json;
use server::wire::{COVERAGE_STRIPES_MAX, Holder, ReadTicket, State, StripeCoverage, StripeMap};

use super::Global;
use super::servers::state_text;
use crate::exit::{Exit, Failure};
use crate::explain::{self, Explained, Held, Part, Survival, Used};
use crate::fetch::{Fetcher, Tickets};
use crate::ui::{Ui, bytes_text, escaped, plural, time_text};
use crate::vault::{self, Vault};
use crate::{snapshots, tree};

/// Stripes that are shown to people; `-v` shows all.
const STRIPES_SHOWN: usize = 20;

/// Say where each shard of a file is, and what the file survives.
///
/// Counted are the stripes of its contents, of the pages that lead to it, and of the snapshot's
/// record: without one of them it could not be had. Shards that were found bad, or are on servers
/// that do not answer, count as gone. Of a folder, all that is below it is meant.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc explain ~/letters/2024.odt
  arc explain 7c1d09aa:/home/ada
  arc explain latest:")]
pub struct Args {
    /// The file or folder, as it is in the latest snapshot or in the one that is given
    #[arg(value_name = "PATH|SNAPSHOT:PATH")]
    pub path: OsString,
}

/// Where a shard is.
struct Shard<'a> {
    holder: &'a Holder,
    server: Option<&'a ReadTicket>,
}

impl<'a> Shard<'a> {
    fn all<'m: 'a>(map: &'m StripeMap, tickets: &'a Tickets) -> Vec<Self> {
        let shard = |holder| Shard { holder, server: tickets.servers.get(&holder.server) };
        let mut shards: Vec<Self> = map.shards.iter().map(shard).collect();
        shards.sort_by_key(|shard| (shard.holder.index, shard.holder.server));
        shards
    }

    /// The shard, where it is good and its server answers.
    fn held(&self) -> Option<Held<'a>> {
        let server = self.server.filter(|server| !server.state.is_away() && !self.holder.bad)?;
        Some(Held { index: self.holder.index, server: &server.name, zone: &server.zone })
    }

    /// Neither here nor on a server that may come back.
    fn is_gone(&self) -> bool {
        self.holder.bad || self.server.is_none_or(|server| server.state == State::Lost)
    }

    fn state(&self) -> &'static str {
        match self.server {
            _ if self.holder.bad => "bad",
            Some(server) => state_text(server.state),
            None => "unknown",
        }
    }
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let (name, path) = split(&args.path)?;
    let vault = vault::open(global).await?;
    let told = explain_in(&vault, &name, &path, &global.ui).await;
    vault.close().await;
    told
}

/// The snapshot's name and the path in it. What has a snapshot's name before a colon is meant so.
fn split(text: &OsStr) -> Result<(String, Vec<u8>), Failure> {
    let (name, path) = snapshots::split(text.as_bytes());
    let named = std::str::from_utf8(name).ok().filter(|name| snapshots::is_name(name));
    if let Some(name) = named.filter(|name| text.len() > name.len()) {
        return Ok((name.to_owned(), path.to_vec()));
    }
    let path = std::path::absolute(text).map_err(Failure::io("cannot find", Path::new(text)))?;
    // As a push does: by name, without a look at where links lead.
    let mut whole = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(whole.pop()),
            Component::Normal(name) => whole.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(("latest".to_owned(), whole.into_os_string().as_bytes().to_vec()))
}

async fn explain_in(vault: &Vault, name: &str, path: &[u8], ui: &Ui) -> Result<Exit, Failure> {
    let row = snapshots::find(&vault.coordinator, name).await?;
    let fetcher = Arc::new(Fetcher::new(vault, Arc::default())?);
    let tickets = fetcher.tickets().await?;
    let margin = |map: &StripeMap| {
        let shards = Shard::all(map, &tickets);
        let held: BTreeSet<u8> =
            shards.iter().filter_map(Shard::held).map(|held| held.index).collect();
        held.len() as i64 - map.geometry.data() as i64
    };
    let found = explain::explain(&fetcher, &row, path, margin).await?;
    let zones: BTreeSet<&str> = tickets.servers.values().map(|t| t.zone.as_str()).collect();
    let each: Vec<(&Used, Option<Survival>)> = found
        .stripes
        .values()
        .map(|used| {
            let held: Vec<Held> =
                Shard::all(&used.map, &tickets).iter().filter_map(Shard::held).collect();
            (used, explain::of_stripe(used.map.geometry.data(), &held, &zones))
        })
        .collect();
    let read = ReadWhole::of(vault, found.stripes.keys().copied().collect()).await;
    let read_ms = read.all(found.stripes.keys().copied());
    let lost = found.stripes.values().filter(|used| is_lost(&used.map, &tickets)).count() as u64;
    let unreached = each.iter().filter(|(_, survival)| survival.is_none()).count() as u64;
    for (number, (used, survival)) in each.iter().enumerate() {
        if ui.is_json() || ui.verbose() > 0 || number < STRIPES_SHOWN {
            tell_stripe(used, survival.as_ref(), &tickets, &read, ui);
        }
    }
    if each.len() > STRIPES_SHOWN && !ui.is_json() && ui.verbose() == 0 {
        ui.data(format!("and {} more stripes (-v shows them)", each.len() - STRIPES_SHOWN));
    }
    let mut all = each.into_iter().map(|(_, survival)| survival);
    let first = all.next().flatten();
    let survival = all.fold(first, |a, b| Some(a?.and(b?))).filter(|_| found.lost_chunks == 0);
    let (words, exit) = match &survival {
        Some(survival) => (survival.words(), Exit::Done),
        None if lost + found.lost_chunks > 0 => {
            ("is lost: too few of its shards are left".to_owned(), Exit::Lost)
        }
        None => (
            "cannot be read just now: too few of its shards are within reach".into(),
            Exit::BelowTarget,
        ),
    };
    let fields = json!({
        "snapshot": row.id,
        "path": String::from_utf8_lossy(&tree::absolute(path)),
        "files": found.files,
        "bytes": found.bytes,
        "chunks": found.chunks,
        "stripes": found.stripes.len(),
        "unreached_stripes": unreached,
        "lost_stripes": lost,
        "lost_chunks": found.lost_chunks,
        "survives": words,
        "servers": survival.as_ref().map(|survival| survival.servers),
        "zones": survival.as_ref().map(|survival| survival.zones),
        "whole_zones": survival.as_ref().map(|survival| &survival.whole_zones),
        "last_read_whole_ms": read_ms,
    });
    ui.summary(&summary(&found, &row.id, path, &words, read_ms), fields);
    Ok(exit)
}

fn summary(
    found: &Explained,
    id: &StripeId,
    path: &[u8],
    words: &str,
    read_ms: Option<u64>,
) -> [String; 3] {
    let what = match found.files {
        1 => bytes_text(found.bytes),
        files => format!("{}, {}", plural(files, "file"), bytes_text(found.bytes)),
    };
    let stripes = plural(found.stripes.len() as u64, "stripe");
    [
        format!("{} in snapshot {id:.8}: {what} in {stripes}", escaped(&tree::absolute(path))),
        words.to_owned(),
        match read_ms {
            Some(ms) => format!("last read whole: {}", at(ms)),
            None => "last read whole: not known".to_owned(),
        },
    ]
}

/// More than m of its shards are known to be nowhere.
fn is_lost(map: &StripeMap, tickets: &Tickets) -> bool {
    let shards = Shard::all(map, tickets);
    let left = shards.iter().filter(|shard| !shard.is_gone()).map(|shard| shard.holder.index);
    left.collect::<BTreeSet<u8>>().len() < map.geometry.data()
}

fn tell_stripe(
    used: &Used,
    survival: Option<&Survival>,
    tickets: &Tickets,
    read: &ReadWhole,
    ui: &Ui,
) {
    let Used { map, parts } = used;
    let shards = Shard::all(map, tickets);
    if ui.is_json() {
        let shard = |shard: &Shard| {
            json!({
                "index": shard.holder.index,
                "server": shard.server.map(|server| &server.name),
                "zone": shard.server.map(|server| &server.zone),
                "state": shard.state(),
                "is_good": shard.held().is_some(),
                "last_read_whole_ms": read.shard(map.stripe, shard.holder),
            })
        };
        let fields = json!({
            "stripe": map.stripe,
            "code": map.geometry.to_string(),
            "holds": parts,
            "shards": shards.iter().map(shard).collect::<Vec<_>>(),
            "survives_servers": survival.map(|survival| survival.servers),
            "last_read_whole_ms": read.stripe(map.stripe),
        });
        return ui.json("stripe", fields);
    }
    let holds: Vec<&str> = parts.iter().map(|part| part_text(*part)).collect();
    ui.data(format!("stripe {:.8}  {}  {}", map.stripe, map.geometry, holds.join(", ")));
    for shard in &shards {
        let (name, zone) = match shard.server {
            Some(server) => (escaped(server.name.as_bytes()), escaped(server.zone.as_bytes())),
            None => (format!("server {}", shard.holder.server.0), "?".to_owned()),
        };
        let last = match read.shard(map.stripe, shard.holder) {
            Some(ms) => format!(", read whole {}", at(ms)),
            None => String::new(),
        };
        ui.data(format!(
            "  {:>3}  {name:<16} zone {zone:<16} {}{last}",
            shard.holder.index,
            shard.state()
        ));
    }
}

/// When the shards of some stripes were last read whole, as a verify told.
struct ReadWhole(HashMap<StripeId, StripeCoverage>);

impl ReadWhole {
    async fn of(vault: &Vault, stripes: Vec<StripeId>) -> Self {
        let mut known = HashMap::with_capacity(stripes.len());
        for stripes in stripes.chunks(COVERAGE_STRIPES_MAX) {
            // An older coordinator keeps no times: they are not known then.
            match vault.coordinator.coverage(stripes.to_vec()).await {
                Ok(rows) => known.extend(rows.into_iter().map(|known| (known.stripe, known))),
                Err(error) => tracing::warn!(%error, "when shards were read is not known"),
            }
        }
        Self(known)
    }

    fn shard(&self, stripe: StripeId, holder: &Holder) -> Option<u64> {
        let mut shards = self.0.get(&stripe)?.shards.iter();
        let is_it = |s: &&(u8, _, _)| (s.0, s.1) == (holder.index, holder.server);
        shards.find(is_it)?.2
    }

    /// Since when all shards of a stripe were.
    fn stripe(&self, stripe: StripeId) -> Option<u64> {
        let shards = &self.0.get(&stripe)?.shards;
        shards.iter().map(|(.., ms)| *ms).min().flatten()
    }

    /// Since when all shards of all of them were.
    fn all(&self, stripes: impl IntoIterator<Item = StripeId>) -> Option<u64> {
        stripes.into_iter().map(|stripe| self.stripe(stripe)).min().flatten()
    }
}

/// A time of the coordinator's.
fn at(ms: u64) -> String {
    time_text(i64::try_from(ms).unwrap_or(i64::MAX))
}

fn part_text(part: Part) -> &'static str {
    match part {
        Part::Record => "the snapshot's record",
        Part::Pages => "names and lists of chunks",
        Part::Contents => "contents",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_here_or_in_a_snapshot() {
        let of = |text: &str| {
            let (name, path) = split(OsStr::new(text)).unwrap();
            (name, String::from_utf8(path).unwrap())
        };
        let is = |name: &str, path: &str| (name.to_owned(), path.to_owned());
        assert_eq!(of("/home/ada/x"), is("latest", "home/ada/x"));
        assert_eq!(of("/home/ada/../bob//./x/"), is("latest", "home/bob/x"));
        assert_eq!(of("latest~1:/home/ada/"), is("latest~1", "home/ada"));
        assert_eq!(of("7c1d09aa:home"), is("7c1d09aa", "home"));
        assert_eq!(of("latest:"), is("latest", ""));
        assert_eq!(of("/a:b"), is("latest", "a:b"));
        let here = std::env::current_dir().unwrap();
        let below = |name: &str| here.join(name).strip_prefix("/").unwrap().display().to_string();
        assert_eq!(of("beef"), is("latest", &below("beef")));
        assert_eq!(of("it: is"), is("latest", &below("it: is")));
    }
}
