//! Many runs of many cases, several labs at once.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::cases::Case;
use super::servers::Software;
use super::trial::Judgement;

/// How often, and under which circumstances.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Runs of each case.
    pub runs: usize,
    /// Loss on the site's line, each way, in 1/1000.
    pub loss_per_mille: u16,
    /// The servers.
    pub software: Software,
    /// Labs at the same time: they are cheap, and most of the time they wait.
    pub labs: usize,
}

/// What the runs of one case came to.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// The case.
    pub name: String,
    /// Runs in which every value was as expected.
    pub right: usize,
    /// Runs in which some were not measurable and none was wrong.
    pub unknown: usize,
    /// Runs with a wrong value.
    pub wrong: usize,
    /// Runs that came to nothing: the lab's fault, not the diagnosis's.
    pub failed: usize,
    /// What there is to say of those that were not right.
    pub notes: Vec<String>,
}

/// Runs every case as planned.
pub fn run(cases: &[Case], plan: Plan) -> Vec<Row> {
    let rows = cases.iter().map(|case| Row { name: case.name.clone(), ..Row::default() });
    let rows = Mutex::new(rows.collect::<Vec<_>>());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..plan.labs {
            scope.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) =
                        cases.get(job % cases.len().max(1)).filter(|_| job < cases.len() * plan.runs)
                    else {
                        return;
                    };
                    let outcome = case.run(plan.software, plan.loss_per_mille);
                    let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
                    rows[job % cases.len()].count(outcome);
                }
            });
        }
    });
    rows.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl Row {
    fn count(&mut self, outcome: Result<(Judgement, serde_json::Value), String>) {
        match outcome {
            Ok((Judgement::Right, _)) => self.right += 1,
            Ok((Judgement::Unknown(fields), said)) => {
                self.unknown += 1;
                self.notes.push(format!("not measurable: {}\n  {said}", fields.join(", ")));
            }
            Ok((Judgement::Wrong(fields), said)) => {
                self.wrong += 1;
                self.notes.push(format!("WRONG: {}\n  {said}", fields.join(", ")));
            }
            Err(error) => {
                self.failed += 1;
                self.notes.push(format!("failed: {error}"));
            }
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { name, right, unknown, wrong, failed, .. } = self;
        write!(f, "{name:44} {right:6} {unknown:8} {wrong:6} {failed:7}")
    }
}
