//! The matrix as text.

use std::fmt::Write as _;
use std::time::Duration;

use super::matrix::{Instrument, Matrix, Tally};
use super::{Expectation, Mode, Path};

/// A line for each pair, one for all pairs with the same best path, and where the requirement is missed.
pub fn text(matrix: &Matrix) -> String {
    let columns = matrix.columns();
    let mut text = format!("{:24} {:10}", "", "");
    for (mode, instrument) in &columns {
        let title = format!("{}, {}", mode.name(), instrument.name());
        let _ = write!(text, " │ {title:36}");
    }
    let _ = write!(text, "\n{:24} {:10}", "pair", "best");
    for _ in &columns {
        let _ = write!(text, " │ {}", heading());
    }
    text.push('\n');
    for cell in &matrix.cells {
        let _ = write!(text, "{:24} {:10}", cell.pair.to_string(), cell.expectation.name());
        for &(mode, instrument) in &columns {
            let _ = write!(text, " │ {}", figures(cell.tally(instrument, mode)));
        }
        text.push('\n');
    }
    text + &summary(matrix, &columns) + &verdict(matrix)
}

/// All pairs with the same best path together.
fn summary(matrix: &Matrix, columns: &[(Mode, Instrument)]) -> String {
    let mut text = "\n".to_owned();
    for expectation in Expectation::ALL {
        let pairs = matrix.cells.iter().filter(|cell| cell.expectation == expectation).count();
        if pairs == 0 {
            continue;
        }
        let _ = write!(text, "{:24} {:10}", format!("all {pairs} pairs"), expectation.name());
        for &(mode, instrument) in columns {
            let _ = write!(text, " │ {}", figures(matrix.together(expectation, instrument, mode).as_ref()));
        }
        text.push('\n');
    }
    text
}

fn heading() -> String {
    format!("{:10} {:>4} {:>4} {:>7} {:>7}", "path", "ok%", "dir%", "data", "direct")
}

fn figures(tally: Option<&Tally>) -> String {
    let Some(tally) = tally.filter(|tally| tally.runs() > 0) else { return format!("{:36}", "-") };
    let percent = |count: usize| count * 100 / tally.runs();
    format!(
        "{:10} {:>4} {:>4} {:>7} {:>7}",
        tally.path().map_or("nothing", Path::name),
        percent(tally.connected()),
        percent(tally.direct()),
        time(tally.first_data()),
        time(tally.to_direct()),
    )
}

/// In milliseconds below ten seconds, which is where most are.
pub(super) fn time(time: Option<Duration>) -> String {
    match time {
        None => "-".into(),
        Some(time) if time < Duration::from_secs(10) => format!("{} ms", time.as_millis()),
        Some(time) => format!("{:.1} s", time.as_secs_f64()),
    }
}

fn verdict(matrix: &Matrix) -> String {
    let missed = matrix.missed();
    if missed.is_empty() {
        return "\nEvery pair meets the requirement.\n".into();
    }
    let mut text = format!("\nMissed, {} times:\n", missed.len());
    missed.iter().for_each(|what| _ = writeln!(text, "  {what}"));
    text
}
