//! `arc repair-scan`: what is at risk, worst first, and the mending of it.

mod fix;
mod why;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use codec::StripeId;
use serde_json::json;
use server::client::CoordinatorClient;
use server::wire::{Counts, PageQuery, ReadTicket, ServerId, State, StripeMap};

use self::fix::Mended;
use super::Global;
use crate::exit::{Exit, Failure};
use crate::ui::{Ui, bytes_text, count_text, duration_text, escaped, plural};
use crate::vault;

/// Show what lacks shards, worst first, and with --fix have it made again.
///
/// Compares what every server holds with the coordinator's map first. Damage inside shards that
/// nobody has read yet is found by `arc verify` and by the servers' own scrub. With --fix the
/// coordinator tries all that lacks shards once, in the order of its ledger, whatever it waited
/// for; it goes on if this command is stopped, and one stripe that cannot be repaired holds up no
/// other. Needs no passphrase. Exit 4 says that something can be mended (or still could after
/// --fix), 5 that something is lost, 7 that servers which are away or do not answer are lacking.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc repair-scan
  arc verify; arc repair-scan --fix
  arc repair-scan --why 9f31c0
  arc repair-scan --json")]
pub struct Args {
    /// Make again what is missing or damaged, as far as k shards of it are left
    #[arg(long)]
    pub fix: bool,
    /// Say what this stripe has and lacks, and when it is repaired; the first digits of its id
    #[arg(long, value_name = "STRIPE", conflicts_with = "fix", value_parser = why::parse_digits)]
    pub why: Option<String>,
}

/// What a stripe lacks. Worse ones come first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Deficit {
    /// The margin without the zone that would be missed most.
    worst_zone_margin: i32,
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
    /// How many stripes have which margin, and which without their worst zone.
    by_margin: BTreeMap<i32, u64>,
    by_worst_zone_margin: BTreeMap<i32, u64>,
    /// Servers that are away.
    away: BTreeSet<String>,
}

impl Scan {
    fn add(&mut self, map: &StripeMap, servers: &BTreeMap<ServerId, ReadTicket>) {
        let mut good = BTreeSet::new();
        // The zones that each good shard within reach is in.
        let mut reached: BTreeMap<u8, BTreeSet<&str>> = BTreeMap::new();
        for holder in map.shards.iter().filter(|holder| !holder.bad) {
            match servers.get(&holder.server) {
                // What a lost server held is not waited for.
                None | Some(ReadTicket { state: State::Lost, .. }) => continue,
                Some(ReadTicket { state: State::Down, name, .. }) => {
                    self.away.insert(name.clone());
                }
                Some(ReadTicket { zone, .. }) => {
                    reached.entry(holder.index).or_default().insert(zone);
                }
            }
            good.insert(holder.index);
        }
        let (n, k) = (map.geometry.shards(), map.geometry.data() as i32);
        let margin = reached.len() as i32 - k;
        let without =
            |zone: &str| reached.values().filter(|at| at.iter().any(|z| *z != zone)).count();
        let worst = reached.values().flatten().map(|zone| without(zone) as i32 - k).min();
        let worst_zone_margin = worst.unwrap_or(margin);
        *self.by_margin.entry(margin).or_default() += 1;
        *self.by_worst_zone_margin.entry(worst_zone_margin).or_default() += 1;
        let lacking: Vec<u8> = (0..n as u8).filter(|index| !good.contains(index)).collect();
        if !lacking.is_empty() {
            let stripe = map.stripe;
            self.deficits.insert(Deficit { worst_zone_margin, margin, stripe, lacking });
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

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let connection = vault::connect(global).await?;
    let (coordinator, ui) = (&connection.coordinator, &global.ui);
    let mut scanned = match &args.why {
        Some(digits) => why::tell(coordinator, digits, ui).await,
        None => scan_and_fix(coordinator, args.fix, ui).await,
    };
    if scanned.is_ok() && args.fix && connection.is_local() {
        let forgot = vault::forget_replaced(coordinator).await;
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
    for deficit in &scan.deficits {
        let Deficit { worst_zone_margin, margin, stripe, lacking } = deficit;
        let fields = json!({
            "stripe": stripe,
            "margin": margin,
            "worst_zone_margin": worst_zone_margin,
            "lacking": lacking,
        });
        match ui.is_json() {
            true => ui.json("deficit", fields),
            false if !fix => ui.data(told(deficit)),
            false => {}
        }
    }
    for server in &scan.away {
        ui.warn(&format!("server {} is away", escaped(server.as_bytes())), None);
    }
    let mended = if fix { fix::fix_all(coordinator, &scan, ui).await? } else { Mended::default() };
    for server in mended.unreachable.difference(&scan.away) {
        ui.warn(&format!("server {} does not answer", escaped(server.as_bytes())), None);
    }
    let counts = mended.run.counts;
    let (needed, open) = match fix {
        true => (counts.needed, counts.failed + counts.unknown + counts.waiting),
        false => (scan.deficits.len() as u64, scan.deficits.len() as u64),
    };
    let mut lines = vec![format!(
        "found {}: {} whole, {} lacking shards, {} waiting for servers that are away",
        plural(scan.stripes(), "stripe"),
        scan.whole,
        scan.deficits.len(),
        scan.waiting
    )];
    if scan.stripes() > 0 {
        lines.push(format!(
            "by margin: {}; without their worst zone: {}",
            margins_text(&scan.by_margin),
            margins_text(&scan.by_worst_zone_margin)
        ));
    }
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
            "needed {needed} = repaired {} + failed {} + unknown {}: {} made again, {} read from \
             other servers, in {}",
            counts.repaired,
            counts.failed,
            counts.unknown,
            plural(mended.run.made_shards, "shard"),
            bytes_text(mended.run.read_bytes),
            duration_text(began.elapsed())
        ));
    }
    if mended.run.lost > 0 {
        let lost = plural(mended.run.lost, "stripe");
        lines.push(format!("{lost} lost: arc verify names the files"));
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
        "by_margin": scan.by_margin,
        "by_worst_zone_margin": scan.by_worst_zone_margin,
        "needed": needed,
        "mended": counts.repaired,
        "lacking": open,
        "failed": counts.failed,
        "unknown": counts.unknown,
        "lost": mended.run.lost,
        "shards": mended.run.made_shards,
        "read_bytes": mended.run.read_bytes,
        "held": held,
        "away": scan.away,
        "unreachable": mended.unreachable,
    });
    ui.summary(&lines, fields);
    let found = [
        (mended.run.lost > 0, Exit::Lost),
        (scan.waiting > 0 || !mended.unreachable.is_empty(), Exit::BelowTarget),
        (open > 0, Exit::Repairable),
    ];
    let exits: Vec<Exit> = found.into_iter().filter(|(is, _)| *is).map(|(_, exit)| exit).collect();
    ui.note_all(&exits);
    Ok(Exit::worst(&exits))
}

fn told(Deficit { worst_zone_margin, margin, stripe, lacking }: &Deficit) -> String {
    let noun = if lacking.len() == 1 { "shard" } else { "shards" };
    let lacking: Vec<String> = lacking.iter().map(ToString::to_string).collect();
    let left = match margin {
        ..0 => "too few shards are within reach".to_owned(),
        0 => "one more loss is too much".to_owned(),
        _ => format!("survives the loss of {margin} more"),
    };
    let lacking = lacking.join(", ");
    format!(
        "stripe {stripe:.8} lacks {noun} {lacking}: {left} (margin {margin}, {worst_zone_margin} \
         without its worst zone)"
    )
}

/// How many stripes have which margin, the least first.
fn margins_text(margins: &BTreeMap<i32, u64>) -> String {
    let text = |(margin, stripes): (&i32, &u64)| format!("{margin}: {}", count_text(*stripes));
    margins.iter().map(text).collect::<Vec<_>>().join(", ")
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
            told(scan.deficits.iter().nth(2).unwrap()),
            "stripe 05050505 lacks shard 3: survives the loss of 1 more (margin 1, -2 without its \
             worst zone)"
        );
    }

    #[test]
    fn the_stripe_that_a_zone_would_cost_most_comes_first() {
        let in_zones = |zones: [&str; 4]| -> BTreeMap<ServerId, ReadTicket> {
            let of = |(number, zone): (u32, &str)| {
                let (server, mut ticket) = server(number, State::Up);
                ticket.zone = zone.into();
                (server, ticket)
            };
            (1..).zip(zones).map(of).collect()
        };
        let mut scan = Scan::default();
        scan.add(&map(1, &[0]), &in_zones(["a", "b", "c", "d"]));
        scan.add(&map(2, &[0]), &in_zones(["a", "b", "b", "c"]));
        scan.add(&map(3, &[]), &in_zones(["a", "a", "b", "c"]));
        let order: Vec<_> =
            scan.deficits.iter().map(|d| (d.stripe.0[0], d.margin, d.worst_zone_margin)).collect();
        assert_eq!(order, [(2, 1, -1), (1, 1, 0)]);
        assert_eq!(scan.by_margin, BTreeMap::from([(1, 2), (2, 1)]));
        assert_eq!(scan.by_worst_zone_margin, BTreeMap::from([(-1, 1), (0, 2)]));
        assert_eq!(margins_text(&scan.by_worst_zone_margin), "-1: 1, 0: 2");
    }
}
