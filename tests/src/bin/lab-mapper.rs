//! Keeps one mapping on the default gateway, and answers what comes through it as `lab-prober server` would.
//!
//! `lab-mapper IP PROTOCOL SECONDS` maps the port of a socket on its address IP by `pcp`, `nat-pmp`, `upnp` or `any`, for
//! so long at a time, and prints each event as a JSON object: `event` and what belongs to it. Lines on standard input:
//! `check`, `remove`.

use std::io::{self, BufRead as _};
use std::net::{IpAddr, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use thirl_common::net::Transport;
use thirl_ice_agent::port_mapping::driver::{PortMappings, default_gateway};
use thirl_ice_agent::port_mapping::{Event, MappingRequest, Protocol};
use tokio::sync::mpsc;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        [ip, protocol, seconds] => parse(ip, protocol, seconds).and_then(|(ip, protocol, lifetime)| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(keep(ip, protocol, lifetime))
        }),
        _ => Err(io::Error::other("usage: lab-mapper IP pcp|nat-pmp|upnp|any SECONDS")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-mapper: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(ip: &str, protocol: &str, seconds: &str) -> io::Result<(IpAddr, Option<Protocol>, Duration)> {
    let protocol = match protocol {
        "pcp" => Some(Protocol::Pcp),
        "nat-pmp" => Some(Protocol::NatPmp),
        "upnp" => Some(Protocol::Upnp),
        "any" => None,
        other => return Err(io::Error::other(format!("{other} is no protocol"))),
    };
    let lifetime = Duration::from_secs(seconds.parse().map_err(io::Error::other)?);
    Ok((ip.parse().map_err(io::Error::other)?, protocol, lifetime))
}

async fn keep(ip: IpAddr, protocol: Option<Protocol>, lifetime: Duration) -> io::Result<()> {
    let socket = UdpSocket::bind((ip, 0))?;
    let internal_port = socket.local_addr()?.port();
    thread::spawn(move || answer(&socket));
    let gateway =
        default_gateway(ip.is_ipv4()).ok_or_else(|| io::Error::other("no default gateway is known"))?;
    let mut mappings = PortMappings::bind(gateway, ip)?;
    let request = MappingRequest { lifetime, protocol, ..MappingRequest::new(Transport::Udp, internal_port) };
    let mapping = mappings.map(request);
    let mut orders = orders();
    loop {
        let event = tokio::select! {
            event = mappings.next_event() => event,
            order = orders.recv() => match order.as_deref() {
                Some("check") => { mappings.check(); continue }
                Some("remove") => { mappings.remove(mapping); continue }
                _ => return Ok(()),
            },
        };
        println!("{}", described(&event));
    }
}

fn orders() -> mpsc::Receiver<String> {
    let (sender, orders) = mpsc::channel(4);
    thread::spawn(move || {
        io::stdin().lock().lines().map_while(Result::ok).try_for_each(|line| sender.blocking_send(line)).ok()
    });
    orders
}

fn answer(socket: &UdpSocket) {
    let mut buffer = [0; 1500];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let Some((token, via)) = request.split_once(' ') else { continue };
        let _ = socket.send_to(format!("{token} {via} {from}").as_bytes(), from);
    }
}

fn described(event: &Event) -> Value {
    match event {
        Event::Found { protocol, external } => {
            json!({ "event": "found", "protocol": protocol.to_string(), "external": external })
        }
        Event::Missing { protocol, reason } => {
            json!({ "event": "missing", "protocol": protocol.to_string(), "reason": reason.to_string() })
        }
        Event::Mapped { protocol, external, lifetime, .. } => json!({
            "event": "mapped", "protocol": protocol.to_string(), "external": external, "lifetime": lifetime.as_secs(),
        }),
        Event::Renewed { lifetime, .. } => json!({ "event": "renewed", "lifetime": lifetime.as_secs() }),
        Event::Lost { .. } => json!({ "event": "lost" }),
        Event::Failed { reasons, .. } => {
            let reasons: Vec<_> = reasons.iter().map(|(by, why)| format!("{by}: {why}")).collect();
            json!({ "event": "failed", "reasons": reasons })
        }
        Event::Removed { result, .. } => json!({ "event": "removed", "confirmed": result.is_ok() }),
        other => json!({ "event": format!("{other:?}") }),
    }
}
