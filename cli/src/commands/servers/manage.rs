//! What people want of a server: its plan first, then the doing.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use codec::Geometry;
use codec::keys::VaultRecord;
use serde_json::json;
use server::client::CoordinatorClient;
use server::wire::{Mode, RepairStatus, ServerInfo, State};

use super::{Action, Manage};
use crate::exit::{Exit, Failure};
use crate::ui::{Counters, Ui, View, bytes_text, duration_text, escaped, plural};
use crate::vault;

/// From one look at a drain to the next.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Says what `action` would do to the server, and does it.
pub(super) async fn run(
    action: Action,
    args: Manage,
    coordinator: &CoordinatorClient,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let servers = vault::all_servers(coordinator).await?;
    let Some(server) = servers.iter().find(|server| server.name == args.name) else {
        let names: Vec<String> = servers.iter().map(|s| escaped(s.name.as_bytes())).collect();
        let name = escaped(args.name.as_bytes());
        return Err(Failure::new(Exit::Usage, format!("no server is called {name}"))
            .state(format!("the vault's servers: {}", names.join(", "))));
    };
    let record = coordinator.vault().await?.record;
    let record = record.map(|record| VaultRecord::decode(&record.0)).transpose()?;
    let geometry = record.map(|record| record.geometry);
    let repair = coordinator.repair_status().await?;
    let plan = plan(action, server, &servers, geometry, &repair);
    plan.iter().for_each(|line| ui.say(line));
    if args.dry_run {
        ui.summary(&["nothing was changed".to_owned()], json!({ "plan": plan, "done": false }));
        return Ok(Exit::Done);
    }
    let name = escaped(server.name.as_bytes());
    let done = match action {
        Action::Drain => {
            coordinator.set_mode(server.server, Mode::Draining).await?;
            if args.wait {
                follow(coordinator, server, ui).await?;
                vec![
                    format!("{name} holds nothing any more"),
                    format!("next: arc servers remove {name}"),
                ]
            } else {
                vec![format!(
                    "{name} is being drained; arc servers shows what is left, arc servers undrain {name} ends it"
                )]
            }
        }
        Action::Undrain => {
            coordinator.set_mode(server.server, Mode::Normal).await?;
            vec![format!("{name} keeps what it has, and takes more")]
        }
        Action::ReadOnly => {
            coordinator.set_mode(server.server, Mode::ReadOnly).await?;
            vec![format!("{name} takes nothing more; arc servers undrain {name} ends that")]
        }
        Action::Remove => {
            coordinator.remove_server(server.server).await?;
            vec![format!("{name} is of this vault no more: its folder can be deleted")]
        }
        Action::Replace => {
            let former =
                escaped(coordinator.replace_server(server.server).await?.former.as_bytes());
            vec![
                format!("the former {name} is called {former} now, and what it held is made again"),
                format!("next: arc serve storage --name {name} … on the new disk"),
                format!(
                    "then, once arc repair says that nothing is to be done: arc servers remove {former}"
                ),
            ]
        }
    };
    ui.summary(&done, json!({ "plan": plan, "done": true }));
    Ok(Exit::Done)
}

/// What would happen: bytes, time, and what may be lost before and after.
fn plan(
    action: Action,
    server: &ServerInfo,
    servers: &[ServerInfo],
    geometry: Option<Geometry>,
    repair: &RepairStatus,
) -> Vec<String> {
    let name = escaped(server.name.as_bytes());
    let takes = |s: &&ServerInfo| s.server != server.server && s.mode == Mode::Normal;
    let others: Vec<&ServerInfo> =
        servers.iter().filter(takes).filter(|s| s.state != State::Lost).collect();
    let held = format!("{}, {}", plural(server.shards, "shard"), bytes_text(server.shard_bytes));
    let moves = match action {
        Action::Drain => format!("{name} holds {held}: all of it moves to other servers"),
        Action::Replace => {
            format!("{name} held {held}: all of it is made again from the other servers")
        }
        Action::Remove => format!("{name} holds {held}: it must have nothing that no other has"),
        Action::Undrain | Action::ReadOnly => format!("{name} holds {held}: nothing moves"),
    };
    let mut lines = vec![moves];
    if matches!(action, Action::Drain | Action::Replace) && server.shard_bytes > 0 {
        let free: u64 = others.iter().map(|s| s.free_bytes).sum();
        lines.push(format!(
            "{} take it, with {} free",
            plural(others.len() as u64, "other server"),
            bytes_text(free)
        ));
        lines.push(match repair.settings.bytes_per_second {
            Some(pace) => {
                let time = Duration::from_secs(2 * server.shard_bytes / pace.max(1));
                format!("at {} a second that takes {}", bytes_text(pace), duration_text(time))
            }
            None => "as fast as disks and network are: arc throttle slows it down".to_owned(),
        });
    }
    let Some(geometry) = geometry else { return lines };
    let survives = |servers: &[&ServerInfo]| {
        vault::survival_words(geometry, &vault::zone_sizes(servers.iter().map(|s| s.zone.as_str())))
    };
    let mut before: Vec<&ServerInfo> = others.clone();
    if server.state != State::Lost {
        before.push(server);
    }
    lines.push(format!("before: {}", survives(&before).0));
    if matches!(action, Action::Drain | Action::Remove) {
        let (after, warnings) = survives(&others);
        lines.push(format!("after:  {after}"));
        lines.extend(warnings);
    }
    lines
}

/// Shows a drain until nothing is left.
async fn follow(
    coordinator: &CoordinatorClient,
    server: &ServerInfo,
    ui: &Ui,
) -> Result<(), Failure> {
    let counters = Arc::new(Counters::default());
    counters.total_files.store(server.shards, Relaxed);
    let watch = ui.watch(Arc::clone(&counters), View::Repair);
    loop {
        let servers = vault::all_servers(coordinator).await?;
        let left = servers.iter().find(|s| s.server == server.server);
        let (shards, bytes) = left.map_or((0, 0), |s| (s.shards, s.shard_bytes));
        counters.done_files.store(server.shards.saturating_sub(shards), Relaxed);
        counters.done_bytes.store(server.shard_bytes.saturating_sub(bytes), Relaxed);
        if left.is_none_or(|s| s.shards == 0 || s.mode != Mode::Draining) {
            watch.finish();
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
