//! `thirl ice`: an ICE end for scripts.
//!
//! It prints its description as one JSON line, reads the other side's from standard input, connects, and prints which
//! pair was selected. Then it sends what `--send` asks and counts the echoes, or echoes what it receives. With `--every`
//! both sides send all the time, from when the first pair works (`flow`), and what becomes of the path is printed.

mod flow;
mod signalling;

use std::time::{Duration, Instant};

use serde::Serialize;
use thirl_common::net::Transport;
use thirl_common::uri::ServerUri;
use thirl_ice_agent::agent::{HardNats, PathKind, Role};
use thirl_ice_agent::driver::{IceAgent, Path};
use tokio::time::timeout;

use super::node::PolicyArgument;
use super::outward::OutwardArguments;
use super::print_json;
use crate::error::Failure;
use signalling::Signalling;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which side nominates.
    #[arg(long, value_enum)]
    role: RoleArgument,
    /// A STUN server, `stun:HOST[:PORT]`; may be repeated.
    #[arg(long, value_name = "URI")]
    stun: Vec<ServerUri>,
    /// A TURN server, `turn:HOST[:PORT][?transport=tcp]`, or over TLS `turns:HOST[:PORT]`, with `?transport=udp` over
    /// DTLS; may be repeated.
    #[arg(long, value_name = "URI", requires = "user", requires = "password")]
    turn: Vec<ServerUri>,
    /// User on the TURN servers: one for all of them, or one for each in their order.
    #[arg(long)]
    user: Vec<String>,
    /// That user's password.
    #[arg(long)]
    password: Vec<String>,
    #[command(flatten)]
    outward: OutwardArguments,
    /// Which candidates may be used.
    #[arg(long, value_enum, default_value_t = PolicyArgument::All)]
    policy: PolicyArgument,
    /// Do no more for hard NATs than standard ICE: no port prediction, no birthday probing, no optimistic candidates.
    #[arg(long)]
    no_hard_nats: bool,
    /// Send so many datagrams, each after the echo of the one before, and print {"echoed"}. Without it, echo.
    #[arg(long, value_name = "N", default_value_t = 0)]
    send: u64,
    /// Print the description at once, and each candidate as a line {"candidate"} when it is found, then {"candidate":null};
    /// read such lines as well.
    #[arg(long)]
    trickle: bool,
    /// Send a numbered datagram every so many milliseconds, from when a pair works until standard input ends, and print
    /// {"first_data_ms"}, each {"selected"} and at the end {"sent","received","lost","path","report"}.
    #[arg(long, value_name = "MS", conflicts_with = "send", value_parser = clap::value_parser!(u16).range(1..))]
    every: Option<u16>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum RoleArgument {
    Controlling,
    Controlled,
}

/// Printed when connected.
#[derive(Serialize)]
struct Connected {
    state: &'static str,
    local: String,
    remote: String,
    path: PathKind,
    connect_ms: f64,
}

#[derive(Serialize)]
struct Echoed {
    echoed: u64,
}

/// Whoever echoes is done when the other side has been silent for so long.
const SILENCE: Duration = Duration::from_secs(3);

/// An echo is waited for so long.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let agent = start(&arguments).await?;
    print_json(&agent.description())?;
    // Before the peer is known, so that nothing is missed.
    let events = agent.events();
    let mut signalling = Signalling::new(arguments.trickle);
    signalling.read_description(&agent).await?;
    let begun = now();
    let ended = signalling.run(&agent);
    if let Some(every) = arguments.every {
        let done = flow::run(&agent, events, Duration::from_millis(every.into()), begun, ended).await;
        agent.close().await;
        return done;
    }
    let path = match agent.connect().await {
        Ok(path) => path,
        Err(error) => {
            eprintln!("{error}");
            return Err(Failure::Reported);
        }
    };
    let connect_ms = begun.elapsed().as_secs_f64() * 1000.0;
    let (local, remote) = (path.local().to_string(), path.remote().to_string());
    print_json(&Connected { state: "connected", local, remote, path: path.kind(), connect_ms })?;
    let done = match arguments.send {
        0 => echo(&path).await,
        count => send(&path, count).await,
    };
    agent.close().await;
    done
}

async fn start(arguments: &Arguments) -> Result<IceAgent, Failure> {
    let role = match arguments.role {
        RoleArgument::Controlling => Role::Controlling,
        RoleArgument::Controlled => Role::Controlled,
    };
    let mut builder = IceAgent::builder().role(role).policy(arguments.policy.into());
    if arguments.no_hard_nats {
        builder = builder.hard_nats(HardNats::OFF);
    }
    for uri in &arguments.stun {
        builder = builder.stun(uri.clone());
    }
    if arguments.turn.iter().any(|uri| uri.transport() != Transport::Udp) {
        builder = builder.outward(arguments.outward.outward()?);
    }
    for (number, uri) in arguments.turn.iter().enumerate() {
        let user = one_of(&arguments.user, number, arguments.turn.len(), "--user")?;
        let password = one_of(&arguments.password, number, arguments.turn.len(), "--password")?;
        builder = builder.turn(uri.clone(), user, password);
    }
    let started = if arguments.trickle { builder.start().await } else { builder.gather().await };
    started.map_err(|error| Failure::Failed(error.to_string()))
}

/// One value for all, or one for each.
fn one_of<'a>(values: &'a [String], number: usize, servers: usize, flag: &str) -> Result<&'a str, Failure> {
    match values {
        [one] => Ok(one),
        values if values.len() == servers => Ok(&values[number]),
        _ => Err(Failure::Usage(format!("give {flag} once, or once for each --turn"))),
    }
}

async fn send(path: &Path, count: u64) -> Result<(), Failure> {
    let mut echoed = 0;
    for number in 0..count {
        let sent = format!("thirl {number}");
        path.send(sent.as_bytes()).await.map_err(|error| Failure::Failed(error.to_string()))?;
        match timeout(PATIENCE, path.recv_datagram()).await {
            Ok(Ok(datagram)) => echoed += u64::from(datagram == sent.as_bytes()),
            Ok(Err(error)) => return Err(Failure::Failed(error.to_string())),
            Err(_) => eprintln!("datagram {number} was not echoed"),
        }
    }
    print_json(&Echoed { echoed })
}

/// Until the path is gone or, once something has come, the other side is silent.
async fn echo(path: &Path) -> Result<(), Failure> {
    let mut received = path.recv_datagram().await;
    while let Ok(datagram) = received {
        if path.send(&datagram).await.is_err() {
            break;
        }
        received = match timeout(SILENCE, path.recv_datagram()).await {
            Ok(received) => received,
            Err(_) => break,
        };
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a driver reads the clock")]
fn now() -> Instant {
    Instant::now()
}
