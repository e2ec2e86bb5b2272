//! Reading shards.

use arc_server::auth::Grant;
use arc_server::wire::*;
use reqwest::Method;
use reqwest::StatusCode;

use super::support::*;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_shard_is_read_whole_or_by_one_range() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(2 * MIB);
    server.put(&shard).await.unwrap();
    let file = &shard.file;
    let whole = server.get(&shard, None).await;
    assert_eq!(whole.status(), StatusCode::OK);
    assert_eq!(whole.content_length(), Some(file.len() as u64));
    assert!(whole.bytes().await.unwrap() == *file);

    let last = file.len() - 1;
    for (first, last) in [(0, 0), (0, 63), (1000, 300_000), (262_144, 524_287), (last, last)] {
        let part = server.get(&shard, Some(&format!("bytes={first}-{last}"))).await;
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        let content_range = format!("bytes {first}-{last}/{}", file.len());
        assert_eq!(part.headers()["content-range"], content_range.as_str());
        assert_eq!(part.content_length(), Some((last - first + 1) as u64));
        assert!(part.bytes().await.unwrap() == file[first..=last], "{first}-{last}");
    }
    let beyond = server.get(&shard, Some(&format!("bytes=10-{}", file.len() + 10))).await;
    assert!(beyond.bytes().await.unwrap() == file[10..]);

    let behind = format!("bytes={0}-{0}", file.len());
    for bad in [behind.as_str(), "bytes=5-2", "bytes=0-1,4-5", "bytes=-5", "bytes=7-", "x"] {
        let refused = server.get(&shard, Some(bad)).await;
        assert_eq!(refused.status(), StatusCode::RANGE_NOT_SATISFIABLE, "{bad}");
        assert_eq!(refused.headers()["content-range"], format!("bytes */{}", file.len()).as_str());
        assert_eq!(refused.json::<Refusal>().await.unwrap().code, Code::BadRequest);
    }
}

#[tokio::test]
async fn a_head_tells_the_length_only() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(MIB);
    let head = async || {
        let ticket = server.sign(Grant::Read);
        server.request(Method::HEAD, &shard.url_path(), &ticket).send().await.unwrap()
    };
    assert_eq!(head().await.status(), StatusCode::NOT_FOUND);
    server.put(&shard).await.unwrap();
    let head = head().await;
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["content-length"], shard.file.len().to_string().as_str());
    assert!(head.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn only_a_ticket_for_reading_reads() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(MIB);
    assert_eq!(
        answer::<()>(server.get(&shard, None).await).await.unwrap_err().code,
        Code::NotFound
    );
    server.put(&shard).await.unwrap();
    for grant in [shard.grant(), Grant::Control] {
        let ticket = server.sign(grant);
        let get = server.request(Method::GET, &shard.url_path(), &ticket).send().await.unwrap();
        assert_eq!(answer::<()>(get).await.unwrap_err().code, Code::Forbidden);
    }
    for path in ["/v1/shards/00/1", &format!("/v1/shards/{}/256", shard.stripe)] {
        let ticket = server.sign(Grant::Read);
        let get = server.request(Method::GET, path, &ticket).send().await.unwrap();
        assert_eq!(answer::<()>(get).await.unwrap_err().code, Code::BadRequest);
    }
}

#[tokio::test]
async fn a_file_cut_on_disk_is_never_given_as_a_whole_one() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(2 * MIB);
    server.put(&shard).await.unwrap();
    let file = std::fs::File::options().write(true).open(server.path(&shard)).unwrap();
    file.set_len(MIB as u64).unwrap();
    let across = format!("bytes={}-{}", MIB - 10, MIB + 10);
    for range in [None, Some(across.as_str())] {
        let refusal = answer::<()>(server.get(&shard, range).await).await.unwrap_err();
        assert_eq!(refusal.code, Code::Damaged, "{refusal}");
    }
    // What is left can still help to mend it.
    let left = server.get(&shard, Some("bytes=9000-9999")).await;
    assert!(left.bytes().await.unwrap() == shard.file[9000..10_000]);
    for bytes in [100, 1, 0] {
        file.set_len(bytes).unwrap();
        let refusal = answer::<()>(server.get(&shard, None).await).await.unwrap_err();
        assert_eq!(refusal.code, Code::Damaged, "{bytes} bytes: {refusal}");
        // Neither is that a client's mistake, nor are some of the bytes an answer.
        for range in ["bytes=0-4095", "bytes=4096-5000"] {
            let refusal = answer::<()>(server.get(&shard, Some(range)).await).await.unwrap_err();
            assert_eq!(refusal.code, Code::Damaged, "{range} of {bytes}: {refusal}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_read_ends_in_an_error() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(32 * MIB);
    server.put(&shard).await.unwrap();
    let whole = server.get(&shard, None).await;
    assert_eq!(whole.status(), StatusCode::OK);
    let file = std::fs::File::options().write(true).open(server.path(&shard)).unwrap();
    file.set_len(shard.file.len() as u64 - 1).unwrap();
    assert!(whole.bytes().await.is_err());
}

#[tokio::test]
async fn behind_a_damaged_header_there_are_ranges_and_no_shard() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(MIB);
    server.put(&shard).await.unwrap();
    std::fs::write(server.path(&shard), flipped(&shard.file, 200)).unwrap();
    let refusal = answer::<()>(server.get(&shard, None).await).await.unwrap_err();
    assert_eq!(refusal.code, Code::Damaged, "{refusal}");
    let part = server.get(&shard, Some("bytes=9000-9999")).await;
    assert!(part.bytes().await.unwrap() == shard.file[9000..10_000]);
}
