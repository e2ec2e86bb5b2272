//! Placement through histories: servers join, leave, fill up, change weight and zone, and stripes
//! are placed, lose shards and are completed again.

use proptest::prelude::*;

use super::*;

const FILE_BYTES: u64 = 100;
const GEOMETRIES: [(u8, u8); 4] = [(4, 2), (2, 1), (1, 2), (3, 3)];

#[derive(Debug, Clone)]
enum Event {
    /// A server of this zone and rate joins.
    Join(u8, f64),
    Leave(usize),
    /// Its room is so much from now on.
    Room(usize, u64),
    Rate(usize, f64),
    Zone(usize, u8),
    /// A new stripe is placed.
    Push(u32),
    /// A server's shards are gone from all stripes, which are completed again without it.
    Lose(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let rate = prop_oneof![1 => Just(f64::INFINITY), 9 => 0.01..16.0f64].boxed();
    let event = prop_oneof![
        4 => (0..4u8, rate.clone()).prop_map(|(zone, rate)| Event::Join(zone, rate)),
        1 => any::<usize>().prop_map(Event::Leave),
        1 => (any::<usize>(), 0..2 * FILE_BYTES).prop_map(|(n, room)| Event::Room(n, room)),
        1 => (any::<usize>(), rate).prop_map(|(n, rate)| Event::Rate(n, rate)),
        1 => (any::<usize>(), 0..4u8).prop_map(|(n, zone)| Event::Zone(n, zone)),
        4 => any::<u32>().prop_map(Event::Push),
        2 => any::<usize>().prop_map(Event::Lose),
    ];
    (0..6usize, prop::collection::vec(event, 1..20)).prop_map(|(joined, mut events)| {
        // Most histories begin with some servers.
        let first = (0..joined).map(|n| Event::Join(n as u8 % 4, 1.0 + n as f64));
        events.splice(0..0, first);
        events
    })
}

struct World {
    geometry: Geometry,
    servers: Vec<Candidate>,
    joined: u32,
    stripes: BTreeMap<StripeId, BTreeMap<u8, ServerId>>,
}

impl World {
    fn at(&mut self, n: usize) -> Option<&mut Candidate> {
        let count = self.servers.len();
        (count > 0).then(|| &mut self.servers[n % count])
    }

    fn zone(&self, server: ServerId) -> &str {
        self.servers.iter().find(|c| c.server == server).map_or("gone", |c| &c.zone)
    }

    /// Places what `stripe` lacks, and checks the answer.
    fn complete(
        &mut self,
        stripe: StripeId,
        avoid: &BTreeSet<ServerId>,
    ) -> Result<(), TestCaseError> {
        let shards = self.stripes.entry(stripe).or_default().clone();
        let held: Vec<Held> = shards
            .iter()
            .map(|(&index, &server)| Held { index, server, zone: self.zone(server).to_owned() })
            .collect();
        let ask = |candidates: &[Candidate], before: &[(u8, ServerId)]| {
            let file_bytes = FILE_BYTES;
            let (geometry, held) = (self.geometry, &held[..]);
            place(&Question { stripe, geometry, file_bytes, candidates, held, avoid, before })
        };
        let places = ask(&self.servers, &[]);

        // The order of the servers says nothing, nor does one that is not chosen; asked again each
        // keeps what it was named for.
        let named: BTreeSet<ServerId> = places.iter().map(|p| p.1).collect();
        let mut fewer: Vec<Candidate> = self.servers.iter().rev().cloned().collect();
        prop_assert_eq!(&ask(&fewer, &[]), &places);
        if let Some(other) = fewer.iter().position(|c| !named.contains(&c.server)) {
            fewer.remove(other);
            prop_assert_eq!(&ask(&fewer, &[]), &places);
        }
        prop_assert_eq!(&ask(&self.servers, &places), &places);

        let open: Vec<&Candidate> = self
            .servers
            .iter()
            .filter(|c| c.room_bytes >= FILE_BYTES && !avoid.contains(&c.server))
            .filter(|c| !shards.values().any(|server| *server == c.server))
            .collect();
        prop_assert!(named.iter().all(|server| open.iter().any(|c| c.server == *server)));
        let lacking = self.geometry.shards() - shards.len();
        prop_assert_eq!(places.len(), lacking.min(open.len()));
        let indexes: BTreeSet<u8> =
            places.iter().map(|p| p.0).chain(shards.keys().copied()).collect();
        prop_assert_eq!(indexes.len(), places.len() + shards.len());
        prop_assert_eq!(named.len(), places.len(), "one shard a server");

        // At most m in a zone, if that can be.
        let m = self.geometry.parity();
        let mut filled: BTreeMap<&str, usize> = BTreeMap::new();
        held.iter().for_each(|h| *filled.entry(&h.zone).or_default() += 1);
        let mut in_zone: BTreeMap<&str, usize> = BTreeMap::new();
        open.iter().for_each(|c| *in_zone.entry(&c.zone).or_default() += 1);
        let left = |zone: &str| m.saturating_sub(filled.get(zone).copied().unwrap_or(0));
        let within: usize = in_zone.iter().map(|(zone, n)| left(zone).min(*n)).sum();
        let mut gets: BTreeMap<&str, usize> = BTreeMap::new();
        named.iter().for_each(|&server| *gets.entry(self.zone(server)).or_default() += 1);
        for (zone, gets) in gets {
            prop_assert!(within < lacking || gets <= left(zone), "{} beyond m in {}", gets, zone);
        }
        self.stripes.entry(stripe).or_default().extend(places);
        Ok(())
    }

    fn lose(&mut self, server: ServerId) -> Result<(), TestCaseError> {
        let avoid = BTreeSet::from([server]);
        let stripes: Vec<StripeId> = self.stripes.keys().copied().collect();
        for stripe in stripes {
            let shards = self.stripes.entry(stripe).or_default();
            let before = shards.clone();
            shards.retain(|_, at| *at != server);
            self.complete(stripe, &avoid)?;
            // What was not lost stays.
            let after = &self.stripes[&stripe];
            let stays = |(index, at): (&u8, &ServerId)| *at == server || after[index] == *at;
            prop_assert!(before.iter().all(stays));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn i6_through_any_history_a_server_has_one_shard_of_a_stripe_and_a_zone_m(
        geometry in 0..GEOMETRIES.len(),
        events in events(),
    ) {
        let (k, m) = GEOMETRIES[geometry];
        let geometry = Geometry::new(k, m).unwrap();
        let (servers, stripes) = (Vec::new(), BTreeMap::new());
        let mut world = World { geometry, servers, joined: 0, stripes };
        for event in events {
            match event {
                Event::Join(zone, rate) => {
                    world.joined += 1;
                    let (server, zone) = (ServerId(world.joined), zone.to_string());
                    world.servers.push(Candidate { server, zone, rate, room_bytes: u64::MAX });
                }
                Event::Leave(n) => {
                    let Some(server) = world.at(n).map(|c| c.server) else { continue };
                    world.servers.retain(|c| c.server != server);
                    world.lose(server)?;
                }
                Event::Room(n, room) => world.at(n).into_iter().for_each(|c| c.room_bytes = room),
                Event::Rate(n, rate) => world.at(n).into_iter().for_each(|c| c.rate = rate),
                Event::Zone(n, zone) => {
                    world.at(n).into_iter().for_each(|c| c.zone = zone.to_string());
                }
                Event::Push(n) => {
                    let stripe = StripeId(*blake3::hash(&n.to_le_bytes()).as_bytes());
                    world.complete(stripe, &BTreeSet::new())?;
                }
                Event::Lose(n) => {
                    let Some(server) = world.at(n).map(|c| c.server) else { continue };
                    world.lose(server)?;
                }
            }
        }
    }
}
