//! The coordinator's folder out of the backups on its servers.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use codec::backup::{BackupFile, BackupRecord, FileHasher, open_piece};
use codec::seal::PackKey;
use codec::shard::Kind;
use codec::{StripeId, pack, stripe};
use server::auth::verify_backup;
use server::coordinator::check_catalog;
use server::wire::StripeMap;

use crate::exit::Failure;
use crate::fetch::{FetchError, Fetcher, pack_key};

const CATALOG: &str = "catalog.db";

/// Stripes of backups, by their ids.
pub type Maps = BTreeMap<StripeId, Arc<StripeMap>>;

/// Why a backup did not give a coordinator's folder.
pub enum Unfinished {
    /// It is not all there: another one may be.
    Incomplete(String),
    /// It could not be written down.
    Failed(Failure),
}

impl From<Failure> for Unfinished {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The backups that `signer`, the coordinator's key, signed and whose record is among these stripes,
/// the newest first; and why the records of others cannot be used, if they are such.
pub async fn find(
    fetcher: &Fetcher,
    maps: &Maps,
    signer: Option<&[u8]>,
) -> (Vec<BackupRecord>, Vec<String>) {
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    // Records are coded 1+m.
    let records = |map: &&Arc<StripeMap>| map.kind == Kind::Record && map.geometry.data() == 1;
    for map in maps.values().filter(records) {
        match record(fetcher, map, signer).await {
            Ok(record) => found.extend(record),
            Err(error) => unread.push(error.to_string()),
        }
    }
    found.sort_by_key(|record| std::cmp::Reverse((record.epoch, record.sequence, record.made_ms)));
    (found, unread)
}

/// `None`: it holds something else.
async fn record(
    fetcher: &Fetcher,
    map: &Arc<StripeMap>,
    signer: Option<&[u8]>,
) -> Result<Option<BackupRecord>, FetchError> {
    // The short ends of backups are such stripes too, others are longer.
    if fetcher.directory(map).await?.frames.len() != 1 {
        return Ok(None);
    }
    let (key, bytes) = read(fetcher, map).await?;
    let signed = pack::open_record(fetcher.vault(), &key, &bytes).map_err(|e| lost(map, &e))?;
    if !BackupRecord::begins(&signed) {
        return Ok(None);
    }
    let record = verify_backup(&signed, fetcher.vault(), signer)
        .map_err(|error| FetchError::Lost(format!("stripe {:.8}: {error}", map.stripe)))?;
    BackupRecord::decode(record).map_err(|error| lost(map, &error))
}

/// The pack of a stripe, and its key.
async fn read(fetcher: &Fetcher, map: &Arc<StripeMap>) -> Result<(PackKey, Vec<u8>), FetchError> {
    let key = pack_key(map, fetcher.keys(), fetcher.vault()).map_err(|error| lost(map, &error))?;
    let bodies = fetcher.data_bodies(map).await?;
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    let bytes = stripe::join(map.geometry, map.pack_bytes, &bodies);
    Ok((key, bytes.map_err(|error| lost(map, &error))?))
}

fn lost(map: &StripeMap, error: &codec::Error) -> FetchError {
    FetchError::Lost(format!("stripe {:.8}: {error}", map.stripe))
}

/// Writes the files of a backup to `to`, which is absent or an empty folder: all of them, checked and
/// synced, or nothing. One stripe is in memory at a time.
pub async fn restore(
    fetcher: &Fetcher,
    maps: &Maps,
    record: &BackupRecord,
    to: &Path,
) -> Result<(), Unfinished> {
    let incomplete = |why: String| Unfinished::Incomplete(why);
    if !record.files.iter().any(|file| file.path == CATALOG) {
        return Err(incomplete("it has no catalog".into()));
    }
    let mut folder = Folder::begin(to, &record.files)?;
    for id in &record.stripes {
        let map = maps.get(id).ok_or_else(|| incomplete(format!("stripe {id:.8} is not here")))?;
        let (key, bytes) = read(fetcher, map).await.map_err(|e| incomplete(e.to_string()))?;
        let mut pieces = Vec::new();
        pack::open_records(fetcher.vault(), &key, &bytes, |record| {
            pieces.push(open_piece(&record)?.to_vec());
            Ok(())
        })
        .map_err(|error| incomplete(lost(map, &error).to_string()))?;
        pieces.iter().try_for_each(|piece| folder.write(piece))?;
    }
    let folder = folder.end()?;
    let (catalog, vault) = (folder.path.join(CATALOG), fetcher.vault());
    let checked = tokio::task::spawn_blocking(move || check_catalog(&catalog, vault)).await;
    let checked = checked.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    checked.map_err(|error| incomplete(format!("its {CATALOG}: {error}")))?;
    Ok(folder.rename(to)?)
}

/// A folder that is being written beside the place where it shall be; gone, unless it gets there.
struct Folder {
    path: PathBuf,
    /// The last comes first.
    ahead: Vec<BackupFile>,
    now: Option<Writing>,
    is_done: bool,
}

struct Writing {
    file: File,
    path: PathBuf,
    told: BackupFile,
    left: u64,
    hash: FileHasher,
}

impl Folder {
    fn begin(to: &Path, files: &[BackupFile]) -> Result<Self, Failure> {
        let to = std::path::absolute(to).map_err(Failure::io("cannot find", to))?;
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let path = to.with_file_name(format!(".{name}.arc-rescue"));
        let parent = to.parent().unwrap_or(&to);
        fs::create_dir_all(parent).map_err(Failure::io("cannot make", parent))?;
        // That of a rescue which was killed.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::io("cannot remove", &path)(error));
            }
            _ => {}
        }
        make_folder(&path)?;
        let ahead = files.iter().rev().cloned().collect();
        Ok(Self { path, ahead, now: None, is_done: false })
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Unfinished> {
        loop {
            if let Some(now) = &mut self.now {
                let (here, rest) = bytes.split_at((bytes.len() as u64).min(now.left) as usize);
                now.file.write_all(here).map_err(Failure::io("cannot write", &now.path))?;
                now.hash.update(here);
                now.left -= here.len() as u64;
                bytes = rest;
                if now.left > 0 {
                    return Ok(());
                }
                self.close()?;
            }
            if self.ahead.is_empty() && !bytes.is_empty() {
                let why = format!("{} bytes are left over", bytes.len());
                return Err(Unfinished::Incomplete(why));
            }
            if !self.open()? {
                return Ok(());
            }
        }
    }

    /// Begins the next file, if there is one.
    fn open(&mut self) -> Result<bool, Failure> {
        let Some(told) = self.ahead.pop() else { return Ok(false) };
        let path = self.path.join(&told.path);
        if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
            make_folder(folder)?;
        }
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(Failure::io("cannot make", &path))?;
        let left = told.bytes;
        self.now = Some(Writing { file, path, told, left, hash: FileHasher::default() });
        Ok(true)
    }

    fn close(&mut self) -> Result<(), Unfinished> {
        let Some(Writing { file, path, told, hash, .. }) = self.now.take() else { return Ok(()) };
        if hash.finish() != told.hash {
            let why = format!("{} is not what it was", told.path);
            return Err(Unfinished::Incomplete(why));
        }
        Ok(file.sync_all().map_err(Failure::io("cannot sync", &path))?)
    }

    /// All bytes have come.
    fn end(mut self) -> Result<Self, Unfinished> {
        self.write(&[])?;
        match &self.now {
            Some(now) => Err(Unfinished::Incomplete(format!("{} is cut off", now.told.path))),
            None => Ok(self),
        }
    }

    fn rename(mut self, to: &Path) -> Result<(), Failure> {
        for entry in fs::read_dir(&self.path).map_err(Failure::io("cannot list", &self.path))? {
            let path = entry.map_err(Failure::io("cannot list", &self.path))?.path();
            if path.is_dir() {
                sync_folder(&path)?;
            }
        }
        sync_folder(&self.path)?;
        let to = std::path::absolute(to).map_err(Failure::io("cannot find", to))?;
        fs::rename(&self.path, &to).map_err(Failure::io("cannot rename to", &to))?;
        self.is_done = true;
        sync_folder(to.parent().unwrap_or(&to))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_done {
            // What is left goes with the next rescue.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(Failure::io("cannot make", path))
}

fn sync_folder(path: &Path) -> Result<(), Failure> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(Failure::io("cannot sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, bytes: &[u8]) -> BackupFile {
        let mut hash = FileHasher::default();
        hash.update(bytes);
        BackupFile { path: path.into(), bytes: bytes.len() as u64, hash: hash.finish() }
    }

    fn restored(to: &Path, files: &[BackupFile], pieces: &[&[u8]]) -> Result<(), Unfinished> {
        let mut folder = Folder::begin(to, files)?;
        pieces.iter().try_for_each(|piece| folder.write(piece))?;
        Ok(folder.end()?.rename(to)?)
    }

    #[test]
    fn files_are_as_they_were_wherever_the_pieces_end() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            file("keys/ca", b"one"),
            file("empty", b""),
            file("catalog.db", b"three"),
            file("z", b""),
        ];
        for (number, pieces) in
            [&[&b"onethree"[..]][..], &[b"on", b"eth", b"ree"], &[b"one", b"", b"three"]]
                .into_iter()
                .enumerate()
        {
            let to = dir.path().join(number.to_string());
            assert!(restored(&to, &files, pieces).is_ok());
            assert_eq!(fs::read(to.join("keys/ca")).unwrap(), b"one");
            assert_eq!(fs::read(to.join("catalog.db")).unwrap(), b"three");
            assert_eq!(fs::read(to.join("empty")).unwrap(), b"");
            assert_eq!(fs::read(to.join("z")).unwrap(), b"");
        }
    }

    #[test]
    fn what_is_not_whole_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("out");
        let files = [file("catalog.db", b"three")];
        for wrong in [&b"thre"[..], b"threx", b"threee"] {
            let outcome = restored(&to, &files, &[wrong]);
            assert!(matches!(outcome, Err(Unfinished::Incomplete(_))));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        // What a rescue left that was killed does not stand in the way, nor does an empty folder.
        fs::create_dir_all(dir.path().join(".out.arc-rescue/keys")).unwrap();
        fs::create_dir(&to).unwrap();
        assert!(restored(&to, &files, &[b"three"]).is_ok());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
