//! Who is refused, and how, by services that are spoken to directly.

use std::path::Path;

use serde_json::{Value, json};
use server::auth::Token;

use crate::fleet::{Fleet, Setup, eventually, name};
use crate::http::{Message, ask};
use crate::sandbox::text;
use crate::source;

/// A request with our protocol and this authorization.
fn request(address: &str, line: &str, authorization: &str, body: &Value) -> Message {
    let mut headers = vec!["arc-protocol: 0".to_owned()];
    if !authorization.is_empty() {
        headers.push(format!("authorization: {authorization}"));
    }
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    ask(address, line, &headers, &body)
}

/// That an answer is this refusal; its message.
#[track_caller]
fn refused(answer: &Message, status: u16, code: &str) -> String {
    let refusal = answer.json();
    assert_eq!((answer.status(), refusal["code"].as_str().unwrap()), (status, code), "{refusal}");
    refusal["message"].as_str().unwrap().to_owned()
}

fn bearer(fleet: &Fleet, role: &str) -> String {
    let path = fleet.sandbox.path(&format!("coordinator/{role}.token"));
    let token: Token = std::fs::read_to_string(path).unwrap().parse().unwrap();
    format!("Bearer {}", token.secret)
}

/// The ticket for reading at a server.
fn read_ticket(fleet: &Fleet, server: usize) -> String {
    let owner = bearer(fleet, "owner");
    let line = "POST /v1/read-tickets";
    let answer = request(fleet.coordinator_address(), line, &owner, &Value::Null).json();
    let rows = answer["servers"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == name(server).as_str()).unwrap();
    format!("Ticket {}", row["ticket"].as_str().unwrap())
}

/// A fleet with one small push, and the path of a shard on its first server.
fn pushed(setup: Setup) -> (Fleet, String) {
    let fleet = Fleet::of(setup);
    source::make(&fleet.source(), 50, 1);
    fleet.push(&[]).exits(0);
    let shard = fleet.shards().into_iter().find(|shard| shard.server == 0).unwrap();
    let path = format!("/v1/shards/{}/{}", shard.stripe, shard.index);
    (fleet, path)
}

const SMALL: Setup = Setup { code: "2+1", servers: 3, coordinator: &[], storage: &[] };

#[test]
fn every_path_of_the_coordinator_checks_its_caller() {
    let fleet = Fleet::of(SMALL);
    let (owner, join) = (bearer(&fleet, "owner"), bearer(&fleet, "join"));
    let bent = format!("{}x", &owner[..owner.len() - 1]);
    for line in [
        "GET /v1/vault",
        "PUT /v1/vault",
        "GET /v1/servers",
        "GET /v1/status",
        "POST /v1/leases",
        "DELETE /v1/leases/1",
        "POST /v1/leases/1/renew",
        "POST /v1/have",
        "POST /v1/place",
        "GET /v1/stripes",
        "POST /v1/stripes",
        "GET /v1/snapshots",
        "POST /v1/snapshots",
        "GET /v1/lost-chunks",
        "POST /v1/locate",
        "POST /v1/stripe-maps",
        "POST /v1/read-tickets",
        "POST /v1/reports",
    ] {
        let with = |caller: &str| request(fleet.coordinator_address(), line, caller, &Value::Null);
        refused(&with(""), 401, "unauthorized");
        refused(&with("Bearer nonsense"), 401, "unauthorized");
        refused(&with(&bent), 401, "unauthorized");
        refused(&with(&owner.replace("Bearer", "Ticket")), 401, "unauthorized");
        refused(&with(&join), 403, "forbidden");
    }
    let joining = json!({ "name": "x", "zone": "x", "url": "http://127.0.0.1:1",
                          "capacity_bytes": 1, "free_bytes": 1 });
    let with = |caller| request(fleet.coordinator_address(), "POST /v1/join", caller, &joining);
    refused(&with(""), 401, "unauthorized");
    refused(&with(&owner), 403, "forbidden");
    // A server that joined before proves it by its key.
    let hello = json!({ "server": 1, "url": "http://127.0.0.1:1", "starts": 9, "mac": "AAAA" });
    let answer = request(fleet.coordinator_address(), "POST /v1/hello", &join, &hello);
    refused(&answer, 401, "unauthorized");
    let rows = request(fleet.coordinator_address(), "GET /v1/servers", &owner, &Value::Null);
    assert_eq!(rows.json()["rows"].as_array().unwrap().len(), 3);
}

#[test]
fn every_path_of_a_storage_server_checks_its_caller() {
    let (fleet, shard) = pushed(SMALL);
    let address = fleet.server_address(0);
    let (owner, join) = (bearer(&fleet, "owner"), bearer(&fleet, "join"));
    let (ticket, others) = (read_ticket(&fleet, 0), read_ticket(&fleet, 1));
    let bent = format!("{}A", &ticket[..ticket.len() - 1]);
    let bent = if bent == ticket { format!("{}B", &ticket[..ticket.len() - 1]) } else { bent };
    assert_eq!(request(address, &format!("GET {shard}"), &ticket, &Value::Null).status(), 200);
    let lines = [
        format!("GET {shard}"),
        format!("PUT {shard}"),
        "POST /v1/check".to_owned(),
        "GET /v1/inventory".to_owned(),
        "POST /v1/trash".to_owned(),
        "POST /v1/probe".to_owned(),
        "PUT /v1/vault-record".to_owned(),
    ];
    for line in &lines {
        let with = |caller: &str| request(address, line, caller, &Value::Null);
        refused(&with(""), 401, "unauthorized");
        refused(&with(&owner), 401, "unauthorized");
        refused(&with(&join), 401, "unauthorized");
        refused(&with("Ticket e30.e30"), 401, "unauthorized");
        refused(&with(&bent), 401, "unauthorized");
        let message = refused(&with(&others), 403, "forbidden");
        assert!(message.contains("another server"), "{message}");
        let reads = line.starts_with("GET /v1/shards") || line.starts_with("POST /v1/check");
        if !reads {
            refused(&with(&ticket), 403, "forbidden");
        }
    }
    fleet.is_whole();
}

#[test]
fn a_ticket_ends() {
    let (fleet, shard) = pushed(Setup { coordinator: &["--ticket=2s"], ..SMALL });
    let ticket = read_ticket(&fleet, 0);
    let line = format!("GET {shard}");
    let get = || request(fleet.server_address(0), &line, &ticket, &Value::Null);
    eventually("the ticket has ended", || get().status() != 200);
    let message = refused(&get(), 401, "expired");
    assert!(message.contains("ended"), "{message}");
    // Clients ask for new ones by themselves.
    fleet.pull_exact("latest");
}

#[test]
fn i10_a_ticket_of_an_epoch_before_is_stale() {
    let (mut fleet, shard) = pushed(SMALL);
    let ticket = read_ticket(&fleet, 0);
    let line = format!("GET {shard}");
    fleet.kill_coordinator();
    // While it is away its tickets are good.
    assert_eq!(request(fleet.server_address(0), &line, &ticket, &Value::Null).status(), 200);
    fleet.revive_coordinator();
    let get = || request(fleet.server_address(0), &line, &ticket, &Value::Null);
    eventually("the server has heard of the new epoch", || get().status() != 200);
    refused(&get(), 409, "stale-epoch");
    let new = read_ticket(&fleet, 0);
    assert_eq!(request(fleet.server_address(0), &line, &new, &Value::Null).status(), 200);
}

#[test]
fn whoever_speaks_another_protocol_is_told_which_side_to_upgrade() {
    let fleet = Fleet::of(SMALL);
    let (owner, ticket) = (bearer(&fleet, "owner"), read_ticket(&fleet, 0));
    let services = [
        (fleet.coordinator_address(), "GET /v1/vault", &owner),
        (fleet.server_address(0), "GET /v1/inventory", &ticket),
    ];
    for (address, line, caller) in services {
        let with = |protocol: &[&str]| {
            let headers = protocol.iter().map(|&p| p.to_owned());
            let caller = format!("authorization: {caller}");
            ask(address, line, &headers.chain([caller]).collect::<Vec<_>>(), b"")
        };
        for (headers, side) in [
            (&[][..], "upgrade the client"),
            (&["arc-protocol: none"], "upgrade the client"),
            (&["arc-protocol: 1", "arc-build: 9.9"], "upgrade this service"),
        ] {
            let message = refused(&with(headers), 426, "protocol");
            assert!(message.contains(side), "{headers:?}: {message}");
        }
    }
}

#[test]
fn garbage_is_refused_and_changes_nothing() {
    let (fleet, shard) = pushed(SMALL);
    let (owner, ticket) = (bearer(&fleet, "owner"), read_ticket(&fleet, 0));
    let headers = |caller: &str| ["arc-protocol: 0".to_owned(), format!("authorization: {caller}")];
    for body in [&b""[..], b"{", b"[]", b"{\"lease\":-1}", b"\xff\xfe", b"nullnull"] {
        for line in ["POST /v1/have", "POST /v1/place", "POST /v1/stripes", "POST /v1/snapshots"] {
            let answer = ask(fleet.coordinator_address(), line, &headers(&owner), body);
            refused(&answer, 422, "bad-request");
        }
        let answer = ask(fleet.server_address(0), "POST /v1/check", &headers(&ticket), body);
        refused(&answer, 422, "bad-request");
    }
    for (path, status, code) in [
        ("/v1/shards/xyz/0", 422, "bad-request"),
        ("/v1/shards/../../etc/passwd", 404, "not-found"),
        (&shard[..shard.rfind('/').unwrap()], 404, "not-found"),
        (&format!("/v1/shards/{}/0", "0".repeat(64)), 404, "not-found"),
        ("/v1/nothing", 404, "not-found"),
    ] {
        let line = format!("GET {path}");
        let answer = request(fleet.server_address(0), &line, &ticket, &Value::Null);
        refused(&answer, status, code);
    }
    fleet.is_whole();
}

#[test]
fn a_token_of_another_coordinator_is_refused() {
    let (mine, theirs) = (Fleet::of(SMALL), Fleet::of(SMALL));
    source::make(&mine.source(), 51, 1);
    // Their coordinator now answers at an address that this machine has a token for.
    let config = mine.sandbox.path("config/arc/config.toml");
    let known = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, known.replace(&mine.url(), &theirs.url())).unwrap();
    let error = mine.push(&[]).exits(12).json_of("error").to_string();
    assert!(error.contains(&theirs.url()) && error.contains("no such token"), "{error}");
    assert_eq!((theirs.snapshots(), theirs.stored_bytes()), (0, 0));
}

/// Runs a service that must not start; what it says.
#[track_caller]
fn does_not_start(fleet: &Fleet, line: &[&str]) -> String {
    let line = ["serve"].iter().chain(line);
    let ran = fleet.sandbox.arc(line).exits(1);
    assert_eq!(ran.stdout(), "");
    ran.stderr()
}

#[test]
fn a_storage_server_that_may_not_start_says_why() {
    let mut fleet = Fleet::of(SMALL);
    let (url, token) = (fleet.url(), fleet.sandbox.path("coordinator/join.token"));
    let line = |data: &Path, more: &[&str]| -> Vec<String> {
        let start = ["storage", "--coordinator", &url, "--data", text(data)];
        start.into_iter().chain(more.iter().copied()).map(str::to_owned).collect()
    };
    let said = |data: &Path, more: &[&str]| {
        let line = line(data, more);
        does_not_start(&fleet, &line.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let (new, first) = (fleet.sandbox.path("new"), fleet.server_folder(0));
    let joining = ["--join-token-file", text(&token), "--name", "a", "--zone", "z"];
    let taken = said(&new, &joining);
    assert!(taken.contains("\"a\" has joined") || taken.contains("--name"), "{taken}");
    assert!(!new.join("server.id").exists());
    let open = said(&new, &["--listen", "0.0.0.0:0", "--advertise", "http://10.0.0.1:1"]);
    assert!(open.contains("not mounted?"), "{open}");
    let open = [&joining[..2], &["--listen", "0.0.0.0:0", "--advertise", "http://h:1"]].concat();
    let open = said(&new, &open);
    assert!(open.contains("--plain-http"), "{open}");
    let second = said(&first, &[]);
    assert!(second.contains("another arc server is using"), "{second}");
    let owner = fleet.sandbox.path("coordinator/owner.token");
    let wrong = ["serve", "storage", "--coordinator", &url, "--name", "y", "--data", text(&new)];
    let wrong = wrong.into_iter().chain(["--join-token-file", text(&owner)]);
    fleet.sandbox.arc(wrong).exits(12);

    // Its disk is not mounted: the folder has nothing in it.
    fleet.kill(0);
    let aside = fleet.sandbox.path("aside");
    std::fs::rename(&first, &aside).unwrap();
    std::fs::create_dir(&first).unwrap();
    let line = line(&first, &[]);
    let said = does_not_start(&fleet, &line.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.contains("not mounted?"), "{said}");
    assert_eq!(first.read_dir().unwrap().count(), 0, "the empty folder stays empty");
    std::fs::remove_dir(&first).unwrap();
    std::fs::rename(&aside, &first).unwrap();
    fleet.revive(0);
    fleet.until_up(3);
}

#[test]
fn a_coordinator_that_may_not_start_says_why() {
    let (mut fleet, _) = pushed(SMALL);
    let data = fleet.sandbox.path("coordinator");
    let line = ["coordinator", "--listen", "127.0.0.1:0", "--data", text(&data)];
    let second = does_not_start(&fleet, &line);
    assert!(second.contains("another coordinator runs on"), "{second}");
    assert_eq!(fleet.terminate_coordinator(), Some(0));

    // SQLite's user_version.
    let catalog = data.join("catalog.db");
    let sound = std::fs::read(&catalog).unwrap();
    let mut newer = sound.clone();
    newer[60..64].copy_from_slice(&99_u32.to_be_bytes());
    std::fs::write(&catalog, newer).unwrap();
    let refused = does_not_start(&fleet, &line);
    assert!(refused.contains("written by a newer arc"), "{refused}");
    std::fs::write(&catalog, vec![7; 100_000]).unwrap();
    let refused = does_not_start(&fleet, &line);
    assert!(refused.contains("catalog"), "{refused}");
    std::fs::write(&catalog, &sound).unwrap();

    let (key, aside) = (data.join("keys/ticket.key"), data.join("aside"));
    std::fs::rename(&key, &aside).unwrap();
    let refused = does_not_start(&fleet, &line);
    assert!(refused.contains("ticket.key is missing"), "{refused}");
    std::fs::rename(&aside, &key).unwrap();
    fleet.revive_coordinator();
    fleet.until_up(3);
    fleet.pull_exact("latest");
}
