//! Backups of the coordinator's folder on the storage servers, and getting it back.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use codec::backup::BackupRecord;
use codec::digest::BLOCK_BYTES;
use codec::keys::VaultRecord;
use codec::pack::seal_record;
use codec::seal::PackKey;
use codec::shard::{Kind, Shard};
use codec::stripe::Stripe;
use serde_json::{Value, json};
use server::auth::TicketSigner;

use crate::fleet::{Fleet, Setup, ShardFile, eventually};
use crate::sandbox::{Ran, Sandbox, text};
use crate::source::{assert_same, make, noise};

fn back_up(fleet: &Fleet) -> Value {
    fleet.sandbox.arc(["--json", "catalog", "backup"]).exits(0).json_of("summary")
}

fn rescue(fleet: &Fleet, servers: &[usize], out: &str) -> Ran {
    let dirs: Vec<_> = servers.iter().map(|&n| fleet.server_folder(n)).collect();
    let line = ["--json", "rescue"].into_iter().chain(dirs.iter().map(|dir| text(dir)));
    fleet.sandbox.arc(line.chain(["--coordinator", out]))
}

/// Shards of records: those of backups.
fn records(fleet: &Fleet) -> Vec<ShardFile> {
    let mut files = fleet.shards();
    files.retain(|file| {
        Shard::parse(&fs::read(&file.path).unwrap()).unwrap().header.kind == Kind::Record
    });
    files
}

fn stripes(files: &[ShardFile]) -> BTreeSet<String> {
    files.iter().map(|file| file.stripe.clone()).collect()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn i11_a_lost_coordinator_and_two_lost_servers_cost_nothing() {
    let mut fleet = Fleet::new("4+2", 6);
    make(&fleet.source(), 1, 8);
    fleet.push(&[]).exits(0);
    let folder = fleet.sandbox.path("coordinator");
    // As long as a catalog of many files: several stripes, and not of copies.
    let long = noise(7, 9 << 20);
    fs::write(folder.join("keys/long"), &long).unwrap();
    let keys = fs::read(folder.join("keys/ticket.key")).unwrap();
    let made = back_up(&fleet);
    assert_eq!(made["stripes"], 3, "{made}");
    let status = fleet.sandbox.arc(["--json", "status"]).exits(0).json_of("summary");
    assert_eq!(status["backup"]["last"]["record"], made["record"]);
    assert!(!folder.join("catalog.copy").exists());
    // Its stripes are like any others: verify reads them, and no pull minds them.
    fleet.is_whole();
    fleet.pull_exact("latest");

    fleet.kill_coordinator();
    (0..6).for_each(|server| fleet.kill(server));
    fs::remove_dir_all(&folder).unwrap();
    [1, 4].into_iter().for_each(|n| fs::remove_dir_all(fleet.server_folder(n)).unwrap());
    let summary = rescue(&fleet, &[0, 2, 3, 5], "coordinator").exits(0).json_of("summary");
    assert_eq!((&summary["made_ms"], &summary["newer_incomplete"]), (&made["made_ms"], &json!(0)));
    assert_eq!(fs::read(folder.join("keys/long")).unwrap(), long);
    assert_eq!(fs::read(folder.join("keys/ticket.key")).unwrap(), keys);
    for private in ["keys/ticket.key", "keys/ca.pem", "catalog.db", "owner.token", "join.token"] {
        assert_eq!(mode(&folder.join(private)), 0o600, "{private}");
    }
    assert_eq!([mode(&folder), mode(&folder.join("keys"))], [0o700; 2]);
    let again = rescue(&fleet, &[0, 2, 3, 5], "coordinator").exits(2);
    assert!(again.stdout().contains("is not empty"), "{}", again.stdout());

    fleet.revive_coordinator();
    [0, 2, 3, 5].into_iter().for_each(|server| fleet.revive(server));
    fleet.until_up(4);
    fleet.pull_exact("latest");
    let verified = fleet.sandbox.arc(["--json", "verify", "--level", "data"]).exits(7);
    assert_eq!(verified.json_of("summary")["bad_shards"], 0);
    // How old it is, it does not know: nothing new begins before it looked.
    let old = fleet.sandbox.arc(["catalog", "backup"]).exits(12);
    assert!(old.stderr().contains("arc catalog rebuild"), "{}", old.stderr());
    fleet.push(&[]).exits(12);
    fleet.sandbox.arc(["catalog", "rebuild", "--merge"]).exits(7);
    // Four servers are too few for a new one; what failed is told, and what to do.
    let failed = fleet.sandbox.arc(["catalog", "backup"]).exits(1);
    assert!(failed.stderr().contains("4 can be had"), "{}", failed.stderr());
    let words = fleet.sandbox.arc(["status"]);
    assert!(words.stdout().contains("the last try failed: "), "{}", words.stdout());
}

#[test]
fn a_damaged_backup_is_decoded_and_an_incomplete_one_passed_over() {
    let mut fleet = Fleet::new("2+1", 3);
    make(&fleet.source(), 1, 1);
    fleet.push(&[]).exits(0);
    fs::write(fleet.sandbox.path("coordinator/keys/long"), noise(7, 1 << 20)).unwrap();
    let first = back_up(&fleet);
    let older = stripes(&records(&fleet));
    fs::write(fleet.source().join("more"), "more").unwrap();
    fleet.push(&[]).exits(0);
    let second = back_up(&fleet);
    fleet.kill_coordinator();
    (0..3).for_each(|server| fleet.kill(server));

    // A bit of every shard, each in another column of blocks; of the short ones, of the first copy.
    let files = records(&fleet);
    for file in &files {
        let header = Shard::parse(&fs::read(&file.path).unwrap()).unwrap().header;
        let column = u64::from(file.index) * BLOCK_BYTES as u64;
        let is_long = header.shard_bytes > 3 * BLOCK_BYTES as u64;
        if is_long || file.index == 0 {
            let open = File::options().read(true).write(true).open(&file.path).unwrap();
            let (mut byte, at) = ([0], header.header_bytes() + column + 9);
            open.read_exact_at(&mut byte, at).unwrap();
            open.write_all_at(&[byte[0] ^ 4], at).unwrap();
        }
    }
    let out = rescue(&fleet, &[0, 1, 2], "second").exits(0).json_of("summary");
    assert_eq!((&out["made_ms"], &out["newer_incomplete"]), (&second["made_ms"], &json!(0)));
    assert!(out["damaged_shards"].as_u64() > Some(0), "{out}");

    // Without a stripe of the newest, the one before is taken, and that is said.
    let record = second["record"].as_str().unwrap();
    let newer = files.iter().filter(|f| !older.contains(&f.stripe) && f.stripe != record);
    newer.for_each(|file| fs::remove_file(&file.path).unwrap());
    let ran = rescue(&fleet, &[0, 1, 2], "first").exits(0);
    let out = ran.json_of("summary");
    assert_eq!((&out["made_ms"], &out["newer_incomplete"]), (&first["made_ms"], &json!(1)));
    let warning = ran.json_of("warning");
    assert!(warning["what"].as_str().unwrap().contains("is not whole"), "{warning}");
    // What goes by the names of files in the vault takes no notice of backups.
    let dirs = [0, 1, 2].map(|n| fleet.server_folder(n));
    let line = ["--json", "rescue"].into_iter().chain(dirs.iter().map(|dir| text(dir)));
    let ran = fleet.sandbox.arc(line.chain(["--to", "out"])).exits(0);
    assert_eq!(ran.json_of("summary")["unread_stripes"], 0);

    // Without any.
    for file in files.iter().filter(|file| file.path.exists()) {
        if file.stripe == record || file.stripe == first["record"].as_str().unwrap() {
            fs::remove_file(&file.path).unwrap();
        }
    }
    rescue(&fleet, &[0, 1, 2], "none").exits(14);
    assert!(!fleet.sandbox.path("none").exists());
    let wrong = fleet.sandbox.path("server-a/out");
    rescue(&fleet, &[0, 1, 2], text(&wrong)).exits(2);
}

#[test]
fn a_local_vault_has_its_coordinators_folder_backed_up_when_asked() {
    let sandbox = Sandbox::with_vault("2+1");
    let tree = sandbox.path("tree");
    make(&tree, 1, 2);
    sandbox.arc(["push", text(&tree)]).exits(0);
    let page = sandbox.arc(["status"]).exits(0);
    assert!(!page.stdout().contains("backup"), "{}", page.stdout());
    sandbox.arc(["catalog", "backup"]).exits(0);
    fs::remove_dir_all(sandbox.path("vault/coordinator")).unwrap();
    let line = ["rescue", "vault/disks/1", "vault/disks/3", "--coordinator", "vault/coordinator"];
    sandbox.arc(line).exits(0);
    sandbox.arc(["verify", "--level", "data"]).exits(0);
    let to = sandbox.path("out");
    sandbox.pull(&tree, &to).exits(0);
    assert_same(&tree, &to);
    // What came after it is not known, and stays.
    sandbox.arc(["repair-scan"]).exits(0);
    sandbox.arc(["catalog", "backup"]).exits(12);
    sandbox.arc(["catalog", "rebuild", "--merge"]).exits(0);
    sandbox.arc(["catalog", "backup"]).exits(0);
    let page = sandbox.arc(["status"]).exits(0);
    assert!(page.stdout().contains("last backup "), "{}", page.stdout());
}

/// What any server could make, which has the vault's public key.
#[test]
fn a_forged_backup_is_not_even_looked_at() {
    let mut fleet = Fleet::new("2+1", 3);
    let made = back_up(&fleet);
    fleet.kill_coordinator();
    (0..3).for_each(|server| fleet.kill(server));
    let record = fs::read(fleet.server_folder(0).join("vault.record")).unwrap();
    let record = VaultRecord::decode(&record).unwrap();
    let forged = BackupRecord {
        epoch: 1 << 40,
        sequence: 1,
        made_ms: 1,
        files: Vec::new(),
        stripes: Vec::new(),
    };
    let signer = TicketSigner::from_seed(&[1; 32]).unwrap();
    let signed = signer.sign_backup(record.vault, forged.encode().unwrap());
    let key = PackKey::new([1; 32]);
    let field = key.seal_to(record.public_key(), record.vault, [2; 32].into()).unwrap();
    let pack = seal_record(record.vault, key, &signed).unwrap().bytes;
    let code = record.geometry.copies();
    let stripe = Stripe::encode(record.vault, Kind::Record, code, field, pack).unwrap();
    for (index, ends) in stripe.shards.iter().enumerate() {
        let folder = fleet.server_folder(0).join(format!("shards/{:.2}", stripe.id));
        fs::create_dir_all(&folder).unwrap();
        let bytes = [&ends.header, stripe.body(index), &ends.footer].concat();
        fs::write(folder.join(format!("{}.{index}", stripe.id)), bytes).unwrap();
    }
    let summary = rescue(&fleet, &[0, 1, 2], "out").exits(0).json_of("summary");
    assert_eq!((&summary["made_ms"], &summary["newer_incomplete"]), (&made["made_ms"], &json!(0)));
    assert_eq!(summary["unusable_records"], 1);
}

#[test]
fn backups_come_by_themselves_where_something_changed() {
    let mut fleet = Fleet::of(Setup {
        code: "2+1",
        servers: 3,
        coordinator: &["--backup-every=300ms"],
        ..Setup::default()
    });
    let last = |fleet: &Fleet| {
        let status = fleet.sandbox.arc(["--json", "status"]).exits(0).json_of("summary");
        status["backup"]["last"]["record"].as_str().map(str::to_owned)
    };
    eventually("a first backup", || last(&fleet).is_some());
    make(&fleet.source(), 1, 1);
    let before = last(&fleet);
    fleet.push(&[]).exits(0);
    eventually("one after the push", || last(&fleet) != before);
    // Killed at any moment, it makes them again.
    for n in 0..4 {
        fs::write(fleet.source().join("more"), [n]).unwrap();
        fleet.push(&[]).exits(0);
        fleet.kill_coordinator();
        fleet.revive_coordinator();
        fleet.until_up(3);
    }
    let before = last(&fleet);
    fs::write(fleet.source().join("more"), "last").unwrap();
    fleet.push(&[]).exits(0);
    eventually("one after the last push", || last(&fleet) != before);
    fleet.kill_coordinator();
    rescue(&fleet, &[0, 1, 2], "out").exits(0);
}
