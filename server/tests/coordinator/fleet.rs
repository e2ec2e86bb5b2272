//! Joins, hellos, probes and the vault record.

use std::time::Duration;

use arc_server::auth::hello_mac;
use arc_server::coordinator::Timings;
use arc_server::wire::*;
use codec::VaultId;
use reqwest::Method;

use crate::fixture::{
    FakeServer, Fixture, Refused, changed, place_request, timings, vault_of, vault_record,
};

#[tokio::test]
async fn a_name_joins_once_and_is_checked() {
    let (mut fixture, _) = Fixture::with_servers(&["a"]).await;
    let refused = fixture.send_join("s1", "b", "http://127.0.0.1:9").await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::NameTaken);
    assert!(refused.refusal.message.contains("s1"), "{}", refused.refusal);
    for (name, zone, url) in [
        ("", "z", "http://127.0.0.1:9"),
        ("a b", "z", "http://127.0.0.1:9"),
        ("ok", "z/z", "http://127.0.0.1:9"),
        ("ok", "z", "ftp://127.0.0.1:9"),
        ("ok", "z", "https://storage.arc.invalid:9"),
    ] {
        let refused = fixture.send_join(name, zone, url).await.unwrap_err();
        assert_eq!(refused.refusal.code, Code::BadRequest, "{name:?} {zone:?} {url:?}");
    }
    fixture.join("s2", "b").await;
    let info: VaultInfo = fixture.get("/v1/vault").await;
    assert_eq!((info.vault, info.servers, info.zones), (vault_of(&fixture), 2, 2));
}

#[tokio::test]
async fn a_join_whose_answer_was_lost_can_be_repeated() {
    let mut fixture = Fixture::start().await;
    let longest = "n".repeat(64);
    let ghost = fixture.send_join(&longest, &longest, "http://127.0.0.1:9").await.unwrap();
    // Made again elsewhere, it takes the row and the number of the one that never came to be.
    let server = fixture.join(&longest, "b").await.identity();
    assert_eq!(server.server, ghost.server);
    assert_ne!(server.shared_key, ghost.shared_key);
    let page: Page<ServerInfo> = fixture.get("/v1/servers").await;
    let [row] = &page.rows[..] else { panic!("{page:?}") };
    assert_eq!((row.zone.as_str(), &row.url), ("b", &fixture.servers[0].url()));
    // One that was heard keeps its name, and so does one that said hello.
    let taken = fixture.send_join(&longest, "c", "http://127.0.0.1:9").await.unwrap_err();
    assert_eq!(taken.refusal.code, Code::NameTaken);
    let quiet = fixture.send_join("quiet", "c", "http://127.0.0.1:9").await.unwrap();
    let (server, url) = (quiet.server, "http://127.0.0.1:9".to_owned());
    let mut hello =
        Hello { server, url, starts: 1, tls: None, weight: Weight::ONE, mac: Blob(vec![]) };
    hello.mac = Blob(hello_mac(&quiet.shared_key.0, &hello));
    fixture.send(Method::POST, "/v1/hello", None, &hello).await.unwrap();
    let taken = fixture.send_join("quiet", "c", "http://127.0.0.1:9").await.unwrap_err();
    assert_eq!(taken.refusal.code, Code::NameTaken);
}

#[tokio::test]
async fn the_vault_record_is_made_once_and_given_to_every_server() {
    let (mut fixture, _) = Fixture::with_servers(&["a", "b"]).await;
    let put = |bytes: &[u8]| PutVault { record: Blob(bytes.to_vec()) };
    let vault = vault_of(&fixture);
    let record = vault_record(vault, 1);
    let long = [&record[..], &[0; 16 * 1024]].concat();
    let another = vault_record(VaultId([7; 16]), 1);
    for bad in [&[][..], b"record", &record[1..], &long, &another] {
        let refused =
            fixture.ask::<VaultInfo>(Method::PUT, "/v1/vault", &put(bad)).await.unwrap_err();
        assert_eq!(refused.refusal.code, Code::BadRequest);
    }
    for _ in 0..2 {
        let info: VaultInfo = fixture.ask(Method::PUT, "/v1/vault", &put(&record)).await.unwrap();
        assert_eq!(info.record, Some(Blob(record.clone())));
    }
    let refused = fixture
        .ask::<VaultInfo>(Method::PUT, "/v1/vault", &put(&vault_record(vault, 2)))
        .await
        .unwrap_err();
    assert_eq!(refused.refusal.code, Code::VaultExists);
    let info: VaultInfo = fixture.get("/v1/vault").await;
    assert_eq!(info.record, Some(Blob(record.clone())));

    fixture.join("late", "c").await;
    for server in &fixture.servers {
        assert_eq!(server.record().await, record, "{}", server.name);
    }
    // One that was away gets it again.
    fixture.servers[0].answer(|a| a.silent = true);
    fixture.state_becomes("s1", State::Suspect).await;
    fixture.servers[0].forget_record();
    fixture.servers[0].answer(|a| a.silent = false);
    assert_eq!(fixture.servers[0].record().await, record);
}

#[tokio::test]
async fn a_changed_vault_record_follows_the_one_before_and_reaches_every_server() {
    let (fixture, _) = Fixture::with_servers(&["a", "b"]).await;
    let vault = vault_of(&fixture);
    let first = vault_record(vault, 1);
    let [second, third] = [1, 2].map(|changes| changed(&first, 1, changes));
    let another_second = changed(&vault_record(vault, 2), 2, 1);
    let put = async |record: &[u8]| {
        let body = PutVault { record: Blob(record.to_vec()) };
        fixture.ask::<VaultInfo>(Method::PUT, "/v1/vault", &body).await
    };
    put(&first).await.unwrap();
    let refused = |answer: Result<VaultInfo, Refused>| answer.unwrap_err().refusal.code;
    assert_eq!(refused(put(&third).await), Code::Conflict, "one is missing between");
    for _ in 0..2 {
        let info = put(&second).await.unwrap();
        assert_eq!((info.record, info.record_on), (Some(Blob(second.clone())), 2));
    }
    for server in &fixture.servers {
        assert_eq!(server.record().await, second, "it was given before the answer");
    }
    assert_eq!(refused(put(&another_second).await), Code::Conflict, "somebody was faster");
    assert_eq!(refused(put(&first).await), Code::VaultExists);
    put(&third).await.unwrap();
    let info: VaultInfo = fixture.get("/v1/vault").await;
    assert_eq!(info.record, Some(Blob(third)));
}

#[tokio::test]
async fn a_silent_server_is_suspect_then_down_and_comes_back() {
    let timings = Timings { down_after: Duration::from_millis(1), ..timings() };
    let mut fixture = Fixture::start_with(timings).await;
    fixture.join("s1", "a").await;
    fixture.servers[0].answer(|a| a.silent = true);
    fixture.state_becomes("s1", State::Down).await;
    assert_eq!(fixture.status().await.servers, [(State::Down, 1)]);
    fixture.servers[0].answer(|a| a.silent = false);
    fixture.state_becomes("s1", State::Up).await;
}

#[tokio::test]
async fn a_server_silent_for_its_grace_is_lost_and_comes_back() {
    let short = Duration::from_millis(1);
    let timings = Timings { down_after: short, grace: short, ..timings() };
    let mut fixture = Fixture::start_with(timings).await;
    fixture.join("s1", "a").await;
    fixture.servers[0].answer(|a| a.silent = true);
    fixture.state_becomes("s1", State::Lost).await;
    assert_eq!(fixture.status().await.servers, [(State::Lost, 1)]);
    fixture.servers[0].answer(|a| a.silent = false);
    fixture.state_becomes("s1", State::Up).await;
}

#[tokio::test]
async fn a_zone_that_goes_as_a_whole_sets_the_brake() {
    let (fixture, _) = Fixture::with_servers(&["a", "a", "b", "b"]).await;
    assert_eq!(fixture.status().await.brake, None);
    let silent = |servers: &[usize], silent| {
        servers.iter().for_each(|&n| fixture.servers[n].answer(|a| a.silent = silent));
    };
    silent(&[0], true);
    fixture.state_becomes("s1", State::Suspect).await;
    assert_eq!(fixture.status().await.brake, None);
    silent(&[1], true);
    fixture.state_becomes("s2", State::Suspect).await;
    let status = fixture.status().await;
    let brake = status.brake.unwrap();
    assert_eq!(
        (brake.zones, brake.servers),
        (vec!["a".to_owned()], vec!["s1".into(), "s2".into()])
    );
    let hour_ms = 3_600_000;
    assert!(brake.since_ms <= status.now_ms && brake.until_ms == brake.since_ms + hour_ms);
    silent(&[0, 1], false);
    fixture.state_becomes("s1", State::Up).await;
    fixture.state_becomes("s2", State::Up).await;
    assert_eq!(fixture.status().await.brake, None);
}

#[tokio::test]
async fn a_server_that_failed_a_push_is_probed_at_once() {
    let hourly = Timings { probe_every: Duration::from_secs(3600), ..timings() };
    let fixture = Fixture::start_with(hourly).await;
    let fake = FakeServer::start("s1").await;
    let answer = fixture.send_join("s1", "a", &fake.url()).await.unwrap();
    fake.belong_to(&answer);
    // A record is given with the next probe, at once.
    let record = PutVault { record: Blob(vault_record(answer.vault, 1)) };
    fixture.ask::<VaultInfo>(Method::PUT, "/v1/vault", &record).await.unwrap();
    fixture.state_becomes("s1", State::Up).await;
    fake.answer(|a| a.silent = true);
    let lease = fixture.begin().await;
    let mut request = place_request(&lease, 1, (1, 1));
    request.avoid = vec![answer.server];
    in_time(async || {
        fixture.place(&request).await.unwrap_err();
        let page: Page<ServerInfo> = fixture.get("/v1/servers").await;
        page.rows[0].state == State::Suspect
    })
    .await;
}

#[tokio::test]
async fn a_server_whose_receipt_comes_was_heard() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    let commit = fixture.push(&lease, 1, (2, 1)).await;
    fixture.servers[0].answer(|a| a.silent = true);
    fixture.state_becomes("s1", State::Suspect).await;
    let request = place_request(&lease, 2, (2, 1));
    let says_0_s = async || {
        let refused = fixture.place(&request).await.unwrap_err().refusal.message;
        assert!(refused.contains("s1 is suspect, silent for "), "{refused}");
        refused.contains("silent for 0 s")
    };
    in_time(async || !says_0_s().await).await;
    in_time(async || {
        fixture.commit(&commit).await.unwrap();
        says_0_s().await
    })
    .await;
}

#[tokio::test]
async fn another_server_at_the_same_place_does_not_count() {
    let (fixture, _) = Fixture::with_servers(&["a", "b"]).await;
    let mut other = fixture.servers[0].identity();
    other.server = fixture.servers[1].id();
    fixture.servers[0].belong_to(&other);
    fixture.state_becomes("s1", State::Suspect).await;
}

#[tokio::test]
async fn a_hello_moves_a_server_and_an_old_one_does_not() {
    let (mut fixture, _) = Fixture::with_servers(&["a"]).await;
    let identity = fixture.servers[0].identity();
    let hello = |url: String, starts| {
        let mut hello = Hello {
            server: identity.server,
            url,
            starts,
            tls: None,
            weight: Weight::ONE,
            mac: Blob(vec![]),
        };
        hello.mac = Blob(hello_mac(&identity.shared_key.0, &hello));
        hello
    };
    let epoch = fixture.status().await.epoch;
    let old_url = fixture.servers[0].url();
    let elsewhere = FakeServer::start("s1").await;
    elsewhere.belong_to(&identity);
    let moved = hello(elsewhere.url(), 3);
    for _ in 0..2 {
        let answer = fixture.send(Method::POST, "/v1/hello", None, &moved).await.unwrap();
        let answer: HelloAnswer = serde_json::from_value(answer).unwrap();
        assert_eq!(answer.epoch, epoch);
    }
    let replay = hello(old_url, 2);
    let refused = fixture.send(Method::POST, "/v1/hello", None, &replay).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::Conflict);
    let page: Page<ServerInfo> = fixture.get("/v1/servers").await;
    assert_eq!(page.rows[0].url, elsewhere.url());
    // It is probed where it is now.
    fixture.servers[0].answer(|a| a.silent = true);
    elsewhere.answer(|a| a.free_bytes = 12_345);
    fixture.servers.push(elsewhere);
    loop {
        let page: Page<ServerInfo> = fixture.get("/v1/servers").await;
        if page.rows[0].free_bytes == 12_345 {
            break;
        }
    }
}

#[tokio::test]
async fn servers_that_cannot_take_a_shard_are_named() {
    let (fixture, lease) = Fixture::with_servers(&["a", "b", "c", "d"]).await;
    fixture.servers[0].answer(|a| a.silent = true);
    fixture.servers[1].answer(|a| a.trouble = Some("a sync failed".into()));
    fixture.servers[2].answer(|a| a.free_bytes = 10);
    fixture.state_becomes("s1", State::Suspect).await;
    let mut request = place_request(&lease, 1, (2, 1));
    let said = loop {
        match fixture.place(&request).await {
            Err(refused) if refused.refusal.message.contains("full") => break refused.refusal,
            Err(refused) => assert_eq!(refused.refusal.code, Code::TooFewServers),
            // The last probe is older than its trouble.
            Ok(_) => {}
        }
    };
    assert_eq!(said.code, Code::TooFewServers);
    for part in ["s1 is suspect", "s2 takes no writes: a sync failed", "s3 is full"] {
        assert!(said.message.contains(part), "{said}");
    }
    assert!(!said.message.contains("s4"), "{said}");

    // Content with less, it gets what there is, but never what could not be read back.
    request.min_shards = 1;
    let refused = fixture.place(&request).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::TooFewServers);
    fixture.servers[2].answer(|a| a.free_bytes = 1 << 40);
    let placement = loop {
        if let Ok(placement) = fixture.place(&request).await {
            break placement;
        }
    };
    let named: Vec<&str> = placement.places.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(placement.places.len(), 2);
    assert!(named.contains(&"s3") && named.contains(&"s4"), "{named:?}");
}

/// Asks again and again until `is`; half a minute is a failure.
async fn in_time(is: impl AsyncFn() -> bool) {
    let asked = async { while !is().await {} };
    tokio::time::timeout(Duration::from_secs(30), asked).await.expect("it never came about");
}
