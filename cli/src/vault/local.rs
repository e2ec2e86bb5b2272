//! A vault on local folders: the same coordinator and storage servers, inside this process.
//!
//! DIR has `arc.toml` (the code and the disks), `lock`, `coordinator/` and, unless
//! other disks were given, `disks/1` to `disks/n`. A disk counts as present by its
//! `server.id`: an empty mount point is a disk that is away.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use codec::Geometry;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use server::client::CoordinatorClient;
use server::coordinator::{self, Coordinator, Timings};
use server::serve::Listen;
use server::storage::{self, Limits, Storage};
use server::wire::{ServerId, State};

use super::lock::Lock;
use crate::config::write_durably;
use crate::exit::{Exit, Failure};
use crate::ui::{Ui, path_text, shell_word};

/// Present disks are up after this, or something is wrong with them.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// So long the probes may take to find that disks are away.
const AWAY_WITHIN: Duration = Duration::from_secs(5);
/// From one look at the servers to the next.
const LOOK_EVERY: Duration = Duration::from_millis(50);
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
    disks: Vec<String>,
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

    fn write(&self, dir: &Path) -> Result<(), Failure> {
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

/// One disk of a vault that is being made.
struct NewDisk {
    path: PathBuf,
    /// As in `arc.toml`.
    written: String,
    name: String,
    device: u64,
}

/// The services of a local vault, running in this process.
pub(super) struct Embedded {
    coordinator: Coordinator,
    disks: Vec<Storage>,
    // Given back last.
    _lock: Lock,
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
                Ok(storage) => disks.push(storage),
                Err(e) => ui.warn(&format!("disk {} counts as away: {e}", path_text(&disk)), None),
            }
        }
        let embedded = Self { coordinator, disks, _lock: lock };
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
            running.push(storage::start(config).await?);
        }
        let settings = Settings {
            version: VERSION,
            code: geometry.to_string(),
            disks: disks.into_iter().map(|disk| disk.written).collect(),
        };
        let embedded = Self { coordinator, disks: running, _lock: lock };
        embedded.wait_until_ready(ui).await?;
        Ok((embedded, NewSettings(settings)))
    }

    /// A client of the coordinator in here.
    pub(super) fn client(&self) -> Result<CoordinatorClient, Failure> {
        let owner = &self.coordinator.owner;
        Ok(CoordinatorClient::new(&self.coordinator.running.url(), &owner.secret)?)
    }

    /// Stops all services, and then lets the next command have the vault.
    pub(super) async fn stop(self) {
        self.coordinator.stop().await;
        join_all(self.disks.into_iter().map(Storage::stop)).await;
    }

    /// Until every disk that is here is up, and every other one was looked for.
    async fn wait_until_ready(&self, ui: &Ui) -> Result<(), Failure> {
        let client = self.client()?;
        let mine: Vec<ServerId> = self.disks.iter().map(|disk| disk.server).collect();
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
            // A command that starts has the vault's lock: no push runs.
            pushes_outlive: false,
            drain: DRAIN,
            ..Timings::default()
        },
    };
    let failed = format!("cannot start the coordinator of the vault at {}", path_text(dir));
    coordinator::start(config).await.map_err(Failure::when(failed))
}

fn storage_config(data: PathBuf, coordinator: String) -> storage::Config {
    storage::Config {
        data,
        listen: loopback(),
        coordinator,
        join_token: None,
        name: None,
        zone: None,
        advertise: None,
        reserve_bytes: None,
        drain: DRAIN,
        // The one client is this process, and all servers share its memory.
        limits: Limits {
            puts: 4,
            gets: 4,
            busy_wait: Duration::from_secs(60),
            ..Limits::default()
        },
        fault: None,
    }
}

fn loopback() -> Listen {
    Listen { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), plain_http: false }
}

/// What can be refused before anything is made.
pub(super) fn check_new(
    dir: &Path,
    geometry: Geometry,
    disks: Option<&[PathBuf]>,
) -> Result<(), Failure> {
    let shown = path_text(dir);
    let word = shell_word(&shown);
    if Settings::exist(dir) {
        return Err(Failure::new(Exit::Usage, format!("{shown} has a vault already"))
            .state("it was left as it is")
            .next(format!("arc --vault {word} status")));
    }
    if super::lock::is_begun(dir) {
        return Err(Failure::new(Exit::Usage, format!("{shown} has what an unfinished init left"))
            .next(format!("rm -r {word}    # if nothing in it is wanted, then init again")));
    }
    let n = geometry.shards();
    let count = disks.map_or(n, <[_]>::len);
    if count <= geometry.data() {
        let least = geometry.data() + 1;
        return Err(Failure::new(
            Exit::Usage,
            format!("{geometry} needs at least {least} disks, better {n}"),
        )
        .why(format!("{count} were given")));
    }
    for disk in disks.unwrap_or_default() {
        if disk.join("server.id").exists() {
            return Err(Failure::new(
                Exit::Usage,
                format!("{} belongs to a vault already", path_text(disk)),
            )
            .why("it has a server.id")
            .next("give an empty folder of that disk"));
        }
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(Failure::io("cannot make", path))
}

fn make_disks(
    dir: &Path,
    geometry: Geometry,
    given: Option<&[PathBuf]>,
) -> Result<Vec<NewDisk>, Failure> {
    let paths = match given {
        Some(paths) => paths.to_vec(),
        None => (1..=geometry.shards()).map(|i| dir.join("disks").join(i.to_string())).collect(),
    };
    let names = names(&paths);
    let mut disks: Vec<NewDisk> = Vec::new();
    for (path, name) in paths.into_iter().zip(names) {
        make_folder(&path)?;
        let path = path.canonicalize().map_err(Failure::io("cannot find", &path))?;
        if disks.iter().any(|other| other.path == path) {
            return Err(Failure::new(
                Exit::Usage,
                format!("disk {} was given twice", path_text(&path)),
            ));
        }
        let device = fs::metadata(&path).map_err(Failure::io("cannot read", &path))?.dev();
        let written = path.strip_prefix(dir).unwrap_or(&path).to_str().map(str::to_owned);
        let written = written.ok_or_else(|| {
            Failure::new(Exit::Usage, format!("disk {}: its path is not UTF-8", path_text(&path)))
        })?;
        disks.push(NewDisk { path, written, name, device });
    }
    Ok(disks)
}

/// The folders' own names where they tell the disks apart, `disk1` to `disk<n>` otherwise.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let own: Vec<String> = paths
        .iter()
        .filter_map(|path| path.file_name()?.to_str())
        .filter(|name| !name.bytes().all(|b| b.is_ascii_digit()))
        .map(str::to_owned)
        .collect();
    let mut different = own.clone();
    different.sort();
    different.dedup();
    if different.len() == paths.len() {
        return own;
    }
    (1..=paths.len()).map(|i| format!("disk{i}")).collect()
}

/// Disks on one device share a zone, named after the first of them.
fn zones(disks: &[NewDisk]) -> Vec<String> {
    let mut zones = BTreeMap::<u64, String>::new();
    let zone = |disk: &NewDisk| {
        zones.entry(disk.device).or_insert_with(|| format!("device-of-{}", disk.name)).clone()
    };
    disks.iter().map(zone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Geometry {
        text.parse().unwrap()
    }

    #[test]
    fn disks_are_named_after_their_folders_where_that_tells_them_apart() {
        let names = |paths: &[&str]| names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["/mnt/red", "/mnt/blue"]), ["red", "blue"]);
        assert_eq!(names(&["/a/arc", "/b/arc"]), ["disk1", "disk2"]);
        assert_eq!(names(&["v/disks/1", "v/disks/2"]), ["disk1", "disk2"]);
    }

    #[test]
    fn disks_of_one_device_share_a_zone() {
        let disk = |name: &str, device| NewDisk {
            path: name.into(),
            written: name.into(),
            name: name.into(),
            device,
        };
        let zones = zones(&[disk("a", 1), disk("b", 2), disk("c", 1)]);
        assert_eq!(zones, ["device-of-a", "device-of-b", "device-of-a"]);
    }

    #[test]
    fn a_new_vault_is_refused_where_one_is_or_disks_are_short() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |disks: Option<&[PathBuf]>| {
            check_new(dir.path(), code("4+2"), disks).map_err(|failure| failure.code)
        };
        assert_eq!(refused(None), Ok(()));
        let disks: Vec<_> = (0..5).map(|i| dir.path().join(i.to_string())).collect();
        assert_eq!(refused(Some(&disks[..4])), Err(Exit::Usage));
        assert_eq!(refused(Some(&disks)), Ok(()));
        fs::create_dir(&disks[2]).unwrap();
        fs::write(disks[2].join("server.id"), "").unwrap();
        assert_eq!(refused(Some(&disks)), Err(Exit::Usage));
        fs::write(dir.path().join("arc.toml"), "").unwrap();
        assert_eq!(refused(None), Err(Exit::Usage));
    }

    #[test]
    fn settings_are_read_back_and_newer_ones_refused() {
        let dir = tempfile::tempdir().unwrap();
        let settings =
            Settings { version: VERSION, code: "4+2".into(), disks: vec!["disks/1".into()] };
        settings.write(dir.path()).unwrap();
        assert_eq!(Settings::read(dir.path()).unwrap(), settings);
        Settings { version: VERSION + 1, ..settings }.write(dir.path()).unwrap();
        assert_eq!(Settings::read(dir.path()).unwrap_err().code, Exit::Usage);
    }
}
