//! The folders of a local vault that is being made: what may be used, what they are called.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use codec::Geometry;

use super::local::Settings;
use crate::exit::{Exit, Failure};
use crate::ui::{path_text, shell_word};

/// One disk of a vault that is being made.
pub(super) struct NewDisk {
    pub(super) path: PathBuf,
    /// As in `arc.toml`.
    pub(super) written: String,
    pub(super) name: String,
    pub(super) device: u64,
}

/// What can be refused before anything is made.
pub(super) fn check_new(
    dir: &Path,
    geometry: Geometry,
    disks: Option<&[PathBuf]>,
) -> Result<(), Failure> {
    let shown = path_text(dir);
    let word = shell_word(&shown);
    if Settings::exist(dir) {
        return Err(Failure::new(Exit::Usage, format!("{shown} has a vault already"))
            .state("it was left as it is")
            .next(format!("arc --vault {word} status")));
    }
    let is_there = |name: &&&str| fs::symlink_metadata(dir.join(name)).is_ok();
    if let Some(name) = ["coordinator", "disks", "lock"].iter().find(is_there) {
        return Err(Failure::new(Exit::Usage, format!("{shown} has a {name} already"))
            .why(
                "an unfinished init left it, or a vault that has lost its arc.toml, or it is yours",
            )
            .state("it was left as it is")
            .next("give a new folder"));
    }
    let n = geometry.shards();
    let count = disks.map_or(n, <[_]>::len);
    if count <= geometry.data() {
        let least = geometry.data() + 1;
        return Err(Failure::new(
            Exit::Usage,
            format!("{geometry} needs at least {least} disks, better {n}"),
        )
        .why(format!("{count} were given")));
    }
    disks.unwrap_or_default().iter().try_for_each(|disk| must_be_empty(disk))
}

/// A disk's folder is the vault's alone: whatever else is in there is somebody's.
pub(super) fn must_be_empty(disk: &Path) -> Result<(), Failure> {
    let entries = match fs::read_dir(disk) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Failure::io("cannot list", disk))?,
    };
    for entry in entries {
        let name = entry.map_err(Failure::io("cannot list", disk))?.file_name();
        // The root of a new ext file system has it.
        if name == "lost+found" {
            continue;
        }
        let (shown, name) = (path_text(disk), path_text(Path::new(&name)));
        let failure = Failure::new(Exit::Usage, format!("the folder {shown} is not empty"));
        let failure = match name.as_str() {
            "server.id" => failure.why("it has the server.id of a vault, or of an unfinished init"),
            _ => failure.why(format!("it has {name}")),
        };
        return Err(failure.state("it was left as it is").next(format!("give {shown}/arc")));
    }
    Ok(())
}

pub(super) fn make_folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(Failure::io("cannot make", path))
}

pub(super) fn make_disks(
    dir: &Path,
    geometry: Geometry,
    given: Option<&[PathBuf]>,
) -> Result<Vec<NewDisk>, Failure> {
    let paths = match given {
        Some(paths) => paths.to_vec(),
        None => (1..=geometry.shards()).map(|i| dir.join("disks").join(i.to_string())).collect(),
    };
    let names = names(&paths);
    let mut disks: Vec<NewDisk> = Vec::new();
    for (path, name) in paths.into_iter().zip(names) {
        let disk = make_disk(dir, &path, name)?;
        if disks.iter().any(|other| other.path == disk.path) {
            return Err(Failure::new(
                Exit::Usage,
                format!("disk {} was given twice", path_text(&path)),
            ));
        }
        disks.push(disk);
    }
    Ok(disks)
}

/// Makes the folder of one disk.
pub(super) fn make_disk(dir: &Path, path: &Path, name: String) -> Result<NewDisk, Failure> {
    make_folder(path)?;
    let path = path.canonicalize().map_err(Failure::io("cannot find", path))?;
    let device = fs::metadata(&path).map_err(Failure::io("cannot read", &path))?.dev();
    let written = path.strip_prefix(dir).unwrap_or(&path).to_str().map(str::to_owned);
    let written = written.ok_or_else(|| {
        Failure::new(Exit::Usage, format!("disk {}: its path is not UTF-8", path_text(&path)))
    })?;
    Ok(NewDisk { path, written, name, device })
}

/// The folders' own names where they tell the disks apart, `disk1` to `disk<n>` otherwise.
pub(super) fn names(paths: &[PathBuf]) -> Vec<String> {
    let own: Vec<String> = paths
        .iter()
        .filter_map(|path| path.file_name()?.to_str())
        .filter(|name| !name.bytes().all(|b| b.is_ascii_digit()))
        .map(str::to_owned)
        .collect();
    let mut different = own.clone();
    different.sort();
    different.dedup();
    if different.len() == paths.len() {
        return own;
    }
    (1..=paths.len()).map(|i| format!("disk{i}")).collect()
}

/// Disks on one device share a zone, named after the first of them.
pub(super) fn zones(disks: &[NewDisk]) -> Vec<String> {
    let mut zones = BTreeMap::<u64, String>::new();
    let zone = |disk: &NewDisk| {
        zones.entry(disk.device).or_insert_with(|| format!("device-of-{}", disk.name)).clone()
    };
    disks.iter().map(zone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Geometry {
        text.parse().unwrap()
    }

    #[test]
    fn disks_are_named_after_their_folders_where_that_tells_them_apart() {
        let names = |paths: &[&str]| names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["/mnt/red", "/mnt/blue"]), ["red", "blue"]);
        assert_eq!(names(&["/a/arc", "/b/arc"]), ["disk1", "disk2"]);
        assert_eq!(names(&["v/disks/1", "v/disks/2"]), ["disk1", "disk2"]);
    }

    #[test]
    fn disks_of_one_device_share_a_zone() {
        let disk = |name: &str, device| NewDisk {
            path: name.into(),
            written: name.into(),
            name: name.into(),
            device,
        };
        let zones = zones(&[disk("a", 1), disk("b", 2), disk("c", 1)]);
        assert_eq!(zones, ["device-of-a", "device-of-b", "device-of-a"]);
    }

    #[test]
    fn a_new_vault_is_refused_where_one_is_or_disks_are_short() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |disks: Option<&[PathBuf]>| {
            check_new(dir.path(), code("4+2"), disks).map_err(|failure| failure.code)
        };
        assert_eq!(refused(None), Ok(()));
        let disks: Vec<_> = (0..5).map(|i| dir.path().join(i.to_string())).collect();
        assert_eq!(refused(Some(&disks[..4])), Err(Exit::Usage));
        assert_eq!(refused(Some(&disks)), Ok(()));
        fs::create_dir_all(disks[2].join("lost+found")).unwrap();
        assert_eq!(refused(Some(&disks)), Ok(()));
        fs::write(disks[2].join("thesis.tex"), "").unwrap();
        assert_eq!(refused(Some(&disks)), Err(Exit::Usage));
        fs::write(dir.path().join("lock"), "mine").unwrap();
        assert_eq!(refused(None), Err(Exit::Usage));
        fs::write(dir.path().join("arc.toml"), "").unwrap();
        assert_eq!(refused(None), Err(Exit::Usage));
    }
}
