//! The programs at the ends, each with what a user there would tell it.

use std::net::IpAddr;
use std::process::Command;

use thirl_common::net::Transport;

use super::place::Host;
use super::server::{PASSWORD, Server, USER};
use crate::harness;
use crate::natlab::{Lab, SRV, SRV_ALTERNATE, SRV_V6, Unavailable};
use crate::reach::{Mode, Situation};

/// As a voice call sends.
const EVERY_MS: &str = "20";

/// What to run on a host.
pub(super) fn command(
    lab: &Lab,
    server: &Server,
    host: &Host,
    role: &str,
    mode: Mode,
) -> Result<Command, Unavailable> {
    let options: &[&str] = match mode {
        Mode::Thirl => &["--trickle"],
        Mode::Standard => &["--trickle", "--no-hard-nats"],
        // An aioice is told everything at once.
        Mode::Mixed => &[],
        Mode::Aioice => return aioice(lab, server, host, role),
    };
    let mut command = thirl(lab, server, host, role);
    command.args(options);
    Ok(command)
}

/// It is told all ways to the server: its user does not know which of them his network lets out.
fn thirl(lab: &Lab, server: &Server, host: &Host, role: &str) -> Command {
    let mut command = lab.command(host.node, harness::thirl());
    // What this machine uses itself does not stand in the lab.
    ["https_proxy", "HTTPS_PROXY"].iter().for_each(|name| _ = command.env_remove(name));
    command.args(["ice", "--role", role, "--every", EVERY_MS]);
    for stun in [SRV.to_string(), SRV_ALTERNATE.to_string(), format!("[{SRV_V6}]")] {
        command.args(["--stun", &format!("stun:{stun}")]);
    }
    for turn in [
        format!("turn:{SRV}"),
        format!("turn:[{SRV_V6}]"),
        format!("turn:{SRV}?transport=tcp"),
        format!("turns:{SRV}:443"),
    ] {
        command.args(["--turn", &turn]);
    }
    command.args(["--user", USER, "--password", PASSWORD, "--ca"]).arg(server.authority());
    if let Some(proxy) = &host.proxy {
        command.args(["--proxy", proxy]);
    }
    command
}

/// It takes one way to one server, so its user knows which one his network lets out.
fn aioice(lab: &Lab, server: &Server, host: &Host, role: &str) -> Result<Command, Unavailable> {
    let ipv6 = matches!(host.situation, Some(Situation::Ipv6OnlyNat64 | Situation::Ipv6Firewalled));
    let ip: IpAddr = if ipv6 { SRV_V6.into() } else { SRV.into() };
    let (port, transport) = match host.situation {
        Some(Situation::UdpBlocked) => (3478, Transport::Tcp),
        Some(Situation::Tcp443Only | Situation::HttpProxyOnly) => (443, Transport::Tls),
        _ => (3478, Transport::Udp),
    };
    let at = |port: u16| std::net::SocketAddr::new(ip, port).to_string();
    let mut command = lab.command(host.node, harness::python()?);
    command.env("SSL_CERT_FILE", server.authority());
    command.args([concat!(env!("CARGO_MANIFEST_DIR"), "/interop/aioice_peer.py"), role, "--every", EVERY_MS]);
    command.args(["--stun", &at(3478), "--turn", &at(port), USER, PASSWORD]);
    command.arg(transport.to_string().to_ascii_lowercase());
    Ok(command)
}
