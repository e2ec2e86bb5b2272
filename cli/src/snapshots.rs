//! Snapshots by name: `latest`, `latest~2`, or the first digits of an id.

use std::sync::Arc;

use codec::seal::PackKey;
use codec::snapshot::Snapshot;
use codec::{pack, stripe};
use server::client::CoordinatorClient;
use server::wire::{PageQuery, SnapshotRow};

use crate::exit::{Exit, Failure};
use crate::fetch::{self, FetchError, Fetcher};

/// The fewest digits of an id that a person may give.
const DIGITS_MIN: usize = 4;

/// The kept snapshots, newest first, a page at a time.
pub struct Rows {
    /// Where the next page comes from.
    coordinator: Option<CoordinatorClient>,
    query: PageQuery,
    page: std::vec::IntoIter<SnapshotRow>,
}

impl Rows {
    /// All of them.
    pub fn new(coordinator: CoordinatorClient) -> Self {
        let (query, page) = (PageQuery::default(), Vec::new().into_iter());
        Self { coordinator: Some(coordinator), query, page }
    }

    /// These, newest first.
    pub fn of(rows: Vec<SnapshotRow>) -> Self {
        Self { coordinator: None, query: PageQuery::default(), page: rows.into_iter() }
    }

    /// The next one.
    pub async fn next(&mut self) -> Result<Option<SnapshotRow>, Failure> {
        loop {
            if let Some(row) = self.page.next() {
                return Ok(Some(row));
            }
            let Some(coordinator) = &self.coordinator else { return Ok(None) };
            let page = coordinator.snapshots(&self.query).await?;
            if page.next.is_none() {
                self.coordinator = None;
            }
            self.query.after = page.next;
            self.page = page.rows.into_iter();
        }
    }
}

/// The snapshot that a person means by `name`.
pub async fn find(coordinator: &CoordinatorClient, name: &str) -> Result<SnapshotRow, Failure> {
    find_in(Rows::new(coordinator.clone()), name).await
}

/// The one of `rows` that a person means by `name`.
pub async fn find_in(mut rows: Rows, name: &str) -> Result<SnapshotRow, Failure> {
    let none = |why: String| {
        Failure::new(Exit::NoSnapshot, format!("no snapshot {name}"))
            .why(why)
            .next("arc snapshots    what there is")
    };
    if let Some(back) = steps_back(name) {
        let few = || none("the vault has not as many".into());
        for _ in 0..back {
            rows.next().await?.ok_or_else(few)?;
        }
        return rows.next().await?.ok_or_else(few);
    }
    if !is_name(name) {
        return Err(none(format!(
            "a snapshot is `latest`, `latest~1`, or at least {DIGITS_MIN} digits of its id"
        )));
    }
    let wanted = name.to_ascii_lowercase();
    let mut found: Option<SnapshotRow> = None;
    while let Some(row) = rows.next().await? {
        if row.id.to_string().starts_with(&wanted) {
            if found.is_some() {
                return Err(none("several begin with these digits; give more of them".into()));
            }
            found = Some(row);
        }
    }
    found.ok_or_else(|| none("none begins with these digits".into()))
}

/// Whether a snapshot may be meant by `name`.
pub fn is_name(name: &str) -> bool {
    let is_id = || name.len() >= DIGITS_MIN && name.bytes().all(|c| c.is_ascii_hexdigit());
    steps_back(name).is_some() || is_id()
}

/// `latest` is 0, `latest~2` is 2.
fn steps_back(name: &str) -> Option<u64> {
    match name.strip_prefix("latest")? {
        "" => Some(0),
        rest => rest.strip_prefix('~')?.parse().ok(),
    }
}

/// Splits `SNAPSHOT[:PATH]`; the path comes back as in a manifest, without outer slashes.
pub fn split(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&byte| byte == b':').unwrap_or(text.len());
    let (name, mut path) = (&text[..end], text.get(end + 1..).unwrap_or_default());
    while let Some(rest) = path.strip_prefix(b"/") {
        path = rest;
    }
    while let Some(rest) = path.strip_suffix(b"/") {
        path = rest;
    }
    (name, path)
}

/// Reads the record of a snapshot.
pub async fn record(fetcher: &Fetcher, row: &SnapshotRow) -> fetch::Result<Snapshot> {
    let map = Arc::new(row.stripe.clone());
    let lost = |error| FetchError::Lost(format!("the record of snapshot {:.8}: {error}", row.id));
    // A stripe that somebody else made is not even read.
    let key =
        PackKey::unwrap_field(&map.pack_key, fetcher.keys(), fetcher.vault()).map_err(lost)?;
    let bodies = fetcher.data_bodies(&map).await?;
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    let open = || {
        let pack_bytes = stripe::join(map.geometry, map.pack_bytes, &bodies)?;
        Snapshot::decode(&pack::open_record(fetcher.vault(), &key, &pack_bytes)?)
    };
    open().map_err(lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_snapshots_are_read() {
        assert_eq!(steps_back("latest"), Some(0));
        assert_eq!(steps_back("latest~3"), Some(3));
        assert_eq!(steps_back("latest3"), None);
        assert_eq!(split(b"latest:/home/a/"), (&b"latest"[..], &b"home/a"[..]));
        assert_eq!(split(b"7c1d09aa"), (&b"7c1d09aa"[..], &b""[..]));
        assert_eq!(split(b"latest:a:b"), (&b"latest"[..], &b"a:b"[..]));
    }
}
