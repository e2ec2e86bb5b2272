//! What share of the stripes each server should hold, and the weights that bring it about.
//!
//! Rendezvous hashing with weights v takes the n first arrivals of exponential clocks of rates v.
//! A server of twice the weight does not hold twice the stripes then: it cannot hold one twice.
//! So the rates are solved for the shares that are wanted.

/// Steps of the integral over the clocks' time; more change the shares by less than 1e-4.
const STEPS: usize = 400;
/// Shares are met to this fraction, or as well as so many rounds can.
const PRECISION: f64 = 1e-4;
const ROUNDS_MAX: usize = 60;

/// The share of all stripes of `n` shards that each server should hold, of servers of these
/// capacities: in proportion, but never more than every stripe; what one cannot take the others do.
pub(super) fn targets(capacities: &[f64], n: usize) -> Vec<f64> {
    let mut shares = vec![1.0; capacities.len()];
    let mut open: Vec<usize> = (0..capacities.len()).collect();
    let mut left = n as f64;
    while open.len() as f64 > left {
        let sum: f64 = open.iter().map(|&i| capacities[i]).sum();
        let share = |i: usize| left * capacities[i] / sum;
        let (full, rest): (Vec<_>, Vec<_>) = open.iter().partition(|&&i| share(i) >= 1.0);
        if full.is_empty() {
            open.iter().for_each(|&i| shares[i] = share(i));
            break;
        }
        left -= full.len() as f64;
        open = rest;
    }
    shares
}

/// The rates at which the first `n` arrivals are each server's `targets` share of the time.
/// Infinite for a server that holds a shard of every stripe.
pub(super) fn rates(targets: &[f64], n: usize) -> Vec<f64> {
    let is_open = |target: f64| target < 1.0;
    let open: Vec<f64> = targets.iter().copied().filter(|&t| is_open(t)).collect();
    let drawn = n.saturating_sub(targets.len() - open.len());
    // That of a clock which rings by time 1 with this probability: near the answer, and the
    // way from an error in a share back to one in its rate.
    let rate = |share: f64| -(-share).ln_1p();
    let mut rates: Vec<f64> = open.iter().map(|&target| rate(target)).collect();
    for _ in 0..ROUNDS_MAX {
        let shares = shares(&rates, drawn);
        let off = |(share, target): (&f64, &f64)| (share / target - 1.0).abs();
        if shares.iter().zip(&open).map(off).fold(0.0, f64::max) < PRECISION {
            break;
        }
        for ((v, share), target) in rates.iter_mut().zip(&shares).zip(&open) {
            *v *= rate(*target) / rate(share.min(1.0 - f64::EPSILON));
        }
    }
    let mut solved = rates.into_iter();
    let of = |&target: &f64| {
        if is_open(target) { solved.next().unwrap_or(f64::INFINITY) } else { f64::INFINITY }
    };
    targets.iter().map(of).collect()
}

/// How often each of these clocks is among the first `n` to ring: the integral over the time at
/// which it rings of the probability that fewer than `n` others have rung by then.
fn shares(rates: &[f64], n: usize) -> Vec<f64> {
    let mut shares = vec![0.0; rates.len()];
    if n == 0 {
        return shares;
    }
    let time = |x: f64| x / (1.0 - x);
    for step in 0..STEPS {
        let at = |x: f64| x / STEPS as f64;
        let (from, middle) = (time(at(step as f64)), time(at(step as f64 + 0.5)));
        let to = if step + 1 == STEPS { f64::INFINITY } else { time(at(step as f64 + 1.0)) };
        let rung: Vec<f64> = rates.iter().map(|v| -(-v * middle).exp_m1()).collect();
        for ((share, v), few) in shares.iter_mut().zip(rates).zip(fewer_others(&rung, n)) {
            *share += ((-v * from).exp() - (-v * to).exp()) * few;
        }
    }
    shares
}

/// For each of some events of these probabilities: how likely fewer than `n` of the others are.
fn fewer_others(events: &[f64], n: usize) -> Vec<f64> {
    // How many of the events after each one happen, up to n - 1.
    let mut after = vec![counts(n)];
    for p in events.iter().rev() {
        let mut next = after[after.len() - 1].clone();
        add_event(&mut next, *p);
        after.push(next);
    }
    after.pop();
    let mut before = counts(n);
    let mut few = Vec::with_capacity(events.len());
    for p in events {
        let Some(mut after) = after.pop() else { break };
        (1..n).for_each(|i| after[i] += after[i - 1]);
        few.push((0..n).map(|i| before[i] * after[n - 1 - i]).sum());
        add_event(&mut before, *p);
    }
    few
}

/// No event: none happens for sure.
fn counts(n: usize) -> Vec<f64> {
    let mut counts = vec![0.0; n];
    counts[0] = 1.0;
    counts
}

fn add_event(counts: &mut [f64], p: f64) {
    for i in (0..counts.len()).rev() {
        let one_less = if i > 0 { counts[i - 1] } else { 0.0 };
        counts[i] = counts[i] * (1.0 - p) + one_less * p;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn targets_are_in_proportion_and_never_above_one() {
        assert_eq!(targets(&[1.0, 1.0, 2.0], 2), [0.5, 0.5, 1.0]);
        assert_eq!(targets(&[1.0, 1.0, 8.0], 2), [0.5, 0.5, 1.0], "it cannot hold two");
        assert_eq!(targets(&[1.0, 2.0], 6), [1.0, 1.0]);
        assert!(targets(&[], 6).is_empty());
        assert_eq!(targets(&[4.0, 2.0, 1.0, 1.0], 2), [1.0, 0.5, 0.25, 0.25]);
    }

    #[test]
    fn rates_of_equal_servers_are_equal() {
        let rates = rates(&targets(&[3.0; 9], 6), 6);
        assert!(rates.iter().all(|v| (v / rates[0] - 1.0).abs() < 1e-9), "{rates:?}");
        assert_eq!(super::rates(&[1.0, 1.0], 6), [f64::INFINITY; 2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn solved_rates_give_the_targets(
            capacities in prop::collection::vec(1.0_f64..16.0, 2..40), n in 1_usize..20,
        ) {
            let targets = targets(&capacities, n);
            let sum: f64 = targets.iter().sum();
            prop_assert!((sum - n.min(capacities.len()) as f64).abs() < 1e-9);
            let rates = rates(&targets, n);
            let open: Vec<usize> = (0..targets.len()).filter(|&i| rates[i].is_finite()).collect();
            let drawn = n.saturating_sub(targets.len() - open.len());
            let some: Vec<f64> = open.iter().map(|&i| rates[i]).collect();
            for (share, &i) in shares(&some, drawn).iter().zip(&open) {
                prop_assert!((share / targets[i] - 1.0).abs() < 1e-3, "{share} {}", targets[i]);
            }
        }
    }
}
