//! The server of the matrix: `thirl serve` in public.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::harness::{self, Certificate, Program};
use crate::natlab::{Lab, Node, SRV, SRV_ALTERNATE, SRV_ALTERNATE_V6, SRV_V6};

const LIMIT: Duration = Duration::from_secs(30);
pub(super) const USER: &str = "alice";
pub(super) const PASSWORD: &str = "secret";

/// A running server. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    _program: Program,
    certificate: Certificate,
}

impl Server {
    /// Everything on port 3478, TLS on 443.
    pub(super) fn start(lab: &Lab) -> io::Result<Server> {
        let certificate = Certificate::bearing(vec![SRV.to_string(), SRV_V6.to_string()])?;
        let mut command = lab.command(Node::Srv, harness::thirl());
        command.args(["serve", "--user", &format!("{USER}:{PASSWORD}"), "--tls-listening-port", "443"]);
        let addresses =
            [SRV.to_string(), SRV_ALTERNATE.to_string(), SRV_V6.to_string(), SRV_ALTERNATE_V6.to_string()];
        addresses.iter().for_each(|ip| _ = command.args(["--listening-ip", ip]));
        command.args(certificate.flags());
        let mut program = Program::spawn(command).map_err(io::Error::other)?.named("thirl serve");
        program.wait_for_line("thirl listen", LIMIT).map_err(io::Error::other)?;
        Ok(Server { _program: program, certificate })
    }

    /// Whose certificates to believe.
    pub(super) fn authority(&self) -> PathBuf {
        self.certificate.authority_path()
    }
}
