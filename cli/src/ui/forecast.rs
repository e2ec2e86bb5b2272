//! How long what is left will take, by how fast and how evenly the rest went.

use std::time::Duration;

/// Spans whose rates are compared.
const SPANS_MAX: usize = 16;
/// Fewer say nothing of how even it goes.
const SPANS_MIN: usize = 3;
/// The shortest span.
const SPAN: Duration = Duration::from_millis(500);

/// What was done when.
#[derive(Debug, Clone)]
pub struct Forecast {
    /// Times and what was done by then; the first one is the beginning.
    marks: Vec<(Duration, u64)>,
    span: Duration,
}

impl Default for Forecast {
    fn default() -> Self {
        Self { marks: vec![(Duration::ZERO, 0)], span: SPAN }
    }
}

impl Forecast {
    /// Notes that `done` were done `at` that long after the beginning.
    pub fn note(&mut self, at: Duration, done: u64) {
        if self.marks.last().is_some_and(|(last, _)| at.saturating_sub(*last) < self.span) {
            return;
        }
        self.marks.push((at, done));
        if self.marks.len() > SPANS_MAX {
            // Every second one, the first included: spans of twice the length.
            let mut nth = 0;
            self.marks.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
            self.span *= 2;
        }
    }

    /// How long `left` more take, and how far off that may be: twice the deviation that the rates
    /// so far let expect. None while nothing is known.
    pub fn ends_in(&self, left: u64) -> Option<(Duration, Duration)> {
        let spans: Vec<(f64, f64)> = self
            .marks
            .windows(2)
            .map(|pair| {
                let [(from, before), (to, after)] = pair else { return (0.0, 0.0) };
                ((*to - *from).as_secs_f64(), after.saturating_sub(*before) as f64)
            })
            .collect();
        let (seconds, done) = spans.iter().fold((0.0, 0.0), |sum, s| (sum.0 + s.0, sum.1 + s.1));
        if spans.len() < SPANS_MIN || seconds <= 0.0 || done <= 0.0 {
            return None;
        }
        let rate = done / seconds;
        let squares = spans.iter().map(|(span, done)| span * (done / span - rate).powi(2));
        let deviation = (squares.sum::<f64>() / seconds).sqrt() / rate;
        let eta = left as f64 / rate;
        let spans = spans.len() as f64;
        // Of the rate that was measured, and of the spans to come.
        let off = (eta.powi(2) / spans + eta * seconds / spans).sqrt() * deviation;
        let longest = 100.0 * 86_400.0;
        let text = |seconds: f64| Duration::from_secs_f64(seconds.min(longest));
        (eta < longest).then(|| (text(eta), text(2.0 * off)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn after(rates: &[u64]) -> Forecast {
        let (mut forecast, mut done) = (Forecast::default(), 0);
        for (at, rate) in (1..).zip(rates) {
            done += rate;
            forecast.note(seconds(at), done);
        }
        forecast
    }

    #[test]
    fn an_even_rate_is_sure_and_an_uneven_one_is_not() {
        assert_eq!(after(&[10, 10]).ends_in(100), None, "too early");
        assert_eq!(after(&[0; 9]).ends_in(100), None, "nothing was done");
        assert_eq!(after(&[10; 100]).ends_in(50), Some((seconds(5), seconds(0))));
        let off = |rates: &[u64]| after(rates).ends_in(1000).unwrap().1;
        let (calm, wild) = (off(&[9, 11, 9, 11, 9, 11]), off(&[1, 19, 1, 19, 1, 19]));
        assert!(seconds(0) < calm && calm < wild, "{calm:?} {wild:?}");
    }

    proptest! {
        #[test]
        fn whatever_was_done_it_says_a_time_or_none(
            rates in prop::collection::vec(0..1_000_000_u64, 0..200),
            left in any::<u64>(),
        ) {
            let forecast = after(&rates);
            prop_assert!(forecast.marks.len() <= SPANS_MAX + 1);
            if let Some((eta, _)) = forecast.ends_in(left) {
                prop_assert!(left > 0 || eta.is_zero());
            }
        }
    }
}
