//! Who may ask for what, and what is refused before it is read.

use arc_server::auth::Role;
use arc_server::wire::*;
use codec::ChunkId;
use reqwest::Method;

use crate::fixture::{Fixture, stripe};

/// Every path of a client.
const OWNER_PATHS: [(Method, &str); 21] = [
    (Method::GET, "/v1/vault"),
    (Method::PUT, "/v1/vault"),
    (Method::GET, "/v1/servers"),
    (Method::GET, "/v1/status"),
    (Method::POST, "/v1/leases"),
    (Method::POST, "/v1/leases/1/renew"),
    (Method::DELETE, "/v1/leases/1"),
    (Method::GET, "/v1/lost-chunks"),
    (Method::POST, "/v1/have"),
    (Method::POST, "/v1/place"),
    (Method::GET, "/v1/stripes"),
    (Method::POST, "/v1/stripes"),
    (Method::GET, "/v1/snapshots"),
    (Method::POST, "/v1/snapshots"),
    (Method::POST, "/v1/locate"),
    (Method::POST, "/v1/stripe-maps"),
    (Method::POST, "/v1/read-tickets"),
    (Method::POST, "/v1/reports"),
    (Method::POST, "/v1/repairs"),
    (Method::GET, "/v1/stripes?limit=1"),
    (Method::GET, "/v1/events"),
];

#[tokio::test]
async fn nothing_is_answered_without_the_right_token() {
    let fixture = Fixture::start().await;
    let (owner, join) = (&fixture.coordinator.owner, &fixture.coordinator.join);
    assert_eq!((owner.role, join.role), (Role::Owner, Role::Join));
    let join_path = (Method::POST, "/v1/join");
    for (method, path) in OWNER_PATHS.into_iter().chain([join_path.clone()]) {
        let wrong = if path == join_path.1 { &owner.secret } else { &join.secret };
        for (token, code) in [
            (None, Code::Unauthorized),
            (Some("c2VjcmV0"), Code::Unauthorized),
            (Some(""), Code::Unauthorized),
            (Some(wrong.as_str()), Code::Forbidden),
        ] {
            let refused = fixture.send(method.clone(), path, token, &()).await.unwrap_err();
            assert_eq!(refused.refusal.code, code, "{method} {path} {token:?}");
        }
    }
}

#[tokio::test]
async fn every_path_is_there_for_the_owner() {
    let fixture = Fixture::start().await;
    for (method, path) in OWNER_PATHS {
        let answer = fixture.ask::<serde_json::Value>(method.clone(), path, &()).await;
        let lost =
            |r: &crate::fixture::Refused| r.refusal.message.contains("the coordinator has no");
        assert!(!answer.as_ref().is_err_and(lost), "{method} {path} {answer:?}");
    }
    for (method, path) in [(Method::GET, "/v1/nothing"), (Method::PATCH, "/v1/vault")] {
        let refused = fixture.ask::<()>(method, path, &()).await.unwrap_err();
        assert_eq!(refused.refusal.code, Code::NotFound);
    }
}

#[tokio::test]
async fn a_hello_needs_the_servers_own_mac() {
    let (fixture, _) = Fixture::with_servers(&["a"]).await;
    let (server, url) = (fixture.servers[0].id(), fixture.servers[0].url());
    let mut hello =
        Hello { server, url, starts: 1, tls: None, weight: Weight::ONE, mac: Blob(vec![0; 32]) };
    let refused = fixture.send(Method::POST, "/v1/hello", None, &hello).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::Unauthorized);
    hello.server = ServerId(77);
    let refused = fixture.send(Method::POST, "/v1/hello", None, &hello).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::NotFound);
}

#[tokio::test]
async fn what_is_too_much_or_malformed_is_refused() {
    let fixture = Fixture::start().await;
    let lease = fixture.begin().await;
    let ids = Ids(vec![ChunkId([1; 32]); CHUNKS_PER_REQUEST_MAX + 1]);
    let have = HaveRequest { lease: lease.lease, chunks: ids.clone() };
    let refused = fixture.post::<HaveAnswer>("/v1/have", &have).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::BadRequest);
    let locate = LocateRequest { chunks: ids };
    let refused = fixture.post::<LocateAnswer>("/v1/locate", &locate).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::BadRequest);
    let maps = StripeMapsRequest { stripes: vec![stripe(1); PAGE_ROWS_MAX as usize + 1] };
    let refused = fixture.post::<Vec<StripeMap>>("/v1/stripe-maps", &maps).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::BadRequest);
    let long = "x".repeat(16 * 1024 * 1024);
    let refused = fixture.post::<HaveAnswer>("/v1/have", &long).await.unwrap_err();
    assert_eq!((refused.refusal.code, refused.status), (Code::TooLarge, 413));
    let long = "x".repeat(4096);
    for (path, token) in [("/v1/hello", None), ("/v1/join", Some(&fixture.coordinator.join.secret))]
    {
        let token = token.map(String::as_str);
        let refused = fixture.send(Method::POST, path, token, &long).await.unwrap_err();
        assert_eq!((refused.refusal.code, refused.status), (Code::TooLarge, 413), "{path}");
    }
    let refused = fixture.post::<HaveAnswer>("/v1/have", &"no").await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::BadRequest);
    for path in ["/v1/snapshots?after=x", "/v1/lost-chunks?after=12", "/v1/stripes?limit=-1"] {
        let refused = fixture.ask::<()>(Method::GET, path, &()).await.unwrap_err();
        assert_eq!(refused.refusal.code, Code::BadRequest, "{path}");
    }
    let path = format!("/v1/leases/{}/renew", u64::MAX);
    let refused = fixture.post::<Lease>(&path, &()).await.unwrap_err();
    assert_eq!(refused.refusal.code, Code::NotFound);
}
