//! The one writer: a thread that commits what waits together, in one transaction and so with
//! one sync. Each job is a savepoint, so a job that fails takes nothing else with it; nobody
//! is answered before the commit.

use std::thread::JoinHandle;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

use crate::coordinator::clock::Clock;
use crate::wire::{Code, Refusal};
use crate::{Error, Result};

/// Jobs committed together at most.
const GROUP_JOBS_MAX: usize = 64;
/// Jobs that wait at most; beyond that their senders do.
const WAITING_JOBS_MAX: usize = 256;

/// Runs inside a savepoint; says whether to keep what it did, and how to answer.
type Job = Box<dyn FnOnce(&Connection) -> (bool, Answer) + Send>;
/// Answers the one who asked, given that the transaction was committed or why not.
type Answer = Box<dyn FnOnce(Result<(), Refusal>) + Send>;

/// The writer thread's near end.
pub(super) struct Writer {
    /// `None` asks the thread to end.
    jobs: mpsc::Sender<Option<Job>>,
    thread: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread on its connection.
    pub(super) fn start(db: Connection, clock: Clock) -> Result<Self> {
        let (jobs, waiting) = mpsc::channel(WAITING_JOBS_MAX);
        let thread = std::thread::Builder::new()
            .name("catalog".into())
            .spawn(move || run(&db, clock, waiting))
            .map_err(Error::io("cannot start the thread of", "the catalog"))?;
        Ok(Self { jobs, thread: std::sync::Mutex::new(Some(thread)) })
    }

    /// Runs `work` in the next transaction and answers once that is committed.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |db| {
            let outcome = work(db);
            let keep = outcome.is_ok();
            let reply: Answer = Box::new(move |committed| {
                let outcome = outcome.and_then(|t| committed.map(|()| t).map_err(Error::Refuse));
                // The one who asked may have gone away; the work is committed all the same.
                let _ = answer.send(outcome);
            });
            (keep, reply)
        });
        let stopping = |_| Error::refuse(Code::Busy, "the coordinator is stopping");
        self.jobs.send(Some(job)).await.map_err(stopping)?;
        let dropped = "the catalog did not take this, see the coordinator's log";
        answered.await.map_err(|_| Error::refuse(Code::Internal, dropped))?
    }

    /// Commits what waits and ends the thread.
    pub(super) async fn stop(&self) {
        // An error means that the thread has ended.
        let _ = self.jobs.send(None).await;
        let thread = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

fn run(db: &Connection, clock: Clock, mut waiting: mpsc::Receiver<Option<Job>>) {
    let mut broken = None;
    while let Some(Some(first)) = waiting.blocking_recv() {
        let mut group = vec![first];
        let mut stop = false;
        while group.len() < GROUP_JOBS_MAX {
            match waiting.try_recv() {
                Ok(Some(job)) => group.push(job),
                Ok(None) => {
                    stop = true;
                    break;
                }
                Err(_) => break,
            }
        }
        commit_group(db, clock, group, &mut broken);
        if stop {
            break;
        }
    }
    // A copy of catalog.db alone, made while the coordinator is stopped, then has everything.
    if let Err(error) = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
        tracing::warn!(%error, "the catalog's log was not written into it");
    }
}

/// Runs and commits a group. After a failed write to disk nothing is tried again: what the
/// disk holds is unknown until the database is opened anew.
fn commit_group(db: &Connection, clock: Clock, group: Vec<Job>, broken: &mut Option<Refusal>) {
    let mut answers = Vec::with_capacity(group.len());
    let outcome = match &broken {
        Some(refusal) => Err(refusal.clone()),
        None => transaction(db, clock, group, &mut answers).map_err(|error| {
            tracing::error!(%error, "the catalog could not commit");
            // Nothing is left to roll back when SQLite has done so by itself.
            let _ = db.execute_batch("ROLLBACK");
            let refusal = refusal_of(&error);
            if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) {
                *broken = Some(refusal.clone());
            }
            refusal
        }),
    };
    for answer in answers {
        answer(outcome.clone());
    }
}

fn transaction(
    db: &Connection,
    clock: Clock,
    group: Vec<Job>,
    answers: &mut Vec<Answer>,
) -> rusqlite::Result<()> {
    db.execute_batch("BEGIN IMMEDIATE")?;
    for job in group {
        db.execute_batch("SAVEPOINT job")?;
        // A job that panics drops its answer, which its sender notices.
        let run = std::panic::AssertUnwindSafe(|| job(db));
        let keep = std::panic::catch_unwind(run).is_ok_and(|(keep, answer)| {
            answers.push(answer);
            keep
        });
        // Out of space or memory, SQLite rolls all back by itself: this then fails.
        db.execute_batch(if keep { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" })?;
    }
    db.prepare_cached("UPDATE meta SET time_ms = max(time_ms, ?1)")?.execute([clock.now_ms()])?;
    db.execute_batch("COMMIT")
}

fn refusal_of(error: &rusqlite::Error) -> Refusal {
    let (code, message) = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => (Code::NoSpace, "the coordinator's disk is full"),
        Some(ErrorCode::SystemIoFailure) => (
            Code::Internal,
            "the coordinator could not write its catalog; it takes no more until it is restarted",
        ),
        _ => (Code::Internal, "the catalog could not commit, see the coordinator's log"),
    };
    Refusal::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> (tempfile::TempDir, Connection) {
        let folder = tempfile::tempdir().unwrap();
        let db = Connection::open(folder.path().join("db")).unwrap();
        db.execute_batch(
            "CREATE TABLE meta (time_ms INTEGER); INSERT INTO meta VALUES (0);
             CREATE TABLE numbers (n INTEGER PRIMARY KEY, parent INTEGER
                 REFERENCES numbers DEFERRABLE INITIALLY DEFERRED);",
        )
        .unwrap();
        (folder, db)
    }

    fn job(sql: &'static str, sent: &std::sync::mpsc::Sender<Result<(), Code>>, keep: bool) -> Job {
        let sent = sent.clone();
        Box::new(move |db| {
            let keep = db.execute_batch(sql).is_ok() && keep;
            (keep, Box::new(move |done| sent.send(done.map_err(|r| r.code)).unwrap()))
        })
    }

    fn stored(db: &Connection) -> Vec<i64> {
        let mut rows = db.prepare("SELECT n FROM numbers ORDER BY n").unwrap();
        rows.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_job_that_fails_or_panics_is_rolled_back_alone() {
        let (_folder, db) = numbers();
        let (sent, _answers) = std::sync::mpsc::channel();
        let panics: Job = Box::new(|db| {
            db.execute_batch("INSERT INTO numbers VALUES (9, NULL)").unwrap();
            panic!("planted");
        });
        let group = vec![
            job("INSERT INTO numbers VALUES (1, NULL)", &sent, true),
            job("INSERT INTO numbers VALUES (2, NULL)", &sent, false),
            panics,
            job("INSERT INTO numbers VALUES (3, NULL); INSERT INTO no_such", &sent, true),
            job("INSERT INTO numbers VALUES (4, NULL)", &sent, true),
        ];
        commit_group(&db, Clock::after(0), group, &mut None);
        assert_eq!(stored(&db), [1, 4]);
    }

    #[test]
    fn a_commit_that_fails_is_an_error_for_all_and_keeps_nothing() {
        let (_folder, db) = numbers();
        let (sent, answers) = std::sync::mpsc::channel();
        let group = vec![
            job("INSERT INTO numbers VALUES (1, NULL)", &sent, true),
            // A deferred foreign key is checked by COMMIT.
            job("INSERT INTO numbers VALUES (2, 77)", &sent, true),
        ];
        commit_group(&db, Clock::after(0), group, &mut None);
        assert_eq!(answers.try_iter().collect::<Vec<_>>(), [Err(Code::Internal); 2]);
        assert!(stored(&db).is_empty());
        // The writer goes on.
        let group = vec![job("INSERT INTO numbers VALUES (5, NULL)", &sent, true)];
        commit_group(&db, Clock::after(0), group, &mut None);
        assert_eq!(answers.try_iter().collect::<Vec<_>>(), [Ok(())]);
        assert_eq!(stored(&db), [5]);
    }
}
