//! Disks of a local vault: which there are, one more, another in the place of one.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use server::storage;
use server::wire::{ServerId, ServerInfo, State};

use super::all_servers;
use super::folders::{NewDisk, make_disk, must_be_empty, names};
use super::local::{Embedded, LOOK_EVERY, READY_WITHIN, storage_config};
use crate::exit::{Exit, Failure};
use crate::ui::{Ui, path_text};

/// A place in `arc.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The folder.
    pub path: PathBuf,
    /// The disk that is there, or was there last.
    pub name: Option<String>,
    /// Whether it is there.
    pub is_here: bool,
    /// The server that it is, if it is there.
    pub server: Option<ServerId>,
}

/// A disk that is part of the vault from now on.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// A disk on the same device, whose zone it has.
    pub shares_with: Option<String>,
}

impl Embedded {
    /// All places. A disk is known by what is on it; where none is, by who was there last.
    pub(super) fn places(&self) -> Vec<Place> {
        let paths: Vec<PathBuf> =
            self.settings.disks.iter().map(|disk| self.dir.join(disk)).collect();
        let last = match self.settings.names.len() == paths.len() {
            true => self.settings.names.clone(),
            false => names(&paths),
        };
        let place = |(path, last): (PathBuf, String)| {
            let here = self.disks.iter().find(|(here, _)| *here == path);
            let elsewhere = self.disks.iter().any(|(_, disk)| disk.name == last);
            let name = match here {
                Some((_, disk)) => Some(disk.name.clone()),
                None => Some(last).filter(|last| !elsewhere && !last.is_empty()),
            };
            let server = here.map(|(_, disk)| disk.server);
            Place { path, name, is_here: server.is_some(), server }
        };
        paths.into_iter().zip(last).map(place).collect()
    }

    /// Makes the empty folder at `path` one more disk. Where that fails the vault is as before.
    pub(super) async fn add_disk(
        &mut self,
        path: &Path,
        name: Option<String>,
        ui: &Ui,
    ) -> Result<Joined, Failure> {
        if let Some(name) = name.as_deref().filter(|name| !is_plain(name)) {
            return Err(Failure::new(Exit::Usage, format!("no disk can be called {name:?}"))
                .why("a name is 1 to 64 letters, digits, dots, underscores and dashes"));
        }
        must_be_empty(path)?;
        let servers = all_servers(&self.client()?).await?;
        let new = make_disk(&self.dir, path, name.unwrap_or_else(|| new_name(path, &servers)))?;
        let known = self.settings.disks.iter().position(|disk| *disk == new.written);
        if let Some(place) = known.map(|at| self.places().swap_remove(at)) {
            return Err(Failure::new(Exit::Usage, format!("{} is a disk's", path_text(path)))
                .why(format!("{} was there last", place.name.unwrap_or_default()))
                .next("arc disks replace NAME PATH    # if that one is gone"));
        }
        if servers.iter().any(|server| server.name == new.name) {
            return Err(Failure::new(
                Exit::Usage,
                format!("a disk is called {} already", new.name),
            )
            .next("arc disks add PATH --name NAME"));
        }
        let before = self.settings.clone();
        // First, so that no server is in the catalog that nobody finds.
        self.write_place(&new, None)?;
        let joined = self.join(new, &servers, ui).await;
        if joined.is_err() {
            self.settings = before;
            self.settings.write(&self.dir)?;
        }
        joined
    }

    /// Gives the disk `name` up, and makes the empty folder at `path` the disk of that name.
    /// Interrupted, the same again goes on.
    pub(super) async fn replace_disk(
        &mut self,
        name: &str,
        path: &Path,
        ui: &Ui,
    ) -> Result<Joined, Failure> {
        // What a run that was interrupted left there is taken.
        if !(path.is_dir() && storage::is_cut_off_start(path)?) {
            must_be_empty(path)?;
        }
        let new = make_disk(&self.dir, path, name.to_owned())?;
        let places = self.places();
        let is_it = |place: &&Place| place.name.as_deref() == Some(name);
        let at = places.iter().position(|place| is_it(&place));
        // The folder of another disk that is away is kept for that one.
        let taken = self.settings.disks.iter().position(|disk| *disk == new.written);
        if let Some(other) = taken.filter(|taken| Some(*taken) != at) {
            let other = places[other].name.clone().unwrap_or_default();
            return Err(Failure::new(Exit::Usage, format!("{} is a disk's", path_text(path)))
                .why(format!("{other} was there last")));
        }
        let client = self.client()?;
        let mut stopped = None;
        if let Some(at) = self.disks.iter().position(|(_, disk)| disk.name == name) {
            let (_, disk) = self.disks.swap_remove(at);
            let server = disk.server;
            stopped = Some(server);
            disk.stop().await;
            self.until_away(server).await?;
        }
        let servers = all_servers(&client).await?;
        // Where it is none any more, an interrupted run has given it up; started since, it is a
        // server again, of another name.
        let is_old = |s: &&ServerInfo| s.name == name || Some(s.server) == stopped;
        for old in
            servers.iter().filter(is_old).filter(|s| s.state != State::Lost || s.name == name)
        {
            client.replace_server(old.server).await?;
        }
        // Not before: a run that is interrupted until then leaves the disk where it is found.
        self.write_place(&new, at)?;
        self.join(new, &servers, ui).await
    }

    /// Writes a disk's place down: in the stead of the one `at`, or behind all others.
    fn write_place(&mut self, new: &NewDisk, at: Option<usize>) -> Result<(), Failure> {
        self.settings.names =
            self.places().into_iter().map(|place| place.name.unwrap_or_default()).collect();
        let (disks, names) = (&mut self.settings.disks, &mut self.settings.names);
        match at {
            Some(at) => (disks[at], names[at]) = (new.written.clone(), new.name.clone()),
            None => {
                disks.push(new.written.clone());
                names.push(new.name.clone());
            }
        }
        self.settings.write(&self.dir)
    }

    async fn join(
        &mut self,
        new: NewDisk,
        servers: &[ServerInfo],
        ui: &Ui,
    ) -> Result<Joined, Failure> {
        let shares_with = self.on_device(new.device, servers);
        let zone = match shares_with {
            Some(other) => other.zone.clone(),
            None => new_zone(&new.name, servers),
        };
        let config = storage::Config {
            join_token: Some(self.coordinator.join.clone()),
            name: Some(new.name.clone()),
            zone: Some(zone),
            ..storage_config(new.path.clone(), self.coordinator.running.url())
        };
        let failed = format!("{} did not become a disk of the vault", path_text(&new.path));
        let storage = storage::start(config).await.map_err(Failure::when(failed))?;
        self.disks.push((new.path.clone(), storage));
        self.wait_until_ready(ui).await?;
        let shares_with = shares_with.map(|other| other.name.clone());
        Ok(Joined { name: new.name, path: new.path, shares_with })
    }

    /// A disk that is here and on this device.
    fn on_device<'a>(&self, device: u64, servers: &'a [ServerInfo]) -> Option<&'a ServerInfo> {
        let is_on = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.dev() == device);
        let (_, other) = self.disks.iter().find(|(path, _)| is_on(path))?;
        servers.iter().find(|server| server.server == other.server)
    }

    /// Waits until the coordinator has missed a disk that was stopped.
    async fn until_away(&self, server: ServerId) -> Result<(), Failure> {
        let client = self.client()?;
        let began = Instant::now();
        while began.elapsed() < READY_WITHIN {
            let tickets = client.read_tickets().await?.servers;
            if tickets.iter().all(|t| t.server != server || t.state != State::Up) {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// The folder's own name, or `disk<n>`.
fn new_name(path: &Path, servers: &[ServerInfo]) -> String {
    let is_free = |name: &String| servers.iter().all(|server| server.name != *name);
    let own = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let own = own.filter(|own| is_plain(own) && !own.bytes().all(|c| c.is_ascii_digit()));
    let mut numbered = (1..).map(|number| format!("disk{number}"));
    let free = own.filter(is_free).or_else(|| numbered.find(is_free));
    // There are more numbers than servers.
    free.unwrap_or_default()
}

/// What the coordinator takes for a name.
fn is_plain(name: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || b"._-".contains(&c);
    (1..=64).contains(&name.len()) && name.bytes().all(is_plain)
}

/// A zone that no other disk has.
fn new_zone(name: &str, servers: &[ServerInfo]) -> String {
    let is_free = |zone: &String| servers.iter().all(|server| server.zone != *zone);
    let first = format!("device-of-{name}");
    let mut others = (2..).map(|number| format!("{first}-{number}"));
    if is_free(&first) { first } else { others.find(is_free).unwrap_or(first) }
}

#[cfg(test)]
mod tests {
    use server::wire::{Mode, Weight};

    use super::*;

    fn server(name: &str, zone: &str) -> ServerInfo {
        ServerInfo {
            server: ServerId(1),
            name: name.into(),
            zone: zone.into(),
            url: String::new(),
            state: State::Up,
            mode: Mode::Normal,
            last_seen_ms: None,
            capacity_bytes: 0,
            free_bytes: 0,
            shards: 0,
            shard_bytes: 0,
            weight: Weight::ONE,
            share: None,
            scrub: None,
        }
    }

    #[test]
    fn a_new_disk_has_a_name_and_a_zone_of_its_own() {
        let servers = [server("disk1", "device-of-disk1"), server("red", "device-of-disk1")];
        let name = |path: &str| new_name(Path::new(path), &servers);
        assert_eq!(name("/mnt/blue"), "blue");
        assert_eq!(name("/mnt/red"), "disk2");
        assert_eq!(name("/mnt/7"), "disk2");
        assert_eq!(name("/mnt/a b"), "disk2");
        assert_eq!(new_zone("blue", &servers), "device-of-blue");
        // Others are still on the device that is named after the one before.
        assert_eq!(new_zone("disk1", &servers), "device-of-disk1-2");
    }
}
