//! `arc servers`: the storage servers as the coordinator sees them.

mod manage;

use serde_json::json;
use server::client::CoordinatorClient;
use server::wire::{Brake, Mode, ServerInfo, State, StatusQuery};

use super::Global;
use crate::exit::{Exit, Failure};
use crate::ui::{Ui, bytes_text, count_text, escaped, time_text};
use crate::vault;

/// List the storage servers, or say what is wanted of one.
///
/// What is wanted is said as a plan first: bytes, time, and what may be lost before and after.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc servers
  arc servers drain cellar --wait; arc servers remove cellar
  arc servers replace attic")]
pub struct Args {
    /// What to do [default: list]
    #[command(subcommand)]
    pub action: Option<Wanted>,
}

/// What is wanted of a server.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Wanted {
    /// Move what a server holds elsewhere, so that it can be taken away
    Drain(Manage),
    /// Keep what a server holds there after all, and give it more
    Undrain(Manage),
    /// Keep what a server holds there, and give it no more
    ReadOnly(Manage),
    /// Forget a server that holds nothing which no other has
    Remove(Manage),
    /// Give a server up whose disk is gone: a new one may join by its name
    Replace(Manage),
}

/// Which server, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Manage {
    /// The server's name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Stay until a drain has ended
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Drain,
    Undrain,
    ReadOnly,
    Remove,
    Replace,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let connection = vault::connect(global).await?;
    let (coordinator, ui) = (&connection.coordinator, &global.ui);
    let ended = match args.action {
        None => list(coordinator, ui).await,
        Some(wanted) => {
            let (action, args) = match wanted {
                Wanted::Drain(args) => (Action::Drain, args),
                Wanted::Undrain(args) => (Action::Undrain, args),
                Wanted::ReadOnly(args) => (Action::ReadOnly, args),
                Wanted::Remove(args) => (Action::Remove, args),
                Wanted::Replace(args) => (Action::Replace, args),
            };
            manage::run(action, args, coordinator, ui).await
        }
    };
    connection.close().await;
    ended
}

async fn list(coordinator: &CoordinatorClient, ui: &Ui) -> Result<Exit, Failure> {
    let servers = vault::all_servers(coordinator).await?;
    let brake = coordinator.status(StatusQuery::default()).await?.brake;
    let mut lines = table(&servers);
    if let Some(brake) = &brake {
        lines.push(String::new());
        lines.push(format!("repair {}", brake_text(brake)));
    }
    ui.summary(&lines, json!({ "servers": servers, "brake": brake }));
    Ok(Exit::Done)
}

/// How a state is called.
pub(super) fn state_text(state: State) -> &'static str {
    match state {
        State::Unknown => "not asked yet",
        State::Up => "up",
        State::Suspect => "suspect",
        State::Down => "down",
        State::Lost => "lost",
        State::Returned => "returned",
    }
}

/// State and mode, as in `up, draining`.
pub(super) fn standing_text(server: &ServerInfo) -> String {
    let state = state_text(server.state);
    match server.mode {
        Mode::Normal => state.to_owned(),
        Mode::Draining => format!("{state}, draining"),
        Mode::ReadOnly => format!("{state}, read-only"),
    }
}

/// What it should hold of all shards, and its weight if that is not 1.
fn share_text(server: &ServerInfo) -> String {
    let share = match (server.share, server.mode) {
        (Some(share), Mode::Normal) => format!("{:.1} %", share * 100.0),
        _ => "-".to_owned(),
    };
    match server.weight.is_one() {
        true => share,
        false => format!("{share}, weight {}", server.weight),
    }
}

/// That repair waits, why, and until when.
pub(super) fn brake_text(brake: &Brake) -> String {
    let names = |names: &[String]| -> String {
        let names: Vec<String> = names.iter().map(|name| escaped(name.as_bytes())).collect();
        names.join(", ")
    };
    let who = match &brake.zones[..] {
        [] => "many servers".to_owned(),
        [zone] => format!("all of zone {}", escaped(zone.as_bytes())),
        zones => format!("all of the zones {}", names(zones)),
    };
    format!(
        "waits until {} at most, or until all are back: {who} went together at {}; still away: {}",
        time_text(brake.until_ms as i64),
        time_text(brake.since_ms as i64),
        names(&brake.servers),
    )
}

fn table(servers: &[ServerInfo]) -> Vec<String> {
    if servers.is_empty() {
        return vec!["no storage server has joined yet: arc serve storage".into()];
    }
    let head = ["SERVER", "ZONE", "STATE", "SHARDS", "STORED", "SHARE", "FREE", "LAST SEEN", "URL"];
    let row = |server: &ServerInfo| {
        [
            escaped(server.name.as_bytes()),
            escaped(server.zone.as_bytes()),
            standing_text(server),
            count_text(server.shards),
            bytes_text(server.shard_bytes),
            share_text(server),
            format!("{} of {}", bytes_text(server.free_bytes), bytes_text(server.capacity_bytes)),
            server.last_seen_ms.map_or("never".into(), |ms| time_text(ms as i64)),
            escaped(server.url.as_bytes()),
        ]
    };
    let rows: Vec<[String; 9]> =
        std::iter::once(head.map(str::to_owned)).chain(servers.iter().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; 9] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let line = |row: &[String; 9]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use server::wire::{ServerId, Weight};

    use super::*;

    #[test]
    fn columns_stand_below_their_heads() {
        let server = |name: &str, shards| ServerInfo {
            server: ServerId(1),
            name: name.into(),
            zone: "z".into(),
            url: "http://h".into(),
            state: State::Up,
            mode: Mode::Normal,
            last_seen_ms: None,
            capacity_bytes: 2048,
            free_bytes: 1024,
            shards,
            shard_bytes: 0,
            weight: if shards == 1 { Weight::ONE } else { Weight::try_from(150).unwrap() },
            share: (shards > 1).then_some(0.34567),
            scrub: None,
        };
        assert_eq!(
            table(&[server("a", 1), server("longer-name", 12_345)]),
            [
                "SERVER       ZONE  STATE  SHARDS  STORED  SHARE               FREE                LAST SEEN  URL",
                "a            z     up     1       0 B     -                   1.0 KiB of 2.0 KiB  never      http://h",
                "longer-name  z     up     12,345  0 B     34.6 %, weight 1.5  1.0 KiB of 2.0 KiB  never      http://h",
            ]
        );
        assert_eq!(table(&[]).len(), 1);
    }

    #[test]
    fn the_brake_says_who_went_and_until_when_repair_waits() {
        let brake = |zones: &[&str], servers: &[&str]| Brake {
            since_ms: 0,
            until_ms: 3_600_000,
            zones: zones.iter().map(|&zone| zone.to_owned()).collect(),
            servers: servers.iter().map(|&server| server.to_owned()).collect(),
        };
        let (since, until) = (time_text(0), time_text(3_600_000));
        assert_eq!(
            brake_text(&brake(&["rack-1"], &["a", "b"])),
            format!(
                "waits until {until} at most, or until all are back: all of zone rack-1 went \
                 together at {since}; still away: a, b"
            )
        );
        let text = brake_text(&brake(&[], &["a"]));
        assert!(text.contains("many servers went together"), "{text}");
        let text = brake_text(&brake(&["x", "y"], &["a"]));
        assert!(text.contains("all of the zones x, y went together"), "{text}");
    }
}
