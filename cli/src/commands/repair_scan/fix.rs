//! Has the coordinator try all that lacks shards, and follows it to the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use server::client::CoordinatorClient;
use server::wire::{LedgerCounts, PageQuery, RepairRun, Unmended};

use super::Scan;
use crate::exit::{Exit, Failure};
use crate::ui::{Counters, Forecast, RepairNumbers, Ui, View, escaped};

/// From one look at the run to the next; shorter ones at first, since most have little to do.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_FIRST: Duration = Duration::from_millis(5);

/// What became of the deficits.
#[derive(Debug, Default)]
pub(super) struct Mended {
    pub(super) run: RepairRun,
    /// Servers that did not give what they hold of stripes that lack shards.
    pub(super) unreachable: BTreeSet<String>,
}

/// Has all of it tried once, the worst first, and names what could not be mended.
pub(super) async fn fix_all(
    coordinator: &CoordinatorClient,
    scan: &Scan,
    ui: &Ui,
) -> Result<Mended, Failure> {
    let counters = Arc::new(Counters::default());
    let watch = ui.watch(Arc::clone(&counters), View::Mend);
    let before = coordinator.repairs().await?;
    let mut run = coordinator.begin_repairs().await?;
    if before.is_some_and(|before| !before.ended && before.began_ms == run.began_ms) {
        // It began before this scan: what was found since is not in it.
        follow(coordinator, run, scan, &counters).await?;
        run = coordinator.begin_repairs().await?;
    }
    let run = follow(coordinator, run, scan, &counters).await?;
    watch.finish();
    let unreachable = name_unmended(coordinator, ui).await?;
    if let Some(why) = &run.why {
        return Err(Failure::new(Exit::Failed, "the repair ended before all was tried")
            .why(why.clone())
            .state("what was repaired stays so")
            .next("arc repair-scan --fix"));
    }
    Ok(Mended { run, unreachable })
}

/// Shows the run until it has ended.
async fn follow(
    coordinator: &CoordinatorClient,
    mut run: RepairRun,
    scan: &Scan,
    counters: &Counters,
) -> Result<RepairRun, Failure> {
    let began = Instant::now();
    let (mut forecast, mut pause) = (Forecast::default(), LOOK_FIRST);
    loop {
        let LedgerCounts { needed, repaired, failed, waiting, unknown } = run.counts;
        forecast.note(began.elapsed(), repaired + failed + unknown);
        let eta = forecast.ends_in(waiting);
        let ms = |time: Duration| time.as_millis() as u64;
        counters.done_bytes.store(run.made_bytes + run.read_bytes, Relaxed);
        counters.repair(RepairNumbers {
            stripes: scan.stripes(),
            whole: scan.whole,
            away: scan.waiting,
            needed,
            repaired,
            waiting,
            failed,
            unknown,
            eta_ms: eta.map(|(eta, _)| ms(eta)),
            eta_spread_ms: eta.map(|(_, spread)| ms(spread)),
        });
        if run.ended {
            return Ok(run);
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(LOOK_EVERY);
        run = match coordinator.repairs().await? {
            Some(now) if goes_on(&run, &now) => now,
            _ => {
                return Err(Failure::new(
                    Exit::Failed,
                    "the coordinator was started anew meanwhile",
                )
                .state("what was repaired stays so")
                .next("arc repair-scan --fix"));
            }
        };
    }
}

/// Whether the one now is the run itself, or one that began once it had ended, and tries what is
/// left. A coordinator that was started anew has none, or one that somebody began there since.
fn goes_on(run: &RepairRun, now: &RepairRun) -> bool {
    now.began_ms >= run.began_ms
}

/// Names what was tried in vain; gives the servers that did not answer.
async fn name_unmended(
    coordinator: &CoordinatorClient,
    ui: &Ui,
) -> Result<BTreeSet<String>, Failure> {
    let (mut silent, mut query) = (BTreeSet::new(), PageQuery::default());
    loop {
        let page = coordinator.unmended(&query).await?;
        for Unmended { stripe, why, lacking, unreachable, .. } in page.rows {
            for (why, indexes) in by_reason(&lacking) {
                let (indexes, why) = (indexes.join(", "), escaped(why.as_bytes()));
                ui.warn(&format!("stripe {stripe:.8} still lacks {indexes}: {why}"), None);
            }
            if lacking.is_empty() {
                let why = escaped(why.as_bytes());
                ui.warn(&format!("stripe {stripe:.8} was not mended: {why}"), None);
            }
            silent.extend(unreachable);
        }
        query.after = page.next;
        if query.after.is_none() {
            return Ok(silent);
        }
    }
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
    use super::*;

    #[test]
    fn a_run_is_followed_into_one_that_another_began_after_it() {
        let at = |began_ms| RepairRun { began_ms, ..RepairRun::default() };
        assert!(goes_on(&at(5), &at(5)) && goes_on(&at(5), &at(6)));
        assert!(!goes_on(&at(5), &at(4)));
    }
}
