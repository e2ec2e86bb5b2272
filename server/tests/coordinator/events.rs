//! The event log: what is told, how it is paged, and that it outlives the coordinator.

use std::time::Duration;

use arc_server::wire::*;
use reqwest::Method;

use crate::fixture::{Fixture, timings};

async fn events(fixture: &Fixture, query: &str) -> Events {
    fixture.get(&format!("/v1/events?{query}")).await
}

/// Waits until one of this kind is written.
async fn told(fixture: &Fixture, kind: &str) -> Event {
    let written = async {
        loop {
            let Events { rows, .. } = events(fixture, "").await;
            if let Some(event) = rows.into_iter().find(|event| event.kind == kind) {
                return event;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let written = tokio::time::timeout(Duration::from_secs(30), written).await;
    written.unwrap_or_else(|_| panic!("{kind} was never told"))
}

#[tokio::test]
async fn what_people_and_servers_do_is_told_with_what_is_at_stake() {
    let (fixture, _) = Fixture::with_servers(&["a", "a", "b", "b"]).await;
    let silent = |silent| (0..2).for_each(|n| fixture.servers[n].answer(|a| a.silent = silent));
    silent(true);
    let brake = told(&fixture, "brake").await;
    assert_eq!(
        brake.text,
        "all of a went together, repair waits: s1, s2; nothing to spare meanwhile: 0 stripes"
    );
    silent(false);
    told(&fixture, "brake-off").await;
    let paused = SetRepair { paused: Some(true), ..SetRepair::default() };
    for _ in 0..2 {
        fixture.ask::<RepairStatus>(Method::PUT, "/v1/repair", &paused).await.unwrap();
    }
    assert_eq!(told(&fixture, "settings").await.text, "repair: paused no → yes");
    let server = fixture.servers[3].identity().server;
    let path = format!("/v1/servers/{}/mode", server.0);
    let mode = SetMode { mode: Mode::Draining };
    for _ in 0..2 {
        fixture.ask::<()>(Method::PUT, &path, &mode).await.unwrap();
    }
    assert_eq!(told(&fixture, "mode").await.server.as_deref(), Some("s4"));
    fixture.ask::<()>(Method::DELETE, &format!("/v1/servers/{}", server.0), &()).await.unwrap();
    told(&fixture, "removed").await;
    let all = events(&fixture, "").await;
    let count = |kind: &str| all.rows.iter().filter(|event| event.kind == kind).count();
    let kinds = ["started", "joined", "brake", "brake-off", "settings", "mode", "removed"];
    assert_eq!(kinds.map(count), [1, 4, 1, 1, 1, 1, 1], "what changes nothing is no event");
    assert!(all.rows.is_sorted_by(|a, b| a.number < b.number) && !all.more);
    // What is done is told about the server it was done to, after it was forgotten too.
    let of_s4 = events(&fixture, "server=s4").await;
    assert!(of_s4.rows.iter().all(|event| event.server.as_deref() == Some("s4")));
    assert_eq!(of_s4.seen, all.seen);
    // Page by page it is the same.
    let (mut pages, mut after) = (Vec::new(), 0);
    loop {
        let page = events(&fixture, &format!("after={after}&limit=3")).await;
        assert!(page.rows.len() <= 3);
        pages.extend(page.rows);
        after = page.seen;
        if !page.more {
            break;
        }
    }
    assert_eq!(pages, all.rows);
    for bad in ["after=x", "limit=-1", "newest=2"] {
        let path = format!("/v1/events?{bad}");
        let refused = fixture.ask::<Events>(Method::GET, &path, &()).await.unwrap_err();
        assert_eq!(refused.refusal.code, Code::BadRequest, "{bad}");
    }
}

#[tokio::test]
async fn a_stop_writes_what_was_held_back_and_a_start_goes_on_with_the_numbers() {
    let (mut fixture, _) = Fixture::with_servers(&["a"]).await;
    // Twice within the minute: the second time is held back.
    for _ in 0..2 {
        fixture.servers[0].answer(|a| a.silent = true);
        fixture.state_becomes("s1", State::Suspect).await;
        fixture.servers[0].answer(|a| a.silent = false);
        fixture.state_becomes("s1", State::Up).await;
    }
    fixture.restart(timings()).await;
    let all = events(&fixture, "").await.rows;
    let times = |kind: &str| -> u32 {
        all.iter().filter(|event| event.kind == kind).map(|event| event.times).sum()
    };
    assert_eq!((times("suspect"), times("started")), (2, 2), "{all:?}");
    assert!(times("up") >= 3, "{all:?}");
    assert!(all.is_sorted_by(|a, b| a.number < b.number));
}
