//! A path is kept, in the kernel lab: two agents talk while their network changes under them, and nobody tells them. All that is
//! done for them is what any application does: candidates are carried to the other side as they come.
//! The gap is the longest time without a datagram, of which there is one every 20 ms each way.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use serde_json::{Value, json};
use thirl_common::net::Nat64Prefix;
use thirl_tests::behaviour::Filtering;
use thirl_tests::harness::{self, Deadline, Program};
use thirl_tests::natlab::{Ipv6, Lab, Nat, Network, Node, SRV, Site, availability};
use thirl_tests::requires;

const PEER: &str = env!("CARGO_BIN_EXE_lab-peer");
const LIMIT: Duration = Duration::from_secs(60);
/// So many datagrams in a row show that traffic flows again.
const FLOWING: u64 = 25;

/// One that was killed may hold the port for a moment still: then another is started.
fn relay(lab: &Lab) -> Program {
    let deadline = Deadline::after(LIMIT);
    loop {
        let mut command = lab.command(Node::Srv, harness::turn_relay());
        command.args(["--listening-ip", &SRV.to_string(), "--user", "alice:secret"]);
        let mut relay = Program::spawn(command).unwrap().named("turn-relay");
        match relay.wait_for_line("turn:", LIMIT) {
            Ok(_) => return relay,
            Err(error) => assert!(!deadline.has_passed(), "{error}"),
        }
    }
}

/// Two agents that talk.
struct Call([Program; 2]);

impl Call {
    /// Connected, `a` controlling.
    fn new(lab: &Lab, a: Node, b: Node) -> Call {
        let peer = |node, role: &str| {
            let mut command = lab.command(node, PEER);
            command.args([role, &format!("turn:{SRV}"), "alice", "secret"]);
            Program::spawn(command).unwrap().named(role)
        };
        let mut call = Call([peer(a, "controlling"), peer(b, "controlled")]);
        let descriptions = [0, 1].map(|side| call.said(side, "description"));
        for (peer, theirs) in call.0.iter_mut().zip(descriptions.iter().rev()) {
            peer.write_line(&theirs.to_string()).unwrap();
        }
        call.order("mark");
        call.await_flow([0, 0]);
        call
    }

    fn order(&mut self, order: &str) {
        self.0.iter_mut().for_each(|peer| peer.write_line(&json!(order).to_string()).unwrap());
    }

    /// What each side says of the time since the last mark.
    fn told(&mut self) -> [Value; 2] {
        self.order("tell");
        [0, 1].map(|side| self.said(side, "received"))
    }

    /// The next line of JSON with this key; candidates before it are passed on.
    fn said(&mut self, side: usize, key: &str) -> Value {
        loop {
            let line = self.0[side].wait_for_json(LIMIT).unwrap();
            if line.get("candidate").is_some() {
                self.0[1 - side].write_line(&line.to_string()).unwrap();
            } else if line.get(key).is_some() {
                return line;
            }
        }
    }

    /// Waits until so many datagrams more than `before` have come on each side, and returns the longest gap: milliseconds.
    fn await_flow(&mut self, before: [u64; 2]) -> u64 {
        let deadline = Deadline::after(LIMIT);
        loop {
            let told = self.told();
            let received = told.each_ref().map(|told| told["received"].as_u64().unwrap());
            if received.iter().zip(before).all(|(received, before)| *received >= before + FLOWING) {
                return told.iter().filter_map(|told| told["longest_gap_ms"].as_u64()).max().unwrap();
            }
            assert!(
                !deadline.has_passed(),
                "no traffic for {LIMIT:?}; {}\n{}",
                self.reports(),
                self.output()
            );
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// The longest gap while `change` happens and until traffic flows again: milliseconds.
    fn gap(&mut self, change: impl FnOnce()) -> u64 {
        self.order("mark");
        change();
        let before = self.told().map(|told| told["received"].as_u64().unwrap());
        self.await_flow(before)
    }

    fn reports(&mut self) -> String {
        self.order("report");
        [0, 1]
            .map(|side| self.said(side, "report")["report"].as_str().unwrap_or_default().to_owned())
            .join("\n")
    }

    fn output(&self) -> String {
        self.0.iter().map(Program::output).collect::<Vec<_>>().join("\n")
    }
}

/// The median gap of some changes, which is printed; each is bounded.
fn median(what: &str, gaps: &mut [u64]) -> u64 {
    gaps.sort_unstable();
    let median = gaps[gaps.len() / 2];
    println!("{what}: median gap {median} ms of {gaps:?}");
    median
}

#[test]
fn roaming_from_one_nat_to_another() {
    requires!(availability());
    let mut lab =
        Lab::builder().site(Site::A, Nat::new()).site(Site::B, Nat::new()).second_server().build().unwrap();
    let _relay = relay(&lab);
    let mut call = Call::new(&lab, Node::A, Node::Srv2);
    let mut gaps: Vec<_> = [Site::B, Site::A, Site::B, Site::A, Site::B]
        .map(|site| call.gap(|| lab.roam(Node::A, site).unwrap()))
        .into();
    assert!(median("roaming", &mut gaps) < 1500, "{gaps:?}");
}

/// To a network with IPv6 only, whose NAT64 leads back to the other side, and home again.
#[test]
fn roaming_to_nat64_and_back() {
    requires!(availability());
    requires!(harness::installed("named", "bind9", "is the DNS64"));
    requires!(harness::installed("tayga", "tayga", "is the NAT64"));
    let prefix: Nat64Prefix = "2001:db8:1:64::/96".parse().unwrap();
    let ipv6 = Ipv6::Firewalled(Filtering::AddressAndPortDependent);
    let mut lab = Lab::builder()
        .site(Site::A, Network::behind(Nat::new()).ipv6(ipv6).nat64(prefix))
        .site(Site::B, Network::behind(Nat::new()).clients(2))
        .build()
        .unwrap();
    let _relay = relay(&lab);
    lab.start_dns64(Site::A).unwrap();
    let mut call = Call::new(&lab, Node::B2, Node::B);
    let mut gaps: Vec<_> =
        [Site::A, Site::B, Site::A].map(|site| call.gap(|| lab.roam(Node::B2, site).unwrap())).into();
    assert!(median("roaming to NAT64", &mut gaps) < 3000, "{gaps:?}");
    let through = call.reports();
    assert!(through.contains("connected, direct: 198.51.100.10:"), "{through}");
    assert!(through.contains(&format!("IPv4 is reached through NAT64, under {prefix}")), "{through}");
}

#[test]
fn a_nat_that_forgets_its_mappings() {
    requires!(availability());
    let mut lab = Lab::builder().site(Site::A, Nat::new()).site(Site::B, Nat::new()).build().unwrap();
    let _relay = relay(&lab);
    let mut call = Call::new(&lab, Node::A, Node::B);
    let mut gaps: Vec<_> = (0..5).map(|_| call.gap(|| lab.reboot_nat(Node::NatA).unwrap())).collect();
    assert!(median("NAT reboot", &mut gaps) < 3000, "{gaps:?}");
}

#[test]
fn an_interface_that_gets_another_address() {
    requires!(availability());
    let mut lab = Lab::builder().site(Site::A, Nat::new()).second_server().build().unwrap();
    let _relay = relay(&lab);
    let mut call = Call::new(&lab, Node::A, Node::Srv2);
    let mut gaps = Vec::new();
    for _ in 0..5 {
        let mut old = None;
        // Both addresses are there for a while, as when DHCP or a router says so.
        let with_both = call.gap(|| old = Some(lab.renumber(Node::A).unwrap()));
        gaps.push(with_both.max(call.gap(|| lab.drop_old_address(old.as_ref().unwrap()).unwrap())));
    }
    assert!(median("renumbering, the new address first", &mut gaps) < 500, "{gaps:?}");
}

#[test]
fn a_nat_with_another_public_address() {
    requires!(availability());
    let mut lab = Lab::builder().site(Site::A, Nat::new()).site(Site::B, Nat::new()).build().unwrap();
    let _relay = relay(&lab);
    let mut call = Call::new(&lab, Node::A, Node::B);
    let mut gaps: Vec<_> = (30..33)
        .map(|last| {
            let address = std::net::Ipv4Addr::new(198, 51, 100, last);
            call.gap(|| lab.set_public_address(Node::NatA, address).unwrap())
        })
        .collect();
    assert!(median("another public address", &mut gaps) < 6000, "{gaps:?}");
}

#[test]
fn a_minute_of_silence() {
    requires!(availability());
    let brief = Nat::new().udp_timeout(Duration::from_secs(30));
    let lab = Lab::builder().site(Site::A, brief).site(Site::B, brief).build().unwrap();
    let _relay = relay(&lab);
    let mut call = Call::new(&lab, Node::A, Node::B);
    call.order("silence");
    let minute = Deadline::after(Duration::from_secs(60));
    while !minute.has_passed() {
        std::thread::park_timeout(minute.remaining());
    }
    call.order("talk");
    let gap = call.await_flow([0, 0]);
    println!("after a minute of silence: {gap} ms until the first datagram");
    assert!(gap < 500, "{gap} ms");
}

#[test]
fn a_relay_that_is_killed_and_comes_back() {
    requires!(availability());
    let lab = Lab::builder().site(Site::A, Nat::symmetric()).site(Site::B, Nat::symmetric()).build().unwrap();
    let mut server = Some(relay(&lab));
    let mut call = Call::new(&lab, Node::A, Node::B);
    let mut gaps: Vec<_> = (0..3)
        .map(|_| {
            call.gap(|| {
                server.take();
                server = Some(relay(&lab));
            })
        })
        .collect();
    assert!(median("relay restart", &mut gaps) < 6000, "{gaps:?}");
}
