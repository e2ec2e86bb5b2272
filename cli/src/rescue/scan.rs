//! Looks through folders for shard files: what their headers say, and where they lie.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

use codec::shard::{FOOTER_BYTES, HEADER_ALIGN_BYTES, HEADER_BYTES_MAX, Header, PEEK_BYTES};
use codec::{StripeId, VaultId};
use server::wire::{Holder, ServerId, StripeMap};

use super::folders::{Folders, Place};
use crate::ui::Counters;

/// No shard file is shorter.
const FILE_BYTES_MIN: u64 = (HEADER_ALIGN_BYTES + FOOTER_BYTES) as u64;

/// What some folders hold of one vault.
#[derive(Default)]
pub struct Scan {
    /// Where it lies.
    pub folders: Folders,
    /// Its stripes; they have no frames yet.
    pub stripes: BTreeMap<StripeId, StripeMap>,
    /// Shard files.
    pub shards: u64,
    /// Those of them with a damaged header.
    pub damaged_headers: u64,
    /// Files called like shards of which nothing is known: not even another shard of their stripe.
    pub unknown: u64,
    /// Those of them that a newer arc wrote.
    pub newer: u64,
    /// Shard files of other vaults.
    pub strangers: u64,
    /// Files and folders that could not be read.
    pub unreadable: Vec<(PathBuf, io::Error)>,
}

/// A file whose header does not say what it is.
struct Headless {
    path: PathBuf,
    stripe: StripeId,
    index: u8,
    is_newer: bool,
}

struct Gathering<'a> {
    vault: VaultId,
    counters: &'a Counters,
    state: Mutex<Gathered>,
}

#[derive(Default)]
struct Gathered {
    scan: Scan,
    places: HashMap<Place, ServerId>,
    headless: Vec<Headless>,
}

/// Reads the header of every shard file in `dirs` and below, each of them by a thread of its own.
/// Links are not followed. Blocks.
pub fn scan(dirs: &[PathBuf], vault: VaultId, counters: &Counters) -> Scan {
    let gathering = Gathering { vault, counters, state: Mutex::default() };
    std::thread::scope(|scope| {
        for dir in dirs {
            scope.spawn(|| gathering.walk(dir));
        }
    });
    gathering.finish()
}

impl Gathering<'_> {
    fn walk(&self, dir: &Path) {
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) => {
                    self.unreadable(folder, error);
                    continue;
                }
            };
            for entry in entries {
                let found = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)));
                match found {
                    Ok((path, kind)) if kind.is_dir() => folders.push(path),
                    Ok((path, kind)) if kind.is_file() => {
                        if let Err(error) = self.look(&path) {
                            self.unreadable(path, error);
                        }
                    }
                    Ok(_) => {}
                    Err(error) => self.unreadable(folder.clone(), error),
                }
            }
        }
    }

    /// An error: the file could not be read at all.
    fn look(&self, path: &Path) -> io::Result<()> {
        let named = path.file_name().and_then(named);
        let file = File::open(path)?;
        if named.is_none() && file.metadata()?.len() < FILE_BYTES_MIN {
            return Ok(());
        }
        let mut prefix = [0; PEEK_BYTES];
        let peeked = match file.read_exact_at(&mut prefix, 0) {
            Ok(()) => Header::peek_bytes(&prefix).ok(),
            Err(_) if named.is_some() => None,
            Err(error) => return Err(error),
        };
        if peeked.is_none() && named.is_none() {
            return Ok(());
        }
        self.counters.done_files.fetch_add(1, Relaxed);
        // Damaged lengths tell nothing of where the fields end that another length would give.
        let mut bytes = vec![0; peeked.unwrap_or(HEADER_ALIGN_BYTES).min(HEADER_BYTES_MAX)];
        self.counters.done_bytes.fetch_add(bytes.len() as u64, Relaxed);
        if file.read_exact_at(&mut bytes, 0).is_err() {
            bytes.clear();
        }
        match (Header::parse(&bytes), named) {
            (Ok(header), _) => self.add(path, &header, header.index, false),
            // The index alone is not certified: the name is better.
            (Err(_), named) => match (Header::shared(&bytes), named) {
                (Ok(header), named) => {
                    let index = named.map_or(header.index, |(_, index)| index);
                    self.add(path, &header, index, true);
                }
                (Err(_), Some((stripe, index))) => {
                    let (path, is_newer) = (path.to_owned(), is_newer(&prefix));
                    let headless = Headless { path, stripe, index, is_newer };
                    self.state().headless.push(headless);
                }
                (Err(_), None) => {}
            },
        }
        Ok(())
    }

    fn add(&self, path: &Path, header: &Header, index: u8, is_damaged: bool) {
        let mut state = self.state();
        if header.vault != self.vault {
            state.scan.strangers += 1;
            return;
        }
        let stripe = header.stripe;
        state.scan.stripes.entry(stripe).or_insert_with(|| map_of(header));
        state.put(path, stripe, index, is_damaged);
    }

    fn unreadable(&self, path: PathBuf, error: io::Error) {
        self.state().scan.unreadable.push((path, error));
    }

    fn finish(self) -> Scan {
        let mut state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        for Headless { path, stripe, index, is_newer } in std::mem::take(&mut state.headless) {
            match state.scan.stripes.get(&stripe) {
                Some(map) if usize::from(index) < map.geometry.shards() => {
                    state.put(&path, stripe, index, true);
                }
                _ => {
                    state.scan.unknown += 1;
                    state.scan.newer += u64::from(is_newer);
                }
            }
        }
        for map in state.scan.stripes.values_mut() {
            map.shards.sort_unstable_by_key(|holder| (holder.index, holder.bad, holder.server));
        }
        state.scan
    }

    fn state(&self) -> std::sync::MutexGuard<'_, Gathered> {
        // What stands there is whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathered {
    /// Takes note of a shard's file; its stripe is known.
    fn put(&mut self, path: &Path, stripe: StripeId, index: u8, is_damaged: bool) {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return };
        let Some(map) = self.scan.stripes.get_mut(&stripe) else { return };
        let is_split =
            dir.file_name().is_some_and(|dir| dir == OsStr::new(&format!("{stripe:.2}")));
        let dir = dir.parent().filter(|_| is_split).unwrap_or(dir).to_owned();
        let mut place = Place { dir, is_split, copy: 0 };
        let server = loop {
            let next = ServerId(self.scan.folders.places.len() as u32);
            let server = *self.places.entry(place.clone()).or_insert_with(|| {
                self.scan.folders.places.push(place.clone());
                next
            });
            if !map.shards.iter().any(|h| (h.index, h.server) == (index, server)) {
                break server;
            }
            place.copy += 1;
        };
        if *name != *format!("{stripe}.{index}") {
            self.scan.folders.odd.insert((stripe, index, server), name.to_owned());
        }
        map.shards.push(Holder { index, server, bad: is_damaged });
        self.scan.shards += 1;
        self.scan.damaged_headers += u64::from(is_damaged);
    }
}

fn is_newer(prefix: &[u8]) -> bool {
    matches!(Header::peek_bytes(prefix), Err(codec::Error::Version { .. }))
}

fn map_of(header: &Header) -> StripeMap {
    StripeMap {
        stripe: header.stripe,
        kind: header.kind,
        geometry: header.geometry,
        pack_bytes: header.pack_bytes,
        pack_key: header.pack_key.clone(),
        frames: Vec::new(),
        shards: Vec::with_capacity(header.geometry.shards()),
    }
}

/// The shard that a file is called after; more may follow its name, as in a server's trash.
fn named(name: &OsStr) -> Option<(StripeId, u8)> {
    let mut parts = name.to_str()?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use codec::seal::PackKeyField;
    use codec::shard::Kind;
    use codec::stripe::Stripe;

    use super::*;

    const VAULT: VaultId = VaultId([7; 16]);

    /// The files of a stripe 2+1.
    fn files(vault: VaultId) -> (StripeId, Vec<Vec<u8>>) {
        let geometry = "2+1".parse().unwrap();
        let key = PackKeyField(vec![1; 64]);
        let pack = (0..200_000_u32).map(|n| n as u8).collect();
        let stripe = Stripe::encode(vault, Kind::Data, geometry, key, pack).unwrap();
        let file = |i: usize| {
            [&stripe.shards[i].header, stripe.body(i), &stripe.shards[i].footer].concat()
        };
        (stripe.id, (0..3).map(file).collect())
    }

    fn write(path: PathBuf, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    #[test]
    fn shards_are_found_by_their_headers_and_damaged_ones_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let (id, mut files) = files(VAULT);
        let split = |disk: &str, index: usize| {
            dir.path().join(format!("{disk}/shards/{id:.2}/{id}.{index}"))
        };
        let (_, strange) = super::tests::files(VaultId([8; 16]));
        write(split("a", 0), &files[0]);
        write(dir.path().join("found/#1234"), &files[2]);
        write(dir.path().join("found/#1235"), &files[2]);
        write(dir.path().join("found/strange"), &strange[0]);
        write(dir.path().join("found/else"), &vec![1; 10_000]);
        write(dir.path().join(format!("found/{}.1", StripeId([9; 32]))), b"cut");
        files[1][..4096].fill(0);
        write(split("b", 1), &files[1]);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("found/loop")).unwrap();
        let mut newer = files[0].clone();
        newer[8] = 9;
        write(dir.path().join(format!("found/{}.2", StripeId([8; 32]))), &newer);
        let found = scan(&[dir.path().to_owned()], VAULT, &Counters::default());
        let Scan { folders, stripes, .. } = &found;
        assert_eq!((found.shards, found.damaged_headers), (4, 1));
        assert_eq!((found.unknown, found.newer, found.strangers), (2, 1, 1));
        assert!(found.unreadable.is_empty());
        let map = &stripes[&id];
        let found: Vec<_> = map.shards.iter().map(|h| (h.index, h.bad)).collect();
        assert_eq!(found, [(0, false), (1, true), (2, false), (2, false)]);
        let names: Vec<_> = folders.tickets().servers.into_iter().map(|t| t.name).collect();
        assert_eq!(names.len(), 4, "two copies in one folder are two places: {names:?}");
        assert!(names.contains(&dir.path().join("a").display().to_string()), "{names:?}");
    }

    #[tokio::test]
    async fn a_damaged_header_is_made_again_of_what_is_left() {
        let (id, whole) = files(VAULT);
        let header_bytes = 4096;
        // In what is shared, in the table, and all of it; and so that the table alone is right.
        let harms: [fn(&mut [u8]); 4] = [
            |file| file[40] ^= 1,
            |file| file[64 + 32 + 64 + 3 * 32] ^= 1,
            |file| file[..4096].fill(0),
            |file| {
                file[4000] ^= 1;
                file[5000] ^= 1;
            },
        ];
        for (number, harm) in harms.into_iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            let at = |index: usize| dir.path().join(format!("{id}.{index}"));
            let mut harmed = whole[1].clone();
            harm(&mut harmed);
            write(at(0), &whole[0]);
            write(at(1), &harmed);
            let scan = scan(&[dir.path().to_owned()], VAULT, &Counters::default());
            let folders = std::sync::Arc::new(scan.folders);
            let map = &scan.stripes[&id];
            let holder = *map.shards.iter().find(|h| h.index == 1).unwrap();
            assert!(holder.bad);
            for _ in 0..2 {
                let header = folders.read(map, holder, 0..header_bytes).await.unwrap();
                assert_eq!(header, whole[1][..header_bytes as usize], "{number}");
            }
        }
    }

    #[tokio::test]
    async fn a_header_that_nothing_gives_is_damaged() {
        let (id, whole) = files(VAULT);
        let dir = tempfile::tempdir().unwrap();
        let mut harmed = whole[1].clone();
        // The table and the body.
        harmed[64 + 32 + 64 + 3 * 32] ^= 1;
        harmed[5000] ^= 1;
        write(dir.path().join(format!("{id}.1")), &harmed);
        write(dir.path().join(format!("{id}.0")), &whole[0]);
        let scan = scan(&[dir.path().to_owned()], VAULT, &Counters::default());
        let map = &scan.stripes[&id];
        let holder = *map.shards.iter().find(|h| h.index == 1).unwrap();
        let folders = std::sync::Arc::new(scan.folders);
        let error = folders.read(map, holder, 0..4096).await.unwrap_err();
        assert_eq!(error.code(), Some(server::wire::Code::Damaged));
        fs::remove_file(dir.path().join(format!("{id}.0"))).unwrap();
        let holder = *map.shards.iter().find(|h| h.index == 0).unwrap();
        let error = folders.read(map, holder, 4096..4100).await.unwrap_err();
        assert_eq!(error.code(), Some(server::wire::Code::NotFound));
    }
}
