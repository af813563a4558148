//! A path is kept, in the kernel lab: two agents talk while their network changes under them, and nobody tells them.
//! The gap is the longest time without a datagram, of which there is one every 20 ms each way.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::Duration;

use serde_json::{Value, json};
use thirl_tests::harness::{self, Deadline, Program};
use thirl_tests::natlab::{Lab, Nat, Node, SRV, Site, availability};
use thirl_tests::requires;

const PEER: &str = env!("CARGO_BIN_EXE_lab-peer");
const LIMIT: Duration = Duration::from_secs(60);
/// So many datagrams in a row show that traffic flows again.
const FLOWING: u64 = 25;

fn relay(lab: &Lab) -> Program {
    let mut command = lab.command(Node::Srv, harness::turn_relay());
    command.args(["--listening-ip", &SRV.to_string(), "--user", "alice:secret"]);
    let mut relay = Program::spawn(command).unwrap().named("turn-relay");
    relay.wait_for_line("turn:", LIMIT).unwrap();
    relay
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
        let descriptions = call.0.each_mut().map(|peer| said(peer, "description"));
        for (peer, theirs) in call.0.iter_mut().zip(descriptions.iter().rev()) {
            peer.write_line(&theirs.to_string()).unwrap();
        }
        call.order("mark");
        call.await_flow();
        call
    }

    fn order(&mut self, order: &str) {
        self.0.iter_mut().for_each(|peer| peer.write_line(&json!(order).to_string()).unwrap());
    }

    /// What each side says of the time since the last mark.
    fn told(&mut self) -> [Value; 2] {
        self.order("tell");
        self.0.each_mut().map(|peer| said(peer, "received"))
    }

    /// Waits until traffic flows both ways, counted from the last mark.
    fn await_flow(&mut self) {
        let deadline = Deadline::after(LIMIT);
        while !self.told().iter().all(|told| told["received"].as_u64() >= Some(FLOWING)) {
            if deadline.has_passed() {
                self.order("report");
                let reports = self.0.each_mut().map(|peer| said(peer, "report"));
                let reports = reports.map(|report| report["report"].as_str().unwrap_or_default().to_owned());
                panic!("no traffic for {LIMIT:?}; {}\n{}", reports.join("\n"), self.output());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// The longest gap while `change` happens and until traffic flows again, on either side: milliseconds.
    fn gap(&mut self, change: impl FnOnce()) -> u64 {
        self.order("mark");
        change();
        let before = self.told().map(|told| told["received"].as_u64().unwrap());
        let deadline = Deadline::after(LIMIT);
        loop {
            let told = self.told();
            let flows =
                |(told, before): (&Value, &u64)| told["received"].as_u64().unwrap() >= before + FLOWING;
            if told.iter().zip(&before).all(flows) {
                return told.iter().filter_map(|told| told["longest_gap_ms"].as_u64()).max().unwrap();
            }
            if deadline.has_passed() {
                self.order("report");
                let reports = self.0.each_mut().map(|peer| said(peer, "report"));
                let reports = reports.map(|report| report["report"].as_str().unwrap_or_default().to_owned());
                panic!("no traffic for {LIMIT:?}; {}\n{}", reports.join("\n"), self.output());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    fn output(&self) -> String {
        self.0.iter().map(Program::output).collect::<Vec<_>>().join("\n")
    }
}

/// The next line of JSON that has this key.
fn said(peer: &mut Program, key: &str) -> Value {
    loop {
        let line = peer.wait_for_json(LIMIT).unwrap();
        if line.get(key).is_some() {
            return line;
        }
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
    assert!(median("roaming", &mut gaps) < 3000, "{gaps:?}");
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
