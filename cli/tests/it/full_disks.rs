//! Disks of servers and of the coordinator that are full.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fleet::{Fleet, eventually};
use crate::source;

const MIB: usize = 1 << 20;

/// A small file system of its own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, and a word about it, where a test may not mount.
    fn mount(at: PathBuf, mib: usize) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let size = format!("size={mib}m");
        if run("mount", &["-t", "tmpfs", "-o", &size, "arc-test"], &at) {
            return Some(Self(at));
        }
        println!("skipped: cannot mount a tmpfs here (not root)");
        None
    }

    fn resize(&self, mib: usize) {
        let options = format!("remount,size={mib}m");
        assert!(run("mount", &["-o", &options], &self.0));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["-l"], &self.0);
    }
}

fn run(program: &str, args: &[&str], at: &Path) -> bool {
    Command::new(program).args(args).arg(at).output().is_ok_and(|done| done.status.success())
}

/// A fleet with 4+2 whose last servers have disks of 8 MiB.
fn fleet(servers: usize, small: usize) -> Option<(Vec<SmallDisk>, Fleet)> {
    let mut fleet = Fleet::bare(&[]);
    let mut disks = Vec::new();
    for number in 0..servers {
        if number >= servers - small {
            disks.push(SmallDisk::mount(fleet.server_folder(number), 8)?);
        }
        fleet.join(&[]);
    }
    fleet.init(&fleet.sandbox, Some("4+2"));
    fleet.until_up(servers);
    Some((disks, fleet))
}

#[test]
fn i13_a_full_server_has_its_shards_go_elsewhere() {
    let Some((_disks, fleet)) = fleet(7, 1) else { return };
    source::make(&fleet.source(), 40, 48);
    let summary = fleet.push(&[]).exits(0).json_of("summary");
    assert_eq!(summary["stripes_below_target"], 0);
    fleet.pull_exact("latest");
    fleet.is_whole();
}

#[test]
fn without_a_spare_a_full_server_is_done_without_and_two_are_too_many() {
    let Some((disks, fleet)) = fleet(6, 2) else { return };
    // Six shards of a megabyte fit before the second one is full.
    source::make(&fleet.source(), 41, 48);
    let error = fleet.push(&["--wait-servers=1s"]).exits(15).json_of("error").to_string();
    assert!(error.contains("e is full") && error.contains("f is full"), "{error}");
    assert_eq!(fleet.snapshots(), 0);
    disks[0].resize(200);
    eventually("the coordinator sees the room", || {
        let rows = fleet.sandbox.arc(["--json", "servers"]).exits(0).json_of("summary");
        rows["servers"][4]["free_bytes"].as_u64().unwrap() > 100 << 20
    });
    let ran = fleet.push(&["--wait-servers=1s"]).exits(7);
    assert!(ran.json_of("summary")["stripes_below_target"].as_u64().unwrap() > 0);
    fleet.pull_exact("latest");
}

#[test]
fn a_full_disk_of_the_coordinator_is_15_and_loses_nothing() {
    let sandbox = crate::sandbox::Sandbox::new();
    let Some(disk) = SmallDisk::mount(sandbox.path("coordinator"), 64) else { return };
    let mut fleet = Fleet::bare_in(sandbox, &[]);
    for _ in 0..3 {
        fleet.join(&[]);
    }
    fleet.init(&fleet.sandbox, Some("2+1"));
    source::make(&fleet.source(), 42, 8);
    fleet.push(&[]).exits(0);
    let first = fleet.pull_exact("latest").json_of("summary")["snapshot"].clone();
    // Something else takes all the room but some pages.
    let other = disk.0.join("other");
    assert!(std::fs::write(&other, vec![1; 70 * MIB]).is_err());
    let filled = std::fs::metadata(&other).unwrap().len();
    let file = std::fs::File::options().write(true).open(&other).unwrap();
    file.set_len(filled - MIB as u64 / 2).unwrap();
    drop(file);
    let before = source::files(&fleet.source()).len();
    for n in 0..40 {
        source::make(&fleet.source().join(format!("more-{n}")), 100 * n, 1);
    }
    let error = fleet.push(&["--wait-servers=5s"]).exits(15).json_of("error").to_string();
    assert!(error.contains("the coordinator's disk is full"), "{error}");
    assert_eq!(fleet.snapshots(), 1);
    let restored = fleet.sandbox.arc(["--json", "verify", "--level", "data"]).exits(0);
    assert_eq!(restored.json_of("summary")["lost_files"], 0);
    let to = fleet.target();
    fleet.sandbox.arc(fleet.pull_line(first.as_str().unwrap(), &to)).exits(0);
    assert_eq!(source::files(&to).len(), before);
    std::fs::remove_file(other).unwrap();
    fleet.push(&[]).exits(0);
    fleet.pull_exact("latest");
    fleet.is_whole();
    // Nor did it need a restart for that, and it stands one.
    assert_eq!(fleet.terminate_coordinator(), Some(0));
    fleet.revive_coordinator();
    fleet.pull_exact("latest");
    drop(fleet);
    drop(disk);
}
