//! An ICE agent with its driver, whose peer is another of this kind; the test carries what they tell each other.
//!
//! `lab-peer controlling|controlled [mdns] [URI [USER PASSWORD]]` gathers with that server, tells names in place of addresses
//! if so told, and prints `{"description": …}`, then
//! `{"candidate": …}`, `{"state": …}` and `{"selected": …, "kind": …}` as they come. Orders on standard input, one a line:
//!
//! - `{"description": …}` and `{"candidate": …}`: the peer's; with a path it sends a datagram every 20 ms;
//! - `"mark"`: what `"tell"` says is counted from now on;
//! - `"tell"`: prints `{"received": …, "longest_gap_ms": …, "silent_ms": …}`;
//! - `"silence"` and `"talk"`: stops sending, and goes on, which is a mark too: the silence does not count;
//! - `"report"`: prints `{"report": …}`, in words.

use std::error::Error;
use std::io::{self, BufRead as _};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use thirl_ice_agent::agent::Event;
use thirl_ice_agent::driver::{Builder, Description, IceAgent, Path};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

/// As a voice call sends.
const INTERVAL: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Box::from)
        .and_then(|runtime| runtime.block_on(async { converse(builder(&words)?).await }));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-peer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn builder(words: &[&str]) -> Result<Builder, Box<dyn Error>> {
    let usage = || Box::from("usage: lab-peer controlling|controlled [mdns] [URI [USER PASSWORD]]");
    let (role, servers) = words.split_first().ok_or_else(usage)?;
    let builder = match *role {
        "controlling" => IceAgent::builder().controlling(),
        "controlled" => IceAgent::builder().controlled(),
        _ => return Err(usage()),
    };
    let (builder, servers) = match servers.split_first() {
        Some((&"mdns", servers)) => (builder.mdns(true), servers),
        _ => (builder, servers),
    };
    match servers {
        [] => Ok(builder),
        [uri] => Ok(builder.stun(uri.parse()?)),
        [uri, user, password] => Ok(builder.turn(uri.parse()?, *user, *password)),
        _ => Err(usage()),
    }
}

async fn converse(builder: Builder) -> Result<(), Box<dyn Error>> {
    let agent = builder.gather().await?;
    let mut events = agent.events();
    println!("{}", json!({ "description": agent.description() }));
    let mut orders = orders();
    let mut traffic = Traffic::new();
    let mut buffer = [0; 2048];
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => obey(&agent, &mut traffic, &order)?,
                None => return Ok(()),
            },
            event = events.recv() => tell(&event?),
            path = agent.connect(), if traffic.path.is_none() && traffic.peer_known => traffic.path = Some(path?),
            _ = traffic.ticks.tick() => traffic.send().await?,
            received = receive(traffic.path.as_ref(), &mut buffer) => traffic.received(received?),
        }
    }
}

async fn receive(path: Option<&Path>, buffer: &mut [u8]) -> Result<usize, Box<dyn Error>> {
    match path {
        Some(path) => Ok(path.recv(buffer).await?),
        None => std::future::pending().await,
    }
}

fn obey(agent: &IceAgent, traffic: &mut Traffic, order: &Value) -> Result<(), Box<dyn Error>> {
    match order.as_str() {
        Some("mark") => traffic.window = Window::new(traffic.window.last),
        Some("tell") => println!("{}", traffic.window.told()),
        Some("silence") => traffic.silent = true,
        Some("talk") => {
            traffic.silent = false;
            traffic.window = Window::new(now());
        }
        Some("report") => println!("{}", json!({ "report": agent.report().to_string() })),
        Some(_) => return Err(format!("{order} is no order").into()),
        None => {
            if let Some(description) = order.get("description") {
                agent.set_remote(&serde_json::from_value::<Description>(description.clone())?)?;
                traffic.peer_known = true;
            }
            if let Some(line) = order.get("candidate").and_then(Value::as_str) {
                agent.add_remote_candidate(line)?;
            }
        }
    }
    Ok(())
}

fn tell(event: &Event) {
    match event {
        Event::LocalCandidate(candidate) => println!("{}", json!({ "candidate": candidate.to_string() })),
        Event::StateChanged(state) => println!("{}", json!({ "state": state })),
        Event::Selected(pair) => {
            println!(
                "{}",
                json!({ "selected": format!("{} -> {}", pair.local, pair.remote), "kind": pair.path })
            );
        }
        _ => {}
    }
}

fn orders() -> mpsc::Receiver<Value> {
    let (sender, orders) = mpsc::channel(4);
    thread::spawn(move || {
        let lines = io::stdin().lock().lines().map_while(Result::ok);
        lines
            .filter_map(|line| serde_json::from_str(&line).ok())
            .try_for_each(|order| sender.blocking_send(order))
            .ok()
    });
    orders
}

/// What is sent, and what comes.
struct Traffic {
    path: Option<Path>,
    peer_known: bool,
    silent: bool,
    ticks: tokio::time::Interval,
    window: Window,
}

impl Traffic {
    fn new() -> Traffic {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Traffic { path: None, peer_known: false, silent: false, ticks, window: Window::new(now()) }
    }

    async fn send(&mut self) -> Result<(), Box<dyn Error>> {
        match self.path.as_ref().filter(|_| !self.silent) {
            Some(path) => Ok(path.send(b"a datagram").await?),
            None => Ok(()),
        }
    }

    fn received(&mut self, _len: usize) {
        self.window.received(now());
    }
}

/// Since the last mark.
struct Window {
    received: u64,
    last: Instant,
    longest: Duration,
}

impl Window {
    fn new(last: Instant) -> Window {
        Window { received: 0, last, longest: Duration::ZERO }
    }

    fn received(&mut self, now: Instant) {
        self.received += 1;
        self.longest = self.longest.max(now.saturating_duration_since(self.last));
        self.last = now;
    }

    fn told(&self) -> Value {
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        json!({
            "received": self.received,
            "longest_gap_ms": milliseconds(self.longest),
            "silent_ms": milliseconds(now().saturating_duration_since(self.last)),
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "it measures real time")]
fn now() -> Instant {
    Instant::now()
}
