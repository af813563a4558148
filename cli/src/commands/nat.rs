//! `thirl nat`: what the network does to packets on their way out.

use serde::Serialize;
use thirl_common::uri::ServerUri;
use thirl_ice_agent::nat::{Diagnosis, diagnose};

use super::{print_json, print_line};
use crate::error::Failure;
use crate::resolve::{server_uri, udp_addresses};

/// Asked if no server is named: two operators, since it takes two addresses to tell what the mapping depends on.
const PUBLIC_SERVERS: [&str; 2] = ["stun:stun.cloudflare.com:3478", "stun:stun.l.google.com:19302"];

/// The version of the JSON that is printed.
const JSON_VERSION: u32 = 1;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A STUN server, as `stun:HOST[:PORT]` or HOST; may be repeated. Two addresses are needed to tell what the mapping
    /// depends on, or one server with two (RFC 5780). Default: two public ones.
    #[arg(long = "server", value_name = "URI", value_parser = server_uri)]
    servers: Vec<ServerUri>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Output<'a> {
    version: u32,
    udp: &'a Diagnosis,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let servers = match arguments.servers {
        servers if servers.is_empty() => PUBLIC_SERVERS.iter().filter_map(|uri| uri.parse().ok()).collect(),
        servers => servers,
    };
    let addresses = udp_addresses(&servers).await?;
    let diagnosis = diagnose(&addresses).await.map_err(|error| Failure::of("diagnosis", error))?;
    match arguments.json {
        true => print_json(&Output { version: JSON_VERSION, udp: &diagnosis })?,
        false => print_line(diagnosis.to_string().trim_end())?,
    }
    if diagnosis.is_reachable() { Ok(()) } else { Err(Failure::Reported) }
}
