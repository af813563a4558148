//! What came of connecting once, and of connecting many times.

use std::time::Duration;

use serde::Serialize;

use super::observed::Observed;

/// One connect. The times are the slower side's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// Until it sends data that it is given.
    pub(super) works: Option<Duration>,
    /// Until it has a nominated pair.
    pub(super) nominated: Option<Duration>,
    /// Checks that both sent until then, repetitions included.
    pub(super) checks: u32,
    /// The least time between two new transactions of one agent.
    pub(super) least_gap: Option<Duration>,
    /// How many transactions one agent was ahead of one every 5 ms.
    pub(super) ahead: usize,
}

impl Outcome {
    pub(super) fn new(
        works: Option<Duration>,
        nominated: Option<Duration>,
        sides: &[Observed; 2],
    ) -> Outcome {
        Outcome {
            works,
            nominated,
            checks: sides.iter().map(|side| side.sent).sum(),
            least_gap: sides.iter().filter_map(Observed::least_gap).min(),
            ahead: sides.iter().map(Observed::ahead).max().unwrap_or(0),
        }
    }
}

/// Many connects: times in milliseconds, the median and what nine of ten stay below.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Summary {
    pub(super) runs: usize,
    /// Of these, how many never connected. They count as the slowest.
    pub(super) failed: usize,
    pub(super) works: Spread,
    pub(super) nominated: Spread,
    /// The median.
    pub(super) checks: u32,
    /// In milliseconds, over all runs.
    pub(super) least_gap: f64,
    /// The median.
    pub(super) ahead: usize,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) p90: f64,
}

impl Summary {
    pub(super) fn of(outcomes: &[Outcome]) -> Summary {
        let checks = outcomes.iter().map(|outcome| outcome.checks).collect();
        let ahead = outcomes.iter().map(|outcome| outcome.ahead).collect();
        let gaps = outcomes.iter().filter_map(|outcome| outcome.least_gap).min();
        Summary {
            runs: outcomes.len(),
            failed: outcomes.iter().filter(|outcome| outcome.nominated.is_none()).count(),
            works: Spread::of(outcomes.iter().map(|outcome| outcome.works)),
            nominated: Spread::of(outcomes.iter().map(|outcome| outcome.nominated)),
            checks: median(checks).unwrap_or(0),
            least_gap: gaps.map_or(f64::INFINITY, milliseconds),
            ahead: median(ahead).unwrap_or(0),
        }
    }

    /// Whether agents begin transactions no more often than every 5 ms (RFC 8445, section 14.2). Ahead by one is what a
    /// clock may be.
    pub(super) fn keeps_pace(&self) -> bool {
        self.ahead <= 1
    }
}

impl Spread {
    fn of(times: impl Iterator<Item = Option<Duration>>) -> Spread {
        let mut times: Vec<f64> = times.map(|time| time.map_or(f64::INFINITY, milliseconds)).collect();
        times.sort_by(f64::total_cmp);
        let at = |share: usize| times.get((times.len() * share / 100).min(times.len() - 1)).copied();
        Spread { median: at(50).unwrap_or(f64::NAN), p90: at(90).unwrap_or(f64::NAN) }
    }
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> Option<T> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
