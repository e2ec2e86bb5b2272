//! How fast repair is, and when it will be through: by what was counted in the last minute.

use std::collections::VecDeque;
use std::time::Duration;

/// What is looked back on.
const WINDOW: Duration = Duration::from_secs(60);
/// Fewer stripes, or less time, say nothing.
const DECLINE_MIN: u64 = 4;
const SPAN_MIN: Duration = Duration::from_secs(3);

/// What was counted at one time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Duration,
    made_bytes: u64,
    left: u64,
}

/// The last minute of a repair.
#[derive(Debug, Default)]
pub(super) struct Forecast {
    samples: VecDeque<Sample>,
}

impl Forecast {
    /// Takes note of the bytes made so far and the stripes left.
    pub(super) fn update(&mut self, at: Duration, made_bytes: u64, left: u64) {
        if let Some(last) = self.samples.back()
            // The coordinator was started anew, or more was lost: what was before says nothing.
            && (made_bytes < last.made_bytes || left > last.left)
        {
            self.samples.clear();
        }
        self.samples.push_back(Sample { at, made_bytes, left });
        while self.samples.front().is_some_and(|first| at.saturating_sub(first.at) > WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Bytes made in a second.
    pub(super) fn bytes_per_second(&self) -> u64 {
        let Some((first, last, span)) = self.span() else { return 0 };
        ((last.made_bytes - first.made_bytes) as f64 / span.as_secs_f64()) as u64
    }

    /// How long until nothing is left, and how far off that may be; none while too little is known.
    pub(super) fn whole_again(&self) -> Option<(Duration, Duration)> {
        let (first, last, span) = self.span()?;
        let decline = first.left - last.left;
        if last.left == 0 || decline < DECLINE_MIN || span < SPAN_MIN {
            return None;
        }
        let time = span.as_secs_f64() * last.left as f64 / decline as f64;
        // So far off is a count of what comes by chance.
        let off = time / (decline as f64).sqrt();
        Some((Duration::try_from_secs_f64(time).ok()?, Duration::try_from_secs_f64(off).ok()?))
    }

    fn span(&self) -> Option<(Sample, Sample, Duration)> {
        let (first, last) = (*self.samples.front()?, *self.samples.back()?);
        let span = last.at.saturating_sub(first.at);
        (!span.is_zero()).then_some((first, last, span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(samples: &[(u64, u64, u64)]) -> Forecast {
        let mut forecast = Forecast::default();
        for &(seconds, made_bytes, left) in samples {
            forecast.update(Duration::from_secs(seconds), made_bytes, left);
        }
        forecast
    }

    #[test]
    fn a_steady_repair_ends_when_it_says() {
        let steady: Vec<_> = (0..=100).map(|n| (n, n * 1000, 500 - 4 * n)).collect();
        let forecast = after(&steady);
        assert_eq!(forecast.bytes_per_second(), 1000);
        let (time, off) = forecast.whole_again().unwrap();
        // 100 are left at 4 a second; 240 went in the last minute.
        assert_eq!(time, Duration::from_secs(25));
        assert!((1.6..1.7).contains(&off.as_secs_f64()), "{off:?}");
    }

    #[test]
    fn too_little_says_nothing() {
        assert!(after(&[]).whole_again().is_none());
        assert!(after(&[(0, 0, 10)]).whole_again().is_none());
        assert!(after(&[(0, 0, 10), (9, 0, 7)]).whole_again().is_none(), "three stripes");
        assert!(after(&[(0, 0, 10), (2, 0, 2)]).whole_again().is_none(), "two seconds");
        assert!(after(&[(0, 0, 10), (9, 0, 0)]).whole_again().is_none(), "through");
        assert!(after(&[(0, 0, 10), (9, 0, 2)]).whole_again().is_some());
        assert_eq!(after(&[(5, 7, 0), (5, 9, 0)]).bytes_per_second(), 0);
    }

    #[test]
    fn another_loss_or_another_start_begins_anew() {
        let more = after(&[(0, 0, 100), (9, 900, 50), (10, 1000, 500), (14, 1040, 490)]);
        assert_eq!(more.bytes_per_second(), 10);
        assert_eq!(more.whole_again().unwrap().0, Duration::from_secs(4 * 49));
        assert_eq!(after(&[(0, 5000, 9), (3, 0, 9), (5, 200, 8)]).bytes_per_second(), 100);
    }
}
