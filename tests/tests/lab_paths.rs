//! The main job, in the kernel lab: `thirl serve` in public, `thirl listen` behind one NAT, `thirl ping` behind another.
//! Each side says which path was taken, and the test asserts both.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use serde_json::Value;
use thirl_tests::harness::{self, Program};
use thirl_tests::natlab::{
    Filtering, Firewall, Lab, LabBuilder, Mapping, Nat, Network, Node, SRV, Site, availability,
};
use thirl_tests::requires;

/// Starting, gathering and connecting, with a margin for a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

const COUNT: usize = 3;

/// What both sides said of their path.
struct Outcome {
    /// The answers of `thirl ping --json`.
    pings: Vec<Value>,
    /// The line of `thirl listen --json` on its first connection.
    listener: Value,
}

impl Outcome {
    fn assert_path(&self, path: &str) {
        assert_eq!(self.pings.len(), COUNT);
        for ping in &self.pings {
            assert_eq!(ping["path"], path, "the dialler: {ping}");
            assert!(ping["rtt_ms"].as_f64().unwrap() > 0.0, "{ping}");
        }
        assert_eq!(self.listener["path"], path, "the listener: {}", self.listener);
    }
}

/// Serves in public with no configuration, listens on `listener`, pings from `dialler`.
fn ping(lab: &Lab, dialler: Node, listener: Node) -> Outcome {
    let thirl = harness::thirl();
    let mut serve = lab.command(Node::Srv, &thirl);
    serve.arg("serve");
    let mut serve = Program::spawn(serve).unwrap().named("serve");
    serve.wait_for_line("thirl listen", LIMIT).unwrap();

    let mut listen = lab.command(listener, &thirl);
    listen.args(["listen", "--server", &SRV.to_string(), "--json"]);
    let mut listen = Program::spawn(listen).unwrap().named("listen");
    let ticket = listen.wait_for_json(LIMIT).unwrap()["ticket"].as_str().unwrap().to_owned();

    let mut ping = lab.command(dialler, &thirl);
    ping.args(["ping", &ticket, "--count", &COUNT.to_string(), "--json"]);
    let mut ping = Program::spawn(ping).unwrap().named("ping");
    let pings = (0..COUNT).map(|_| ping.wait_for_json(LIMIT).unwrap()).collect();
    let status = ping.wait_for_end(LIMIT).unwrap();
    assert!(status.success(), "{}", ping.output());
    Outcome { pings, listener: listen.wait_for_json(LIMIT).unwrap() }
}

fn cone() -> Nat {
    Nat::new().mapping(Mapping::EndpointIndependent).filtering(Filtering::AddressAndPortDependent)
}

fn lab(a: impl Into<Network>, b: impl Into<Network>) -> LabBuilder {
    Lab::builder().site(Site::A, a).site(Site::B, b)
}

#[test]
fn two_endpoint_independent_nats_connect_directly() {
    requires!(availability());
    let lab = lab(cone(), cone()).build().unwrap();
    let outcome = ping(&lab, Node::A, Node::B);
    outcome.assert_path("direct");
    let public = |site| lab.public_address(site).unwrap().to_string();
    let ping = &outcome.pings[0];
    assert!(ping["local"].as_str().unwrap().starts_with(&public(Site::A)), "{ping}");
    assert!(ping["remote"].as_str().unwrap().starts_with(&public(Site::B)), "{ping}");
}

#[test]
fn two_symmetric_nats_connect_through_the_relay() {
    requires!(availability());
    let lab = lab(Nat::symmetric(), Nat::symmetric()).build().unwrap();
    let outcome = ping(&lab, Node::A, Node::B);
    outcome.assert_path("relayed");
    assert_eq!(outcome.pings[0]["relay"], SRV.to_string(), "{}", outcome.pings[0]);
    let why = "both sides: mapping depends on destination";
    for side in [&outcome.pings[0], &outcome.listener] {
        assert_eq!(side["why"], why, "{side}");
    }
}

/// Both open a connection at once, from ports whose mappings the server has seen over TCP.
#[test]
fn blocked_udp_on_both_sides_connects_directly_by_tcp() {
    requires!(availability());
    let no_udp = Network::behind(cone()).firewall(Firewall::NoUdp);
    let lab = lab(no_udp, no_udp).build().unwrap();
    let outcome = ping(&lab, Node::A, Node::B);
    outcome.assert_path("direct");
    let public = |site| lab.public_address(site).unwrap().to_string();
    let last = outcome.pings.last().unwrap();
    assert_eq!([&last["transport"], &outcome.listener["transport"]], ["tcp", "tcp"], "{last}");
    assert!(last["local"].as_str().unwrap().starts_with(&public(Site::A)), "{last}");
    assert!(last["remote"].as_str().unwrap().starts_with(&public(Site::B)), "{last}");
}

#[test]
fn blocked_udp_reaches_a_public_host_by_tcp() {
    requires!(availability());
    let no_udp = Network::behind(Nat::symmetric()).firewall(Firewall::NoUdp);
    let lab = lab(no_udp, Network::public()).build().unwrap();
    for (dialler, listener) in [(Node::A, Node::B), (Node::B, Node::A)] {
        let outcome = ping(&lab, dialler, listener);
        outcome.assert_path("direct");
        assert_eq!(outcome.pings[0]["transport"], "tcp", "{}", outcome.pings[0]);
    }
}

#[test]
fn blocked_udp_on_the_dialling_side_connects_through_turn_over_tcp() {
    requires!(availability());
    let lab =
        lab(Network::behind(Nat::symmetric()).firewall(Firewall::NoUdp), Nat::symmetric()).build().unwrap();
    let outcome = ping(&lab, Node::A, Node::B);
    outcome.assert_path("relayed");
    let why = |of: &Value| of["why"].as_str().unwrap().to_owned();
    let (ours, theirs) = (why(&outcome.pings[0]), why(&outcome.listener));
    assert!(ours.starts_with("this side: UDP is blocked"), "{ours}");
    assert!(theirs.starts_with("other side: UDP is blocked"), "{theirs}");
}

#[test]
fn blocked_udp_on_the_listening_side_connects_through_turn_over_tcp() {
    requires!(availability());
    let lab = lab(cone(), Network::behind(Nat::symmetric()).firewall(Firewall::NoUdp)).build().unwrap();
    ping(&lab, Node::A, Node::B).assert_path("relayed");
}

#[test]
fn two_peers_in_one_lan_connect_directly() {
    requires!(availability());
    let lab = Lab::builder().site(Site::A, Network::behind(Nat::symmetric()).clients(2)).build().unwrap();
    let outcome = ping(&lab, Node::A, Node::A2);
    outcome.assert_path("direct");
    let address = lab.client_address(Node::A2).unwrap().to_string();
    assert!(outcome.pings[0]["remote"].as_str().unwrap().starts_with(&address), "{}", outcome.pings[0]);
}

/// Neither side learns an address of the other from what it is told: the names are all there is.
#[test]
fn two_peers_in_one_lan_connect_by_names() {
    requires!(availability());
    let lab = Lab::builder().site(Site::A, Network::behind(Nat::symmetric()).clients(2)).build().unwrap();
    let mut agents = [(Node::A, "controlling"), (Node::A2, "controlled")].map(|(node, role)| {
        let mut command = lab.command(node, env!("CARGO_BIN_EXE_lab-peer"));
        command.args([role, "mdns"]);
        Program::spawn(command).unwrap().named(role)
    });
    let descriptions = agents.each_mut().map(|agent| agent.wait_for_json(LIMIT).unwrap());
    for description in &descriptions {
        let told = description.to_string();
        assert!(told.contains(".local ") && !told.contains("192.168."), "{told}");
    }
    for (agent, theirs) in agents.iter_mut().zip(descriptions.iter().rev()) {
        agent.write_line(&theirs.to_string()).unwrap();
    }
    for agent in &mut agents {
        agent.wait_for_line("selected", LIMIT).unwrap();
    }
}

#[test]
fn nat_tells_the_mappings_apart() {
    requires!(availability());
    let lab = lab(cone(), Nat::symmetric()).build().unwrap();
    let thirl = harness::thirl();
    let mut serve = lab.command(Node::Srv, &thirl);
    serve.arg("serve");
    let mut serve = Program::spawn(serve).unwrap().named("serve");
    serve.wait_for_line("thirl listen", LIMIT).unwrap();
    for (node, depends) in [(Node::A, false), (Node::B, true)] {
        let mut nat = lab.command(node, &thirl);
        let servers = [SRV, thirl_tests::natlab::SRV_ALTERNATE].map(|ip| format!("stun:{ip}"));
        nat.args(["nat", "--json", "--server", &servers[0], "--server", &servers[1]]);
        let said = Program::spawn(nat).unwrap().wait_for_json(LIMIT).unwrap();
        assert_eq!(said["udp"]["ipv4"]["mapping_depends_on_destination"], depends, "{said}");
        if !depends {
            assert_eq!(said["udp"]["ipv4"]["mapping"], "EIM", "{said}");
        }
    }
}
