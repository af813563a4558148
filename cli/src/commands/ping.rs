//! `thirl ping`: connects to the node of a ticket and measures round trips.

use std::time::{Duration, Instant};

use serde::Serialize;
use thirl_overlay::Ticket;
use thirl_overlay::node::{Connection, DialError, PathDescription};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::node::NodeArguments;
use super::{print_json, print_line};
use crate::error::Failure;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What `thirl listen` printed.
    ticket: Ticket,
    /// How many pings. Default: until interrupted.
    #[arg(long, short = 'n')]
    count: Option<u64>,
    /// Seconds from ping to ping.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    interval: f64,
    #[command(flatten)]
    node: NodeArguments,
    /// Print one JSON line for each answer.
    #[arg(long)]
    json: bool,
}

/// An answer is waited for so long.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Answer {
    seq: u64,
    rtt_ms: f64,
    #[serde(flatten)]
    path: PathDescription,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("give seconds from 0.01 to 3600".to_owned()),
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let node = arguments.node.start(arguments.ticket.servers()).await?;
    let connection = tokio::select! {
        connection = node.dial(arguments.ticket.node()) => connection.map_err(|error| no_connection(&error))?,
        signal = super::interrupted() => return Err(Failure::Failed(signal.to_string())),
    };
    let mut statistics = Statistics::default();
    let outcome = tokio::select! {
        outcome = pings(&connection, &arguments, &mut statistics) => outcome,
        _ = super::interrupted() => Ok(()),
    };
    if !arguments.json {
        eprintln!("{statistics}");
    }
    connection.close().await;
    outcome?;
    if statistics.answered > 0 { Ok(()) } else { Err(Failure::Reported) }
}

/// The agent's report says in words what was tried.
fn no_connection(error: &DialError) -> Failure {
    Failure::Failed(format!("no connection: {error}"))
}

async fn pings(
    connection: &Connection,
    arguments: &Arguments,
    statistics: &mut Statistics,
) -> Result<(), Failure> {
    let mut ticks = interval(Duration::from_secs_f64(arguments.interval));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seq = 0;
    while arguments.count.is_none_or(|count| seq < count) {
        ticks.tick().await;
        seq += 1;
        statistics.sent += 1;
        match timeout(PATIENCE, ping(connection, seq)).await {
            Ok(Ok(rtt)) => {
                statistics.answered += 1;
                statistics.round_trips.push(rtt);
                print(
                    &Answer { seq, rtt_ms: (rtt * 1000.0).round() / 1000.0, path: connection.describe() },
                    arguments.json,
                )?;
            }
            Ok(Err(closed)) => return Err(Failure::Failed(closed.to_string())),
            Err(_) => eprintln!("ping {seq}: no answer within {} s", PATIENCE.as_secs()),
        }
    }
    Ok(())
}

/// Sends one ping and waits for its echo; milliseconds.
async fn ping(connection: &Connection, seq: u64) -> Result<f64, thirl_ice_agent::driver::PathClosed> {
    let begun = now();
    connection.path().send(&seq.to_be_bytes()).await?;
    loop {
        // An echo of an earlier ping, which was given up, is none of this one.
        if connection.path().recv_datagram().await? == seq.to_be_bytes()[..] {
            return Ok(begun.elapsed().as_secs_f64() * 1000.0);
        }
    }
}

fn print(answer: &Answer, json: bool) -> Result<(), Failure> {
    match json {
        true => print_json(answer),
        false => print_line(&format!("ping {}: {:.2} ms  {}", answer.seq, answer.rtt_ms, answer.path)),
    }
}

#[derive(Default)]
struct Statistics {
    sent: u64,
    answered: u64,
    round_trips: Vec<f64>,
}

impl std::fmt::Display for Statistics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sent, {} answered", self.sent, self.answered)?;
        let mut sorted = self.round_trips.clone();
        sorted.sort_by(f64::total_cmp);
        match (sorted.first(), sorted.get(sorted.len() / 2), sorted.last()) {
            (Some(least), Some(median), Some(most)) => {
                write!(f, "; round trip {least:.2} / {median:.2} / {most:.2} ms (least / median / most)")
            }
            _ => Ok(()),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a driver reads the clock")]
fn now() -> Instant {
    Instant::now()
}
