//! Whether a vault is at least as new as this machine has seen it: by the chain of its stamps.

use codec::VaultId;
use codec::fact::{Fact, Head};
use server::client::CoordinatorClient;

use crate::exit::{Exit, Failure};

/// How the head that a coordinator gives stands to the highest one seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing was seen before, or the same.
    Fine,
    /// It claims to go on from there.
    Newer,
    /// Snapshots that were seen are not in it.
    Older,
    /// It has another past.
    Other,
}

fn standing(seen: Option<Head>, given: Head) -> Standing {
    let Some(seen) = seen else { return Standing::Fine };
    match given.number.cmp(&seen.number) {
        std::cmp::Ordering::Less => Standing::Older,
        std::cmp::Ordering::Greater => Standing::Newer,
        std::cmp::Ordering::Equal if given.hash == seen.hash => Standing::Fine,
        std::cmp::Ordering::Equal => Standing::Other,
    }
}

/// Refuses a head that does not go on from the one `seen`.
pub(super) async fn check(
    vault: VaultId,
    seen: Option<Head>,
    given: Head,
    coordinator: &CoordinatorClient,
    place: &str,
) -> Result<(), Failure> {
    match (standing(seen, given), seen) {
        (Standing::Fine, _) | (_, None) => Ok(()),
        (Standing::Newer, Some(seen)) => follow(vault, seen, given, coordinator, place).await,
        (Standing::Older, Some(seen)) => Err(rolled_back(
            place,
            format!(
                "its stamps of snapshots end with number {}, this machine has seen {}",
                given.number, seen.number
            ),
        )),
        (Standing::Other, Some(seen)) => Err(rolled_back(
            place,
            format!("its stamp number {} is another than this machine has seen", seen.number),
        )),
    }
}

/// Reads the facts from `seen` to `given`, and checks that each follows the one before.
async fn follow(
    vault: VaultId,
    seen: Head,
    given: Head,
    coordinator: &CoordinatorClient,
    place: &str,
) -> Result<(), Failure> {
    let broken = |why: String| {
        let what = "its stamps do not go on from those that this machine has seen";
        rolled_back(place, format!("{what}: {why}"))
    };
    let mut head = seen;
    while head.number < given.number {
        let page = coordinator.facts(head.number).await?;
        if page.is_empty() {
            return Err(broken(format!("number {} is missing", head.number + 1)));
        }
        for bytes in page {
            let fact = Fact::peek(&bytes).map_err(|error| broken(error.to_string()))?;
            if fact.vault != vault {
                return Err(broken("they are another vault's".to_owned()));
            }
            head = head.after(&fact, &bytes).map_err(|error| broken(error.to_string()))?;
            if head.number == given.number {
                break;
            }
        }
    }
    if head == given { Ok(()) } else { Err(broken(format!("number {} differs", given.number))) }
}

fn rolled_back(place: &str, why: String) -> Failure {
    Failure::new(Exit::WrongKey, format!("the vault at {place} was rolled back"))
        .why(why)
        .why("an old copy of the catalog was put back, or somebody withholds snapshots")
        .state("nothing was read or changed")
        .next("arc catalog rebuild --merge    # the servers may know more still (a new catalog: without --merge)")
        .next("the same with --accept-rollback    # takes the vault as it is now, from here on")
}

#[cfg(test)]
mod tests {
    use codec::Digest;
    use proptest::prelude::*;

    use super::*;

    fn head(number: u64, hash: u8) -> Head {
        Head { number, hash: Digest([hash; 32]) }
    }

    #[test]
    fn only_a_head_that_is_no_older_is_fine() {
        assert_eq!(standing(None, head(0, 0)), Standing::Fine);
        assert_eq!(standing(Some(head(3, 1)), head(3, 1)), Standing::Fine);
        assert_eq!(standing(Some(head(3, 1)), head(3, 2)), Standing::Other);
        assert_eq!(standing(Some(head(3, 1)), head(2, 1)), Standing::Older);
        assert_eq!(standing(Some(head(3, 1)), Head::default()), Standing::Older);
        assert_eq!(standing(Some(head(3, 1)), head(4, 9)), Standing::Newer);
    }

    proptest! {
        #[test]
        fn two_heads_never_both_go_before(a in 0..9_u64, b in 0..9_u64, x in 0..3_u8, y in 0..3_u8) {
            let (one, two) = (head(a, x), head(b, y));
            let (there, back) = (standing(Some(one), two), standing(Some(two), one));
            let mirrored = match there {
                Standing::Newer => Standing::Older,
                Standing::Older => Standing::Newer,
                same => same,
            };
            prop_assert_eq!(back, mirrored);
        }
    }
}
