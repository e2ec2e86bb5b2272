//! `arc repair-scan`: what is at risk, worst first, and the mending of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use codec::StripeId;
use futures_util::StreamExt as _;
use serde_json::json;
use server::client::CoordinatorClient;
use server::wire::{Counts, Outcome, PageQuery, ReadTicket, Repaired, ServerId, State, StripeMap};

use super::Global;
use crate::exit::{Exit, Failure};
use crate::ui::{Counters, Ui, View, bytes_text, duration_text, escaped, plural};
use crate::vault;

/// Stripes that are mended at once.
const REPAIRS_IN_FLIGHT: usize = 2;

/// Show what lacks shards, worst first, and with --fix have it made again.
///
/// Compares what every server holds with the coordinator's map first. Damage inside shards that
/// nobody has read yet is found by `arc verify` and by the servers' own scrub. Needs no passphrase. Exit 4 says that something can be mended (or still could after --fix), 5
/// that something is lost, 7 that servers which are away or do not answer are lacking.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc repair-scan
  arc verify; arc repair-scan --fix
  arc repair-scan --json")]
pub struct Args {
    /// Make again what is missing or damaged, as far as k shards of it are left
    #[arg(long)]
    pub fix: bool,
}

/// What a stripe lacks. Worse ones come first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Deficit {
    /// Good shards within reach that are left, beyond those that are needed.
    margin: i32,
    stripe: StripeId,
    /// Indexes of shards that are missing or damaged.
    lacking: Vec<u8>,
}

/// All stripes, each counted once.
#[derive(Debug, Default, PartialEq, Eq)]
struct Scan {
    /// All shards are good and within reach.
    whole: u64,
    /// All shards are good, some on servers that are away.
    waiting: u64,
    /// Those with missing or damaged shards, worst first.
    deficits: BTreeSet<Deficit>,
    /// Servers that are away.
    away: BTreeSet<String>,
}

impl Scan {
    fn add(&mut self, map: &StripeMap, servers: &BTreeMap<ServerId, ReadTicket>) {
        let (mut good, mut reached) = (BTreeSet::new(), BTreeSet::new());
        for holder in map.shards.iter().filter(|holder| !holder.bad) {
            match servers.get(&holder.server) {
                // What a lost server held is not waited for.
                None | Some(ReadTicket { state: State::Lost, .. }) => continue,
                Some(ReadTicket { state: State::Down, name, .. }) => {
                    self.away.insert(name.clone());
                }
                Some(_) => drop(reached.insert(holder.index)),
            }
            good.insert(holder.index);
        }
        let n = map.geometry.shards();
        let lacking: Vec<u8> = (0..n as u8).filter(|index| !good.contains(index)).collect();
        if !lacking.is_empty() {
            let margin = reached.len() as i32 - map.geometry.data() as i32;
            self.deficits.insert(Deficit { margin, stripe: map.stripe, lacking });
        } else if reached.len() < n {
            self.waiting += 1;
        } else {
            self.whole += 1;
        }
    }

    fn stripes(&self) -> u64 {
        self.whole + self.waiting + self.deficits.len() as u64
    }
}

/// What became of the deficits, each counted once.
#[derive(Debug, Default)]
struct Mended {
    /// Stripes that have all their shards again.
    whole: u64,
    /// Stripes that still lack some.
    lacking: u64,
    /// Stripes of which too few shards are left, none of them on a server that does not answer.
    lost: u64,
    /// Servers that did not give what they hold of stripes that lack shards.
    unreachable: BTreeSet<String>,
    shards: u64,
    read_bytes: u64,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let connection = vault::connect(global).await?;
    let mut scanned = scan_and_fix(&connection.coordinator, args.fix, &global.ui).await;
    if scanned.is_ok() && args.fix && connection.is_local() {
        let forgot = vault::forget_replaced(&connection.coordinator).await;
        scanned = scanned.and_then(|exit| forgot.map(|()| exit));
    }
    connection.close().await;
    scanned
}

async fn scan_and_fix(
    coordinator: &CoordinatorClient,
    fix: bool,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let began = Instant::now();
    let held = held(coordinator, ui).await?;
    let scan = scan(coordinator).await?;
    for Deficit { margin, stripe, lacking } in &scan.deficits {
        let fields = json!({ "stripe": stripe, "margin": margin, "lacking": lacking });
        match ui.is_json() {
            true => ui.json("deficit", fields),
            false if !fix => ui.data(told(*margin, *stripe, lacking)),
            false => {}
        }
    }
    for server in &scan.away {
        ui.warn(&format!("server {} is away", escaped(server.as_bytes())), None);
    }
    let mended = if fix { fix_all(coordinator, &scan, ui).await } else { Mended::default() };
    for server in mended.unreachable.difference(&scan.away) {
        ui.warn(&format!("server {} does not answer", escaped(server.as_bytes())), None);
    }
    let needed = scan.deficits.len() as u64;
    let open = if fix { mended.lacking } else { needed };
    let mut lines = vec![format!(
        "found {}: {} whole, {} lacking shards, {} waiting for servers that are away",
        plural(scan.stripes(), "stripe"),
        scan.whole,
        needed,
        scan.waiting
    )];
    lines.push(format!(
        "servers hold {}: {} damaged, {} in no stripe's place, {} that nobody knows; {} missing",
        plural(held.good + held.damaged + held.surplus + held.unknown + held.pending, "shard"),
        held.damaged,
        held.surplus,
        held.unknown,
        held.missing
    ));
    if fix && needed > 0 {
        lines.push(format!(
            "{} of {needed} mended: {} made again, {} read from other servers, in {}",
            mended.whole,
            plural(mended.shards, "shard"),
            bytes_text(mended.read_bytes),
            duration_text(began.elapsed())
        ));
    }
    if mended.lost > 0 {
        lines.push(format!("{} lost: arc verify names the files", plural(mended.lost, "stripe")));
    }
    if !mended.unreachable.is_empty() {
        lines.push("bring the servers that do not answer back, then the same again".to_owned());
    }
    if !fix && needed > 0 {
        lines.push("next: arc repair-scan --fix".to_owned());
    }
    let fields = json!({
        "stripes": scan.stripes(),
        "whole": scan.whole,
        "waiting": scan.waiting,
        "needed": needed,
        "mended": mended.whole,
        "lacking": open,
        "lost": mended.lost,
        "shards": mended.shards,
        "read_bytes": mended.read_bytes,
        "held": held,
        "away": scan.away,
        "unreachable": mended.unreachable,
    });
    ui.summary(&lines, fields);
    let found = [
        (mended.lost > 0, Exit::Lost),
        (scan.waiting > 0 || !mended.unreachable.is_empty(), Exit::BelowTarget),
        (open > 0, Exit::Repairable),
    ];
    let exits: Vec<Exit> = found.into_iter().filter(|(is, _)| *is).map(|(_, exit)| exit).collect();
    ui.note_all(&exits);
    Ok(Exit::worst(&exits))
}

fn told(margin: i32, stripe: StripeId, lacking: &[u8]) -> String {
    let noun = if lacking.len() == 1 { "shard" } else { "shards" };
    let lacking: Vec<String> = lacking.iter().map(ToString::to_string).collect();
    let left = match margin {
        ..0 => "too few shards are within reach".to_owned(),
        0 => "one more loss is too much".to_owned(),
        _ => format!("survives the loss of {margin} more"),
    };
    format!("stripe {stripe:.8} lacks {noun} {}: {left}", lacking.join(", "))
}

/// What the servers hold, compared with the map, in all.
async fn held(coordinator: &CoordinatorClient, ui: &Ui) -> Result<Counts, Failure> {
    let mut held = Counts::default();
    for compared in coordinator.reconcile().await? {
        let Counts { good, missing, damaged, surplus, unknown, pending, leftover } = compared.found;
        held.good += good;
        held.missing += missing;
        held.damaged += damaged;
        held.surplus += surplus;
        held.unknown += unknown;
        held.pending += pending;
        held.leftover += leftover;
        if let Some(why) = &compared.failed {
            let (name, why) = (escaped(compared.name.as_bytes()), escaped(why.as_bytes()));
            ui.detail(format!("what {name} holds was not compared: {why}"));
        }
    }
    Ok(held)
}

async fn scan(coordinator: &CoordinatorClient) -> Result<Scan, Failure> {
    let tickets = coordinator.read_tickets().await?;
    let servers: BTreeMap<_, _> = tickets.servers.into_iter().map(|t| (t.server, t)).collect();
    let mut scan = Scan::default();
    let mut query = PageQuery::default();
    loop {
        let page = coordinator.stripes(&query).await?;
        page.rows.iter().for_each(|map| scan.add(map, &servers));
        query.after = page.next;
        if query.after.is_none() {
            return Ok(scan);
        }
    }
}

/// Mends the worst first. One that cannot be mended holds up no other.
async fn fix_all(coordinator: &CoordinatorClient, scan: &Scan, ui: &Ui) -> Mended {
    let counters = Arc::new(Counters::default());
    counters.total_files.store(scan.deficits.len() as u64, Relaxed);
    let watch = ui.watch(Arc::clone(&counters), View::Repair);
    let repairs = futures_util::stream::iter(&scan.deficits)
        .map(|deficit| async move { (deficit, coordinator.repair(deficit.stripe).await) })
        .buffer_unordered(REPAIRS_IN_FLIGHT);
    let mut repairs = std::pin::pin!(repairs);
    let mut mended = Mended::default();
    while let Some((deficit, repaired)) = repairs.next().await {
        counters.done_files.fetch_add(1, Relaxed);
        let stripe = deficit.stripe;
        match repaired {
            Ok(Repaired { outcome, rebuilt, lacking, unreachable, read_bytes, .. }) => {
                counters.done_bytes.fetch_add(read_bytes, Relaxed);
                mended.shards += rebuilt.len() as u64;
                mended.read_bytes += read_bytes;
                for (why, indexes) in by_reason(&lacking) {
                    let indexes = indexes.join(", ");
                    ui.warn(&format!("stripe {stripe:.8} still lacks {indexes}: {why}"), None);
                }
                let is_short = outcome == Some(Outcome::TooFewSources);
                mended.lost += u64::from(is_short && unreachable.is_empty());
                if !lacking.is_empty() {
                    mended.unreachable.extend(unreachable);
                }
                mended.lacking += u64::from(!lacking.is_empty());
                mended.whole += u64::from(lacking.is_empty());
            }
            Err(error) => {
                ui.warn(&format!("stripe {stripe:.8} was not mended: {error}"), None);
                mended.lacking += 1;
            }
        }
    }
    watch.finish();
    mended
}

/// Which shards are lacking for the same reason.
fn by_reason(lacking: &[(u8, String)]) -> BTreeMap<&str, Vec<String>> {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (index, why) in lacking {
        reasons.entry(why).or_default().push(format!("shard {index}"));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use codec::Geometry;
    use codec::seal::PackKeyField;
    use codec::shard::Kind;
    use server::wire::Holder;

    use super::*;

    fn server(number: u32, state: State) -> (ServerId, ReadTicket) {
        let (server, name) = (ServerId(number), format!("s{number}"));
        let (zone, url, ticket) = ("z".into(), "http://h".into(), "t".into());
        (server, ReadTicket { server, name, zone, url, state, ticket })
    }

    fn map(number: u8, bad: &[u8]) -> StripeMap {
        let holder = |index: u8| Holder {
            index,
            server: ServerId(u32::from(index) + 1),
            bad: bad.contains(&index),
        };
        StripeMap {
            stripe: StripeId([number; 32]),
            kind: Kind::Data,
            geometry: Geometry::new(2, 2).unwrap(),
            pack_bytes: 1,
            pack_key: PackKeyField(vec![0]),
            frames: vec![],
            shards: (0..4).map(holder).collect(),
        }
    }

    #[test]
    fn each_stripe_is_counted_once_and_the_worst_comes_first() {
        let servers: BTreeMap<_, _> =
            [server(1, State::Up), server(2, State::Suspect), server(3, State::Up)]
                .into_iter()
                .chain([server(4, State::Down)])
                .collect();
        let mut lost = servers.clone();
        lost.extend([server(4, State::Lost)]);
        let up: BTreeMap<_, _> = (1..5).map(|number| server(number, State::Up)).collect();
        let mut scan = Scan::default();
        scan.add(&map(1, &[]), &up);
        scan.add(&map(2, &[]), &servers);
        scan.add(&map(3, &[0]), &servers);
        scan.add(&map(4, &[0, 1, 2]), &servers);
        scan.add(&map(5, &[3]), &up);
        scan.add(&map(6, &[]), &lost);
        assert_eq!((scan.stripes(), scan.whole, scan.waiting), (6, 1, 1));
        let worst: Vec<_> = scan.deficits.iter().map(|d| (d.stripe.0[0], d.margin)).collect();
        assert_eq!(worst, [(4, -2), (3, 0), (5, 1), (6, 1)]);
        assert_eq!(scan.away, BTreeSet::from(["s4".to_owned()]));
        assert_eq!(
            told(1, StripeId([5; 32]), &[3]),
            "stripe 05050505 lacks shard 3: survives the loss of 1 more"
        );
    }
}
