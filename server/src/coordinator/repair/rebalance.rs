//! Moves shards to where a new stripe would have them, so that a server that joined fills by
//! itself: only what is whole moves, and only while all servers are well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use codec::Geometry;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::keeper::standing;
use super::risk::{Look, Standing};
use super::stripe::{Manner, move_shards};
use super::trim::wanted;
use crate::Result;
use crate::coordinator::Core;
use crate::coordinator::catalog::HeldStripe;
use crate::wire::{Holder, Mode, ServerId, State};

/// Stripes looked at before the ledger is looked at again.
const PAGE_STRIPES: usize = 500;
/// Servers whose disks grew by less count as they were: some file systems' sizes change all day.
const CAPACITY_STEP: f64 = 1.05;

/// How far the stripes are where new ones would be.
#[derive(Debug, Default)]
pub(super) struct Balance {
    /// The servers that the last pass, begun or ended, went by: each with its size in steps.
    servers: BTreeMap<ServerId, i64>,
    /// The key of the last stripe that was looked at; none after the pass.
    after: Option<i64>,
}

/// A part of the way; gives whether there is more of it.
pub(super) async fn rebalance(core: &Core, balance: &mut Balance) -> Result<bool> {
    let Some(servers) = settled(core) else { return Ok(false) };
    let anew = core.repairs.rebalances_anew.swap(false, Ordering::Relaxed);
    if anew || servers != balance.servers {
        *balance = Balance { servers, after: Some(0) };
    }
    let Some(after) = balance.after else { return Ok(false) };
    let page = core.catalog.all_held(after, PAGE_STRIPES).await?;
    balance.after = page.last().map(|last| last.key);
    let changed = core.fleet.changed();
    let mut running = FuturesUnordered::new();
    let mut page = page.into_iter();
    loop {
        let settings = core.repairs.settings();
        let goes_on = || settings.may_move() && !changed.has_changed().unwrap_or(true);
        while running.len() < settings.at_once as usize && goes_on() {
            let Some(held) = page.next() else { break };
            running.push(settle(core, held));
        }
        if running.next().await.is_none() {
            break;
        }
    }
    if let Some(left) = page.next() {
        // Something came between: it goes on here.
        balance.after = Some(left.key - 1);
    }
    Ok(balance.after.is_some())
}

/// The servers that shards may be moved among, if all are well; sizes in steps.
pub(super) fn settled(core: &Core) -> Option<BTreeMap<ServerId, i64>> {
    core.fleet.with_members(|members| {
        let mut servers = BTreeMap::new();
        for member in members.values().filter(|m| m.health.state != State::Lost) {
            if member.mode != Mode::Normal {
                continue;
            }
            if !member.takes_writes() {
                return None;
            }
            let steps = member.heft().log(CAPACITY_STEP).round();
            servers.insert(member.row.server, steps as i64);
        }
        Some(servers)
    })
}

/// Moves what of one stripe lies elsewhere than a new one would.
async fn settle(core: &Core, held: HeldStripe) {
    let wanted = wanted(core, &held).await;
    let moves = core.fleet.with_members(|members| {
        moves(held.geometry, &held.shards, &wanted, |server| standing(members, server))
    });
    if moves.is_empty() {
        return;
    }
    let (thin, urgent) = (false, false);
    let _slot = core.repairs.slot(urgent).await;
    let manner = Manner { thin, urgent, timeout: core.repairs.unwatched(urgent) };
    let stripe = held.stripe;
    match move_shards(core, core.tokens[0].id, stripe, moves, manner).await {
        Ok(moved) => {
            core.repairs.moved_shards.fetch_add(moved, Ordering::Relaxed);
        }
        Err(error) => tracing::debug!(%stripe, %error, "nothing was moved"),
    }
}

/// Which indexes of a stripe go to which servers, so that it lies on those `wanted`: none, unless
/// it is whole, has each shard once, and lies there after.
pub(super) fn moves<'a>(
    geometry: Geometry,
    shards: &[Holder],
    wanted: &BTreeSet<ServerId>,
    standing: impl Fn(ServerId) -> Option<Standing<'a>>,
) -> Vec<(u8, ServerId)> {
    let held: BTreeSet<ServerId> = shards.iter().map(|holder| holder.server).collect();
    if shards.len() != geometry.shards() || !Look::new(geometry, shards, &standing).is_whole() {
        return Vec::new();
    }
    let moves = |server| standing(server).is_some_and(|at| at.mode == Mode::Normal);
    let leaving = shards.iter().filter(|h| !wanted.contains(&h.server) && moves(h.server));
    let places: Vec<(u8, ServerId)> =
        leaving.map(|h| h.index).zip(wanted.difference(&held).copied()).collect();
    let missing = wanted.difference(&held).count();
    if places.len() == missing { places } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(holders: [u32; 3], wanted: &[u32], states: &[(State, Mode)]) -> Vec<(u8, ServerId)> {
        let holder = |(index, server)| Holder { index, server: ServerId(server), bad: false };
        let shards: Vec<Holder> = (0u8..).zip(holders).map(holder).collect();
        let wanted = wanted.iter().map(|&n| ServerId(n)).collect();
        moves(Geometry::new(2, 1).unwrap(), &shards, &wanted, |server| {
            let &(state, mode) = states.get(server.0 as usize)?;
            Some(Standing { state, mode, zone: "z" })
        })
    }

    #[test]
    fn what_lies_elsewhere_than_a_new_stripe_moves_and_nothing_else() {
        let up = [(State::Up, Mode::Normal); 5];
        assert_eq!(of([0, 1, 2], &[2, 1, 0], &up), []);
        assert_eq!(of([0, 1, 2], &[0, 2, 4], &up), [(1, ServerId(4))]);
        assert_eq!(of([0, 1, 2], &[3, 4, 1], &up), [(0, ServerId(3)), (2, ServerId(4))]);
    }

    #[test]
    fn nothing_moves_of_a_stripe_that_is_not_whole_or_off_a_server_that_keeps_what_it_has() {
        let mut states = [(State::Up, Mode::Normal); 5];
        states[1].1 = Mode::ReadOnly;
        assert_eq!(of([0, 1, 2], &[0, 2, 4], &states), []);
        states[1] = (State::Down, Mode::Normal);
        assert_eq!(of([0, 1, 2], &[0, 2, 4], &states), []);
    }
}
