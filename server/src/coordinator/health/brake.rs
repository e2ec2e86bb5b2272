//! The brake: when many servers go together, it is rather a switch, a fuse or the coordinator's
//! own network than so many disks, and repair waits.

use std::collections::{BTreeMap, BTreeSet};

use crate::wire::ServerId;

/// Servers below which a quarter of them is too few to mean anything.
const FLEET_MIN: usize = 8;
/// Servers of a zone that go together at least. One that goes alone is an outage like any other,
/// be it all of its zone: otherwise neither grace would ever count where each has its own.
const TOGETHER_MIN: usize = 2;

/// A server as the brake sees it.
#[derive(Debug, Clone, Copy)]
pub(in crate::coordinator) struct Seen<'a> {
    /// The server.
    pub(in crate::coordinator) server: ServerId,
    /// Its failure domain.
    pub(in crate::coordinator) zone: &'a str,
    /// When it was no longer found, if it is away.
    pub(in crate::coordinator) left_ms: Option<u64>,
}

/// What the brake hears of.
#[derive(Debug, Clone, Copy)]
pub(in crate::coordinator) enum Event<'a> {
    /// All servers, as they are now.
    Look(&'a [Seen<'a>]),
    /// A person says that repair shall go on.
    Resume,
}

/// When it holds.
#[derive(Debug, Clone, Copy)]
pub(in crate::coordinator) struct Rules {
    /// Servers that go within this time go together.
    pub(in crate::coordinator) within_ms: u64,
    /// How long it holds at most; never, if 0.
    pub(in crate::coordinator) hold_ms: u64,
}

/// The brake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::coordinator) struct Brake {
    held: Option<Held>,
    /// Servers that are away and have made it hold: they do so once an absence.
    counted: BTreeSet<ServerId>,
}

/// That it holds, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::coordinator) struct Held {
    /// Since when.
    pub(in crate::coordinator) since_ms: u64,
    /// Until when at most.
    pub(in crate::coordinator) until_ms: u64,
    /// Those that went together and are still away. It lifts with the last of them back.
    pub(in crate::coordinator) servers: BTreeSet<ServerId>,
    /// Zones that went as a whole.
    pub(in crate::coordinator) zones: BTreeSet<String>,
}

impl Brake {
    /// Whether it holds.
    pub(in crate::coordinator) fn held(&self, now_ms: u64) -> Option<&Held> {
        self.held.as_ref().filter(|held| now_ms < held.until_ms)
    }

    /// Forgets who is back, and lifts when its time is over or all of its servers are back.
    fn let_go(&mut self, away: &BTreeMap<ServerId, u64>, now_ms: u64) {
        self.counted.retain(|server| away.contains_key(server));
        if let Some(held) = &mut self.held {
            held.servers.retain(|server| away.contains_key(server));
        }
        self.held.take_if(|held| held.servers.is_empty() || now_ms >= held.until_ms);
    }

    /// Holds for `servers` too.
    fn hold(&mut self, servers: BTreeSet<ServerId>, seen: &[Seen], since_ms: u64, until_ms: u64) {
        let held = self.held.get_or_insert_with(|| Held {
            since_ms,
            until_ms,
            servers: BTreeSet::new(),
            zones: BTreeSet::new(),
        });
        held.until_ms = until_ms;
        self.counted.extend(&servers);
        held.servers.extend(servers);
        held.zones.extend(whole_zones(seen, &held.servers).into_iter().map(str::to_owned));
    }
}

/// The brake after `event`.
///
/// It holds for `hold_ms` from when more than a quarter of at least eight servers, or the last
/// of a zone of several with at least one other, have gone within `within_ms`. Whoever follows
/// them within that time went with them. The same happening to others starts it anew.
pub(in crate::coordinator) fn step(
    mut brake: Brake,
    event: Event,
    now_ms: u64,
    rules: &Rules,
) -> Brake {
    let seen = match event {
        Event::Look(seen) => seen,
        Event::Resume => {
            brake.held = None;
            return brake;
        }
    };
    let away: BTreeMap<ServerId, u64> =
        seen.iter().filter_map(|s| Some((s.server, s.left_ms?))).collect();
    brake.let_go(&away, now_ms);

    let mut newly = away;
    newly.retain(|server, left| {
        now_ms.saturating_sub(*left) < rules.within_ms && !brake.counted.contains(server)
    });
    if let Some((since_ms, until_ms)) = brake.held.as_ref().map(|h| (h.since_ms, h.until_ms)) {
        let with_them =
            |_: &ServerId, left: &mut u64| *left < since_ms.saturating_add(rules.within_ms);
        let followers: BTreeMap<ServerId, u64> = newly.extract_if(.., with_them).collect();
        if !followers.is_empty() {
            brake.hold(followers.into_keys().collect(), seen, since_ms, until_ms);
        }
    }
    let newly: BTreeSet<ServerId> = newly.into_keys().collect();
    let many = seen.len() >= FLEET_MIN && newly.len() * 4 > seen.len();
    if rules.hold_ms > 0 && (many || !whole_zones(seen, &newly).is_empty()) {
        brake.hold(newly, seen, now_ms, now_ms.saturating_add(rules.hold_ms));
    }
    brake
}

/// The zones, of several, in which nobody is left since `gone` went.
fn whole_zones<'a>(seen: &[Seen<'a>], gone: &BTreeSet<ServerId>) -> BTreeSet<&'a str> {
    let zones: BTreeSet<&str> = seen.iter().map(|s| s.zone).collect();
    let is_gone = |zone: &str| {
        let mut of_zone = seen.iter().filter(|s| s.zone == zone);
        let went = of_zone.clone().filter(|s| gone.contains(&s.server)).count();
        went >= TOGETHER_MIN && of_zone.all(|s| s.left_ms.is_some())
    };
    if zones.len() < 2 {
        BTreeSet::new()
    } else {
        zones.into_iter().filter(|z| is_gone(z)).collect()
    }
}

#[cfg(test)]
mod tests;
