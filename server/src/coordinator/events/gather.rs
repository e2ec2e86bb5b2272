//! Gathers what happens before it is written: what repeats itself within a minute is told once at
//! once, and then once with a count; stripes made whole are told by the minute. Pure.

use std::collections::BTreeMap;

use super::told::{Kind, Told, bytes_text, plural};

/// What happens again within this time is counted.
const MINUTE_MS: u64 = 60_000;

/// Something that happened, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::coordinator) struct Happened {
    /// When, the last time.
    pub(in crate::coordinator) at_ms: u64,
    /// How often.
    pub(in crate::coordinator) times: u32,
    /// What.
    pub(in crate::coordinator) what: Told,
}

/// What is held back, and since when.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    again: BTreeMap<(Kind, Option<String>), Again>,
    whole: Option<Whole>,
}

/// What was told of a kind and a server, and has happened again since.
#[derive(Debug)]
struct Again {
    since_ms: u64,
    held: Option<Happened>,
}

/// What was made whole.
#[derive(Debug)]
struct Whole {
    since_ms: u64,
    stripes: u64,
    bytes: u64,
}

impl Gathered {
    /// What is to be written now of something that happened now.
    pub(super) fn add(&mut self, what: Told, now_ms: u64) -> Option<Happened> {
        let happened = Happened { at_ms: now_ms, times: 1, what };
        if !happened.what.kind.is_observed() {
            return Some(happened);
        }
        let key = (happened.what.kind, happened.what.server.clone());
        match self.again.get_mut(&key) {
            None => {
                self.again.insert(key, Again { since_ms: now_ms, held: None });
                Some(happened)
            }
            Some(again) => {
                let times = again.held.as_ref().map_or(0, |held| held.times).saturating_add(1);
                again.held = Some(Happened { times, ..happened });
                None
            }
        }
    }

    /// Counts a stripe that was made whole, and the bytes made for it.
    pub(super) fn whole(&mut self, bytes: u64, now_ms: u64) {
        let whole = self.whole.get_or_insert(Whole { since_ms: now_ms, stripes: 0, bytes: 0 });
        whole.stripes += 1;
        whole.bytes += bytes;
    }

    /// What was held back for a minute, in the order in which it happened.
    pub(super) fn due(&mut self, now_ms: u64) -> Vec<Happened> {
        self.take(now_ms, |since_ms| now_ms.saturating_sub(since_ms) >= MINUTE_MS)
    }

    /// All that is held back.
    pub(super) fn rest(&mut self, now_ms: u64) -> Vec<Happened> {
        self.take(now_ms, |_| true)
    }

    fn take(&mut self, now_ms: u64, is_over: impl Fn(u64) -> bool) -> Vec<Happened> {
        let mut due = Vec::new();
        self.again.retain(|_, again| {
            if !is_over(again.since_ms) {
                return true;
            }
            // What goes on goes on being held back: one row a minute.
            again.since_ms = now_ms;
            let held = again.held.take();
            let goes_on = held.is_some();
            due.extend(held);
            goes_on
        });
        if let Some(Whole { stripes, bytes, .. }) = self.whole.take_if(|w| is_over(w.since_ms)) {
            let text = format!("{} made whole, {}", plural(stripes, "stripe"), bytes_text(bytes));
            due.push(Happened { at_ms: now_ms, times: 1, what: Told::of(Kind::Whole, text) });
        }
        due.sort_by_key(|happened| happened.at_ms);
        due
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(kind: Kind, server: &str, text: &str) -> Told {
        Told::of(kind, text.to_owned()).on(server)
    }

    #[test]
    fn a_server_that_flaps_is_told_once_and_then_once_a_minute_with_a_count() {
        let mut gathered = Gathered::default();
        let mut at_once = Vec::new();
        for n in 0..600 {
            let kind = if n % 2 == 0 { Kind::Suspect } else { Kind::Up };
            at_once.extend(gathered.add(told(kind, "c", &n.to_string()), n * 100));
        }
        assert_eq!(at_once.len(), 2);
        assert_eq!(gathered.due(59_999), []);
        let due = gathered.due(60_100);
        let of = |h: &Happened| (h.what.kind, h.what.text.clone(), h.times, h.at_ms);
        assert_eq!(
            due.iter().map(of).collect::<Vec<_>>(),
            [
                (Kind::Suspect, "598".to_owned(), 299, 59_800),
                (Kind::Up, "599".to_owned(), 299, 59_900)
            ]
        );
        assert_eq!(gathered.add(told(Kind::Up, "c", "x"), 60_200), None, "it still flaps");
        assert!(gathered.add(told(Kind::Up, "d", "x"), 60_200).is_some(), "another server");
        assert_eq!(gathered.due(121_000).len(), 1);
        assert_eq!(gathered.due(190_000), [], "and was calm for a minute");
        assert!(gathered.add(told(Kind::Up, "c", "x"), 190_001).is_some());
    }

    #[test]
    fn what_people_do_is_told_each_time() {
        let mut gathered = Gathered::default();
        for n in 0..3 {
            let mode = gathered.add(told(Kind::Mode, "c", "draining"), n);
            assert_eq!(mode.map(|happened| happened.times), Some(1));
        }
        assert_eq!(gathered.rest(9), []);
    }

    #[test]
    fn stripes_made_whole_are_one_row_a_minute() {
        let mut gathered = Gathered::default();
        (0..214).for_each(|n| gathered.whole(6 << 20, 5 + n));
        assert_eq!(gathered.due(60_000), []);
        let due = gathered.due(60_005);
        assert_eq!(due[0].what.text, "214 stripes made whole, 1.3 GiB");
        assert_eq!(gathered.rest(60_006), []);
    }

    proptest! {
        #[test]
        fn nothing_is_forgotten_and_no_kind_has_more_than_two_rows_a_minute(
            steps in prop::collection::vec((0u64..5000, 0u8..3), 1..400),
        ) {
            let mut gathered = Gathered::default();
            let (mut now_ms, mut rows) = (0, Vec::new());
            for (wait, server) in &steps {
                now_ms += wait;
                rows.extend(gathered.due(now_ms));
                rows.extend(gathered.add(told(Kind::Suspect, &server.to_string(), ""), now_ms));
            }
            rows.extend(gathered.rest(now_ms));
            let times: u32 = rows.iter().map(|row| row.times).sum();
            prop_assert_eq!(times as usize, steps.len());
            for server in 0..3u8 {
                let of = rows.iter().filter(|r| r.what.server == Some(server.to_string()));
                let most = 2 + 2 * (now_ms / MINUTE_MS) as usize;
                prop_assert!(of.count() <= most);
            }
        }
    }
}
