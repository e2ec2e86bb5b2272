use super::*;

const RULES: Rules = Rules {
    health: health::Rules {
        misses: 1,
        good: 1,
        down_after_ms: 10,
        grace_ms: 100,
        grace_max_ms: 1000,
        listen_ms_max: 1000,
    },
    brake: brake::Rules { within_ms: 50, hold_ms: 500 },
    thin_ms: 20,
};

fn server(n: u32, zone: &str, last_seen_ms: Option<u64>) -> ServerRow {
    ServerRow {
        server: ServerId(n),
        name: format!("s{n}"),
        zone: zone.into(),
        url: String::new(),
        shared_key: [0; 32],
        capacity_bytes: 0,
        free_bytes: 0,
        last_seen_ms,
        lost: false,
        mode: Mode::Normal,
        weight: Weight::ONE,
    }
}

#[test]
fn a_zone_that_is_not_there_after_a_start_holds_up_repair_until_told_otherwise() {
    let zones = ["a", "a", "b", "b"];
    let rows = |seen| (0..).zip(zones).map(|(n, zone)| server(n, zone, seen)).collect();
    let fleet = Fleet::new(rows(Some(7)), RULES, Arc::default(), 1000);
    let miss = |fleet: &Fleet, n, now_ms| fleet.observe(ServerId(n), None, now_ms);
    assert_eq!(miss(&fleet, 0, 1001), Some(State::Suspect));
    assert_eq!(fleet.brake(1001), None);
    assert_eq!(miss(&fleet, 1, 1002), Some(State::Suspect));
    let brake = fleet.brake(1002).unwrap();
    assert_eq!((brake.since_ms, brake.until_ms), (1002, 1502));
    assert_eq!((brake.zones, brake.servers), (vec!["a".into()], vec!["s0".into(), "s1".into()]));

    let away = [ServerId(0), ServerId(1)];
    let deficit = Deficit { margin: 0, away: &away, bad: 0 };
    assert_eq!(fleet.waits(deficit, 1003), Wait::Braked(1502));
    fleet.resume(1003);
    assert_eq!((fleet.brake(1003), fleet.waits(deficit, 1003)), (None, Wait::Until(1022)));
    assert_eq!(fleet.waits(Deficit { margin: 1, ..deficit }, 1003), Wait::Until(1101));

    // Servers that never answered hold nothing.
    let fleet = Fleet::new(rows(None), RULES, Arc::default(), 1000);
    assert_eq!([0, 1].map(|n| miss(&fleet, n, 1001)), [Some(State::Suspect); 2]);
    assert_eq!(fleet.brake(1001), None);
}

#[test]
fn a_mode_keeps_writes_away_from_a_server_that_is_up() {
    let fleet = Fleet::new(vec![server(1, "a", None)], RULES, Arc::default(), 0);
    let mut member = fleet.get(ServerId(1)).unwrap();
    assert!(!member.takes_writes());
    member.health.state = State::Up;
    assert!(member.takes_writes());
    member.mode = Mode::ReadOnly;
    assert!(!member.takes_writes());
    (member.mode, member.trouble) = (Mode::Normal, Some("a sync failed".into()));
    assert!(!member.takes_writes());
}
