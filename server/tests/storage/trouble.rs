//! Disks that are full, fail, or give back other bytes.

use std::path::Path;
use std::process::Command;

use arc_server::auth::Grant;
use arc_server::storage::Fault;
use arc_server::wire::*;
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::*;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_disk_without_room_refuses_before_the_body() {
    let world = World::new().await;
    let server = world.server_with(|config| config.reserve_bytes = Some(u64::MAX)).await;
    let shard = shard(16 * MIB);
    let mut stream = server.half_put(&shard, b"").await;
    let mut start = [0; 12];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 507");
    // What was on its way is read to its end, so that no reset takes the answer away.
    stream.write_all(&shard.file).await.unwrap();
    let again = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(again.as_bytes()).await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("HTTP/1.1 426"), "{rest}");
    assert_eq!(server.put(&shard).await.unwrap_err().code, Code::NoSpace);
    assert_eq!(server.probe().await.unwrap().free_bytes, 0);
    server.holds_nothing("no room").await;
}

#[tokio::test]
async fn a_damaged_shard_is_replaced_by_a_good_one() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(MIB);
    let receipt = server.put(&shard).await.unwrap();
    let (file, body_at) = (&shard.file, shard.header_bytes);
    let damages =
        [flipped(file, 100), flipped(file, body_at + 99_999), file[..5000].to_vec(), Vec::new()];
    for (count, damage) in damages.into_iter().enumerate() {
        std::fs::write(server.path(&shard), &damage).unwrap();
        // Another damaged one does not take its place.
        let ticket = server.sign(shard.grant());
        let bad = server.put_bytes(&shard, &ticket, flipped(file, file.len() - 1)).await;
        assert_eq!(bad.unwrap_err().code, Code::Damaged);
        assert!(std::fs::read(server.path(&shard)).unwrap() == damage);

        assert_eq!(server.put(&shard).await.unwrap(), receipt);
        assert!(std::fs::read(server.path(&shard)).unwrap() == *file);
        assert_eq!(names(&world.data().join("quarantine")).len(), count + 1);
    }
}

#[tokio::test]
async fn after_a_failed_sync_the_file_is_gone_and_the_disk_takes_no_more() {
    let world = World::new().await;
    let server = world.server_with(|config| config.fault = Some(Fault::SyncFails)).await;
    let shard = shard(MIB);
    for _ in 0..2 {
        let refusal = server.put(&shard).await.unwrap_err();
        assert_eq!(refusal.code, Code::NoSpace);
        assert!(refusal.message.contains("a planted failure"), "{refusal}");
        server.holds_nothing("failed sync").await;
    }
    assert!(server.probe().await.unwrap().trouble.unwrap().contains("cannot sync"));
}

#[tokio::test]
async fn a_shard_that_cannot_be_opened_is_damaged_and_the_others_are_told() {
    let world = World::new().await;
    let server = world.server_with(|config| config.fault = Some(Fault::OpenFails)).await;
    let shards = stripe(VAULT, MIB, 1);
    for shard in &shards[..2] {
        server.put(shard).await.unwrap();
    }
    for thoroughness in [Thoroughness::Present, Thoroughness::Whole] {
        let shards = shards.iter().map(|shard| (shard.stripe, shard.index)).collect();
        let request = CheckRequest { shards, thoroughness };
        let answer: CheckAnswer = server.post("/v1/check", Grant::Read, &request).await.unwrap();
        let [Found::Damaged(why), Found::Good, Found::Missing] = &answer.found[..] else {
            panic!("{:?}", answer.found);
        };
        assert!(why.contains("cannot be read"), "{why}");
    }
    let ticket = server.sign(Grant::Control);
    let request = server.request(Method::GET, "/v1/inventory", &ticket);
    let page: Page<InventoryRow> = answer(request.send().await.unwrap()).await.unwrap();
    let damaged: Vec<_> = page.rows.iter().map(|row| row.damaged.is_some()).collect();
    assert_eq!(damaged, [true, false]);
    for range in [None, Some("bytes=5000-5001")] {
        let refusal = answer::<()>(server.get(&shards[0], range).await).await.unwrap_err();
        assert_eq!(refusal.code, Code::Damaged, "{refusal}");
        assert!(server.get(&shards[1], range).await.status().is_success());
    }
}

#[tokio::test]
async fn a_read_that_fails_half_way_is_told_by_the_next_answer() {
    let world = World::new().await;
    let server = world.server_with(|config| config.fault = Some(Fault::ReadFails)).await;
    let shard = stripe(VAULT, 2 * MIB, 1).swap_remove(0);
    let whole = async || {
        let get = server.request(Method::GET, &shard.url_path(), &server.sign(Grant::Read));
        match get.send().await {
            Ok(response) if response.status().is_success() => response.bytes().await.map(drop),
            Ok(response) => {
                return Some(answer::<()>(response).await.unwrap_err().code);
            }
            Err(error) => Err(error),
        }
        .unwrap_err();
        None
    };
    for _ in 0..2 {
        server.put(&shard).await.unwrap();
        assert_eq!(server.found(&shard, Thoroughness::Present).await, Found::Good);
        // The connection is cut: what the head promised cannot be given.
        assert_eq!(whole().await, None);
        assert_eq!(whole().await, Some(Code::Damaged));
        let found = server.found(&shard, Thoroughness::Present).await;
        assert!(matches!(found, Found::Damaged(_)), "{found:?}");
        // Stored again it is another file.
    }
}

#[tokio::test]
async fn a_folder_that_is_gone_says_nothing_of_its_shards() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(5000);
    server.put(&shard).await.unwrap();
    let folder = server.path(&shard).parent().unwrap().to_owned();
    std::fs::rename(&folder, world.dir.path().join("aside")).unwrap();
    let get = answer::<()>(server.get(&shard, None).await).await;
    assert_eq!(get.unwrap_err().code, Code::Internal);
    let shards = vec![(shard.stripe, shard.index)];
    let check = CheckRequest { shards: shards.clone(), thoroughness: Thoroughness::Present };
    let check = server.post::<CheckAnswer>("/v1/check", Grant::Read, &check).await;
    assert_eq!(check.unwrap_err().code, Code::Internal);
    let trash = TrashRequest { shards };
    let trash = server.post::<TrashAnswer>("/v1/trash", Grant::Control, &trash).await;
    assert_eq!(trash.unwrap_err().code, Code::Internal);
}

/// A small file system of its own, where this test may mount one.
pub(crate) struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    pub(crate) fn mount(at: &'a Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "arc-test"]).arg(at);
        mount.output().is_ok_and(|done| done.status.success()).then_some(Self(at))
    }
}

fn mount(options: &str, at: &Path) {
    let mounted = Command::new("mount").args(["-o", options]).arg(at).arg(at).output().unwrap();
    assert!(mounted.status.success(), "{mounted:?}");
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

#[tokio::test]
async fn a_disk_that_is_full_refuses_and_keeps_nothing() {
    let world = World::new().await;
    let at = world.dir.path().join("disk");
    let Some(_disk) = SmallDisk::mount(&at) else {
        println!("skipped: cannot mount a tmpfs here (not root)");
        return;
    };
    let server = world.server_with(|config| config.data = at.join("data")).await;
    assert_eq!(server.put(&shard(16 * MIB)).await.unwrap_err().code, Code::NoSpace);
    server.holds_nothing("larger than the disk").await;

    // Room was there when it began, and then something else took it.
    let shard = shard(3 * MIB);
    let mut put = server.half_put(&shard, &shard.file[..MIB]).await;
    server.writing().await;
    let other = at.join("other");
    assert!(std::fs::write(&other, vec![0; 9 * MIB]).is_err());
    put.write_all(&shard.file[MIB..]).await.unwrap();
    let mut start = [0; 12];
    put.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 507");
    server.holds_nothing("filled meanwhile").await;
    assert_eq!(server.probe().await.unwrap().trouble, None);

    std::fs::remove_file(other).unwrap();
    server.put(&shard).await.unwrap();
    assert_eq!(server.found(&shard, Thoroughness::Whole).await, Found::Good);
}

#[tokio::test]
async fn a_disk_that_became_read_only_takes_no_more_and_is_read() {
    let world = World::new().await;
    let at = world.dir.path().join("disk");
    let Some(_disk) = SmallDisk::mount(&at) else {
        println!("skipped: cannot mount a tmpfs here (not root)");
        return;
    };
    let data = at.join("data");
    let server = world.server_with(|config| config.data = data.clone()).await;
    let shards = stripe(VAULT, MIB, 1);
    server.put(&shards[0]).await.unwrap();
    // A disk with open files goes read-only by a failure only; one of its folders can be made so.
    let tmp = data.join("tmp");
    mount("bind", &tmp);
    mount("remount,bind,ro", &tmp);
    for _ in 0..2 {
        let refusal = server.put(&shards[1]).await.unwrap_err();
        assert_eq!(refusal.code, Code::NoSpace, "{refusal}");
        assert!(refusal.message.contains("Read-only"), "{refusal}");
    }
    assert!(server.probe().await.unwrap().trouble.unwrap().contains("Read-only"));
    assert!(server.get(&shards[0], None).await.bytes().await.unwrap() == shards[0].file);
}

#[tokio::test]
async fn a_server_starts_on_a_full_or_read_only_disk_to_be_read() {
    let world = World::new().await;
    let at = world.dir.path().join("disk");
    let Some(_disk) = SmallDisk::mount(&at) else {
        println!("skipped: cannot mount a tmpfs here (not root)");
        return;
    };
    let start = || world.server_with(|config| config.data = at.join("data"));
    let shards = stripe(VAULT, MIB, 1);
    let server = start().await;
    server.put(&shards[0]).await.unwrap();
    server.storage.stop().await;
    let other = at.join("other");
    assert!(std::fs::write(&other, vec![0; 9 * MIB]).is_err());
    for case in ["full", "read-only"] {
        let server = start().await;
        assert_eq!(server.found(&shards[0], Thoroughness::Whole).await, Found::Good, "{case}");
        assert!(server.get(&shards[0], None).await.bytes().await.unwrap() == shards[0].file);
        assert_eq!(server.put(&shards[1]).await.unwrap_err().code, Code::NoSpace, "{case}");
        assert!(server.probe().await.unwrap().trouble.is_some(), "{case}");
        server.storage.stop().await;
        if case == "full" {
            std::fs::remove_file(&other).unwrap();
            let server = start().await;
            server.put(&shards[1]).await.unwrap();
            server.storage.stop().await;
            mount("remount,ro", &at);
        }
    }
}
