//! What runs out costs one client one answer, and the operator is told.

use std::process::Command;

use thirl_tests::harness::{self, Allocation};

use super::{Relay, arguments, said};

/// Fills a relay up, and checks that it says why, goes on, and has room again when somebody leaves.
fn fill_up(mut relay: Relay, reason: &str) {
    let mut allocations: Vec<Allocation> = Vec::new();
    let code = loop {
        match relay.allocate() {
            Ok(allocation) => allocations.push(allocation),
            Err(code) => break code,
        }
        assert!(allocations.len() < 64, "it has no end");
    };
    assert_eq!(code, 508);
    let line = said(&mut relay.program, "clients are refused for want of room");
    assert!(line.contains("WARN") && line.contains(reason), "{line}");
    allocations.iter_mut().for_each(|allocation| allocation.echo().unwrap());
    assert_eq!(relay.allocate().err(), Some(508));
    let lines = relay.program.output().matches("for want of room").count();
    assert!(lines <= 2, "one for each thread at the most, and not one for each client: {lines}");
    allocations.pop().unwrap().refresh(0).unwrap().unwrap();
    relay.allocate().unwrap().echo().unwrap();
}

#[test]
fn ports_run_out() {
    let port = harness::free_udp_port().unwrap().to_string();
    fill_up(
        Relay::start(&["--user", "alice:secret", "--min-port", &port, "--max-port", &port]),
        "no relay port is free",
    );
}

#[test]
fn files_run_out() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 48 && exec \"$0\" \"$@\""]).arg(harness::turn_relay());
    command.args(arguments(&["--user", "alice:secret"]));
    fill_up(Relay::run(command), "Too many open files");
}
