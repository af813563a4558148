//! Two of our ICE agents through a TURN server that is coturn, on loopback, restricted to relayed candidates.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::process::Command;
use std::time::Duration;

use thirl_tests::harness::{self, Certificate, Coturn, Program};
use thirl_tests::requires;
use thirl_tests::scripted::connect;

const LIMIT: Duration = Duration::from_secs(30);

/// What carries packets to the server.
#[derive(Clone, Copy, Debug)]
enum Over {
    Udp,
    Tcp,
    Tls,
    Dtls,
}

fn uri(server: &Coturn, over: Over) -> String {
    match over {
        Over::Udp => format!("turn:127.0.0.1:{}?transport=udp", server.port),
        Over::Tcp => format!("turn:127.0.0.1:{}?transport=tcp", server.port),
        Over::Tls => format!("turns:localhost:{}?transport=tcp", server.tls_port),
        Over::Dtls => format!("turns:localhost:{}?transport=udp", server.tls_port),
    }
}

fn agent(role: &str, uri: &str, user: &str, certificate: &Certificate, more: &[&str]) -> Program {
    let mut command = Command::new(harness::thirl());
    command.args(["ice", "--role", role, "--policy", "relay", "--turn", uri, "--user", user]);
    command.args(["--password", "secret", "--ca"]).arg(certificate.authority_path()).args(more);
    Program::spawn(command).unwrap().named(&format!("thirl ice, {role}"))
}

fn relayed(over: [Over; 2]) {
    requires!(harness::installed("turnserver", "coturn", "is the TURN server of others"));
    let server = Coturn::start(&[]).unwrap();
    let [first, second] = over.map(|over| uri(&server, over));
    let mut first = agent("controlling", &first, "alice", &server.certificate, &["--send", "20"]);
    let mut second = agent("controlled", &second, "alice", &server.certificate, &[]);
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
    relayed([Over::Udp, Over::Udp]);
}

#[test]
fn both_over_tcp() {
    relayed([Over::Tcp, Over::Tcp]);
}

#[test]
fn one_over_udp_and_one_over_tcp() {
    relayed([Over::Udp, Over::Tcp]);
}

#[test]
fn one_over_tls_and_one_over_dtls() {
    relayed([Over::Tls, Over::Dtls]);
}

/// What an agent that gets no candidate says in the end.
fn refusal(first: &mut Program, second: &mut Program) -> String {
    let descriptions = [first.wait_for_json(LIMIT).unwrap(), second.wait_for_json(LIMIT).unwrap()];
    for description in &descriptions {
        assert_eq!(description["candidates"].as_array().unwrap().len(), 0, "{description}");
    }
    first.write_line(&descriptions[1].to_string()).unwrap();
    second.write_line(&descriptions[0].to_string()).unwrap();
    // Nothing to try and nothing to come: there is no point in waiting for the whole patience.
    let status = first.wait_for_end(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(1), "{}", first.output());
    first.output()
}

#[test]
fn wrong_credentials_are_reported_in_words() {
    requires!(harness::installed("turnserver", "coturn", "is the TURN server of others"));
    let server = Coturn::start(&[]).unwrap();
    let start = |role| agent(role, &uri(&server, Over::Udp), "mallory", &server.certificate, &[]);
    let said = refusal(&mut start("controlling"), &mut start("controlled"));
    assert!(said.contains("refuses the credentials"), "{said}");
}

#[test]
fn a_server_that_is_not_who_it_should_be_gets_no_credentials() {
    requires!(harness::installed("turnserver", "coturn", "is the TURN server of others"));
    let server = Coturn::start(&[]).unwrap();
    let stranger = Certificate::issued().unwrap();
    for over in [Over::Tls, Over::Dtls] {
        // Issued by an authority that is not trusted.
        let start = |role| agent(role, &uri(&server, over), "alice", &stranger, &[]);
        let said = refusal(&mut start("controlling"), &mut start("controlled"));
        assert!(said.contains("invalid peer certificate"), "{over:?}: {said}");
        // Trusted, but of another name.
        let other_name = uri(&server, over).replace("localhost", "127.0.0.1");
        let start = |role| agent(role, &other_name, "alice", &server.certificate, &[]);
        let said = refusal(&mut start("controlling"), &mut start("controlled"));
        assert!(said.contains("not valid for name"), "{over:?}: {said}");
    }
}
