//! What a rebalance would move, page by page.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use super::keeper::standing;
use super::rebalance::{moves, settled};
use super::risk::Look;
use super::trim::wanted;
use crate::Result;
use crate::coordinator::Core;
use crate::coordinator::fleet::Member;
use crate::coordinator::router::List;
use crate::wire::{Holder, Mode, RebalancePage, ServerId, State as Health};

/// Stripes of a page: each is placed anew.
const PAGE_STRIPES: usize = 500;

/// `GET /v1/rebalance`
pub(in crate::coordinator) async fn plan(
    State(core): State<Arc<Core>>,
    list: List,
) -> Result<Json<RebalancePage>> {
    core.fleet.probed(core.timings.probe_timeout).await;
    let limit = list.limit.min(PAGE_STRIPES);
    let rows = core.catalog.all_held(list.after()?.unwrap_or(0), limit).await?;
    let mut page = RebalancePage {
        next: rows.last().filter(|_| rows.len() == limit).map(|last| last.key.to_string()),
        ..RebalancePage::default()
    };
    if settled(&core).is_none() {
        page.unwell = core.fleet.with_members(|members| {
            members.values().filter(|m| is_unwell(m)).map(|m| m.row.name.clone()).collect()
        });
    }
    for held in rows {
        page.stripes += 1;
        let wanted = wanted(&core, &held).await;
        core.fleet.with_members(|members| {
            let standing = |server| standing(members, server);
            let moves = moves(held.geometry, &held.shards, &wanted, standing);
            if moves.is_empty() {
                return;
            }
            let after = moved(&held.shards, &moves);
            page.moving += 1;
            page.shards += moves.len() as u64;
            page.bytes += moves.len() as u64 * held.file_bytes;
            for (_, server) in &moves {
                let name = members.get(server).map(|m| m.row.name.clone()).unwrap_or_default();
                *page.into.entry(name).or_default() += held.file_bytes;
            }
            let margin = |shards: &[Holder], least: Option<i32>| {
                let margin = Look::new(held.geometry, shards, standing).worst_zone_margin;
                Some(least.map_or(margin, |least| least.min(margin)))
            };
            page.margin_before = margin(&held.shards, page.margin_before);
            page.margin_after = margin(&after, page.margin_after);
        });
    }
    Ok(Json(page))
}

/// Whether nothing moves while this server is so.
fn is_unwell(member: &Member) -> bool {
    member.health.state != Health::Lost && member.mode == Mode::Normal && !member.takes_writes()
}

/// Where the shards are once they have moved.
fn moved(shards: &[Holder], moves: &[(u8, ServerId)]) -> Vec<Holder> {
    let to: BTreeMap<u8, ServerId> = moves.iter().copied().collect();
    let gone: BTreeSet<u8> = to.keys().copied().collect();
    let stays = shards.iter().copied().filter(|holder| !gone.contains(&holder.index));
    let new = to.into_iter().map(|(index, server)| Holder { index, server, bad: false });
    stays.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_is_where_it_goes_and_the_rest_where_it_was() {
        let holder = |index, server| Holder { index, server: ServerId(server), bad: false };
        let after = moved(&[holder(0, 1), holder(1, 2), holder(2, 3)], &[(1, ServerId(9))]);
        assert_eq!(after, [holder(0, 1), holder(2, 3), holder(1, 9)]);
    }
}
