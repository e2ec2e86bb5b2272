//! Shards that are made again out of their siblings on other servers.

use std::time::Duration;

use arc_server::auth::{Grant, Ticket};
use arc_server::wire::*;
use codec::digest::BLOCK_BYTES;
use reqwest::Method;

use super::fleet::*;
use super::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_shard_is_made_again_from_k_others() {
    let world = World::new().await;
    let fleet = fleet(&world, (4, 2), PACK_BYTES).await;
    for index in [5, 1] {
        fleet.remove(index);
        let sources: Vec<u8> = (0..6).filter(|&other| other != index).collect();
        let order = fleet.order(sources, &[index]);
        let answer = fleet.rebuild(index, &order).await.unwrap();
        fleet.holds(index, &answer, &[index]).await;
        assert_eq!((&answer.found[..], &answer.unreachable[..]), (&[][..], &[][..]));
        assert_eq!(answer.read_bytes, 4 * fleet.body_bytes() + 5 * fleet.header_bytes());
        assert_eq!(answer.own_bytes, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_asked_for_its_header_and_once_for_all_the_rest() {
    let world = World::new().await;
    let fleet = fleet(&world, (4, 2), PACK_BYTES).await;
    let (header, body) = (fleet.header_bytes(), fleet.body_bytes());
    let (rest, end) = (format!("bytes={header}-{}", header + body - 1), header + body);
    let group = 5 * BLOCK_BYTES as u64;
    for (longest, groups) in [(usize::MAX, 0), (8 * BLOCK_BYTES, 4)] {
        let (server, asked) = noting(&fleet.shards[0], longest).await;
        fleet.remove(5);
        let mut order = fleet.order(0..5, &[5]);
        order.sources[0].at.url = server.url();
        let answer = fleet.rebuild_urgently(5, &order).await.unwrap();
        fleet.holds(5, &answer, &[5]).await;
        assert_eq!((&answer.found[..], &answer.unreachable[..]), (&[][..], &[][..]));
        assert_eq!(answer.read_bytes, 4 * body + 5 * header);
        // What did not come is asked for again, group by group.
        let mut expected = vec![format!("bytes=0-{}", header - 1), rest.clone()];
        let after = (5 - groups..5).map(|number| header + number * group);
        expected.extend(after.map(|at| format!("bytes={at}-{}", end.min(at + group) - 1)));
        assert_eq!(*asked.lock().unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_on_coming_once_anything_else_is_asked_for() {
    let world = World::new().await;
    let fleet = fleet(&world, (4, 2), PACK_BYTES).await;
    let (header, body) = (fleet.header_bytes(), fleet.body_bytes());
    let (server, asked) = noting(&fleet.shards[0], usize::MAX).await;
    fleet.remove(5);
    // Whose block is read of a fifth source.
    fleet.damage(1, &[0]);
    let mut order = fleet.order(0..5, &[5]);
    order.sources[0].at.url = server.url();
    let answer = fleet.rebuild_urgently(5, &order).await.unwrap();
    fleet.holds(5, &answer, &[5]).await;
    let (last, end) = (header + 20 * BLOCK_BYTES as u64, header + body - 1);
    let asked = asked.lock().unwrap();
    assert_eq!(asked[1], format!("bytes={header}-{end}"));
    assert_eq!(asked[asked.len() - 1], format!("bytes={last}-{end}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_without_a_free_slot_is_read_group_by_group_and_nothing_else_is_held() {
    let world = World::new().await;
    let fleet = fleet(&world, (4, 2), PACK_BYTES).await;
    fleet.remove(5);
    let mut order = fleet.order(0..4, &[5]);
    // One group is read at a time.
    let shards = [&fleet.shards[0], &fleet.shards[1]];
    let servers = with_one_slot(shards, 5 * BLOCK_BYTES).await;
    order
        .sources
        .iter_mut()
        .zip(&servers)
        .for_each(|(source, server)| source.at.url = server.url());
    let answer = fleet.rebuild_urgently(5, &order).await.unwrap();
    fleet.holds(5, &answer, &[5]).await;
    assert_eq!((&answer.found[..], &answer.unreachable[..]), (&[][..], &[][..]));
    assert_eq!(answer.read_bytes, 4 * (fleet.body_bytes() + fleet.header_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_rebuilds_than_a_source_has_slots_all_end_well() {
    let world = World::new().await;
    let fleet = fleet_with(&world, (3, 4), 3 * 64 * BLOCK_BYTES, |_, config| {
        config.limits.gets = 1;
        config.limits.busy_wait = Duration::from_secs(20);
    });
    let fleet = fleet.await;
    let targets = [3, 4, 5, 6];
    targets.iter().for_each(|&index| fleet.remove(index));
    let rebuilds = targets.map(async |index| {
        let order = fleet.order(0..3, &[index]);
        fleet.rebuild_urgently(index, &order).await.unwrap()
    });
    let answers = futures_util::future::join_all(rebuilds).await;
    for (index, answer) in targets.into_iter().zip(answers) {
        fleet.holds(index, &answer, &[index]).await;
        assert_eq!((&answer.found[..], &answer.unreachable[..]), (&[][..], &[][..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_missing_shards_are_made_from_one_read() {
    let world = World::new().await;
    let fleet = fleet(&world, (4, 2), PACK_BYTES).await;
    fleet.remove(1);
    fleet.remove(5);
    let answer = fleet.rebuild(5, &fleet.order([0, 2, 3, 4], &[1, 5])).await.unwrap();
    // The own one first.
    fleet.holds(5, &answer, &[5, 1]).await;
    assert_eq!(answer.read_bytes, 4 * (fleet.body_bytes() + fleet.header_bytes()));

    // What has a shard itself reads its own disk first, and may keep none.
    fleet.remove(1);
    let answer = fleet.rebuild(3, &fleet.order([0, 2, 3, 4, 5], &[1])).await.unwrap();
    fleet.holds(3, &answer, &[1]).await;
    assert_eq!(answer.read_bytes, 3 * fleet.body_bytes() + 4 * fleet.header_bytes());
    assert_eq!(answer.own_bytes, fleet.body_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_made_from_one() {
    let world = World::new().await;
    let fleet = fleet(&world, (1, 2), 100_000).await;
    fleet.remove(2);
    fleet.remove(0);
    let answer = fleet.rebuild(0, &fleet.order([1], &[0, 2])).await.unwrap();
    fleet.holds(0, &answer, &[0, 2]).await;
    assert_eq!(answer.read_bytes, fleet.body_bytes() + fleet.header_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_block_costs_k_blocks_of_others() {
    let world = World::new().await;
    let fleet = fleet(&world, (4, 2), PACK_BYTES).await;
    // Whether it is named as a source or not.
    for sources in [0..6, 3..6, 0..5] {
        let peers = sources.clone().filter(|&index| index != 2).count() as u64;
        if peers < 4 {
            continue;
        }
        fleet.damage(2, &[3, 7, 20]);
        let answer = fleet.rebuild(2, &fleet.order(sources, &[2])).await.unwrap();
        fleet.holds(2, &answer, &[2]).await;
        assert_eq!(damaged(&answer), [2]);
        let last = fleet.body_bytes() - 20 * BLOCK_BYTES as u64;
        let columns = 4 * (2 * BLOCK_BYTES as u64 + last);
        assert_eq!(answer.read_bytes, columns + peers * fleet.header_bytes());
        assert_eq!(answer.own_bytes, fleet.body_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_damaged_around_its_body_is_mended_from_its_own_bytes() {
    let world = World::new().await;
    let fleet = fleet(&world, (4, 2), PACK_BYTES).await;
    let shard = &fleet.shards[2];
    let (file, body_at) = (&shard.file, shard.header_bytes);
    let table_at = 64 + 32 + PACK_KEY_BYTES + 6 * 32 + 5;
    for (case, bytes) in [
        ("magic", flipped(file, 2)),
        ("table", flipped(file, table_at)),
        ("header hash", flipped(file, body_at - 1)),
        ("footer", flipped(file, file.len() - 5)),
        ("no footer", file[..file.len() - 96].to_vec()),
        ("more than the file", [file, b"x".as_slice()].concat()),
    ] {
        std::fs::write(fleet.path(2), bytes).unwrap();
        let answer = fleet.rebuild(2, &fleet.order(0..6, &[2])).await.unwrap();
        fleet.holds(2, &answer, &[2]).await;
        assert_eq!(damaged(&answer), [2], "{case}");
        assert_eq!(answer.read_bytes, 5 * fleet.header_bytes(), "{case}");
    }
    // A table that cannot be trusted, and a body that does not give it: nothing of it is used.
    let both = flipped(&flipped(file, table_at), body_at + 70_000);
    for bytes in [both, fleet.shards[3].file.clone(), Vec::new()] {
        std::fs::write(fleet.path(2), bytes).unwrap();
        let answer = fleet.rebuild(2, &fleet.order(0..6, &[2])).await.unwrap();
        fleet.holds(2, &answer, &[2]).await;
        assert_eq!(answer.read_bytes, 4 * fleet.body_bytes() + 5 * fleet.header_bytes());
        assert_eq!(answer.own_bytes, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_header_is_damaged_gives_nothing() {
    let world = World::new().await;
    let fleet = fleet(&world, (4, 2), PACK_BYTES).await;
    fleet.remove(5);
    std::fs::write(fleet.path(0), flipped(&fleet.shards[0].file, 300)).unwrap();
    let answer = fleet.rebuild(5, &fleet.order(0..5, &[5])).await.unwrap();
    fleet.holds(5, &answer, &[5]).await;
    assert_eq!(damaged(&answer), [0]);
    // A whole shard, only not the one that the catalog thinks is there.
    std::fs::write(fleet.path(0), &fleet.shards[1].file).unwrap();
    fleet.remove(5);
    let answer = fleet.rebuild(5, &fleet.order(0..5, &[5])).await.unwrap();
    fleet.holds(5, &answer, &[5]).await;
    assert_eq!(damaged(&answer), [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_m_shards_damaged_in_different_columns_still_give_the_lost_one() {
    let world = World::new().await;
    let fleet = fleet(&world, (4, 2), PACK_BYTES).await;
    fleet.remove(5);
    let damages: [(u8, &[usize]); 5] =
        [(0, &[1, 11]), (1, &[5]), (2, &[12, 13]), (3, &[20]), (4, &[3])];
    for (index, blocks) in damages {
        fleet.damage(index, blocks);
    }
    let answer = fleet.rebuild(5, &fleet.order(0..5, &[5])).await.unwrap();
    fleet.holds(5, &answer, &[5]).await;
    // The last one's damage lies where the others are whole.
    assert_eq!(damaged(&answer), [0, 1, 2, 3]);
    // All of them at once, out of what is left of each.
    for index in 0..5 {
        let places = [index];
        let answer = fleet.rebuild(index, &fleet.order(0..6, &places)).await.unwrap();
        fleet.holds(index, &answer, &places).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_at_one_go_is_read_block_by_block() {
    let world = World::new().await;
    let fleet = fleet(&world, (4, 3), PACK_BYTES).await;
    fleet.remove(6);
    // Of blocks 12 to 15, which are read together, 13 is whole in the first of these only, which
    // has no block 14, and 14 in the other only: no range with both is of use.
    fleet.damage(1, &[13]);
    fleet.damage(4, &[13]);
    fleet.damage(5, &[14]);
    for (index, blocks) in [(0, 14), (1, 15)] {
        let bytes = fleet.shards[0].header_bytes + blocks * BLOCK_BYTES;
        let file = std::fs::File::options().write(true).open(fleet.path(index)).unwrap();
        file.set_len(bytes as u64).unwrap();
    }
    let answer = fleet.rebuild(6, &fleet.order(0..6, &[6])).await.unwrap();
    fleet.holds(6, &answer, &[6]).await;
    assert_eq!(damaged(&answer), [0, 1, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_too_few_sources_nothing_is_stored() {
    let world = World::new().await;
    let fleet = fleet(&world, (4, 2), PACK_BYTES).await;
    let target = &fleet.servers[5];
    fleet.remove(5);
    fleet.remove(0);
    fleet.damage(1, &[4]);
    let order = fleet.order(0..5, &[5]);
    let answer = fleet.rebuild(5, &order).await.unwrap();
    assert_eq!(answer.outcome, Outcome::TooFewSources);
    assert_eq!((answer.receipts.len(), answer.failed.len()), (0, 0));
    assert_eq!(answer.found[0], (0, fleet.id(0), Found::Missing));
    assert_eq!(damaged(&answer), [1]);
    target.holds_nothing("too few").await;

    for index in 1..5 {
        fleet.remove(index);
    }
    let answer = fleet.rebuild(5, &order).await.unwrap();
    assert_eq!(answer.outcome, Outcome::TooFewSources);
    assert!(answer.found.iter().all(|row| row.2 == Found::Missing), "{answer:?}");
    assert_eq!(answer.found.len(), 5);
    target.holds_nothing("none").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_give_the_recorded_root_is_not_stored() {
    let world = World::new().await;
    let pack_bytes = 2 * 700_000;
    let mut fleet = fleet(&world, (2, 1), pack_bytes).await;
    for index in 0..3 {
        fleet.remove(index);
    }
    fleet.shards = inconsistent(pack_bytes);
    for index in 0..3 {
        fleet.servers[index].put(&fleet.shards[index]).await.unwrap();
    }
    for index in [2, 0] {
        fleet.remove(index);
        let answer = fleet.rebuild(index, &fleet.order(0..3, &[index])).await.unwrap();
        assert_eq!(answer.outcome, Outcome::Inconsistent);
        assert_eq!((answer.receipts.len(), answer.failed.len()), (0, 0));
        fleet.servers[usize::from(index)].holds_nothing("inconsistent").await;
        fleet.servers[usize::from(index)].put(&fleet.shards[usize::from(index)]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_order_again_reads_nothing_and_answers_the_same() {
    let world = World::new().await;
    let fleet = fleet(&world, (4, 2), PACK_BYTES).await;
    fleet.remove(4);
    let order = fleet.order([0, 1, 2, 3, 5], &[4]);
    let first = fleet.rebuild(4, &order).await.unwrap();
    let made = std::fs::metadata(fleet.path(4)).unwrap().modified().unwrap();
    let again = fleet.rebuild(4, &order).await.unwrap();
    fleet.holds(4, &again, &[4]).await;
    assert_eq!(again.receipts, first.receipts);
    assert_eq!((again.read_bytes, again.own_bytes), (0, 0));
    assert_eq!(std::fs::metadata(fleet.path(4)).unwrap().modified().unwrap(), made);
    // With others beside it, what those have is not known: they are made and sent again.
    let both = fleet.order([0, 1, 2, 3], &[5, 4]);
    for _ in 0..2 {
        let answer = fleet.rebuild(4, &both).await.unwrap();
        fleet.holds(4, &answer, &[4, 5]).await;
        assert_eq!(std::fs::metadata(fleet.path(4)).unwrap().modified().unwrap(), made);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_ticket_and_no_wrong_order_is_followed() {
    let world = World::new().await;
    let fleet = fleet(&world, (2, 1), 1 << 20).await;
    fleet.remove(2);
    let target = &fleet.servers[2];
    let order = fleet.order(0..2, &[2]);
    for grant in [Grant::Read, fleet.shards[2].grant()] {
        let refusal = target.post::<RebuildAnswer>("/v1/rebuild", grant, &order).await;
        assert_eq!(refusal.unwrap_err().code, Code::Forbidden);
    }
    let stale = Ticket {
        epoch: 3,
        server: target.storage.server,
        ..world.coordinator.ticket(Grant::Control)
    };
    let stale = target.request(Method::POST, "/v1/rebuild", &world.coordinator.sign(&stale));
    let refusal = answer::<RebuildAnswer>(stale.json(&order).send().await.unwrap()).await;
    assert_eq!(refusal.unwrap_err().code, Code::StaleEpoch);

    let bent: [fn(&mut RebuildRequest); 5] = [
        |order| order.epoch = 5,
        |order| order.places.clear(),
        |order| order.places[0].index = 3,
        |order| order.sources[1].index = 0,
        // Not what the stripe's id says.
        |order| order.pack_bytes -= 1,
    ];
    for (case, bend) in bent.into_iter().enumerate() {
        let mut order = order.clone();
        bend(&mut order);
        let refusal = fleet.rebuild(2, &order).await.unwrap_err();
        assert_eq!(refusal.code, Code::BadRequest, "{case}: {refusal}");
    }
    // Lengths that would have the header end elsewhere: no shard is called damaged for that.
    let other = RebuildRequest { pack_bytes: 64 << 20, ..order.clone() };
    let answer = fleet.rebuild(2, &other).await.unwrap();
    assert_eq!((answer.outcome, &answer.found[..]), (Outcome::TooFewSources, &[][..]));
    assert_eq!(answer.unreachable.len(), 2);
    target.holds_nothing("refused").await;
}
