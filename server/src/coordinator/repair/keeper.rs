//! Keeps the vault whole: finds what lacks shards, and has it repaired, worst first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::Duration;

use codec::StripeId;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::entry::{Ended, Entry};
use super::rebalance::{Balance, rebalance};
use super::risk::{Look, Risk, Standing, Worst};
use super::stripe::{Manner, Repaired, repair_stripe};
use super::trim::trim_some;
use crate::coordinator::Core;
use crate::coordinator::catalog::{Ledgered, Which};
use crate::coordinator::events::{Kind, Told};
use crate::coordinator::fail_points::FailPoint;
use crate::coordinator::fleet::Member;
use crate::coordinator::health::wait::Wait;
use crate::wire::{Code, Mode, Outcome, ServerId, State as Health};
use crate::{Error, Result};

/// Entries read at a time.
const PAGE_ENTRIES: usize = 1000;
/// Entries repaired before the ledger is looked at again.
const BATCH: usize = 512;
/// The ledger is looked at this often when nothing happens.
const LOOK_EVERY_MS: u64 = 60_000;

/// A stripe that is repaired now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Urgent {
    pub(super) key: i64,
    pub(super) stripe: StripeId,
    pub(super) attempts: u32,
    /// Servers that are down are not waited for.
    pub(super) thin: bool,
    /// It has nothing to spare, and goes past the servers' pace.
    pub(super) urgent: bool,
}

/// What became of a try, for the ledger and as it was told.
pub(super) struct Tried {
    pub(super) entry: Entry,
    pub(super) repaired: Result<Repaired>,
}

/// What a look at the ledger found.
struct Looked {
    urgent: Worst<Urgent>,
    /// When the first that waits is due.
    due_ms: u64,
    /// Entries of stripes that lack nothing.
    whole: Vec<i64>,
}

/// The servers as they were in the last round.
#[derive(Default)]
pub(super) struct Known {
    up: BTreeSet<ServerId>,
    /// Those that are away, since when, and whether they are lost.
    away: BTreeSet<(ServerId, Option<u64>, bool)>,
    lost: BTreeSet<ServerId>,
    draining: BTreeSet<ServerId>,
    balance: Balance,
}

/// Repairs until the coordinator is gone.
pub(in crate::coordinator) async fn keep(core: Weak<Core>) {
    let mut known = Known::default();
    loop {
        let Some(here) = core.upgrade() else { return };
        let mut changed = here.fleet.changed();
        let rest = match look_after(&here, &mut known).await {
            Ok(rest) => rest.map_or(Duration::ZERO, |rest| rest.max(here.timings.repair_every)),
            Err(error) => {
                tracing::warn!(%error, "repair could not go on");
                here.timings.repair_every
            }
        };
        if rest.is_zero() {
            continue;
        }
        let (next, asked) = (Instant::now() + here.timings.repair_every, here.repairs.asked());
        drop(here);
        let pause = async {
            // What changed since the round began is looked at again.
            let _ = tokio::time::timeout(rest, changed.changed()).await;
            tokio::time::sleep_until(next).await;
        };
        tokio::select! {
            () = pause => {}
            () = asked.notified() => {}
        }
    }
}

/// Does all that is due now.
pub(in crate::coordinator) async fn repair_due(core: &Core) -> Result<()> {
    let mut known = Known::default();
    while look_after(core, &mut known).await?.is_none() {}
    Ok(())
}

/// One round; gives how long to rest if nothing happens, or nothing where more may be due.
async fn look_after(core: &Core, known: &mut Known) -> Result<Option<Duration>> {
    core.fleet.probed(core.timings.probe_timeout).await;
    note_servers(core, known).await?;
    if core.catalog.note_deficits().await? {
        core.planted.reach(FailPoint::DeficitsNoted);
    }
    if core.repairs.settings().paused {
        return Ok(Some(Duration::from_millis(LOOK_EVERY_MS)));
    }
    let looked = look(core).await?;
    core.catalog.settle_ledger(looked.whole, Vec::new()).await?;
    let urgent: Vec<Urgent> = looked.urgent.into_sorted().collect();
    if !urgent.is_empty() {
        repair_all(core, urgent).await?;
        return Ok(None);
    }
    sweep(core).await?;
    if trim_some(core).await? {
        return Ok(None);
    }
    if core.repairs.settings().may_move() && rebalance(core, &mut known.balance).await? {
        return Ok(None);
    }
    trim_some(core).await?;
    let now_ms = core.catalog.clock.now_ms();
    let due_ms = core.catalog.next_repair_ms(now_ms).await?.unwrap_or(u64::MAX).min(looked.due_ms);
    let rest = Duration::from_millis(due_ms.saturating_sub(now_ms).min(LOOK_EVERY_MS));
    Ok(Some(rest))
}

/// Takes the stripes of servers that went away into the ledger, and lets those be tried again
/// that a server which came could help.
pub(super) async fn note_servers(core: &Core, known: &mut Known) -> Result<()> {
    let members = core.fleet.members();
    for member in &members {
        let (server, is_lost) = (member.row.server, member.health.state == Health::Lost);
        if is_lost != member.row.lost && (is_lost || member.health.state == Health::Up) {
            core.catalog.note_lost(server, is_lost).await?;
            core.planted.reach(FailPoint::LossNoted);
            core.fleet.has_lost(server, is_lost);
        }
    }
    let in_state = |states: &[Health]| -> BTreeSet<ServerId> {
        let those = members.iter().filter(|m| states.contains(&m.health.state));
        those.map(|m| m.row.server).collect()
    };
    let gone = |m: &&Member| matches!(m.health.state, Health::Down | Health::Lost);
    let now = Known {
        up: in_state(&[Health::Up]),
        away: members
            .iter()
            .filter(gone)
            .map(|m| (m.row.server, m.health.left_ms, m.health.state == Health::Lost))
            .collect(),
        lost: in_state(&[Health::Lost]),
        balance: std::mem::take(&mut known.balance),
        draining: members
            .iter()
            .filter(|m| m.mode == Mode::Draining)
            .map(|m| m.row.server)
            .collect(),
    };
    // Every absence anew, and again when it is given up: pushes may have committed meanwhile.
    let newly: BTreeSet<ServerId> = now
        .away
        .difference(&known.away)
        .map(|(server, ..)| *server)
        .chain(now.draining.difference(&known.draining).copied())
        .collect();
    for server in newly {
        let mut after = 0;
        while let Some(last) = core.catalog.note_stripes_of(server, after, PAGE_ENTRIES).await? {
            after = last;
        }
        core.planted.reach(FailPoint::AbsenceNoted);
    }
    // One that came may give what was lacking, of one that is lost it is known that it will not.
    if !now.up.is_subset(&known.up) || !now.lost.is_subset(&known.lost) {
        core.catalog.retry_repairs().await?;
    }
    *known = now;
    Ok(())
}

/// Looks at all entries that may be tried now.
async fn look(core: &Core) -> Result<Looked> {
    let now_ms = core.catalog.clock.now_ms();
    let mut looked = Looked { urgent: Worst::new(BATCH), due_ms: u64::MAX, whole: Vec::new() };
    let mut after = 0;
    loop {
        let page = core.catalog.ledgered(Which::Open, after, PAGE_ENTRIES).await?;
        let Some(last) = page.last() else { return Ok(looked) };
        after = last.key;
        for entry in page {
            let look = look_at(core, &entry);
            if look.is_whole() {
                looked.whole.push(entry.key);
                continue;
            }
            if entry.due_ms > now_ms {
                continue;
            }
            let wait = core.fleet.waits(look.deficit(), now_ms);
            match wait {
                Wait::Until(ms) | Wait::Braked(ms) if look.leaving == 0 => {
                    looked.due_ms = looked.due_ms.min(ms);
                }
                // The next probe says that its server is lost.
                _ if !look.has_work() => looked.due_ms = looked.due_ms.min(now_ms),
                _ => {
                    let Ledgered { key, stripe, attempts, found_ms, tried_ms, .. } = entry;
                    let thin = wait == Wait::Urgent && look.is_thin();
                    let risk = Risk::new(&look, found_ms, tried_ms);
                    let urgent = look.is_thin();
                    looked.urgent.add(risk, key, Urgent { key, stripe, attempts, thin, urgent });
                }
            }
        }
    }
}

pub(super) fn look_at(core: &Core, entry: &Ledgered) -> Look {
    core.fleet.with_members(|members| {
        Look::new(entry.geometry, &entry.shards, |server| standing(members, server))
    })
}

/// How a server's shards stand.
pub(super) fn standing(
    members: &BTreeMap<ServerId, Member>,
    server: ServerId,
) -> Option<Standing<'_>> {
    let member = members.get(&server)?;
    let (state, mode, zone) = (member.health.state, member.mode, &member.row.zone);
    Some(Standing { state, mode, zone })
}

/// Repairs these, in their order, as long as no server's state changes that the order goes by.
async fn repair_all(core: &Core, urgent: Vec<Urgent>) -> Result<()> {
    let changed = core.fleet.changed();
    let mut urgent = urgent.into_iter();
    let mut running = FuturesUnordered::new();
    loop {
        let settings = core.repairs.settings();
        let goes_on = || !settings.paused && !changed.has_changed().unwrap_or(true);
        while running.len() < settings.at_once as usize && goes_on() {
            let Some(next) = urgent.next() else { break };
            running.push(try_one(core, next));
        }
        match running.next().await {
            // What cannot be noted would be tried again at once.
            Some(noted) => drop(noted?),
            None => return Ok(()),
        }
    }
}

/// Tries one, and notes in the ledger what became of it.
pub(super) async fn try_one(core: &Core, one: Urgent) -> Result<Tried> {
    let Urgent { key, stripe, attempts, thin, urgent } = one;
    let _slot = core.repairs.slot(urgent).await;
    let manner = Manner { thin, urgent, timeout: core.repairs.unwatched(urgent) };
    let origin = core.tokens[0].id;
    let note = |kind, text: &str| {
        let told = Told::of(kind, text).in_stripe(stripe);
        core.journal.note(told, core.catalog.clock.now_ms());
    };
    if thin {
        note(Kind::RepairBegun, "it has nothing to spare");
    }
    let repaired = repair_stripe(core, origin, stripe, manner).await;
    let is_inconsistent = repaired.as_ref().is_ok_and(|r| r.outcome == Some(Outcome::Inconsistent));
    let ended = ended(&repaired);
    match &ended {
        Ended::Short(why) if is_inconsistent => note(Kind::Inconsistent, why),
        Ended::Short(why) | Ended::Unknown(why) | Ended::TargetFailed(why) => {
            note(Kind::RepairFailed, why);
        }
        Ended::Whole if thin => note(Kind::Repaired, "whole again"),
        Ended::Whole | Ended::Changed | Ended::Busy(_) => {}
    }
    match &ended {
        Ended::Whole => tracing::debug!(%stripe, "repaired"),
        Ended::Changed => tracing::debug!(%stripe, "changed while it was repaired"),
        Ended::Busy(why) => tracing::debug!(%stripe, why, "not repaired yet"),
        Ended::Short(why) | Ended::Unknown(why) | Ended::TargetFailed(why) => {
            tracing::warn!(%stripe, why, attempts, "not repaired");
        }
    }
    let entry = Entry::tried(attempts, ended, core.catalog.clock.now_ms());
    core.catalog.note_tried(key, entry.clone()).await?;
    core.planted.reach(FailPoint::TryNoted);
    Ok(Tried { entry, repaired })
}

/// What the end of a repair says to the ledger.
fn ended(repaired: &Result<Repaired>) -> Ended {
    let Repaired { outcome, lacking, unreachable, .. } = match repaired {
        Ok(repaired) => repaired,
        Err(Error::Refuse(refusal)) if refusal.code == Code::Conflict => return Ended::Changed,
        Err(Error::Refuse(refusal)) if refusal.code == Code::TooFewServers => {
            return Ended::TargetFailed(refusal.message.clone());
        }
        Err(Error::Refuse(refusal)) if refusal.code == Code::Busy => {
            return Ended::Busy(refusal.message.clone());
        }
        Err(error) => return Ended::Unknown(error.to_string()),
    };
    let Some((index, why)) = lacking.first() else { return Ended::Whole };
    let why = format!("{} of its shards, such as {index}: {why}", lacking.len());
    match outcome {
        Some(Outcome::TooFewSources) if !unreachable.is_empty() => {
            Ended::Unknown(format!("{} did not answer", unreachable.join(", ")))
        }
        _ => Ended::Short(why),
    }
}

/// Looks again at what was repaired: what is whole is struck out, the rest waits again.
pub(super) async fn sweep(core: &Core) -> Result<()> {
    let mut after = 0;
    loop {
        let page = core.catalog.ledgered(Which::Repaired, after, PAGE_ENTRIES).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.key;
        let (whole, lacking): (Vec<_>, Vec<_>) =
            page.iter().partition(|entry| look_at(core, entry).is_whole());
        let keys = |entries: Vec<&Ledgered>| entries.into_iter().map(|e| e.key).collect();
        core.catalog.settle_ledger(keys(whole), keys(lacking)).await?;
        core.planted.reach(FailPoint::LedgerSettled);
    }
}
