//! `arc rebalance`: moves shards to where new ones would go; its plan first.

use std::time::Duration;

use serde_json::json;
use server::client::CoordinatorClient;
use server::wire::{PageQuery, RebalancePage, RepairStatus, SetRepair};

use super::Global;
use crate::exit::{Exit, Failure};
use crate::ui::{bytes_text, count_text, duration_text, escaped, plural};
use crate::vault;

/// A server that takes a shard reads it, writes it, and reads it back.
const TIMES_MOVED: u64 = 3;

/// Move shards to where new ones would go, so that all servers have their share.
///
/// Says first what would move, how long that may take, and what may be lost before and after. The
/// coordinator does it by itself when a server has joined; without an option this looks at all
/// stripes once more, and goes on after --pause. A shard is copied first, and taken away where it
/// was only once the copy was read whole. Needs no passphrase.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc rebalance --dry-run
  arc rebalance
  arc rebalance --pause")]
pub struct Args {
    /// Say what would move, and change nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Move nothing more until the next `arc rebalance`, after a restart too
    #[arg(long, conflicts_with = "dry_run")]
    pub pause: bool,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let connection = vault::connect(global).await?;
    let told = tell(args, &connection.coordinator, global).await;
    connection.close().await;
    told
}

async fn tell(
    args: Args,
    coordinator: &CoordinatorClient,
    global: &Global,
) -> Result<Exit, Failure> {
    let ui = &global.ui;
    if args.pause {
        let wanted = SetRepair { rebalances: Some(false), ..SetRepair::default() };
        let status = coordinator.set_repair(&wanted).await?;
        let fields = json!({ "rebalances": status.settings.rebalances, "done": true });
        ui.summary(&["paused; next: arc rebalance".to_owned()], fields);
        return Ok(Exit::Done);
    }
    let status = coordinator.repair_status().await?;
    let plan = plan(coordinator).await?;
    for line in plan_lines(&plan, &status) {
        if !ui.is_json() {
            ui.data(line);
        }
    }
    let status = match args.dry_run {
        true => status,
        false => {
            let wanted = SetRepair { rebalances: Some(true), ..SetRepair::default() };
            coordinator.set_repair(&wanted).await?
        }
    };
    let done = match args.dry_run {
        true => "nothing was changed".to_owned(),
        false if !status.automatic => {
            "this coordinator moves nothing by itself: it runs with --repair-every=0s".to_owned()
        }
        false if status.settings.paused => {
            "it waits, since repair is paused; next: arc repair resume".to_owned()
        }
        false if plan.shards == 0 => "there is nothing to be moved".to_owned(),
        false if !plan.unwell.is_empty() => "it begins when all servers are well".to_owned(),
        false => "it goes on by itself; arc repair shows how far it is".to_owned(),
    };
    let fields = json!({
        "plan": plan,
        "seconds": seconds(&plan, &status),
        "rebalances": status.settings.rebalances,
        "done": !args.dry_run,
    });
    ui.summary(&[done], fields);
    Ok(Exit::Done)
}

/// What would move, of all stripes.
async fn plan(coordinator: &CoordinatorClient) -> Result<RebalancePage, Failure> {
    let (mut sum, mut query) = (RebalancePage::default(), PageQuery::default());
    loop {
        let page = coordinator.rebalance_plan(&query).await?;
        query.after = page.next.clone();
        add(&mut sum, page);
        if query.after.is_none() {
            return Ok(sum);
        }
    }
}

fn add(sum: &mut RebalancePage, page: RebalancePage) {
    sum.stripes += page.stripes;
    sum.moving += page.moving;
    sum.shards += page.shards;
    sum.bytes += page.bytes;
    for (name, bytes) in page.into {
        *sum.into.entry(name).or_default() += bytes;
    }
    let least = |a: Option<i32>, b: Option<i32>| a.into_iter().chain(b).min();
    sum.margin_before = least(sum.margin_before, page.margin_before);
    sum.margin_after = least(sum.margin_after, page.margin_after);
    sum.unwell = page.unwell;
}

/// How long it takes at the pace that is set: as long as the server that takes most.
fn seconds(plan: &RebalancePage, status: &RepairStatus) -> Option<u64> {
    let pace = status.paces.first()?.bytes_per_second?;
    let most = plan.into.values().max().copied().unwrap_or(0);
    Some((TIMES_MOVED * most).div_ceil(pace.max(1)))
}

fn plan_lines(plan: &RebalancePage, status: &RepairStatus) -> Vec<String> {
    let mut lines = vec![format!(
        "{} of {} lie elsewhere than new ones would: {}, {} to be moved",
        count_text(plan.moving),
        plural(plan.stripes, "stripe"),
        plural(plan.shards, "shard"),
        bytes_text(plan.bytes)
    )];
    if plan.shards > 0 {
        let into = plan.into.iter();
        let into = into
            .map(|(name, bytes)| format!("{} to {}", bytes_text(*bytes), escaped(name.as_bytes())));
        lines.push(into.collect::<Vec<_>>().join(", "));
        lines.push(match seconds(plan, status) {
            Some(seconds) => format!(
                "at the pace that is set that takes about {}",
                duration_text(Duration::from_secs(seconds))
            ),
            None => "as fast as disks and network are: arc throttle slows it down".to_owned(),
        });
    }
    if let (Some(before), Some(after)) = (plan.margin_before, plan.margin_after) {
        lines.push(format!("before: {}", risk(before)));
        lines.push(format!("after:  {}", risk(after)));
        lines.push("meanwhile no stripe has fewer good shards than before".to_owned());
    }
    if !plan.unwell.is_empty() {
        let unwell: Vec<String> = plan.unwell.iter().map(|n| escaped(n.as_bytes())).collect();
        lines.push(format!("not now: {} not well, and nothing moves then", unwell.join(", ")));
    }
    lines
}

/// What the worst of the stripes survives.
fn risk(worst_zone_margin: i32) -> String {
    match worst_zone_margin {
        ..0 => "the loss of one zone loses some of these stripes".to_owned(),
        0 => "these stripes survive the loss of any zone, and nothing more".to_owned(),
        margin => {
            let more = plural(margin as u64, "shard");
            format!("these stripes survive the loss of any zone, and of {more} more")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_added_up_and_the_worst_margin_counts() {
        let page = |into: &str, before, after| RebalancePage {
            stripes: 10,
            moving: 2,
            shards: 3,
            bytes: 30,
            into: [(into.to_owned(), 30)].into(),
            margin_before: before,
            margin_after: after,
            ..RebalancePage::default()
        };
        let mut sum = RebalancePage::default();
        for page in
            [page("a", Some(1), Some(1)), page("b", Some(-1), Some(0)), page("a", None, None)]
        {
            add(&mut sum, page);
        }
        assert_eq!((sum.stripes, sum.moving, sum.shards, sum.bytes), (30, 6, 9, 90));
        assert_eq!(sum.into, [("a".to_owned(), 60), ("b".to_owned(), 30)].into());
        assert_eq!((sum.margin_before, sum.margin_after), (Some(-1), Some(0)));
    }
}
