//! Who shows what, and until when.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use arc_server::auth::Token;
use arc_server::coordinator::{self, Timings};
use arc_server::serve::Transport;
use arc_server::storage;
use arc_server::wire::State;

use crate::world::{World, client, distrust, owner, shown, shows_another, state_becomes};

#[tokio::test]
async fn a_server_that_joins_is_certified_and_reached() {
    let world = World::new();
    let coordinator = world.coordinator(Transport::Tls).await;
    assert!(coordinator.owner.url.starts_with("https://127.0.0.1:"), "{:?}", coordinator.owner);
    assert_eq!(coordinator.owner.ca.len(), 64);
    assert_eq!(coordinator.join.ca, coordinator.owner.ca);
    let server = world.storage(&coordinator, Transport::Tls).await;
    assert_eq!(state_becomes(&coordinator, State::Up).await, server.running.url());
    assert!(server.running.url().starts_with("https://"));
    for path in ["coordinator/keys/ca.pem", "server/tls"] {
        let mode = std::fs::metadata(world.path(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path}");
    }
}

#[tokio::test]
async fn a_restart_keeps_the_ca_and_what_servers_show() {
    let world = World::new();
    let coordinator = world.coordinator(Transport::Tls).await;
    let server = world.storage(&coordinator, Transport::Tls).await;
    let (first, url) = (coordinator.owner.clone(), server.running.url());
    let certificate = shown(&url).await;
    server.stop().await;
    coordinator.stop().await;

    let coordinator = world.coordinator(Transport::Tls).await;
    assert_eq!((&coordinator.owner.ca, &coordinator.owner.secret), (&first.ca, &first.secret));
    client(&coordinator.running.url(), &first).vault().await.unwrap();
    // With the coordinator away, the last certificate is as good as before.
    let mut config = world.storage_config(&coordinator, Transport::Tls);
    coordinator.stop().await;
    config.join_token = None;
    let server = storage::start(config).await.unwrap();
    assert_eq!(shown(&server.running.url()).await, certificate);
}

#[tokio::test]
async fn certificates_are_renewed_while_services_run() {
    let world = World::new();
    let mut config = world.coordinator_config(Transport::Tls);
    let certificate = Duration::from_secs(6);
    config.timings = Timings { certificate, ..config.timings };
    let coordinator = coordinator::start(config).await.unwrap();
    let server = world.storage(&coordinator, Transport::Tls).await;
    let urls = [coordinator.running.url(), server.running.url()];
    let firsts = [shown(&urls[0]).await, shown(&urls[1]).await];
    for (url, first) in urls.iter().zip(&firsts) {
        // When the third comes, the first has ended.
        let second = shows_another(url, first).await;
        shows_another(url, &second).await;
    }
    owner(&coordinator).vault().await.unwrap();
    state_becomes(&coordinator, State::Up).await;
}

#[tokio::test]
async fn a_server_that_moves_gets_a_certificate_for_where_it_is() {
    let world = World::new();
    let coordinator = world.coordinator(Transport::Tls).await;
    let server = world.storage(&coordinator, Transport::Tls).await;
    state_becomes(&coordinator, State::Up).await;
    let address = server.running.address;
    server.stop().await;
    state_becomes(&coordinator, State::Suspect).await;
    let mut config = world.storage_config(&coordinator, Transport::Tls);
    config.listen.address = address;
    config.advertise = Some(format!("https://localhost:{}", address.port()));
    let _server = storage::start(config).await.unwrap();
    let url = state_becomes(&coordinator, State::Up).await;
    assert_eq!(url, format!("https://localhost:{}", address.port()));
}

#[tokio::test]
async fn certificates_of_ones_own_are_trusted_by_the_last_of_their_chain() {
    let world = World::new();
    let own = world.self_signed("itself");
    let coordinator = world.coordinator(Transport::Own(own)).await;
    owner(&coordinator).vault().await.unwrap();
    coordinator.stop().await;

    let own = world.own_certificate("own");
    let coordinator = world.coordinator(Transport::Own(own)).await;
    let pins: Vec<&str> = coordinator.owner.ca.split(',').collect();
    assert_eq!(pins.len(), 2, "its own CA certifies the servers all the same");
    owner(&coordinator).vault().await.unwrap();
    let _server = world.storage(&coordinator, Transport::Tls).await;
    state_becomes(&coordinator, State::Up).await;
    for (ca, good) in [(pins[0], true), (pins[1], false)] {
        let token = Token { ca: ca.to_owned(), ..coordinator.owner.clone() };
        let asked = client(&coordinator.running.url(), &token).vault().await;
        assert_eq!(asked.is_ok(), good, "{asked:?}");
    }
}

#[tokio::test]
async fn a_server_with_another_cas_certificate_is_never_up() {
    let world = World::new();
    let coordinator = world.coordinator(Transport::Tls).await;
    let own = world.own_certificate("own");
    let _server = world.storage(&coordinator, Transport::Own(own)).await;
    state_becomes(&coordinator, State::Suspect).await;
    let page = owner(&coordinator).servers(&Default::default()).await.unwrap();
    assert_eq!(page.rows[0].last_seen_ms, None, "no probe was ever answered");
}

#[tokio::test]
async fn certificate_files_that_are_of_no_use_are_told_by_name() {
    let world = World::new();
    let (one, other) = (world.own_certificate("one"), world.own_certificate("other"));
    let mut mixed = one.clone();
    mixed.key = other.key;
    let mut none = one.clone();
    none.chain = one.key.clone();
    let mut missing = one.clone();
    missing.key = world.path("nothing.key");
    for (own, said) in
        [(mixed, "cannot be used together"), (none, "no certificate"), (missing, "nothing.key")]
    {
        let config = world.coordinator_config(Transport::Own(own));
        let error = coordinator::start(config).await.err().unwrap().to_string();
        assert!(error.contains(said), "{error}");
    }
    let mut config = world.coordinator_config(Transport::Tls);
    config.advertise = Some("http://127.0.0.1:7070".into());
    let error = coordinator::start(config).await.err().unwrap().to_string();
    assert!(error.contains("others would be told http://"), "{error}");
}

#[tokio::test]
async fn a_token_of_another_vault_is_of_no_use_to_a_server() {
    let (world, other) = (World::new(), World::new());
    let coordinator = world.coordinator(Transport::Tls).await;
    let stranger = other.coordinator(Transport::Tls).await;
    let mut config = world.storage_config(&coordinator, Transport::Tls);
    config.join_token = Some(Token { ca: stranger.join.ca.clone(), ..coordinator.join.clone() });
    let said = distrust(storage::start(config.clone()).await);
    assert!(said.contains("another service listens there"), "{said}");
    config.join_token = Some(Token { ca: String::new(), ..coordinator.join.clone() });
    let said = distrust(storage::start(config).await);
    assert!(said.contains("--join-token-file"), "{said}");
    assert!(owner(&coordinator).servers(&Default::default()).await.unwrap().rows.is_empty());
}
