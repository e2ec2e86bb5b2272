//! One storage server on one disk.
//!
//! `folder` and `identity` are its folder and who it is, `gate` decides who is
//! let in, `shelf` keeps the shard files (`incoming`, `inspect`, `inventory`,
//! `tally` are its longer verbs) and `bad` which of them are bad,
//! `facts` what the coordinator has on record, `room` watches the disk; `router`, `put` and `get`
//! speak HTTP, `rebuild` makes a stripe's missing shards again out of its
//! peers', at the pace of `throttle`; `scrub` reads all shards again and again; `hello` speaks to
//! the coordinator, `papers` are what it gives for TLS.

mod address;
mod bad;
mod buffers;
mod clock;
mod durable;
mod facts;
mod fail_points;
mod fault;
mod folder;
mod gate;
mod get;
mod hello;
mod identity;
mod incoming;
mod inspect;
mod inventory;
mod papers;
mod put;
mod rebuild;
mod room;
mod router;
mod scrub;
mod server;
mod shelf;
mod tally;
mod temporary;
mod throttle;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use self::clock::Clock;
pub use self::fail_points::FailPoint;
pub use self::fault::Fault;
use self::folder::Folder;
use self::hello::Coordinator;
use self::identity::{Identity, Keys};
use self::papers::Papers;
use self::room::Room;
pub use self::scrub::ScrubRules;
use self::server::{Door, Server, blocking};
use crate::auth::Token;
use crate::fail_point::FailAt;
use crate::serve::{self, Listen, Running};
use crate::wire::{JoinRequest, ServerId, Weight};
use crate::{Error, Result};

/// The first and the longest pause between two tries to say hello.
const HELLO_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The shortest pause before a hello for another certificate, and the longest sleep until one is
/// due: a machine that was put to sleep finds out late.
const RENEWAL_PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// How long a stop waits for the disk when all connections are closed.
const LAST_WRITES: Duration = Duration::from_secs(1);

/// How a storage server is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its folder.
    pub data: PathBuf,
    /// Where it listens.
    pub listen: Listen,
    /// The coordinator's URL.
    pub coordinator: String,
    /// The join token, needed on the first start only.
    pub join_token: Option<Token>,
    /// Its name; the host's name unless given. Used at the join only.
    pub name: Option<String>,
    /// Its failure domain; the host's name unless given. Used at the join only.
    pub zone: Option<String>,
    /// The URL that others reach it by, when it is not the one it listens on.
    pub advertise: Option<String>,
    /// What its disk's size counts for where shards are placed.
    pub weight: Weight,
    /// Bytes of the disk that pushes may not use; `None`: the smaller of 2 % and 1 GiB.
    pub reserve_bytes: Option<u64>,
    /// How long requests under way may take to finish when it stops.
    pub drain: Duration,
    /// What it does at once.
    pub limits: Limits,
    /// How it goes through its own shards.
    pub scrub: ScrubRules,
    /// A failure that a test plants.
    pub fault: Option<Fault>,
    /// Where it is to kill itself, for a test.
    pub fail_at: Option<FailAt<FailPoint>>,
}

/// How much a server does at once: its memory is bounded by these. As they are usually, and with
/// the 12 sources that all rebuilds together may have coming, each with up to 1.2 MiB, that is 61 MiB.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Shards being written: 16, each with up to 0.9 MiB.
    pub puts: usize,
    /// Shards being read: 16, each with up to 0.5 MiB.
    pub gets: usize,
    /// Stripes being rebuilt: 2, so that one is read while another is synced, and as many urgent
    /// ones, each with up to 6 MiB and the tables of its shards (0.05 % of the stripe); one of 255
    /// shards with up to 32 MiB.
    pub rebuilds: usize,
    /// How long a request waits for its turn, and a rebuild (5 s at most) for a server that is
    /// busy: 2 s.
    pub busy_wait: Duration,
    /// A client that sends or takes nothing for so long is dropped: 30 s. So long it may also
    /// go on sending what was refused, and so long a rebuild waits for a server that is silent.
    pub client_silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            puts: 16,
            gets: 16,
            rebuilds: 2,
            busy_wait: Duration::from_secs(2),
            client_silence: Duration::from_secs(30),
        }
    }
}

/// A running storage server.
pub struct Storage {
    /// Its HTTP service.
    pub running: Running,
    /// Its number.
    pub server: ServerId,
    /// Its name.
    pub name: String,
    open: Arc<Server>,
    /// Says hello until it was heard and whenever a certificate is due, and scrubs; ends with this.
    tasks: JoinSet<()>,
    drain: Duration,
}

/// Starts the server: opens (or, on the first start, joins and makes) its folder, listens,
/// and says hello to the coordinator; keeps trying that in the background while the coordinator is away.
pub async fn start(config: Config) -> Result<Storage> {
    if config.advertise.is_none() && config.listen.address.ip().is_unspecified() {
        return Err(Error::Config(format!(
            "others cannot reach this server at {}: say with --advertise where they can",
            config.listen.address
        )));
    }
    let folder = Arc::new(Folder::open(&config.data, config.join_token.is_some())?);
    let known = Identity::read(&folder)?;
    let room = Arc::new(Room::new(config.data.clone(), config.reserve_bytes));
    match folder.prepare() {
        // A disk that is full or read-only has shards to give.
        Err(error @ Error::Io { .. }) if known.is_some() => room.report_trouble(&error),
        prepared => prepared?,
    }
    let certificates = config.listen.certificates(config.advertise.as_deref())?;
    let clock = Arc::new(Clock::default());
    let papers = {
        let (folder, shown, time) = (Arc::clone(&folder), certificates.clone(), Arc::clone(&clock));
        Arc::new(Papers::open(folder, shown, config.join_token.as_ref(), time)?)
    };
    let coordinator = Coordinator::new(&config.coordinator, &papers.trust)?;
    // Listening comes before the join, which names the port; until then requests are put off.
    let door = Door::default();
    let address = config.listen.address;
    let running = serve::start(address, certificates, router::router(door.clone())).await?;
    let url = config.advertise.clone().unwrap_or_else(|| running.url());
    let (identity, keys) = match known {
        Some(known) => known,
        None => join(&config, &coordinator, &folder, &room, &url).await?,
    };
    folder.settle();
    let (server, name) = (identity.server, identity.name.clone());
    let (known, keeping) = ((identity, keys), (papers, clock));
    let open = Arc::new(Server::open(folder, known, keeping, room, &config)?);
    let _ = door.set(Arc::clone(&open));
    let mut tasks = JoinSet::new();
    tasks.spawn(scrub::run(Arc::clone(&open)));
    let said = say_hello(&coordinator, &open, &url).await;
    if let Err(error) = &said {
        tracing::warn!(%error, "the coordinator did not hear the hello; trying on");
    }
    tasks.spawn(keep_saying_hello(coordinator, Arc::clone(&open), url, said.is_ok()));
    Ok(Storage { running, server, name, open, tasks, drain: config.drain })
}

/// Whether the folder has only what a first start that was cut off leaves: the next one takes it.
///
/// # Errors
///
/// It cannot be listed.
pub fn is_cut_off_start(folder: &Path) -> Result<bool> {
    folder::is_cut_off_start(folder)
}

impl Storage {
    /// Reads the shards that a pass over all of them in `rules.every` has due by now, for a server
    /// that begins none by itself. Dropped, it stops where it stands, and the next one goes on there.
    pub async fn scrub_due(&self, rules: &ScrubRules) -> Result<()> {
        scrub::due(&self.open, rules).await
    }

    /// Shards that scrubs of this process read, and the bytes of their files.
    pub fn scrubbed(&self) -> (u64, u64) {
        self.open.scrub.read()
    }

    /// Shards here that this process found bad and did not know to be: one that was made again
    /// meanwhile too.
    pub fn found_bad(&self) -> u64 {
        self.open.shelf.bad.added()
    }

    /// Takes no new requests, lets those under way finish for as long as was set, and leaves the
    /// folder to the next once nothing writes there any more.
    pub async fn stop(mut self) {
        self.tasks.abort_all();
        self.running.stop(self.drain).await;
        if self.open.finish_writes(LAST_WRITES).await {
            scrub::stop(&self.open).await;
            self.open.folder.unlock();
        }
    }
}

/// Joins under a new name and keeps the answer.
async fn join(
    config: &Config,
    coordinator: &Coordinator,
    folder: &Arc<Folder>,
    room: &Room,
    url: &str,
) -> Result<(Identity, Keys)> {
    // A folder without server.id was opened because there is a token.
    let secret = config.join_token.as_ref().map(|token| token.secret.as_str()).unwrap_or_default();
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = config.name.clone().unwrap_or_else(host);
    let zone = config.zone.clone().unwrap_or_else(host);
    let space = room.space()?;
    let request = JoinRequest {
        name: name.clone(),
        zone: zone.clone(),
        url: url.to_owned(),
        capacity_bytes: space.capacity_bytes,
        free_bytes: space.free_bytes,
        weight: config.weight,
    };
    let answer = coordinator.join(secret, &request).await?;
    let folder = Arc::clone(folder);
    blocking(move || Identity::keep(&folder, name, zone, &answer)).await
}

async fn say_hello(coordinator: &Coordinator, server: &Server, url: &str) -> Result<()> {
    let hello = server.hello(url);
    let answer = coordinator.hello(&hello).await?;
    server.answered(&hello, answer).await
}

/// Says hello again and again until it `is_heard`, and then when another certificate is due.
async fn keep_saying_hello(
    coordinator: Coordinator,
    server: Arc<Server>,
    url: String,
    mut is_heard: bool,
) {
    let (shortest, longest) = HELLO_PAUSES;
    let mut pause = shortest;
    loop {
        if is_heard {
            let Some(wait) = server.until_renewal() else { return };
            let (at_least, at_most) = RENEWAL_PAUSES;
            tokio::time::sleep(wait.clamp(at_least, at_most)).await;
            if wait > at_most {
                continue;
            }
        } else {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
        match say_hello(&coordinator, &server, &url).await {
            Ok(()) => {
                tracing::info!("the coordinator heard the hello");
                (is_heard, pause) = (true, shortest);
            }
            Err(error) if is_heard => {
                tracing::warn!(%error, "no new certificate yet; trying on");
                is_heard = false;
            }
            Err(error) => tracing::debug!(%error, "no hello yet"),
        }
    }
}
