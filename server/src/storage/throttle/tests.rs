use proptest::prelude::*;

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const KIB: u64 = 1024;
const PACE: u64 = 1024 * KIB;

/// How long `bytes` taken now have to wait.
fn wait(bucket: &mut Bucket, bytes: u64, now: Duration) -> Duration {
    let place = bucket.take(bytes, now);
    bucket.wait(place, now)
}

#[test]
fn a_bucket_gives_its_pace_and_keeps_a_second() {
    let mut bucket = Bucket::new(Some(PACE));
    assert_eq!(wait(&mut bucket, PACE / 2, ms(0)), ms(500));
    // Whoever comes at the same time waits for both.
    assert_eq!(wait(&mut bucket, PACE / 4, ms(0)), ms(750));
    assert_eq!(wait(&mut bucket, PACE / 4, ms(750)), ms(250));
    // After a pause: one second of it is there at once, not all of it.
    assert_eq!(wait(&mut bucket, PACE, ms(100_000)), ms(0));
    assert_eq!(wait(&mut bucket, PACE, ms(100_000)), ms(1000));
    assert_eq!(wait(&mut bucket, 0, ms(200_000)), ms(0));
}

#[test]
fn a_change_counts_for_who_waits() {
    let mut bucket = Bucket::new(Some(PACE));
    let place = bucket.take(10 * PACE, ms(0));
    assert_eq!(bucket.wait(place, ms(2000)), ms(8000));
    bucket.set(Some(4 * PACE), ms(2000));
    assert_eq!(bucket.wait(place, ms(2000)), ms(2000));
    bucket.set(None, ms(2000));
    assert_eq!(bucket.wait(place, ms(2000)), ms(0));
    // What went without a limit is not paid for later.
    bucket.set(Some(PACE), ms(2000));
    assert_eq!(wait(&mut bucket, PACE, ms(2000)), ms(1000));
}

#[test]
fn clients_have_three_parts_of_four_until_a_second_after_the_last() {
    let mut bucket = Bucket::new(Some(PACE));
    bucket.begin(ms(0));
    let place = bucket.take(PACE, ms(0));
    assert_eq!(bucket.wait(place, ms(0)), ms(4000));
    bucket.begin(ms(500));
    bucket.end(ms(600));
    assert!(bucket.yields(ms(2000)));
    bucket.end(ms(1000));
    assert!(bucket.yields(ms(1999)) && !bucket.yields(ms(2000)));
    // Two seconds at a quarter are half a second at full speed.
    assert_eq!(bucket.wait(place, ms(2000)), ms(500));
    assert_eq!(bucket.wait(place, ms(2500)), ms(0));
    // Where there is no limit there is one while clients are there.
    let mut unlimited = Bucket::new(None);
    assert_eq!(wait(&mut unlimited, u64::MAX / 2, ms(0)), ms(0));
    unlimited.begin(ms(10));
    assert_eq!(wait(&mut unlimited, DISK_BYTES_PER_SECOND / SHARE, ms(10)), ms(1000));
}

#[test]
fn what_waits_no_longer_is_forgiven() {
    let mut bucket = Bucket::new(Some(PACE));
    let place = bucket.take(100 * PACE, ms(0));
    bucket.force(place, ms(10));
    assert_eq!(bucket.wait(place, ms(10)), ms(0));
    assert_eq!(wait(&mut bucket, PACE, ms(10)), ms(1000));
}

#[test]
fn no_number_is_too_large_or_too_small() {
    let mut bucket = Bucket::new(Some(0));
    assert!(wait(&mut bucket, u64::MAX, ms(0)) > ms(1000));
    assert!(wait(&mut bucket, u64::MAX, Duration::MAX) < Duration::MAX);
    assert!(wait(&mut Bucket::new(Some(u64::MAX)), 1, ms(0)) <= Duration::from_nanos(1));
}

/// What happens: after so many ms, a client comes or goes, or so many KiB are taken.
#[derive(Debug, Clone, Copy)]
enum Event {
    Client,
    NoClient,
    Take(u64),
}

fn histories() -> impl Strategy<Value = Vec<(u64, Event)>> {
    let event = prop_oneof![
        Just(Event::Client),
        Just(Event::NoClient),
        (1..2048_u64).prop_map(|kib| Event::Take(kib * KIB)),
        (1..64_u64).prop_map(|kib| Event::Take(kib * KIB)),
    ];
    prop::collection::vec((0..1500_u64, event), 1..60)
}

/// When each take of a history went on, and its bytes: looked at every 10 ms to the end.
fn played(history: &[(u64, Event)]) -> (Vec<(u64, u64)>, u64) {
    let mut bucket = Bucket::new(Some(PACE));
    let (mut line, mut went, mut now) = (Vec::new(), Vec::new(), 0_u64);
    let look = |bucket: &mut Bucket, line: &mut Vec<(u64, u64)>, went: &mut Vec<_>, now| {
        line.retain(|&(place, bytes)| {
            let goes = bucket.wait(place, ms(now)).is_zero();
            if goes {
                went.push((now, bytes));
            }
            !goes
        });
    };
    for &(after, event) in history {
        let until = now + after;
        while now < until {
            now = (now + 10).min(until);
            look(&mut bucket, &mut line, &mut went, now);
        }
        match event {
            Event::Client => bucket.begin(ms(now)),
            Event::NoClient => bucket.end(ms(now)),
            Event::Take(bytes) => line.push((bucket.take(bytes, ms(now)), bytes)),
        }
        look(&mut bucket, &mut line, &mut went, now);
    }
    let left: u64 = line.iter().map(|(_, bytes)| bytes).sum();
    let began = now;
    while !line.is_empty() {
        now += 10;
        look(&mut bucket, &mut line, &mut went, now);
        // A quarter of the pace is there whatever clients do.
        let owed = left + 2048 * KIB;
        assert!((now - began) * PACE / SHARE / 1000 <= owed + PACE, "starved: {line:?}");
    }
    (went, now)
}

proptest! {
    #[test]
    fn no_window_has_more_than_its_pace_and_a_burst_and_nothing_starves(history in histories()) {
        let (went, _) = played(&history);
        for (nth, &(from, _)) in went.iter().enumerate() {
            let mut sum = 0;
            for &(to, bytes) in &went[nth..] {
                sum += bytes;
                // A look comes up to 10 ms late; a piece may have begun before the window.
                let window = (to - from + 10) * PACE / 1000;
                prop_assert!(sum <= window + PACE + 2048 * KIB, "{sum} in {from}..{to}");
            }
        }
    }

    #[test]
    fn how_often_one_looks_changes_nothing(
        looks in prop::collection::vec(1..5_000_000_u64, 1..200),
        bytes in 1..4 * PACE,
    ) {
        let (mut often, mut once) = (Bucket::new(Some(PACE)), Bucket::new(Some(PACE)));
        let places = [often.take(bytes, ms(0)), once.take(bytes, ms(0))];
        let mut now = Duration::ZERO;
        for nanos in looks {
            now += Duration::from_nanos(nanos);
            often.wait(places[0], now);
        }
        prop_assert_eq!(often.wait(places[0], now), once.wait(places[1], now));
    }
}

#[tokio::test]
async fn who_waits_is_let_go_by_a_change_and_urgent_work_never_waits() {
    let throttle = Arc::new(Throttle::new(Some(BACKGROUND_BYTES_PER_SECOND_MIN)));
    throttle.work(Work::Urgent, u64::MAX / 2, Duration::MAX).await;
    let waiting = tokio::spawn({
        let throttle = Arc::clone(&throttle);
        async move { throttle.take(1 << 40, Duration::MAX).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(throttle.status().paced_bytes, 0);
    throttle.set(None);
    waiting.await.unwrap();
    let status = throttle.status();
    assert_eq!((status.paced_bytes, status.urgent_bytes), (1 << 40, u64::MAX / 2));
    assert!(!status.yields);
    let served = throttle.serve(Work::Client);
    drop(throttle.serve(Work::Background));
    assert!(throttle.status().yields);
    drop(served);
    assert!(throttle.status().yields, "there may be another");
}
