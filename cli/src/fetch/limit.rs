//! What reading waits for most: the times of its steps, put side by side.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::ui::Counters;

/// Of the time that servers took, so great a part is that of one where it is what reading waits for.
const OF_ONE: f64 = 0.5;

/// The meters of one reader; what they say goes to the display.
pub(super) struct Limit {
    counters: Arc<Counters>,
    spent: Mutex<Spent>,
}

/// Times of all spans together: many are under way at once.
#[derive(Debug, Clone, Default)]
struct Spent {
    /// The coordinator said where chunks are.
    locating: Duration,
    /// Spans were read,
    reading: Duration,
    /// of that, what each server took;
    servers: BTreeMap<String, Duration>,
    /// then they were opened, and made into what is wanted.
    opening: Duration,
    /// A server that others are read for, and how long.
    without: Option<(String, Instant)>,
}

impl Limit {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self { counters, spent: Mutex::default() }
    }

    /// The coordinator said in this time where chunks are.
    pub(super) fn located(&self, took: Duration) {
        self.note(|spent| spent.locating += took);
    }

    /// A span came in this time.
    pub(super) fn read(&self, took: Duration) {
        self.note(|spent| spent.reading += took);
    }

    /// A server gave its part of one in this time.
    pub(super) fn gave(&self, server: &str, took: Duration) {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        match spent.servers.get_mut(server) {
            Some(sum) => *sum += took,
            None => drop(spent.servers.insert(server.to_owned(), took)),
        }
    }

    /// A span was opened in this time.
    pub(super) fn opened(&self, took: Duration) {
        self.note(|spent| spent.opening += took);
    }

    /// Others are read in the server's stead until then.
    pub(super) fn without(&self, server: &str, until: Instant) {
        self.note(|spent| spent.without = Some((server.to_owned(), until)));
    }

    fn note(&self, note: impl FnOnce(&mut Spent)) {
        // Times are whole after every statement.
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        note(&mut spent);
        self.counters.limited_by(spent.word(Instant::now()));
    }
}

impl Spent {
    fn word(&self, now: Instant) -> String {
        if let Some((server, _)) = self.without.as_ref().filter(|(_, until)| now < *until) {
            return format!("network to {server} (others are read in its stead)");
        }
        match self.locating.max(self.reading).max(self.opening) {
            longest if longest == self.opening => "processor (decompression)".to_owned(),
            longest if longest == self.locating => "coordinator".to_owned(),
            _ => self.servers(),
        }
    }

    fn servers(&self) -> String {
        let all: Duration = self.servers.values().sum();
        match self.servers.iter().max_by_key(|(_, took)| **took) {
            Some((server, took)) if self.servers.len() > 1 && *took >= all.mul_f64(OF_ONE) => {
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

    #[test]
    fn the_longest_step_is_what_reading_waits_for() {
        let now = Instant::now();
        let mut spent = Spent { reading: ms(2), opening: ms(3), ..Spent::default() };
        assert_eq!(spent.word(now), "processor (decompression)");
        spent.locating = ms(4);
        assert_eq!(spent.word(now), "coordinator");
        spent.reading = ms(5);
        spent.servers = ["a", "b", "c"].map(|name| (name.to_owned(), ms(2))).into();
        assert_eq!(spent.word(now), "servers and the network to them");
        spent.servers.insert("b".to_owned(), ms(4));
        assert_eq!(spent.word(now), "network to b");
    }

    #[test]
    fn a_server_is_named_while_others_are_read_in_its_stead() {
        let now = Instant::now();
        let without = Some(("b".to_owned(), now + ms(60)));
        let spent = Spent { opening: ms(3), without, ..Spent::default() };
        assert_eq!(spent.word(now + ms(59)), "network to b (others are read in its stead)");
        assert_eq!(spent.word(now + ms(60)), "processor (decompression)");
    }
}
