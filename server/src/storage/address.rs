//! The address of a shard, which is also the name of its file: `<stripe>.<index>`.

use std::fmt;
use std::str::FromStr;

use codec::StripeId;

use crate::wire::Code;
use crate::{Error, Result};

/// One shard of one stripe. The order is that of the inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Address {
    pub(super) stripe: StripeId,
    pub(super) index: u8,
}

impl Address {
    /// The address in a URL's last two segments.
    pub(super) fn of_segments(stripe: &str, index: &str) -> Result<Self> {
        let bad = || Error::refuse(Code::BadRequest, "not the address of a shard");
        let stripe = stripe.parse().map_err(|_| bad())?;
        let index = index.parse().map_err(|_| bad())?;
        Ok(Self { stripe, index })
    }

    /// Which of the 256 folders its file is in.
    pub(super) fn folder(&self) -> u8 {
        self.stripe.0[0]
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.stripe, self.index)
    }
}

impl FromStr for Address {
    type Err = Error;

    /// Takes only what [`Address::to_string`] gives, so that a shard has one name.
    fn from_str(name: &str) -> Result<Self> {
        let bad = || Error::refuse(Code::BadRequest, "not the name of a shard file");
        let (stripe, index) = name.split_once('.').ok_or_else(bad)?;
        let address = Self::of_segments(stripe, index)?;
        if address.to_string() == name { Ok(address) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_has_one_name() {
        let address = Address { stripe: StripeId([0xab; 32]), index: 7 };
        let name = address.to_string();
        assert_eq!(name.parse::<Address>().unwrap(), address);
        let upper = name.to_uppercase();
        let padded = name.replace(".7", ".07");
        for other in [upper.as_str(), &padded, &name[1..], "", "tmp", &format!("{name}.1")] {
            assert!(other.parse::<Address>().is_err(), "{other}");
        }
    }
}
