//! `thirl nat` in the kernel lab: the routers on the way, the path MTU, and how long mappings last. coturn is the server.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use serde_json::{Value, json};
use thirl_tests::behaviour::Filtering;
use thirl_tests::harness::{self, Program};
use thirl_tests::judge::{Software, coturn_is_here, diagnose, serve};
use thirl_tests::natlab::{
    Ipv6, Lab, LabBuilder, Nat, Network, Node, SRV, SRV_ALTERNATE, SRV_ALTERNATE_V6, SRV_V6, Site,
};
use thirl_tests::requires;

/// A lab with coturn in it.
struct Served {
    _coturn: Program,
    lab: Lab,
}

impl Served {
    fn new(builder: LabBuilder) -> Self {
        let lab = builder.build().unwrap();
        let ips = [SRV, SRV_ALTERNATE].map(|ip| ip.to_string()).into_iter();
        let ips: Vec<_> = ips.chain([SRV_V6, SRV_ALTERNATE_V6].map(|ip| ip.to_string())).collect();
        let coturn = serve(&lab, Software::Coturn, Node::Srv, &ips).unwrap();
        Served { _coturn: coturn, lab }
    }

    fn behind(network: impl Into<Network>) -> Self {
        Served::new(Lab::builder().site(Site::A, network))
    }

    fn nat(&self, server: &str, arguments: &[&str]) -> Value {
        let arguments = [&["--server", server], arguments].concat();
        diagnose(&self.lab, Node::A, &arguments).unwrap()
    }

    fn ipv4(&self) -> Value {
        self.nat(&format!("stun:{SRV}"), &[])["udp"]["ipv4"].clone()
    }

    fn ipv6(&self) -> Value {
        self.nat(&format!("stun:[{SRV_V6}]"), &[])["udp"]["ipv6"].clone()
    }
}

/// Compares some fields.
fn assert_is(found: &Value, expected: &Value) {
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&found[field], value, "{field} of {found}");
    }
}

#[test]
fn an_ethernet_all_the_way() {
    requires!(coturn_is_here());
    let found = Served::behind(Nat::new()).ipv4();
    let whole = json!({ "bytes": 1500, "black_hole": false, "fragments_arrive": true, "confidence": "high" });
    assert_is(&found["path_mtu"], &whole);
    let hops = json!([
        { "distance": 1, "address": "192.168.1.1", "scope": "private" },
        { "distance": 2, "address": "192.0.2.5", "scope": "global" },
    ]);
    assert_is(&found["layers"], &json!({ "at_least": 1, "carrier_grade": null, "hops": hops }));
}

#[test]
fn a_smaller_mtu_that_icmp_tells() {
    requires!(coturn_is_here());
    // 1402: a STUN message has no such length, but the router says it.
    for mtu in [1400, 1402] {
        let found = Served::behind(Network::behind(Nat::new()).mtu(mtu)).ipv4();
        let told =
            json!({ "bytes": mtu, "black_hole": false, "fragments_arrive": true, "confidence": "high" });
        assert_is(&found["path_mtu"], &told);
    }
}

#[test]
fn a_black_hole() {
    requires!(coturn_is_here());
    // The first is a usual size, the other is none.
    for mtu in [1400, 1376] {
        let network = Network::behind(Nat::symmetric()).mtu(mtu).without_icmp_errors();
        let served = Served::behind(network);
        let said = served.nat(&format!("stun:{SRV}"), &[]);
        let found = &said["udp"]["ipv4"];
        let hole =
            json!({ "bytes": mtu, "black_hole": true, "fragments_arrive": true, "confidence": "high" });
        assert_is(&found["path_mtu"], &hole);
        let nameless = |distance| json!({ "distance": distance, "address": null, "scope": null });
        assert_eq!(found["layers"]["hops"], json!([nameless(1), nameless(2)]), "{found}");
        let advice = said["verdict"]["advice"].to_string();
        assert!(advice.contains(&format!("Packets larger than {mtu} bytes vanish")), "{advice}");
    }
}

#[test]
fn ipv6_with_and_without_icmp() {
    requires!(coturn_is_here());
    let network = Network::behind(Nat::new()).ipv6(Ipv6::Firewalled(Filtering::AddressAndPortDependent));
    for (network, bytes, black_hole) in [
        (network, 1500, false),
        (network.mtu(1380), 1380, false),
        (network.mtu(1380).without_icmp_errors(), 1380, true),
    ] {
        let found = Served::behind(network).ipv6();
        let told = json!({ "bytes": bytes, "black_hole": black_hole, "fragments_arrive": true });
        assert_is(&found["path_mtu"], &told);
    }
}

#[test]
fn the_way_through_the_providers_nat() {
    requires!(coturn_is_here());
    let home = Network::behind(Nat::new()).behind_cgn();
    let found = Served::new(Lab::builder().site(Site::A, home).cgn(Nat::symmetric())).ipv4();
    let scopes: Vec<_> =
        found["layers"]["hops"].as_array().unwrap().iter().map(|hop| &hop["scope"]).collect();
    assert_eq!(scopes, ["private", "shared", "global"], "{found}");
    let provider = json!({ "carrier_grade": true, "carrier_grade_confidence": "medium" });
    assert_is(&found["layers"], &provider);
}

/// Of what loss leaves measurable, everything is right.
#[test]
fn a_tenth_of_the_packets_lost() {
    requires!(coturn_is_here());
    let lossy = Network::behind(Nat::new()).loss_per_mille(100);
    let cases = [
        (lossy, 1500, false),
        (lossy.mtu(1400), 1400, false),
        (lossy.mtu(1400).without_icmp_errors(), 1400, true),
    ];
    std::thread::scope(|scope| {
        for (network, bytes, black_hole) in cases {
            scope.spawn(move || {
                let found = Served::behind(network).ipv4();
                let path = &found["path_mtu"];
                assert!(path["bytes"] == bytes || path["bytes"].is_null(), "{found}");
                assert!(path["black_hole"] == black_hole || path["black_hole"].is_null(), "{found}");
                let hops = found["layers"]["hops"].as_array().unwrap();
                assert!(hops.len() <= 2, "{found}");
                for (hop, address) in hops.iter().zip(["192.168.1.1", "192.0.2.5"]) {
                    assert!(hop["address"] == address || hop["address"].is_null(), "{found}");
                }
            });
        }
    });
}

/// Waits that a busy machine prolongs are measured, so the bounds are true on any.
fn assert_lifetime(found: &Value, seconds: f64) {
    let [least, most] = ["at_least_s", "at_most_s"].map(|key| found[key].as_f64().unwrap());
    assert!(least <= seconds && seconds <= most, "{seconds} s: {found}");
    // The first round alone has steps of 5 and 13 seconds.
    assert!(most - least < 4.5, "{seconds} s: {found}");
}

fn lifetime(network: impl Into<Network>) -> Value {
    let served = Served::behind(network);
    let mut command = served.lab.command(Node::A, harness::thirl());
    command.args(["nat", "--json", "--lifetime", "--server", &format!("stun:{SRV}")]);
    let mut program = Program::spawn(command).unwrap().named("thirl nat");
    // What takes long is announced.
    program.wait_for_line("thirl: finding out which mappings expire", MINUTES).unwrap();
    program.wait_for_line("thirl: finding out", MINUTES).unwrap();
    program.wait_for_json(MINUTES).unwrap()["udp"]["ipv4"]["lifetime"].clone()
}

/// Each of these takes a minute, in which it waits.
const MINUTES: Duration = Duration::from_secs(200);

fn of_seconds(single: u64, stream: u64) -> Nat {
    let [single, stream] = [single, stream].map(Duration::from_secs);
    Nat::new().udp_timeout(single).udp_stream_timeout(stream)
}

#[test]
fn mappings_of_five_seconds() {
    requires!(coturn_is_here());
    let found = lifetime(of_seconds(5, 5));
    assert_lifetime(&found, 5.0);
    assert_lifetime(&found["conversation"], 5.0);
    assert_is(&found, &json!({ "refreshed_by_outbound": true, "refreshed_by_inbound": true }));
}

#[test]
fn mappings_of_twenty_seconds() {
    requires!(coturn_is_here());
    let found = lifetime(of_seconds(20, 20));
    assert_lifetime(&found, 20.0);
    assert_lifetime(&found["conversation"], 20.0);
    assert_is(&found, &json!({ "refreshed_by_outbound": true, "refreshed_by_inbound": true }));
}

#[test]
fn conversations_are_kept_longer_than_single_exchanges() {
    requires!(coturn_is_here());
    let found = lifetime(of_seconds(5, 20));
    assert_lifetime(&found, 5.0);
    assert_lifetime(&found["conversation"], 20.0);
}

#[test]
fn a_lifetime_with_a_tenth_of_the_packets_lost() {
    requires!(coturn_is_here());
    let found = lifetime(Network::behind(of_seconds(5, 5)).loss_per_mille(100));
    for found in [&found, &found["conversation"]] {
        let [least, most] = ["at_least_s", "at_most_s"].map(|key| found[key].as_f64());
        assert!(least.is_none_or(|least| least <= 5.0) && most.is_none_or(|most| most >= 5.0), "{found}");
    }
    for direction in ["refreshed_by_outbound", "refreshed_by_inbound"] {
        assert!(found[direction] == true || found[direction].is_null(), "{found}");
    }
}
