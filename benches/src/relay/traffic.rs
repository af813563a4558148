//! CPU per relayed packet.

use serde::Serialize;

use super::{Options, Scenario, Side, in_turn, print_json, sides};
use crate::BenchError;
use crate::load::{Load, Shape};
use crate::network::Network;
use crate::plan::WARM_UP;
use crate::server::Server;

/// One measurement.
#[derive(Debug, Serialize)]
struct Figure {
    scenario: Scenario,
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

pub(super) fn compare(
    scenario: Scenario,
    shape: Shape,
    window: usize,
    options: &Options,
    network: &Network,
) -> Result<(), BenchError> {
    if !options.plan.json {
        println!(
            "{:<22}{:>6}{:>14}{:>14}{:>8}{:>12}",
            "server", "round", "packets/s", "ns CPU/packet", "lost", "RSS MiB"
        );
    }
    let sides = sides(options, scenario.has_bare_forwarder());
    in_turn("CPU per packet", &sides, &options.plan, |side, round| {
        let shape = Shape { bare: side.is_bare(), ..shape };
        let figure = measure(scenario, side, round, shape, window, options, network)?;
        print(&figure, options.plan.json)?;
        Ok(figure.server_ns_per_packet)
    })
}

fn measure(
    scenario: Scenario,
    side: Side,
    round: usize,
    shape: Shape,
    window: usize,
    options: &Options,
    network: &Network,
) -> Result<Figure, BenchError> {
    let mut load = Load::new(network, shape)?;
    let server = Server::start(side.kind(load.hosts(), shape.count), network)?;
    load.set_up(server.addr)?;
    load.run(window, WARM_UP)?;
    let before = server.cpu_nanoseconds()?;
    let tally = load.run(window, options.plan.time())?;
    let cpu = server.cpu_nanoseconds()? - before;
    if tally.relayed == 0 {
        return Err(server.error("it relayed nothing"));
    }
    Ok(Figure {
        scenario,
        server: side.name(),
        allocations: shape.count,
        payload: shape.payload,
        round,
        packets: tally.relayed,
        packets_per_second: tally.relayed as f64 / tally.seconds,
        lost: tally.lost,
        server_ns_per_packet: cpu as f64 / tally.relayed as f64,
        resident_bytes: server.resident_bytes()?,
    })
}

fn print(figure: &Figure, json: bool) -> Result<(), BenchError> {
    if json {
        return print_json(figure);
    }
    println!(
        "{:<22}{:>6}{:>14.0}{:>14.0}{:>8}{:>12.1}",
        figure.server,
        figure.round,
        figure.packets_per_second,
        figure.server_ns_per_packet,
        figure.lost,
        figure.resident_bytes as f64 / 1_048_576.0
    );
    Ok(())
}
