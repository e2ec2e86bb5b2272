//! The coordinator finds by itself what lacks shards, and has it made again.

use std::fs;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use crate::fleet::{Fleet, Setup, eventually};
use crate::http::Proxy;
use crate::sandbox::{Sandbox, text};
use crate::source;
use crate::trees::{assert_same, noise, write};

const HEALS: &str = "--repair-every=20ms";
/// A server that is silent for 0.6 s is lost.
const SHORT: [&str; 3] = [HEALS, "--down-after=300ms", "--grace=300ms"];

fn fleet(code: &str, servers: usize, coordinator: &[&str]) -> Fleet {
    let fleet = Fleet::of(Setup { code, servers, coordinator, ..Setup::default() });
    source::make(&fleet.source(), 71, 24);
    fleet.push(&[]).exits(0);
    fleet
}

fn repair(fleet: &Fleet, line: &[&str]) -> Value {
    let ran = fleet.sandbox.arc(["--json", "repair"].iter().chain(line).copied());
    ran.json_of("summary")
}

/// The ledger's counts; they add up whenever one looks.
fn counts(fleet: &Fleet) -> [u64; 5] {
    let status = repair(fleet, &[]);
    let names = ["needed", "repaired", "failed", "waiting", "unknown"];
    let counts = names.map(|name| status["counts"][name].as_u64().unwrap());
    assert_eq!(counts[0], counts[1..].iter().sum::<u64>(), "{status}");
    counts
}

fn until_whole(fleet: &Fleet) {
    eventually("nothing is to be repaired", || counts(fleet)[0] == 0);
}

fn state(fleet: &Fleet, server: usize) -> String {
    let rows = fleet.sandbox.arc(["--json", "servers"]).exits(0).json_of("summary");
    rows["servers"][server]["state"].as_str().unwrap().to_owned()
}

fn until_lost(fleet: &Fleet, server: usize) {
    eventually("the server is lost", || state(fleet, server) == "lost");
}

fn made_shards(fleet: &Fleet) -> u64 {
    repair(fleet, &[])["made_shards"].as_u64().unwrap()
}

#[test]
fn what_a_lost_server_held_is_made_again_by_itself() {
    let mut fleet = fleet("4+2", 8, &SHORT);
    let lost = fleet.shards()[0].server;
    let held = fleet.shards().iter().filter(|file| file.server == lost).count() as u64;
    fleet.kill(lost);
    fs::remove_dir_all(fleet.server_folder(lost).join("shards")).unwrap();
    until_lost(&fleet, lost);
    eventually("it is made again", || counts(&fleet)[0] == 0 && made_shards(&fleet) >= held);
    assert_eq!(made_shards(&fleet), held, "each once");
    // What lies on a lost server besides is no reason to let another go.
    let name = |server: usize| crate::fleet::name(server);
    let other = (0..8).find(|&n| n != lost && shards_on(&fleet, &name(n)) > 0).unwrap();
    fleet.sandbox.arc(["servers", "remove", &name(other)]).exits(1);
    fleet.sandbox.arc(["servers", "remove", &name(lost)]).exits(0);
    fleet.sandbox.arc(["verify"]).exits(0);
    // Any two more may go.
    let others: Vec<usize> = (0..8).filter(|&number| number != lost).take(2).collect();
    others.into_iter().for_each(|number| fleet.kill(number));
    fleet.pull_exact("latest");
}

#[test]
fn damage_that_somebody_met_is_mended_by_itself_in_its_place() {
    let fleet = fleet("4+2", 6, &SHORT);
    let before: Vec<_> = fleet.shards().iter().map(|f| fs::read(&f.path).unwrap()).collect();
    let hurt = fleet.shards().into_iter().find(|file| file.bytes > 8192).unwrap();
    let mut bytes = fs::read(&hurt.path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&hurt.path, bytes).unwrap();
    fleet.sandbox.arc(["verify"]).exits(4);
    until_whole(&fleet);
    eventually("it is as before", || {
        let now: Vec<_> = fleet.shards().iter().map(|f| fs::read(&f.path).unwrap()).collect();
        now == before
    });
    fleet.sandbox.arc(["verify"]).exits(0);
}

#[test]
fn a_server_that_is_down_is_waited_for_and_nothing_is_moved() {
    let mut fleet = fleet("4+2", 8, &[HEALS, "--down-after=300ms", "--grace=1h"]);
    let before = fleet.stored_bytes();
    let away = fleet.shards()[0].server;
    for _ in 0..3 {
        fleet.kill(away);
        eventually("its stripes wait", || {
            let [needed, _, _, waiting, _] = counts(&fleet);
            needed > 0 && needed == waiting
        });
        fleet.revive(away);
        fleet.until_up(8);
        until_whole(&fleet);
    }
    assert_eq!((fleet.stored_bytes(), made_shards(&fleet)), (before, 0));
}

#[test]
fn what_can_never_be_repaired_holds_up_nothing_else_and_is_named() {
    let fleet = fleet("4+2", 6, &[HEALS]);
    let mut stripes: Vec<String> =
        fleet.shards().iter().filter(|f| f.index == 5).map(|f| f.stripe.clone()).collect();
    stripes.sort();
    assert!(stripes.len() > 4, "{stripes:?}");
    repair(&fleet, &["pause"]);
    for file in fleet.shards() {
        let hopeless = file.stripe == stripes[0] || file.stripe == stripes[2];
        if stripes.contains(&file.stripe) && (file.index == 1 || hopeless && file.index < 3) {
            fs::remove_file(&file.path).unwrap();
        }
    }
    fleet.sandbox.arc(["verify"]).exits(5);
    eventually("all are in the ledger", || counts(&fleet)[0] == stripes.len() as u64);
    assert_eq!(made_shards(&fleet), 0, "it is paused");
    repair(&fleet, &["resume"]);
    eventually("the others are whole", || {
        let [needed, repaired, failed, ..] = counts(&fleet);
        (needed - repaired, failed) == (2, 2)
    });
    let ran = fleet.sandbox.arc(["repair"]).exits(4);
    for hopeless in [&stripes[0], &stripes[2]] {
        assert!(ran.stdout().contains(&hopeless[..8]), "{}", ran.stdout());
    }
}

#[test]
fn a_coordinator_that_was_killed_goes_on_with_its_ledger() {
    let mut fleet = fleet("4+2", 8, &SHORT);
    let lost = fleet.shards()[0].server;
    let held = fleet.shards().iter().filter(|file| file.server == lost).count();
    repair(&fleet, &["pause"]);
    fleet.kill(lost);
    fs::remove_dir_all(fleet.server_folder(lost).join("shards")).unwrap();
    until_lost(&fleet, lost);
    eventually("its stripes are in the ledger", || counts(&fleet)[0] > 0);
    fleet.kill_coordinator();
    fleet.revive_coordinator();
    assert_eq!(state(&fleet, lost), "lost", "what was given up stays so");
    let status = repair(&fleet, &[]);
    assert_eq!(status["settings"]["paused"], true, "{status}");
    assert!(counts(&fleet)[0] > 0);
    repair(&fleet, &["resume"]);
    until_whole(&fleet);
    assert_eq!(made_shards(&fleet), held as u64);
    fleet.pull_exact("latest");
}

#[test]
fn a_stripe_stored_short_is_completed_when_a_server_comes() {
    let mut fleet =
        Fleet::of(Setup { code: "4+2", servers: 5, coordinator: &[HEALS], ..Setup::default() });
    source::make(&fleet.source(), 72, 12);
    fleet.push(&["--wait-servers", "0", "--min-shards", "5"]).exits(7);
    eventually("it fails for want of a server", || {
        let [needed, _, failed, ..] = counts(&fleet);
        needed > 0 && failed == needed
    });
    fleet.join(&[]);
    fleet.until_up(6);
    until_whole(&fleet);
    fleet.sandbox.arc(["verify"]).exits(0);
}

fn servers(fleet: &Fleet) -> Vec<Value> {
    let summary = fleet.sandbox.arc(["--json", "servers"]).exits(0).json_of("summary");
    summary["servers"].as_array().unwrap().clone()
}

fn shards_on(fleet: &Fleet, name: &str) -> u64 {
    let rows = servers(fleet);
    rows.iter().find(|row| row["name"] == name).unwrap()["shards"].as_u64().unwrap()
}

/// Shard files on a server's disk, trash not counted.
fn files_on(fleet: &Fleet, server: usize) -> usize {
    fleet.shards().iter().filter(|file| file.server == server).count()
}

#[test]
fn a_lost_server_that_comes_back_keeps_no_second_copies_and_i3_nothing_gets_worse() {
    let mut fleet = fleet("4+2", 8, &SHORT);
    let stored = fleet.shards().len();
    let lost = fleet.shards()[0].server;
    fleet.kill(lost);
    until_lost(&fleet, lost);
    eventually("it is made again", || counts(&fleet)[0] == 0 && made_shards(&fleet) > 0);
    assert!(fleet.shards().len() > stored);
    fleet.revive(lost);
    fleet.until_up(8);
    eventually("each shard is stored once", || fleet.shards().len() == stored);
    fleet.sandbox.arc(["verify"]).exits(0);
    // It strikes out what was trashed once the server has said so.
    eventually("the catalog says the same", || {
        let held = servers(&fleet).iter().map(|row| row["shards"].as_u64().unwrap()).sum::<u64>();
        held == stored as u64
    });
    fleet.pull_exact("latest");
}

#[test]
fn a_drained_server_gives_all_it_has_to_others_and_can_be_removed() {
    let fleet = fleet("4+2", 8, &[HEALS]);
    let stored = fleet.shards().len();
    let held = shards_on(&fleet, "c");
    assert!(held > 0);
    let plan = fleet.sandbox.arc(["servers", "drain", "c", "--dry-run"]).exits(0);
    let text = plan.stdout() + &plan.stderr();
    assert!(text.contains("all of it moves") && text.contains("after:"), "{text}");
    assert_eq!(shards_on(&fleet, "c"), held);
    fleet.sandbox.arc(["servers", "remove", "c"]).exits(1);

    fleet.sandbox.arc(["servers", "drain", "c", "--wait"]).exits(0);
    assert_eq!(shards_on(&fleet, "c"), 0);
    eventually("its files are in the trash", || files_on(&fleet, 2) == 0);
    assert_eq!(fleet.shards().len(), stored);
    let status = repair(&fleet, &[]);
    // A shard is copied, not computed from k others; the slack is headers.
    let (made, read) = (status["made_bytes"].as_u64(), status["read_bytes"].as_u64());
    assert!(read.unwrap() * 2 < made.unwrap() * 3, "{status}");
    fleet.push(&[]).exits(0);
    assert_eq!(shards_on(&fleet, "c"), 0, "it takes nothing more");
    fleet.sandbox.arc(["servers", "remove", "c"]).exits(0);
    assert_eq!(servers(&fleet).len(), 7);
    fleet.sandbox.arc(["verify"]).exits(0);
    fleet.pull_exact("latest");
}

/// Runs a line of which the coordinator's first answer to `request` is given when all that two of
/// five servers had at 2+1 is elsewhere.
fn run_while_shards_move(line: &[&str], request: &'static str) -> (Fleet, Sandbox) {
    let fleet = fleet("2+1", 5, &[HEALS]);
    let proxy = Proxy::new();
    proxy.stand_before(fleet.coordinator_address());
    let other = Sandbox::new();
    let token = fleet.sandbox.path("coordinator/owner.token");
    other.arc(["init", &proxy.url(), "--token-file", text(&token)]).exits(0);
    let (tell, is_asked) = mpsc::channel();
    let (go_on, is_moved) = mpsc::channel::<()>();
    proxy.tell(move |head, _| {
        if head.starts_with(request) {
            let _ = tell.send(());
            is_moved.recv().unwrap_or_default();
        }
    });
    let running = other.start(["--json"].iter().chain(line));
    is_asked.recv_timeout(Duration::from_secs(60)).unwrap();
    for from in ["a", "b"] {
        fleet.sandbox.arc(["servers", "drain", from]).exits(0);
    }
    for (server, from) in ["a", "b"].into_iter().enumerate() {
        fleet.sandbox.arc(["servers", "drain", from, "--wait"]).exits(0);
        eventually("its files are in the trash", || files_on(&fleet, server) == 0);
    }
    drop(go_on);
    let ran = running.finish().exits(0);
    assert!(ran.json_lines("damage").is_empty() && ran.json_lines("heal").is_empty());
    (fleet, other)
}

#[test]
fn what_moves_while_it_is_verified_is_looked_at_where_it_is_then() {
    for level in ["map", "data"] {
        run_while_shards_move(&["verify", "--level", level], "GET /v1/stripes");
    }
}

#[test]
fn what_moves_while_it_is_pulled_is_read_where_it_is_then() {
    let line = ["pull", "latest", "--to", "restored"];
    let (fleet, other) = run_while_shards_move(&line, "POST /v1/locate");
    let source = fleet.source();
    assert_same(&source, &other.path("restored").join(source.strip_prefix("/").unwrap()));
}

#[test]
fn a_drain_that_is_called_off_leaves_every_shard_once() {
    let fleet = fleet("4+2", 8, &[HEALS]);
    let stored = fleet.shards().len();
    fleet.sandbox.arc(["servers", "drain", "c"]).exits(0);
    fleet.sandbox.arc(["servers", "undrain", "c"]).exits(0);
    until_whole(&fleet);
    eventually("each shard is stored once", || fleet.shards().len() == stored);
    fleet.sandbox.arc(["verify"]).exits(0);
}

#[test]
fn an_empty_disk_takes_the_place_of_one_that_died_by_the_same_name() {
    let mut fleet = fleet("4+2", 6, &SHORT);
    // Stripes of 4+2 have a shard on each of the six.
    let wide = fleet.shards().iter().filter(|file| file.index == 5).count() as u64;
    fleet.sandbox.arc(["servers", "replace", "c"]).exits(1);
    fleet.kill(2);
    fs::remove_dir_all(fleet.server_folder(2)).unwrap();
    eventually("it is missed", || state(&fleet, 2) != "up");
    let ran = fleet.sandbox.arc(["servers", "replace", "c"]).exits(0);
    assert!(ran.stdout().contains("c.replaced-"), "{}", ran.stdout());
    fleet.revive(2);
    fleet.until_up(6);
    until_whole(&fleet);
    assert!(wide > 0 && shards_on(&fleet, "c") >= wide);
    let rows = servers(&fleet);
    let mut names = rows.iter().map(|row| row["name"].as_str().unwrap());
    let former = names.find(|name| name.contains("replaced")).unwrap().to_owned();
    fleet.sandbox.arc(["servers", "remove", &former]).exits(0);
    fleet.sandbox.arc(["verify"]).exits(0);
    fleet.pull_exact("latest");
}

#[test]
fn a_server_that_joins_fills_by_itself_up_to_its_share() {
    let mut fleet =
        Fleet::of(Setup { code: "4+2", servers: 7, coordinator: &[HEALS], ..Setup::default() });
    for n in 0..20 {
        write(fleet.source().join(n.to_string()), noise(n, 300_000));
        fleet.push(&[]).exits(0);
    }
    let before = fleet.shards();
    let joined = fleet.join(&[]);
    fleet.until_up(8);
    eventually("it has its share", || shards_on(&fleet, "h") * 8 >= before.len() as u64 / 2);
    until_whole(&fleet);
    eventually("each shard is stored once", || fleet.shards().len() == before.len());
    let after = fleet.shards();
    let stays = |file: &crate::fleet::ShardFile| {
        after
            .iter()
            .any(|f| (&f.stripe, f.index, f.server) == (&file.stripe, file.index, file.server))
    };
    let moved = before.iter().filter(|file| !stays(file)).count();
    assert_eq!(moved, files_on(&fleet, joined), "nothing moves but to the newcomer");
    fleet.sandbox.arc(["verify"]).exits(0);
    fleet.pull_exact("latest");
}

#[test]
fn lost_is_said_only_when_its_servers_are_lost_and_not_merely_away() {
    let away = [HEALS, "--down-after=300ms", "--grace=1h", "--grace-max=1h"];
    for (options, is_lost, code) in [(&away[..], false, 7), (&SHORT[..], true, 5)] {
        let options: Vec<&str> = options.iter().copied().chain(["--brake=0s"]).collect();
        let mut fleet = fleet("4+2", 6, &options);
        [0, 1, 2].into_iter().for_each(|server| fleet.kill(server));
        let until = if is_lost { "lost" } else { "down" };
        let all = |fleet: &Fleet| (0..3).all(|server| state(fleet, server) == until);
        eventually("they are away", || all(&fleet));
        fleet.sandbox.arc(["verify"]).exits(code);
        fleet.sandbox.arc(["repair-scan", "--fix"]).exits(code);
        // Servers that are merely down would be waited for.
        if is_lost {
            let to = fleet.sandbox.path("lacking");
            fleet.sandbox.arc(["pull", "latest", "--to", text(&to)]).exits(5);
        }
    }
}
