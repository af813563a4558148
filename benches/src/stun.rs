//! `stun`: how many Binding requests a server answers for a second of CPU time, ours and others in turn.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;
use thirl_common::io::{BindOptions, Event, IoOptions, Route, ShardIo};
use thirl_common::wire::{Class, HEADER_LEN, MessageWriter, Method, TransactionId};

use crate::network::{Network, Over};
use crate::plan::{Plan, WARM_UP};
use crate::relay::pin_to_the_other_core;
use crate::server::{Kind, Server};
use crate::{BenchError, Context, now};

/// The load, the same for all sides.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Clients, each with a socket of its own.
    #[arg(long, default_value_t = 32)]
    n: usize,
    /// Requests under way at any time.
    #[arg(long, default_value_t = 256)]
    window: usize,
    #[command(flatten)]
    plan: Plan,
}

/// One measurement.
#[derive(Debug, Serialize)]
struct Figure {
    server: &'static str,
    round: usize,
    responses: u64,
    responses_per_second: f64,
    lost: u64,
    /// Bytes of a response to a request of 20.
    response_bytes: usize,
    responses_per_cpu_second: f64,
    /// Of the measurement's time, how much the server was running.
    server_load: f64,
}

/// When nothing has arrived for so long, what was under way is taken for lost.
const STALL: Duration = Duration::from_millis(200);

pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    pin_to_the_other_core();
    let mut sides = vec![Kind::StunServer, Kind::CoturnStun];
    match Kind::Stuntman.is_installed() {
        true => sides.push(Kind::Stuntman),
        false => eprintln!("thirl-bench: stuntman's stunserver is not installed: left out"),
    }
    if !options.plan.json {
        println!("{} clients, {} requests under way, 20 B each, loopback", options.n, options.window);
        println!(
            "{:<12}{:>6}{:>14}{:>16}{:>10}{:>8}{:>10}",
            "server", "round", "responses/s", "resp./CPU s", "load", "lost", "B/resp."
        );
    }
    let mut figures = Vec::new();
    for round in 1..=options.plan.rounds {
        for &kind in &sides {
            let figure = measure(kind, round, options)?;
            print(&figure, options.plan.json)?;
            figures.push((kind, figure.responses_per_cpu_second));
        }
    }
    if !options.plan.json {
        summarize(&sides, &figures);
    }
    Ok(())
}

fn measure(kind: Kind, round: usize, options: &Options) -> Result<Figure, BenchError> {
    let network = Network::new(Over::Loopback)?;
    let server = Server::start(kind, &network)?;
    let mut load = Load::set_up(server.addr, options)?;
    load.run(WARM_UP)?;
    let before = server.cpu_nanoseconds()?;
    let tally = load.run(options.plan.time())?;
    let cpu = (server.cpu_nanoseconds()? - before) as f64 / 1e9;
    if tally.responses == 0 {
        return Err(server.error("it answered nothing"));
    }
    Ok(Figure {
        server: server.name(),
        round,
        responses: tally.responses,
        responses_per_second: tally.responses as f64 / tally.seconds,
        lost: tally.lost,
        response_bytes: tally.response_bytes,
        responses_per_cpu_second: tally.responses as f64 / cpu,
        server_load: cpu / tally.seconds,
    })
}

fn print(figure: &Figure, json: bool) -> Result<(), BenchError> {
    if json {
        let line = serde_json::to_string(figure).map_err(std::io::Error::from).context("writing JSON")?;
        println!("{line}");
    } else {
        println!(
            "{:<12}{:>6}{:>14.0}{:>16.0}{:>9.0}%{:>8}{:>10}",
            figure.server,
            figure.round,
            figure.responses_per_second,
            figure.responses_per_cpu_second,
            figure.server_load * 100.0,
            figure.lost,
            figure.response_bytes
        );
    }
    Ok(())
}

/// The median of each side, and ours over it in the same round.
fn summarize(sides: &[Kind], figures: &[(Kind, f64)]) {
    let of = |kind: Kind| figures.iter().filter(move |(of, _)| *of == kind).map(|(_, rate)| *rate);
    for &kind in sides {
        let rate = median(of(kind).collect());
        let ratio = median(of(Kind::StunServer).zip(of(kind)).map(|(ours, theirs)| ours / theirs).collect());
        println!("{}: median {rate:.0} responses per CPU second; stun-server / it: {ratio:.2}", kind.name());
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What was answered in a measurement.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    responses: u64,
    lost: u64,
    response_bytes: usize,
    seconds: f64,
}

/// Clients that ask again as soon as they are answered, all in one thread.
struct Load {
    io: ShardIo,
    events: Vec<Event>,
    /// How each client's request leaves.
    routes: Vec<Route>,
    request: [u8; HEADER_LEN],
    window: usize,
    in_flight: usize,
    next: usize,
}

impl Load {
    fn set_up(server: SocketAddr, options: &Options) -> Result<Load, BenchError> {
        let mut io = ShardIo::new(IoOptions { max_datagram: 2048, ..IoOptions::default() })
            .context("the load's sockets")?;
        let mut routes = Vec::new();
        for token in 0..options.n.max(1) as u64 {
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let socket = BindOptions::default().bind(any).context("binding a socket of the load")?;
            let socket = io.add(socket, token).context("watching a socket of the load")?;
            routes.push(Route { socket, to: server, source: None });
        }
        let mut request = [0; HEADER_LEN];
        if MessageWriter::new(&mut request, Class::Request, Method::BINDING, TransactionId([7; 12])).is_err()
        {
            return Err(BenchError::Figures("a Binding request does not fit its header".to_owned()));
        }
        Ok(Load { io, events: Vec::new(), routes, request, window: options.window, in_flight: 0, next: 0 })
    }

    /// Keeps `window` requests under way for `time`.
    fn run(&mut self, time: Duration) -> Result<Tally, BenchError> {
        let begun = now();
        let mut tally = Tally::default();
        let mut heard = begun;
        loop {
            let time_now = now();
            if time_now >= begun + time {
                tally.seconds = (time_now - begun).as_secs_f64();
                return Ok(tally);
            }
            if time_now - heard > STALL {
                tally.lost += self.in_flight as u64;
                self.in_flight = 0;
                heard = time_now;
            }
            while self.in_flight < self.window {
                self.io.send(self.routes[self.next % self.routes.len()], &self.request);
                self.next += 1;
                self.in_flight += 1;
            }
            self.io.turn(Some(Duration::from_millis(20)), &mut self.events).context("waiting for packets")?;
            for index in 0..self.io.received_len() {
                let Some(datagram) = self.io.received(index) else { break };
                if datagram.payload.starts_with(&[0x01, 0x01]) {
                    tally.responses += 1;
                    tally.response_bytes = datagram.payload.len();
                    self.in_flight = self.in_flight.saturating_sub(1);
                    heard = time_now;
                }
            }
        }
    }
}
