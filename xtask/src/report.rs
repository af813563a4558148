//! The table at the end.

use std::collections::BTreeSet;
use std::time::Duration;

/// Longest reason that is printed, in characters; the whole one stands in the output above the table.
const REASON: usize = 160;

/// Rows in the order in which they came.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

/// One suite, or one step that is no suite.
#[derive(Default)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) could_not: usize,
    /// Why not, each reason once.
    pub(crate) reasons: BTreeSet<String>,
    pub(crate) time: Duration,
}

impl Row {
    /// A step that passed.
    pub(crate) fn passed(name: &str, time: Duration) -> Self {
        Self { name: name.into(), passed: 1, time, ..Self::default() }
    }

    /// A step that failed.
    pub(crate) fn failed(name: &str, time: Duration, reason: impl Into<String>) -> Self {
        Self { name: name.into(), failed: 1, time, reasons: [reason.into()].into(), ..Self::default() }
    }

    /// A step that could not be made on this machine.
    pub(crate) fn could_not(name: &str, time: Duration, reason: impl Into<String>) -> Self {
        Self { name: name.into(), could_not: 1, time, reasons: [reason.into()].into(), ..Self::default() }
    }

    fn ran(&self) -> usize {
        self.passed + self.failed
    }
}

impl Report {
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.rows.iter().all(|row| row.failed == 0)
    }

    pub(crate) fn print(&self) {
        let name = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(5);
        println!(
            "\n{:name$}  {:>5} {:>6} {:>6} {:>9} {:>8}  reason",
            "suite", "ran", "passed", "failed", "could not", "time"
        );
        for row in &self.rows {
            let reasons: Vec<&str> = row.reasons.iter().map(String::as_str).collect();
            let reason: String = reasons.join("; ").replace('\n', " / ").chars().take(REASON).collect();
            let line = format!(
                "{:name$}  {:>5} {:>6} {:>6} {:>9} {:>7.1}s  {reason}",
                row.name,
                row.ran(),
                row.passed,
                row.failed,
                row.could_not,
                row.time.as_secs_f32(),
            );
            println!("{}", line.trim_end());
        }
        let sum = |count: fn(&Row) -> usize| self.rows.iter().map(count).sum::<usize>();
        println!(
            "\n{} passed, {} failed, {} skipped",
            sum(|row| row.passed),
            sum(|row| row.failed),
            sum(|row| row.could_not)
        );
    }
}
