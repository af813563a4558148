//! How a relay ends.

use thirl_tests::harness::Allocation;

use super::metrics::{METRICS, address};
use super::{LIMIT, Relay, get};

const USER: [&str; 2] = ["--user", "alice:secret"];

/// A relay with an allocation.
fn relay(flags: &[&str]) -> (Relay, Allocation) {
    let relay = Relay::start(&[&USER[..], flags].concat());
    let mut allocation = relay.allocate().unwrap();
    allocation.echo().unwrap();
    (relay, allocation)
}

impl Relay {
    fn signal(&mut self, name: &str, part: &str) {
        self.program.signal(name).unwrap();
        self.program.wait_for_line(part, LIMIT).unwrap();
    }

    fn ends(mut self) {
        let status = self.program.wait_for_end(LIMIT).unwrap();
        assert!(status.success(), "{status} {}", self.program.output());
    }
}

#[test]
fn a_relay_that_is_told_to_terminate_waits_for_its_allocations() {
    let (mut relay, mut allocation) = relay(&METRICS);
    let site = address(&mut relay.program);
    assert_eq!(get(site, "/readyz").0, 200);
    relay.signal("TERM", "no new allocations are made");
    assert_eq!(relay.allocate().err(), Some(508));
    assert_eq!((get(site, "/readyz").0, get(site, "/healthz").0), (503, 200));
    allocation.echo().unwrap();
    allocation.refresh(600).unwrap().unwrap();
    allocation.refresh(0).unwrap().unwrap();
    relay.program.wait_for_line("no allocation is left: ending", LIMIT).unwrap();
    relay.ends();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for signal in ["TERM", "INT"] {
        let (mut relay, mut allocation) = relay(&["--drain-timeout", "3600"]);
        relay.signal("TERM", "no new allocations are made");
        allocation.echo().unwrap();
        relay.signal(signal, ": ending");
        relay.ends();
    }
}

#[test]
fn it_waits_no_longer_than_it_may() {
    let (mut relay, _allocation) = relay(&["--drain-timeout", "1"]);
    relay.signal("TERM", "no new allocations are made");
    relay.program.wait_for_line("drain-timeout is over: ending", LIMIT).unwrap();
    relay.ends();
}

#[test]
fn an_interrupt_ends_it_at_once() {
    let (mut relay, _allocation) = relay(&["--drain-timeout", "3600"]);
    relay.signal("INT", "interrupted: ending");
    relay.ends();
}
