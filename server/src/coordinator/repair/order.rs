//! Why a stripe is repaired when it is.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use codec::StripeId;

use super::keeper::standing;
use super::risk::{Look, Risk};
use crate::Result;
use crate::coordinator::Core;
use crate::coordinator::catalog::Which;
use crate::coordinator::health::wait::Wait;
use crate::coordinator::router::bad_request;
use crate::wire::{RepairOrder, StandingShard, State as Health};

/// Entries read at a time.
const PAGE_ENTRIES: usize = 1000;

/// `GET /v1/stripes/{digits}/repair`: of the one stripe whose id begins so.
pub(in crate::coordinator) async fn order(
    State(core): State<Arc<Core>>,
    Path(digits): Path<String>,
) -> Result<Json<RepairOrder>> {
    let (from, to) = range(&digits)
        .ok_or_else(|| bad_request(format!("{digits:?} are not the first digits of a stripe")))?;
    let (held, entry) = core.catalog.stripe_in_ledger(from, to).await?;
    core.fleet.probed(core.timings.probe_timeout).await;
    let now_ms = core.catalog.clock.now_ms();
    let look = core.fleet.with_members(|members| {
        Look::new(held.geometry, &held.shards, |server| standing(members, server))
    });
    let shards = core.fleet.with_members(|members| {
        let shard = |holder: &crate::wire::Holder| {
            let member = members.get(&holder.server);
            StandingShard {
                index: holder.index,
                server: member
                    .map_or(format!("server {}", holder.server.0), |m| m.row.name.clone()),
                zone: member.map(|m| m.row.zone.clone()).unwrap_or_default(),
                state: member.map_or(Health::Lost, |m| m.health.state),
                mode: member.map(|m| m.mode).unwrap_or_default(),
                bad: holder.bad,
            }
        };
        held.shards.iter().map(shard).collect()
    });
    let wait = core.fleet.waits(look.deficit(), now_ms);
    let (mut before, mut of) = (0, 0);
    if let Some(entry) = &entry {
        let own = (Risk::new(&look, entry.found_ms, entry.tried_ms), held.key);
        (before, of) = count(&core, own).await?;
    }
    Ok(Json(RepairOrder {
        stripe: held.stripe,
        geometry: held.geometry,
        shards,
        margin: look.margin,
        worst_zone_margin: look.worst_zone_margin,
        suspects: look.suspects,
        entry,
        before,
        of,
        running: core.repairs.is_claimed(held.stripe),
        waits_until_ms: match wait {
            Wait::Until(u64::MAX) | Wait::Urgent => None,
            Wait::Until(ms) | Wait::Braked(ms) => Some(ms),
        },
        braked: matches!(wait, Wait::Braked(_)),
    }))
}

/// Of all entries that are to be repaired, how many come before `own`, and how many there are.
async fn count(core: &Core, own: (Risk, i64)) -> Result<(u64, u64)> {
    let (mut before, mut of, mut after) = (0, 0, 0);
    loop {
        let page = core.catalog.ledgered(Which::Open, after, PAGE_ENTRIES).await?;
        let Some(last) = page.last() else { return Ok((before, of)) };
        after = last.key;
        for entry in page {
            let look = super::keeper::look_at(core, &entry);
            let risk = Risk::new(&look, entry.found_ms, entry.tried_ms);
            of += 1;
            before += u64::from((risk, entry.key) < own);
        }
    }
}

/// The first and the last id that begin with these hexadecimal digits.
fn range(digits: &str) -> Option<(StripeId, StripeId)> {
    let most = 2 * StripeId::LEN;
    if digits.is_empty() || digits.len() > most || !digits.is_ascii() {
        return None;
    }
    let digits = digits.to_ascii_lowercase();
    let end = |filler: &str| format!("{digits}{}", filler.repeat(most - digits.len())).parse().ok();
    Some((end("0")?, end("f")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_digits_of_an_id_name_all_that_begin_so() {
        let (from, to) = range("aB3").unwrap();
        assert_eq!(
            (from.0[..3].to_vec(), to.0[..3].to_vec()),
            (vec![0xab, 0x30, 0], vec![0xab, 0x3f, 0xff])
        );
        let all = "c".repeat(64);
        assert!(range(&all).is_some_and(|(from, to)| from == to));
        for wrong in ["", "xy", "é", &"c".repeat(65)] {
            assert_eq!(range(wrong), None, "{wrong}");
        }
    }
}
