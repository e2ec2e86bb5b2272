//! Vaults over TLS, and whoever is not what it should be there.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::fleet::{Fleet, Setup, ShardFile};
use crate::sandbox::{Sandbox, text};
use crate::source;

const TLS: Setup = Setup { code: "2+1", servers: 3, coordinator: &["--tls"], storage: &["--tls"] };

fn servers(fleet: &Fleet) -> Vec<Value> {
    let listed = fleet.sandbox.arc(["--json", "servers"]).json_of("summary");
    listed["servers"].as_array().unwrap().clone()
}

#[test]
fn a_vault_over_tls_is_pushed_pulled_verified_and_mended() {
    let fleet = Fleet::of(Setup { code: "2+2", servers: 5, ..TLS });
    let rows = servers(&fleet);
    let all = || std::iter::once(fleet.url()).chain(rows.iter().map(|row| row["url"].to_string()));
    assert!(all().all(|url| url.contains("https://127.0.0.1:")), "{:?}", all().collect::<Vec<_>>());
    source::make(&fleet.source(), 71, 24);
    fleet.push(&[]).exits(0);
    fleet.pull_exact("latest");
    fleet.is_whole();

    // Two shards of many stripes: the server that makes them sends one to the other.
    let gone: Vec<_> = fleet.shards().into_iter().filter(|file| file.server < 2).collect();
    let twice = |a: &ShardFile| gone.iter().filter(|b| a.stripe == b.stripe).count() == 2;
    assert!(gone.iter().any(twice));
    gone.iter().for_each(|file| fs::remove_file(&file.path).unwrap());
    fleet.sandbox.arc(["verify"]).exits(4);
    let mended = fleet.sandbox.arc(["--json", "repair-scan", "--fix"]).exits(0).json_of("summary");
    assert_eq!(mended["shards"], gone.len(), "{mended}");
    fleet.is_whole();
    fleet.pull_exact("latest");
}

#[test]
fn restarts_change_nothing_for_whoever_knows_the_vault() {
    let mut fleet = Fleet::of(TLS);
    source::make(&fleet.source(), 72, 4);
    fleet.push(&[]).exits(0);
    fleet.kill_coordinator();
    fleet.kill(1);
    fleet.revive_coordinator();
    fleet.revive(1);
    fleet.until_up(3);
    fleet.pull_exact("latest");
    fleet.is_whole();
}

#[test]
fn another_coordinator_at_the_address_is_told_nothing() {
    let (mine, theirs) = (Fleet::of(TLS), Fleet::of(TLS));
    source::make(&mine.source(), 73, 2);
    let config = mine.sandbox.path("config/arc/config.toml");
    let known = fs::read_to_string(&config).unwrap();
    fs::write(&config, known.replace(&mine.url(), &theirs.url())).unwrap();
    let error = mine.push(&[]).exits(12).json_of("error");
    assert!(error["what"].to_string().contains("is not trusted"), "{error}");
    assert!(error["state"].to_string().contains("nothing was sent there"), "{error}");
    assert_eq!((theirs.snapshots(), theirs.stored_bytes()), (0, 0));

    let url = theirs.url();
    let token = mine.sandbox.path("coordinator/owner.token");
    let init = ["init", &url, "--token-file", text(&token), "--code", "2+1"];
    let said = Sandbox::new().arc(init).exits(12).stderr();
    assert!(said.contains(&url) && said.contains("another service listens there"), "{said}");
    let (token, data) = (mine.sandbox.path("coordinator/join.token"), mine.sandbox.path("new"));
    let join = ["serve", "storage", "--coordinator", &url, "--data", text(&data), "--name", "new"];
    let said = mine.sandbox.arc(join.into_iter().chain(["--join-token-file", text(&token)]));
    let said = said.exits(12).stderr();
    assert!(said.contains(&url) && said.contains("another service listens there"), "{said}");
    assert_eq!(servers(&theirs).len(), 3);
}

/// The certificate and key of a server, as files that `--tls-cert` and `--tls-key` take.
fn taken_from(fleet: &Fleet, number: usize, to: &Sandbox) -> [PathBuf; 2] {
    let kept = fs::read(fleet.server_folder(number).join("tls")).unwrap();
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    let pem = |label: &str, body: &Value| {
        let body = body.as_str().unwrap();
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    };
    let chain = kept["certificate"]["chain"].as_array().unwrap();
    let chain: String = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
    let paths = ["own.pem", "own.key"].map(|name| to.path(name));
    fs::write(&paths[0], chain).unwrap();
    fs::write(&paths[1], pem("PRIVATE KEY", &kept["key"])).unwrap();
    paths
}

#[test]
fn a_server_with_a_certificate_of_another_ca_gets_no_shard() {
    let (mut fleet, theirs) = (Fleet::of(TLS), Fleet::of(TLS));
    let [chain, key] = taken_from(&theirs, 0, &fleet.sandbox);
    let options = ["--tls-cert", text(&chain), "--tls-key", text(&key)];
    let stranger = fleet.join(&options);
    source::make(&fleet.source(), 74, 8);
    fleet.push(&[]).exits(0);
    assert!(fleet.shards().iter().all(|shard| shard.server != stranger));
    assert_ne!(servers(&fleet)[stranger]["state"], "up");
    let log = fs::read_to_string(fleet.sandbox.path("services.log")).unwrap();
    assert!(log.contains("d https://") && log.contains("is not trusted"), "{log}");
}

#[test]
fn a_servers_certificate_is_of_no_use_as_the_coordinators_or_anothers() {
    let mut fleet = Fleet::of(TLS);
    let [chain, key] = taken_from(&fleet, 0, &fleet.sandbox);
    let own = ["--tls-cert", text(&chain), "--tls-key", text(&key)];
    let stranger = fleet.join(&own);
    source::make(&fleet.source(), 75, 4);
    fleet.push(&[]).exits(0);
    assert!(fleet.shards().iter().all(|shard| shard.server != stranger));

    let elsewhere = Sandbox::new();
    let data = elsewhere.path("coordinator");
    let line = ["serve", "coordinator", "--listen", "127.0.0.1:0", "--data", text(&data)];
    let between = elsewhere.serve(line.into_iter().chain(own));
    let config = fleet.sandbox.path("config/arc/config.toml");
    let known = fs::read_to_string(&config).unwrap();
    fs::write(&config, known.replace(&fleet.url(), &between.url)).unwrap();
    let error = fleet.push(&[]).exits(12).json_of("error").to_string();
    assert!(error.contains("another service of the vault"), "{error}");
}

#[test]
fn the_wrong_scheme_is_told() {
    let tls = Fleet::bare(&["--tls"]);
    let plain = Fleet::bare(&[]);
    let init = |fleet: &Fleet, scheme: &str, token: &Path| {
        let url = format!("{scheme}://{}", fleet.coordinator_address());
        fleet.sandbox.arc(["init", &url, "--token-file", text(token), "--code", "2+1"]).exits(1)
    };
    let token = tls.sandbox.path("coordinator/owner.token");
    let said = init(&tls, "http", &token).stderr();
    assert!(said.contains("its URL begins with https://"), "{said}");
    let said = init(&plain, "https", &plain.sandbox.path("coordinator/owner.token")).stderr();
    assert!(said.contains("does not speak TLS"), "{said}");
}

#[test]
fn options_that_do_not_go_together_are_usage() {
    let sandbox = Sandbox::new();
    let data = sandbox.path("coordinator");
    for options in [
        &["--tls", "--plain-http"][..],
        &["--tls-cert", "a.pem"],
        &["--tls-key", "a.key", "--tls"],
        &["--tls-cert", "a.pem", "--tls-key", "a.key", "--plain-http"],
    ] {
        let line = ["serve", "coordinator", "--data", text(&data)];
        sandbox.arc(line.into_iter().chain(options.iter().copied())).exits(2);
    }
    assert!(!data.exists());
}

#[test]
fn no_secret_is_logged() {
    let verbose = ["--tls", "--log=trace"];
    let fleet = Fleet::of(Setup { coordinator: &verbose, storage: &verbose, ..TLS });
    source::make(&fleet.source(), 76, 2);
    fleet.push(&[]).exits(0);
    let log = fs::read_to_string(fleet.sandbox.path("services.log")).unwrap();
    assert!(log.contains("TRACE"));
    let ca = fs::read_to_string(fleet.sandbox.path("coordinator/keys/ca.pem")).unwrap();
    let kept = fs::read(fleet.server_folder(0).join("tls")).unwrap();
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    let token = fs::read_to_string(fleet.sandbox.path("coordinator/owner.token")).unwrap();
    let token: server::auth::Token = token.trim().parse().unwrap();
    let ca_key = ca.lines().nth(1).unwrap();
    for secret in [ca_key, kept["key"].as_str().unwrap(), &token.secret, &token.to_string()] {
        assert!(!log.contains(secret), "{secret}");
    }
}
