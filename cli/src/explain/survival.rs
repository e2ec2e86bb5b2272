//! What stripes survive, from where each of their shards is. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::ui::plural;
use crate::vault::survives_any;

/// A good shard within reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held<'a> {
    /// Its index.
    pub index: u8,
    /// The server that has it.
    pub server: &'a str,
    /// That server's zone.
    pub zone: &'a str,
}

/// What may be lost, one of these at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survival {
    /// Any so many servers.
    pub servers: usize,
    /// Any so many zones.
    pub zones: usize,
    /// All of any one of these zones.
    pub whole_zones: BTreeSet<String>,
}

/// What a stripe of which `needed` shards must be left survives; `None` when too few are held.
/// `zones` are all that there are. Where several servers have the same shard, one of them is
/// counted, so that it may survive more than is said, and never less.
pub fn of_stripe(needed: usize, held: &[Held], zones: &BTreeSet<&str>) -> Option<Survival> {
    let mut indexes = BTreeMap::new();
    for shard in held {
        indexes.entry(shard.index).or_insert(*shard);
    }
    let spare = indexes.len().checked_sub(needed)?;
    let (mut by_server, mut by_zone) = (BTreeMap::new(), BTreeMap::new());
    for shard in indexes.values() {
        *by_server.entry(shard.server).or_insert(0) += 1;
        *by_zone.entry(shard.zone).or_insert(0) += 1;
    }
    let is_spared = |zone: &&&str| by_zone.get(*zone).is_none_or(|shards| *shards <= spare);
    Some(Survival {
        servers: most_lost(by_server.values(), spare),
        zones: most_lost(by_zone.values(), spare),
        whole_zones: zones.iter().filter(is_spared).map(|zone| (*zone).to_owned()).collect(),
    })
}

/// How many of those with so many shards each may be lost, whichever they are.
fn most_lost<'a>(shards: impl Iterator<Item = &'a usize>, spare: usize) -> usize {
    let mut shards: Vec<usize> = shards.copied().collect();
    shards.sort_unstable_by(|a, b| b.cmp(a));
    let sums = shards.iter().scan(0, |sum, shards| {
        *sum += shards;
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= spare).count()
}

impl Survival {
    /// What is survived by this and `other`, both of which are needed.
    pub fn and(self, other: Self) -> Self {
        Self {
            servers: self.servers.min(other.servers),
            zones: self.zones.min(other.zones),
            whole_zones: self.whole_zones.intersection(&other.whole_zones).cloned().collect(),
        }
    }

    /// As in "survives the loss of any 2 servers, or of all of zone b".
    pub fn words(&self) -> String {
        let mut words = format!("survives {}", survives_any(self.servers, "server"));
        let zones: Vec<&str> = self.whole_zones.iter().map(String::as_str).collect();
        match (self.servers, self.zones) {
            (0, _) => {}
            (_, 0) if zones.is_empty() => words += ", and of no whole zone",
            (_, 0) => words += &format!(", or of all of zone {}", zones.join(" or ")),
            (_, any) => words += &format!(", or of any {}", plural(any as u64, "zone")),
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shards 0, 1, 2, … on servers named `zone` and a number, as in "a1 a2 b1".
    fn survival(needed: usize, servers: &str) -> Option<Survival> {
        let held: Vec<Held> = (0..)
            .zip(servers.split_whitespace())
            .map(|(index, server)| Held { index, server, zone: &server[..1] })
            .collect();
        of_stripe(needed, &held, &["a", "b", "c"].into())
    }

    fn words(needed: usize, servers: &str) -> String {
        survival(needed, servers).map_or("nothing".into(), |survival| survival.words())
    }

    #[test]
    fn a_stripe_survives_what_it_has_to_spare() {
        for (needed, servers, said) in [
            (4, "a1 a2 b1 b2 c1 c2", "survives the loss of any 2 servers, or of any 1 zone"),
            (
                4,
                "a1 a2 a3 b1 b2 c1",
                "survives the loss of any 2 servers, or of all of zone b or c",
            ),
            (3, "a1 a2 a3 b1 b2 b3", "survives the loss of any 3 servers, or of any 1 zone"),
            (4, "a1 a2 a3 b1 b2 b3", "survives the loss of any 2 servers, or of all of zone c"),
            (1, "a1 b1 c1", "survives the loss of any 2 servers, or of any 2 zones"),
            (4, "a1 a2 b1 b2 c1", "survives the loss of any 1 server, or of all of zone c"),
            (4, "a1 a2 b1 b2", "survives no loss of a server"),
            (4, "a1 a1 b1 b1 c1 c1", "survives the loss of any 1 server, or of any 1 zone"),
            (4, "a1 a2 b1", "nothing"),
        ] {
            assert_eq!(words(needed, servers), said, "{needed} of {servers}");
        }
        let one_zone = [0, 1, 2].map(|index| Held {
            index,
            server: ["x", "y", "z"][index as usize],
            zone: "q",
        });
        let survival = of_stripe(2, &one_zone, &["q"].into()).unwrap();
        assert_eq!(survival.words(), "survives the loss of any 1 server, and of no whole zone");
    }

    #[test]
    fn a_second_copy_of_a_shard_is_no_second_shard() {
        let held = ["a1", "a2", "b1", "c1", "c2"].map(|server| (server, &server[..1]));
        let held: Vec<Held> = [0, 1, 2, 2, 2]
            .into_iter()
            .zip(held)
            .map(|(index, (server, zone))| Held { index, server, zone })
            .collect();
        let zones = ["a", "b", "c"].into();
        assert_eq!(of_stripe(2, &held, &zones).unwrap().servers, 1);
        assert_eq!(of_stripe(4, &held, &zones), None);
    }

    #[test]
    fn what_needs_several_stripes_survives_what_all_do() {
        let of = |needed, servers| survival(needed, servers).unwrap();
        let both = of(4, "a1 a2 a3 b1 b2 c1").and(of(1, "a1 c1"));
        assert_eq!(both.words(), "survives the loss of any 1 server, or of all of zone b or c");
        let both = of(4, "a1 a2 a3 b1 b2 c1").and(of(4, "b1 b2 b3 c1 c2 c3"));
        assert_eq!(both.words(), "survives the loss of any 2 servers, and of no whole zone");
    }
}
