//! How much of its disk's size a server counts for where shards are placed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A factor on a server's capacity, in hundredths, from 0.01 to 100. JSON has the factor itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Weight(u32);

impl Weight {
    /// Of whom nothing else is said.
    pub const ONE: Self = Self(100);
    /// The bounds, in hundredths.
    const HUNDREDTHS: std::ops::RangeInclusive<u32> = 1..=10_000;

    /// The factor.
    pub fn factor(self) -> f64 {
        f64::from(self.0) / 100.0
    }

    /// The factor in hundredths.
    pub fn hundredths(self) -> u32 {
        self.0
    }

    /// Whether it is 1.
    pub fn is_one(&self) -> bool {
        *self == Self::ONE
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self::ONE
    }
}

impl TryFrom<u32> for Weight {
    type Error = String;

    fn try_from(hundredths: u32) -> Result<Self, String> {
        match Self::HUNDREDTHS.contains(&hundredths) {
            true => Ok(Self(hundredths)),
            false => Err(format!("a weight of {hundredths} hundredths is not from 0.01 to 100")),
        }
    }
}

impl TryFrom<f64> for Weight {
    type Error = String;

    fn try_from(factor: f64) -> Result<Self, String> {
        let hundredths = (factor * 100.0).round();
        if (factor * 100.0 - hundredths).abs() < 1e-6 {
            // A cast keeps to the bounds, which are checked.
            return Self::try_from(hundredths as u32);
        }
        Err(format!("{factor} is not a weight in hundredths"))
    }
}

impl From<Weight> for f64 {
    fn from(weight: Weight) -> Self {
        weight.factor()
    }
}

/// `2`, `0.5`, `1.25`.
impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 100, self.0 % 100);
        match (rest, rest % 10) {
            (0, _) => write!(f, "{whole}"),
            (_, 0) => write!(f, "{whole}.{}", rest / 10),
            _ => write!(f, "{whole}.{rest:02}"),
        }
    }
}

impl FromStr for Weight {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a weight from 0.01 to 100, such as 2 or 0.5");
        let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
        if !digits(whole) || !digits(rest) || rest.len() > 2 {
            return Err(bad());
        }
        let whole: u32 = whole.parse().map_err(|_| bad())?;
        let hundredths: u32 = format!("{rest:0<2}").parse().map_err(|_| bad())?;
        let all = whole.checked_mul(100).and_then(|whole| whole.checked_add(hundredths));
        Self::try_from(all.ok_or_else(bad)?).map_err(|_| bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_as_they_are_written() {
        for hundredths in Weight::HUNDREDTHS {
            let weight = Weight::try_from(hundredths).unwrap();
            assert_eq!(weight.to_string().parse(), Ok(weight));
            let json = serde_json::to_string(&weight).unwrap();
            assert_eq!(serde_json::from_str::<Weight>(&json).unwrap(), weight);
        }
        let text = |text: &str| text.parse::<Weight>().map(Weight::hundredths);
        assert_eq!(
            ["1", "0.5", "1.25", "100", "0.01"].map(text),
            [Ok(100), Ok(50), Ok(125), Ok(10_000), Ok(1)]
        );
        for bad in
            ["", "0", "0.00", "-1", "+1", "100.01", "0.001", "1.", ".5", "1e2", "NaN", "9999999999"]
        {
            assert!(text(bad).is_err(), "{bad}");
        }
        assert_eq!(serde_json::to_string(&Weight::try_from(150).unwrap()).unwrap(), "1.5");
        for bad in ["0", "-1", "100.01", "0.001", "1e300", "null"] {
            assert!(serde_json::from_str::<Weight>(bad).is_err(), "{bad}");
        }
    }
}
