//! What a code survives on the servers that there are, in words.

use std::collections::BTreeMap;

use codec::Geometry;

use crate::ui::plural;

/// Stripes of more shards are many requests for little gain.
const SHARDS_PROPOSED_MAX: usize = 20;
/// More is no help.
const PROPOSALS_MAX: usize = 3;

/// "any 2 servers"; "no loss" for none.
pub fn any(count: usize, noun: &str) -> String {
    match count {
        0 => format!("no loss of a {noun}"),
        _ => format!("the loss of any {}", plural(count as u64, noun)),
    }
}

/// How many zones may be lost at once: stripes have at most m shards in a zone where the zones
/// allow that. `None` when some stripes must have more than m shards in one zone.
pub fn zones_survived(geometry: Geometry, zone_sizes: &[usize]) -> Option<usize> {
    let mut shards: Vec<usize> =
        zone_sizes.iter().map(|&size| size.min(geometry.parity())).collect();
    if shards.iter().sum::<usize>() < geometry.shards() {
        return None;
    }
    shards.sort_unstable_by(|a, b| b.cmp(a));
    let sums = shards.iter().scan(0, |sum, &shards| {
        *sum += shards;
        Some(*sum)
    });
    Some(sums.take_while(|&sum| sum <= geometry.parity()).count())
}

/// The zones' sizes, from each server's zone.
pub fn zone_sizes<'a>(zones: impl IntoIterator<Item = &'a str>) -> Vec<usize> {
    let mut sizes = BTreeMap::<&str, usize>::new();
    for zone in zones {
        *sizes.entry(zone).or_default() += 1;
    }
    sizes.into_values().collect()
}

/// What `geometry` survives on servers in zones of these sizes: a line, and warnings in words.
pub fn words(geometry: Geometry, zone_sizes: &[usize]) -> (String, Vec<String>) {
    let servers: usize = zone_sizes.iter().sum();
    let (n, k) = (geometry.shards(), geometry.data());
    let place = format!(
        "{geometry} on {} in {}",
        plural(servers as u64, "server"),
        plural(zone_sizes.len() as u64, "zone")
    );
    if servers <= k {
        let lacking =
            format!("a push needs at least {} servers, better {n}; {servers} joined", k + 1);
        return (format!("{place}: nothing can be stored yet"), vec![lacking]);
    }
    if servers < n {
        let lacking = format!(
            "{servers} of {n} servers joined: pushes are stored below target until more join"
        );
        return (format!("{place}: survives {}", any(servers - k, "server")), vec![lacking]);
    }
    let survives = format!("{place}: survives {}", any(geometry.parity(), "server"));
    match zones_survived(geometry, zone_sizes) {
        _ if zone_sizes.len() == 1 => (
            survives,
            vec!["all servers share one zone: its loss would be the loss of everything".into()],
        ),
        None | Some(0) => {
            let warning = format!(
                "no whole zone may be lost: {n} shards on {} need more than {} in one of them",
                plural(zone_sizes.len() as u64, "zone"),
                geometry.parity()
            );
            (survives, vec![warning])
        }
        Some(zones) => (format!("{survives}, or of any {}", plural(zones as u64, "zone")), vec![]),
    }
}

/// Codes for servers in zones of these sizes, the best first: at most 20 shards a stripe, at most
/// twice the space. The best one keeps a third of the shards as parity, more where only that
/// survives the loss of a whole zone.
pub fn proposals(zone_sizes: &[usize]) -> Vec<Geometry> {
    let n = zone_sizes.iter().sum::<usize>().min(SHARDS_PROPOSED_MAX);
    let code = |m: usize| Geometry::new(u8::try_from(n - m).ok()?, u8::try_from(m).ok()?).ok();
    let codes: Vec<Geometry> = (1..=n / 2).filter_map(code).collect();
    let survives_zone = |code: &Geometry| zones_survived(*code, zone_sizes) > Some(0);
    let third = n.div_ceil(3).min(n / 2);
    let best = codes
        .iter()
        .find(|code| code.parity() >= third && survives_zone(code))
        .or_else(|| codes.iter().find(|code| code.parity() == third))
        .copied();
    let others = codes.into_iter().filter(|code| Some(*code) != best);
    best.into_iter().chain(others).take(PROPOSALS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Geometry {
        text.parse().unwrap()
    }

    #[test]
    fn zones_count_by_their_fullest() {
        assert_eq!(zones_survived(code("4+2"), &[2, 2, 2]), Some(1));
        assert_eq!(zones_survived(code("4+2"), &[1; 6]), Some(2));
        assert_eq!(zones_survived(code("4+2"), &[3, 3]), None);
        assert_eq!(zones_survived(code("4+2"), &[3, 3, 3]), Some(1));
        assert_eq!(zones_survived(code("2+1"), &[1, 1, 1]), Some(1));
        assert_eq!(zones_survived(code("6+3"), &[2, 2, 2, 1, 1, 1]), Some(1));
    }

    #[test]
    fn words_say_what_is_survived_and_what_is_lacking() {
        let (line, warnings) = words(code("4+2"), &[2, 2, 2]);
        assert_eq!(
            line,
            "4+2 on 6 servers in 3 zones: survives the loss of any 2 servers, or of any 1 zone"
        );
        assert!(warnings.is_empty());
        let (line, warnings) = words(code("4+2"), &[6]);
        assert_eq!(line, "4+2 on 6 servers in 1 zone: survives the loss of any 2 servers");
        assert_eq!(warnings.len(), 1);
        let (line, warnings) = words(code("4+2"), &[1; 5]);
        assert_eq!(line, "4+2 on 5 servers in 5 zones: survives the loss of any 1 server");
        assert_eq!(warnings.len(), 1);
        assert!(words(code("4+2"), &[4]).0.ends_with("nothing can be stored yet"));
        assert!(words(code("4+2"), &[3, 3]).1[0].contains("no whole zone"));
    }

    #[test]
    fn sizes_are_counted_by_zone() {
        assert_eq!(zone_sizes(["b", "a", "b"]), [1, 2]);
    }

    #[test]
    fn proposals_fit_what_has_joined() {
        let first = |sizes: &[usize]| proposals(sizes).first().map(ToString::to_string);
        for (zones, code) in [
            (&[1, 1, 1][..], "2+1"),
            (&[2, 2, 2], "4+2"),
            (&[1; 6], "4+2"),
            (&[3, 3], "3+3"),
            (&[6], "4+2"),
            (&[1; 9], "6+3"),
            (&[4, 4, 4, 4], "10+6"),
            (&[1, 1], "1+1"),
            (&[1; 100], "13+7"),
        ] {
            assert_eq!(first(zones).as_deref(), Some(code), "{zones:?}");
        }
        assert!(proposals(&[]).is_empty() && proposals(&[1]).is_empty());
        let all: Vec<String> = proposals(&[1; 6]).iter().map(ToString::to_string).collect();
        assert_eq!(all, ["4+2", "5+1", "3+3"]);
    }
}
