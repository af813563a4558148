//! What an allocation costs: CPU time to make it, its channel, and to end it; memory while it is there, and after.

use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::{Options, Side, in_turn, print_json, sides};
use crate::load::{Load, Shape};
use crate::network::Network;
use crate::server::Server;
use crate::{BenchError, now};

/// How long the server is left alone until its memory is looked at.
const REST: Duration = Duration::from_secs(4);

/// One measurement.
#[derive(Debug, Serialize)]
struct Figure {
    server: &'static str,
    allocations: usize,
    round: usize,
    allocations_per_cpu_second: f64,
    us_per_allocation: f64,
    us_per_channel: f64,
    us_per_release: f64,
    /// With a channel; what the kernel keeps of sockets is not in it.
    resident_bytes_per_allocation: f64,
    resident_bytes_before: u64,
    resident_bytes_after: u64,
}

pub(super) fn compare(shape: Shape, options: &Options, network: &Network) -> Result<(), BenchError> {
    if !options.plan.json {
        println!(
            "{:<22}{:>6}{:>12}{:>10}{:>12}{:>12}{:>12}{:>12}{:>12}",
            "server",
            "round",
            "alloc/CPU s",
            "µs/alloc",
            "µs/channel",
            "µs/release",
            "B/alloc",
            "MiB before",
            "MiB after"
        );
    }
    in_turn("CPU per allocation", &sides(options, false), &options.plan, |side, round| {
        let figure = measure(side, round, shape, network)?;
        print(&figure, options.plan.json)?;
        Ok(figure.us_per_allocation)
    })
}

fn measure(side: Side, round: usize, shape: Shape, network: &Network) -> Result<Figure, BenchError> {
    let mut load = Load::new(network, shape)?;
    let server = Server::start(side.kind(load.hosts(), shape.count), network)?;
    let count = shape.count as f64;
    let resident_bytes_before = server.resident_bytes()?;
    let mut cpu = server.cpu_nanoseconds()?;
    let mut lap = || -> Result<f64, BenchError> {
        let before = std::mem::replace(&mut cpu, server.cpu_nanoseconds()?);
        Ok((cpu - before) as f64 / 1e3 / count)
    };
    load.allocate(server.addr)?;
    let us_per_allocation = lap()?;
    load.bind()?;
    let us_per_channel = lap()?;
    let there = server.resident_bytes()?.saturating_sub(resident_bytes_before);
    load.release()?;
    let us_per_release = lap()?;
    rest();
    Ok(Figure {
        server: side.name(),
        allocations: shape.count,
        round,
        allocations_per_cpu_second: 1e6 / us_per_allocation,
        us_per_allocation,
        us_per_channel,
        us_per_release,
        resident_bytes_per_allocation: there as f64 / count,
        resident_bytes_before,
        resident_bytes_after: server.resident_bytes()?,
    })
}

fn rest() {
    let end = now() + REST;
    while now() < end {
        thread::park_timeout(end - now());
    }
}

fn print(figure: &Figure, json: bool) -> Result<(), BenchError> {
    if json {
        return print_json(figure);
    }
    println!(
        "{:<22}{:>6}{:>12.0}{:>10.1}{:>12.1}{:>12.1}{:>12.0}{:>12.1}{:>12.1}",
        figure.server,
        figure.round,
        figure.allocations_per_cpu_second,
        figure.us_per_allocation,
        figure.us_per_channel,
        figure.us_per_release,
        figure.resident_bytes_per_allocation,
        figure.resident_bytes_before as f64 / 1_048_576.0,
        figure.resident_bytes_after as f64 / 1_048_576.0,
    );
    Ok(())
}
