//! Port mapping against miniupnpd on a NAT of the kernel lab: what `thirl nat` says of it, and whether mappings work.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use thirl_tests::harness::{self, Deadline, Program};
use thirl_tests::natlab::{
    Filtering, Igd, Ipv6, Lab, Nat, Network, Node, SRV, SRV_ALTERNATE, Site, Unavailable, availability,
};
use thirl_tests::requires;

const MAPPER: &str = env!("CARGO_BIN_EXE_lab-mapper");
const PROBER: &str = env!("CARGO_BIN_EXE_lab-prober");

/// Everything here takes seconds; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// miniupnpd takes it for public, as it does no documentation address.
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 10);

fn miniupnpd_is_here() -> Result<(), Unavailable> {
    availability()?;
    harness::installed("miniupnpd", "miniupnpd-nftables", "is the gateway of others").map(drop)
}

/// A client behind a NAT that lets nobody in.
fn closed_lab(network: impl Into<Network>) -> Lab {
    let mut lab = Lab::builder().site(Site::A, network).build().unwrap();
    lab.set_public_address(Node::NatA, EXTERNAL).unwrap();
    lab
}

fn stun_server(lab: &Lab) -> Program {
    let mut command = lab.command(Node::Srv, harness::stun_server());
    [SRV, SRV_ALTERNATE].iter().for_each(|ip| _ = command.args(["--listening-ip", &ip.to_string()]));
    let mut server = Program::spawn(command).unwrap().named("stun-server");
    server.wait_for_line(&format!("stun:{SRV_ALTERNATE}:3479"), LIMIT).unwrap();
    server
}

/// What `thirl nat --json` says on the client.
fn diagnosed(lab: &Lab) -> Value {
    let _server = stun_server(lab);
    let mut command = lab.command(Node::A, harness::thirl());
    command.args(["nat", "--json", "--server", &format!("stun:{SRV}")]);
    Program::spawn(command).unwrap().named("thirl nat").wait_for_json(LIMIT).unwrap()
}

/// Offered and granted, for PCP, NAT-PMP and UPnP.
fn services(said: &Value) -> [Value; 3] {
    let gateway = &said["gateway"]["ipv4"];
    ["pcp", "nat_pmp", "upnp"].map(|name| json!([gateway[name]["offered"], gateway[name]["granted"]]))
}

fn advises(said: &Value, words: &str) -> bool {
    said["verdict"]["advice"]
        .as_array()
        .unwrap()
        .iter()
        .any(|advice| advice.as_str().unwrap().contains(words))
}

#[test]
fn what_the_gateway_offers_is_named() {
    requires!(miniupnpd_is_here());
    let (yes, no, refuses) = (json!([true, true]), json!([false, null]), json!([true, false]));
    let (yes, no, refuses) = (&yes, &no, &refuses);
    let cases = [
        (Some(Igd::new()), [yes, yes, yes], "PCP on your router can open a port: peers behind any NAT"),
        (Some(Igd::new().pcp(false)), [no, no, yes], "UPnP on your router can open a port"),
        (Some(Igd::new().upnp(false)), [yes, yes, no], "PCP on your router can open a port"),
        (
            Some(Igd::new().denying()),
            [refuses, refuses, refuses],
            "offers PCP, but opens no port: NOT_AUTHORIZED",
        ),
        (None, [no, no, no], "Switch on PCP, NAT-PMP or UPnP"),
    ];
    thread::scope(|scope| {
        for (igd, wanted, advice) in cases {
            scope.spawn(move || {
                let lab = closed_lab(Nat::new());
                igd.inspect(|igd| lab.start_igd(Site::A, *igd).unwrap());
                let said = diagnosed(&lab);
                assert_eq!(services(&said).each_ref(), wanted, "{igd:?}: {said}");
                assert!(advises(&said, advice), "{igd:?}: {said}");
                let gateway = &said["gateway"]["ipv4"];
                assert_eq!(gateway["address"], "192.168.1.1", "{said}");
                if wanted.contains(&yes) {
                    assert_eq!(gateway["external"], EXTERNAL.to_string(), "{said}");
                    let layers = &said["udp"]["ipv4"]["layers"];
                    assert_eq!(
                        json!([layers["at_least"], layers["carrier_grade"]]),
                        json!([1, false]),
                        "{said}"
                    );
                }
            });
        }
    });
}

#[test]
fn the_providers_nat_above_is_named() {
    requires!(miniupnpd_is_here());
    let network = Network::behind(Nat::new()).behind_cgn();
    let lab = Lab::builder().site(Site::A, network).cgn(Nat::symmetric()).build().unwrap();
    lab.start_igd(Site::A, Igd::new()).unwrap();
    let said = diagnosed(&lab);
    let layers = &said["udp"]["ipv4"]["layers"];
    assert_eq!(json!([layers["at_least"], layers["carrier_grade"]]), json!([2, true]), "{said}");
    assert!(advises(&said, "Your provider shares one public address"), "{said}");
}

/// A mapping that a client keeps.
struct Mapper<'a> {
    lab: &'a Lab,
    program: Program,
    external: String,
}

impl<'a> Mapper<'a> {
    fn new(lab: &'a Lab, ip: IpAddr, protocol: &str, seconds: u32) -> Mapper<'a> {
        let mut command = lab.command(Node::A, MAPPER);
        command.args([&ip.to_string(), protocol, &seconds.to_string()]);
        let mut program = Program::spawn(command).unwrap().named("lab-mapper");
        let mapped = event(&mut program, "mapped");
        let external = mapped["external"].as_str().unwrap().to_owned();
        Mapper { lab, program, external }
    }

    /// Whether a packet from outside, of somebody whom nothing was sent to, reaches the client.
    fn is_reachable(&self) -> bool {
        let mut command = self.lab.command(Node::Srv, PROBER);
        command.args(["ask", &self.external, "1"]);
        let answer = Program::spawn(command).unwrap().wait_for_json(LIMIT).unwrap();
        !answer["seen"][0].is_null()
    }

    fn becomes_reachable(&self) {
        let deadline = Deadline::after(LIMIT);
        while !self.is_reachable() {
            assert!(!deadline.has_passed(), "{} is not reachable: {}", self.external, self.program.output());
        }
    }

    fn remove(mut self) {
        self.program.write_line("remove").unwrap();
        assert_eq!(event(&mut self.program, "removed")["confirmed"], true);
        assert!(!self.is_reachable(), "what was removed is closed");
    }
}

fn event(program: &mut Program, name: &str) -> Value {
    let chosen = program.wait_for(name, LIMIT, |line| {
        let event: Value = serde_json::from_str(line.text()).ok()?;
        assert!(event["event"] != "failed", "{event}");
        (event["event"] == name).then_some(event)
    });
    chosen.unwrap()
}

/// A mapping that is used, renewed past the end of its first lifetime, and removed; and one that the gateway forgets.
fn works(protocol: &str) {
    let lab = closed_lab(Nat::new());
    lab.start_igd(Site::A, Igd::new()).unwrap();
    let local = lab.client_address(Node::A).unwrap().into();
    let mut brief = Mapper::new(&lab, local, protocol, 10);
    let mut long = Mapper::new(&lab, local, protocol, 600);
    assert!(brief.external.starts_with("11.0.0.10:"), "{}", brief.external);
    assert!(brief.is_reachable() && long.is_reachable(), "{protocol}");

    // At half time each: together they are longer than the first lifetime.
    event(&mut brief.program, "renewed");
    event(&mut brief.program, "renewed");
    assert!(brief.is_reachable(), "{protocol}: renewed");
    brief.remove();

    lab.start_igd(Site::A, Igd::new()).unwrap();
    assert!(!long.is_reachable(), "{protocol}: forgotten");
    // Its own renewal is minutes away.
    long.program.write_line("check").unwrap();
    long.becomes_reachable();
    long.remove();
}

#[test]
fn mappings_work_by_every_protocol() {
    requires!(miniupnpd_is_here());
    thread::scope(|scope| {
        for protocol in ["pcp", "nat-pmp", "upnp"] {
            scope.spawn(move || works(protocol));
        }
    });
}

#[test]
fn pcp_opens_an_ipv6_firewall() {
    requires!(miniupnpd_is_here());
    let lab =
        closed_lab(Network::behind(Nat::new()).ipv6(Ipv6::Firewalled(Filtering::AddressAndPortDependent)));
    lab.start_igd(Site::A, Igd::new()).unwrap();
    let mapper = Mapper::new(&lab, "2001:db8:1::2".parse().unwrap(), "any", 600);
    assert!(mapper.external.starts_with("[2001:db8:1::2]:"), "{}", mapper.external);
    assert!(mapper.is_reachable());
    mapper.remove();
}

/// The next line of JSON that has this key.
fn said(program: &mut Program, key: &str) -> Value {
    loop {
        let line = program.wait_for_json(LIMIT).unwrap();
        if line.get(key).is_some() {
            return line;
        }
    }
}

/// Without a relay there is no other way between the two, and no server tells of this one.
#[test]
fn an_agent_behind_a_symmetric_nat_is_reached_through_its_router() {
    requires!(miniupnpd_is_here());
    let sites = Lab::builder().site(Site::A, Nat::symmetric()).site(Site::B, Nat::symmetric());
    let mut lab = sites.build().unwrap();
    lab.set_public_address(Node::NatA, EXTERNAL).unwrap();
    lab.start_igd(Site::A, Igd::new()).unwrap();
    let agent = |node, role: &str| {
        let mut command = lab.command(node, env!("CARGO_BIN_EXE_lab-peer"));
        command.arg(role);
        Program::spawn(command).unwrap().named(role)
    };
    let (mut a, mut b) = (agent(Node::A, "controlling"), agent(Node::B, "controlled"));
    let (from_a, from_b) = (said(&mut a, "description"), said(&mut b, "description"));
    a.write_line(&from_b.to_string()).unwrap();
    b.write_line(&from_a.to_string()).unwrap();
    // The router may have answered before there was anything to wait for.
    if !from_a.to_string().contains(&EXTERNAL.to_string()) {
        let mapped = said(&mut a, "candidate");
        assert!(mapped["candidate"].as_str().unwrap().contains(&format!(" {EXTERNAL} ")), "{mapped}");
        b.write_line(&mapped.to_string()).unwrap();
    }
    let selected = said(&mut a, "selected");
    assert_eq!(selected["kind"], "direct", "{selected}");
}
