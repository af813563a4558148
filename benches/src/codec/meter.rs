//! How an operation is measured.

use std::fs;
use std::process::Command;

use crate::{BenchError, Context, now};

/// Operations in a loop under callgrind.
const LOOP: u32 = 1000;

/// Batches of which the median is taken, and operations in each.
const BATCHES: usize = 101;
const BATCH: u32 = 10_000;

/// What is measured.
pub(super) enum Meter {
    /// Nothing: the operation runs in the loop that callgrind counts.
    Loop,
    /// Nanoseconds for an operation.
    Nanoseconds,
    /// Heap allocations for an operation.
    Allocations,
}

impl Meter {
    /// Runs an operation once before it is measured, so that what it makes only once is made.
    pub(super) fn measure(&self, mut operation: impl FnMut()) -> f64 {
        operation();
        match self {
            Meter::Loop => {
                counted_by_callgrind(LOOP, &mut operation);
                0.0
            }
            Meter::Nanoseconds => median_of_batches(|| {
                let begun = now();
                counted_by_callgrind(BATCH, &mut operation);
                begun.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH)
            }),
            Meter::Allocations => {
                let counted = allocation_counter::measure(|| counted_by_callgrind(LOOP, &mut operation));
                counted.count_total as f64 / f64::from(LOOP)
            }
        }
    }
}

/// Callgrind finds it by its name.
#[inline(never)]
fn counted_by_callgrind(times: u32, operation: &mut impl FnMut()) {
    for _ in 0..times {
        operation();
    }
}

fn median_of_batches(mut batch: impl FnMut() -> f64) -> f64 {
    let mut batches: Vec<f64> = (0..BATCHES).map(|_| batch()).collect();
    batches.sort_by(f64::total_cmp);
    batches[BATCHES / 2]
}

/// Runs this program under callgrind for one operation and returns the instructions for one.
pub(super) fn instructions(side: &str, operation: &str) -> Result<f64, BenchError> {
    let program = std::env::current_exe().context("finding this program")?;
    let output = std::env::temp_dir().join(format!("thirl-bench-{}.callgrind", std::process::id()));
    let mut valgrind = Command::new("valgrind");
    valgrind.args([
        "--quiet",
        "--tool=callgrind",
        "--collect-atstart=no",
        "--toggle-collect=*counted_by_callgrind*",
    ]);
    valgrind.arg(format!("--callgrind-out-file={}", output.display()));
    valgrind.arg(program).args(["codec", "--loop-only", side, operation]);
    let ran = valgrind.output().context("running valgrind (package valgrind), which counts instructions")?;
    let counted = fs::read_to_string(&output).context("reading what callgrind counted")?;
    fs::remove_file(&output).context("removing what callgrind wrote")?;
    let total = counted.lines().find_map(|line| line.strip_prefix("summary: ")?.trim().parse::<u64>().ok());
    match total {
        Some(total) if ran.status.success() && total > 0 => Ok(total as f64 / f64::from(LOOP)),
        _ => {
            let said = String::from_utf8_lossy(&ran.stderr).into_owned();
            Err(BenchError::Figures(format!("callgrind counted nothing of {operation} by {side}: {said}")))
        }
    }
}
