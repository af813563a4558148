//! `thirl nat` behind the NATs of the kernel lab, with coturn as the server of RFC 5780: each NAT is named right.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use serde_json::Value;
use thirl_tests::harness::{self, Program};
use thirl_tests::natlab::{
    Filtering, Firewall, Ipv6, Lab, Mapping, Nat, Network, Node, PortAllocation, SRV, SRV_ALTERNATE,
    SRV_ALTERNATE_V6, SRV_V6, Site, availability,
};
use thirl_tests::requires;

/// A diagnosis takes some four seconds; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(40);

fn server(ip: impl std::fmt::Display) -> String {
    format!("stun:{ip}")
}

/// coturn on every address of a node, on ports 3478 and 3479.
fn coturn(lab: &Lab, node: Node, addresses: &[String]) -> Program {
    let mut command = lab.command(node, "turnserver");
    command.args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--log-file", "stdout", "--simple-log", "-v"]);
    command.args(["--listening-port", "3478", "--alt-listening-port", "3479"]);
    command.args(["--userdb", "/dev/null", "--pidfile", "/dev/null", "-a", "-u", "u:p", "-r", "test"]);
    addresses.iter().for_each(|ip| _ = command.args(["--listening-ip", ip, "--relay-ip", ip]));
    let mut coturn = Program::spawn(command).unwrap().named("coturn");
    coturn.wait_for_line("Total General servers", LIMIT).unwrap();
    coturn
}

fn both() -> [String; 2] {
    [SRV.to_string(), SRV_ALTERNATE.to_string()]
}

/// What `thirl nat --json` says on the first client of site A.
fn nat(lab: &Lab, arguments: &[&str]) -> Value {
    let mut command = lab.command(Node::A, harness::thirl());
    command.args(["nat", "--json"]).args(arguments);
    let said = Program::spawn(command).unwrap().named("thirl nat").wait_for_json(LIMIT).unwrap();
    assert_eq!(said["version"], 1, "{said}");
    said
}

/// What it says behind `network`, of UDP over IPv4.
fn diagnosed(network: impl Into<Network>, arguments: &[&str]) -> Value {
    let lab = Lab::builder().site(Site::A, network).build().unwrap();
    let _coturn = coturn(&lab, Node::Srv, &both());
    let server = server(SRV);
    let mut all = vec!["--server", &server];
    all.extend(arguments);
    nat(&lab, &all)["udp"]["ipv4"].clone()
}

fn coturn_is_here() -> Result<(), thirl_tests::natlab::Unavailable> {
    availability()?;
    harness::installed("turnserver", "coturn", "is the server of RFC 5780").map(drop)
}

macro_rules! combinations {
    ($($name:ident: $mapping:ident $filtering:ident, $names:expr;)*) => { $(
        #[test]
        fn $name() {
            requires!(coturn_is_here());
            let found = diagnosed(Nat::new().mapping(Mapping::$mapping).filtering(Filtering::$filtering), &[]);
            assert_eq!([&found["mapping"], &found["filtering"]], $names, "{found}");
        }
    )* };
}

combinations! {
    eim_eif: EndpointIndependent EndpointIndependent, ["EIM", "EIF"];
    eim_adf: EndpointIndependent AddressDependent, ["EIM", "ADF"];
    eim_apdf: EndpointIndependent AddressAndPortDependent, ["EIM", "APDF"];
    adm_eif: AddressDependent EndpointIndependent, ["ADM", "EIF"];
    adm_adf: AddressDependent AddressDependent, ["ADM", "ADF"];
    adm_apdf: AddressDependent AddressAndPortDependent, ["ADM", "APDF"];
    apdm_eif: AddressAndPortDependent EndpointIndependent, ["APDM", "EIF"];
    apdm_adf: AddressAndPortDependent AddressDependent, ["APDM", "ADF"];
    apdm_apdf: AddressAndPortDependent AddressAndPortDependent, ["APDM", "APDF"];
}

#[test]
fn preserved_ports() {
    requires!(coturn_is_here());
    let found = diagnosed(Nat::new(), &["--hairpin"]);
    assert_eq!(found["allocation"]["ports"], "preserving", "{found}");
    assert_eq!(found["allocation"]["parity_preserved"], true, "{found}");
    assert_eq!(found["allocation"]["pooling"], "paired", "{found}");
    let port = |address: &Value| address.as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
    assert_eq!(port(&found["local"]), port(&found["answers"][0]["reflexive"]), "of one socket: {found}");
    assert_eq!(found["hairpin"]["works"], false, "{found}");
}

#[test]
fn random_ports() {
    requires!(coturn_is_here());
    let found = diagnosed(Nat::new().allocation(PortAllocation::Random).hairpin(true), &["--hairpin"]);
    assert_eq!(found["mapping"], "EIM", "{found}");
    assert_eq!(found["allocation"]["ports"], "random", "{found}");
    assert_eq!(found["allocation"]["parity_preserved"], false, "{found}");
    assert_eq!([&found["hairpin"]["works"], &found["hairpin"]["from_external"]], [true, true], "{found}");
}

#[test]
fn sequential_ports() {
    requires!(coturn_is_here());
    let found = diagnosed(Nat::symmetric().allocation(PortAllocation::Sequential), &[]);
    assert_eq!([&found["mapping"], &found["filtering"]], ["APDM", "APDF"], "{found}");
    assert_eq!(found["allocation"]["ports"], "sequential", "{found}");
    assert_eq!(found["allocation"]["step"], 1, "{found}");
}

#[test]
fn a_tenth_of_the_packets_lost() {
    requires!(coturn_is_here());
    let network = Network::behind(Nat::new().filtering(Filtering::AddressDependent)).loss_per_mille(100);
    let found = diagnosed(network, &[]);
    for (what, right) in [("mapping", "EIM"), ("filtering", "ADF")] {
        assert!(found[what] == right || found[what].is_null(), "never wrong: {found}");
    }
}

#[test]
fn blocked_udp_and_open_tcp() {
    requires!(coturn_is_here());
    let network = Network::behind(Nat::new()).firewall(Firewall::NoUdp);
    let lab = Lab::builder().site(Site::A, network).build().unwrap();
    let _coturn = coturn(&lab, Node::Srv, &both());
    let mut command = lab.command(Node::A, harness::thirl());
    command.args(["nat", "--json", "--server", &server(SRV)]);
    let mut program = Program::spawn(command).unwrap().named("thirl nat");
    let said = program.wait_for_json(LIMIT).unwrap();
    assert_eq!(program.wait_for_end(LIMIT).unwrap().code(), Some(1), "{said}");
    let (udp, tcp) = (&said["udp"]["ipv4"], &said["tcp"]["ipv4"]);
    assert_eq!([&udp["reachable"], &tcp["reachable"]], [false, true], "{said}");
    assert!(udp["mapping"].is_null() && udp["filtering"].is_null(), "{said}");
    assert_eq!(tcp["mapping"], "EIM", "{said}");
    let summary = said["verdict"]["summary"].as_str().unwrap();
    assert!(summary.contains("needs a relay over TCP"), "{summary}");
}

#[test]
fn a_nat_behind_the_providers_nat() {
    requires!(coturn_is_here());
    let network = Network::behind(Nat::new().filtering(Filtering::EndpointIndependent)).behind_cgn();
    let lab = Lab::builder().site(Site::A, network).cgn(Nat::symmetric()).build().unwrap();
    let _public = coturn(&lab, Node::Srv, &both());
    let _provider = coturn(&lab, Node::Cgn, &["100.64.255.5".to_owned()]);
    let said = nat(&lab, &["--server", &server(SRV), "--server", "stun:100.64.255.5"]);
    let found = &said["udp"]["ipv4"];
    // The stricter of the two decides; the inner server sees another address, which is no symmetric mapping.
    assert_eq!([&found["mapping"], &found["filtering"]], ["APDM", "APDF"], "{found}");
    assert_eq!(found["layers"]["carrier_grade"], true, "{found}");
    assert_eq!(found["layers"]["at_least"], 2, "{found}");
    // Without a server between the two, nothing shows the inner address: then nothing is claimed.
    let found = &nat(&lab, &["--server", &server(SRV)])["udp"]["ipv4"];
    assert!(found["layers"]["carrier_grade"].is_null(), "{found}");
    assert_eq!(found["layers"]["at_least"], 1, "{found}");
}

#[test]
fn ipv6_behind_a_firewall_and_open() {
    requires!(coturn_is_here());
    for (ipv6, filtering) in [(Ipv6::Firewalled, "APDF"), (Ipv6::Open, "EIF")] {
        let lab = Lab::builder().site(Site::A, Network::behind(Nat::new()).ipv6(ipv6)).build().unwrap();
        let _coturn = coturn(&lab, Node::Srv, &[SRV_V6, SRV_ALTERNATE_V6].map(|ip| ip.to_string()));
        let said = nat(&lab, &["--server", &format!("stun:[{SRV_V6}]")]);
        let found = &said["udp"]["ipv6"];
        assert_eq!([&found["mapping"], &found["filtering"]], ["EIM", filtering], "{found}");
        assert_eq!(found["translated"], false, "{found}");
    }
}

#[test]
fn servers_with_one_address_measure_the_mapping_only() {
    requires!(coturn_is_here());
    let lab = Lab::builder().site(Site::A, Nat::symmetric()).build().unwrap();
    let _servers = both().map(|ip| {
        let mut command = lab.command(Node::Srv, "turnserver");
        command.args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--log-file", "stdout", "--no-rfc5780"]);
        command.args(["--userdb", "/dev/null", "--pidfile", "/dev/null", "-a", "-u", "u:p", "-r", "test"]);
        command.args(["--simple-log", "-v", "--listening-ip", &ip, "--relay-ip", &ip]);
        let mut coturn = Program::spawn(command).unwrap().named("coturn");
        coturn.wait_for_line("Total General servers", LIMIT).unwrap();
        coturn
    });
    let servers = both().map(server);
    let found = &nat(&lab, &["--server", &servers[0], "--server", &servers[1]])["udp"]["ipv4"];
    assert_eq!(found["mapping_depends_on_destination"], true, "{found}");
    assert!(found["mapping"].is_null() && found["filtering"].is_null(), "{found}");
    let reason = found["filtering_reason"].as_str().unwrap();
    assert!(reason.contains("no server here has a second address"), "{reason}");
}

#[test]
fn the_lifetime_of_a_mapping() {
    requires!(coturn_is_here());
    let nat = Nat::new().udp_timeout(Duration::from_secs(2));
    let found = diagnosed(nat, &["--lifetime"]);
    let [least, most] = ["at_least_s", "at_most_s"].map(|key| found["lifetime"][key].as_f64().unwrap());
    assert!((1.0..=2.0).contains(&least) && (2.0..=3.0).contains(&most), "{found}");
}

/// The fields of the tables of a section of docs/nat-json.md.
fn documented(section: &str) -> Vec<&'static str> {
    let text = include_str!("../../docs/nat-json.md");
    let section = text.split("## ").find(|part| part.starts_with(section)).unwrap();
    let table =
        section.lines().skip_while(|line| *line != "|---|---|").take_while(|line| line.starts_with('|'));
    let fields = table.filter_map(|line| line.split('|').nth(1)).flat_map(|cell| cell.split(", "));
    fields.filter_map(|field| field.trim().strip_prefix('`')?.strip_suffix('`')).collect()
}

#[test]
fn the_json_is_what_is_documented() {
    requires!(coturn_is_here());
    let lab = Lab::builder().site(Site::A, Nat::new()).build().unwrap();
    let _coturn = coturn(&lab, Node::Srv, &both());
    let said = nat(&lab, &["--server", &server(SRV)]);
    for (section, at) in [("`udp.ipv4`", "/udp/ipv4"), ("`tcp.ipv4`", "/tcp/ipv4")] {
        let fields = documented(section);
        assert!(fields.len() >= 7, "{fields:?}");
        let family = said.pointer(at).unwrap();
        for field in &fields {
            let pointer = format!("/{}", field.replace('.', "/"));
            assert!(family.pointer(&pointer).is_some(), "{field} is documented, but not in {family}");
        }
        for field in family.as_object().unwrap().keys() {
            let known = fields.iter().any(|known| known.split('.').next() == Some(field));
            assert!(known, "{field} is not documented");
        }
    }
    assert_eq!(said["verdict"]["peers"].as_array().unwrap().len(), 9, "{said}");
    for key in ["summary", "why", "advice"] {
        assert!(!said["verdict"][key].is_null(), "{key}: {said}");
    }
    let relayed = said["verdict"]["peers"].as_array().unwrap().iter().filter(|peer| peer["path"] == "relay");
    assert_eq!(relayed.count(), 6, "all whose mapping depends on the destination: {said}");
}
