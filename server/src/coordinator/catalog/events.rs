//! The event log.

use codec::StripeId;
use rusqlite::{Connection, params};

use super::Catalog;
use crate::Result;
use crate::coordinator::events::Happened;
use crate::wire::{Event, Events, EventsQuery, PAGE_ROWS_MAX};

/// Events kept.
const EVENTS_KEPT: u64 = 10_000;

impl Catalog {
    /// Adds these to the log, the oldest of which goes where it is full.
    pub(in crate::coordinator) async fn add_events(&self, events: Vec<Happened>) -> Result<()> {
        self.write(move |db| events.iter().try_for_each(|event| insert(db, event))).await
    }

    /// A page of the log.
    pub(in crate::coordinator) async fn events(&self, query: EventsQuery) -> Result<Events> {
        let now_ms = self.clock.now_ms();
        self.read(move |db| {
            let after = query.after.unwrap_or(0).min(i64::MAX as u64);
            let from_ms = query.within_ms.map_or(0, |within| now_ms.saturating_sub(within));
            let limit = query.limit.unwrap_or(PAGE_ROWS_MAX).min(PAGE_ROWS_MAX);
            let order = if query.newest { "DESC" } else { "ASC" };
            let newest: u64 = db
                .prepare_cached("SELECT coalesce(max(number), 0) FROM events")?
                .query_row([], |r| r.get(0))?;
            let mut rows = db.prepare_cached(&format!(
                "SELECT number, at_ms, kind, server, stripe, text, times FROM events
                 WHERE number > ?1 AND at_ms >= ?2 AND (?3 IS NULL OR server = ?3)
                 ORDER BY number {order} LIMIT ?4"
            ))?;
            // One more than wanted tells whether there are more.
            let rows =
                rows.query_map(params![after, from_ms, query.server, u64::from(limit) + 1], |r| {
                    Ok(Event {
                        number: r.get(0)?,
                        at_ms: r.get(1)?,
                        kind: r.get(2)?,
                        server: r.get(3)?,
                        stripe: r.get::<_, Option<[u8; 32]>>(4)?.map(StripeId),
                        text: r.get(5)?,
                        times: r.get(6)?,
                    })
                })?;
            let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let cut = rows.len() > limit as usize;
            rows.truncate(limit as usize);
            if query.newest {
                rows.reverse();
            }
            let more = cut && !query.newest;
            let last = rows.last().map_or(after, |row| row.number);
            Ok(Events { rows, seen: if more { last } else { newest }, more })
        })
        .await
    }
}

/// Adds one, along with what it tells of.
pub(super) fn insert(db: &Connection, event: &Happened) -> Result<()> {
    let Happened { at_ms, times, what } = event;
    let number: u64 = db
        .prepare_cached(
            "INSERT INTO events (at_ms, kind, server, stripe, text, times)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING number",
        )?
        .query_row(
            params![
                at_ms,
                what.kind.name(),
                what.server,
                what.stripe.map(|stripe| stripe.0),
                what.text,
                times
            ],
            |r| r.get(0),
        )?;
    db.prepare_cached("DELETE FROM events WHERE number <= ?1")?
        .execute([number.saturating_sub(EVENTS_KEPT)])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::events::{Kind, Told};

    async fn catalog() -> (tempfile::TempDir, Catalog) {
        let folder = tempfile::tempdir().unwrap();
        let (catalog, _) = Catalog::open(&folder.path().join("catalog.db"), true).unwrap();
        (folder, catalog)
    }

    fn happened(number: u64, server: &str) -> Happened {
        let what = Told::of(Kind::Suspect, format!("event {number}")).on(server);
        Happened { at_ms: number, times: 1, what }
    }

    async fn numbers(catalog: &Catalog, query: EventsQuery) -> (Vec<u64>, u64, bool) {
        let Events { rows, seen, more } = catalog.events(query).await.unwrap();
        (rows.iter().map(|row| row.number).collect(), seen, more)
    }

    #[tokio::test]
    async fn the_log_is_paged_filtered_and_read_from_its_end() {
        let (_folder, catalog) = catalog().await;
        assert_eq!(numbers(&catalog, EventsQuery::default()).await, (vec![], 0, false));
        let all = (1..=5).map(|n| happened(n, if n % 2 == 0 { "b" } else { "a" }));
        catalog.add_events(all.collect()).await.unwrap();
        let query = |after, limit, newest| EventsQuery {
            after: Some(after),
            limit: Some(limit),
            newest,
            ..EventsQuery::default()
        };
        assert_eq!(numbers(&catalog, query(0, 2, false)).await, (vec![1, 2], 2, true));
        assert_eq!(numbers(&catalog, query(2, 3, false)).await, (vec![3, 4, 5], 5, false));
        assert_eq!(numbers(&catalog, query(0, 2, true)).await, (vec![4, 5], 5, false));
        assert_eq!(numbers(&catalog, query(5, 2, false)).await, (vec![], 5, false));
        assert_eq!(numbers(&catalog, query(9, 2, false)).await, (vec![], 5, false), "a copy");
        let of_b = EventsQuery { server: Some("b".into()), ..query(2, 9, false) };
        assert_eq!(numbers(&catalog, of_b).await, (vec![4], 5, false), "all were looked at");
        let late = EventsQuery { within_ms: Some(0), ..EventsQuery::default() };
        assert_eq!(numbers(&catalog, late).await, (vec![], 5, false), "they are of 1970");
    }

    #[tokio::test]
    async fn the_oldest_go_and_numbers_go_on() {
        let (folder, catalog) = catalog().await;
        let many = (1..=EVENTS_KEPT + 7).map(|n| happened(n, "a")).collect();
        catalog.add_events(many).await.unwrap();
        let query = EventsQuery { limit: Some(1), ..EventsQuery::default() };
        assert_eq!(numbers(&catalog, query.clone()).await, (vec![8], 8, true));
        catalog.close().await;
        drop(catalog);
        let (catalog, _) = Catalog::open(&folder.path().join("catalog.db"), true).unwrap();
        catalog.add_events(vec![happened(1, "a")]).await.unwrap();
        assert_eq!(numbers(&catalog, query.clone()).await, (vec![9], 9, true));
        let newest = EventsQuery { newest: true, ..query };
        assert_eq!(numbers(&catalog, newest).await.0, [EVENTS_KEPT + 8]);
    }
}
