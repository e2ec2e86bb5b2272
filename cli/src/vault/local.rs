//! A vault on local folders: the same coordinator and storage servers, inside this process.
//!
//! DIR has `arc.toml` (the code and the disks), `lock`, `coordinator/` and, unless
//! other disks were given, `disks/1` to `disks/n`. A disk counts as present by its
//! `server.id`: an empty mount point is a disk that is away. `disks` adds and replaces them,
//! `upkeep` has them repaired and scrubbed.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use codec::Geometry;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use server::client::CoordinatorClient;
use server::coordinator::{self, Coordinator, Timings};
use server::serve::{Listen, Transport};
use server::storage::{self, Limits, ScrubRules, Storage};
use server::tls::Trust;
use server::wire::{ServerId, State, Weight};

use super::folders::{check_new, make_disks, make_folder, zones};
use super::lock::Lock;
use crate::config::write_durably;
use crate::exit::{Exit, Failure};
use crate::ui::{Ui, path_text};

/// Present disks are up after this, or something is wrong with them.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(30);
/// So long the probes may take to find that disks are away.
const AWAY_WITHIN: Duration = Duration::from_secs(5);
/// From one look at the servers to the next.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long requests under way may take at the end of a command.
const DRAIN: Duration = Duration::from_secs(5);
/// Version of `arc.toml`.
const VERSION: u32 = 0;

/// `arc.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    version: u32,
    code: String,
    /// Relative to DIR, or absolute.
    pub(super) disks: Vec<String>,
    /// Who was last there, disk for disk; none as in the beginning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) names: Vec<String>,
}

impl Settings {
    fn path(dir: &Path) -> PathBuf {
        dir.join("arc.toml")
    }

    /// Whether DIR is a local vault.
    pub(super) fn exist(dir: &Path) -> bool {
        Self::path(dir).is_file()
    }

    fn read(dir: &Path) -> Result<Self, Failure> {
        let path = Self::path(dir);
        let text = fs::read_to_string(&path).map_err(Failure::io("cannot read", &path))?;
        let bad = |why: &str| {
            Failure::new(Exit::Usage, format!("{} cannot be used", path_text(&path))).why(why)
        };
        let settings: Self = toml::from_str(&text).map_err(|e| bad(e.message()))?;
        match settings.version {
            VERSION => Ok(settings),
            newer => {
                Err(bad(&format!("version {newer}, this arc knows {VERSION}")).next("upgrade arc"))
            }
        }
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), Failure> {
        let path = Self::path(dir);
        let text = toml::to_string(self).map_err(|e| {
            Failure::new(Exit::Failed, format!("cannot write {}", path_text(&path)))
                .why(e.to_string())
        })?;
        let text = format!(
            "# A vault of arc. `arc --vault {} status` says how it is.\n{text}",
            path_text(dir)
        );
        write_durably(&path, text.as_bytes()).map_err(Failure::io("cannot write", &path))
    }
}

/// The services of a local vault, running in this process.
pub(super) struct Embedded {
    pub(super) dir: PathBuf,
    pub(super) settings: Settings,
    pub(super) coordinator: Coordinator,
    /// Those that are here, and their folders.
    pub(super) disks: Vec<(PathBuf, Storage)>,
    lock: Lock,
}

impl Embedded {
    /// Starts the services of the vault at `dir`; disks that are away are warned of.
    pub(super) async fn start(
        dir: &Path,
        wait: Option<Duration>,
        ui: &Ui,
    ) -> Result<Self, Failure> {
        if !Settings::exist(dir) {
            return Err(Failure::new(Exit::NoVault, format!("no vault at {}", path_text(dir)))
                .why("it has no arc.toml: was it moved, or is its disk not mounted?")
                .next("--vault DIR    # where it is now"));
        }
        let lock = Lock::take(dir, wait, ui).await?;
        let settings = Settings::read(dir)?;
        let coordinator = start_coordinator(dir).await?;
        let present = settings.disks.iter().map(|disk| dir.join(disk)).filter(|disk| {
            let present = disk.join("server.id").is_file();
            if !present {
                ui.warn(
                    &format!(
                        "disk {}: no server.id there, not mounted? It counts as away",
                        path_text(disk)
                    ),
                    None,
                );
            }
            present
        });
        let url = coordinator.running.url();
        let starts = present.map(|disk| {
            let config = storage_config(disk.clone(), url.clone());
            async move { (disk, storage::start(config).await) }
        });
        let mut disks = Vec::new();
        for (disk, started) in join_all(starts).await {
            match started {
                Ok(storage) => disks.push((disk, storage)),
                Err(e) => ui.warn(&format!("disk {} counts as away: {e}", path_text(&disk)), None),
            }
        }
        let embedded = Self { dir: dir.to_owned(), settings, coordinator, disks, lock };
        embedded.wait_until_ready(ui).await?;
        Ok(embedded)
    }

    /// Makes the folders of a new vault and starts its services. `arc.toml`, by which it is
    /// a vault, is written by [`NewSettings::keep`] once it has its record.
    pub(super) async fn create(
        dir: &Path,
        geometry: Geometry,
        disks: Option<&[PathBuf]>,
        ui: &Ui,
    ) -> Result<(Self, NewSettings), Failure> {
        check_new(dir, geometry, disks)?;
        make_folder(dir)?;
        let lock = Lock::take(dir, Some(Duration::ZERO), ui).await?;
        let disks = make_disks(dir, geometry, disks)?;
        let coordinator = start_coordinator(dir).await?;
        let zones = zones(&disks);
        let mut running = Vec::new();
        for (disk, zone) in disks.iter().zip(zones) {
            let config = storage::Config {
                join_token: Some(coordinator.join.clone()),
                name: Some(disk.name.clone()),
                zone: Some(zone),
                ..storage_config(disk.path.clone(), coordinator.running.url())
            };
            running.push((disk.path.clone(), storage::start(config).await?));
        }
        let settings = Settings {
            version: VERSION,
            code: geometry.to_string(),
            names: disks.iter().map(|disk| disk.name.clone()).collect(),
            disks: disks.into_iter().map(|disk| disk.written).collect(),
        };
        let new = NewSettings(settings.clone());
        let dir = dir.to_owned();
        let embedded = Self { dir, settings, coordinator, disks: running, lock };
        embedded.wait_until_ready(ui).await?;
        Ok((embedded, new))
    }

    /// DIR, and every disk's folder.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let disks = self.settings.disks.iter().map(|disk| self.dir.join(disk));
        std::iter::once(self.dir.clone()).chain(disks).collect()
    }

    /// A client of the coordinator in here.
    pub(super) fn client(&self) -> Result<CoordinatorClient, Failure> {
        let owner = &self.coordinator.owner;
        let url = self.coordinator.running.url();
        Ok(CoordinatorClient::new(&url, &owner.secret, &Trust::of(owner)?)?)
    }

    /// Stops all services, and then lets the next command have the vault.
    pub(super) async fn stop(self) {
        self.coordinator.stop().await;
        join_all(self.disks.into_iter().map(|(_, storage)| storage.stop())).await;
        self.lock.release();
    }

    /// Until every disk that is here is up, and every other one was looked for.
    pub(super) async fn wait_until_ready(&self, ui: &Ui) -> Result<(), Failure> {
        let client = self.client()?;
        let mine: Vec<ServerId> = self.disks.iter().map(|(_, disk)| disk.server).collect();
        let began = Instant::now();
        loop {
            let servers = client.read_tickets().await?.servers;
            let late: Vec<&str> = servers
                .iter()
                .filter(|s| mine.contains(&s.server) && s.state != State::Up)
                .map(|s| s.name.as_str())
                .collect();
            let unknown = servers.iter().any(|s| s.state == State::Unknown);
            if late.is_empty() && (!unknown || began.elapsed() > AWAY_WITHIN) {
                return Ok(());
            }
            if began.elapsed() > READY_WITHIN {
                ui.warn(
                    &format!("not up after {} s: {}", READY_WITHIN.as_secs(), late.join(", ")),
                    None,
                );
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// `arc.toml` of a vault that is being made.
pub(super) struct NewSettings(Settings);

impl NewSettings {
    /// Writes it: from here on DIR is a vault.
    pub(super) fn keep(&self, dir: &Path) -> Result<(), Failure> {
        self.0.write(dir)
    }
}

async fn start_coordinator(dir: &Path) -> Result<Coordinator, Failure> {
    let config = coordinator::Config {
        data: dir.join("coordinator"),
        listen: loopback(),
        advertise: None,
        // Health is a look at every disk at the start of a command: what is away refuses at
        // once. The long timeout is for a busy machine, on which nothing else is meant by it.
        timings: Timings {
            probe_every: Duration::from_millis(250),
            probe_timeout: Duration::from_secs(5),
            misses: 3,
            good: 1,
            down_after: Duration::from_secs(2),
            // A disk is not given up for being away while a command runs, nor is repair held up.
            grace: Duration::MAX,
            brake: Duration::ZERO,
            // A command does what it was asked to; what its disks find is compared all the same.
            compare_every: Duration::ZERO,
            audit_every: Duration::ZERO,
            backup_every: Duration::ZERO,
            // A command that starts has the vault's lock: no push runs.
            pushes_outlive: false,
            // A command repairs what it was asked to.
            repair_every: Duration::ZERO,
            drain: DRAIN,
            ..Timings::default()
        },
        fail_at: None,
    };
    let failed = format!("cannot start the coordinator of the vault at {}", path_text(dir));
    coordinator::start(config).await.map_err(Failure::when(failed))
}

pub(super) fn storage_config(data: PathBuf, coordinator: String) -> storage::Config {
    storage::Config {
        data,
        listen: loopback(),
        coordinator,
        join_token: None,
        name: None,
        zone: None,
        advertise: None,
        weight: Weight::ONE,
        reserve_bytes: None,
        drain: DRAIN,
        // The one client is this process, and all servers share its memory.
        limits: Limits {
            puts: 4,
            gets: 16,
            busy_wait: Duration::from_secs(60),
            ..Limits::default()
        },
        // A command is too short for a pass that is spread over weeks.
        scrub: ScrubRules { every: Duration::ZERO, ..ScrubRules::default() },
        fault: None,
        fail_at: None,
    }
}

fn loopback() -> Listen {
    Listen { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), transport: Transport::Plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_back_and_newer_ones_refused() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            version: VERSION,
            code: "4+2".into(),
            disks: vec!["disks/1".into()],
            names: vec![],
        };
        settings.write(dir.path()).unwrap();
        assert_eq!(Settings::read(dir.path()).unwrap(), settings);
        Settings { version: VERSION + 1, ..settings }.write(dir.path()).unwrap();
        assert_eq!(Settings::read(dir.path()).unwrap_err().code, Exit::Usage);
    }
}
