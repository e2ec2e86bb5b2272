//! Why one stripe is repaired when it is.

use serde_json::json;
use server::client::CoordinatorClient;
use server::wire::{LedgerState, Mode, RepairOrder, StandingShard};

use crate::commands::servers::state_text;
use crate::exit::{Exit, Failure};
use crate::ui::{Ui, count_text, escaped, plural, time_text};

/// The first digits of a stripe's id.
pub(super) fn parse_digits(text: &str) -> Result<String, String> {
    let is = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    if is { Ok(text.to_owned()) } else { Err("1 to 64 hexadecimal digits are a stripe's".into()) }
}

/// Says it.
pub(super) async fn tell(
    coordinator: &CoordinatorClient,
    digits: &str,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let order = coordinator.repair_order(digits).await.map_err(|error| match error.code() {
        Some(server::wire::Code::NotFound) => {
            Failure::new(Exit::NoSnapshot, format!("no stripe's id begins with {digits}"))
                .next("arc repair-scan    # names those that lack shards")
        }
        Some(server::wire::Code::BadRequest) => {
            Failure::new(Exit::Usage, format!("the ids of several stripes begin with {digits}"))
                .next("give more digits")
        }
        _ => error.into(),
    })?;
    order.shards.iter().for_each(|shard| {
        if !ui.is_json() {
            ui.data(shard_line(shard));
        }
    });
    ui.summary(&lines(&order), json!(order));
    Ok(Exit::Done)
}

fn shard_line(shard: &StandingShard) -> String {
    let StandingShard { index, server, zone, state, mode, bad } = shard;
    let [server, zone] = [server, zone].map(|name| escaped(name.as_bytes()));
    let shard = if *bad { "missing or damaged" } else { "good" };
    let mode = match mode {
        Mode::Normal => "",
        Mode::Draining => ", being drained",
        Mode::ReadOnly => ", read-only",
    };
    format!("shard {index}: {shard}, on {server} in zone {zone} ({}{mode})", state_text(*state))
}

fn lines(order: &RepairOrder) -> Vec<String> {
    let RepairOrder { stripe, geometry, margin, worst_zone_margin, .. } = order;
    let mut lines = vec![format!(
        "stripe {stripe} ({}+{}): margin {margin}, {worst_zone_margin} without its worst zone",
        geometry.data(),
        geometry.parity()
    )];
    if order.suspects > 0 {
        let suspects = plural(order.suspects.into(), "shard");
        lines.push(format!("{suspects} only on servers that are suspect"));
    }
    let Some(entry) = &order.entry else {
        lines.push("it is not in the ledger: nothing is to be repaired".to_owned());
        return lines;
    };
    let state = match entry.state {
        LedgerState::Waiting => "waits",
        LedgerState::Failed => "could not be repaired",
        LedgerState::Unknown => "could not be repaired: servers did not answer",
        LedgerState::Repaired => "was repaired, and is looked at once more",
    };
    let found = format!("in the ledger since {}", time(entry.found_ms));
    let tried = match entry.tried_ms {
        None => "not tried yet".to_owned(),
        Some(ms) => format!("last tried at {}", time(ms)),
    };
    lines.push(format!("{found}: it {state}; {tried}"));
    if let Some(why) = &entry.why {
        lines.push(format!("why: {}", escaped(why.as_bytes())));
    }
    if order.running {
        lines.push("it is being repaired now".to_owned());
        return lines;
    }
    if entry.state != LedgerState::Repaired {
        lines.push(format!(
            "{} of {} come before it: worst-zone margin first, then margin, suspects, the last try",
            count_text(order.before),
            plural(order.of, "stripe")
        ));
    }
    lines.extend(match (order.waits_until_ms, entry.due_ms) {
        (Some(ms), _) if order.braked => {
            Some(format!("servers went together: it waits until {} at most", time(ms)))
        }
        (Some(ms), _) => Some(format!("servers that are away are waited for until {}", time(ms))),
        (None, 0) => None,
        (None, due_ms) if i64::try_from(due_ms).is_ok_and(|ms| ms < i64::MAX) => {
            Some(format!("it is not tried again before {}", time(due_ms)))
        }
        (None, _) => Some("it is not tried again".to_owned()),
    });
    lines
}

fn time(ms: u64) -> String {
    time_text(i64::try_from(ms).unwrap_or(i64::MAX))
}
