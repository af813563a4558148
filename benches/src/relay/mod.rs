//! `relay`: what relaying costs the server: ours by each technique, coturn, and a forwarder without a protocol, in turn.
//!
//! `traffic`: CPU per relayed packet. `allocations`: CPU and memory for each of them. `churn`: how long packets take while
//! allocations come and go.

mod allocations;
mod churn;
mod traffic;

use serde::Serialize;
use thirl_common::io::Technique;

use crate::load::{Hosts, Shape};
use crate::network::{Network, Over};
use crate::plan::Plan;
use crate::server::{Kind, LOAD_CORE};
use crate::{BenchError, Context};

/// The load, the same for all sides.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// What is measured; several one after another.
    #[arg(long, value_enum, default_value = "channels", value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// Allocations, each with a channel to a peer of its own; several are measured one after another [default: 100; bursts:
    /// 1; allocations: 5000; churn: 1000].
    #[arg(long, value_delimiter = ',')]
    n: Vec<usize>,
    /// Bytes of application data in a packet; likewise [default: 160; tcp, bursts: 1200].
    #[arg(long, value_delimiter = ',')]
    payload: Vec<usize>,
    /// How our relay, and the bare forwarder, ask the kernel: io_uring, epoll or both.
    #[arg(long, default_value = "io_uring,epoll", value_delimiter = ',')]
    io: Vec<Technique>,
    /// What load and server speak over.
    #[arg(long, value_enum, default_value_t = Over::Loopback)]
    over: Over,
    /// Packets under way at any time [default: 64; bursts: 1024].
    #[arg(long)]
    window: Option<usize>,
    /// How many allocations come and go in a second in `churn`.
    #[arg(long, default_value_t = 2000)]
    come_and_go: u32,
    /// Leave coturn out: it takes long to end with many allocations.
    #[arg(long)]
    no_coturn: bool,
    #[command(flatten)]
    plan: Plan,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scenario {
    /// Channels over UDP, echoed by peers.
    Channels,
    /// Send and Data indications over UDP, echoed by peers.
    Indications,
    /// Channels over TCP, echoed by peers.
    Tcp,
    /// Clients of one server that are each other's peers.
    Pairs,
    /// Channels over UDP, sixteen packets at a time from senders with GSO, echoed by peers that have it too.
    Bursts,
    /// Allocations and channels made and ended as fast as it goes.
    Allocations,
    /// 20,000 packets a second while 2,000 allocations a second, each with a channel, come and go.
    Churn,
}

impl Scenario {
    fn n(self, options: &Options) -> Vec<usize> {
        let default = match self {
            Scenario::Bursts => 1,
            Scenario::Allocations => 5000,
            Scenario::Churn => 1000,
            _ => 100,
        };
        if options.n.is_empty() { vec![default] } else { options.n.clone() }
    }

    fn payload(self, options: &Options) -> Vec<usize> {
        let default = if matches!(self, Scenario::Tcp | Scenario::Bursts) { 1200 } else { 160 };
        if options.payload.is_empty() { vec![default] } else { options.payload.clone() }
    }

    fn window(self, options: &Options) -> usize {
        options.window.unwrap_or(if self == Scenario::Bursts { 1024 } else { 64 })
    }

    fn shape(self, count: usize, payload: usize) -> Shape {
        let bursts = self == Scenario::Bursts;
        Shape {
            count,
            payload,
            burst: if bursts { 16 } else { 1 },
            trains: bursts,
            indications: self == Scenario::Indications,
            tcp: self == Scenario::Tcp,
            pairs: self == Scenario::Pairs,
            bare: false,
        }
    }

    fn has_bare_forwarder(self) -> bool {
        matches!(self, Scenario::Channels | Scenario::Bursts)
    }
}

/// A side of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours(Technique),
    Bare(Technique),
    Coturn,
}

impl Side {
    fn is_bare(self) -> bool {
        matches!(self, Side::Bare(_))
    }

    fn kind(self, hosts: Hosts, count: usize) -> Kind {
        match self {
            Side::Ours(technique) => Kind::Thirl(technique),
            Side::Bare(technique) => Kind::Bare(technique, hosts, count),
            Side::Coturn => Kind::Coturn,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Side::Ours(Technique::IoUring) => "turn-relay/io_uring",
            Side::Ours(Technique::Epoll) => "turn-relay/epoll",
            Side::Bare(Technique::IoUring) => "bare/io_uring",
            Side::Bare(Technique::Epoll) => "bare/epoll",
            Side::Coturn => "coturn",
        }
    }

    /// Whether `other` is what our side is held against.
    fn is_held_against(self, other: Side) -> bool {
        match (self, other) {
            (Side::Ours(ours), Side::Bare(bare)) => ours == bare,
            (Side::Ours(_), Side::Coturn) => true,
            _ => false,
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    let network = Network::new(options.over)?;
    pin_to_the_other_core();
    for &scenario in &options.scenario {
        for n in scenario.n(options) {
            for payload in scenario.payload(options) {
                let shape = scenario.shape(n, payload);
                if !options.plan.json {
                    println!("\n{scenario:?}: {n} allocations, {payload} B, over {:?}", options.over);
                }
                let window = scenario.window(options);
                match scenario {
                    Scenario::Allocations => allocations::compare(shape, options, &network)?,
                    Scenario::Churn => churn::compare(shape, options, &network)?,
                    _ => traffic::compare(scenario, shape, window, options, &network)?,
                }
            }
        }
    }
    Ok(())
}

fn sides(options: &Options, bare: bool) -> Vec<Side> {
    let theirs = (!options.no_coturn).then_some(Side::Coturn);
    let pair = |technique: &Technique| [bare.then_some(Side::Bare(*technique)), Some(Side::Ours(*technique))];
    theirs.into_iter().chain(options.io.iter().flat_map(pair).flatten()).collect()
}

/// Measures all sides in turn, round by round, and says what ours is to the others. `measure` returns what is compared.
fn in_turn(
    what: &str,
    sides: &[Side],
    plan: &Plan,
    mut measure: impl FnMut(Side, usize) -> Result<f64, BenchError>,
) -> Result<(), BenchError> {
    let mut figures = vec![Vec::new(); sides.len()];
    for round in 1..=plan.rounds {
        for (&side, figures) in sides.iter().zip(&mut figures) {
            figures.push(measure(side, round)?);
        }
    }
    if plan.json {
        return Ok(());
    }
    for (ours, of_ours) in sides.iter().zip(&figures) {
        for (other, of_other) in sides.iter().zip(&figures) {
            if ours.is_held_against(*other) {
                let mut ratios: Vec<f64> =
                    of_ours.iter().zip(of_other).map(|(ours, other)| ours / other).collect();
                ratios.sort_by(f64::total_cmp);
                if let (Some(least), Some(most)) = (ratios.first(), ratios.last()) {
                    let (ours, other, median) = (ours.name(), other.name(), ratios[ratios.len() / 2]);
                    println!("{ours} / {other}, {what}: median {median:.2} (from {least:.2} to {most:.2})");
                }
            }
        }
    }
    Ok(())
}

pub(crate) fn print_json(figure: &impl Serialize) -> Result<(), BenchError> {
    println!("{}", serde_json::to_string(figure).map_err(std::io::Error::from).context("writing JSON")?);
    Ok(())
}

/// The load keeps off the server's core. Without `taskset` the servers would not have started either.
pub(crate) fn pin_to_the_other_core() {
    let this = std::process::id().to_string();
    let pinned = std::process::Command::new("taskset").args(["-cp", LOAD_CORE, &this]).output();
    if !pinned.is_ok_and(|output| output.status.success()) {
        eprintln!("thirl-bench: the load could not be pinned to core {LOAD_CORE}; figures will be noisier");
    }
}
