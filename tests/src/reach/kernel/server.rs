//! The server of the matrix: `thirl serve` in public, and what peers are told of it.

use std::io;
use std::time::Duration;

use crate::harness::{self, Certificate, Program};
use crate::natlab::{Lab, Node, SRV, SRV_ALTERNATE, SRV_ALTERNATE_V6, SRV_V6};

const LIMIT: Duration = Duration::from_secs(30);
const USER: &str = "alice";
const PASSWORD: &str = "secret";

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

    /// All ways to it: whoever is told does not know which of them his network lets out.
    pub(super) fn arguments(&self) -> Vec<String> {
        let stun = [format!("stun:{SRV}"), format!("stun:{SRV_ALTERNATE}"), format!("stun:[{SRV_V6}]")];
        let turn = [
            format!("turn:{SRV}"),
            format!("turn:[{SRV_V6}]"),
            format!("turn:{SRV}?transport=tcp"),
            format!("turns:{SRV}:443"),
        ];
        let stun = stun.into_iter().flat_map(|uri| ["--stun".to_owned(), uri]);
        let turn = turn.into_iter().flat_map(|uri| ["--turn".to_owned(), uri]);
        let login = ["--user", USER, "--password", PASSWORD, "--ca"].map(str::to_owned);
        let authority = self.certificate.authority_path().display().to_string();
        stun.chain(turn).chain(login).chain([authority]).collect()
    }
}
