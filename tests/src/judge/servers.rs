//! STUN servers in the lab.

use std::time::Duration;

use crate::harness::{self, Program, ProgramError};
use crate::natlab::{Lab, Node, Unavailable, availability};

/// How long a server may take to start on a busy machine.
const START: Duration = Duration::from_secs(40);

/// Whose server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Software {
    /// coturn's `turnserver`.
    Coturn,
    /// Our `stun-server`.
    Ours,
    /// Our `stun-server` with one address on each of two machines, which are partners.
    Partners,
}

/// Serves STUN on ports 3478 and 3479 of all these addresses of a node; with two addresses by RFC 5780.
///
/// # Errors
/// If the server does not start.
pub fn serve(
    lab: &Lab,
    software: Software,
    node: Node,
    addresses: &[String],
) -> Result<Program, ProgramError> {
    match software {
        Software::Coturn => coturn(lab, node, addresses),
        Software::Ours | Software::Partners => stun_server(lab, node, addresses),
    }
}

/// Serves STUN by RFC 5780 on two machines, of which each has one of the addresses.
///
/// # Errors
/// If a server does not start, or they do not find each other.
pub fn serve_partners(lab: &Lab, addresses: [(Node, String); 2]) -> Result<Vec<Program>, ProgramError> {
    let [(_, first), (_, second)] = &addresses;
    let partners = [second.clone(), first.clone()];
    let mut servers = Vec::new();
    for ((node, own), partner) in addresses.into_iter().zip(partners) {
        let mut command = lab.command(node, harness::stun_server());
        command.args(["--listening-ip", &own, "--partner", &partner]);
        command.args(["--partner-secret", "a secret of these two"]);
        servers.push(Program::spawn(command)?.named(&format!("stun-server on {node}")));
    }
    for server in &mut servers {
        server.wait_for_line("the partner is up", START)?;
    }
    Ok(servers)
}

/// Whether the lab can be built here and coturn is installed.
pub fn coturn_is_here() -> Result<(), Unavailable> {
    availability()?;
    harness::installed("turnserver", "coturn", "is the server of RFC 5780").map(drop)
}

fn coturn(lab: &Lab, node: Node, addresses: &[String]) -> Result<Program, ProgramError> {
    let mut command = lab.command(node, "turnserver");
    command.args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--log-file", "stdout", "--simple-log", "-v"]);
    command.args(["--listening-port", "3478", "--alt-listening-port", "3479"]);
    command.args(["--userdb", "/dev/null", "--pidfile", "/dev/null", "-a", "-u", "u:p", "-r", "test"]);
    addresses.iter().for_each(|ip| _ = command.args(["--listening-ip", ip, "--relay-ip", ip]));
    if addresses.len() == 1 {
        command.arg("--no-rfc5780");
    }
    let mut coturn = Program::spawn(command)?.named("coturn");
    coturn.wait_for_line("Total General servers", START)?;
    Ok(coturn)
}

fn stun_server(lab: &Lab, node: Node, addresses: &[String]) -> Result<Program, ProgramError> {
    let mut command = lab.command(node, harness::stun_server());
    addresses.iter().for_each(|ip| _ = command.args(["--listening-ip", ip]));
    let mut server = Program::spawn(command)?.named("stun-server");
    let last = addresses.last().map_or(String::new(), |ip| match ip.contains(':') {
        true => format!("stun:[{ip}]:"),
        false => format!("stun:{ip}:"),
    });
    // With two addresses the second port of each comes last.
    let port = if addresses.len() > 1 { 3479 } else { 3478 };
    server.wait_for_line(&format!("{last}{port}"), START)?;
    Ok(server)
}
