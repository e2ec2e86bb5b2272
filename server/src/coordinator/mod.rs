//! The coordinator: the catalog and what decides by it.
//!
//! `health`, `placement` and `lease` decide, purely. `catalog` has all SQL. The rest are thin
//! shells: `router` with the requests of `push`, `read`, `coverage` and `servers`, the `prober`, `reconcile`
//! that compares what servers hold with the catalog, the `audit` that draws samples of it, `backup`
//! that keeps the folder on the servers too, the `certifier` with the vault's CA, the log of `events`,
//! and the `folder` that it all lies in.

mod adopt;
mod audit;
mod backup;
mod catalog;
mod certifier;
mod clock;
mod coverage;
mod events;
mod facts;
mod fail_points;
mod fleet;
mod folder;
mod health;
mod lease;
mod placement;
mod prober;
mod push;
mod read;
mod rebuild;
mod reconcile;
mod repair;
mod roster;
mod router;
mod servers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

pub use self::fail_points::FailPoint;

use self::backup::Backups;
pub use self::catalog::check_catalog;
use self::catalog::{Catalog, TokenRow};
use self::certifier::Certifier;
use self::clock::millis;
use self::events::{Journal, Kind, Told};
use self::facts::Facts;
use self::fleet::{Fleet, Rules};
use self::folder::Folder;
use self::placement::Rates;
pub use self::rebuild::{Rebuilt, rebuild};
use self::reconcile::Comparisons;
use self::repair::Repairs;
use crate::auth::{Grant, Role, Ticket, TicketSigner, Token};
use crate::client::Servers;
use crate::fail_point::{FailAt, Planted};
use crate::serve::{self, Listen, Running};
use crate::wire::ServerId;
use crate::{Error, Result};

/// How a coordinator is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its folder: catalog.db, keys/, owner.token, join.token.
    pub data: PathBuf,
    /// Where it listens.
    pub listen: Listen,
    /// The URL that goes into tokens, when it is not the one it listens on.
    pub advertise: Option<String>,
    /// Timings.
    pub timings: Timings,
    /// Where it is to kill itself, for a test.
    pub fail_at: Option<FailAt<FailPoint>>,
}

/// The coordinator's timings; the defaults are the design's.
#[derive(Debug, Clone)]
pub struct Timings {
    /// From one probe of a server to the next: 3 s.
    pub probe_every: Duration,
    /// How long a probe waits for its answer: 1 s.
    pub probe_timeout: Duration,
    /// Misses in a row that make a server suspect: 3.
    pub misses: u32,
    /// Good probes in a row that bring it back: 3.
    pub good: u32,
    /// Silence that makes a suspect server down: 120 s.
    pub down_after: Duration,
    /// Silence after which a server is lost: 15 min; doubled for each time that it was down in
    /// the 24 h before.
    pub grace: Duration,
    /// What the grace grows to at most: 4 h.
    pub grace_max: Duration,
    /// How long servers that are away are waited for by stripes with nothing to spare: 5 min.
    pub grace_thin: Duration,
    /// Servers that go within this time go together: 10 min.
    pub brake_within: Duration,
    /// How long repair then waits: 1 h; not at all, if 0.
    pub brake: Duration,
    /// From one comparison of what a server holds with the catalog to the next: 24 h, the first at
    /// the start. If 0, only servers that are back, or find something, are compared.
    pub compare_every: Duration,
    /// From one audit of each server to the next: 1 h; none, if 0.
    pub audit_every: Duration,
    /// How long a lease lasts: 24 h.
    pub lease: Duration,
    /// Whether pushes outlive a stop of the coordinator: their leases are then given back the
    /// time that it was away. Where they do not, a start ends the leases.
    pub pushes_outlive: bool,
    /// How long a ticket lasts: 15 min; never beyond its lease.
    pub ticket: Duration,
    /// The ledger of repair is looked at this often at most: 1 s; with 0 only what is asked for is
    /// repaired.
    pub repair_every: Duration,
    /// From one backup of the coordinator's folder to the next: 24 h, and none where nothing was
    /// committed since. If 0, they are made on request only.
    pub backup_every: Duration,
    /// How long certificates last: 90 days. They are renewed with a third of that left.
    pub certificate: Duration,
    /// How long requests under way may take to finish when it stops.
    pub drain: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            probe_every: Duration::from_secs(3),
            probe_timeout: Duration::from_secs(1),
            misses: 3,
            good: 3,
            down_after: Duration::from_secs(120),
            grace: Duration::from_secs(15 * 60),
            grace_max: Duration::from_secs(4 * 3600),
            grace_thin: Duration::from_secs(5 * 60),
            brake_within: Duration::from_secs(10 * 60),
            brake: Duration::from_secs(3600),
            compare_every: Duration::from_secs(24 * 3600),
            audit_every: Duration::from_secs(3600),
            lease: Duration::from_secs(24 * 3600),
            pushes_outlive: true,
            ticket: Duration::from_secs(15 * 60),
            repair_every: Duration::from_secs(1),
            backup_every: Duration::from_secs(24 * 3600),
            certificate: Duration::from_secs(90 * 24 * 3600),
            drain: Duration::from_secs(30),
        }
    }
}

/// A running coordinator.
pub struct Coordinator {
    /// Its HTTP service.
    pub running: Running,
    /// What a client needs.
    pub owner: Token,
    /// What a joining server needs.
    pub join: Token,
    core: Arc<Core>,
    /// What goes through the ledger of repair, and what makes backups.
    keepers: Vec<AbortHandle>,
    drain: Duration,
}

/// What all requests share.
struct Core {
    catalog: Catalog,
    fleet: Fleet,
    journal: Arc<Journal>,
    rates: Rates,
    repairs: Repairs,
    comparisons: Comparisons,
    backups: Backups,
    signer: Arc<TicketSigner>,
    facts: Facts,
    tokens: [TokenRow; 2],
    /// The vault record, once there is one.
    record: watch::Sender<Option<Arc<[u8]>>>,
    timings: Timings,
    planted: Planted<FailPoint>,
    certifier: Certifier,
    /// For what is asked of servers.
    servers: Servers,
    folder: Folder,
    roster: roster::Written,
    adoption: adopt::State,
}

/// Starts the coordinator: opens (or makes) its folder, takes its lock, raises the epoch, listens, probes.
pub async fn start(config: Config) -> Result<Coordinator> {
    let Config { data, listen, advertise, timings, fail_at } = config;
    let certificates = listen.certificates(advertise.as_deref())?;
    let folder = Folder::take(&data)?;
    folder.must_have_catalog()?;
    let place = (listen.address, advertise.as_deref());
    let certifier =
        Certifier::new(folder.authority()?, certificates.clone(), place, timings.certificate)?;
    let signer = Arc::new(TicketSigner::from_seed(&folder.ticket_seed()?)?);
    let (catalog, record) = Catalog::open(&folder.catalog(), timings.pushes_outlive)?;
    let (owner, owner_row) = token(&catalog, &folder, Role::Owner).await?;
    let (join, join_row) = token(&catalog, &folder, Role::Join).await?;
    let renew_ms = certifier.renew(catalog.clock.now_ms())?;
    let pins: Vec<String> = certifier.pins().iter().map(ToString::to_string).collect();
    let now_ms = catalog.clock.now_ms();
    let journal = Arc::new(Journal::new(!timings.pushes_outlive));
    journal.note(Told::of(Kind::Started, format!("epoch {}", catalog.epoch())), now_ms);
    let rows = catalog.servers().await?;
    let fleet = Fleet::new(rows, rules(&timings), Arc::clone(&journal), now_ms);
    let settings = catalog.settings().await?;
    let repairs = Repairs::new(&settings);
    catalog.stamp_kept(Arc::clone(&signer)).await?;
    let is_new = settings.iter().any(|(name, _)| name == catalog::IS_NEW);
    let facts = Facts::new(catalog.heads().await?, is_new);
    let drain = timings.drain;
    let core = Arc::new(Core {
        fleet,
        journal,
        rates: Rates::default(),
        repairs,
        comparisons: Comparisons::new(),
        backups: Backups::new(catalog.clock.now_ms()),
        signer,
        facts,
        tokens: [owner_row, join_row],
        record: watch::Sender::new(record.map(Into::into)),
        timings,
        planted: Planted::new(fail_at),
        servers: Servers::new(&certifier.trust(catalog.clock)),
        certifier,
        catalog,
        folder,
        roster: roster::Written::default(),
        adoption: adopt::State::default(),
    });
    roster::write(&core).await?;
    let running =
        serve::start(listen.address, certificates, router::router(Arc::clone(&core))).await?;
    let url = advertise.unwrap_or_else(|| running.url());
    let ca = pins.join(",");
    let [owner, join] =
        [owner, join].map(|token| Token { url: url.clone(), ca: ca.clone(), ..token });
    core.folder.write_token(&owner)?;
    core.folder.write_token(&join)?;
    for member in core.fleet.members() {
        tokio::spawn(prober::watch(Arc::downgrade(&core), member.row.server));
    }
    tokio::spawn(prober::note(Arc::downgrade(&core)));
    tokio::spawn(events::keep(Arc::downgrade(&core)));
    let mut keepers = vec![tokio::spawn(backup::keep(Arc::downgrade(&core))).abort_handle()];
    if !core.timings.repair_every.is_zero() {
        keepers.push(tokio::spawn(repair::keep(Arc::downgrade(&core))).abort_handle());
    }
    if let Some(renew_ms) = renew_ms {
        tokio::spawn(certifier::keep_renewing(Arc::downgrade(&core), renew_ms));
    }
    if !core.timings.audit_every.is_zero() {
        tokio::spawn(audit::run(Arc::downgrade(&core), core.timings.audit_every));
    }
    tracing::info!(url, epoch = core.catalog.epoch(), "coordinator started");
    Ok(Coordinator { running, owner, join, core, keepers, drain })
}

fn rules(timings: &Timings) -> Rules {
    let probe = timings.probe_every.saturating_add(timings.probe_timeout);
    Rules {
        health: health::Rules {
            misses: timings.misses,
            good: timings.good,
            down_after_ms: millis(timings.down_after),
            grace_ms: millis(timings.grace),
            grace_max_ms: millis(timings.grace_max),
            // A busy machine is late; one that slept is much later.
            listen_ms_max: millis(probe.saturating_mul(3)),
        },
        brake: health::brake::Rules {
            within_ms: millis(timings.brake_within),
            hold_ms: millis(timings.brake),
        },
        thin_ms: millis(timings.grace_thin),
    }
}

impl Coordinator {
    /// Repairs what is due by its ledger, for one that does not do so by itself. Dropped, it stops
    /// where it stands.
    pub async fn repair_due(&self) -> Result<()> {
        repair::repair_due(&self.core).await
    }

    /// Stops probing and serving, and closes the catalog.
    pub async fn stop(self) {
        self.keepers.iter().for_each(AbortHandle::abort);
        self.running.stop(self.drain).await;
        self.core.comparisons.stop();
        self.core.adoption.stop();
        self.core.repairs.stop();
        prober::note_now(&self.core).await;
        events::write(&self.core, true).await;
        self.core.catalog.close().await;
        self.core.folder.release();
    }
}

/// The token of a role. Its file is the only place with its secret: where it is gone, a new
/// secret takes its place, and what was handed out before is worth nothing.
async fn token(catalog: &Catalog, folder: &Folder, role: Role) -> Result<(Token, TokenRow)> {
    let known = catalog.token(role).await?;
    match (folder.read_token(role)?, known) {
        (Some(token), Some(row)) if Token::secret_hash(&token.secret).0 == row.hash => {
            Ok((token, row))
        }
        (Some(_), _) => Err(Error::Config(format!(
            "the {role:?} token in the folder is not the one that its catalog knows; delete that \
             file to have a new one made"
        ))),
        (None, _) => {
            let token = Token::generate(role, String::new())?;
            let hash = Token::secret_hash(&token.secret).0;
            Ok((token, catalog.set_token(role, hash).await?))
        }
    }
}

impl Core {
    /// A ticket of `epoch`: the present one, as what goes with it says.
    fn ticket(
        &self,
        grant: Grant,
        server: ServerId,
        epoch: u64,
        issued_ms: u64,
        expires_ms: u64,
    ) -> Result<String> {
        let vault = self.catalog.vault;
        self.signer.sign(&Ticket { grant, vault, server, epoch, issued_ms, expires_ms })
    }
}
