//! Our ICE agent against aioice, in both roles, with host, server-reflexive and relayed candidates.
//!
//! In the kernel lab, since aioice offers no loopback addresses.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use thirl_tests::harness::{self, Program};
use thirl_tests::natlab::{Lab, Nat, Network, Node, SRV, Site, availability};
use thirl_tests::requires;
use thirl_tests::scripted::connect;

const LIMIT: Duration = Duration::from_secs(30);
const USER: &str = "alice";
const PASSWORD: &str = "secret";
const DATAGRAMS: &str = "20";

/// Which TURN server stands in public.
#[derive(Clone, Copy)]
enum Server {
    Thirl,
    Coturn(&'static str),
}

impl Server {
    fn start(self, lab: &Lab) -> Program {
        let ip = SRV.to_string();
        match self {
            Server::Thirl => {
                let mut command = lab.command(Node::Srv, harness::turn_relay());
                command.args(["--listening-ip", &ip, "--user", &format!("{USER}:{PASSWORD}")]);
                let mut server = Program::spawn(command).unwrap().named("turn-relay");
                server.wait_for_line("turn:", LIMIT).unwrap();
                server
            }
            Server::Coturn(program) => start_coturn(lab, program),
        }
    }
}

fn start_coturn(lab: &Lab, program: &str) -> Program {
    let ip = SRV.to_string();
    let mut command = lab.command(Node::Srv, program);
    command.args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--log-file", "stdout", "--simple-log", "-v"]);
    command.args(["--listening-ip", &ip, "--relay-ip", &ip, "-a", "-r", "lab", "--userdb", "/dev/null"]);
    command.args(["--pidfile", "/dev/null", "-u", &format!("{USER}:{PASSWORD}")]);
    let mut server = Program::spawn(command).unwrap().named("coturn");
    server.wait_for_line("UDP listener opened on", LIMIT).unwrap();
    server
}

fn aioice(lab: &Lab, node: Node, python: &Path, arguments: &[&str]) -> Program {
    let mut command = lab.command(node, python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/interop/aioice_peer.py")).args(arguments);
    Program::spawn(command).unwrap().named("aioice")
}

fn ours(lab: &Lab, node: Node, role: &str, arguments: &[&str]) -> Program {
    let mut command = lab.command(node, harness::thirl());
    command.args(["ice", "--role", role]).args(arguments);
    Program::spawn(command).unwrap().named("thirl ice")
}

/// The end that sends says how many came back.
fn assert_echoed(sender: &mut Program) {
    let echoed = sender.wait_for("the count of echoes", LIMIT, |line| {
        let said: Value = serde_json::from_str(line.text()).ok()?;
        said["echoed"].as_u64()
    });
    assert_eq!(echoed.unwrap().to_string(), DATAGRAMS);
}

fn one_lan() -> Lab {
    Lab::builder().site(Site::A, Network::behind(Nat::new()).clients(2)).build().unwrap()
}

#[test]
fn host_candidates_ours_controlling() {
    requires!(availability());
    let python = requires!(harness::python());
    let lab = one_lan();
    let mut ours = ours(&lab, Node::A, "controlling", &["--send", DATAGRAMS]);
    let mut theirs = aioice(&lab, Node::A2, &python, &["controlled"]);
    let said = connect(&mut ours, &mut theirs).unwrap();
    assert_eq!((&said.first["state"], &said.first["path"]), (&"connected".into(), &"direct".into()));
    assert_eq!(said.second["remote"], "host");
    assert_echoed(&mut ours);
    assert!(ours.wait_for_end(LIMIT).unwrap().success(), "{}", ours.output());
}

#[test]
fn host_candidates_ours_controlled() {
    requires!(availability());
    let python = requires!(harness::python());
    let lab = one_lan();
    let mut ours = ours(&lab, Node::A, "controlled", &[]);
    let mut theirs = aioice(&lab, Node::A2, &python, &["controlling", "--send", DATAGRAMS]);
    let said = connect(&mut ours, &mut theirs).unwrap();
    assert_eq!(said.first["path"], "direct");
    assert_echoed(&mut theirs);
}

#[test]
fn a_role_conflict_is_settled() {
    requires!(availability());
    let python = requires!(harness::python());
    let lab = one_lan();
    let mut ours = ours(&lab, Node::A, "controlling", &[]);
    let mut theirs = aioice(&lab, Node::A2, &python, &["controlling", "--send", DATAGRAMS]);
    let said = connect(&mut ours, &mut theirs).unwrap();
    assert_eq!(said.first["path"], "direct");
    assert_echoed(&mut theirs);
}

#[test]
fn reflexive_candidates_through_two_nats() {
    requires!(availability());
    let python = requires!(harness::python());
    let lab = Lab::builder().site(Site::A, Nat::new()).site(Site::B, Nat::new()).build().unwrap();
    let _server = Server::Thirl.start(&lab);
    let stun = format!("{SRV}:3478");
    let mut ours =
        ours(&lab, Node::A, "controlling", &["--stun", &format!("stun:{stun}"), "--send", DATAGRAMS]);
    let mut theirs = aioice(&lab, Node::B, &python, &["controlled", "--stun", &stun]);
    let said = connect(&mut ours, &mut theirs).unwrap();
    assert_eq!(said.first["path"], "direct");
    assert_echoed(&mut ours);
}

/// Both ends behind symmetric NATs and restricted to relayed candidates of `server`.
fn relayed(server: Server, role: &str, transport: &str, python: &Path) {
    let lab = Lab::builder().site(Site::A, Nat::symmetric()).site(Site::B, Nat::symmetric()).build().unwrap();
    let _server = server.start(&lab);
    let uri = format!("turn:{SRV}?transport={transport}");
    let turn = ["--turn", &uri, "--user", USER, "--password", PASSWORD, "--policy", "relay"];
    let address = format!("{SRV}:3478");
    let their_turn = ["--turn", &address, USER, PASSWORD, transport, "--relay"];
    let send = ["--send", DATAGRAMS];
    let we_send = role == "controlling";
    let their_role = if we_send { "controlled" } else { "controlling" };
    let mut ours = ours(&lab, Node::A, role, &[&turn[..], if we_send { &send } else { &[] }].concat());
    let arguments = [&[their_role][..], &their_turn[..], if we_send { &[] } else { &send }].concat();
    let mut theirs = aioice(&lab, Node::B, python, &arguments);
    let said = connect(&mut ours, &mut theirs).unwrap();
    assert_eq!(said.first["path"], "relayed", "{}", said.first);
    assert_eq!(said.second["local"], "relay", "{}", said.second);
    assert_echoed(if we_send { &mut ours } else { &mut theirs });
}

#[test]
fn relayed_by_thirl_ours_controlling_over_udp() {
    requires!(availability());
    let python = requires!(harness::python());
    relayed(Server::Thirl, "controlling", "udp", &python);
}

#[test]
fn relayed_by_thirl_ours_controlled_over_tcp() {
    requires!(availability());
    let python = requires!(harness::python());
    relayed(Server::Thirl, "controlled", "tcp", &python);
}

#[test]
fn relayed_by_coturn_ours_controlling_over_tcp() {
    requires!(availability());
    let python = requires!(harness::python());
    requires!(harness::installed("turnserver", "coturn", "is the TURN server of others"));
    relayed(Server::Coturn("turnserver"), "controlling", "tcp", &python);
}

#[test]
fn relayed_by_coturn_ours_controlled_over_udp() {
    requires!(availability());
    let python = requires!(harness::python());
    requires!(harness::installed("turnserver", "coturn", "is the TURN server of others"));
    relayed(Server::Coturn("turnserver"), "controlled", "udp", &python);
}
