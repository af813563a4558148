//! The matrix as a page that stands by itself: the picture, what the names mean, and all figures.

use std::fmt::Write as _;

use super::matrix::{Matrix, Tally};
use super::picture::picture;
use super::text::time;
use super::{Path, Shared, Situation};

const STYLE: &str = "body{font:15px/1.5 sans-serif;margin:2em auto;max-width:110em;padding:0 1em;color:#111;background:#fff}\
table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.15em .5em;text-align:right}\
td:first-child,td:nth-child(2),th{text-align:left}.scroll{overflow-x:auto}.missed{font-weight:bold}dt{font-weight:bold}";

/// The columns for each mode and instrument.
const COLUMNS: [&str; 6] = ["path", "connected", "direct", "to data", "to direct", "lost"];

/// The whole page.
pub fn html(matrix: &Matrix) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Reach</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n\
         <h1>Reach: who connects to whom, and how</h1>\n\
         <p>Each cell is a pair of networks: the path that most runs ended with, and the median time to it, in the kernel \
         lab where there were such runs. Times count from when both sides knew each other.</p>\n\
         <div class=\"scroll\">{}</div>\n{}{}{}</body></html>\n",
        picture(matrix),
        verdict(matrix),
        names(),
        table(matrix),
    )
}

fn verdict(matrix: &Matrix) -> String {
    let missed = matrix.missed();
    if missed.is_empty() {
        return "<p>Every pair meets the requirement.</p>\n".into();
    }
    let items: String = missed.iter().map(|what| format!("<li>{}</li>", escaped(what))).collect();
    format!("<h2>Missed</h2>\n<ul class=\"missed\">{items}</ul>\n")
}

fn names() -> String {
    let each = Situation::all().into_iter().map(|it| (it.name(), it.description()));
    let shared = Shared::ALL.into_iter().map(|it| (it.name().to_owned(), it.description().to_owned()));
    let items: String =
        each.chain(shared).map(|(name, words)| format!("<dt>{name}</dt><dd>{words}</dd>\n")).collect();
    format!("<h2>The networks</h2>\n<dl>{items}</dl>\n")
}

fn table(matrix: &Matrix) -> String {
    let columns = matrix.columns();
    let mut table =
        "<h2>The figures</h2>\n<div class=\"scroll\"><table><tr><th>pair</th><th>best</th>".to_owned();
    for (mode, instrument) in &columns {
        let _ = write!(table, "<th colspan=\"6\">{}, {}</th>", mode.name(), instrument.name());
    }
    table += "</tr>\n<tr><th></th><th></th>";
    columns.iter().for_each(|_| COLUMNS.iter().for_each(|it| _ = write!(table, "<th>{it}</th>")));
    table += "</tr>\n";
    for cell in &matrix.cells {
        let _ = write!(table, "<tr><td>{}</td><td>{}</td>", cell.pair, cell.expectation);
        columns.iter().for_each(|(mode, instrument)| table += &figures(cell.tally(*instrument, *mode)));
        table += "</tr>\n";
    }
    table + "</table></div>\n"
}

fn figures(tally: Option<&Tally>) -> String {
    let Some(tally) = tally else { return "<td></td>".repeat(COLUMNS.len()) };
    let path = tally.path().map_or("nothing", Path::name);
    let of = |count: usize| format!("{count}/{}", tally.runs());
    let (lost, sent) = tally.lost();
    let cells = [
        path.to_owned(),
        of(tally.connected()),
        of(tally.direct()),
        time(tally.first_data()),
        time(tally.to_direct()),
        format!("{lost}/{sent}"),
    ];
    cells.iter().map(|cell| format!("<td>{cell}</td>")).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
