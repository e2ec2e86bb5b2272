//! What a push waits for most: the times of its stages, put side by side.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ui::Counters;

/// Of the time that PUTs took, so great a part was spent on the last of each stripe alone where a
/// server is what the push waits for.
const OF_ONE: f64 = 0.5;

/// The meters of one push; what they say goes to the display.
pub struct Limit {
    counters: Arc<Counters>,
    source: &'static str,
    spent: Mutex<Spent>,
}

/// Times since the push began.
#[derive(Debug, Clone, Default)]
struct Spent {
    /// The packing stage, which stands in the middle, waited for the source,
    source: Duration,
    /// for stripes before to be stored,
    stored: Duration,
    /// and for what is compressed.
    work: Duration,
    /// All was read by then.
    read: Option<Instant>,
    /// The coordinator was asked what is new,
    looked_up: Duration,
    /// and where stripes are to be placed, and to commit them.
    coordinator: Duration,
    /// They were encoded,
    encoding: Duration,
    /// and sent and stored;
    puts: Duration,
    /// of that, how much longer the last server took than those before it.
    last: BTreeMap<String, Duration>,
    /// A server that is done without, and how long.
    without: Option<(String, Instant)>,
}

impl Limit {
    /// Nothing was spent yet; `source` is what it is called.
    pub fn new(counters: Arc<Counters>, source: &'static str) -> Self {
        Self { counters, source, spent: Mutex::default() }
    }

    /// How long the packing stage waited so far: for the source, and for stripes before to be
    /// stored; and what it took besides.
    pub fn packing(&self, source: Duration, stored: Duration, work: Duration) {
        self.note(|spent| (spent.source, spent.stored, spent.work) = (source, stored, work));
    }

    /// All is read: from here on the push waits for stripes to be stored.
    pub fn read(&self) {
        self.note(|spent| spent.read = Some(Instant::now()));
    }

    /// The coordinator said in this time what is new.
    pub fn looked_up(&self, took: Duration) {
        self.note(|spent| spent.looked_up += took);
    }

    /// A stripe was encoded in this time.
    pub fn encoded(&self, took: Duration) {
        self.note(|spent| spent.encoding += took);
    }

    /// The coordinator placed or committed a stripe in this time.
    pub fn asked(&self, took: Duration) {
        self.note(|spent| spent.coordinator += took);
    }

    /// The shards of a stripe were PUT in this time, of which its last server alone took `alone`.
    pub fn put(&self, took: Duration, last: &str, alone: Duration) {
        self.note(|spent| {
            spent.puts += took;
            *spent.last.entry(last.to_owned()).or_default() += alone;
        });
    }

    /// A server's shards go to others until then.
    pub fn without(&self, server: &str, until: Instant) {
        self.note(|spent| spent.without = Some((server.to_owned(), until)));
    }

    fn note(&self, note: impl FnOnce(&mut Spent)) {
        // Times are whole after every statement.
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        note(&mut spent);
        self.counters.limited_by(spent.word(self.source, Instant::now()));
    }
}

impl Spent {
    fn word(&self, source: &str, now: Instant) -> String {
        if let Some((server, _)) = self.without.as_ref().filter(|(_, until)| now < *until) {
            return format!("network to {server} (its shards go to a spare)");
        }
        let since = self.read.map(|read| now.saturating_duration_since(read));
        let stored = self.stored + since.unwrap_or_default();
        match self.source.max(stored).max(self.work) {
            longest if longest == stored => self.storing(),
            longest if longest == self.work => "processor (compression)".to_owned(),
            longest if self.looked_up > longest / 2 => "coordinator".to_owned(),
            _ => source.to_owned(),
        }
    }

    /// What takes longest of a stripe that is stored.
    fn storing(&self) -> String {
        let longest = self.coordinator.max(self.encoding).max(self.puts);
        let last = self.last.iter().max_by_key(|(_, alone)| **alone);
        match last {
            _ if longest == Duration::ZERO => "servers and the network to them".to_owned(),
            _ if longest == self.coordinator => "coordinator".to_owned(),
            _ if longest == self.encoding => "processor (parity)".to_owned(),
            Some((server, alone)) if *alone >= self.puts.mul_f64(OF_ONE) => {
                format!("network to {server}")
            }
            _ => "servers and the network to them".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn word(spent: &Spent) -> String {
        spent.word("source disk", Instant::now())
    }

    #[test]
    fn the_longest_stage_is_what_a_push_waits_for() {
        let mut spent = Spent { source: ms(9), stored: ms(5), work: ms(8), ..Spent::default() };
        assert_eq!(word(&spent), "source disk");
        spent.looked_up = ms(5);
        assert_eq!(word(&spent), "coordinator");
        spent.work = ms(10);
        assert_eq!(word(&spent), "processor (compression)");
        spent.stored = ms(11);
        spent.encoding = ms(3);
        assert_eq!(word(&spent), "processor (parity)");
        spent.coordinator = ms(4);
        assert_eq!(word(&spent), "coordinator");
        spent.puts = ms(5);
        assert_eq!(word(&spent), "servers and the network to them");
    }

    #[test]
    fn a_server_that_all_stripes_wait_for_is_named() {
        let mut spent = Spent { stored: ms(1000), puts: ms(900), ..Spent::default() };
        spent.last = [("a".to_owned(), ms(200)), ("b".to_owned(), ms(500))].into();
        assert_eq!(word(&spent), "network to b");
        // They are last in turns: none of them is what it waits for.
        spent.last = ["a", "b", "c"].map(|name| (name.to_owned(), ms(200))).into();
        assert_eq!(word(&spent), "servers and the network to them");
    }

    #[test]
    fn when_all_is_read_the_push_waits_for_what_is_stored() {
        let now = Instant::now();
        let mut spent = Spent { work: ms(10), puts: ms(30), ..Spent::default() };
        spent.last = [("b".to_owned(), ms(20))].into();
        spent.read = Some(now);
        assert_eq!(spent.word("", now + ms(9)), "processor (compression)");
        assert_eq!(spent.word("", now + ms(11)), "network to b");
    }

    #[test]
    fn a_server_is_named_while_it_is_done_without() {
        let now = Instant::now();
        let without = Some(("b".to_owned(), now + ms(60)));
        let spent = Spent { work: ms(1), without, ..Spent::default() };
        let word = |after| spent.word("", now + after);
        assert_eq!(word(ms(59)), "network to b (its shards go to a spare)");
        assert_eq!(word(ms(60)), "processor (compression)");
    }
}
