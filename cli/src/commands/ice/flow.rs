//! `thirl ice --every`: both ends send numbered datagrams, and count what is missing of the other's.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;
use thirl_ice_agent::agent::Event;
use thirl_ice_agent::driver::{IceAgent, Path};
use tokio::sync::{broadcast, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::print_json;
use crate::error::Failure;

/// What is still on its way when standard input ends gets so long.
const TAIL: Duration = Duration::from_millis(500);

/// Before each number: other datagrams do not count.
const WORD: &[u8] = b"thirl ";

pub(super) async fn run(
    agent: &IceAgent,
    mut events: broadcast::Receiver<Event>,
    every: Duration,
    begun: Instant,
    mut ended: oneshot::Receiver<()>,
) -> Result<(), Failure> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut path, mut sent, mut arrivals) = (None::<Path>, 0_u64, Arrivals::default());
    let milliseconds = || (begun.elapsed().as_secs_f64() * 1e6).round() / 1e3;
    loop {
        tokio::select! {
            _ = &mut ended => break,
            working = agent.connect_early(), if path.is_none() => match working {
                Ok(working) => { ticks.reset_immediately(); path = Some(working); }
                Err(error) => return failed(agent, &error),
            },
            _ = ticks.tick() => if let Some(path) = &path {
                let datagram = [WORD, sent.to_string().as_bytes()].concat();
                path.send(&datagram).await.map_err(|error| Failure::Failed(error.to_string()))?;
                sent += 1;
            },
            datagram = receive(path.as_ref()) => {
                let first = arrivals.received == 0;
                arrivals.note(&datagram?);
                if first && arrivals.received == 1 {
                    print_json(&json!({ "first_data_ms": milliseconds() }))?;
                }
            },
            // Some may be missed. The sender lives as long as the agent.
            event = events.recv() => if let Ok(event) = event { tell(&event, milliseconds())? },
        }
    }
    let Some(path) = path else { return failed(agent, &"standard input ended before a pair worked") };
    while let Ok(datagram) = timeout(TAIL, receive(Some(&path))).await {
        arrivals.note(&datagram?);
    }
    print_json(&json!({
        "sent": sent, "received": arrivals.received, "lost": arrivals.lost(), "path": path.kind(),
        "report": agent.report().to_string(),
    }))
}

fn tell(event: &Event, ms: f64) -> Result<(), Failure> {
    match event {
        Event::Selected(pair) => print_json(&json!({
            "selected": pair.path, "ms": ms, "local": pair.local.to_string(), "remote": pair.remote.to_string(),
        })),
        Event::PathChanged { why, .. } => print_json(&json!({ "changed": why, "ms": ms })),
        _ => Ok(()),
    }
}

async fn receive(path: Option<&Path>) -> Result<Vec<u8>, Failure> {
    match path {
        Some(path) => {
            path.recv_datagram().await.map(Into::into).map_err(|error| Failure::Failed(error.to_string()))
        }
        None => std::future::pending().await,
    }
}

fn failed(agent: &IceAgent, why: &dyn std::fmt::Display) -> Result<(), Failure> {
    eprintln!("{why}\n{}", agent.report());
    Err(Failure::Reported)
}

/// The other side's datagrams.
#[derive(Default)]
struct Arrivals {
    received: u64,
    /// The lowest and the highest number.
    range: Option<(u64, u64)>,
    /// The latest numbers: what comes twice counts once.
    latest: BTreeSet<u64>,
}

impl Arrivals {
    /// Nothing is delayed by more datagrams than this.
    const WINDOW: usize = 4096;

    fn note(&mut self, datagram: &[u8]) {
        let number = datagram.strip_prefix(WORD).and_then(|number| str::from_utf8(number).ok()?.parse().ok());
        let Some(number) = number.filter(|number| self.latest.insert(*number)) else { return };
        let (first, last) = self.range.unwrap_or((number, number));
        self.range = Some((first.min(number), last.max(number)));
        self.received += 1;
        if self.latest.len() > Self::WINDOW {
            self.latest.pop_first();
        }
    }

    /// How many are missing between the first and the last that came.
    fn lost(&self) -> u64 {
        self.range.map_or(0, |(first, last)| (last - first + 1).saturating_sub(self.received))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_in_between_is_lost() {
        let mut arrivals = Arrivals::default();
        for text in ["thirl 3", "thirl 4", "thirl 7", "thirl 6", "thirl 6", "others", "thirl x", "thirl 9"] {
            arrivals.note(text.as_bytes());
        }
        assert_eq!((arrivals.received, arrivals.lost()), (5, 2), "5 and 8 are missing");
    }
}
