//! Rebuilds that meet servers that hang or refuse, and disks that are full or fail.

use std::time::Duration;

use arc_server::auth::{Grant, Ticket};
use arc_server::storage::Fault;
use arc_server::wire::*;
use reqwest::Method;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::fleet::*;
use super::support::*;
use super::trouble::SmallDisk;

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_hangs_or_is_away_is_given_up() {
    let world = World::new().await;
    let fleet = fleet_with(&world, (4, 2), PACK_BYTES, |_, config| {
        config.limits.client_silence = Duration::from_millis(300);
        config.limits.busy_wait = Duration::ZERO;
    });
    let fleet = fleet.await;
    fleet.remove(5);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let at_once = hanging(&fleet.shards[0], 0).await;
    let later = hanging(&fleet.shards[0], 1).await;
    for url in [away, at_once.url(), later.url()] {
        let mut order = fleet.order(0..5, &[5]);
        order.sources[0].at.url = url;
        let answer = fleet.rebuild(5, &order).await.unwrap();
        fleet.holds(5, &answer, &[5]).await;
        let unreachable: Vec<_> = answer.unreachable.iter().map(|row| row.0).collect();
        assert_eq!(unreachable, [fleet.id(0)], "{answer:?}");
        assert_eq!(answer.found, []);
        fleet.remove(5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_rebuilds_at_a_time_than_allowed_and_none_goes_on_for_nobody() {
    let world = World::new().await;
    let fleet = fleet_with(&world, (2, 1), 1 << 20, |_, config| {
        config.limits.busy_wait = Duration::ZERO;
        config.limits.rebuilds = 1;
    });
    let fleet = fleet.await;
    fleet.remove(2);
    let hanging = hanging(&fleet.shards[0], 0).await;
    let mut order = fleet.order(0..2, &[2]);
    order.sources[0].at.url = hanging.url();
    {
        let first = std::pin::pin!(fleet.rebuild(2, &order));
        let refused = async {
            fleet.servers[2].writing().await;
            fleet.rebuild(2, &order).await.unwrap_err().code
        };
        tokio::select! {
            answer = first => panic!("{answer:?}"),
            code = refused => assert_eq!(code, Code::Busy),
        }
    }
    // Whoever asked for the first one is gone now.
    fleet.servers[2].holds_nothing("cut off").await;
    let answer = fleet.rebuild(2, &fleet.order(0..2, &[2])).await.unwrap();
    fleet.holds(2, &answer, &[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_before_anything_is_read() {
    let world = World::new().await;
    let at = world.dir.path().join("disk");
    let Some(_disk) = SmallDisk::mount(&at) else {
        println!("skipped: cannot mount a tmpfs here (not root)");
        return;
    };
    let fleet = fleet(&world, (2, 1), 10 << 20).await;
    let target = world.server_with(|config| {
        config.name = Some("small".into());
        config.data = at.join("data");
        // What is kept of the disk is kept for this.
        config.reserve_bytes = Some(u64::MAX);
    });
    let target = target.await;
    let rebuild = async |order: &RebuildRequest| {
        target.post::<RebuildAnswer>("/v1/rebuild", Grant::Control, order).await
    };
    // One fits on it, two do not.
    let mut order = fleet.order([0, 2], &[1, 2]);
    order.places[0].server = target.storage.server;
    assert_eq!(rebuild(&order).await.unwrap_err().code, Code::NoSpace);
    target.holds_nothing("full").await;
    assert_eq!(target.probe().await.unwrap().trouble, None);
    order.places.truncate(1);
    assert_eq!(rebuild(&order).await.unwrap().outcome, Outcome::Rebuilt);
    assert!(std::fs::read(target.path(&fleet.shards[1])).unwrap() == fleet.shards[1].file);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_fails_leaves_the_others_standing() {
    let world = World::new().await;
    let fleet = fleet(&world, (4, 2), PACK_BYTES).await;
    fleet.remove(1);
    fleet.remove(5);
    let mut order = fleet.order([0, 2, 3, 4], &[1, 5]);
    order.places[0].ticket = fleet.servers[1].sign(Grant::Read);
    let mut answer = fleet.rebuild(5, &order).await.unwrap();
    let (index, server, why) = answer.failed.pop().unwrap();
    assert_eq!((index, server), (1, fleet.id(1)));
    assert!(why.contains("does not allow this"), "{why}");
    fleet.holds(5, &answer, &[5]).await;
    fleet.servers[1].holds_nothing("refused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_nothing_is_kept_and_the_others_get_theirs() {
    let world = World::new().await;
    let fleet = fleet(&world, (4, 2), PACK_BYTES).await;
    fleet.remove(1);
    let target = world.server_with(|config| {
        config.name = Some("bad".into());
        config.data = world.dir.path().join("bad");
        config.fault = Some(Fault::SyncFails);
    });
    let target = target.await;
    fleet.remove(5);
    let mut order = fleet.order([0, 2, 3, 4], &[1, 5]);
    order.places[1].server = target.storage.server;
    let mut answer: RebuildAnswer =
        target.post("/v1/rebuild", Grant::Control, &order).await.unwrap();
    let (index, server, why) = answer.failed.pop().unwrap();
    assert_eq!((index, server), (5, target.storage.server));
    assert!(why.contains("a planted failure"), "{why}");
    fleet.holds(5, &answer, &[1]).await;
    target.holds_nothing("failed sync").await;
    assert!(target.probe().await.unwrap().trouble.is_some());
    let refusal = target.post::<RebuildAnswer>("/v1/rebuild", Grant::Control, &order).await;
    assert_eq!(refusal.unwrap_err().code, Code::NoSpace);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_give_back_what_was_written_keeps_nothing() {
    let world = World::new().await;
    for (fault, kept) in [(Fault::OpenFails, true), (Fault::ReadFails, false)] {
        let pack_bytes = 1 << 20;
        let fleet = fleet_with(&world, (2, 1), pack_bytes, |number, config| {
            config.name = Some(format!("{fault:?}-{number}"));
            config.data = world.dir.path().join(format!("{fault:?}-{number}"));
            config.fault = Some(fault).filter(|_| number == 0);
        });
        let fleet = fleet.await;
        fleet.damage(0, &[1]);
        let before = std::fs::read(fleet.path(0)).unwrap();
        let mut answer = fleet.rebuild(0, &fleet.order(0..3, &[0])).await.unwrap();
        assert_eq!(damaged(&answer), [0]);
        let trouble = fleet.servers[0].probe().await.unwrap().trouble;
        if kept {
            fleet.holds(0, &answer, &[0]).await;
            assert_eq!(trouble, None);
            continue;
        }
        let (index, server, why) = answer.failed.pop().unwrap();
        assert_eq!((index, server, answer.receipts.len()), (0, fleet.id(0), 0));
        assert!(why.contains("cannot read"), "{why}");
        assert!(trouble.unwrap().contains("cannot read"));
        assert!(std::fs::read(fleet.path(0)).unwrap() == before);
        fleet.left_nothing(0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_cuts_a_rebuild_off_and_frees_the_folder() {
    let world = World::new().await;
    let mut fleet = fleet_with(&world, (2, 1), 1 << 20, |_, config| {
        config.drain = Duration::from_millis(50);
    })
    .await;
    fleet.remove(2);
    let hanging = hanging(&fleet.shards[0], 0).await;
    let mut order = fleet.order(0..2, &[2]);
    order.sources[0].at.url = hanging.url();
    let target = fleet.servers.pop().unwrap();
    let request = target.request(Method::POST, "/v1/rebuild", &target.sign(Grant::Control));
    let request = tokio::spawn(request.json(&order).send());
    target.writing().await;
    let data = target.data.clone();
    target.storage.stop().await;
    assert!(request.await.unwrap().is_err());
    assert_eq!(names(&data.join("tmp")), Vec::<String>::new());
    world.server_with(|config| config.data = data).await.holds_nothing("cut off").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_an_epoch_that_ends_meanwhile_changes_nothing() {
    let world = World::new().await;
    let fleet = fleet(&world, (2, 2), 1 << 20).await;
    fleet.remove(3);
    let (tell, told) = watch::channel(false);
    let hesitating = hesitating(told).await;
    let mut order = fleet.order(0..3, &[3]);
    order.sources[0].at.url = hesitating.url();
    let target = &fleet.servers[3];
    let later = async {
        target.writing().await;
        let ticket = Ticket {
            epoch: 5,
            server: target.storage.server,
            ..world.coordinator.ticket(Grant::Control)
        };
        let probe = target.request(Method::POST, "/v1/probe", &world.coordinator.sign(&ticket));
        let probe = probe.json(&Probe { epoch: 5, now_ms: NOW_MS }).send().await.unwrap();
        assert!(probe.status().is_success());
        tell.send_replace(true);
    };
    let (rebuilt, ()) = tokio::join!(fleet.rebuild(3, &order), later);
    let rebuilt = rebuilt.unwrap();
    let (index, server, why) = &rebuilt.failed[0];
    assert_eq!((*index, *server, rebuilt.receipts.len()), (3, fleet.id(3), 0));
    assert!(why.contains("epoch 4, the present one 5"), "{why}");
    target.holds_nothing("stale").await;
}
