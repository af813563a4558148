//! coturn's `turnserver`, for one test.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use super::{Certificate, Program, free_udp_port};

const LIMIT: Duration = Duration::from_secs(30);

/// A `turnserver` on loopback with the user alice, whose password is `secret`. It ends when it is dropped.
#[derive(Debug)]
pub struct Coturn {
    /// The server itself.
    pub program: Program,
    /// What it proves itself with: issued by an authority, through another.
    pub certificate: Certificate,
    /// For UDP and TCP.
    pub port: u16,
    /// For TLS and DTLS.
    pub tls_port: u16,
}

impl Coturn {
    /// On 127.0.0.1, with these flags besides.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(flags: &[&str]) -> io::Result<Coturn> {
        Coturn::start_on(&[Ipv4Addr::LOCALHOST.into()], flags)
    }

    /// On these addresses, from which it relays too.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_on(addresses: &[IpAddr], flags: &[&str]) -> io::Result<Coturn> {
        let (port, tls_port) = (free_udp_port()?, free_udp_port()?);
        let certificate = Certificate::issued()?;
        let mut command = Command::new("turnserver");
        command.args(["-n", "--no-cli", "--log-file", "stdout", "--simple-log", "-v"]);
        for address in addresses {
            let address = address.to_string();
            command.args(["--listening-ip", &address, "--relay-ip", &address]);
        }
        command.args(["--listening-port", &port.to_string(), "--tls-listening-port", &tls_port.to_string()]);
        command.args(certificate.flags());
        command.args(["--userdb", "/dev/null", "--pidfile", "/dev/null", "--no-rfc5780"]);
        command.args(["--allow-loopback-peers", "-a", "-r", "test", "-u", "alice:secret"]).args(flags);
        let mut program = Program::spawn(command).map_err(io::Error::other)?.named("coturn");
        program.wait_for_line("DTLS/UDP listener opened on", LIMIT).map_err(io::Error::other)?;
        Ok(Coturn { program, certificate, port, tls_port })
    }

    /// Where it listens for UDP and TCP.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}
