//! Hosts with IPv6 only, whose network's NAT64 leads to IPv4, in the kernel lab: they reach IPv4 servers and IPv4 peers.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use serde_json::Value;
use thirl_common::net::Nat64Prefix;
use thirl_tests::behaviour::Filtering;
use thirl_tests::harness::{self, Program};
use thirl_tests::natlab::{Ipv6, Lab, Nat, Network, Node, SRV, Site, Unavailable, availability};
use thirl_tests::requires;

/// Starting, gathering and connecting, with a margin for a busy machine.
const LIMIT: Duration = Duration::from_secs(40);

fn nat64_is_here() -> Result<(), Unavailable> {
    availability()?;
    harness::installed("named", "bind9", "is the DNS64")?;
    harness::installed("tayga", "tayga", "is the NAT64").map(drop)
}

/// Site A with IPv6 only behind a NAT64 that behaves so, site B with IPv4 only.
fn lab(prefix: Nat64Prefix, nat64: Nat, b: Nat) -> Lab {
    let ipv6 = Ipv6::Firewalled(Filtering::AddressAndPortDependent);
    let a = Network::behind(nat64).ipv6(ipv6).nat64(prefix);
    let lab = Lab::builder().site(Site::A, a).site(Site::B, b).build().unwrap();
    lab.start_dns64(Site::A).unwrap();
    lab
}

/// Serves in public, listens on one side and pings from the other; what the dialler and the listener say.
fn ping(lab: &Lab, dialler: Node, listener: Node) -> [Value; 2] {
    let program = |node, arguments: &[&str]| {
        let mut command = lab.command(node, harness::thirl());
        command.args(arguments);
        Program::spawn(command).unwrap().named(arguments[0])
    };
    let mut serve = program(Node::Srv, &["serve"]);
    serve.wait_for_line("thirl listen", LIMIT).unwrap();
    // An address, not a name of which DNS64 could make another.
    let mut listen = program(listener, &["listen", "--server", &SRV.to_string(), "--json"]);
    let ticket = listen.wait_for_json(LIMIT).unwrap()["ticket"].as_str().unwrap().to_owned();
    let mut ping = program(dialler, &["ping", &ticket, "--count", "2", "--json"]);
    let said = ping.wait_for_json(LIMIT).unwrap();
    let status = ping.wait_for_end(LIMIT).unwrap();
    assert!(status.success(), "{}", ping.output());
    [said, listen.wait_for_json(LIMIT).unwrap()]
}

#[test]
fn an_ipv6_only_host_and_an_ipv4_host_connect_directly() {
    requires!(nat64_is_here());
    for (prefix, dialler, listener) in
        [("2001:db8:1:64::/96", Node::A, Node::B), ("2001:db8:1:6400::/56", Node::B, Node::A)]
    {
        let prefix: Nat64Prefix = prefix.parse().unwrap();
        let lab = lab(prefix, Nat::new(), Nat::new());
        let [ping, listener] = ping(&lab, dialler, listener);
        assert_eq!([&ping["path"], &listener["path"]], ["direct"; 2], "{ping}\n{listener}");
        let public = |site| lab.public_address(site).unwrap().to_string();
        let (here, there) = if dialler == Node::A { (Site::A, Site::B) } else { (Site::B, Site::A) };
        assert!(ping["local"].as_str().unwrap().starts_with(&public(here)), "{ping}");
        assert!(ping["remote"].as_str().unwrap().starts_with(&public(there)), "{ping}");
    }
}

#[test]
fn a_relay_is_reached_through_nat64() {
    requires!(nat64_is_here());
    let prefix: Nat64Prefix = "2001:db8:1:64::/96".parse().unwrap();
    let lab = lab(prefix, Nat::symmetric(), Nat::symmetric());
    let [ping, listener] = ping(&lab, Node::A, Node::B);
    assert_eq!([&ping["path"], &listener["path"]], ["relayed"; 2], "{ping}\n{listener}");
    assert_eq!(ping["relay"], SRV.to_string(), "{ping}");
}
