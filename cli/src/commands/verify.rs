//! `arc verify`: the command line of checking.

use std::sync::Arc;
use std::time::Instant;

use codec::Geometry;
use serde_json::json;
use server::wire::Found;

use super::Global;
use crate::exit::{Exit, Failure};
use crate::ui::{Counters, Ui, View, bytes_text, count_text, duration_text, plural};
use crate::vault::{self, Vault, survives_any};
use crate::verify::{self, BadShard, Level, Outcome, Subset};
use crate::{snapshots, tree};

/// Check that everything stored is there and whole.
///
/// Names what is damaged or missing, and says whether it can be repaired (exit 4), is out of reach
/// just now (7), or is lost (5).
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc verify
  arc verify latest --level data
  arc verify --level data --subset oldest    every night: all of it within a month")]
pub struct Args {
    /// Only what this snapshot needs: an id, its first digits, or latest
    #[arg(value_name = "SNAPSHOT")]
    pub snapshot: Option<String>,
    /// How thorough to be [default: shards]
    #[arg(long, value_name = "LEVEL")]
    pub level: Option<Level>,
    /// Only so many of its bytes at random, as in 5%; or oldest, the thirtieth that was looked at
    /// longest ago (oldest:5% for another share)
    #[arg(long, value_name = "SHARE|oldest")]
    pub subset: Option<Subset>,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let vault = vault::open(global).await?;
    let verified = verify_in(&vault, args, &global.ui).await;
    vault.close().await;
    verified
}

async fn verify_in(vault: &Vault, args: Args, ui: &Ui) -> Result<Exit, Failure> {
    let snapshot = match &args.snapshot {
        Some(name) => Some(snapshots::find(&vault.coordinator, name).await?),
        None => None,
    };
    let began = Instant::now();
    let counters = Arc::new(Counters::default());
    let watch = ui.watch(Arc::clone(&counters), View::Verify);
    let level = args.level.unwrap_or(Level::Shards);
    let outcome = verify::verify(vault, snapshot, level, args.subset, &counters).await;
    watch.finish();
    Ok(tell(&outcome?, vault.geometry(), began.elapsed(), ui))
}

fn tell(outcome: &Outcome, geometry: Geometry, took: std::time::Duration, ui: &Ui) -> Exit {
    for bad in &outcome.bad {
        let what = match &bad.found {
            Found::Damaged(why) => format!("damaged: {why}"),
            _ => "missing".to_owned(),
        };
        let BadShard { stripe, index, server, .. } = bad;
        if ui.is_json() {
            ui.json(
                "damage",
                json!({ "stripe": stripe, "index": index, "server": server, "what": what }),
            );
        } else {
            ui.data(format!("stripe {stripe:.8} shard {index} on {server} is {what}"));
        }
    }
    for (stripe, why) in &outcome.lost {
        ui.warn(&format!("stripe {stripe:.8} is lost: {why}"), None);
    }
    for (snapshot, (after, why)) in &outcome.lost_manifests {
        let what = format!("the manifest of snapshot {snapshot:.8} is lost: {why}; the names");
        match &after[..] {
            [] => ui.warn(&format!("{what} of its files are not known"), None),
            after => ui.warn(
                &format!("{what} after this one are not known"),
                Some(&tree::absolute(after)),
            ),
        }
    }
    for (snapshot, path) in &outcome.lost_files {
        ui.warn(&format!("lost from snapshot {snapshot:.8}"), Some(&tree::absolute(path)));
    }
    for (snapshot, path) in &outcome.unknown_files {
        let what = format!("out of reach in snapshot {snapshot:.8}: too few servers answer");
        ui.warn(&what, Some(&tree::absolute(path)));
    }
    for (server, why) in &outcome.unreachable {
        ui.warn(&format!("server {server} was not checked: {why}"), None);
    }
    ui.summary(&lines(outcome, geometry, took), fields(outcome, took));
    let found = [
        (has_lost(outcome), Exit::Lost),
        (
            !outcome.unreachable.is_empty()
                || !outcome.unknown.is_empty()
                || !outcome.unknown_files.is_empty()
                || outcome.below_target > 0,
            Exit::BelowTarget,
        ),
        (!outcome.bad.is_empty(), Exit::Repairable),
    ];
    let exits: Vec<Exit> = found.into_iter().filter(|(is, _)| *is).map(|(_, exit)| exit).collect();
    ui.note_all(&exits);
    Exit::worst(&exits)
}

fn has_lost(outcome: &Outcome) -> bool {
    !outcome.lost.is_empty() || !outcome.lost_files.is_empty() || !outcome.lost_manifests.is_empty()
}

fn lines(outcome: &Outcome, geometry: Geometry, took: std::time::Duration) -> Vec<String> {
    let of = outcome.of_stripes.map(|all| format!(" of {}", count_text(all))).unwrap_or_default();
    let all = if outcome.of_stripes.is_some() { "all of that" } else { "everything" };
    let mut lines = vec![format!(
        "checked {}{of}, {}, {} in {}",
        plural(outcome.stripes, "stripe"),
        plural(outcome.shards, "shard"),
        bytes_text(outcome.bytes),
        duration_text(took),
    )];
    if !outcome.bad.is_empty() {
        lines.push(format!(
            "{} missing or damaged; next: arc repair-scan --fix",
            plural(outcome.bad.len() as u64, "shard")
        ));
    }
    if outcome.below_target > 0 {
        lines.push(format!(
            "{} have fewer shards than their code has",
            plural(outcome.below_target, "stripe")
        ));
    }
    if !outcome.unknown.is_empty() {
        let count = plural(outcome.unknown.len() as u64, "stripe");
        lines.push(format!("{count} cannot be read just now: too few of their servers answer"));
    }
    lines.push(match (!has_lost(outcome), outcome.margin_min) {
        (false, _) => {
            let manifests = match outcome.lost_manifests.len() as u64 {
                0 => String::new(),
                count => format!(", and all that is not named of {}", plural(count, "snapshot")),
            };
            format!(
                "{} lost, {} with them{manifests}",
                plural(outcome.lost.len() as u64, "stripe"),
                plural(outcome.lost_files.len() as u64, "file")
            )
        }
        (true, _) if !outcome.unknown.is_empty() || !outcome.unknown_files.is_empty() => {
            "nothing is known to be lost".to_owned()
        }
        (true, None) => "nothing is stored yet".to_owned(),
        (true, Some(margin)) => match usize::try_from(margin) {
            Err(_) => "nothing is known to be lost".to_owned(),
            Ok(0) => format!("{all} can be read, but one more loss is too much"),
            Ok(margin) => {
                let survives = survives_any(margin.min(geometry.parity()), "more server");
                format!("{all} can be read, and survives {survives}")
            }
        },
    });
    lines
}

fn fields(outcome: &Outcome, took: std::time::Duration) -> serde_json::Value {
    json!({
        "stripes": outcome.stripes,
        "of_stripes": outcome.of_stripes,
        "withheld_shards": outcome.withheld,
        "shards": outcome.shards,
        "bytes": outcome.bytes,
        "bad_shards": outcome.bad.len(),
        "below_target": outcome.below_target,
        "lost_stripes": outcome.lost.len(),
        "lost_files": outcome.lost_files.len(),
        "lost_manifests": outcome.lost_manifests.len(),
        "unknown_files": outcome.unknown_files.len(),
        "unknown_stripes": outcome.unknown.len(),
        "unreachable_servers": outcome.unreachable.keys().collect::<Vec<_>>(),
        "margin_min": outcome.margin_min,
        "took_ms": took.as_millis() as u64,
    })
}

#[cfg(test)]
mod tests {
    use codec::StripeId;

    use super::*;

    #[test]
    fn a_lost_manifest_is_a_loss_of_its_own_and_no_stripe() {
        let mut outcome = Outcome { margin_min: Some(2), ..Outcome::default() };
        let took = std::time::Duration::ZERO;
        let last = |outcome: &Outcome| {
            lines(outcome, Geometry::new(4, 2).unwrap(), took).pop().unwrap_or_default()
        };
        assert!(!has_lost(&outcome) && last(&outcome).contains("everything can be read"));
        let lost = (b"home/a".to_vec(), "gone".to_owned());
        outcome.lost_manifests.insert(StripeId([1; 32]), lost);
        assert!(has_lost(&outcome));
        assert!(last(&outcome).ends_with("all that is not named of 1 snapshot"));
        let fields = fields(&outcome, took);
        assert_eq!((&fields["lost_manifests"], &fields["lost_stripes"]), (&1.into(), &0.into()));
    }
}
