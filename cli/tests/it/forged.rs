//! What is sealed to the vault's public key, which every server has, is nobody's data.

use std::fs;

use codec::keys::VaultRecord;
use codec::manifest::{ChunkRef, Content, Node, PageRef};
use codec::pack::{PackBuilder, seal_record};
use codec::seal::{FrameKind, PackKey, PackKeyField};
use codec::shard::Kind;
use codec::snapshot::{Snapshot, Stats};
use codec::stripe::Stripe;
use codec::{ChunkId, frame};
use serde_json::json;

use crate::anything::{Hostile, page};
use crate::fleet::Fleet;
use crate::hostile::entry;
use crate::sandbox::text;
use crate::source::make;
use crate::trees::assert_same;

const WHY: &str = "it was sealed by somebody without the vault's key";

/// A server that puts stripes into its own folder.
struct Forger<'a> {
    fleet: &'a Fleet,
    record: VaultRecord,
}

impl Forger<'_> {
    fn pack_key(&self, number: u8) -> (PackKey, PackKeyField) {
        let key = PackKey::new([number; 32]);
        let sealed = key.seal_to(self.record.public_key(), self.record.vault, [number; 32].into());
        (key, sealed.unwrap())
    }

    /// Its id.
    fn put(&self, kind: Kind, field: PackKeyField, pack: Vec<u8>) -> String {
        let code = self.record.geometry.copies();
        let stripe = Stripe::encode(self.record.vault, kind, code, field, pack).unwrap();
        let folder = self.fleet.server_folder(0).join(format!("shards/{:.2}", stripe.id));
        fs::create_dir_all(&folder).unwrap();
        for (index, ends) in stripe.shards.iter().enumerate() {
            let bytes = [&ends.header, stripe.body(index), &ends.footer].concat();
            fs::write(folder.join(format!("{}.{index}", stripe.id)), bytes).unwrap();
        }
        stripe.id.to_string()
    }

    /// A snapshot of an empty folder that is later than any.
    fn put_snapshot(&self) -> String {
        let page = page(0, 0, &[entry("evil", Node::Directory)]);
        // Nobody can name a chunk without the keys, nor need it.
        let chunk = ChunkId([7; 32]);
        let (key, field) = self.pack_key(1);
        let mut pack = PackBuilder::new(self.record.vault, key, Vec::new());
        let frame = frame::encode(&[(chunk, &page)], 3).unwrap();
        pack.append(FrameKind::Metadata, frame, &[(chunk, page.len() as u32)]).unwrap();
        self.put(Kind::Data, field, pack.finish().unwrap().bytes);
        let bytes = page.len() as u32;
        let root = ChunkRef { id: chunk, bytes };
        let record = Snapshot {
            manifest: PageRef { chunk: root, height: 0, count: 1 },
            host: "evil".into(),
            user: String::new(),
            sources: vec![],
            tags: vec![],
            began_ms: 1 << 41,
            ended_ms: 1 << 41,
            parent: None,
            stats: Stats::default(),
            program: String::new(),
        };
        let (key, field) = self.pack_key(2);
        let pack = seal_record(self.record.vault, key, &record.encode().unwrap()).unwrap();
        self.put(Kind::Snapshot, field, pack.bytes)
    }
}

#[test]
fn a_snapshot_that_a_server_made_is_not_restored() {
    let mut fleet = Fleet::new("2+1", 3);
    make(&fleet.source(), 1, 2);
    fleet.push(&[]).exits(0);
    fleet.kill_coordinator();
    (0..3).for_each(|server| fleet.kill(server));
    let record = fs::read(fleet.server_folder(0).join("vault.record")).unwrap();
    let record = VaultRecord::decode(&record).unwrap();
    let dirs = [0, 1, 2].map(|n| fleet.server_folder(n));
    let rescue = |more: &[&str]| {
        let line = ["--json", "rescue"].into_iter().chain(dirs.iter().map(|dir| text(dir)));
        fleet.sandbox.arc(line.chain(more.iter().copied()))
    };
    let real = rescue(&["--list"]).exits(0).json_lines("snapshot");
    let forged = Forger { fleet: &fleet, record }.put_snapshot();
    let ran = rescue(&["--list"]).exits(5);
    assert_eq!(ran.json_lines("snapshot"), real);
    assert_eq!(ran.json_of("lost_snapshot")["snapshot"], forged);
    let warning = ran.json_of("warning");
    assert!(warning["what"].as_str().unwrap().contains(WHY), "{warning}");
    let unread = ran.json_of("unread");
    assert!(unread["why"].as_str().unwrap().contains(WHY), "{unread}");
    let latest = format!("latest:{}", text(&fleet.source()));
    let ran = rescue(&["--to", "out", "--snapshot", &latest]).exits(5);
    assert_eq!(ran.json_of("summary")["lost"], json!(0));
    assert_same(&fleet.source(), &fleet.sandbox.path("out"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_coordinator_made_is_not_pulled() {
    let mut hostile = Hostile::new().await;
    let content = Content::Chunks(vec![hostile.chunk_ref(b"evil")]);
    let entries = [entry("a", Node::File { bytes: 4, content, holes: vec![] })];
    let chunks = [(FrameKind::Data, &b"evil"[..])];
    let out = hostile.sandbox.path("out");
    for foreign in [Kind::Data, Kind::Snapshot] {
        hostile.foreign = Some(foreign);
        let snapshot = hostile.snapshot(&entries, &chunks).await;
        let ran = hostile.sandbox.arc(["pull", &snapshot, "--to", text(&out)]).exits(5);
        assert!(ran.stderr().contains(WHY), "{foreign:?}: {}", ran.stderr());
        assert!(!out.join("a").exists(), "{foreign:?}");
        let ran = hostile.sandbox.arc(["verify", "--level", "data"]).exits(5);
        assert!(ran.stdout().contains(WHY) || ran.stderr().contains(WHY), "{}", ran.stdout());
        let _ = fs::remove_dir_all(&out);
    }
    // The same chunks in a stripe of its own.
    hostile.foreign = None;
    let snapshot = hostile.snapshot(&entries, &chunks).await;
    hostile.sandbox.arc(["pull", &snapshot, "--to", text(&out)]).exits(0);
    assert_eq!(fs::read(out.join("a")).unwrap(), b"evil");
}
