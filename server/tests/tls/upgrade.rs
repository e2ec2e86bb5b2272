//! Fleets from before TLS, and those that change to it.

use arc_server::auth::Token;
use arc_server::serve::Transport;
use arc_server::storage;
use arc_server::wire::State;

use crate::world::{World, client, distrust, owner, read_json, state_becomes};

#[tokio::test]
async fn what_spoke_plain_http_goes_on_so_and_changes_when_it_is_told_to() {
    let world = World::new();
    let coordinator = world.coordinator(Transport::Usual).await;
    let server = world.storage(&coordinator, Transport::Usual).await;
    let url = state_becomes(&coordinator, State::Up).await;
    assert!(url.starts_with("http://") && coordinator.running.url().starts_with("http://"));
    assert!(!coordinator.owner.ca.is_empty(), "servers may speak TLS already");
    let kept = read_json(&world.path("server/tls"));
    assert_eq!(
        (&kept["trust"][0], &kept["key"]),
        (&coordinator.join.ca.clone().into(), &().into())
    );
    server.stop().await;

    // A server first: it is known by its number, and says where it is now.
    let mut config = world.storage_config(&coordinator, Transport::Tls);
    config.join_token = None;
    let server = storage::start(config).await.unwrap();
    assert_eq!(state_becomes(&coordinator, State::Up).await, server.running.url());
    server.stop().await;
    coordinator.stop().await;

    // Then the coordinator, which the server knows already.
    let coordinator = world.coordinator(Transport::Tls).await;
    let mut config = world.storage_config(&coordinator, Transport::Tls);
    config.join_token = None;
    let server = storage::start(config).await.unwrap();
    assert_eq!(state_becomes(&coordinator, State::Up).await, server.running.url());
}

#[tokio::test]
async fn whoever_has_a_token_from_before_is_given_the_present_one() {
    let world = World::new();
    let coordinator = world.coordinator(Transport::Usual).await;
    world.storage(&coordinator, Transport::Usual).await.stop().await;
    coordinator.stop().await;
    // As builds from before left it.
    std::fs::remove_file(world.path("server/tls")).unwrap();
    std::fs::remove_file(world.path("coordinator/keys/ca.pem")).unwrap();
    for name in ["owner.token", "join.token"] {
        let path = world.path("coordinator").join(name);
        let token: Token = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        std::fs::write(path, Token { ca: String::new(), ..token }.to_string()).unwrap();
    }

    let coordinator = world.coordinator(Transport::Tls).await;
    let (url, owner_now) = (coordinator.running.url(), &coordinator.owner);
    let before = Token { ca: String::new(), ..owner_now.clone() };
    let said = distrust(client(&url, &before).vault().await);
    assert!(said.contains("present token"), "{said}");
    owner(&coordinator).vault().await.unwrap();

    let config = world.storage_config(&coordinator, Transport::Tls);
    let without = storage::Config { join_token: None, ..config.clone() };
    let said = distrust(storage::start(without).await);
    assert!(said.contains("--join-token-file"), "{said}");
    let server = storage::start(config).await.unwrap();
    assert_eq!(state_becomes(&coordinator, State::Up).await, server.running.url());
}
