//! The matrix as a picture: one triangle for each kind of agents, a letter and a time in each cell, in SVG.
//!
//! Letters and times say all; colour says it again.

use std::fmt::Write as _;

use super::matrix::{Cell, Matrix};
use super::text::time;
use super::{Mode, Pair, Path, Shared, Situation};

/// The side of a cell, in pixels.
const CELL: usize = 46;

/// Room for the names at the left and at the top.
const MARGIN: usize = 92;

/// Between the two triangles.
const GAP: usize = 40;

const STYLE: &str = "text{font:11px sans-serif;fill:#111}.n{text-anchor:end}.c{text-anchor:middle}\
.t{font:bold 14px sans-serif}.l{font-weight:bold;font-size:14px}.s{font-size:9px}\
rect{stroke:#fff}.d{fill:#a6d96a}.x{fill:#66c2a5}.r{fill:#fdd49e}.o{fill:#ef8a8a}.e{fill:#e8e8e8}.m{stroke:#b00;stroke-width:3}";

/// What the letters stand for.
pub(super) const LEGEND: [(&str, &str); 5] = [
    ("D", "direct, over UDP"),
    ("T", "direct, over TCP"),
    ("R", "through a relay"),
    ("-", "nothing"),
    ("!", "less than is required"),
];

/// A picture that stands by itself. A cell is the path that most runs ended with, the percentage of those that were direct if
/// not all or none were, and the median time to that path.
pub fn picture(matrix: &Matrix) -> String {
    let situations = Situation::all();
    let modes: Vec<_> = Mode::ALL
        .into_iter()
        .filter(|mode| matrix.cells.iter().any(|cell| cell.judged(*mode).is_some()))
        .collect();
    let side = MARGIN + situations.len() * CELL;
    let height = side + 2 * CELL + 60;
    let width = modes.len() * (side + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" style=\"max-width:100%;height:auto\" role=\"img\">\n\
         <title>Whether two peers connect, and how</title><style>{STYLE}</style>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (n, &mode) in modes.iter().enumerate() {
        let _ = write!(svg, "<g transform=\"translate({} 0)\">", n * (side + GAP));
        svg += &triangle(matrix, mode, &situations);
        svg += "</g>\n";
    }
    let legend = LEGEND.map(|(letter, words)| format!("{letter} {words}")).join("   ");
    let _ = writeln!(svg, "<text x=\"8\" y=\"{}\" xml:space=\"preserve\">{legend}</text>", height - 12);
    svg + "</svg>\n"
}

fn triangle(matrix: &Matrix, mode: Mode, situations: &[Situation]) -> String {
    let mut svg = format!("<text class=\"t\" x=\"{MARGIN}\" y=\"18\">{}</text>\n", title(mode));
    for (row, b) in situations.iter().enumerate() {
        let y = 30 + row * CELL;
        let _ = writeln!(svg, "<text class=\"n\" x=\"{}\" y=\"{}\">{b}</text>", MARGIN - 6, y + CELL / 2 + 4);
        for (column, a) in situations.iter().take(row + 1).enumerate() {
            svg += &square(matrix, mode, Pair::Apart(*a, *b), MARGIN + column * CELL, y);
        }
        // The name of the column, at the end of its diagonal.
        let x = MARGIN + (row + 1) * CELL;
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\">{b}</text>", x + 4, y + CELL / 2 + 4);
    }
    let y = 42 + situations.len() * CELL;
    for (n, shared) in Shared::ALL.into_iter().enumerate() {
        let x = MARGIN + n * 4 * CELL;
        svg += &square(matrix, mode, Pair::Together(shared), x, y);
        let _ =
            writeln!(svg, "<text x=\"{}\" y=\"{}\">{}</text>", x + CELL + 4, y + CELL / 2 + 4, shared.name());
    }
    svg
}

fn title(mode: Mode) -> &'static str {
    match mode {
        Mode::Thirl => "thirl",
        Mode::Standard => "the same with standard ICE alone",
        Mode::Mixed => "thirl with aioice",
        Mode::Aioice => "aioice",
    }
}

fn square(matrix: &Matrix, mode: Mode, pair: Pair, x: usize, y: usize) -> String {
    let cell = matrix.cells.iter().find(|cell| cell.pair == pair);
    let tally = cell.and_then(|cell| cell.judged(mode)).filter(|tally| tally.runs() > 0);
    let (Some(cell), Some(tally)) = (cell, tally) else {
        return format!("<rect class=\"e\" x=\"{x}\" y=\"{y}\" width=\"{CELL}\" height=\"{CELL}\"/>\n");
    };
    let (class, letter) = sign(tally.path());
    let missed = missed(cell, mode);
    let mark = if missed { "!" } else { "" };
    let percent = tally.direct() * 100 / tally.runs();
    let share = if percent % 100 == 0 { String::new() } else { format!(" {percent}%") };
    let when = if tally.path().is_some_and(Path::is_direct) { tally.to_direct() } else { tally.first_data() };
    let border = if missed { " m" } else { "" };
    let middle = x + CELL / 2;
    format!(
        "<g><title>{pair}: best is {}; {letter}, {} of {} connected, {} direct</title>\
         <rect class=\"{class}{border}\" x=\"{x}\" y=\"{y}\" width=\"{CELL}\" height=\"{CELL}\"/>\
         <text class=\"c l\" x=\"{middle}\" y=\"{}\">{letter}{mark}{share}</text>\
         <text class=\"c s\" x=\"{middle}\" y=\"{}\">{}</text></g>\n",
        cell.expectation,
        tally.connected(),
        tally.runs(),
        tally.direct(),
        y + 21,
        y + 36,
        time(when),
    )
}

fn missed(cell: &Cell, mode: Mode) -> bool {
    let of_mode = format!(", {}: ", mode.name());
    cell.missed().iter().any(|what| what.contains(&of_mode))
}

fn sign(path: Option<Path>) -> (&'static str, &'static str) {
    match path {
        Some(Path::Direct) => ("d", "D"),
        Some(Path::DirectTcp) => ("x", "T"),
        Some(Path::Relayed) => ("r", "R"),
        None => ("o", "-"),
    }
}
