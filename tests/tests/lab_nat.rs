//! `thirl nat` behind the NATs of the kernel lab: each NAT is named right. `cargo xtask lab-nat` runs the table of cases again
//! and again.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use serde_json::Value;
use thirl_tests::harness::{self, Program};
use thirl_tests::judge::{Plan, Row, Software, cases, coturn_is_here, diagnose, run, serve};
use thirl_tests::natlab::{Firewall, Lab, Nat, Network, Node, SRV, SRV_ALTERNATE, Site, availability};
use thirl_tests::requires;

/// For a busy machine.
const LIMIT: Duration = Duration::from_secs(40);

fn notes(rows: &[Row], bad: impl Fn(&Row) -> bool) -> String {
    let bad = rows.iter().filter(|row| bad(row));
    bad.flat_map(|row| row.notes.iter().map(|note| format!("{}: {note}\n", row.name))).collect()
}

#[test]
fn each_case_is_named_right() {
    requires!(coturn_is_here());
    let plan = Plan { runs: 1, loss_per_mille: 0, software: Software::Coturn, labs: 6 };
    let rows = run(&cases(), plan);
    assert!(
        rows.len() > 30 && rows.iter().all(|row| row.right == 1),
        "{}",
        notes(&rows, |row| row.right == 0)
    );
}

#[test]
fn with_a_tenth_of_the_packets_lost_nothing_is_named_wrong() {
    requires!(coturn_is_here());
    let some: Vec<_> = cases().into_iter().step_by(3).collect();
    let plan = Plan { runs: 1, loss_per_mille: 100, software: Software::Coturn, labs: 4 };
    let rows = run(&some, plan);
    let bad = |row: &Row| row.wrong + row.failed > 0;
    assert!(rows.len() > 10 && !rows.iter().any(bad), "{}", notes(&rows, bad));
    let unknown = rows.iter().filter(|row| row.unknown > 0).count();
    assert!(unknown <= 3, "too much is not measurable: {}", notes(&rows, |row| row.unknown > 0));
}

#[test]
fn each_combination_is_named_right_with_our_own_server_on_one_machine_and_on_two() {
    requires!(availability());
    let (combinations, mut others) = (cases()[..9].to_vec(), cases());
    others.retain(|case| case.name.starts_with("IPv6"));
    assert!(!others.is_empty(), "both families");
    let some = [combinations, others].concat();
    for software in [Software::Ours, Software::Partners] {
        let plan = Plan { runs: 1, loss_per_mille: 0, software, labs: 4 };
        let rows = run(&some, plan);
        assert!(
            rows.iter().all(|row| row.right == 1),
            "{software:?}: {}",
            notes(&rows, |row| row.right == 0)
        );
    }
}

fn server(ip: impl std::fmt::Display) -> String {
    format!("stun:{ip}")
}

/// coturn on both addresses of the public server.
fn coturn(lab: &Lab) -> Program {
    serve(lab, Software::Coturn, Node::Srv, &[SRV, SRV_ALTERNATE].map(|ip| ip.to_string())).unwrap()
}

/// What `thirl nat` says of UDP over IPv4 behind `network`.
fn diagnosed(network: impl Into<Network>, arguments: &[&str]) -> Value {
    let lab = Lab::builder().site(Site::A, network).build().unwrap();
    let _coturn = coturn(&lab);
    let server = server(SRV);
    let mut all = vec!["--server", &server];
    all.extend(arguments);
    diagnose(&lab, Node::A, &all).unwrap()["udp"]["ipv4"].clone()
}

#[test]
fn a_preserved_port_is_that_of_the_socket_that_was_answered() {
    requires!(coturn_is_here());
    let found = diagnosed(Nat::new(), &[]);
    let port = |address: &Value| address.as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
    assert_eq!(port(&found["local"]), port(&found["answers"][0]["reflexive"]), "{found}");
}

#[test]
fn blocked_udp_has_an_exit_code_of_its_own_and_the_relay_over_tcp_as_advice() {
    requires!(coturn_is_here());
    let network = Network::behind(Nat::new()).firewall(Firewall::NoUdp);
    let lab = Lab::builder().site(Site::A, network).build().unwrap();
    let _coturn = coturn(&lab);
    let mut command = lab.command(Node::A, harness::thirl());
    command.args(["nat", "--json", "--server", &server(SRV)]);
    let mut program = Program::spawn(command).unwrap().named("thirl nat");
    let said = program.wait_for_json(LIMIT).unwrap();
    assert_eq!(program.wait_for_end(LIMIT).unwrap().code(), Some(1), "{said}");
    let summary = said["verdict"]["summary"].as_str().unwrap();
    assert!(summary.contains("needs a relay over TCP"), "{summary}");
}

#[test]
fn servers_with_one_address_measure_the_mapping_only() {
    requires!(coturn_is_here());
    let lab = Lab::builder().site(Site::A, Nat::symmetric()).build().unwrap();
    let both = [SRV, SRV_ALTERNATE].map(|ip| ip.to_string());
    let _servers =
        both.each_ref().map(|ip| serve(&lab, Software::Coturn, Node::Srv, std::slice::from_ref(ip)).unwrap());
    let servers = both.map(server);
    let found =
        &diagnose(&lab, Node::A, &["--server", &servers[0], "--server", &servers[1]]).unwrap()["udp"]["ipv4"];
    assert_eq!(found["mapping_depends_on_destination"], true, "{found}");
    assert!(found["mapping"].is_null() && found["filtering"].is_null(), "{found}");
    let reason = found["filtering_reason"].as_str().unwrap();
    assert!(reason.contains("no server here has a second address"), "{reason}");
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
    let _coturn = coturn(&lab);
    let said = diagnose(&lab, Node::A, &["--server", &server(SRV)]).unwrap();
    for (section, at) in [
        ("`udp.ipv4`", "/udp/ipv4"),
        ("`tcp.ipv4`", "/tcp/ipv4"),
        ("`reach.tcp_3478`", "/reach/tls_443"),
        ("`gateway.ipv4`", "/gateway/ipv4"),
        ("`ipv6_addresses`", "/ipv6_addresses"),
    ] {
        let fields = documented(section);
        assert!(fields.len() >= 3, "{fields:?}");
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
    assert_eq!(relayed.count(), 4, "all whose mapping and filtering depend on the destination: {said}");
}
