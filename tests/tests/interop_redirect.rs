//! coturn's client is sent from one `turn-relay` to another by ALTERNATE-SERVER, and relays there.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::process::Command;
use std::time::Duration;

use thirl_tests::harness::{self, Certificate, Program};
use thirl_tests::requires;

const LIMIT: Duration = Duration::from_secs(60);
const LOCALHOST: &str = "127.0.0.1";

/// A relay on loopback, and where it listens.
struct Relay {
    program: Program,
    port: u16,
    tls_port: u16,
}

impl Relay {
    fn start(name: &str, certificate: &Certificate, flags: &[String]) -> Relay {
        let (port, tls_port) = (harness::free_udp_port().unwrap(), harness::free_udp_port().unwrap());
        let mut command = Command::new(harness::turn_relay());
        command.args(["--listening-ip", LOCALHOST, "--user", "alice:secret", "--io", "epoll"]);
        command.args(["--listening-port", &port.to_string(), "--tls-listening-port", &tls_port.to_string()]);
        command.args(certificate.flags()).args(["--relay-threads", "1"]).args(flags);
        let mut program = Program::spawn(command).unwrap().named(name);
        program.wait_for_line("turn:", LIMIT).unwrap();
        Relay { program, port, tls_port }
    }
}

/// Four clients, each to another, who have only been told of the first server.
fn follows(flags: &[&str]) {
    let uclient =
        requires!(harness::installed("turnutils_uclient", "coturn", "is the TURN client of others"));
    let certificate = Certificate::new().unwrap();
    let mut second = Relay::start("second", &certificate, &[]);
    let sent_on = [
        format!("--alternate-server={LOCALHOST}:{}", second.port),
        format!("--tls-alternate-server={LOCALHOST}:{}", second.tls_port),
    ];
    let mut first = Relay::start("first", &certificate, &sent_on);
    let port = if flags.contains(&"-S") { first.tls_port } else { first.port };
    let mut command = Command::new(uclient);
    command.args(["-v", "-y", "-c", "-m", "4", "-n", "20", "-u", "alice", "-w", "secret"]).args(flags);
    command.args(["-p", &port.to_string(), LOCALHOST]);
    let mut client = Program::spawn(command).unwrap().named("turnutils_uclient");
    let status = client.wait_for_end(LIMIT).unwrap();
    let output = client.output();
    assert!(status.success(), "{output}");
    assert!(output.contains("Total lost packets 0 (0.000000%)"), "{output}");
    for (relay, served) in [(&mut first, false), (&mut second, true)] {
        relay.program.signal("TERM").unwrap();
        assert!(relay.program.wait_for_end(LIMIT).unwrap().success());
        let log = relay.program.output();
        assert_eq!(log.contains("allocation created"), served, "{log}");
    }
}

#[test]
fn over_udp() {
    follows(&["-X"]);
}

#[test]
fn over_tcp() {
    follows(&["-t", "-X"]);
}

#[test]
fn over_tls() {
    follows(&["-t", "-S", "-X"]);
}
