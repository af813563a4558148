//! `relay`: what a relayed packet costs the server: ours by each technique, and coturn, in turn.

use std::time::Duration;

use serde::Serialize;
use thirl_common::io::Technique;

use crate::load::Load;
use crate::network::{Network, Over};
use crate::plan::{Plan, WARM_UP};
use crate::server::{Kind, LOAD_CORE, Server};
use crate::{BenchError, Context};

/// The load, the same for all sides.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Allocations, each with a channel to a peer of its own; several are measured one after another.
    #[arg(long, default_value = "100", value_delimiter = ',')]
    n: Vec<usize>,
    /// Bytes of application data in a packet; likewise.
    #[arg(long, default_value = "160", value_delimiter = ',')]
    payload: Vec<usize>,
    /// How our relay asks the kernel: io_uring, epoll or both.
    #[arg(long, default_value = "io_uring,epoll", value_delimiter = ',')]
    io: Vec<Technique>,
    /// What load and server speak over.
    #[arg(long, value_enum, default_value_t = Over::Loopback)]
    over: Over,
    /// Packets under way at any time.
    #[arg(long, default_value_t = 64)]
    window: usize,
    #[command(flatten)]
    plan: Plan,
}

/// What is measured at a time.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    n: usize,
    payload: usize,
    window: usize,
    time: Duration,
}

/// One measurement.
#[derive(Debug, Serialize)]
struct Figure {
    server: &'static str,
    allocations: usize,
    payload: usize,
    round: usize,
    packets: u64,
    packets_per_second: f64,
    lost: u64,
    server_ns_per_packet: f64,
    resident_bytes: u64,
}

pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    let network = Network::new(options.over)?;
    pin_to_the_other_core();
    for &n in &options.n {
        for &payload in &options.payload {
            let time = options.plan.time();
            compare(Scenario { n, payload, window: options.window, time }, options, &network)?;
        }
    }
    Ok(())
}

fn compare(scenario: Scenario, options: &Options, network: &Network) -> Result<(), BenchError> {
    if !options.plan.json {
        let Scenario { n, payload, window, .. } = scenario;
        println!("{n} allocations, {payload} B, window {window}, echo over channels, {:?}", options.over);
        println!(
            "{:<22}{:>6}{:>14}{:>14}{:>8}{:>12}",
            "server", "round", "packets/s", "ns CPU/packet", "lost", "RSS MiB"
        );
    }
    let mut ratios = vec![Vec::new(); options.io.len()];
    for round in 1..=options.plan.rounds {
        let theirs = measure(Kind::Coturn, round, scenario, options.plan.json, network)?;
        for (technique, ratios) in options.io.iter().zip(&mut ratios) {
            let ours = measure(Kind::Thirl(*technique), round, scenario, options.plan.json, network)?;
            ratios.push(ours.server_ns_per_packet / theirs.server_ns_per_packet);
        }
    }
    for (technique, ratios) in options.io.iter().zip(&mut ratios) {
        ratios.sort_by(f64::total_cmp);
        if let (Some(least), Some(most), false) = (ratios.first(), ratios.last(), options.plan.json) {
            let (name, median) = (Kind::Thirl(*technique).name(), ratios[ratios.len() / 2]);
            println!("{name} / coturn, CPU per packet: median {median:.2} (from {least:.2} to {most:.2})");
        }
    }
    Ok(())
}

fn measure(
    kind: Kind,
    round: usize,
    Scenario { n, payload, window, time }: Scenario,
    json: bool,
    network: &Network,
) -> Result<Figure, BenchError> {
    let server = Server::start(kind, network)?;
    let mut load = Load::set_up(server.addr, network.load_ip, n, payload, window)?;
    load.run(WARM_UP)?;
    let before = server.cpu_nanoseconds()?;
    let tally = load.run(time)?;
    let cpu = server.cpu_nanoseconds()? - before;
    if tally.relayed == 0 {
        return Err(server.error("it relayed nothing"));
    }
    let figure = Figure {
        server: server.name(),
        allocations: n,
        payload,
        round,
        packets: tally.relayed,
        packets_per_second: tally.relayed as f64 / tally.seconds,
        lost: tally.lost,
        server_ns_per_packet: cpu as f64 / tally.relayed as f64,
        resident_bytes: server.resident_bytes()?,
    };
    print(&figure, json)?;
    Ok(figure)
}

fn print(figure: &Figure, json: bool) -> Result<(), BenchError> {
    if json {
        let line = serde_json::to_string(figure).map_err(std::io::Error::from).context("writing JSON")?;
        println!("{line}");
    } else {
        println!(
            "{:<22}{:>6}{:>14.0}{:>14.0}{:>8}{:>12.1}",
            figure.server,
            figure.round,
            figure.packets_per_second,
            figure.server_ns_per_packet,
            figure.lost,
            figure.resident_bytes as f64 / 1_048_576.0
        );
    }
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
