//! `thirl nat`: what the network does to packets on their way out, and who will reach this machine.

mod against;
mod progress;

use std::future::Future;
use std::net::IpAddr;

use serde::Serialize;
use thirl_common::uri::ServerUri;
use thirl_ice_agent::nat::{
    Options, PairReport, Report, Surroundings, WebProbe, diagnose, discover_nat64, look_around,
};
use thirl_overlay::Ticket;
use tokio::sync::watch;

use super::node::PolicyArgument;
use super::{print_json, print_line};
use crate::error::Failure;
use crate::resolve::{Unresolved, server_uri, udp_addresses};
use progress::Progress;

/// Asked if no server is named: two operators, since it takes two addresses to tell what the mapping depends on.
const PUBLIC_SERVERS: [&str; 2] = ["stun:stun.cloudflare.com:3478", "stun:stun.l.google.com:19302"];

/// Asked for a known page if no server is named: of an operator whose STUN server is asked anyway.
const PUBLIC_WEB: &str = "cp.cloudflare.com";

/// The version of the JSON that is printed: `docs/nat-json.md`.
const JSON_VERSION: u32 = 1;

/// Columns where neither the terminal nor COLUMNS says.
const WIDTH: usize = 80;

const AFTER_HELP: &str = "\
Exit codes:
  0  a server answered over UDP, and the report says what was found; with --against: there is a path
  1  no server answered over UDP (there is a report all the same), or nothing could be asked; with --against: there is no
     path, or the other side is not there
  2  the command line is wrong

The text uses no colour. It is broken into lines as long as the terminal is wide; elsewhere of $COLUMNS, or 80, columns.";

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
    /// Judge the pair of this machine and the one whose `thirl listen` printed this ticket: both sides measure, and then
    /// the path is tried. The servers of the ticket are asked, beside those of --server.
    #[arg(long, value_name = "TICKET")]
    against: Option<Ticket>,
    /// With --against, which candidates may be used: `relay` hides this machine's addresses from the other side.
    /// Default: all.
    #[arg(long, value_enum, requires = "against")]
    policy: Option<PolicyArgument>,
    /// Test hairpinning too: whether hosts behind the NAT reach each other by its external address. Some firewalls take
    /// the packets for an attack.
    #[arg(long)]
    hairpin: bool,
    /// Search for the time after which the NAT forgets a silent mapping. Takes up to ten minutes; standard error says
    /// what is waited for.
    #[arg(long)]
    lifetime: bool,
    /// Ask this router for port mapping (PCP, NAT-PMP, UPnP) instead of the default gateway.
    #[arg(long, value_name = "IP")]
    gateway: Option<IpAddr>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Output<'a> {
    version: u32,
    #[serde(flatten)]
    report: &'a Report,
    unresolved: &'a [Unresolved],
    pair: Option<&'a PairReport>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let progress = Progress::new("asking servers");
    let found = progress.during(measure(&arguments, &progress)).await?;
    let Found { report, pair, unresolved } = &found;
    match (arguments.json, pair) {
        (true, pair) => {
            print_json(&Output { version: JSON_VERSION, report, unresolved, pair: pair.as_ref() })?;
        }
        (false, Some(pair)) => print_line(pair.to_text(columns()).trim_end())?,
        (false, None) => print_line(report.to_text(columns()).trim_end())?,
    }
    let good = pair.as_ref().map_or(report.is_reachable(), PairReport::is_connected);
    if good { Ok(()) } else { Err(Failure::Reported) }
}

struct Found {
    report: Report,
    pair: Option<PairReport>,
    unresolved: Vec<Unresolved>,
}

async fn measure(arguments: &Arguments, progress: &Progress) -> Result<Found, Failure> {
    let public = || PUBLIC_SERVERS.iter().filter_map(|uri| uri.parse().ok()).collect();
    let servers = match &arguments.servers {
        named if named.is_empty() && arguments.against.is_none() => public(),
        named => named.clone(),
    };
    let public_web = || arguments.servers.is_empty() && arguments.against.is_none();
    let web = arguments.web.clone().or_else(|| public_web().then(|| PUBLIC_WEB.parse().ok())?);
    let web = web.map(|web| WebProbe { body: arguments.web_body.clone(), ..web });
    let ((addresses, unresolved), nat64) = tokio::join!(udp_addresses(&servers), discover_nat64());
    unresolved.iter().for_each(|server| progress.note(&server.to_string()));
    let options = Options {
        hairpin: arguments.hairpin,
        lifetime: arguments.lifetime,
        nat64: nat64.prefix,
        gateway: arguments.gateway,
    };
    let around = async {
        let found = look_around(&servers, web.as_ref(), nat64).await;
        found.map_err(|error| Failure::of("diagnosis", error))
    };
    let (report, pair, around) = match &arguments.against {
        Some(ticket) => {
            let policy = arguments.policy.unwrap_or(PolicyArgument::All);
            let pair = against::run(ticket, policy, &addresses, options, progress);
            let ((report, pair), around) = tokio::try_join!(pair, around)?;
            (report, Some(pair), Some(around))
        }
        // Behind a portal there may be no DNS: then the page may still tell.
        None if addresses.is_empty() && web.is_none() => {
            return Err(Failure::Failed("there is no server to ask".to_owned()));
        }
        None => {
            let (interrupted, stop) = watch::channel(false);
            let diagnosis = async {
                let report = diagnose(&addresses, options, |event| progress.tell(event), &stop).await;
                report.map_err(|error| Failure::of("diagnosis", error))
            };
            let both = async { tokio::try_join!(diagnosis, unless_stopped(around, stop.clone())) };
            let (report, around) = until_interrupted(both, &interrupted, progress).await?;
            (report, None, around)
        }
    };
    let report = match around {
        Some(around) => report.with_surroundings(around),
        None => report,
    };
    Ok(Found { report, pair, unresolved })
}

/// Ctrl-C ends a diagnosis with what was found so far.
async fn until_interrupted<T>(
    diagnosis: impl Future<Output = T>,
    stop: &watch::Sender<bool>,
    progress: &Progress,
) -> T {
    tokio::pin!(diagnosis);
    tokio::select! {
        // The signals are caught before anything is sent.
        biased;
        signal = super::interrupted() => {
            progress.note(&format!("{signal}: this is what was found so far"));
            stop.send_replace(true);
        }
        done = &mut diagnosis => return done,
    }
    diagnosis.await
}

/// What is looked at beside the diagnosis is not waited for once that was stopped.
async fn unless_stopped(
    around: impl Future<Output = Result<Surroundings, Failure>>,
    mut stop: watch::Receiver<bool>,
) -> Result<Option<Surroundings>, Failure> {
    tokio::select! {
        around = around => around.map(Some),
        _ = stop.wait_for(|stop| *stop) => Ok(None),
    }
}

/// What COLUMNS says, which is for people who want it otherwise; else the terminal's width.
fn columns() -> usize {
    let wanted = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || console::Term::stdout().size_checked().map(|(_, columns)| columns.into());
    wanted.or_else(terminal).unwrap_or(WIDTH)
}
