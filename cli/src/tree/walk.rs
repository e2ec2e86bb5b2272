//! A depth-first walk of the sources in manifest order.

use std::ffi::{CStr, CString, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::vec;

use codec::manifest::{check_path, is_within, path_order};
use rustix::fs::{FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::exclude::Excludes;
use super::{FileId, IS_SOCKET, Problem, Stat, c_name, open_name, split};

const LIST_BYTES: usize = 32 * 1024;

/// One name that the walk came by. Nothing was opened for it but the folder it lies in.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Its path as in the manifest.
    pub(crate) path: Vec<u8>,
    /// What `lstat` says.
    pub(crate) stat: Stat,
    /// The folder that holds it: open for as long as something found there is kept.
    pub(super) folder: Arc<OwnedFd>,
}

impl Found {
    pub(super) fn name(&self) -> io::Result<CString> {
        c_name(split(&self.path).1)
    }
}

/// The sources as a snapshot names them: absolute, without the leading slash, in manifest
/// order, nested ones folded into the outer. `..` is resolved, other links are not.
pub(crate) fn sources(paths: &[PathBuf]) -> io::Result<Vec<Vec<u8>>> {
    let mut sources = paths.iter().map(|path| source(path)).collect::<io::Result<Vec<_>>>()?;
    sources.sort_by(|a, b| path_order(a, b));
    sources.dedup_by(|inner, outer| is_within(inner, outer));
    Ok(sources)
}

fn source(path: &Path) -> io::Result<Vec<u8>> {
    let mut absolute = std::path::absolute(path)?;
    let parts: Vec<_> = absolute.components().collect();
    if let Some(last) = parts.iter().rposition(|part| *part == Component::ParentDir) {
        // What `..` leads to is known only once the links before it are followed.
        let (head, tail) = parts.split_at(last + 1);
        let head = fs::canonicalize(head.iter().collect::<PathBuf>())?;
        absolute = head.join(tail.iter().collect::<PathBuf>());
    }
    let mut out = Vec::new();
    for part in absolute.components() {
        if let Component::Normal(name) = part {
            if !out.is_empty() {
                out.push(b'/');
            }
            out.extend_from_slice(name.as_bytes());
        }
    }
    if !out.is_empty() {
        check_path(&out).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    }
    Ok(out)
}

/// Walks sources as [`sources`] returns them. Each item is a name, or a problem with one
/// name after which the walk goes on: what cannot be read, what vanished meanwhile, and
/// sockets, which are not stored.
///
/// A folder comes before what is in it; folders are listed as a whole and sorted, files
/// are not opened. A source that is a symbolic link is stored as the link, not what it
/// leads to; the folders above a source are not stored, and links among them are
/// followed. Excludes hold below the sources, not for the sources themselves.
pub(crate) struct Walk {
    sources: vec::IntoIter<Vec<u8>>,
    excludes: Excludes,
    /// Folders of a local vault: it does not grow by what it holds.
    vault: Vec<FileId>,
    /// The folders from the source down to where the walk is.
    levels: Vec<Level>,
    /// The folder that was returned last, not listed yet.
    unlisted: Option<(Arc<OwnedFd>, Vec<u8>)>,
    list: Vec<u8>,
}

struct Level {
    folder: Arc<OwnedFd>,
    path: Vec<u8>,
    names: vec::IntoIter<(CString, FileType)>,
}

impl Walk {
    /// A walk that stands before the first source; it leaves out the folders `vault`.
    pub(crate) fn new(sources: Vec<Vec<u8>>, excludes: Excludes, vault: Vec<FileId>) -> Self {
        Self {
            sources: sources.into_iter(),
            excludes,
            vault,
            levels: Vec::new(),
            unlisted: None,
            list: Vec::with_capacity(LIST_BYTES),
        }
    }

    fn begin_source(&mut self, source: Vec<u8>) -> Option<Result<Found, Problem>> {
        if source.is_empty() {
            return self.begin_root();
        }
        let (parent, name) = split(&source);
        let parent = PathBuf::from(OsString::from_vec([b"/", parent].concat()));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = match rustix::fs::open(&parent, flags, Mode::empty()) {
            Ok(folder) => Arc::new(folder),
            Err(error) => return Some(Err(Problem::new(&source, "open the folder of", error))),
        };
        match c_name(name) {
            Ok(name) => self.look(folder, &name, source),
            Err(error) => Some(Err(Problem::new(&source, "name", error))),
        }
    }

    /// `/` has no name, so it has no entry either.
    fn begin_root(&mut self) -> Option<Result<Found, Problem>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(c"/", flags, Mode::empty()) {
            Ok(folder) => self.enter(folder, Vec::new()),
            Err(error) => Some(Err(Problem::new(b"", "open", error))),
        }
    }

    fn look(
        &mut self,
        folder: Arc<OwnedFd>,
        name: &CStr,
        path: Vec<u8>,
    ) -> Option<Result<Found, Problem>> {
        if let Err(error) = check_path(&path) {
            return Some(Err(Problem::new(&path, "name", io::Error::other(error))));
        }
        let stat = match Stat::at(&folder, name) {
            Ok(stat) => stat,
            Err(error) => return Some(Err(Problem::new(&path, "look at", error))),
        };
        match stat.kind {
            FileType::Socket => return Some(Err(Problem::empty(&path, IS_SOCKET))),
            FileType::Directory if self.vault.contains(&stat.file()) => {
                return Some(Err(Problem::empty(&path, "it is of the vault that is pushed to")));
            }
            FileType::Directory => self.unlisted = Some((folder.clone(), path.clone())),
            _ => {}
        }
        Some(Ok(Found { path, stat, folder }))
    }

    /// Lists the folder that was returned last.
    fn descend(&mut self, parent: Arc<OwnedFd>, path: Vec<u8>) -> Option<Result<Found, Problem>> {
        let folder = c_name(split(&path).1)
            .and_then(|name| Ok(open_name(&*parent, &name, OFlags::DIRECTORY)?));
        match folder {
            Ok(folder) => self.enter(folder, path),
            Err(error) => Some(Err(Problem::new(&path, "open", error))),
        }
    }

    fn enter(&mut self, folder: OwnedFd, path: Vec<u8>) -> Option<Result<Found, Problem>> {
        let (names, problem) = list(&folder, &mut self.list);
        let problem = problem.map(|error| Err(Problem::new(&path, "list all of", error)));
        self.levels.push(Level { folder: Arc::new(folder), path, names: names.into_iter() });
        problem
    }

    /// The next name of the deepest folder; the folder is left when there is none.
    fn next_name(&mut self) -> Option<Result<Found, Problem>> {
        let level = self.levels.last_mut()?;
        let Some((name, kind)) = level.names.next() else {
            self.levels.pop();
            return None;
        };
        let mut path = Vec::with_capacity(level.path.len() + 1 + name.count_bytes());
        if !level.path.is_empty() {
            path.extend_from_slice(&level.path);
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        if self.excludes.leave_out(&path, kind == FileType::Directory) {
            return None;
        }
        let folder = level.folder.clone();
        let found = self.look(folder, &name, path);
        // Not every file system tells kinds when it lists.
        if let Some(Ok(found)) = &found
            && kind == FileType::Unknown
            && self.excludes.leave_out(&found.path, found.stat.kind == FileType::Directory)
        {
            self.unlisted = None;
            return None;
        }
        found
    }
}

impl Iterator for Walk {
    type Item = Result<Found, Problem>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let item = if let Some((parent, path)) = self.unlisted.take() {
                self.descend(parent, path)
            } else if self.levels.is_empty() {
                let source = self.sources.next()?;
                self.begin_source(source)
            } else {
                self.next_name()
            };
            if item.is_some() {
                return item;
            }
        }
    }
}

/// The sorted names in a folder, and what kept it from being all of them.
fn list(folder: impl AsFd, buffer: &mut Vec<u8>) -> (Vec<(CString, FileType)>, Option<Errno>) {
    let mut names = Vec::new();
    let mut problem = None;
    let mut raw = RawDir::new(folder, buffer.spare_capacity_mut());
    while let Some(entry) = raw.next() {
        match entry {
            Ok(entry) if entry.file_name() == c"." || entry.file_name() == c".." => {}
            Ok(entry) => names.push((entry.file_name().to_owned(), entry.file_type())),
            Err(error) => {
                problem = Some(error);
                break;
            }
        }
    }
    names.sort_unstable_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
    // A folder that changes while it is listed may give a name twice.
    names.dedup_by(|(a, _), (b, _)| a == b);
    (names, problem)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use codec::manifest::show_path;
    use tempfile::TempDir;

    use super::*;

    fn tree(files: &[&[u8]]) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in files {
            let path = dir.path().join(OsStr::from_bytes(path));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        dir
    }

    fn walk(paths: &[PathBuf], excludes: &[&str]) -> Walk {
        Walk::new(sources(paths).unwrap(), Excludes::new(excludes).unwrap(), vec![])
    }

    /// What a walk says, paths relative to the tree.
    fn seen(dir: &TempDir, walk: Walk) -> Vec<String> {
        let prefix = sources(&[dir.path().to_path_buf()]).unwrap().remove(0);
        let relative = |path: &[u8]| {
            let rest = path.strip_prefix(&prefix[..]).unwrap();
            show_path(rest.strip_prefix(b"/").unwrap_or(rest)).replace('`', "")
        };
        walk.map(|item| match item {
            Ok(found) => relative(&found.path),
            Err(problem) => format!("{}: {}", relative(&problem.path), problem.doing),
        })
        .collect()
    }

    #[test]
    fn names_come_in_manifest_order() {
        let dir =
            tree(&[b"a/b/c", b"a/b-", b"a-b", b"a.", b"a\x01/z", b"a\xff", b"B", b"a/\xc3\xa4"]);
        let paths: Vec<_> =
            walk(&[dir.path().into()], &[]).map(|item| item.unwrap().path).collect();
        assert_eq!(paths.len(), 12);
        assert!(paths.is_sorted_by(|a, b| path_order(a, b).is_lt()), "{paths:?}");
    }

    #[test]
    fn more_names_than_one_listing_holds_are_all_seen() {
        let names: Vec<_> = (0..3000).map(|n| format!("{n:05}").into_bytes()).collect();
        let dir = tree(&names.iter().map(|name| &name[..]).collect::<Vec<_>>());
        assert_eq!(walk(&[dir.path().into()], &[]).filter(Result::is_ok).count(), 3001);
    }

    #[test]
    fn excluded_folders_are_not_entered_and_sources_are_not_excluded() {
        let dir = tree(&[b"keep/a.o", b"keep/a.c", b"node_modules/x/y", b"src/node_modules/z"]);
        let walk = walk(
            &[dir.path().join("node_modules"), dir.path().join("keep")],
            &["node_modules", "*.o"],
        );
        assert_eq!(
            seen(&dir, walk),
            ["keep", "keep/a.c", "node_modules", "node_modules/x", "node_modules/x/y"]
        );
        let walk = self::walk(&[dir.path().into()], &["node_modules", "*.o"]);
        assert_eq!(seen(&dir, walk), ["", "keep", "keep/a.c", "src"]);
    }

    #[test]
    fn sources_are_files_links_and_folders_of_which_nested_ones_are_folded() {
        let dir = tree(&[b"a/b/c", b"f"]);
        symlink("a", dir.path().join("link")).unwrap();
        let at = |name: &str| dir.path().join(name);
        let walk =
            walk(&[at("link"), at("a/b"), at("f"), at("a"), at("a/b/../b/c"), at("a/")], &[]);
        assert_eq!(seen(&dir, walk), ["a", "a/b", "a/b/c", "f", "link"]);
    }

    #[test]
    fn parent_components_of_a_source_follow_links_as_the_system_does() {
        let dir = tree(&[b"real/inner/f", b"real/g"]);
        symlink("real/inner", dir.path().join("link")).unwrap();
        let found = sources(&[dir.path().join("link/../g")]).unwrap();
        assert_eq!(found, sources(&[dir.path().canonicalize().unwrap().join("real/g")]).unwrap());
        assert_eq!(sources(&["/".into(), "/usr".into()]).unwrap(), [b""]);
    }

    #[test]
    fn the_root_is_walked_without_an_entry_of_its_own() {
        let mut walk = walk(&["/".into()], &["/*/*"]);
        let first = walk.find_map(Result::ok).unwrap();
        assert!(!first.path.is_empty() && !first.path.contains(&b'/'));
    }

    #[test]
    fn sockets_and_missing_sources_are_problems_and_the_rest_goes_on() {
        let dir = tree(&[b"a", b"z"]);
        let _socket = UnixListener::bind(dir.path().join("s")).unwrap();
        let walk =
            walk(&[dir.path().join("gone"), dir.path().join("a/none"), dir.path().into()], &[]);
        assert_eq!(seen(&dir, walk), ["", "a", "s: store", "z"]);
        let walk = self::walk(
            &[dir.path().join("a/none"), dir.path().join("gone"), dir.path().join("z")],
            &[],
        );
        assert_eq!(seen(&dir, walk), ["a/none: open the folder of", "gone: look at", "z"]);
    }

    #[test]
    fn the_vaults_own_folders_are_left_out() {
        let dir = tree(&[b"a", b"vault/arc.toml", b"z"]);
        let vault = Stat::from(rustix::fs::stat(dir.path().join("vault")).unwrap()).file();
        let sources = sources(&[dir.path().into()]).unwrap();
        let walk = Walk::new(sources, Excludes::default(), vec![vault]);
        assert_eq!(seen(&dir, walk), ["", "a", "vault: store", "z"]);
    }

    #[test]
    fn a_path_too_long_for_a_manifest_is_a_problem_and_the_rest_goes_on() {
        let dir = tree(&[b"z"]);
        let name = "n".repeat(250);
        let mut folder = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..270 {
            rustix::fs::mkdirat(&folder, &name, Mode::RWXU).unwrap();
            folder = rustix::fs::openat(&folder, &name, OFlags::PATH, Mode::empty()).unwrap();
        }
        let items: Vec<_> = walk(&[dir.path().into()], &[]).collect();
        assert_eq!(items.iter().filter(|item| item.is_err()).count(), 1);
        assert!(items.last().unwrap().as_ref().unwrap().path.ends_with(b"/z"));
        // Too deep for the usual removal.
        std::process::Command::new("rm").arg("-rf").arg(dir.path()).status().unwrap();
    }

    #[test]
    fn what_vanishes_or_turns_into_a_link_meanwhile_is_a_problem() {
        let dir = tree(&[b"a", b"b/c", b"d/e", b"f"]);
        let mut walk = walk(&[dir.path().into()], &[]);
        assert!(walk.next().unwrap().is_ok());
        assert!(walk.next().unwrap().unwrap().path.ends_with(b"/a"));
        assert!(walk.next().unwrap().unwrap().path.ends_with(b"/b"));
        fs::remove_dir_all(dir.path().join("b")).unwrap();
        fs::remove_file(dir.path().join("f")).unwrap();
        symlink("/", dir.path().join("b")).unwrap();
        assert_eq!(seen(&dir, walk), ["b: open", "d", "d/e", "f: look at"]);
    }
}
