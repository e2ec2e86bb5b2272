//! What a restart keeps, and who may have the folder.

use std::os::unix::fs::PermissionsExt as _;

use arc_server::Error;
use arc_server::auth::Token;
use arc_server::coordinator::{self, Config};
use arc_server::wire::*;
use reqwest::Method;
use serde_json::Value;

use crate::fixture::{Fixture, listen, timings, vault_of, vault_record};

#[tokio::test]
async fn a_restart_keeps_everything_and_raises_the_epoch() {
    let (mut fixture, lease) = Fixture::with_servers(&["a", "b", "c"]).await;
    let record = PutVault { record: Blob(vault_record(vault_of(&fixture), 1)) };
    fixture.ask::<VaultInfo>(Method::PUT, "/v1/vault", &record).await.unwrap();
    let first = fixture.push(&lease, 1, (2, 1)).await;
    fixture.snapshot(&lease, 2).await;
    let pending = fixture.stored(&lease, 3, (2, 1)).await;
    let before = state(&fixture).await;
    let (owner, status) = (fixture.coordinator.owner.clone(), fixture.status().await);

    fixture.restart(timings()).await;
    // Nobody is told of servers that were not looked for yet.
    let after = fixture.status().await;
    assert_eq!((&after.servers, &after.margins), (&status.servers, &status.margins));
    assert_eq!(state(&fixture).await, before);
    assert_eq!(fixture.coordinator.owner.secret, owner.secret);
    assert_eq!((after.vault, after.epoch), (status.vault, status.epoch + 1));
    assert!(after.now_ms >= status.now_ms);
    let info: VaultInfo = fixture.get("/v1/vault").await;
    assert_eq!(info.record, Some(record.record));

    // The push goes on: its receipts hold, tickets are of the new epoch.
    assert_eq!(fixture.commit(&pending).await.unwrap().holders, 3);
    assert_eq!(fixture.commit(&first).await.unwrap().holders, 3);
    let next = fixture.stored(&lease, 4, (2, 1)).await;
    assert_eq!(next.receipts[0].epoch, after.epoch);
    fixture.commit(&next).await.unwrap();
    assert_eq!(fixture.status().await.stripes, 4);
}

async fn state(fixture: &Fixture) -> (Value, Value) {
    (fixture.get("/v1/stripes").await, fixture.get("/v1/snapshots").await)
}

#[tokio::test]
async fn an_older_copy_goes_on_above_the_highest_epoch_that_a_server_saw() {
    let (mut fixture, _) = Fixture::with_servers(&["a", "b"]).await;
    for (server, epoch) in fixture.servers.iter().zip([100, 90]) {
        server.answer(|a| a.epoch = epoch);
    }
    let raised = 101;
    while fixture.status().await.epoch != raised {}
    let lease = fixture.begin().await;
    let commit = fixture.push(&lease, 1, (1, 1)).await;
    assert_eq!(commit.receipts[0].epoch, raised);
    fixture.restart(timings()).await;
    assert_eq!(fixture.status().await.epoch, raised + 1, "it was kept");
}

#[tokio::test]
async fn a_server_that_lies_about_epochs_is_heard_once_and_within_reason() {
    let (fixture, _) = Fixture::with_servers(&["a", "b"]).await;
    let first = fixture.status().await.epoch;
    fixture.servers[0].answer(|a| a.epoch = u64::MAX);
    fixture.state_becomes("s1", State::Suspect).await;
    assert_eq!(fixture.status().await.epoch, first);
    fixture.servers[1].answer(|a| a.epoch = 1000);
    while fixture.status().await.epoch != 1001 {}
    fixture.servers[1].answer(|a| a.epoch = 2000);
    fixture.state_becomes("s2", State::Suspect).await;
    assert_eq!(fixture.status().await.epoch, 1001);
}

#[tokio::test]
async fn tokens_are_private_and_keep_their_secret_at_a_new_url() {
    let mut fixture = Fixture::start().await;
    let path = fixture.folder.path().join("coordinator/owner.token");
    let read = || std::fs::read_to_string(&path).unwrap().parse::<Token>().unwrap();
    let first = read();
    assert_eq!(first, fixture.coordinator.owner);
    assert_eq!(first.url, fixture.coordinator.running.url());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    fixture.restart(timings()).await;
    assert_eq!(read(), Token { url: fixture.coordinator.running.url(), ..first.clone() });

    // A token that was deleted is replaced, and then worth nothing.
    std::fs::remove_file(&path).unwrap();
    fixture.restart(timings()).await;
    assert_ne!(read().secret, first.secret);
    let refused =
        fixture.send(Method::GET, "/v1/vault", Some(&first.secret), &()).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::Unauthorized);
    fixture.get::<VaultInfo>("/v1/vault").await;
}

#[tokio::test]
async fn a_second_coordinator_on_the_folder_is_refused() {
    let fixture = Fixture::start().await;
    let data = fixture.folder.path().join("coordinator");
    let config = Config {
        data: data.clone(),
        listen: listen(),
        advertise: Some("http://vault.example:7070".into()),
        timings: timings(),
        fail_at: None,
    };
    let Err(Error::Config(said)) = coordinator::start(config.clone()).await else {
        panic!("two coordinators on one folder")
    };
    assert!(said.contains("another coordinator runs on"), "{said}");
    fixture.coordinator.stop().await;
    let second = coordinator::start(config).await.unwrap();
    assert_eq!(second.owner.url, "http://vault.example:7070");
    second.stop().await;
}

#[tokio::test]
async fn the_roster_has_every_server_before_it_is_answered_and_is_private() {
    let (fixture, _) = Fixture::with_servers(&["a", "b"]).await;
    let data = fixture.folder.path().join("coordinator");
    let roster = || -> Value {
        serde_json::from_slice(&std::fs::read(data.join("servers")).unwrap()).unwrap()
    };
    let names = |roster: &Value| -> Vec<String> {
        let servers = roster["servers"].as_array().unwrap().iter();
        servers.map(|server| format!("{} {}", server["name"], server["mode"])).collect()
    };
    assert_eq!(names(&roster()), [r#""s1" "normal""#, r#""s2" "normal""#]);
    let mode = std::fs::metadata(data.join("servers")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fixture.send_join("s3", "c", "http://127.0.0.1:9").await.unwrap();
    let draining = SetMode { mode: Mode::Draining };
    fixture.ask::<()>(Method::PUT, "/v1/servers/1/mode", &draining).await.unwrap();
    assert_eq!(roster()["servers"].as_array().unwrap().len(), 3);
    assert_eq!(names(&roster())[0], r#""s1" "draining""#);
    fixture.ask::<()>(Method::DELETE, "/v1/servers/3", &()).await.unwrap();
    assert_eq!((names(&roster()).len(), &roster()["last_server"]), (2, &Value::from(3)));
    let record = Blob(vault_record(vault_of(&fixture), 1));
    let put = PutVault { record: record.clone() };
    fixture.ask::<VaultInfo>(Method::PUT, "/v1/vault", &put).await.unwrap();
    assert_eq!(roster()["record"], serde_json::json!(record));
    // Nothing is made anew under a coordinator that runs, nor over a catalog that is there.
    let refused = || coordinator::rebuild(&data).unwrap_err().to_string();
    assert!(refused().contains("another coordinator runs on"), "{}", refused());
    let before = std::fs::read(data.join("servers")).unwrap();
    fixture.coordinator.stop().await;
    assert!(refused().contains("catalog.db is there"), "{}", refused());
    assert_eq!(std::fs::read(data.join("servers")).unwrap(), before);
}
