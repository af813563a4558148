//! `codec`: what reading and writing messages costs, ours beside other crates, on the same bytes.
//!
//! 1. [`messages`]: the bytes, and what a server or client wants to know of each.
//! 2. [`ours`], and with the feature `peers` `stun` (webrtc-rs) and `stun_types` (ystreet, with `turn-types` for
//!    ChannelData): how each gets it.
//! 3. [`meter`]: instructions by callgrind, which repeat; time; allocations by a counting allocator.
//!
//! An operation takes its input through `black_box` and gives its result to it. What that alone costs, measured as an
//! operation that does nothing, is subtracted. Valgrind has no SHA instructions, so hashes count as computed without.

mod messages;
mod meter;
mod ours;
#[cfg(feature = "peers")]
mod stun;
#[cfg(feature = "peers")]
mod stun_types;

use serde::Serialize;

use crate::{BenchError, Context};
use messages::Operation;
use meter::Meter;

/// What to print.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Print one JSON line for each measurement instead of a table.
    #[arg(long)]
    json: bool,
    /// Fail unless ours allocates nothing, ChannelData takes less than 40 instructions, and every other operation fewer
    /// instructions than `stun-types` and five times fewer than `stun`, but for the integrity, which is hashing.
    #[arg(long)]
    check: bool,
    /// Run one operation of one crate in a loop, for callgrind; this is how the benchmark runs itself.
    #[arg(long, hide = true, num_args = 2, value_names = ["CRATE", "OPERATION"])]
    loop_only: Option<Vec<String>>,
}

/// One measurement: each figure is for one operation.
#[derive(Clone, Copy, Debug, Serialize)]
struct Figure {
    operation: &'static str,
    #[serde(rename = "crate")]
    side: &'static str,
    instructions: f64,
    nanoseconds: f64,
    allocations: f64,
}

/// A crate: its name, and how it does an operation. `None` if it cannot.
struct Side {
    name: &'static str,
    measure: fn(Operation, &Meter) -> Option<f64>,
}

const SIDES: &[Side] = &[
    Side { name: OURS, measure: ours::measure },
    #[cfg(feature = "peers")]
    Side { name: STUN, measure: stun::measure },
    #[cfg(feature = "peers")]
    Side { name: "stun, reused", measure: stun::measure_reused },
    #[cfg(feature = "peers")]
    Side { name: STUN_TYPES, measure: stun_types::measure },
];
const OURS: &str = "thirl";
const STUN: &str = "stun";
const STUN_TYPES: &str = "stun-types";

pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    if let Some([side, operation]) = options.loop_only.as_deref() {
        return loop_only(side, operation);
    }
    let nothing = measure(&SIDES[0], Operation::Nothing)?;
    let mut figures = Vec::new();
    if !options.json {
        println!("{:<30}{:<14}{:>14}{:>10}{:>14}", "operation", "crate", "instructions", "ns", "allocations");
    }
    for operation in Operation::ALL {
        for side in SIDES {
            let Some(figure) = measure(side, operation)? else { continue };
            let figure = figure.less(nothing);
            figure.print(options.json)?;
            figures.push(figure);
        }
    }
    if options.check { check(&figures) } else { Ok(()) }
}

fn loop_only(side: &str, operation: &str) -> Result<(), BenchError> {
    let side = SIDES.iter().find(|known| known.name == side);
    let operation =
        Operation::ALL.into_iter().chain([Operation::Nothing]).find(|known| known.name() == operation);
    match (side, operation) {
        (Some(side), Some(operation)) => {
            (side.measure)(operation, &Meter::Loop);
            Ok(())
        }
        _ => Err(BenchError::Figures("there is no such crate or operation".to_owned())),
    }
}

fn measure(side: &Side, operation: Operation) -> Result<Option<Figure>, BenchError> {
    let Some(allocations) = (side.measure)(operation, &Meter::Allocations) else { return Ok(None) };
    Ok(Some(Figure {
        operation: operation.name(),
        side: side.name,
        instructions: meter::instructions(side.name, operation.name())?,
        nanoseconds: (side.measure)(operation, &Meter::Nanoseconds).unwrap_or(f64::NAN),
        allocations,
    }))
}

impl Figure {
    fn less(self, nothing: Option<Figure>) -> Figure {
        let Some(nothing) = nothing else { return self };
        Figure {
            instructions: self.instructions - nothing.instructions,
            nanoseconds: (self.nanoseconds - nothing.nanoseconds).max(0.0),
            ..self
        }
    }

    fn print(&self, json: bool) -> Result<(), BenchError> {
        if json {
            let line = serde_json::to_string(self).map_err(std::io::Error::from).context("writing JSON")?;
            println!("{line}");
        } else {
            println!(
                "{:<30}{:<14}{:>14.1}{:>10.1}{:>14}",
                self.operation, self.side, self.instructions, self.nanoseconds, self.allocations
            );
        }
        Ok(())
    }
}

/// The aims.
fn check(figures: &[Figure]) -> Result<(), BenchError> {
    let instructions = |side, operation| {
        let figure = figures.iter().find(|figure| figure.side == side && figure.operation == operation);
        figure.map(|figure: &Figure| figure.instructions)
    };
    let mut missed = Vec::new();
    for ours in figures.iter().filter(|figure| figure.side == OURS) {
        let name = ours.operation;
        if ours.allocations > 0.0 {
            missed.push(format!("{name}: {} allocations", ours.allocations));
        }
        if name == Operation::ChannelData.name() {
            if ours.instructions >= 40.0 {
                missed.push(format!("{name}: {:.1} instructions", ours.instructions));
            }
            continue;
        }
        let times = if name == Operation::VerifyIntegrity.name() { 1.0 } else { 5.0 };
        if instructions(STUN, name).is_some_and(|theirs| theirs < times * ours.instructions) {
            missed.push(format!("{name}: not {times} times fewer instructions than {STUN}"));
        }
        if instructions(STUN_TYPES, name).is_some_and(|theirs| theirs <= ours.instructions) {
            missed.push(format!("{name}: not fewer instructions than {STUN_TYPES}"));
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(BenchError::Figures(missed.join("; "))) }
}
