//! What `thirl nat` says of firewalls, captive portals, NAT64 and IPv6, in the kernel lab: each is named right.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod services;

use std::net::Ipv6Addr;
use std::time::Duration;

use serde_json::{Value, json};
use thirl_common::net::Nat64Prefix;
use thirl_tests::behaviour::Filtering;
use thirl_tests::harness::{self, Program};
use thirl_tests::natlab::{Firewall, Ipv6, Lab, Nat, Network, Node, SRV, SRV_V6, Site};
use thirl_tests::requires;

use services::{ROUTER, WEB};

/// A diagnosis takes some five seconds; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

const NO_CONTENT: &str = "respond /generate_204 204\nrespond 404";

fn lab(network: impl Into<Network>) -> Lab {
    Lab::builder().site(Site::A, network).build().unwrap()
}

/// What `thirl nat --json` says on the client of site A, which trusts the certificate of [`WEB`].
fn nat(lab: &Lab, arguments: &[&str]) -> Value {
    let mut command = lab.command(Node::A, harness::thirl());
    command.env("SSL_CERT_FILE", services::CERTIFICATE);
    command.args(["nat", "--json"]).args(arguments);
    let said = Program::spawn(command).unwrap().named("thirl nat").wait_for_json(LIMIT).unwrap();
    assert_eq!(said["version"], 1, "{said}");
    said
}

fn outcomes(said: &Value) -> [&Value; 3] {
    ["tcp_3478", "tls_443", "udp_443"].map(|way| &said["reach"][way]["outcome"])
}

fn summary(said: &Value) -> &str {
    said["verdict"]["summary"].as_str().unwrap()
}

fn advice(said: &Value) -> String {
    said["verdict"]["advice"].to_string()
}

#[test]
fn an_open_network() {
    requires!(services::are_here());
    let lab = lab(Nat::new());
    let _stun = services::stun(&lab, 3478, 3479);
    let _dns = services::dns(&lab, Node::NatA, ROUTER, None);
    let _web = services::web(&lab, Node::Srv, WEB, NO_CONTENT);
    let said = nat(&lab, &["--server", WEB, "--web", WEB]);
    assert_eq!(outcomes(&said), ["open"; 3], "{said}");
    assert_eq!(said["reach"]["udp_443"]["reason"], "QUIC answered", "{said}");
    assert_eq!(said["reach"]["tls_443"]["attempts"].as_array().unwrap().len(), 1, "one host: {said}");
    assert_eq!(said["captive_portal"]["present"], false, "{said}");
    assert_eq!(said["nat64"]["prefix"], Value::Null, "{said}");
    // By another name the certificate is not that of the server.
    let said = nat(&lab, &["--server", WEB, "--web", "http://both.test/generate_204"]);
    let attempts = &said["reach"]["tls_443"]["attempts"];
    assert_eq!([&attempts[0]["outcome"], &attempts[1]["outcome"]], ["open", "intercepted"], "{said}");
}

#[test]
fn a_page_with_a_known_body() {
    requires!(services::are_here());
    let lab = lab(Nat::new());
    let _stun = services::stun(&lab, 3478, 3479);
    let _web = services::web(&lab, Node::Srv, WEB, "respond /online success");
    let page = format!("http://{SRV}/online");
    for (body, present) in [("success", false), ("welcome", true)] {
        let said = nat(&lab, &["--server", &SRV.to_string(), "--web", &page, "--web-body", body]);
        assert_eq!(said["captive_portal"]["present"], present, "{said}");
    }
    // Nobody is asked who was not named.
    let said = nat(&lab, &["--server", &SRV.to_string()]);
    assert!(said["captive_portal"]["present"].is_null(), "{said}");
    assert_eq!(said["reach"]["tls_443"]["attempts"][0]["host"], SRV.to_string(), "{said}");
}

#[test]
fn ports_that_refuse_and_stun_on_udp_443() {
    requires!(services::are_here());
    let lab = lab(Nat::new());
    let servers = services::stun(&lab, 3478, 3479);
    let said = nat(&lab, &["--server", &SRV.to_string()]);
    assert_eq!(outcomes(&said), ["open", "refused", "refused"], "{said}");
    drop(servers);
    let _stun = services::stun(&lab, 443, 444);
    let said = nat(&lab, &["--server", &format!("stun:{SRV}:443")]);
    let [tcp, tls, udp] = outcomes(&said);
    assert_eq!([tcp, udp], ["refused", "open"], "{said}");
    assert_eq!(said["reach"]["udp_443"]["reason"], "STUN answered", "{said}");
    assert_ne!(tls, "open", "STUN without TLS is there: {said}");
}

#[test]
fn only_tcp_443_gets_out() {
    requires!(services::are_here());
    let lab = lab(Network::behind(Nat::new()).firewall(Firewall::Tcp443Only));
    let _stun = services::stun(&lab, 3478, 3479);
    let _dns = services::dns(&lab, Node::NatA, ROUTER, None);
    let _web = services::web(&lab, Node::Srv, WEB, NO_CONTENT);
    let said = nat(&lab, &["--server", &SRV.to_string(), "--web", WEB]);
    assert_eq!(outcomes(&said), ["silent", "open", "silent"], "{said}");
    assert_eq!(said["udp"]["ipv4"]["reachable"], false, "{said}");
    assert!(said["captive_portal"]["present"].is_null(), "{said}");
    assert!(summary(&said).contains("a relay over TLS on port 443, which gets out"), "{said}");
    assert!(advice(&said).contains("Run a relay with TLS on port 443"), "{said}");
}

#[test]
fn a_captive_portal() {
    requires!(services::are_here());
    let lab = lab(Network::behind(Nat::new()).firewall(Firewall::CaptivePortal));
    let _stun = services::stun(&lab, 3478, 3479);
    let _dns = services::dns(&lab, Node::NatA, ROUTER, None);
    let _web = services::web(&lab, Node::Srv, WEB, NO_CONTENT);
    let portals = [
        ("redir https://portal.test/login?from={host} 302", "https://portal.test/login?from=web.test"),
        ("respond \"Welcome to the hotel\"", "http://web.test/generate_204"),
    ];
    for (answer, url) in portals {
        let _portal = services::web(&lab, Node::NatA, "portal.test", answer);
        let said = nat(&lab, &["--server", &SRV.to_string(), "--web", WEB]);
        let portal = &said["captive_portal"];
        assert_eq!([&portal["present"], &portal["url"]], [&json!(true), &json!(url)], "{said}");
        assert!(summary(&said).starts_with(&format!("Sign in at {url} first")), "{said}");
        assert_eq!(outcomes(&said), ["silent", "intercepted", "silent"], "{said}");
        assert!(said["verdict"]["why"].to_string().contains("TLS to port 443 is intercepted"), "{said}");
    }
    // Nor need any server have an address.
    let _portal = services::web(&lab, Node::NatA, "portal.test", portals[1].0);
    let page = format!("http://{SRV}/");
    let said = nat(&lab, &["--server", "nobody.test", "--web", &page]);
    assert_eq!(said["captive_portal"]["url"], page.as_str(), "{said}");
    assert!(said["reach"]["tcp_3478"]["outcome"].is_null(), "{said}");
}

#[test]
fn ipv4_through_nat64() {
    requires!(services::are_here());
    let router: Ipv6Addr = "2001:db8:1::1".parse().unwrap();
    let symmetric = Nat::symmetric().filtering(Filtering::AddressDependent);
    for (prefix, nat64, names) in [
        ("2001:db8:1:64::/96", Nat::new(), ["EIM", "APDF"]),
        ("2001:db8:1:6400::/56", symmetric, ["APDM", "ADF"]),
    ] {
        let prefix: Nat64Prefix = prefix.parse().unwrap();
        let ipv6 = Ipv6::Firewalled(Filtering::AddressAndPortDependent);
        let lab = lab(Network::behind(nat64).ipv6(ipv6).nat64(prefix));
        let _stun = services::stun(&lab, 3478, 3479);
        let _dns = services::dns(&lab, Node::NatA, router, Some(prefix));
        let _web = services::web(&lab, Node::Srv, WEB, NO_CONTENT);
        // An address, and a name that DNS64 makes an IPv6 address of.
        for server in [&SRV.to_string(), WEB] {
            let said = nat(&lab, &["--server", server, "--web", WEB]);
            let found = &said["udp"]["ipv4"];
            assert_eq!([&found["mapping"], &found["filtering"]], names, "{said}");
            assert_eq!(found["translated"], true, "{said}");
            assert!(
                found["answers"][0]["reflexive"].as_str().unwrap().starts_with("198.51.100.10:"),
                "{said}"
            );
            let nat64 = [&said["nat64"]["prefix"], &said["nat64"]["used"]];
            assert_eq!(nat64, [&json!(prefix.to_string()), &json!(true)], "{said}");
            assert_eq!(outcomes(&said), ["open"; 3], "{said}");
            assert_eq!(said["captive_portal"]["present"], false, "{said}");
            assert!(said["verdict"]["why"][0].as_str().unwrap().starts_with("IPv4 through NAT64"), "{said}");
        }
        let said = nat(&lab, &["--server", "both.test"]);
        let translated = ["ipv4", "ipv6"].map(|family| &said["udp"][family]["translated"]);
        assert_eq!(translated, [true, false], "what has IPv6 itself is reached without NAT64: {said}");
    }
}

#[test]
fn firewalls_of_ipv6() {
    requires!(services::are_here());
    for (filtering, name) in [
        (Filtering::EndpointIndependent, "EIF"),
        (Filtering::AddressDependent, "ADF"),
        (Filtering::AddressAndPortDependent, "APDF"),
    ] {
        let lab = lab(Network::behind(Nat::new()).ipv6(Ipv6::Firewalled(filtering)));
        let _stun = services::stun(&lab, 3478, 3479);
        let said = nat(&lab, &["--server", &format!("stun:[{SRV_V6}]")]);
        let found = &said["udp"]["ipv6"];
        assert_eq!([&found["translated"], &found["filtering"]], [&json!(false), &json!(name)], "{said}");
        let why = said["verdict"]["why"].to_string();
        match filtering {
            Filtering::EndpointIndependent => {
                assert!(why.contains("there is no NAT, and no firewall"), "{why}");
            }
            _ => {
                assert!(why.contains("there is no NAT, but a stateful firewall with"), "{why}");
                assert!(why.contains(name), "{why}");
            }
        }
        let direct =
            said["verdict"]["peers"].as_array().unwrap().iter().filter(|peer| peer["path"] == "direct");
        // Those whose mapping does not depend on the destination, or whose filter lets in anyone.
        let expected = if filtering == Filtering::AddressAndPortDependent { 5 } else { 9 };
        assert_eq!(direct.count(), expected, "{said}");
    }
}

#[test]
fn the_ipv6_addresses_of_the_machine() {
    requires!(services::are_here());
    let lab = lab(Network::behind(Nat::new()).ipv6(Ipv6::Open));
    let _stun = services::stun(&lab, 3478, 3479);
    let ip = |arguments: &str| {
        let mut command = lab.command(Node::A, "sh");
        assert!(command.args(["-ec", arguments]).status().unwrap().success(), "{arguments}");
    };
    let said = || nat(&lab, &["--server", &format!("stun:[{SRV_V6}]")]);
    const FROM_HARDWARE: &str = "2001:db8:1:0:211:22ff:fe33:4455";
    // It is preferred to the lab's own.
    ip("ip addr change 2001:db8:1::2/64 dev eth0 preferred_lft 0
        ip addr add fd00::2/64 dev eth0 nodad
        ip addr add 2001:db8:1:0:211:22ff:fe33:4455/64 dev eth0 nodad");
    let before = said();
    let addresses = &before["ipv6_addresses"];
    assert_eq!(addresses["used"], FROM_HARDWARE, "{before}");
    assert_eq!(addresses["used_is_temporary"], false, "{before}");
    assert!(advice(&before).contains("switch on temporary addresses"), "{before}");
    let of = |ip: &str| {
        let found = addresses["addresses"].as_array().unwrap().iter().find(|address| address["ip"] == ip);
        found.unwrap_or_else(|| panic!("{ip} is missing: {before}"))
    };
    assert_eq!(of("2001:db8:1::2")["deprecated"], true);
    assert_eq!(of("fd00::2")["scope"], "unique_local");
    assert_eq!(of(FROM_HARDWARE)["from_hardware"], true);
    // The kernel makes a temporary address and prefers it.
    ip("echo 2 >/proc/sys/net/ipv6/conf/eth0/use_tempaddr
        ip addr add 2001:db8:1::3/64 dev eth0 nodad mngtmpaddr valid_lft 7200 preferred_lft 3600
        until ip -6 addr show dev eth0 | grep -q temporary; do :; done");
    let after = said();
    assert_eq!(after["ipv6_addresses"]["used_is_temporary"], true, "{after}");
    assert!(!advice(&after).contains("temporary"), "{after}");
}
