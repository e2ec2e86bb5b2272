//! `arc disks`: the disks of a local vault, one more, another in the place of one.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};
use server::client::CoordinatorClient;
use server::wire::{PageQuery, ServerId, ServerInfo, State};

use super::Global;
use super::servers::state_text;
use crate::exit::{Exit, Failure};
use crate::ui::{Ui, bytes_text, count_text, escaped, path_text, plural};
use crate::vault::{self, Connection, Joined};

/// List the disks of a local vault, add one, or replace one.
///
/// A disk is known by what is on it, not by its path: a folder without it counts as away, and is
/// never taken for an empty disk. Needs no passphrase.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = "Examples:
  arc disks
  arc disks add /mnt/g/arc
  arc disks replace c /mnt/new/arc; arc repair-scan --fix")]
pub struct Args {
    /// What to do [default: list]
    #[command(subcommand)]
    pub action: Option<Action>,
}

/// What to do with a disk.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Action {
    /// Make an empty folder one more disk of the vault
    Add(Add),
    /// Give a disk up; an empty folder becomes the disk of its name
    Replace(Replace),
}

/// The disk that comes.
#[derive(Debug, Clone, clap::Args)]
pub struct Add {
    /// An empty folder, or one that is to be made
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Its name [default: the folder's, or diskN]
    #[arg(long)]
    pub name: Option<String>,
}

/// The disk that goes, and the one that comes.
#[derive(Debug, Clone, clap::Args)]
pub struct Replace {
    /// The disk's name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// An empty folder, or one that is to be made
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// See [`Args`].
pub async fn run(args: Args, global: &Global) -> Result<Exit, Failure> {
    let mut connection = vault::connect(global).await?;
    let ui = &global.ui;
    let done = match args.action {
        None => list(&connection, ui).await,
        Some(Action::Add(args)) => add(args, &mut connection, ui).await,
        Some(Action::Replace(args)) => replace(args, &mut connection, ui).await,
    };
    connection.close().await;
    done
}

async fn list(connection: &Connection, ui: &Ui) -> Result<Exit, Failure> {
    let places = connection.places()?;
    let servers = vault::all_servers(&connection.coordinator).await?;
    let mut lines = vec![format!(
        "{:<16} {:<8} {:>10} {:>10} {:>10}  {}",
        "DISK", "STATE", "SHARDS", "USED", "FREE", "FOLDER"
    )];
    let mut rows = Vec::new();
    for place in &places {
        let server = servers.iter().find(|s| Some(&s.name) == place.name.as_ref());
        let state = match (place.is_here, server) {
            (false, _) => "away",
            (true, server) => server.map_or("unknown", |server| state_text(server.state)),
        };
        let (shards, used, free) =
            server.map_or((0, 0, 0), |s| (s.shards, s.shard_bytes, s.free_bytes));
        lines.push(format!(
            "{:<16} {state:<8} {:>10} {:>10} {:>10}  {}",
            escaped(place.name.as_deref().unwrap_or("?").as_bytes()),
            count_text(shards),
            bytes_text(used),
            bytes_text(free),
            path_text(&place.path)
        ));
        rows.push(json!({
            "name": place.name,
            "folder": place.path.to_string_lossy(),
            "is_here": place.is_here,
            "state": state,
            "zone": server.map(|server| &server.zone),
            "shards": shards,
            "shard_bytes": used,
            "free_bytes": free,
        }));
    }
    let placed =
        |server: &&ServerInfo| places.iter().any(|p| p.name.as_ref() == Some(&server.name));
    for server in servers.iter().filter(|server| !placed(server)) {
        let name = escaped(server.name.as_bytes());
        lines.push(format!(
            "{name:<16} {:<8} {:>10} {:>10}",
            state_text(server.state),
            count_text(server.shards),
            bytes_text(server.shard_bytes)
        ));
    }
    ui.summary(&lines, json!({ "disks": rows }));
    Ok(Exit::Done)
}

async fn add(args: Add, connection: &mut Connection, ui: &Ui) -> Result<Exit, Failure> {
    let path = absolute(args.path)?;
    let joined = connection.add_disk(&path, args.name, ui).await?;
    warn_of_device(&joined, ui);
    let lines = [
        format!("{} is a disk of the vault: {}", joined.name, path_text(&joined.path)),
        "it takes shards of the next push; earlier ones move there with --upkeep".to_owned(),
    ];
    ui.summary(&lines, fields(&joined));
    Ok(Exit::Done)
}

async fn replace(args: Replace, connection: &mut Connection, ui: &Ui) -> Result<Exit, Failure> {
    let path = absolute(args.path)?;
    let places = connection.places()?;
    let coordinator = &connection.coordinator;
    let servers = vault::all_servers(coordinator).await?;
    let place = places.iter().find(|place| place.name.as_ref() == Some(&args.name));
    // Given up by a run that was interrupted and started since, it has another name.
    let here = place.and_then(|place| place.server);
    let named = servers.iter().find(|server| server.name == args.name);
    let old = named.or_else(|| servers.iter().find(|server| Some(server.server) == here));
    let name = escaped(args.name.as_bytes());
    let Some(old) = old else {
        if place.is_some() && !args.dry_run {
            // Given up by a run that was interrupted: what is left is the new one.
            return replaced(connection.replace_disk(&args.name, &path, ui).await?, None, ui);
        }
        let names: Vec<String> = servers.iter().map(|s| escaped(s.name.as_bytes())).collect();
        return Err(Failure::new(Exit::Usage, format!("no disk is called {name}"))
            .state(format!("the vault's disks: {}", names.join(", "))));
    };
    // A disk that is slow is here all the same.
    let is_here = old.state == State::Up || Some(old.server) == here;
    let needed = needing(coordinator, &servers, old.server).await?;
    let held = format!("{}, {}", plural(old.shards, "shard"), bytes_text(old.shard_bytes));
    let mut plan = vec![
        format!("{name} is given up: what it held, {held}, is made again from the other disks"),
        format!("{} becomes {name}", path_text(&path)),
    ];
    if needed > 0 {
        let stripes = plural(needed, "stripe");
        plan.push(match is_here {
            true => format!("{stripes} could not be read without {name}"),
            false => format!("{stripes} cannot be read without what {name} held"),
        });
    }
    plan.iter().for_each(|line| ui.say(line));
    if args.dry_run {
        ui.summary(&["nothing was changed".to_owned()], json!({ "plan": plan, "done": false }));
        return Ok(Exit::Done);
    }
    if needed > 0 && is_here {
        let what =
            format!("{name} is needed: {} have too few other shards", plural(needed, "stripe"));
        return Err(Failure::new(Exit::Failed, what)
            .state("nothing was changed")
            .next("arc repair-scan --fix; then the same again")
            .next("bring back the disks that are away"));
    }
    let joined = connection.replace_disk(&args.name, &path, ui).await?;
    replaced(joined, Some(plan), ui)
}

fn replaced(joined: Joined, plan: Option<Vec<String>>, ui: &Ui) -> Result<Exit, Failure> {
    warn_of_device(&joined, ui);
    let lines = [
        format!("{} is {} from now on", joined.name, path_text(&joined.path)),
        "next: arc repair-scan --fix    # makes again what the former one held".to_owned(),
    ];
    let mut fields = fields(&joined);
    fields["plan"] = json!(plan);
    fields["done"] = json!(true);
    ui.summary(&lines, fields);
    Ok(Exit::Done)
}

/// How many stripes have fewer than k good shards on disks that are here, other than this one.
async fn needing(
    coordinator: &CoordinatorClient,
    servers: &[ServerInfo],
    without: ServerId,
) -> Result<u64, Failure> {
    let up = servers.iter().filter(|s| s.state == State::Up && s.server != without);
    let up: BTreeSet<ServerId> = up.map(|server| server.server).collect();
    let mut needed = 0;
    let mut query = PageQuery::default();
    loop {
        let page = coordinator.stripes(&query).await?;
        for map in &page.rows {
            let good =
                map.shards.iter().filter(|holder| !holder.bad && up.contains(&holder.server));
            let good: BTreeSet<u8> = good.map(|holder| holder.index).collect();
            needed += u64::from(good.len() < map.geometry.data());
        }
        query.after = page.next;
        if query.after.is_none() {
            return Ok(needed);
        }
    }
}

fn warn_of_device(joined: &Joined, ui: &Ui) {
    if let Some(other) = &joined.shares_with {
        let (name, other) = (escaped(joined.name.as_bytes()), escaped(other.as_bytes()));
        let what = format!("{name} is on the same device as {other}: one failure takes both");
        ui.warn(&what, None);
    }
}

fn fields(joined: &Joined) -> Value {
    json!({
        "name": joined.name,
        "folder": joined.path.to_string_lossy(),
        "shares_device_with": joined.shares_with,
    })
}

fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path).map_err(Failure::io("cannot find", &path))
}
