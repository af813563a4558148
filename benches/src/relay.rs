//! `relay`: what a relayed packet costs the server, ours and coturn in turn.

use std::time::Duration;

use serde::Serialize;

use crate::load::Load;
use crate::server::{Kind, Server};
use crate::{BenchError, Context};

/// The load, the same for both sides.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Allocations, each with a channel to a peer of its own.
    #[arg(long, default_value_t = 100)]
    n: usize,
    /// Bytes of application data in a packet.
    #[arg(long, default_value_t = 160)]
    payload: usize,
    /// Packets under way at any time.
    #[arg(long, default_value_t = 64)]
    window: usize,
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Rounds; in each both sides run once.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Print one JSON line for each measurement instead of a table.
    #[arg(long)]
    json: bool,
}

/// One measurement.
#[derive(Debug, Serialize)]
struct Figure {
    server: &'static str,
    round: usize,
    packets: u64,
    packets_per_second: f64,
    lost: u64,
    server_ns_per_packet: f64,
    resident_bytes: u64,
}

/// Warming up: sockets' buffers, branch predictors, the server's tables.
const WARM_UP: Duration = Duration::from_millis(500);

pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    pin_to_the_other_core();
    if !options.json {
        println!(
            "{} allocations, {} B, window {}, echo over channels, loopback",
            options.n, options.payload, options.window
        );
        println!(
            "{:<12}{:>6}{:>14}{:>14}{:>8}{:>12}",
            "server", "round", "packets/s", "ns CPU/packet", "lost", "RSS MiB"
        );
    }
    let mut ratios = Vec::new();
    for round in 1..=options.rounds {
        let ours = measure(Kind::Thirl, round, options)?;
        let theirs = measure(Kind::Coturn, round, options)?;
        ratios.push(ours.server_ns_per_packet / theirs.server_ns_per_packet);
    }
    ratios.sort_by(f64::total_cmp);
    if let (Some(least), Some(most), false) = (ratios.first(), ratios.last(), options.json) {
        let median = ratios[ratios.len() / 2];
        println!("turn-relay / coturn, CPU per packet: median {median:.2} (from {least:.2} to {most:.2})");
    }
    Ok(())
}

fn measure(kind: Kind, round: usize, options: &Options) -> Result<Figure, BenchError> {
    let server = Server::start(kind)?;
    let mut load = Load::set_up(server.addr, options.n, options.payload, options.window)?;
    load.run(WARM_UP)?;
    let before = server.cpu_nanoseconds()?;
    let tally = load.run(Duration::from_secs(options.seconds))?;
    let cpu = server.cpu_nanoseconds()? - before;
    if tally.relayed == 0 {
        return Err(server.error("it relayed nothing"));
    }
    let figure = Figure {
        server: server.name(),
        round,
        packets: tally.relayed,
        packets_per_second: tally.relayed as f64 / tally.seconds,
        lost: tally.lost,
        server_ns_per_packet: cpu as f64 / tally.relayed as f64,
        resident_bytes: server.resident_bytes()?,
    };
    print(&figure, options.json)?;
    Ok(figure)
}

fn print(figure: &Figure, json: bool) -> Result<(), BenchError> {
    if json {
        let line = serde_json::to_string(figure).map_err(std::io::Error::from).context("writing JSON")?;
        println!("{line}");
    } else {
        println!(
            "{:<12}{:>6}{:>14.0}{:>14.0}{:>8}{:>12.1}",
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
    let pinned = std::process::Command::new("taskset").args(["-cp", "1", &this]).output();
    if !pinned.is_ok_and(|output| output.status.success()) {
        eprintln!("thirl-bench: the load could not be pinned to core 1; figures will be noisier");
    }
}
