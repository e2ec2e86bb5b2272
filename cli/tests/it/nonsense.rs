//! A storage server that answers well-formed nonsense.

use std::sync::mpsc;

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::http::{Message, Proxy};
use crate::{source, trees};

/// A fleet whose last server lies.
fn fleet(code: &str, servers: usize) -> (Fleet, Proxy) {
    let mut fleet = Fleet::bare(&[]);
    for _ in 1..servers {
        fleet.join(&[]);
    }
    let proxy = Proxy::new();
    let liar = fleet.join(&["--advertise", &proxy.url()]);
    proxy.stand_before(fleet.server_address(liar));
    fleet.init(&fleet.sandbox, Some(code));
    fleet.until_up(servers);
    (fleet, proxy)
}

/// Alters the JSON of receipts.
fn of_receipts(change: impl Fn(&mut Value) + Send + 'static) -> impl Fn(&str, &mut Message) + Send {
    move |request, answer| {
        if request.starts_with("PUT /v1/shards") && answer.status() == 200 {
            let mut receipt = answer.json();
            change(&mut receipt);
            answer.body = receipt.to_string().into_bytes();
        }
    }
}

/// Alters what comes back for a shard.
fn of(what: &'static str, change: impl Fn(&mut Message) + Send + 'static) -> Lie {
    Box::new(move |request, answer| {
        if request.starts_with(what) && answer.status() < 300 {
            change(answer);
        }
    })
}

type Lie = Box<dyn Fn(&str, &mut Message) + Send>;

fn lies_about_receipts() -> Vec<(&'static str, Lie)> {
    let put = "PUT /v1/shards";
    let first = |text: &mut Value, with: &str| {
        let rest = text.as_str().unwrap()[1..].to_owned();
        *text = Value::from(format!("{with}{rest}"));
    };
    let mac = move |receipt: &mut Value| {
        let is_a = receipt["mac"].as_str().unwrap().starts_with('A');
        first(&mut receipt["mac"], if is_a { "B" } else { "A" });
    };
    vec![
        ("another index", Box::new(of_receipts(|r| r["index"] = json!(200)))),
        ("another stripe", Box::new(of_receipts(|r| r["stripe"] = json!("ab".repeat(32))))),
        ("another server", Box::new(of_receipts(|r| r["server"] = json!(1)))),
        ("an epoch to come", Box::new(of_receipts(|r| r["epoch"] = json!(u64::MAX)))),
        ("another header", Box::new(of_receipts(|r| r["header_hash"] = json!("00".repeat(32))))),
        ("a wrong MAC", Box::new(of_receipts(mac))),
        ("no MAC", Box::new(of_receipts(|r| r["mac"] = json!("")))),
        ("no JSON", of(put, |answer| answer.body = b"<html>all is well</html>".into())),
        ("other JSON", of(put, |answer| answer.body = b"[1,2,3]".into())),
        ("nothing", of(put, |answer| answer.body.clear())),
        (
            "an error page",
            of(put, |answer| {
                answer.set_status("500 Oh no");
                answer.body = b"<html>oh no</html>".into();
            }),
        ),
    ]
}

#[test]
fn i2_a_receipt_that_is_not_genuine_costs_its_server_the_shard() {
    let (fleet, proxy) = fleet("4+2", 7);
    for (number, (what, lie)) in lies_about_receipts().into_iter().enumerate() {
        if fleet.source().exists() {
            std::fs::remove_dir_all(fleet.source()).unwrap();
        }
        source::make(&fleet.source(), 5000 * number as u64, 6);
        proxy.tell(lie);
        let ran = fleet.push(&[]).exits(0);
        assert_eq!(ran.json_of("summary")["stripes_below_target"], 0, "{what}");
        let warnings = ran.json_of("warning").to_string();
        assert!(
            warnings.contains(&format!("g {}", proxy.url())) || warnings.contains(" g "),
            "{what}: {warnings}"
        );
        proxy.tell(|_, _| {});
        fleet.pull_exact("latest");
    }
    fleet.is_whole();
}

#[test]
fn without_a_spare_a_liar_is_done_without_and_named() {
    let (fleet, proxy) = fleet("4+2", 6);
    source::make(&fleet.source(), 1, 8);
    let (_, lie) = lies_about_receipts().swap_remove(5);
    proxy.tell(lie);
    let ran = fleet.push(&["--wait-servers=1s"]).exits(7);
    let warning = ran.json_of("warning").to_string();
    assert!(warning.contains("the receipt of f ") && warning.contains("not genuine"), "{warning}");
    proxy.tell(|_, _| {});
    fleet.pull_exact("latest");
    // The liar was given no place in the catalog.
    let rows = fleet.sandbox.arc(["--json", "servers"]).exits(0).json_of("summary");
    assert_eq!(rows["servers"][5]["shards"], 0, "{rows}");
}

#[test]
fn a_spare_takes_the_place_of_a_server_that_is_far_slower_than_the_others() {
    let (fleet, proxy) = fleet("4+2", 7);
    source::make(&fleet.source(), 3, 12);
    let (go_on, is_over) = mpsc::channel::<()>();
    proxy.tell(of("PUT /v1/shards", move |_| is_over.recv().unwrap_or_default()));
    let ran = fleet.push(&["--stall=6s", "--wait-servers=1s"]).exits(0);
    let warning = ran.json_of("warning").to_string();
    assert!(warning.contains("far slower than the other servers"), "{warning}");
    drop(go_on);
    fleet.pull_exact("latest");
    fleet.is_whole();
}

#[test]
fn spares_are_tried_until_none_is_left() {
    let mut fleet = Fleet::bare(&[]);
    for _ in 0..4 {
        fleet.join(&[]);
    }
    let proxies = [Proxy::new(), Proxy::new()];
    for proxy in &proxies {
        let refuser = fleet.join(&["--advertise", &proxy.url()]);
        proxy.stand_before(fleet.server_address(refuser));
        proxy.tell(of("PUT /v1/shards", |answer| answer.set_status("500 No")));
    }
    fleet.init(&fleet.sandbox, Some("2+1"));
    fleet.until_up(6);
    // Stripes of two or three shards: some have both refusers among their first places.
    for seed in 0..8 {
        trees::write(fleet.source().join("file"), source::noise(seed, 100_000));
        fleet.push(&["--wait-servers=0s"]).exits(0);
    }
    fleet.pull_exact("latest");
}

#[test]
fn i7_wrong_bytes_for_a_shard_are_never_taken_for_right_ones() {
    let (fleet, proxy) = fleet("4+2", 6);
    source::make(&fleet.source(), 2, 12);
    fleet.push(&[]).exits(0);
    let get = "GET /v1/shards";
    let lies: [(&str, bool, Lie); 8] = [
        (
            "a flipped bit",
            true,
            of(get, |answer| {
                let middle = answer.body.len() / 2;
                answer.body[middle] ^= 4;
            }),
        ),
        (
            "other bytes",
            true,
            of(get, |answer| {
                answer.body = source::noise(9, answer.body.len());
            }),
        ),
        ("zeros", true, of(get, |answer| answer.body.fill(0))),
        ("too few bytes", false, of(get, |answer| answer.body.truncate(answer.body.len() - 1))),
        ("too many bytes", false, of(get, |answer| answer.body.push(0))),
        ("no bytes", false, of(get, |answer| answer.body.clear())),
        (
            "another status",
            false,
            of(get, |answer| {
                answer.set_status("200 OK");
                answer.body = b"{\"all\":\"is well\"}".into();
            }),
        ),
        (
            "a body cut off",
            false,
            of(get, |answer| {
                answer.said_bytes = Some(answer.body.len());
                answer.body.truncate(answer.body.len() / 2);
            }),
        ),
    ];
    for (what, is_damage, lie) in lies {
        proxy.tell(lie);
        let ran = fleet.pull_exact("latest");
        let said = |name: &str| -> Vec<Value> {
            let lines = ran.json().into_iter().filter(|line| line["type"] == name);
            lines.map(|line| line["server"].clone()).collect()
        };
        // Damage is booked for repair; nonsense says nothing of the shard, but is said.
        let (healed, passed_over) = (said("heal"), said("passed_over"));
        assert!(healed.iter().all(|server| server == "f"), "{what}: {healed:?}");
        assert_eq!(!healed.is_empty(), is_damage, "{what}");
        let liars: &[&str] = if is_damage { &[] } else { &["f"] };
        assert_eq!(passed_over, liars, "{what}");
        // What was reported is found to be whole, so that the next lie is met as the first was.
        proxy.tell(|_, _| {});
        fleet.is_whole();
    }
}

#[test]
fn nonsense_to_a_verify_is_a_server_that_was_not_checked() {
    let (fleet, proxy) = fleet("2+1", 3);
    source::make(&fleet.source(), 3, 4);
    fleet.push(&[]).exits(0);
    for body in ["<html>", "{\"found\":[]}", "{\"found\":\"good\"}", ""] {
        proxy.tell(of("POST /v1/check", move |answer| answer.body = body.into()));
        let ran = fleet.sandbox.arc(["--json", "verify"]).exits(7);
        assert_eq!(ran.json_of("summary")["unreachable_servers"], json!(["c"]), "{body}");
    }
    // It checks its shards well, but what is read of them is no answer to what was asked.
    proxy.tell(of("GET /v1/shards", |answer| answer.body.truncate(1)));
    let ran = fleet.sandbox.arc(["--json", "verify", "--level=data"]).exits(7);
    assert_eq!(ran.json_of("summary")["unreachable_servers"], json!(["c"]));
    proxy.tell(|_, _| {});
    fleet.is_whole();
}
