//! Two of our ICE agents through a TURN server that is coturn, on loopback, restricted to relayed candidates.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::process::Command;
use std::time::Duration;

use thirl_tests::harness::{self, Program};
use thirl_tests::requires;
use thirl_tests::scripted::connect;

const LIMIT: Duration = Duration::from_secs(30);
const LOCALHOST: &str = "127.0.0.1";

fn start_coturn() -> (Program, u16) {
    let port = harness::free_udp_port().unwrap();
    let mut command = Command::new("turnserver");
    command.args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--log-file", "stdout", "--simple-log", "-v"]);
    command.args([
        "--listening-ip",
        LOCALHOST,
        "--relay-ip",
        LOCALHOST,
        "--listening-port",
        &port.to_string(),
    ]);
    command.args([
        "--userdb",
        "/dev/null",
        "--pidfile",
        "/dev/null",
        "--allow-loopback-peers",
        "--no-rfc5780",
    ]);
    command.args(["-a", "-r", "test", "-u", "alice:secret"]);
    let mut server = Program::spawn(command).unwrap().named("coturn");
    server.wait_for_line("UDP listener opened on", LIMIT).unwrap();
    (server, port)
}

fn agent(role: &str, port: u16, transport: &str, user: &str, more: &[&str]) -> Program {
    let mut command = Command::new(harness::thirl());
    let uri = format!("turn:{LOCALHOST}:{port}?transport={transport}");
    command.args(["ice", "--role", role, "--policy", "relay"]);
    command.args(["--turn", &uri, "--user", user, "--password", "secret"]).args(more);
    Program::spawn(command).unwrap().named(&format!("thirl ice, {role}"))
}

fn relayed(transports: [&str; 2]) {
    requires!(harness::installed("turnserver", "coturn", "is the TURN server of others"));
    let (_server, port) = start_coturn();
    let mut first = agent("controlling", port, transports[0], "alice", &["--send", "20"]);
    let mut second = agent("controlled", port, transports[1], "alice", &[]);
    let said = connect(&mut first, &mut second).unwrap();
    for side in [&said.first, &said.second] {
        assert_eq!(side["state"], "connected", "{side}");
        assert_eq!(side["path"], "relayed", "{side}");
        assert!(side["connect_ms"].as_f64().unwrap() > 0.0, "{side}");
    }
    let echoed = first.wait_for("the count of echoes", LIMIT, |line| {
        serde_json::from_str::<serde_json::Value>(line.text()).ok()?["echoed"].as_u64()
    });
    assert_eq!(echoed.unwrap(), 20);
    assert!(first.wait_for_end(LIMIT).unwrap().success(), "{}", first.output());
}

#[test]
fn both_over_udp() {
    relayed(["udp", "udp"]);
}

#[test]
fn both_over_tcp() {
    relayed(["tcp", "tcp"]);
}

#[test]
fn one_over_udp_and_one_over_tcp() {
    relayed(["udp", "tcp"]);
}

#[test]
fn wrong_credentials_are_reported_in_words() {
    requires!(harness::installed("turnserver", "coturn", "is the TURN server of others"));
    let (_server, port) = start_coturn();
    let mut first = agent("controlling", port, "udp", "mallory", &[]);
    let mut second = agent("controlled", port, "udp", "mallory", &[]);
    let descriptions = [first.wait_for_json(LIMIT).unwrap(), second.wait_for_json(LIMIT).unwrap()];
    for description in &descriptions {
        assert_eq!(description["candidates"].as_array().unwrap().len(), 0, "{description}");
    }
    first.write_line(&descriptions[1].to_string()).unwrap();
    second.write_line(&descriptions[0].to_string()).unwrap();
    // Nothing to try and nothing to come: there is no point in waiting for the whole patience.
    let status = first.wait_for_end(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(1), "{}", first.output());
    assert!(first.output().contains("refuses the credentials"), "{}", first.output());
}
