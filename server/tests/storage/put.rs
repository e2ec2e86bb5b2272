//! Storing shards: what is refused leaves nothing, what is answered is there.

use std::time::Duration;

use arc_server::auth::{Grant, Ticket, TicketSigner, receipt_mac, same};
use arc_server::wire::*;
use codec::{StripeId, VaultId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::*;

const MIB: usize = 1 << 20;

#[tokio::test]
async fn a_shard_is_stored_once_and_always_gets_the_same_receipt() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(8 * MIB);
    let receipt = server.put(&shard).await.unwrap();
    assert_eq!((receipt.stripe, receipt.index), (shard.stripe, shard.index));
    assert_eq!((receipt.server, receipt.epoch), (ServerId(1), 4));
    assert_eq!(receipt.header_hash, shard.header_hash);
    assert!(same(&receipt.mac.0, &receipt_mac(&SHARED_KEY, VAULT, &receipt)));
    assert!(std::fs::read(server.path(&shard)).unwrap() == shard.file);

    let made = std::fs::metadata(server.path(&shard)).unwrap().modified().unwrap();
    assert_eq!(server.put(&shard).await.unwrap(), receipt);
    assert_eq!(std::fs::metadata(server.path(&shard)).unwrap().modified().unwrap(), made);
    // The body is not looked at when the shard is there.
    let zeros = vec![0; shard.file.len()];
    let ticket = server.sign(shard.grant());
    assert_eq!(server.put_bytes(&shard, &ticket, zeros).await.unwrap(), receipt);
    assert_eq!(names(&world.data().join("tmp")), Vec::<String>::new());
}

#[tokio::test]
async fn a_receipt_for_a_shard_that_is_there_needs_no_body() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(3 * MIB);
    server.put(&shard).await.unwrap();
    let mut stream = server.half_put(&shard, b"").await;
    let mut start = [0; 15];
    stream.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn many_puts_of_one_shard_at_once_make_one_file() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(2 * MIB);
    let puts = (0..6).map(|_| server.put(&shard));
    let receipts = futures_util::future::join_all(puts).await;
    let first = receipts[0].clone().unwrap();
    assert!(receipts.into_iter().all(|receipt| receipt.unwrap() == first));
    assert!(std::fs::read(server.path(&shard)).unwrap() == shard.file);
    assert_eq!(names(server.path(&shard).parent().unwrap()).len(), 1);
    assert_eq!(names(&world.data().join("tmp")), Vec::<String>::new());
    assert_eq!(names(&world.data().join("quarantine")), Vec::<String>::new());
}

#[tokio::test]
async fn bytes_that_are_not_the_shard_leave_nothing() {
    let world = World::new().await;
    let server = world.server().await;
    let stripe_of = |vault| stripe(vault, 4 * MIB, 1);
    let siblings = stripe_of(VAULT);
    let shard = &siblings[1];
    let (file, body_at) = (&shard.file, shard.header_bytes);
    let mut claims_more = file.clone();
    claims_more[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    for (case, bytes, code) in [
        ("garbage", vec![0xa5; file.len()], Code::Damaged),
        ("bit in the magic", flipped(file, 3), Code::Damaged),
        ("header length", claims_more, Code::Damaged),
        ("bit in a root", flipped(file, 300), Code::Damaged),
        ("bit in the header's padding", flipped(file, body_at - 100), Code::Damaged),
        ("first bit of the body", flipped(file, body_at), Code::Damaged),
        ("bit in the body", flipped(file, body_at + MIB + 77), Code::Damaged),
        ("bit in the footer", flipped(file, file.len() - 50), Code::Damaged),
        ("a sibling", siblings[0].file.clone(), Code::Damaged),
        ("another stripe", stripe(VAULT, 4 * MIB, 2)[1].file.clone(), Code::Damaged),
        ("another vault", stripe_of(VaultId([8; 16]))[1].file.clone(), Code::Damaged),
    ] {
        assert_eq!(bytes.len(), file.len(), "{case}");
        let ticket = server.sign(shard.grant());
        let refusal = server.put_bytes(shard, &ticket, bytes).await.unwrap_err();
        assert_eq!(refusal.code, code, "{case}: {refusal}");
        server.holds_nothing(case).await;
    }
    server.put(shard).await.unwrap();
}

#[tokio::test]
async fn another_length_than_the_ticket_or_the_shard_has_leaves_nothing() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(MIB);
    let whole = shard.file.len();
    let of = |bytes: usize| {
        let mut file = shard.file.clone();
        file.resize(bytes, 0);
        file
    };
    for (ticket_bytes, body_bytes, code) in [
        (whole, whole + 1, Code::TooLarge),
        (whole, whole - 1, Code::BadRequest),
        (whole + 1, whole + 1, Code::BadRequest),
        (whole - 1, whole - 1, Code::BadRequest),
        (10, 10, Code::BadRequest),
        (5000, 5000, Code::BadRequest),
        (0, 0, Code::BadRequest),
    ] {
        let grant = Grant::Put {
            stripe: shard.stripe,
            index: shard.index,
            file_bytes: ticket_bytes as u64,
        };
        let case = format!("ticket for {ticket_bytes}, {body_bytes} sent");
        let put = server.put_bytes(&shard, &server.sign(grant), of(body_bytes)).await;
        assert_eq!(put.unwrap_err().code, code, "{case}");
        server.holds_nothing(&case).await;
    }
    let ticket = server.sign(shard.grant());
    let pieces = futures_util::stream::iter([Ok::<_, std::io::Error>(shard.file.clone())]);
    let chunked = server.request(reqwest::Method::PUT, &shard.url_path(), &ticket);
    let chunked = chunked.body(reqwest::Body::wrap_stream(pieces)).send().await.unwrap();
    assert_eq!(answer::<Receipt>(chunked).await.unwrap_err().code, Code::BadRequest);
    server.holds_nothing("no Content-Length").await;
}

#[tokio::test]
async fn a_body_that_is_cut_off_leaves_nothing() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(MIB);
    for sent in [1, 100, shard.header_bytes, shard.header_bytes + 70_000, shard.file.len() - 1] {
        let stream = server.half_put(&shard, &shard.file[..sent]).await;
        server.writing().await;
        drop(stream);
        server.holds_nothing(&format!("{sent} bytes sent")).await;
    }
    server.put(&shard).await.unwrap();
}

#[tokio::test]
async fn a_silent_client_is_dropped() {
    let world = World::new().await;
    let silence = Duration::from_millis(50);
    let server = world.server_with(|config| config.limits.client_silence = silence).await;
    let shard = shard(MIB);
    let mut stream = server.half_put(&shard, &shard.file[..100_000]).await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
    server.holds_nothing("silence").await;
}

#[tokio::test]
async fn no_ticket_but_the_right_one_stores_a_shard() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(2 * MIB);
    let good = world.coordinator.ticket(shard.grant());
    let file_bytes = shard.file.len() as u64;
    let put = |stripe, index, file_bytes| Grant::Put { stripe, index, file_bytes };
    let with = |grant| Ticket { grant, ..good };
    for (case, ticket, code) in [
        ("expired", Ticket { expires_ms: NOW_MS, ..good }, Code::Expired),
        ("stale", Ticket { epoch: 3, ..good }, Code::StaleEpoch),
        ("server", Ticket { server: ServerId(2), ..good }, Code::Forbidden),
        ("vault", Ticket { vault: VaultId([1; 16]), ..good }, Code::Forbidden),
        ("stripe", with(put(StripeId([1; 32]), shard.index, file_bytes)), Code::Forbidden),
        ("index", with(put(shard.stripe, 0, file_bytes)), Code::Forbidden),
        ("length", with(put(shard.stripe, shard.index, file_bytes + 1)), Code::BadRequest),
        ("read", with(Grant::Read), Code::Forbidden),
        ("control", with(Grant::Control), Code::Forbidden),
    ] {
        let text = world.coordinator.sign(&ticket);
        let refusal = server.put_bytes(&shard, &text, shard.file.clone()).await.unwrap_err();
        assert_eq!(refusal.code, code, "{case}: {refusal}");
        server.holds_nothing(case).await;
    }
    let forged = TicketSigner::from_seed(&[8; 32]).unwrap().sign(&good).unwrap();
    for text in ["", "nonsense", forged.as_str()] {
        let refusal = server.put_bytes(&shard, text, shard.file.clone()).await.unwrap_err();
        assert_eq!(refusal.code, Code::Unauthorized, "{text}");
    }
    server.holds_nothing("forged").await;
    server.put(&shard).await.unwrap();
}

#[tokio::test]
async fn a_later_epoch_fences_the_tickets_before_it() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(MIB);
    let old = server.sign(shard.grant());
    let later = Ticket { epoch: 5, ..world.coordinator.ticket(Grant::Control) };
    let probe = Probe { epoch: 5, now_ms: NOW_MS };
    let text = world.coordinator.sign(&later);
    let request = server.request(reqwest::Method::POST, "/v1/probe", &text).json(&probe);
    answer::<ProbeAnswer>(request.send().await.unwrap()).await.unwrap();
    let refusal = server.put_bytes(&shard, &old, shard.file.clone()).await.unwrap_err();
    assert_eq!(refusal.code, Code::StaleEpoch);
    server.storage.stop().await;

    // The coordinator's own hello still says 4 here: what was seen once stays.
    let server = world.server().await;
    let refusal = server.put_bytes(&shard, &old, shard.file.clone()).await.unwrap_err();
    assert_eq!(refusal.code, Code::StaleEpoch);
    server.holds_nothing("stale").await;
}

#[tokio::test]
async fn puts_beyond_the_limit_are_asked_to_come_again() {
    let world = World::new().await;
    let server = world
        .server_with(|config| {
            config.limits.puts = 1;
            config.limits.busy_wait = Duration::ZERO;
        })
        .await;
    let shards = stripe(VAULT, 4 * MIB, 1);
    let half = shards[0].file.len() / 2;
    let mut first = server.half_put(&shards[0], &shards[0].file[..half]).await;
    server.writing().await;
    assert_eq!(server.put(&shards[1]).await.unwrap_err().code, Code::Busy);
    first.write_all(&shards[0].file[half..]).await.unwrap();
    let mut start = [0; 15];
    first.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    server.put(&shards[1]).await.unwrap();
}

#[tokio::test]
async fn a_stop_lets_a_put_finish() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(2 * MIB);
    let path = server.path(&shard);
    let mut put = server.half_put(&shard, &shard.file[..MIB]).await;
    server.writing().await;
    let stop = server.storage.stop();
    let rest = async {
        put.write_all(&shard.file[MIB..]).await.unwrap();
        let mut answer = String::new();
        put.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    };
    tokio::join!(stop, rest);
    assert!(path.exists());
    world.server().await;
}

#[tokio::test]
async fn a_refused_client_that_trickles_is_cut_off() {
    let world = World::new().await;
    let limit = Duration::from_millis(200);
    let server = world.server_with(|config| config.limits.client_silence = limit).await;
    let other = stripe(VaultId([1; 16]), 2 * MIB, 1).swap_remove(1);
    let stream = server.half_put(&other, &other.file[..5000]).await;
    let (mut read, mut write) = stream.into_split();
    // Never silent for long, and never done.
    let trickle = async {
        while write.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ended = async {
        let mut answer = Vec::new();
        // It may end in a reset.
        let _ = read.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 422"), "{}", String::from_utf8_lossy(&answer));
    };
    let both = async { tokio::join!(trickle, ended) };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("it is still read");
}

#[tokio::test]
async fn refused_bodies_do_not_queue_up() {
    let world = World::new().await;
    let server = world.server().await;
    let other = stripe(VaultId([1; 16]), 2 * MIB, 1).swap_remove(1);
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut stream = server.half_put(&other, &other.file[..5000]).await;
        let mut start = [0; 12];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 422");
        waiting.push(stream);
    }
    let mut ninth = server.half_put(&other, &other.file[..5000]).await;
    let mut answer = Vec::new();
    let end = ninth.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(20), end).await.expect("it is not closed");
}

#[tokio::test]
async fn a_put_that_does_not_end_is_cut_off_by_a_stop() {
    let world = World::new().await;
    let drain = Duration::from_millis(50);
    let server = world.server_with(|config| config.drain = drain).await;
    let shard = shard(2 * MIB);
    let mut put = server.half_put(&shard, &shard.file[..MIB]).await;
    server.writing().await;
    server.storage.stop().await;
    // Nothing runs on: what was written is gone, the connection is closed, the folder is free.
    assert_eq!(names(&world.data().join("tmp")), Vec::<String>::new());
    let end = async {
        let mut answer = Vec::new();
        let _ = put.read_to_end(&mut answer).await;
        assert_eq!(answer, b"");
    };
    tokio::time::timeout(Duration::from_secs(20), end).await.expect("it is still open");
    world.server().await.put(&shard).await.unwrap();
}
