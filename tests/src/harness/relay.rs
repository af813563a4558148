//! `turn-relay` on loopback, for one test.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use super::turn::RawClient;
use super::{Certificate, Program, free_udp_port, turn_relay};

const LIMIT: Duration = Duration::from_secs(30);

/// A relay with a certificate and the user alice, whose password is `secret`. It ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    /// The server itself.
    pub program: Program,
    /// Everything on one port: UDP, TCP, TLS and DTLS.
    pub addr: SocketAddr,
    /// The port that is for TLS and DTLS.
    pub tls_port: u16,
    /// What it proves itself with.
    pub certificate: Certificate,
}

impl Relay {
    /// With these flags besides, on 127.0.0.1.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(flags: &[&str]) -> io::Result<Relay> {
        let (port, tls_port) = (free_udp_port()?, free_udp_port()?);
        let certificate = Certificate::new()?;
        let mut command = Command::new(turn_relay());
        command.args(["--listening-ip", "127.0.0.1", "--listening-port", &port.to_string()]);
        command.args(["--tls-listening-port", &tls_port.to_string()]).args(certificate.flags());
        command.args(["--user", "alice:secret"]).args(flags);
        let mut program = Program::spawn(command).map_err(io::Error::other)?.named("turn-relay");
        program.wait_for_line("turn:", LIMIT).map_err(io::Error::other)?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Relay { program, addr, tls_port, certificate })
    }

    /// The memory of its own that it has now, in bytes: no pages of files.
    ///
    /// # Errors
    /// Those of `/proc`.
    pub fn memory(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.program.id()))?;
        let kilobytes =
            status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB"));
        kilobytes
            .and_then(|text| text.parse::<u64>().ok())
            .map(|it| it << 10)
            .ok_or(io::ErrorKind::InvalidData.into())
    }

    /// How many files it has open, which are sockets for the most part.
    ///
    /// # Errors
    /// Those of `/proc`.
    pub fn open_files(&self) -> io::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.program.id()))?.count())
    }

    /// A client at this address of loopback, with alice's name and password.
    ///
    /// # Errors
    /// Those of the socket calls.
    pub fn client(&self, ip: impl Into<IpAddr>) -> io::Result<RawClient> {
        RawClient::new(ip.into(), self.addr, "alice", "secret")
    }
}
