//! Puts stamps on record: on so many servers that a rebuild finds each, before anybody is told.
//!
//! The chain is the catalog's; every server is brought up to its end in pages. A snapshot is kept
//! once enough servers have its fact and all before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use codec::fact::{self, Fact, Head};
use futures_util::future::join_all;
use reqwest::Method;
use tokio::sync::watch;

use super::fleet::{Fleet, HasFacts, Member};
use super::prober::Missed;
use super::router::bad_request;
use super::{Core, prober};
use crate::wire::{
    Blob, Code, FACTS_PER_PAGE_MAX, FactsPage, FactsQuery, PutFacts, ServerId, State as Health,
};
use crate::{Error, Result};

/// How long a server may take to store a page of facts, or to give one.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a snapshot's commit waits for servers to take its fact.
const STAMP_TIMEOUT: Duration = Duration::from_secs(20);

/// The chain's ends, as in the catalog.
pub(super) struct Facts {
    /// Of all, and of those that are stored.
    heads: watch::Sender<(Head, Head)>,
    /// Whether the catalog was made anew or comes from a backup, and does not know yet what
    /// servers hold.
    is_new: AtomicBool,
}

impl Facts {
    pub(super) fn new(heads: (Head, Head), is_new: bool) -> Self {
        Self { heads: watch::Sender::new(heads), is_new: AtomicBool::new(is_new) }
    }

    /// The end of those that are stored.
    pub(super) fn stored(&self) -> Head {
        self.heads.borrow().1
    }

    /// The end of all.
    pub(super) fn all(&self) -> Head {
        self.heads.borrow().0
    }

    /// Whether the catalog waits for a rebuild.
    pub(super) fn is_new(&self) -> bool {
        self.is_new.load(Ordering::Acquire)
    }

    /// It has stamps whose snapshots it does not know yet.
    pub(super) fn unsettled(&self) {
        self.is_new.store(true, Ordering::Release);
    }

    /// The rebuild is over.
    pub(super) fn settled(&self) {
        self.is_new.store(false, Ordering::Release);
    }

    /// Why no push is taken, if the catalog does not know all that servers do.
    pub(super) fn why_old(&self, fleet: &Fleet) -> Option<String> {
        if self.is_new() {
            let what = "this catalog was made anew, or comes from a backup, and does not know yet \
                        what the servers hold: arc catalog rebuild";
            return Some(what.to_owned());
        }
        let knows_more = |m: &&Member| m.facts == HasFacts::Others;
        let names: Vec<String> = fleet.with_members(|members| {
            members.values().filter(knows_more).map(|m| m.row.name.clone()).collect()
        });
        (!names.is_empty()).then(|| {
            format!(
                "servers know of snapshots that this catalog does not ({}): it is an older copy: \
                 arc catalog rebuild --merge",
                names.join(", ")
            )
        })
    }

    /// Refuses what a catalog must not do that does not know all that servers do.
    pub(super) fn must_be_current(&self, fleet: &Fleet) -> Result<()> {
        self.why_old(fleet).map_or(Ok(()), |why| Err(Error::refuse(Code::CatalogOld, why)))
    }
}

/// Reads the chain's ends anew.
pub(super) async fn grown(core: &Core) -> Result<()> {
    let (all, stored) = core.catalog.heads().await?;
    core.facts.heads.send_if_modified(|heads| {
        // Whoever read them earlier may come later.
        let newer = all.number > heads.0.number || stored.number > heads.1.number;
        if newer {
            *heads = (
                if all.number > heads.0.number { all } else { heads.0 },
                if stored.number > heads.1.number { stored } else { heads.1 },
            );
        }
        newer
    });
    Ok(())
}

/// A server said with a probe, which `before` was sent to, how far its facts go.
pub(super) async fn heard(core: &Core, before: &Member, said: Option<Head>) {
    let has = match said {
        None => Ok(HasFacts::None),
        Some(said) => compared(core, before, said).await,
    };
    let has = has.unwrap_or_else(|why| {
        let name = &before.row.name;
        tracing::warn!(name, why, "what a server says of its facts does not hold");
        HasFacts::Unknown
    });
    core.fleet.has_facts(before.row.server, has, before.given);
}

/// Has those servers say how far their facts go that are here and have not said it yet.
pub(super) async fn ask_all(core: &Core) {
    let open = |m: &&Member| {
        m.facts == HasFacts::Unknown && matches!(m.health.state, Health::Up | Health::Returned)
    };
    let members: Vec<Member> =
        core.fleet.with_members(|members| members.values().filter(open).cloned().collect());
    let asks: Vec<_> = members.iter().map(|member| ask(core, member)).collect();
    join_all(asks).await;
}

async fn ask(core: &Core, member: &Member) {
    match put(core, member, Vec::new()).await {
        Ok(said) => heard(core, member, Some(said)).await,
        Err(missed) if missed.code == Some(Code::NotFound) => heard(core, member, None).await,
        Err(missed) => {
            tracing::debug!(name = member.row.name, why = missed.why, "it did not say its facts");
        }
    }
}

/// Gives a server facts, none perhaps; how far its own go then.
async fn put(core: &Core, member: &Member, facts: Vec<Vec<u8>>) -> Result<Head, Missed> {
    let body = PutFacts { facts: facts.into_iter().map(Blob).collect() };
    let (put, epoch) = (Method::PUT, core.catalog.epoch());
    let bytes = prober::control(core, member, epoch, put, "facts", &body, PAGE_TIMEOUT).await?;
    Ok(serde_json::from_slice(&bytes).map_err(text)?)
}

async fn compared(core: &Core, member: &Member, said: Head) -> Result<HasFacts, String> {
    let all = core.facts.all();
    if said.number <= all.number {
        let known = core.catalog.fact_hash(said.number).await.map_err(text)?;
        if known == Some(said.hash) {
            return Ok(HasFacts::To(said.number));
        }
    }
    // Only what the coordinator itself once signed shows that the catalog is not whole.
    let after = all.number.min(said.number.saturating_sub(1));
    let page = page_of(core, member, after).await.map_err(|missed| missed.why)?;
    let bytes = page.first().ok_or("it has not the facts that it names")?;
    let fact = Fact::open(bytes, &core.signer.public_key()).map_err(text)?;
    let is = (fact.vault, fact.number) == (core.catalog.vault, after + 1);
    match core.catalog.fact_hash(after + 1).await.map_err(text)? {
        // It was made meanwhile.
        Some(known) if known == fact::hash(bytes) => Ok(HasFacts::To(after + 1)),
        _ if is => Ok(HasFacts::Others),
        _ => Err("it gives another fact than it was asked for".to_owned()),
    }
}

/// A page of a server's facts, not checked yet.
pub(super) async fn page_of(
    core: &Core,
    member: &Member,
    after: u64,
) -> Result<Vec<Vec<u8>>, Missed> {
    let path = format!("facts?after={after}");
    let (get, epoch) = (Method::GET, core.catalog.epoch());
    let sent = prober::control(core, member, epoch, get, &path, &(), PAGE_TIMEOUT);
    let bytes = sent.await?;
    let FactsPage { facts } = serde_json::from_slice(&bytes).map_err(text)?;
    if facts.len() > FACTS_PER_PAGE_MAX {
        return Err(format!("{} facts in one page", facts.len()).into());
    }
    Ok(facts.into_iter().map(|fact| fact.0).collect())
}

/// Gives a server the facts that it lacks.
pub(super) async fn give(core: &Core, server: ServerId) {
    if let Err(error) = give_all(core, server).await {
        tracing::warn!(server = server.0, %error, "facts were not given");
    }
}

async fn give_all(core: &Core, server: ServerId) -> Result<()> {
    loop {
        let Some(member) = core.fleet.get(server) else { return Ok(()) };
        let HasFacts::To(has) = member.facts else { return settle(core).await };
        if has >= core.facts.all().number {
            return settle(core).await;
        }
        let facts = core.catalog.facts(has, FACTS_PER_PAGE_MAX, false).await?;
        match put(core, &member, facts).await {
            Ok(head) => {
                let known = core.catalog.fact_hash(head.number).await?;
                if head.number <= has || known != Some(head.hash) {
                    let what = format!("{} has other facts than it was given", member.row.name);
                    return Err(Error::refuse(Code::Internal, what));
                }
                core.fleet.gave_facts(server, head.number);
                settle(core).await?;
            }
            // What it has instead, the next probe finds out.
            Err(missed) => return Err(Error::refuse(Code::Busy, missed.why)),
        }
    }
}

/// Has the snapshots kept whose facts enough servers have.
async fn settle(core: &Core) -> Result<()> {
    if core.facts.stored().number >= core.facts.all().number {
        return Ok(());
    }
    let mut to = None;
    for unstored in core.catalog.unstored().await? {
        let (has, able) = counts(&core.fleet, unstored.number);
        if has < unstored.copies.min(able) {
            break;
        }
        to = Some(unstored.number);
    }
    if let Some(to) = to {
        core.catalog.facts_stored(to).await?;
    }
    grown(core).await
}

/// How many servers have a fact, and how many could: those of older builds cannot.
fn counts(fleet: &Fleet, number: u64) -> (usize, usize) {
    fleet.with_members(|members| {
        let has = |m: &&Member| matches!(m.facts, HasFacts::To(to) if to >= number);
        let able = |m: &&Member| m.facts != HasFacts::None;
        (members.values().filter(has).count(), members.values().filter(able).count())
    })
}

/// Has a fact that is in the catalog stored on enough servers; all are asked at once.
pub(super) async fn store(core: &Arc<Core>, number: u64) -> Result<()> {
    grown(core).await?;
    ask_all(core).await;
    let mut heads = core.facts.heads.subscribe();
    let asked: Vec<ServerId> = core.fleet.with_members(|members| {
        let here = |m: &&Member| !matches!(m.health.state, Health::Down | Health::Lost);
        members.values().filter(here).map(|m| m.row.server).collect()
    });
    // Those that are slow go on by themselves.
    let gives = asked.into_iter().map(|server| {
        let core = Arc::clone(core);
        tokio::spawn(async move { give(&core, server).await })
    });
    let gives: Vec<_> = gives.collect();
    settle(core).await?;
    let stored = async { heads.wait_for(|heads| heads.1.number >= number).await.is_ok() };
    let enough = tokio::select! {
        biased;
        stored = stored => stored,
        _ = join_all(gives) => core.facts.stored().number >= number,
        () = tokio::time::sleep(STAMP_TIMEOUT) => false,
    };
    if enough {
        return Ok(());
    }
    core.facts.must_be_current(&core.fleet)?;
    let (has, able) = counts(&core.fleet, number);
    let what = format!(
        "the snapshot's stamp is on {} of {able}: too few to be sure of it; it is saved once more \
         of them take it",
        if has == 1 { "1 server".to_owned() } else { format!("{has} servers") }
    );
    Err(Error::refuse(Code::TooFewServers, what))
}

/// `GET /v1/facts`: those that are stored.
pub(super) async fn page(
    State(core): State<Arc<Core>>,
    query: Result<Query<FactsQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<FactsPage>> {
    let Query(FactsQuery { after, limit }) =
        query.map_err(|e| bad_request(format!("the query: {e}")))?;
    let limit = limit.map_or(FACTS_PER_PAGE_MAX, |limit| limit as usize);
    let facts = core.catalog.facts(after, limit.clamp(1, FACTS_PER_PAGE_MAX), true).await?;
    Ok(Json(FactsPage { facts: facts.into_iter().map(Blob).collect() }))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
