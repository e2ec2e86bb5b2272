//! What the coordinator has on record, a small file for each: `facts/1`, `facts/2`, … Each is
//! signed by the key that was pinned at the join and follows the one before it. One that is
//! damaged counts as absent, with those after it, until the coordinator gives it again.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use codec::VaultId;
use codec::fact::{FACT_BYTES_MAX, Fact, Head};

use super::durable;
use super::room::Room;
use crate::wire::Code;
use crate::{Error, Result};

/// The facts of one server.
pub(super) struct Facts {
    root: PathBuf,
    vault: VaultId,
    key: Vec<u8>,
    room: Arc<Room>,
    /// How often the server has started: makes names in `quarantine` unique.
    starts: u64,
    /// How far they go without a gap. Held while one is written.
    head: Mutex<Head>,
}

impl Facts {
    /// Reads all of them.
    pub(super) fn open(
        root: &Path,
        vault: VaultId,
        key: Vec<u8>,
        room: Arc<Room>,
        starts: u64,
    ) -> Result<Self> {
        let root = root.to_owned();
        let facts = Self { root, vault, key, room, starts, head: Mutex::default() };
        facts.walk(&mut facts.lock())?;
        Ok(facts)
    }

    /// How far they go.
    pub(super) fn head(&self) -> Head {
        *self.lock()
    }

    /// Keeps facts that follow each other, synced when this returns; those that are here already
    /// change nothing.
    pub(super) fn take(&self, facts: impl Iterator<Item = Vec<u8>>) -> Result<Head> {
        let mut kept = self.lock();
        self.room.require_sound()?;
        let mut head = *kept;
        for bytes in facts {
            let fact = Fact::open(&bytes, &self.key)?;
            if fact.vault != self.vault {
                return Err(Error::refuse(Code::Forbidden, "a fact of another vault"));
            }
            if fact.number <= head.number {
                match self.read(fact.number)? {
                    Some((known, _)) if known == bytes => continue,
                    Some(_) => return Err(conflict(fact.number)),
                    None => {
                        self.walk(&mut kept)?;
                        head = *kept;
                    }
                }
            }
            if fact.number != head.number + 1 {
                let why = format!("fact {} after {}", fact.number, head.number);
                return Err(Error::refuse(Code::BadRequest, why));
            }
            let next = head.after(&fact, &bytes).map_err(|_| conflict(head.number))?;
            match self.read(fact.number)? {
                Some((known, _)) if known == bytes => {}
                Some(_) => return Err(conflict(fact.number)),
                None => self.write(fact.number, &bytes)?,
            }
            head = next;
        }
        if head != *kept {
            self.room.told(durable::sync_dir(&self.root.join("facts")))?;
            *kept = head;
        }
        Ok(head)
    }

    /// Up to `limit` facts after number `after`.
    pub(super) fn page(&self, after: u64, limit: usize) -> Result<Vec<Vec<u8>>> {
        let mut head = self.lock();
        let mut facts = Vec::new();
        for number in (after.saturating_add(1)..=head.number).take(limit) {
            match self.read(number)? {
                Some((bytes, _)) => facts.push(bytes),
                None => {
                    self.walk(&mut head)?;
                    break;
                }
            }
        }
        Ok(facts)
    }

    /// Counts again how far they go.
    fn walk(&self, head: &mut Head) -> Result<()> {
        *head = Head::default();
        while let Some((bytes, fact)) = self.read(head.number + 1)? {
            match head.after(&fact, &bytes) {
                Ok(next) => *head = next,
                Err(error) => {
                    tracing::error!(%error, "a fact is not used");
                    break;
                }
            }
        }
        Ok(())
    }

    /// A fact, if it is there and whole. A damaged one is put aside.
    fn read(&self, number: u64) -> Result<Option<(Vec<u8>, Fact)>> {
        let path = self.path(number);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(Error::io("cannot open", &path))?,
        };
        let mut bytes = Vec::new();
        let read = file.take(FACT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
        let opened = match read {
            Ok(_) => Fact::open(&bytes, &self.key).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match opened {
            Ok(fact) if (fact.vault, fact.number) == (self.vault, number) => {
                Ok(Some((bytes, fact)))
            }
            Ok(_) => self.put_aside(number, "it is another one"),
            Err(why) => self.put_aside(number, &why),
        }
    }

    fn put_aside<T>(&self, number: u64, why: &str) -> Result<Option<T>> {
        tracing::error!(number, why, "a fact is damaged and counts as absent");
        let name = format!("fact-{number}.{}", self.starts);
        let aside = self.root.join("quarantine").join(name);
        // Where it stays, it counts as absent all the same.
        if let Err(error) = fs::rename(self.path(number), &aside) {
            tracing::warn!(%error, "cannot make {}", aside.display());
        }
        Ok(None)
    }

    fn write(&self, number: u64, bytes: &[u8]) -> Result<()> {
        let temporary = self.root.join("tmp").join(format!("fact-{number}"));
        let path = self.path(number);
        let written = File::create(&temporary).and_then(|mut file| {
            io::Write::write_all(&mut file, bytes)?;
            Ok(file)
        });
        let file = written.map_err(Error::io("cannot write", &temporary))?;
        self.room.told(file.sync_all().map_err(Error::io("cannot sync", &temporary)))?;
        let renamed = durable::rename_new(&temporary, &path);
        self.room.told_of_name(renamed.map_err(Error::io("cannot make", path)))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.root.join("facts").join(number.to_string())
    }

    fn lock(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn conflict(number: u64) -> Error {
    Error::refuse(Code::Conflict, format!("another fact {number} is kept here"))
}

#[cfg(test)]
mod tests {
    use codec::fact::{self, Body, Stamp};
    use codec::{Digest, StripeId};

    use super::*;
    use crate::auth::TicketSigner;

    const VAULT: VaultId = VaultId([7; 16]);

    struct Fixture {
        dir: tempfile::TempDir,
        signer: TicketSigner,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            for name in ["facts", "tmp", "quarantine"] {
                fs::create_dir(dir.path().join(name)).unwrap();
            }
            Self { dir, signer: TicketSigner::from_seed(&[1; 32]).unwrap() }
        }

        fn open(&self) -> Facts {
            let root = self.dir.path();
            let room = Arc::new(Room::new(root.to_owned(), Some(0)));
            Facts::open(root, VAULT, self.signer.public_key(), room, 3).unwrap()
        }

        /// Facts 1 to `n` of the epoch.
        fn chain(&self, n: u8, epoch: u64) -> Vec<Vec<u8>> {
            let mut head = Head::default();
            let mut one = |number: u8| {
                let stamp = Stamp {
                    snapshot: StripeId([number; 32]),
                    sequence: number.into(),
                    received_ms: 0,
                    source_set: Digest([0; 32]),
                    origin: 1,
                };
                let fact = head.next(VAULT, epoch, Body::Stamp(stamp));
                let bytes = self.signer.sign_fact(&fact).unwrap();
                head = Head { number: fact.number, hash: fact::hash(&bytes) };
                bytes
            };
            (1..=n).map(&mut one).collect()
        }
    }

    fn refused(facts: &Facts, given: &[Vec<u8>]) -> Code {
        facts.take(given.iter().cloned()).unwrap_err().into_refusal().code
    }

    #[test]
    fn facts_are_kept_in_order_and_once() {
        let fixture = Fixture::new();
        let (facts, chain) = (fixture.open(), fixture.chain(5, 1));
        let take = |given: &[Vec<u8>]| facts.take(given.iter().cloned()).unwrap().number;
        assert_eq!(take(&chain[..2]), 2);
        assert_eq!(take(&chain[1..4]), 4);
        assert_eq!(take(&chain[..1]), 4);
        assert_eq!(facts.page(1, 2).unwrap(), chain[1..3]);
        assert_eq!(facts.page(4, 2).unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(refused(&facts, &fixture.chain(2, 9)), Code::Conflict);
        assert_eq!(refused(&facts, &fixture.chain(5, 9)[4..]), Code::Conflict);
        assert_eq!(refused(&facts, &fixture.chain(7, 1)[5..]), Code::BadRequest);
        let other =
            Fixture { signer: TicketSigner::from_seed(&[2; 32]).unwrap(), ..Fixture::new() };
        assert_eq!(refused(&facts, &other.chain(5, 1)[4..]), Code::Damaged);
        assert_eq!(fixture.open().head(), facts.head());
    }

    #[test]
    fn a_damaged_fact_is_absent_until_it_is_given_again() {
        let fixture = Fixture::new();
        let (facts, chain) = (fixture.open(), fixture.chain(5, 1));
        let whole = facts.take(chain.iter().cloned()).unwrap();
        let path = fixture.dir.path().join("facts/3");
        let mut bent = chain[2].clone();
        bent[40] ^= 1;
        fs::write(&path, bent).unwrap();
        assert_eq!(facts.page(0, 10).unwrap(), chain[..2]);
        assert_eq!(facts.head().number, 2);
        assert!(!path.exists() && fixture.dir.path().join("quarantine/fact-3.3").exists());
        assert_eq!(fixture.open().head().number, 2);
        assert_eq!(facts.take(chain[2..].iter().cloned()).unwrap(), whole);
        assert_eq!(fixture.open().head(), whole);
        // Found as it is given again.
        fs::write(&path, b"").unwrap();
        assert_eq!(facts.take(chain[2..].iter().cloned()).unwrap(), whole);
        assert_eq!(facts.page(0, 10).unwrap(), chain);
    }
}
