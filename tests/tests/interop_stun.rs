//! NAT discovery of others against `stun-server` with two addresses: coturn's `turnutils_natdiscovery` (RFC 5780) and
//! Debian's `stun` (RFC 3489), without a NAT on loopback and behind the lab's NATs. Each must name what is there.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use thirl_tests::harness::{self, Program};
use thirl_tests::judge::serve_partners;
use thirl_tests::natlab::{
    Filtering, Lab, Mapping, Nat, Node, SRV, SRV_ALTERNATE, SRV2, Site, Unavailable, availability,
};
use thirl_tests::requires;

/// `turnutils_natdiscovery` waits some seconds for each answer that a NAT keeps back.
const LIMIT: Duration = Duration::from_secs(60);

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ALSO_LOCALHOST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

fn natdiscovery() -> Result<PathBuf, Unavailable> {
    harness::installed("turnutils_natdiscovery", "coturn", "is the RFC 5780 client of others")
}

fn stun() -> Result<PathBuf, Unavailable> {
    harness::installed("stun", "stun-client", "is the RFC 3489 client of others")
}

/// `stun-server` with two addresses, started by `command`.
fn serve(mut command: Command, ips: [Ipv4Addr; 2], port: u16) -> Program {
    for ip in ips {
        command.args(["--listening-ip", &ip.to_string()]);
    }
    command.args(["--listening-port", &port.to_string()]);
    let mut server = Program::spawn(command).unwrap().named("stun-server");
    server.wait_for_line(&format!("stun:{}:{}", ips[1], port + 1), LIMIT).unwrap();
    server
}

/// What the client said, all in all.
fn run(mut command: Command, arguments: &[&str]) -> String {
    command.args(arguments);
    let mut client = Program::spawn(command).unwrap();
    // Its exit code is the NAT's kind.
    client.wait_for_end(LIMIT).unwrap();
    client.output()
}

/// Serves on loopback and runs a client against it.
fn on_loopback(program: &Path, arguments: impl Fn(u16) -> Vec<String>) -> String {
    let port = harness::free_udp_port().unwrap();
    let _server = serve(Command::new(harness::stun_server()), [LOCALHOST, ALSO_LOCALHOST], port);
    let arguments = arguments(port);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run(Command::new(program), &arguments)
}

/// Where the two addresses are.
#[derive(Clone, Copy, Debug)]
enum On {
    OneMachine,
    TwoMachines,
}

/// Serves in the lab's public network and runs a client behind a NAT against it.
fn behind(on: On, mapping: Mapping, filtering: Filtering, program: &Path, arguments: &[&str]) -> String {
    let nat = Nat::new().mapping(mapping).filtering(filtering);
    let lab = Lab::builder().site(Site::A, nat).second_server().build().unwrap();
    let _servers = match on {
        On::OneMachine => {
            vec![serve(lab.command(Node::Srv, harness::stun_server()), [SRV, SRV_ALTERNATE], 3478)]
        }
        On::TwoMachines => {
            serve_partners(&lab, [(Node::Srv, SRV.to_string()), (Node::Srv2, SRV2.to_string())]).unwrap()
        }
    };
    run(lab.command(Node::A, program), arguments)
}

/// In coturn's words.
fn dependence(of: &str, depends: usize) -> String {
    let on = ["Endpoint Independent", "Address Dependent", "Address and Port Dependent"][depends];
    format!("NAT with {on} {of}!")
}

#[test]
fn natdiscovery_finds_loopback_open() {
    let program = requires!(natdiscovery());
    let arguments =
        |port: u16| ["-m", "-f", "-p", &port.to_string(), "127.0.0.1"].map(str::to_owned).to_vec();
    let said = on_loopback(&program, arguments);
    // It compares with the wildcard that it is bound to, so without a NAT it says "NAT" as well.
    for of in ["Mapping", "Filtering"] {
        assert!(said.contains(&dependence(of, 0)), "{said}");
    }
    assert!(said.contains("No ALG: Mapped == XOR-Mapped"), "{said}");
}

#[test]
fn stun_finds_loopback_open() {
    let program = requires!(stun());
    let said = on_loopback(&program, |port| vec![format!("127.0.0.1:{port}"), "-v".to_owned()]);
    assert!(said.contains("Primary: Open"), "{said}");
}

macro_rules! lab_tests {
    ($($name:ident: $mapping:ident, $filtering:ident, $depends:expr;)*) => {$(
        #[test]
        fn $name() {
            requires!(availability());
            let program = requires!(natdiscovery());
            for on in [On::OneMachine, On::TwoMachines] {
                let arguments = ["-m", "-f", &SRV.to_string()];
                let said = behind(on, Mapping::$mapping, Filtering::$filtering, &program, &arguments);
                let (mapping, filtering) = $depends;
                assert!(said.contains(&dependence("Mapping", mapping)), "{on:?}: {said}");
                assert!(said.contains(&dependence("Filtering", filtering)), "{on:?}: {said}");
            }
        }
    )*};
}

// Mapping by address alone is not among them. For the third test natdiscovery takes the OTHER-ADDRESS of its second response,
// which coturn's server leaves as it was in the first, whereas by RFC 5780, section 6.1, table 1, it is opposite to the
// address that was asked, and so at the first IP address again.
lab_tests! {
    natdiscovery_names_a_full_cone: EndpointIndependent, EndpointIndependent, (0, 0);
    natdiscovery_names_a_restricted_cone: EndpointIndependent, AddressDependent, (0, 1);
    natdiscovery_names_a_port_restricted_cone: EndpointIndependent, AddressAndPortDependent, (0, 2);
    natdiscovery_names_a_symmetric_nat: AddressAndPortDependent, AddressAndPortDependent, (2, 2);
}

#[test]
fn stun_names_the_cones() {
    requires!(availability());
    let program = requires!(stun());
    for on in [On::OneMachine, On::TwoMachines] {
        for (filtering, name) in [
            (Filtering::EndpointIndependent, "Independent Filter"),
            (Filtering::AddressDependent, "Address Dependent Filter"),
            (Filtering::AddressAndPortDependent, "Port Dependent Filter"),
        ] {
            let arguments = [&SRV.to_string(), "-v"];
            let said = behind(on, Mapping::EndpointIndependent, filtering, &program, &arguments);
            assert!(said.contains(&format!("Independent Mapping, {name}")), "{on:?} {filtering:?}: {said}");
        }
    }
}
