//! Points at which a process can be told to kill itself, as `kill -9` would: to see what is left
//! behind there, and that the next start goes on from it.
//!
//! A service has one list of its points, made by `points!`. The code says by them where it is, the
//! command line names and lists them.

use std::convert::Infallible;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

use crate::Error;

/// So long after its beginning something is under way.
const MOMENT: Duration = Duration::from_millis(5);

/// The points of a service.
pub trait Point: Copy + Eq + 'static {
    /// All of them, with their names.
    const ALL: &'static [(&'static str, Self)];
}

/// The list of a service's points: each with what has happened by then, and its name.
macro_rules! points {
    ($(#[$of:meta])* $vis:vis $points:ident { $($(#[$says:meta])* $point:ident = $name:literal,)* }) => {
        $(#[$of])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $points { $($(#[$says])* $point,)* }

        impl $crate::fail_point::Point for $points {
            const ALL: &'static [(&'static str, Self)] = &[$(($name, Self::$point),)*];
        }
    };
}
pub(crate) use points;

/// Where a process ends, and the how manieth time that it comes by: as text `NAME` or `NAME:NTH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailAt<P> {
    point: P,
    nth: u32,
}

impl<P: Point> FromStr for FailAt<P> {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
        let point = P::ALL.iter().find(|(known, _)| *known == name).map(|(_, point)| *point);
        match (point, nth.parse()) {
            (Some(point), Ok(nth @ 1..)) => Ok(Self { point, nth }),
            (None, _) => Err(Error::Config(format!("{name:?} is not a fail point"))),
            _ => Err(Error::Config(format!("{nth:?} is not a number from 1 on"))),
        }
    }
}

/// What was planted in a process, and how many times it still passes by.
pub(crate) struct Planted<P>(Option<(P, AtomicU32)>);

impl<P: Point> Planted<P> {
    pub(crate) fn new(fail_at: Option<FailAt<P>>) -> Self {
        Self(fail_at.map(|FailAt { point, nth }| (point, AtomicU32::new(nth))))
    }

    /// Ends the process here if that was planted: no destructor runs, nothing is flushed.
    pub(crate) fn reach(&self, point: P) {
        if let Some((planted, left)) = &self.0
            && *planted == point
            && left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            // It cannot fail, and does not come back.
            let _ = kill_process(getpid(), Signal::KILL);
            std::process::abort();
        }
    }

    /// Reaches `point` while what this is raced with is under way; never ends.
    pub(crate) async fn reach_during(&self, point: P) -> Infallible {
        if self.0.as_ref().is_some_and(|(planted, _)| *planted == point) {
            tokio::time::sleep(MOMENT).await;
            self.reach(point);
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{coordinator, storage};

    points! {
        /// Two.
        Points {
            /// The first.
            First = "first",
            /// The second.
            Second = "second-one",
        }
    }

    #[test]
    fn a_point_is_named_with_or_without_its_number() {
        let of = |text: &str| text.parse::<FailAt<Points>>().map_err(|e| e.to_string());
        assert_eq!(of("first"), Ok(FailAt { point: Points::First, nth: 1 }));
        assert_eq!(of("second-one:3"), Ok(FailAt { point: Points::Second, nth: 3 }));
        for wrong in ["", "second", "first:0", "first:", "first:-1", ":1", "first:1:1"] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_not_planted_or_not_due_is_passed_by() {
        Planted::<Points>::new(None).reach(Points::First);
        let planted = Planted::new("first:3".parse().ok());
        planted.reach(Points::Second);
        planted.reach(Points::First);
        planted.reach(Points::First);
    }

    #[test]
    fn every_name_stands_for_one_point() {
        fn names<P: Point>() -> usize {
            let names: BTreeSet<&str> = P::ALL.iter().map(|(name, _)| *name).collect();
            assert!(names.iter().all(|name| !name.is_empty() && !name.contains([':', ' ', '\n'])));
            assert_eq!(names.len(), P::ALL.len());
            names.len()
        }
        assert!(names::<coordinator::FailPoint>() > 10 && names::<storage::FailPoint>() > 10);
    }
}
