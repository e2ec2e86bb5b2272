//! One page of a server's inventory beside the map's part of the same range: what they agree on,
//! and what has to be looked at.

use std::collections::BTreeMap;

use codec::StripeId;

use crate::coordinator::catalog::{Condition, Mapped};
use crate::wire::{Counts, InventoryRow};

/// What a page and the map come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sorted {
    /// Shards of the map that the server says the same of.
    pub(super) agreed: Counts,
    /// Shards of the map that the server says otherwise of, and has not.
    pub(super) absent: Vec<Mapped>,
    /// The same, that it has.
    pub(super) present: Vec<Mapped>,
    /// Shards that the map does not have on this server.
    pub(super) strangers: Vec<(StripeId, u8)>,
}

/// Sorts what a server says, and the map has, of the same addresses.
pub(super) fn sort(mapped: &[Mapped], rows: &[InventoryRow]) -> Sorted {
    let mut sorted = Sorted::default();
    let mut held: BTreeMap<(StripeId, u8), bool> =
        rows.iter().map(|row| ((row.stripe, row.index), row.damaged.is_some())).collect();
    for &mapped in mapped {
        match (mapped.condition, held.remove(&(mapped.stripe, mapped.index))) {
            (Condition::Good, Some(false)) => sorted.agreed.good += 1,
            (Condition::Damaged, Some(true)) => sorted.agreed.damaged += 1,
            (Condition::Missing, None) => sorted.agreed.missing += 1,
            (_, None) => sorted.absent.push(mapped),
            (_, Some(_)) => sorted.present.push(mapped),
        }
    }
    sorted.strangers = held.into_keys().collect();
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_agrees_is_counted_and_all_else_is_looked_at() {
        use Condition::{Damaged, Good, Missing};
        let stripe = |n| StripeId([n; 32]);
        let mapped = |n, condition| Mapped { stripe: stripe(n), index: 0, condition, version: 7 };
        let row = |n, index, bad: bool| InventoryRow {
            stripe: stripe(n),
            index,
            file_bytes: 1,
            damaged: bad.then(|| "why".to_owned()),
        };
        let map = [
            mapped(1, Good),
            mapped(2, Good),
            mapped(3, Good),
            mapped(4, Damaged),
            mapped(5, Damaged),
            mapped(6, Damaged),
            mapped(7, Missing),
            mapped(8, Missing),
            mapped(9, Missing),
        ];
        let page = [
            row(1, 0, false),
            row(1, 1, false),
            row(2, 0, true),
            row(4, 0, true),
            row(5, 0, false),
            row(8, 0, false),
            row(9, 0, true),
            row(10, 0, true),
        ];
        let sorted = sort(&map, &page);
        let agreed = Counts { good: 1, damaged: 1, missing: 1, ..Counts::default() };
        assert_eq!(sorted.agreed, agreed);
        assert_eq!(sorted.absent, [map[2], map[5]]);
        assert_eq!(sorted.present, [map[1], map[4], map[7], map[8]]);
        assert_eq!(sorted.strangers, [(stripe(1), 1), (stripe(10), 0)]);
    }
}
