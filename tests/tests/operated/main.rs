//! What operators see of our servers and do to them, at the binaries: metrics, logs, reloading, draining, the service manager.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod activation;
mod drain;
mod log;
mod manager;
mod metrics;
mod reload;
mod serve;
mod shortage;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use thirl_tests::harness::{self, Allocation, Login, Program};

const LIMIT: Duration = Duration::from_secs(60);
const ALICE: Login<'static> = Login { username: "alice", password: "secret" };

/// A `turn-relay` on a port of loopback, which lets its clients send to loopback.
struct Relay {
    program: Program,
    addr: SocketAddr,
}

impl Relay {
    /// With further settings, as flags.
    fn start(flags: &[&str]) -> Relay {
        let mut command = Command::new(harness::turn_relay());
        command.args(arguments(flags));
        Relay::run(command)
    }

    fn run(command: Command) -> Relay {
        let mut program = Program::spawn(command).unwrap().named("turn-relay");
        let line = program.wait_for_line("?transport=udp", LIMIT).unwrap();
        let addr = line.strip_prefix("turn:").and_then(|line| line.strip_suffix("?transport=udp"));
        Relay { program, addr: addr.unwrap().parse().unwrap() }
    }

    fn allocate(&self) -> Result<Allocation, u16> {
        Allocation::new(self.addr, ALICE).unwrap()
    }
}

/// The arguments of a relay, with further settings as flags.
fn arguments<'a>(flags: &[&'a str]) -> Vec<&'a str> {
    let own = ["--listening-ip", "127.0.0.1", "--listening-port", "0", "--allowed-peer-ip", "127.0.0.1"];
    [&own[..], &["--relay-threads", "2"], flags].concat()
}

/// The line with `part` that the program wrote, or will.
fn said(program: &mut Program, part: &str) -> String {
    let written = program.output();
    match written.lines().find(|line| line.contains(part)) {
        Some(line) => line.to_owned(),
        None => program.wait_for_line(part, LIMIT).unwrap(),
    }
}

/// A GET by HTTP: status and body.
fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    harness::http_get(addr, path).unwrap()
}

/// What a Python script says about a text.
fn python(python: &Path, script: &str, input: &str) -> Program {
    let mut command = Command::new(python);
    command.args(["-c", script]);
    let mut program = Program::spawn(command).unwrap().named("python");
    program.write_line(input).unwrap();
    program.close_stdin();
    program
}
