//! `thirl nat`: what the network does to packets on their way out, and who will reach this machine.

use serde::Serialize;
use thirl_common::uri::ServerUri;
use thirl_ice_agent::nat::{Event, Options, Report, WebProbe, diagnose, discover_nat64, look_around};

use super::{print_json, print_line};
use crate::error::Failure;
use crate::resolve::{server_uri, udp_addresses};

/// Asked if no server is named: two operators, since it takes two addresses to tell what the mapping depends on.
const PUBLIC_SERVERS: [&str; 2] = ["stun:stun.cloudflare.com:3478", "stun:stun.l.google.com:19302"];

/// Asked for a known page if no server is named: of an operator whose STUN server is asked anyway.
const PUBLIC_WEB: &str = "cp.cloudflare.com";

/// The version of the JSON that is printed: `docs/nat-json.md`.
const JSON_VERSION: u32 = 1;

/// Columns where the terminal does not say (COLUMNS).
const WIDTH: usize = 80;

const AFTER_HELP: &str = "\
Exit codes:
  0  a server answered over UDP, and the report says what was found
  1  no server answered over UDP (there is a report all the same), or nothing could be asked
  2  the command line is wrong

The text uses no colour. It is broken into lines of $COLUMNS, or 80, columns.";

#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// A STUN server, as `stun:HOST[:PORT]` or HOST; may be repeated. Two addresses are needed to tell what the mapping
    /// depends on, or one server with two (RFC 5780), which filtering needs. Default: two public ones.
    #[arg(long = "server", value_name = "URI", value_parser = server_uri)]
    servers: Vec<ServerUri>,
    /// A page in the clear whose answer is known, to tell a captive portal by: `http://HOST[:PORT]/PATH`, or HOST for
    /// `http://HOST/generate_204`. TLS and QUIC are tried at its port 443. Default: a public one if no --server is
    /// named, else none.
    #[arg(long, value_name = "URL")]
    web: Option<WebProbe>,
    /// What the page of --web says, if it is not empty (status 204).
    #[arg(long, value_name = "TEXT", requires = "web")]
    web_body: Option<String>,
    /// Test hairpinning too: whether hosts behind the NAT reach each other by its external address. Some firewalls take
    /// the packets for an attack.
    #[arg(long)]
    hairpin: bool,
    /// Search for the time after which the NAT forgets a silent mapping. Takes up to ten minutes; standard error says
    /// what is waited for.
    #[arg(long)]
    lifetime: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Output<'a> {
    version: u32,
    #[serde(flatten)]
    report: &'a Report,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let (servers, web) = match arguments.servers {
        servers if servers.is_empty() => {
            let public = PUBLIC_SERVERS.iter().filter_map(|uri| uri.parse().ok()).collect();
            (public, arguments.web.or_else(|| PUBLIC_WEB.parse().ok()))
        }
        servers => (servers, arguments.web),
    };
    let web = web.map(|web| WebProbe { body: arguments.web_body, ..web });
    let (addresses, nat64) = tokio::join!(udp_addresses(&servers), discover_nat64());
    let options = Options { hairpin: arguments.hairpin, lifetime: arguments.lifetime, nat64: nat64.prefix };
    let addresses = match (addresses, &web) {
        // Behind a portal there may be no DNS: then the page may still tell.
        (Err(failure), Some(_)) => {
            tracing::warn!("{}", failure.words().unwrap_or_default());
            Vec::new()
        }
        (addresses, _) => addresses?,
    };
    let (report, surroundings) =
        tokio::join!(diagnose(&addresses, options, tell), look_around(&servers, web.as_ref(), nat64));
    let failed = |error| Failure::of("diagnosis", error);
    let report = report.map_err(failed)?.with_surroundings(surroundings.map_err(failed)?);
    match arguments.json {
        true => print_json(&Output { version: JSON_VERSION, report: &report })?,
        false => print_line(report.to_text(columns()).trim_end())?,
    }
    if report.is_reachable() { Ok(()) } else { Err(Failure::Reported) }
}

/// Progress, on standard error.
fn tell(event: Event) {
    if let Event::Waiting { what, at_most, .. } = event {
        eprintln!("thirl: finding out {}: {} s at the most", what.name(), at_most.as_secs());
    }
}

fn columns() -> usize {
    std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(WIDTH)
}
