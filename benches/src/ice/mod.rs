//! `ice`: how long connecting takes when most candidates lead nowhere, ours beside other agents.
//!
//! 1. [`scene`]: two hosts, and what each is told of the other: one candidate that lives, and some that do not.
//! 2. [`agent`] says what a side is; [`ours`], and with the feature `peers` `is` and `rice`, are sides.
//! 3. [`simulated`]: two of a kind in a network of virtual time. [`loopback`]: two of a kind with real sockets.
//! 4. [`crowd`]: what one of 10,000 costs.
//! 5. [`observed`] counts what they send; [`outcome`] sums up.

mod agent;
mod crowd;
#[cfg(feature = "peers")]
mod is;
mod loopback;
mod observed;
mod ours;
mod outcome;
#[cfg(feature = "peers")]
mod rice;
mod scene;
mod simulated;

use serde::Serialize;

use crate::BenchError;
use crate::relay::print_json;
use agent::Kind;
use crowd::Cost;
use outcome::Summary;
use scene::{Dead, Scene, Told};

/// What to compare.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Dead candidates that each side tells beside the live one.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 5, 10, 20])]
    n: Vec<u8>,
    /// One-way delays in milliseconds.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 25, 100])]
    delay: Vec<u64>,
    /// Probabilities that a packet is lost.
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 0.1])]
    loss: Vec<f64>,
    /// Where the dead candidates are.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Dead::Subnet, Dead::Private, Dead::Anywhere])]
    dead: Vec<Dead>,
    /// How candidates are told.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Told::AtOnce, Told::Trickled])]
    told: Vec<Told>,
    /// Where.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = [Over::Virtual, Over::Loopback, Over::Crowd])]
    over: Vec<Over>,
    /// Runs of each scene in virtual time, each with a seed of its own.
    #[arg(long, default_value_t = 200)]
    runs: u64,
    /// Runs of each scene on loopback, which take as long as they take.
    #[arg(long, default_value_t = 11)]
    rounds: u64,
    /// How many agents are in the crowd.
    #[arg(long, default_value_t = 10_000)]
    crowd: usize,
    /// Print one JSON line for each figure instead of a table.
    #[arg(long)]
    json: bool,
}

/// What two agents speak over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Over {
    /// A network of virtual time, for agents that are sans-IO.
    Virtual,
    /// The loopback interface, without delay or loss, for agents with sockets of their own.
    Loopback,
    /// Many sans-IO agents in one process: heap and CPU time instead of connect time.
    Crowd,
}

/// The implementations that run in virtual time.
const KINDS: &[Kind] = &[
    Kind { name: "thirl", make: ours::make },
    #[cfg(feature = "peers")]
    Kind { name: "is", make: is::make },
    #[cfg(feature = "peers")]
    Kind { name: "rice", make: rice::make },
];

/// One row.
#[derive(Debug, Serialize)]
struct Figure {
    agent: &'static str,
    dead: String,
    told: String,
    n: u8,
    delay_ms: u128,
    loss: f64,
    #[serde(flatten)]
    summary: Summary,
}

/// One line about a crowd.
#[derive(Debug, Serialize)]
struct CrowdFigure {
    agent: &'static str,
    #[serde(flatten)]
    cost: Cost,
}

pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    if options.over.contains(&Over::Virtual) {
        in_virtual_time(options)?;
    }
    if options.over.contains(&Over::Loopback) {
        on_loopback(options)?;
    }
    if options.over.contains(&Over::Crowd) {
        in_a_crowd(options)?;
    }
    Ok(())
}

fn in_virtual_time(options: &Options) -> Result<(), BenchError> {
    if !options.json {
        println!("virtual time, {} runs each; ms: median (90 %)", options.runs);
        print_head();
    }
    for scene in Scene::all(options) {
        for kind in KINDS {
            let outcomes: Vec<_> =
                (0..options.runs).map(|seed| simulated::run(*kind, &scene, seed)).collect();
            print(kind.name, &scene, Summary::of(&outcomes), options.json)?;
        }
    }
    Ok(())
}

fn on_loopback(options: &Options) -> Result<(), BenchError> {
    if !options.json {
        println!("loopback, {} runs each; ms: median (90 %)", options.rounds);
        print_head();
    }
    let kinds = loopback::Kind::all();
    let here = |scene: &Scene| scene.delay.is_zero() && scene.loss == 0.0 && scene.told == Told::AtOnce;
    for scene in Scene::all(options).into_iter().filter(here) {
        for kind in &kinds {
            let outcomes = (0..options.rounds).map(|seed| loopback::run(kind, &scene, seed));
            let outcomes = outcomes.collect::<Result<Vec<_>, _>>()?;
            print(kind.name(), &scene, Summary::of(&outcomes), options.json)?;
        }
    }
    Ok(())
}

fn in_a_crowd(options: &Options) -> Result<(), BenchError> {
    if !options.json {
        println!("{} agents in one process; each:", options.crowd);
        println!(
            "{:<11}{:>5}{:>12}{:>13}{:>15}{:>18}{:>18}",
            "agent",
            "dead",
            "heap bytes",
            "allocations",
            "connecting, µs",
            "idle, µs/minute",
            "packets/minute"
        );
    }
    for (dead, kind) in [0, 5].into_iter().flat_map(|dead| KINDS.iter().map(move |kind| (dead, kind))) {
        let cost = crowd::measure(*kind, options.crowd, dead)?;
        if options.json {
            print_json(&CrowdFigure { agent: kind.name, cost })?;
        } else {
            println!(
                "{:<11}{dead:>5}{:>12.0}{:>13.1}{:>15.0}{:>18.0}{:>18.1}",
                kind.name,
                cost.heap_bytes,
                cost.allocations,
                cost.connect_us,
                cost.idle_us_per_minute,
                cost.idle_packets_per_minute
            );
        }
    }
    Ok(())
}

fn print_head() {
    println!(
        "{:<9} {:<9} {:>4} {:>5} {:>5}  {:<11}{:>15}{:>15}{:>8}{:>9}{:>8}  ",
        "dead", "told", "n", "delay", "loss", "agent", "works", "nominated", "checks", "least Ta", "ahead"
    );
}

fn print(agent: &'static str, scene: &Scene, summary: Summary, json: bool) -> Result<(), BenchError> {
    if json {
        return print_json(&Figure {
            agent,
            dead: format!("{:?}", scene.dead).to_lowercase(),
            told: format!("{:?}", scene.told).to_lowercase(),
            n: scene.count,
            delay_ms: scene.delay.as_millis(),
            loss: scene.loss,
            summary,
        });
    }
    let Summary { works, nominated, checks, least_gap, ahead, failed, .. } = summary;
    let spread = |spread: outcome::Spread| format!("{:.0} ({:.0})", spread.median, spread.p90);
    let pace = if summary.keeps_pace() { "" } else { "  too fast" };
    let failed = if failed > 0 { format!("  {failed} failed") } else { String::new() };
    println!(
        "{scene}  {agent:<11}{:>15}{:>15}{checks:>8}{least_gap:>9.1}{ahead:>8}{pace}{failed}",
        spread(works),
        spread(nominated)
    );
    Ok(())
}
