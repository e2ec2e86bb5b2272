//! The event log: what happened, as people are told of it.
//!
//! `told` says what a change is called, `gather` what of it is written when; both are pure. Here
//! is where events wait until they are written, all of a second in one commit: a crash may lose
//! these, but nothing goes by them. What is committed anyway (a snapshot) has its event in the same
//! transaction.

mod gather;
mod told;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};

use self::gather::Gathered;
use super::Core;
use super::router::bad_request;
use crate::Result;
use crate::wire::{Events, EventsQuery};

pub(super) use self::gather::Happened;
pub(super) use self::told::{
    Kind, Told, of_brake, of_comparison, of_damage, of_health, of_mode, of_settings,
};

/// How often what happened is written.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Events that wait for the catalog at most; then the oldest are dropped.
const WAITING_MAX: usize = 1000;

/// Where events wait until they are written.
#[derive(Default)]
pub(super) struct Journal {
    inner: Mutex<Inner>,
    /// The services run for one command: what is seen meanwhile is no news.
    brief: bool,
}

#[derive(Default)]
struct Inner {
    gathered: Gathered,
    waiting: Vec<Happened>,
    dropped: u32,
}

impl Journal {
    /// That of a coordinator which runs for one command only, if `brief`.
    pub(super) fn new(brief: bool) -> Self {
        Self { inner: Mutex::default(), brief }
    }

    /// Takes note of something that happened now.
    pub(super) fn note(&self, told: impl Into<Option<Told>>, now_ms: u64) {
        let Some(told) = told.into() else { return };
        if self.brief && (told.kind.is_observed() || told.kind == Kind::Started) {
            return;
        }
        let mut inner = self.lock();
        let now = inner.gathered.add(told, now_ms);
        inner.wait(now);
    }

    /// Counts a stripe that was made whole, and the bytes made for it.
    pub(super) fn whole(&self, bytes: u64, now_ms: u64) {
        self.lock().gathered.whole(bytes, now_ms);
    }

    /// What is to be written; all that is held back too, if `last`.
    fn take(&self, now_ms: u64, last: bool) -> Vec<Happened> {
        let mut inner = self.lock();
        let due = if last { inner.gathered.rest(now_ms) } else { inner.gathered.due(now_ms) };
        inner.wait(due);
        let mut waiting = std::mem::take(&mut inner.waiting);
        match std::mem::take(&mut inner.dropped) {
            0 => {}
            times => {
                let what = Told::of(Kind::Dropped, "could not be written in time");
                waiting.insert(0, Happened { at_ms: now_ms, times, what });
            }
        }
        waiting
    }

    /// Has what could not be written wait for another try.
    fn put_back(&self, mut unwritten: Vec<Happened>) {
        let mut inner = self.lock();
        let newer = std::mem::take(&mut inner.waiting);
        unwritten.extend(newer);
        inner.wait(unwritten);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What stands there is whole after every statement.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn wait(&mut self, events: impl IntoIterator<Item = Happened>) {
        self.waiting.extend(events);
        let over = self.waiting.len().saturating_sub(WAITING_MAX);
        for dropped in self.waiting.drain(..over) {
            // One that tells of others stands for these.
            let count = if dropped.what.kind == Kind::Dropped { dropped.times } else { 1 };
            self.dropped = self.dropped.saturating_add(count);
        }
    }
}

/// Writes what happened every second, until the coordinator is gone.
pub(super) async fn keep(core: Weak<Core>) {
    loop {
        let Some(here) = core.upgrade() else { return };
        write(&here, false).await;
        drop(here);
        tokio::time::sleep(WRITE_EVERY).await;
    }
}

/// Writes what happened; all that is held back too, if `last`.
pub(super) async fn write(core: &Core, last: bool) {
    let events = core.journal.take(core.catalog.clock.now_ms(), last);
    if events.is_empty() {
        return;
    }
    let mut written = events.clone();
    for event in written.iter_mut().filter(|event| event.what.kind == Kind::Brake) {
        if let Ok(thin) = core.catalog.thin_stripes(core.fleet.up()).await {
            let stripes = told::plural(thin, "stripe");
            event.what.text.push_str(&format!("; nothing to spare meanwhile: {stripes}"));
        }
    }
    if let Err(error) = core.catalog.add_events(written).await {
        tracing::warn!(%error, "events could not be written");
        core.journal.put_back(events);
    }
}

/// `GET /v1/events`
pub(super) async fn list(
    State(core): State<Arc<Core>>,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Json<Events>> {
    let Query(query) = query.map_err(|e| bad_request(format!("the query: {e}")))?;
    core.catalog.events(query).await.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(journal: &Journal, now_ms: u64) -> Vec<String> {
        journal.take(now_ms, false).into_iter().map(|event| event.what.text).collect()
    }

    #[test]
    fn what_could_not_be_written_waits_in_its_order_and_the_oldest_go_with_a_count() {
        let journal = Journal::default();
        journal.note(Told::of(Kind::Mode, "1"), 1);
        let unwritten = journal.take(2, false);
        journal.note(Told::of(Kind::Mode, "2"), 2);
        journal.put_back(unwritten);
        assert_eq!(texts(&journal, 3), ["1", "2"]);
        (0..WAITING_MAX + 5).for_each(|n| journal.note(Told::of(Kind::Mode, n.to_string()), 4));
        let kept = journal.take(5, false);
        assert_eq!((kept.len(), kept[0].what.kind, kept[0].times), (1001, Kind::Dropped, 5));
        assert_eq!(kept[1].what.text, "5");
        // Not written either, it goes first, and those it stands for are counted still.
        journal.put_back(kept);
        journal.note(Told::of(Kind::Mode, "last"), 6);
        let kept = journal.take(7, false);
        assert_eq!((kept.len(), kept[0].what.kind, kept[0].times), (1001, Kind::Dropped, 6));
    }

    #[test]
    fn what_is_seen_while_a_command_runs_is_no_news_and_what_is_done_is() {
        let journal = Journal::new(true);
        for kind in [Kind::Started, Kind::Suspect, Kind::Damage, Kind::Mode] {
            journal.note(Told::of(kind, kind.name()), 1);
        }
        assert_eq!(texts(&journal, 2), ["mode"]);
    }
}
