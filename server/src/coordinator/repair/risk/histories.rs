//! The order of repair through histories: servers come and go, shards turn bad, and the first in
//! the order is repaired.

use proptest::prelude::*;

use super::*;

const SERVERS: u32 = 8;
const ZONES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Debug, Clone)]
enum Event {
    /// A server's state changes.
    Turns(u32, State),
    /// A shard of a stripe turns bad.
    Rots(usize, usize),
    /// The first in the order is repaired.
    Repair,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let state = prop::sample::select(State::ALL.to_vec());
    let event = prop_oneof![
        3 => (0..SERVERS, state).prop_map(|(server, state)| Event::Turns(server, state)),
        2 => (any::<usize>(), any::<usize>()).prop_map(|(s, h)| Event::Rots(s, h)),
        4 => Just(Event::Repair),
    ];
    prop::collection::vec(event, 1..20)
}

struct World {
    geometry: Geometry,
    states: Vec<State>,
    stripes: Vec<Vec<Holder>>,
    now_ms: u64,
    tried_ms: Vec<Option<u64>>,
}

impl World {
    fn new(servers: &[u32]) -> Self {
        let stripe = |&first: &u32| {
            let holder = |index: u8| {
                let server = ServerId((first + u32::from(index)) % SERVERS);
                Holder { index, server, bad: false }
            };
            (0..4).map(holder).collect()
        };
        Self {
            geometry: Geometry::new(2, 2).unwrap(),
            states: vec![State::Up; SERVERS as usize],
            stripes: servers.iter().map(stripe).collect(),
            now_ms: 0,
            tried_ms: vec![None; servers.len()],
        }
    }

    fn look(&self, stripe: usize) -> Look {
        Look::new(self.geometry, &self.stripes[stripe], |server| {
            let state = *self.states.get(server.0 as usize)?;
            Some(Standing { state, mode: Mode::Normal, zone: ZONES[server.0 as usize % 4] })
        })
    }

    /// The stripes with something to repair, in their order.
    fn order(&self) -> Vec<usize> {
        let mut worst = Worst::new(self.stripes.len());
        for stripe in 0..self.stripes.len() {
            let look = self.look(stripe);
            if look.has_work() {
                worst.add(Risk::new(&look, 0, self.tried_ms[stripe]), stripe as i64, stripe);
            }
        }
        worst.into_sorted().collect()
    }

    /// Makes what a stripe lacks again on servers that are up and hold none of it, if it can be.
    fn repair(&mut self, stripe: usize) {
        self.now_ms += 1;
        self.tried_ms[stripe] = Some(self.now_ms);
        if self.look(stripe).margin < 0 {
            return;
        }
        let is_up = |states: &[State], n: u32| states[n as usize] == State::Up;
        let (states, shards) = (&self.states, &mut self.stripes[stripe]);
        for index in 0..4 {
            let here = |h: &Holder| h.index == index && !h.bad && is_up(states, h.server.0);
            if shards.iter().any(here) {
                continue;
            }
            let free = |n: &u32| {
                let holds = |h: &Holder| h.server.0 == *n && !(h.bad && h.index == index);
                is_up(states, *n) && !shards.iter().any(holds)
            };
            let Some(server) = (0..SERVERS).find(free).map(ServerId) else { continue };
            shards.retain(|h| h.server != server);
            shards.push(Holder { index, server, bad: false });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn through_any_history_the_thinnest_stripe_is_repaired_first_and_all_in_the_end(
        servers in prop::collection::vec(0..SERVERS, 1..5),
        events in events(),
    ) {
        let mut world = World::new(&servers);
        for event in events {
            match event {
                Event::Turns(server, state) => world.states[server as usize] = state,
                Event::Rots(stripe, holder) => {
                    let count = world.stripes.len();
                    let shards = &mut world.stripes[stripe % count];
                    let holder = holder % shards.len();
                    shards[holder].bad = true;
                }
                Event::Repair => {
                    let order = world.order();
                    let Some(&first) = order.first() else { continue };
                    let looks: Vec<Look> = (0..servers.len()).map(|s| world.look(s)).collect();
                    // Whoever has work is in the order, once, and none is nearer to a loss.
                    let in_order: BTreeSet<usize> = order.iter().copied().collect();
                    prop_assert_eq!(in_order.len(), order.len());
                    for (stripe, look) in looks.iter().enumerate() {
                        prop_assert_eq!(look.has_work(), in_order.contains(&stripe));
                        if look.has_work() {
                            let danger = |l: &Look| (l.worst_zone_margin, l.margin, Reverse(l.suspects));
                            prop_assert!(danger(&looks[first]) <= danger(look));
                        }
                    }
                    world.repair(first);
                    let after = world.look(first);
                    prop_assert!(after.margin >= looks[first].margin, "i3");
                    for other in (0..servers.len()).filter(|other| *other != first) {
                        prop_assert_eq!(&world.look(other), &looks[other]);
                    }
                }
            }
        }
        // All come back: what can be repaired is, each at its first try.
        world.states = vec![State::Up; SERVERS as usize];
        for _ in 0..servers.len() {
            let Some(&first) = world.order().first() else { break };
            world.repair(first);
            let look = world.look(first);
            prop_assert!(look.is_whole() || look.margin < 0, "{:?}", look);
            if look.margin < 0 {
                break;
            }
        }
        let hopeless = |stripe: usize| world.look(stripe).margin < 0;
        prop_assert!(world.order().into_iter().all(|s| hopeless(s) || (0..servers.len()).any(hopeless)));
    }
}
