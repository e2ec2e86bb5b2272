//! The coordinator's endpoints as functions.

use std::time::{Duration, Instant};

use codec::{ChunkId, StripeId};
use reqwest::{Method, RequestBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{http_client, json, unreachable};
use crate::tls::{Peer, Trust};
use crate::wire::{
    Adopt, Adoption, BackupBegun, BackupStatus, Begin, BeginRequest, Blob, CommitSnapshot,
    CommitStripe, Committed, Comparison, Coverage, CoverageRequest, Covered, Drill, Ended, Events,
    EventsQuery, FACTS_PER_PAGE_MAX, FactsPage, FactsQuery, HaveAnswer, HaveRequest, Ids,
    IndexRequest, Lease, LeaseId, LedgerRow, LocateAnswer, LocateRequest, Mode, NONCE_BYTES,
    OldestQuery, Page, PageQuery, PlaceRequest, Placement, PutVault, ReadTickets, RebalancePage,
    Renewed, RepairOrder, RepairRun, RepairStatus, Replaced, Report, Restored, ServerId,
    ServerInfo, SetMode, SetRepair, SnapshotRow, Status, StatusQuery, StripeCoverage, StripeIndex,
    StripeMap, StripeMapsRequest, Unmended, VaultInfo,
};
use crate::{Error, Result, auth};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause before a first retry; it doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(3);

/// How often it looks whether all servers have been compared.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A coordinator, spoken to with one token. Every request is idempotent, so all are
/// repeated while the coordinator is away, for as long as `patience` lasts.
#[derive(Clone)]
pub struct CoordinatorClient {
    http: reqwest::Client,
    url: String,
    secret: String,
    trust: Trust,
    patience: Duration,
}

impl CoordinatorClient {
    /// A client of the coordinator at `url` with a token's secret, which goes to nobody else:
    /// over TLS, only to one whom `trust` knows.
    pub fn new(url: &str, secret: &str, trust: &Trust) -> Result<Self> {
        Ok(Self {
            http: http_client(trust, Peer::Coordinator)?,
            trust: trust.clone(),
            url: url.trim_end_matches('/').to_owned(),
            secret: secret.to_owned(),
            patience: Duration::from_secs(5),
        })
    }

    /// The same with another patience.
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    /// The coordinator's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whom it trusts.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// What the vault is.
    pub async fn vault(&self) -> Result<VaultInfo> {
        self.get("/v1/vault", &()).await
    }

    /// Makes the vault; refused when there is one.
    pub async fn put_vault(&self, record: Vec<u8>) -> Result<VaultInfo> {
        let body = PutVault { record: Blob(record) };
        self.patiently(|| self.request(Method::PUT, "/v1/vault").json(&body)).await
    }

    /// Counts of all kinds, but for that of the chunks unless it is asked for.
    pub async fn status(&self, query: StatusQuery) -> Result<Status> {
        self.get("/v1/status", &query).await
    }

    /// A page of the event log.
    pub async fn events(&self, query: &EventsQuery) -> Result<Events> {
        self.get("/v1/events", query).await
    }

    /// A page of the servers.
    pub async fn servers(&self, query: &PageQuery) -> Result<Page<ServerInfo>> {
        self.get("/v1/servers", query).await
    }

    /// Begins a push.
    pub async fn begin(&self, request: &BeginRequest) -> Result<Lease> {
        let nonce = Blob(auth::random::<NONCE_BYTES>()?.to_vec());
        let begin = Begin { nonce, request: request.clone() };
        let lease: Lease = self.post("/v1/leases", &begin).await?;
        self.check_snapshots(&lease.parent)?;
        Ok(lease)
    }

    /// Prolongs a push's lease.
    pub async fn renew(&self, lease: LeaseId) -> Result<Renewed> {
        self.post(&format!("/v1/leases/{}/renew", lease.0), &()).await
    }

    /// Has all that lacks shards tried once; gives the run that does it, which may be one that
    /// was under way.
    pub async fn begin_repairs(&self) -> Result<RepairRun> {
        self.post("/v1/repairs", &()).await
    }

    /// The last run, if there was any since the coordinator's start.
    pub async fn repairs(&self) -> Result<Option<RepairRun>> {
        self.get("/v1/repairs", &()).await
    }

    /// A page of what it tried that lacks shards still.
    pub async fn unmended(&self, query: &PageQuery) -> Result<Page<Unmended>> {
        self.get("/v1/repairs/unmended", query).await
    }

    /// A page of what a rebalance would move.
    pub async fn rebalance_plan(&self, query: &PageQuery) -> Result<RebalancePage> {
        self.get("/v1/rebalance", query).await
    }

    /// When the stripe is repaired whose id begins with `digits`, and why then.
    pub async fn repair_order(&self, digits: &str) -> Result<RepairOrder> {
        self.get(&format!("/v1/stripes/{digits}/repair"), &()).await
    }

    /// Says what is wanted of a server from now on.
    pub async fn set_mode(&self, server: ServerId, mode: Mode) -> Result<()> {
        let path = format!("/v1/servers/{}/mode", server.0);
        self.patiently(|| self.request(Method::PUT, &path).json(&SetMode { mode })).await
    }

    /// Gives a server up, so that another can join by its name.
    pub async fn replace_server(&self, server: ServerId) -> Result<Replaced> {
        self.post(&format!("/v1/servers/{}/replace", server.0), &()).await
    }

    /// Forgets a server.
    pub async fn remove_server(&self, server: ServerId) -> Result<()> {
        let path = format!("/v1/servers/{}", server.0);
        self.patiently(|| self.request(Method::DELETE, &path)).await
    }

    /// Has a backup of the coordinator's folder made.
    pub async fn begin_backup(&self) -> Result<BackupBegun> {
        self.post("/v1/backup", &()).await
    }

    /// How backups stand.
    pub async fn backup(&self) -> Result<BackupStatus> {
        self.get("/v1/backup", &()).await
    }

    /// How repair is doing.
    pub async fn repair_status(&self) -> Result<RepairStatus> {
        self.get("/v1/repair", &()).await
    }

    /// Sets what people set of repair.
    pub async fn set_repair(&self, wanted: &SetRepair) -> Result<RepairStatus> {
        self.patiently(|| self.request(Method::PUT, "/v1/repair").json(wanted)).await
    }

    /// A page of the ledger of repair.
    pub async fn ledger(&self, query: &PageQuery) -> Result<Page<LedgerRow>> {
        self.get("/v1/ledger", query).await
    }

    /// Has what every server holds compared with the catalog, and waits for the end of that.
    pub async fn reconcile(&self) -> Result<Vec<Comparison>> {
        let mut all: Vec<Comparison> = self.post("/v1/reconcile", &()).await?;
        while all.iter().any(|comparison| comparison.running) {
            tokio::time::sleep(LOOK_EVERY).await;
            all = self.get("/v1/reconcile", &()).await?;
        }
        Ok(all)
    }

    /// Ends a push's lease; what it did not commit is left-over from here on.
    pub async fn end(&self, lease: LeaseId) -> Result<Ended> {
        let path = format!("/v1/leases/{}", lease.0);
        self.patiently(|| self.request(Method::DELETE, &path)).await
    }

    /// A page of the chunks that no stripe gives back any more.
    pub async fn lost_chunks(&self, query: &PageQuery) -> Result<Page<ChunkId>> {
        self.get("/v1/lost-chunks", query).await
    }

    /// Which of `chunks` are stored, in their order.
    pub async fn have(&self, lease: LeaseId, chunks: Vec<ChunkId>) -> Result<Vec<bool>> {
        let asked = chunks.len();
        let request = HaveRequest { lease, chunks: Ids(chunks) };
        let answer: HaveAnswer = self.post("/v1/have", &request).await?;
        if answer.have.len() != asked || answer.have.bytes().any(|c| !matches!(c, b'0' | b'1')) {
            return Err(super::nonsense(&self.name(), "have: not one answer a chunk"));
        }
        Ok(answer.have.bytes().map(|c| c == b'1').collect())
    }

    /// Asks where the shards of a stripe shall go.
    pub async fn place(&self, request: &PlaceRequest) -> Result<Placement> {
        self.post("/v1/place", request).await
    }

    /// Makes a stripe known.
    pub async fn commit_stripe(&self, request: &CommitStripe) -> Result<Committed> {
        self.post("/v1/stripes", request).await
    }

    /// Makes a snapshot known.
    pub async fn commit_snapshot(&self, request: &CommitSnapshot) -> Result<SnapshotRow> {
        let row: SnapshotRow = self.post("/v1/snapshots", request).await?;
        self.check_snapshots([&row])?;
        Ok(row)
    }

    /// A page of the kept snapshots, newest first.
    pub async fn snapshots(&self, query: &PageQuery) -> Result<Page<SnapshotRow>> {
        let page: Page<SnapshotRow> = self.get("/v1/snapshots", query).await?;
        self.check_snapshots(&page.rows)?;
        Ok(page)
    }

    /// Where `chunks` are.
    pub async fn locate(&self, chunks: Vec<ChunkId>) -> Result<LocateAnswer> {
        let asked = chunks.len();
        let request = LocateRequest { chunks: Ids(chunks) };
        let answer: LocateAnswer = self.post("/v1/locate", &request).await?;
        let stripes = answer.stripes.len() as u64;
        let sound = answer.places.len() == asked
            && answer.places.iter().flatten().all(|&(stripe, _)| u64::from(stripe) < stripes);
        if !sound {
            return Err(super::nonsense(&self.name(), "locate: places that are not in the answer"));
        }
        self.check_maps(&answer.stripes)?;
        Ok(answer)
    }

    /// The maps of `stripes`.
    pub async fn stripe_maps(&self, stripes: Vec<StripeId>) -> Result<Vec<StripeMap>> {
        let maps: Vec<StripeMap> =
            self.post("/v1/stripe-maps", &StripeMapsRequest { stripes }).await?;
        self.check_maps(&maps)?;
        Ok(maps)
    }

    /// A page of all stripes.
    pub async fn stripes(&self, query: &PageQuery) -> Result<Page<StripeMap>> {
        let page: Page<StripeMap> = self.get("/v1/stripes", query).await?;
        self.check_maps(&page.rows)?;
        Ok(page)
    }

    /// Tickets for reading on every server.
    pub async fn read_tickets(&self) -> Result<ReadTickets> {
        self.post("/v1/read-tickets", &()).await
    }

    /// A page of the stored facts after this number.
    pub async fn facts(&self, after: u64) -> Result<Vec<Vec<u8>>> {
        let query = FactsQuery { after, limit: None };
        let FactsPage { facts } = self.get("/v1/facts", &query).await?;
        if facts.len() > FACTS_PER_PAGE_MAX {
            return Err(super::nonsense(&self.name(), "more facts than a page has"));
        }
        Ok(facts.into_iter().map(|fact| fact.0).collect())
    }

    /// Has the catalog take in what servers hold and it does not know; `told` hears how far that
    /// is, until its end.
    pub async fn adopt(&self, merge: bool, mut told: impl FnMut(&Adoption)) -> Result<Adoption> {
        let mut adoption: Adoption = self.post("/v1/adoption", &Adopt { merge }).await?;
        while adoption.running {
            told(&adoption);
            tokio::time::sleep(LOOK_EVERY).await;
            adoption = self.get("/v1/adoption", &()).await?;
        }
        told(&adoption);
        Ok(adoption)
    }

    /// Makes the stamped snapshots known again whose records were found.
    pub async fn finish_adoption(&self) -> Result<Restored> {
        self.post("/v1/adoption/finish", &()).await
    }

    /// A page of adopted stripes of which only the shards are known.
    pub async fn unindexed(&self, query: &PageQuery) -> Result<Page<StripeMap>> {
        let page: Page<StripeMap> = self.get("/v1/unindexed", query).await?;
        self.check_maps(&page.rows)?;
        Ok(page)
    }

    /// Says what is in them.
    pub async fn index(&self, stripes: Vec<StripeIndex>) -> Result<()> {
        self.post("/v1/index", &IndexRequest { stripes }).await
    }

    /// Tells of a shard that was found missing, damaged or whole.
    pub async fn report(&self, report: &Report) -> Result<()> {
        self.post("/v1/reports", report).await
    }

    /// Tells what was found good just now.
    pub async fn note_coverage(&self, stripes: Vec<Covered>) -> Result<()> {
        self.post("/v1/coverage", &Coverage { stripes }).await
    }

    /// A page of all stripes, those first that were looked at longest ago.
    pub async fn oldest_stripes(&self, query: &OldestQuery) -> Result<Page<StripeMap>> {
        let page: Page<StripeMap> = self.get("/v1/coverage/oldest", query).await?;
        self.check_maps(&page.rows)?;
        Ok(page)
    }

    /// When each of `stripes` was last looked at.
    pub async fn coverage(&self, stripes: Vec<StripeId>) -> Result<Vec<StripeCoverage>> {
        self.post("/v1/coverage/stripes", &CoverageRequest { stripes }).await
    }

    /// Tells of a drill that was held.
    pub async fn note_drill(&self, drill: &Drill) -> Result<()> {
        self.post("/v1/drills", drill).await
    }

    /// Refuses maps that nobody can compute with, before anybody does.
    fn check_maps<'a>(&self, maps: impl IntoIterator<Item = &'a StripeMap>) -> Result<()> {
        match maps.into_iter().find(|map| !map.is_sound()) {
            None => Ok(()),
            Some(map) => {
                let why = format!("a map of stripe {:.12} that does not hold", map.stripe);
                Err(super::nonsense(&self.name(), why))
            }
        }
    }

    /// Snapshots are named by the stripe with their record.
    fn check_snapshots<'a>(&self, rows: impl IntoIterator<Item = &'a SnapshotRow>) -> Result<()> {
        for row in rows {
            self.check_maps([&row.stripe])?;
            if row.id != row.stripe.stripe {
                let why = format!("snapshot {:.12} with another's record", row.id);
                return Err(super::nonsense(&self.name(), why));
            }
        }
        Ok(())
    }

    fn name(&self) -> String {
        format!("coordinator {}", self.url)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &impl Serialize) -> Result<T> {
        self.patiently(|| self.request(Method::GET, path).query(query)).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.patiently(|| self.request(Method::POST, path).json(body)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(&self.secret)
            .timeout(REQUEST_TIMEOUT)
    }

    async fn patiently<T: DeserializeOwned>(
        &self,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<T> {
        let name = self.name();
        let began = Instant::now();
        let mut pause = RETRY_PAUSE;
        loop {
            let answer = match request().send().await {
                Ok(response) => json(&name, response).await,
                Err(error) => Err(unreachable(&name, &error)),
            };
            let passing = answer.as_ref().is_err_and(Error::is_passing);
            if !passing || began.elapsed() + pause > self.patience {
                return answer;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }
}
