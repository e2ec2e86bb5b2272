//! Drawing lots: parts at random that together make a share of all bytes. Pure.

use std::str::FromStr;

/// The share of `oldest` where none is given: in 30 days it comes to all.
const OLDEST: Share = Share(1_000_000 / 30 + 1);

/// A share of all, in millionths: more than none, at most all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    /// This many percent, 1 to 100.
    pub const fn percent(percent: u32) -> Self {
        Self(percent * 10_000)
    }

    /// So much of `bytes`, rounded up.
    pub fn of(self, bytes: u64) -> u64 {
        let share = (u128::from(bytes) * u128::from(self.0)).div_ceil(1_000_000);
        // A share is no more than all of it.
        u64::try_from(share).unwrap_or(bytes)
    }

    fn is_all(self) -> bool {
        self.0 == 1_000_000
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no share such as 5% or 0.5%, at most 100%");
        let percent: f64 = text.strip_suffix('%').ok_or_else(bad)?.parse().map_err(|_| bad())?;
        // Not a number is in no range.
        if !(0.0001..=100.0).contains(&percent) {
            return Err(bad());
        }
        Ok(Self((percent * 10_000.0).round() as u32))
    }
}

/// Which part of all is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subset {
    /// So much of it, at random.
    Random(Share),
    /// So much of it, what was looked at longest ago first.
    Oldest(Share),
}

impl FromStr for Subset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("oldest") {
            None => text.parse().map(Self::Random).map_err(|error| format!("{error}; or oldest")),
            Some("") => Ok(Self::Oldest(OLDEST)),
            Some(rest) => {
                let share = rest.strip_prefix(':').ok_or("it is oldest, or oldest:5%")?;
                share.parse().map(Self::Oldest)
            }
        }
    }
}

/// Takes parts as they come by, each byte with the same chance, until they make the share. If no
/// other was taken in the end, one is left that was drawn from all.
#[derive(Debug)]
pub struct Draw<T> {
    takes_all: bool,
    took: bool,
    left_bytes: u64,
    wanted_bytes: u64,
    seen_bytes: u64,
    spare: Option<T>,
}

impl<T> Draw<T> {
    /// Of parts with `bytes` in all.
    pub fn new(share: Share, bytes: u64) -> Self {
        Self {
            takes_all: share.is_all(),
            took: false,
            left_bytes: bytes,
            wanted_bytes: share.of(bytes),
            seen_bytes: 0,
            spare: None,
        }
    }

    /// Gives `part` back if it is taken; `dice` are any numbers.
    pub fn offer(&mut self, part: T, bytes: u64, dice: &mut impl FnMut() -> u64) -> Option<T> {
        let wins = |chances: u64, of: u64, number: u64| {
            (u128::from(number) * u128::from(of)) >> 64 < u128::from(chances)
        };
        let takes = self.takes_all || wins(self.wanted_bytes, self.left_bytes, dice());
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
        if takes {
            self.wanted_bytes = self.wanted_bytes.saturating_sub(bytes);
            (self.took, self.spare) = (true, None);
            return Some(part);
        }
        if !self.took {
            self.seen_bytes = self.seen_bytes.saturating_add(bytes);
            if self.spare.is_none() || wins(bytes, self.seen_bytes, dice()) {
                self.spare = Some(part);
            }
        }
        None
    }

    /// The one that is taken where no other was.
    pub fn rest(self) -> Option<T> {
        self.spare
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_and_subsets_are_read() {
        let subset = |text: &str| text.parse::<Subset>().ok();
        assert_eq!(subset("5%"), Some(Subset::Random(Share::percent(5))));
        assert_eq!(subset("100%"), Some(Subset::Random(Share::percent(100))));
        assert_eq!(subset("0.5%"), Some(Subset::Random(Share(5_000))));
        assert_eq!(subset("oldest"), Some(Subset::Oldest(OLDEST)));
        assert_eq!(subset("oldest:20%"), Some(Subset::Oldest(Share::percent(20))));
        for text in ["", "5", "0%", "101%", "-1%", "NaN%", "oldest5%", "oldest:", "newest"] {
            assert_eq!(subset(text), None, "{text}");
        }
        assert_eq!(Share::percent(5).of(u64::MAX), u64::MAX.div_ceil(20));
        assert!(OLDEST.of(3_000) * 30 >= 3_000);
    }

    proptest! {
        #[test]
        fn what_is_drawn_misses_the_share_by_less_than_the_largest_part(
            parts in proptest::collection::vec(0..10_000_u64, 1..200),
            percent in 1..=100_u32,
            dice in proptest::collection::vec(any::<u64>(), 400),
        ) {
            let all: u64 = parts.iter().sum();
            let mut dice = dice.into_iter().cycle();
            let mut next = || dice.next().unwrap();
            let share = Share::percent(percent);
            let mut draw = Draw::new(share, all);
            let mut taken = Vec::new();
            for (number, bytes) in parts.iter().enumerate() {
                taken.extend(draw.offer(number, *bytes, &mut next));
            }
            let none = taken.is_empty();
            let rest = draw.rest();
            prop_assert_eq!(rest.is_some(), none, "one is taken in any case, and none twice");
            let bytes: u64 = taken.iter().map(|&number| parts[number]).sum();
            let largest = parts.iter().max().unwrap();
            prop_assert!(bytes.abs_diff(share.of(all)) <= *largest);
            if percent == 100 {
                prop_assert_eq!(taken.len(), parts.len());
            }
        }
    }
}
