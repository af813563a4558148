//! How long relayed packets take while allocations come and go.

use serde::Serialize;

use super::{Options, Side, in_turn, print_json, sides};
use crate::BenchError;
use crate::load::{Churn, Load, Shape};
use crate::network::Network;
use crate::plan::WARM_UP;
use crate::server::Server;

/// A second, from clients of the allocations that stay to their peers.
const PACKETS: u32 = 20_000;

/// One measurement.
#[derive(Debug, Serialize)]
struct Figure {
    server: &'static str,
    allocations: usize,
    round: usize,
    packets: u64,
    lost: u64,
    served: u64,
    failed: u64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    greatest_us: f64,
}

pub(super) fn compare(shape: Shape, options: &Options, network: &Network) -> Result<(), BenchError> {
    if !options.plan.json {
        println!(
            "{:<22}{:>6}{:>10}{:>8}{:>11}{:>8}{:>10}{:>10}{:>10}{:>10}",
            "server",
            "round",
            "packets",
            "lost",
            "served",
            "failed",
            "p50 µs",
            "p99 µs",
            "p99.9 µs",
            "max µs"
        );
    }
    in_turn("p99.9", &sides(options, false), &options.plan, |side, round| {
        let figure = measure(side, round, shape, options, network)?;
        print(&figure, options.plan.json)?;
        Ok(figure.p999_us)
    })
}

fn measure(
    side: Side,
    round: usize,
    shape: Shape,
    options: &Options,
    network: &Network,
) -> Result<Figure, BenchError> {
    let mut load = Load::new(network, shape)?;
    let server = Server::start(side.kind(load.hosts(), shape.count), network)?;
    load.set_up(server.addr)?;
    load.run(1, WARM_UP)?;
    let churn = Churn { packets: PACKETS, allocations: options.come_and_go };
    let latencies = load.churn(churn, options.plan.time(), network)?;
    if latencies.arrived() == 0 {
        return Err(server.error("it relayed nothing"));
    }
    Ok(Figure {
        server: side.name(),
        allocations: shape.count,
        round,
        packets: latencies.arrived(),
        lost: latencies.lost,
        served: latencies.guests.served,
        failed: latencies.guests.failed,
        p50_us: latencies.per_mille(500),
        p99_us: latencies.per_mille(990),
        p999_us: latencies.per_mille(999),
        greatest_us: latencies.per_mille(1000),
    })
}

fn print(figure: &Figure, json: bool) -> Result<(), BenchError> {
    if json {
        return print_json(figure);
    }
    println!(
        "{:<22}{:>6}{:>10}{:>8}{:>11}{:>8}{:>10.0}{:>10.0}{:>10.0}{:>10.0}",
        figure.server,
        figure.round,
        figure.packets,
        figure.lost,
        figure.served,
        figure.failed,
        figure.p50_us,
        figure.p99_us,
        figure.p999_us,
        figure.greatest_us
    );
    Ok(())
}
