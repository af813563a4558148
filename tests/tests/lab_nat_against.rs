//! `thirl nat --against` in the kernel lab: `thirl serve` in public, `thirl listen` behind one NAT, `thirl nat` behind
//! another. Both sides' facts are named right, the pair's verdict is, and what is tried agrees with it.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use serde_json::{Value, json};
use thirl_tests::harness::{self, Line, Program};
use thirl_tests::natlab::{
    Filtering, Firewall, Ipv6, Lab, LabBuilder, Nat, Network, Node, SRV, SRV_ALTERNATE, Site, availability,
};
use thirl_tests::requires;

/// A diagnosis and a dial take some ten seconds; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// What `thirl nat --against … --json` said, and how it ended.
struct Verdict {
    said: Value,
    code: Option<i32>,
}

impl Verdict {
    fn pair(&self, pointer: &str) -> &Value {
        let pair = &self.said["pair"];
        pair.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {pair}"))
    }

    /// Prediction and trial are both this.
    #[track_caller]
    fn assert_path(&self, path: &str, way: &str) {
        let found =
            ["/prediction/path", "/prediction/way", "/tried/path", "/agrees"].map(|part| self.pair(part));
        assert_eq!(json!(found), json!([path, way, path, true]), "{}", self.said["pair"]);
        assert_eq!(self.code, Some(0));
    }
}

/// A public server; with two addresses it measures all (RFC 5780).
fn serve(lab: &Lab, addresses: usize) -> Program {
    let mut serve = lab.command(Node::Srv, harness::thirl());
    serve.arg("serve");
    for ip in [SRV, SRV_ALTERNATE].iter().take(addresses).filter(|_| addresses > 1) {
        serve.args(["--listening-ip", &ip.to_string()]);
    }
    let mut serve = Program::spawn(serve).unwrap().named("serve");
    serve.wait_for_line("thirl listen", LIMIT).unwrap();
    serve
}

fn listen(lab: &Lab, node: Node, flags: &[&str]) -> (Program, String) {
    let mut listen = lab.command(node, harness::thirl());
    listen.args(["listen", "--server", &SRV.to_string(), "--json"]).args(flags);
    let mut listen = Program::spawn(listen).unwrap().named("listen");
    let ticket = listen.wait_for_json(LIMIT).unwrap()["ticket"].as_str().unwrap().to_owned();
    (listen, ticket)
}

fn nat(lab: &Lab, node: Node, ticket: &str) -> Verdict {
    let mut nat = lab.command(node, harness::thirl());
    nat.args(["nat", "--json", "--against", ticket]);
    let mut nat = Program::spawn(nat).unwrap().named("nat");
    let said = nat.wait_for_json(LIMIT).unwrap();
    Verdict { said, code: nat.wait_for_end(LIMIT).unwrap().code() }
}

/// The verdict of `dialler` against `listener`, with a server of so many addresses.
fn verdict(lab: &Lab, dialler: Node, listener: Node, addresses: usize) -> Verdict {
    let _serve = serve(lab, addresses);
    let (_listen, ticket) = listen(lab, listener, &[]);
    nat(lab, dialler, &ticket)
}

fn lab(a: impl Into<Network>, b: impl Into<Network>) -> LabBuilder {
    Lab::builder().site(Site::A, a).site(Site::B, b)
}

#[test]
fn two_cones_are_direct_and_both_sides_are_named_right() {
    requires!(availability());
    let lab = lab(Nat::new(), Nat::new().filtering(Filtering::EndpointIndependent)).build().unwrap();
    let verdict = verdict(&lab, Node::A, Node::B, 2);
    verdict.assert_path("direct", "ipv4");
    assert_eq!(verdict.pair("/prediction/confidence"), "high");
    for (side, site, client, filtering) in
        [("you", Site::A, Node::A, "APDF"), ("they", Site::B, Node::B, "EIF")]
    {
        let facts = verdict.pair(&format!("/{side}/ipv4"));
        assert_eq!(
            [&facts["udp"], &facts["tcp"], &facts["translated"]],
            [true, true, true],
            "{side}: {facts}"
        );
        assert_eq!(
            json!([facts["mapping"], facts["filtering"]]),
            json!([["EIM"], [filtering]]),
            "{side}: {facts}"
        );
        assert_eq!(facts["ports"], "preserving", "{side}: {facts}");
        assert_eq!(facts["external"], lab.public_address(site).unwrap().to_string(), "{side}: {facts}");
        let ip = lab.client_address(client).unwrap();
        assert_eq!(facts["network"], json!({ "ip": ip, "prefix": 24 }), "{side}: {facts}");
    }
    let remote = verdict.pair("/tried/remote").as_str().unwrap();
    assert!(remote.starts_with(&lab.public_address(Site::B).unwrap().to_string()), "{remote}");
    assert_eq!(verdict.pair("/tried/ice/state"), "completed");
}

#[test]
fn two_symmetric_nats_need_a_relay_which_a_server_with_one_address_can_tell() {
    requires!(availability());
    let lab = lab(Nat::symmetric(), Nat::symmetric()).build().unwrap();
    let verdict = verdict(&lab, Node::A, Node::B, 1);
    verdict.assert_path("relay", "relay");
    for side in ["you", "they"] {
        assert_eq!(*verdict.pair(&format!("/{side}/ipv4/mapping")), json!(["APDM"]), "{side}");
    }
    let sides = verdict.pair("/prediction/advice").as_array().unwrap();
    assert_eq!([&sides[0]["side"], &sides[1]["side"]], ["you", "they"], "either could change it: {sides:?}");
    assert_eq!(verdict.pair("/tried/relay"), &SRV.to_string());
}

/// Data goes over the relay at first; the trial waits for what was predicted. With one address the server does not tell an agent
/// what its mapping depends on: the peer's relay does.
#[test]
fn one_symmetric_nat_is_direct_by_a_search() {
    requires!(availability());
    for addresses in [2, 1] {
        let lab = lab(Nat::symmetric(), Nat::new()).build().unwrap();
        let verdict = verdict(&lab, Node::A, Node::B, addresses);
        verdict.assert_path("direct", "ipv4");
        let expected = [verdict.pair("/prediction/search"), verdict.pair("/prediction/confidence")];
        assert_eq!(expected, ["birthday", "medium"]);
        let story = verdict.pair("/tried/ice/hard_nats").as_str().unwrap();
        assert!(story.contains("birthday probing") && story.contains("a direct path was found"), "{story}");
    }
}

#[test]
fn one_lan_is_direct_whatever_its_nat() {
    requires!(availability());
    let lab = Lab::builder().site(Site::A, Network::behind(Nat::symmetric()).clients(2)).build().unwrap();
    verdict(&lab, Node::A, Node::A2, 1).assert_path("direct", "lan");
}

#[test]
fn blocked_udp_needs_a_relay_and_its_side_is_named() {
    requires!(availability());
    let blocked = Network::behind(Nat::symmetric()).firewall(Firewall::NoUdp);
    let symmetric = Network::behind(Nat::symmetric());
    for (a, b, side) in [(blocked, symmetric, "you"), (symmetric, blocked, "they")] {
        let lab = lab(a, b).build().unwrap();
        let verdict = verdict(&lab, Node::A, Node::B, 1);
        verdict.assert_path("relay", "relay");
        for known in ["you", "they"] {
            let facts = verdict.pair(&format!("/{known}/ipv4"));
            assert_eq!([&facts["udp"], &facts["tcp"]], [known != side, true], "{known}: {facts}");
        }
        assert_eq!(verdict.pair("/prediction/advice/0/side"), side);
    }
}

#[test]
fn blocked_udp_may_leave_a_direct_connection() {
    requires!(availability());
    let blocked = Network::behind(Nat::new()).firewall(Firewall::NoUdp);
    let lab = lab(blocked, Nat::new()).build().unwrap();
    let verdict = verdict(&lab, Node::A, Node::B, 1);
    assert_eq!(json!([verdict.pair("/prediction/path"), verdict.pair("/agrees")]), json!(["unknown", null]));
    let why = verdict.pair("/prediction/why").to_string();
    assert!(why.contains("TCP gets out on both"), "{why}");
    assert_eq!((verdict.pair("/tried/path").as_str(), verdict.code), (Some("direct"), Some(0)));
}

#[test]
fn ipv6_on_both_sides_is_direct_though_ipv4_is_not() {
    requires!(availability());
    let symmetric =
        Network::behind(Nat::symmetric()).ipv6(Ipv6::Firewalled(Filtering::AddressAndPortDependent));
    let lab = lab(symmetric, symmetric).build().unwrap();
    verdict(&lab, Node::A, Node::B, 1).assert_path("direct", "ipv6");
}

#[test]
fn two_customers_of_one_provider_depend_on_hairpinning() {
    requires!(availability());
    let home = Network::behind(Nat::new()).behind_cgn();
    let lab = lab(home, home).cgn(Nat::new()).build().unwrap();
    let verdict = verdict(&lab, Node::A, Node::B, 1);
    assert_eq!(json!([verdict.pair("/prediction/path"), verdict.pair("/agrees")]), json!(["unknown", null]));
    let why = verdict.pair("/prediction/why").to_string();
    assert!(why.contains("hairpinning"), "{why}");
    assert_eq!(
        (verdict.pair("/tried/path").as_str(), verdict.code),
        (Some("relay"), Some(0)),
        "{}",
        verdict.said["pair"]
    );
}

#[test]
fn a_side_that_tells_nothing_is_tried_all_the_same() {
    requires!(availability());
    let lab = lab(Nat::new(), Nat::new()).build().unwrap();
    let _serve = serve(&lab, 1);
    let (_listen, ticket) = listen(&lab, Node::B, &["--no-diagnosis"]);
    let verdict = nat(&lab, Node::A, &ticket);
    for unknown in ["/they", "/prediction", "/agrees"] {
        assert!(verdict.pair(unknown).is_null(), "{unknown}");
    }
    let reason = verdict.pair("/they_reason").as_str().unwrap();
    assert!(reason.contains("--no-diagnosis"), "{reason}");
    assert_eq!((verdict.pair("/tried/path").as_str(), verdict.code), (Some("direct"), Some(0)));
}

#[test]
fn the_text_begins_with_the_verdict_and_is_as_narrow_as_asked() {
    requires!(availability());
    let lab = lab(Nat::symmetric(), Nat::new()).build().unwrap();
    let _serve = serve(&lab, 1);
    let (listen, ticket) = listen(&lab, Node::B, &["--policy", "relay"]);
    let mut nat = lab.command(Node::A, harness::thirl());
    nat.args(["nat", "--against", &ticket]).env("COLUMNS", "40");
    let mut nat = Program::spawn(nat).unwrap().named("nat");
    let first = nat.wait_for("the verdict", LIMIT, |line| match line {
        Line::Out(text) => Some(text.clone()),
        Line::Err(_) => None,
    });
    assert_eq!(first.unwrap(), "The path between you and them will be");
    assert_eq!(nat.wait_for_end(LIMIT).unwrap().code(), Some(0), "{}", nat.output());
    let output = nat.output();
    for part in ["as predicted", "Their side uses relays only", "Your side, IPv4", "Their side, IPv4"] {
        assert!(output.contains(part), "{part} in {output}");
    }
    let hidden = lab.public_address(Site::B).unwrap().to_string();
    assert!(!output.contains(&hidden), "a side that uses relays only hides its address: {output}");
    let longest = output.lines().map(|line| line.chars().count() - "  out| ".len()).max();
    assert!(longest <= Some(40), "{output}");
    // It is not there any more.
    drop(listen);
    let gone = lab.command(Node::A, harness::thirl()).args(["nat", "--against", &ticket]).output().unwrap();
    let said = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert_eq!(gone.status.code(), Some(1), "{said}");
    assert!(said.contains("not connected to the server"), "{said}");
}
