//! The reach matrix in the simulated network: every pair of situations, with all that the agent can do and as standard ICE.

use std::collections::BTreeMap;
use std::thread::available_parallelism;
use std::time::Instant;

use thirl_tests::reach::{Instrument, Mode, Pair, Plan, measure, text};

/// Of each pair in each mode; `THIRL_REACH_RUNS` sets another number.
const RUNS: usize = 2;

#[test]
#[expect(clippy::disallowed_methods, reason = "how long it takes is printed")]
fn every_pair_connects_by_the_path_that_there_is() {
    let runs = std::env::var("THIRL_REACH_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    let plan = Plan {
        pairs: Pair::all(),
        modes: vec![Mode::Thirl, Mode::Standard],
        runs: BTreeMap::from([(Instrument::Simulation, runs)]),
        jobs: available_parallelism().map_or(1, Into::into),
    };
    let began = Instant::now();
    let matrix = measure(&plan, |_, _, _| {});
    let seconds = began.elapsed().as_secs_f64();
    println!("{}", text(&matrix));
    println!("{} runs in {seconds:.1} s", plan.pairs.len() * runs * 2);
    let missed = matrix.missed();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
