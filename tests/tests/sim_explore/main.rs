//! Random topologies and faults in the simulated network, against the reference model: who must connect does, who must connect
//! directly does that, a path comes back after faults, nothing panics, and the pace is kept.
//!
//! It goes on for longer, and from another seed, if it is told to:
//! `THIRL_EXPLORE_SEED=1000 THIRL_EXPLORE_RUNS=5000 cargo test -p thirl-tests --test sim_explore`. A seed that fails is
//! printed, and run alone by `THIRL_EXPLORE_SEED=… THIRL_EXPLORE_RUNS=1`; `THIRL_EXPLORE_TRACE=1` shows how it goes.

mod run;
mod scenario;

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{available_parallelism, scope};
use std::time::Instant;

use run::run;
use scenario::Scenario;

/// So many seeds, from 0 on, as long as nothing else is said: the same on every machine.
const RUNS: u64 = 500;
/// So many findings are enough.
const MAX_FINDINGS: usize = 10;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long it takes is printed")]
fn random_topologies_do_what_the_model_says() {
    let first = from_environment("THIRL_EXPLORE_SEED").unwrap_or(0);
    let end = first.saturating_add(from_environment("THIRL_EXPLORE_RUNS").unwrap_or(RUNS));
    let began = Instant::now();
    let (next, findings) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let counts = Mutex::new(BTreeMap::new());
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        let mut found = findings.lock().unwrap_or_else(PoisonError::into_inner);
        if seed >= end || found.len() >= MAX_FINDINGS {
            return;
        }
        drop(found);
        match catch_unwind(|| run(seed, &Scenario::new(seed))) {
            Ok(Ok(report)) => {
                let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                let count: &mut [u32; 2] = counts.entry(report.expectation).or_default();
                count[usize::from(report.direct)] += 1;
            }
            Ok(Err(why)) => {
                found = findings.lock().unwrap_or_else(PoisonError::into_inner);
                found.push(format!("seed {seed}: {why}"));
            }
            Err(_) => {
                found = findings.lock().unwrap_or_else(PoisonError::into_inner);
                found.push(format!("seed {seed}: it panicked"));
            }
        }
    };
    let jobs = available_parallelism().map_or(1, Into::into);
    scope(|threads| (0..jobs).for_each(|_| _ = threads.spawn(work)));
    let counts = counts.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seconds = began.elapsed().as_secs_f64();
    let all: u32 = counts.values().flatten().sum();
    println!("{all} runs in {seconds:.1} s, {:.0} a minute", f64::from(all) * 60.0 / seconds);
    for (expectation, [not, direct]) in &counts {
        println!("{expectation}: {direct} direct, {not} not");
    }
    let findings = findings.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(findings.is_empty(), "{}", findings.join("\n\n"));
    assert!(all > 0, "nothing was run");
}
