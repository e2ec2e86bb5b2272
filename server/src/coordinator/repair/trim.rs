//! Has shards trashed that could go: struck out of the catalog first, ordered away then.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;

use super::keeper::standing;
use super::surplus::{Surplus, surplus};
use crate::coordinator::Core;
use crate::coordinator::catalog::HeldStripe;
use crate::coordinator::fail_points::FailPoint;
use crate::coordinator::placement::{self, Question};
use crate::coordinator::prober::{self, CONTROL_TICKET_MS};
use crate::coordinator::push::candidates;
use crate::wire::{Code, Found, Report, ServerId, State as Health, TrashRequest};
use crate::{Error, Result};

/// Stripes looked at together, and shards named in one order.
const PAGE_ROWS: usize = 500;
/// How long a server may take to read a shard or to trash a page of them.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Trims stripes that have more shards than they need, until something happens that repair goes
/// by, and orders what was struck out away; gives whether it struck out any.
pub(super) async fn trim_some(core: &Core) -> Result<bool> {
    let changed = core.fleet.changed();
    let (mut after, mut any) = (0, false);
    // One that does not look at its shards now is not asked for each of them.
    let mut silent = BTreeSet::new();
    'pages: loop {
        let page = core.catalog.surfeits(after, PAGE_ROWS).await?;
        let Some(last) = page.last() else { break };
        after = last.key;
        for surfeit in page {
            if changed.has_changed().unwrap_or(true) || core.repairs.settings().paused {
                break 'pages;
            }
            any |= trim(core, surfeit, &mut silent).await?;
        }
    }
    for member in core.fleet.members() {
        if member.health.state == Health::Up
            && let Err(error) = trash(core, member.row.server).await
        {
            tracing::warn!(name = member.row.name, %error, "nothing was trashed");
        }
    }
    Ok(any)
}

async fn trim(core: &Core, surfeit: HeldStripe, silent: &mut BTreeSet<ServerId>) -> Result<bool> {
    let _claim = core.repairs.claim(surfeit.stripe).await;
    let wanted = wanted(core, &surfeit).await;
    let HeldStripe { key, stripe, geometry, version, shards, .. } = surfeit;
    let goes = core.fleet.with_members(|members| {
        surplus(geometry, &shards, &wanted, |server| standing(members, server))
    });
    let mut sure = Vec::with_capacity(goes.len());
    for one in goes {
        // What stays has to be whole this moment, to its last byte.
        let Surplus { index, kept, .. } = one;
        let Some(member) = core.fleet.get(kept).filter(|_| !silent.contains(&kept)) else {
            return Ok(false);
        };
        match prober::check(core, &member, vec![(stripe, index)], TIMEOUT).await {
            Ok(found) => match found.into_iter().next() {
                Some(Found::Good) => sure.push(one),
                Some(found) => {
                    core.catalog.report(Report { stripe, index, server: kept, found }).await?;
                    core.fleet.has_changed();
                    return Ok(false);
                }
                None => return Ok(false),
            },
            Err(missed) => {
                tracing::debug!(name = member.row.name, why = missed.why, "not checked");
                silent.insert(kept);
                return Ok(false);
            }
        }
    }
    if sure.is_empty() {
        return Ok(false);
    }
    core.planted.reach(FailPoint::KeptChecked);
    let struck = core.catalog.strike_out(key, version, sure).await?;
    core.planted.reach(FailPoint::SurplusStruckOut);
    Ok(struck)
}

/// The servers that a new stripe of this name would have, if all had room.
pub(super) async fn wanted(core: &Core, stripe: &HeldStripe) -> BTreeSet<ServerId> {
    let members = core.fleet.members();
    let candidates = candidates(core, members.iter(), stripe.geometry).await;
    let question = Question {
        stripe: stripe.stripe,
        geometry: stripe.geometry,
        file_bytes: 0,
        candidates: &candidates,
        held: &[],
        avoid: &BTreeSet::new(),
        before: &[],
    };
    placement::place(&question).into_iter().map(|(_, server)| server).collect()
}

/// Orders what was struck out or left over on a server into its trash.
pub(in crate::coordinator) async fn trash(core: &Core, server: ServerId) -> Result<()> {
    loop {
        let now_ms = core.catalog.clock.now_ms();
        // An order whose answer was lost may be followed until its ticket has ended.
        let before_ms = now_ms.saturating_sub(2 * CONTROL_TICKET_MS);
        let shards = core.catalog.order_trash(server, before_ms, now_ms, PAGE_ROWS).await?;
        let Some(member) = core.fleet.get(server).filter(|_| !shards.is_empty()) else {
            return Ok(());
        };
        core.planted.reach(FailPoint::TrashNoted);
        let order = TrashRequest { shards: shards.clone() };
        let (post, epoch) = (Method::POST, core.catalog.epoch());
        match prober::control(core, &member, epoch, post, "trash", &order, TIMEOUT).await {
            Ok(_) => {
                core.planted.reach(FailPoint::TrashAnswered);
                core.catalog.buried(server, shards).await?;
                core.planted.reach(FailPoint::TrashBooked);
                // A server takes no other shard of a stripe before: some may have waited for it.
                if core.catalog.retry_repairs().await? {
                    core.fleet.has_changed();
                }
            }
            Err(missed) => return Err(Error::refuse(Code::Busy, missed.why)),
        }
    }
}
