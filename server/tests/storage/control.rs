//! What the coordinator asks of a server, and checks.

use arc_server::auth::{Grant, Ticket};
use arc_server::wire::*;
use reqwest::Method;

use super::support::*;

#[tokio::test]
async fn a_check_tells_good_missing_cut_and_flipped_apart() {
    use Thoroughness::{Present, Whole};
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(1 << 20);
    let path = server.path(&shard);
    let damaged = |found: Found| matches!(found, Found::Damaged(_));
    for how in [Present, Whole] {
        assert_eq!(server.found(&shard, how).await, Found::Missing);
    }
    server.put(&shard).await.unwrap();
    for how in [Present, Whole] {
        assert_eq!(server.found(&shard, how).await, Found::Good);
    }
    let (file, body_at) = (&shard.file, shard.header_bytes);
    for (case, bytes, present_finds) in [
        ("body", flipped(file, body_at + 500_000), false),
        ("footer", flipped(file, file.len() - 1), false),
        ("header", flipped(file, 200), true),
        ("cut", file[..file.len() - 1].to_vec(), true),
        ("grown", [file, b"x".as_slice()].concat(), true),
        ("empty", Vec::new(), true),
        ("another shard", stripe(VAULT, 2 << 20, 1)[0].file.clone(), true),
    ] {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(damaged(server.found(&shard, Present).await), present_finds, "{case}");
        assert!(damaged(server.found(&shard, Whole).await), "{case}");
        // What was found once is known from then on, until all of it is read and right.
        assert!(damaged(server.found(&shard, Present).await), "{case}");
        std::fs::write(&path, file).unwrap();
        assert!(damaged(server.found(&shard, Present).await), "{case}");
        for how in [Whole, Present] {
            assert_eq!(server.found(&shard, how).await, Found::Good, "{case}");
        }
    }
    let many = CheckRequest { shards: vec![(shard.stripe, 1); 1001], thoroughness: Present };
    let refusal = server.post::<CheckAnswer>("/v1/check", Grant::Read, &many).await.unwrap_err();
    assert_eq!(refusal.code, Code::TooLarge);
    let two =
        CheckRequest { shards: vec![(shard.stripe, 0), (shard.stripe, 1)], thoroughness: Present };
    let answer: CheckAnswer = server.post("/v1/check", Grant::Read, &two).await.unwrap();
    assert_eq!(answer.found, [Found::Missing, Found::Good]);
}

#[tokio::test]
async fn the_pages_of_the_inventory_are_complete_and_in_order() {
    let world = World::new().await;
    let server = world.server().await;
    let mut expected = Vec::new();
    for seed in 0..9 {
        for shard in stripe(VAULT, 5000 + usize::from(seed), seed) {
            server.put(&shard).await.unwrap();
            let file_bytes = shard.file.len() as u64;
            expected.push(InventoryRow {
                stripe: shard.stripe,
                index: shard.index,
                file_bytes,
                damaged: None,
            });
        }
    }
    expected.sort_by_key(|row| (row.stripe, row.index));
    std::fs::write(world.data().join("shards/00/stray"), "x").unwrap();

    let page = async |after: Option<String>, limit: u32| -> Page<InventoryRow> {
        let ticket = server.sign(Grant::Control);
        let query = PageQuery { after, limit: Some(limit) };
        let request = server.request(Method::GET, "/v1/inventory", &ticket).query(&query);
        answer(request.send().await.unwrap()).await.unwrap()
    };
    for limit in [1, 4, 27, 1000] {
        let mut rows = Vec::new();
        let mut after = None;
        loop {
            let next = page(after, limit).await;
            assert!(next.rows.len() <= limit as usize);
            rows.extend(next.rows);
            after = next.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(rows, expected, "pages of {limit}");
    }
    for query in ["after=x", "limit=x", "limit=-1"] {
        let ticket = server.sign(Grant::Control);
        let path = format!("/v1/inventory?{query}");
        let refused = server.request(Method::GET, &path, &ticket).send().await.unwrap();
        assert_eq!(answer::<()>(refused).await.unwrap_err().code, Code::BadRequest, "{query}");
    }
}

#[tokio::test]
async fn trash_is_moved_aside_and_outlives_a_restart() {
    let world = World::new().await;
    let server = world.server().await;
    let shards = stripe(VAULT, 300_000, 1);
    for shard in &shards[..2] {
        server.put(shard).await.unwrap();
    }
    let all = || TrashRequest { shards: shards.iter().map(|s| (s.stripe, s.index)).collect() };

    // An order of an epoch that is over changes nothing.
    let stale = Ticket { epoch: 3, ..world.coordinator.ticket(Grant::Control) };
    let text = world.coordinator.sign(&stale);
    let order = server.request(Method::POST, "/v1/trash", &text).json(&all());
    let refusal = answer::<TrashAnswer>(order.send().await.unwrap()).await.unwrap_err();
    assert_eq!(refusal.code, Code::StaleEpoch);
    let refusal = server.post::<TrashAnswer>("/v1/trash", Grant::Read, &all()).await.unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
    assert_eq!(server.found(&shards[0], Thoroughness::Whole).await, Found::Good);

    let moved: TrashAnswer = server.post("/v1/trash", Grant::Control, &all()).await.unwrap();
    assert_eq!(moved.trashed, 2);
    let again: TrashAnswer = server.post("/v1/trash", Grant::Control, &all()).await.unwrap();
    assert_eq!(again.trashed, 0);
    assert_eq!(server.found(&shards[0], Thoroughness::Whole).await, Found::Missing);
    // Stored and trashed once more: both copies are kept.
    server.put(&shards[0]).await.unwrap();
    server.post::<TrashAnswer>("/v1/trash", Grant::Control, &all()).await.unwrap();
    let day = world.data().join("trash/5");
    assert_eq!(names(&day).len(), 3);
    server.storage.stop().await;
    world.server().await;
    assert_eq!(names(&day).len(), 3);
    let name = names(&day).into_iter().find(|name| name.contains(".1.")).unwrap();
    assert!(std::fs::read(day.join(name)).unwrap() == shards[1].file);
}

#[tokio::test]
async fn a_probe_tells_who_and_how_much() {
    let world = World::new().await;
    let server = world.server().await;
    let answer = server.probe().await.unwrap();
    assert_eq!((answer.server, answer.vault), (ServerId(1), VAULT));
    assert!(answer.free_bytes > 0 && answer.free_bytes <= answer.capacity_bytes);
    assert_eq!(answer.trouble, None);
    let probe = Probe { epoch: 4, now_ms: NOW_MS };
    let refusal = server.post::<ProbeAnswer>("/v1/probe", Grant::Read, &probe).await.unwrap_err();
    assert_eq!(refusal.code, Code::Forbidden);
}

#[tokio::test]
async fn a_probe_moves_the_time_that_tickets_end_by() {
    let world = World::new().await;
    let server = world.server().await;
    let shard = shard(5000);
    let later = Probe { epoch: 4, now_ms: NOW_MS + 600_000 };
    server.post::<ProbeAnswer>("/v1/probe", Grant::Control, &later).await.unwrap();
    assert_eq!(server.put(&shard).await.unwrap_err().code, Code::Expired);
}

#[tokio::test]
async fn the_vaults_newest_record_is_kept_as_it_was_sent() {
    let world = World::new().await;
    let server = world.server().await;
    let kept = || std::fs::read(world.data().join("vault.record")).unwrap();
    assert_eq!(kept(), record(VAULT, 1));
    let put = async |grant, record: &[u8]| {
        let record = PutVault { record: Blob(record.to_vec()) };
        let ticket = server.sign(grant);
        let request = server.request(Method::PUT, "/v1/vault-record", &ticket).json(&record);
        answer::<()>(request.send().await.unwrap()).await
    };
    let second = record(VAULT, 2);
    assert_eq!(put(Grant::Read, &second).await.unwrap_err().code, Code::Forbidden);
    assert_eq!(kept(), record(VAULT, 1));
    put(Grant::Control, &second).await.unwrap();
    assert_eq!(kept(), second);
    for (bytes, code) in [
        (record(VAULT, 1), Code::Conflict),
        (record(codec::VaultId([1; 16]), 3), Code::Forbidden),
        (b"no record".to_vec(), Code::Damaged),
        (record(VAULT, 3)[1..].to_vec(), Code::Damaged),
    ] {
        assert_eq!(put(Grant::Control, &bytes).await.unwrap_err().code, code);
        assert_eq!(kept(), second);
    }
    put(Grant::Control, &record(VAULT, 3)).await.unwrap();
    assert_eq!(kept(), record(VAULT, 3));
    // One that was damaged on disk is replaced.
    std::fs::write(world.data().join("vault.record"), "damaged").unwrap();
    put(Grant::Control, &second).await.unwrap();
    assert_eq!(kept(), second);
}

#[tokio::test]
async fn nonsense_gets_a_refusal() {
    let world = World::new().await;
    let server = world.server().await;
    for (path, code) in [("/v1/probe", Code::BadRequest), ("/v1/nothing", Code::NotFound)] {
        let refusal = server.post::<()>(path, Grant::Control, &"nonsense").await.unwrap_err();
        assert_eq!(refusal.code, code, "{path}");
    }
    let long = "x".repeat(1 << 20);
    let refusal = server.post::<()>("/v1/trash", Grant::Control, &long).await.unwrap_err();
    assert_eq!(refusal.code, Code::TooLarge);
}

#[tokio::test]
async fn facts_are_for_the_coordinator_alone_and_outlive_a_restart() {
    use arc_server::auth::TicketSigner;
    use codec::fact::{Body, Stamp};

    let world = World::new().await;
    let server = world.server().await;
    let signer = TicketSigner::from_seed(&[7; 32]).unwrap();
    let (mut head, mut facts) = (Head::default(), Vec::new());
    for number in 1..=5_u8 {
        let stamp = Stamp {
            snapshot: codec::StripeId([number; 32]),
            sequence: number.into(),
            received_ms: 0,
            source_set: codec::Digest([0; 32]),
            origin: 1,
        };
        let fact = head.next(VAULT, 1, Body::Stamp(stamp));
        let bytes = signer.sign_fact(&fact).unwrap();
        head = head.after(&fact, &bytes).unwrap();
        facts.push(Blob(bytes));
    }
    let put = async |server: &Server<'_>, grant, facts: &[Blob]| -> Result<Head, Refusal> {
        let body = PutFacts { facts: facts.to_vec() };
        let request = server.request(Method::PUT, "/v1/facts", &server.sign(grant)).json(&body);
        answer(request.send().await.unwrap()).await
    };
    let get = async |server: &Server<'_>, grant, query: &str| -> Result<FactsPage, Refusal> {
        let path = format!("/v1/facts{query}");
        let request = server.request(Method::GET, &path, &server.sign(grant));
        answer(request.send().await.unwrap()).await
    };
    for wrong in
        [Grant::Read, Grant::Put { stripe: codec::StripeId([1; 32]), index: 0, file_bytes: 1 }]
    {
        assert_eq!(put(&server, wrong, &facts).await.unwrap_err().code, Code::Forbidden);
        assert_eq!(get(&server, wrong, "").await.unwrap_err().code, Code::Forbidden);
    }
    assert_eq!(put(&server, Grant::Control, &facts[..3]).await.unwrap().number, 3);
    for _ in 0..2 {
        assert_eq!(put(&server, Grant::Control, &facts).await.unwrap(), head);
    }
    let many = vec![facts[0].clone(); FACTS_PER_PAGE_MAX + 1];
    assert_eq!(put(&server, Grant::Control, &many).await.unwrap_err().code, Code::TooLarge);
    let bent = [Blob(vec![0; 300])];
    assert_eq!(put(&server, Grant::Control, &bent).await.unwrap_err().code, Code::Damaged);
    assert_eq!(get(&server, Grant::Control, "?after=2&limit=2").await.unwrap().facts, facts[2..4]);
    assert!(get(&server, Grant::Control, "?after=5").await.unwrap().facts.is_empty());
    server.storage.stop().await;
    let server = world.server().await;
    let probe = Probe { epoch: 4, now_ms: NOW_MS };
    let answer: ProbeAnswer = server.post("/v1/probe", Grant::Control, &probe).await.unwrap();
    assert_eq!(answer.facts, Some(head));
}
