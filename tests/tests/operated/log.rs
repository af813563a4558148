//! The log as text and as JSON, and what fail2ban makes of it.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use thirl_tests::harness::{self, Allocation, Login, Program};
use thirl_tests::requires;

use super::{ALICE, LIMIT, Relay, said};

/// A name that would have another address banned, if lines could be forged by it.
const FORGED: &str = "x 2026-01-01T00:00:00.000000Z  WARN a: authentication failed ip=192.0.2.99 port=1";

/// What a relay logs of an allocation, of its user, and of somebody who guesses.
fn log(format: &str) -> Vec<String> {
    let flags = ["--log-format", format, "--log-level", "trace", "--user", "alice:a-password"];
    let mut relay =
        Relay::start(&[&flags[..], &["--user", "bob:0x0123456789abcdef0123456789abcdef"]].concat());
    for username in ["mallory", FORGED] {
        let login = Login { username, password: "guessed" };
        assert_eq!(Allocation::new(relay.addr, login).unwrap().err(), Some(401));
    }
    let login = Login { password: "a-password", ..ALICE };
    let mut allocation = Allocation::new(relay.addr, login).unwrap().unwrap();
    allocation.echo().unwrap();
    assert_eq!(allocation.permit("10.0.0.1:9".parse().unwrap()).unwrap(), Err(403));
    allocation.refresh(0).unwrap().unwrap();
    said(&mut relay.program, "allocation ended");
    let output = relay.program.output();
    let secrets = ["a-password", "guessed", "0123456789abcdef"];
    assert!(secrets.iter().all(|secret| !output.contains(secret)), "{output}");
    output.lines().filter_map(|line| line.trim_start().strip_prefix("err| ").map(str::to_owned)).collect()
}

/// Whom fail2ban would ban, by our filter.
fn banned(program: &Path, log: &[String]) -> Vec<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("thirl-fail2ban-{}-{number}", std::process::id()));
    std::fs::write(&file, log.join("\n") + "\n").unwrap();
    let mut command = Command::new(program);
    let filter = concat!(env!("CARGO_MANIFEST_DIR"), "/../contrib/fail2ban/turn-relay.conf");
    command.args(["--out", "ip"]).arg(&file).arg(filter);
    let mut program = Program::spawn(command).unwrap().named("fail2ban-regex");
    assert!(program.wait_for_end(LIMIT).unwrap().success(), "{}", program.output());
    std::fs::remove_file(&file).unwrap();
    let output = program.output();
    output.lines().filter_map(|line| line.trim_start().strip_prefix("out| ").map(str::to_owned)).collect()
}

/// Only the two that guessed, by their own address.
fn assert_found(program: &Path, log: &[String]) {
    assert_eq!(banned(program, log), ["127.0.0.1"; 2], "{log:#?}");
    let journal = |line: &String| format!("Nov 22 23:05:28 host turn-relay[4711]: {line}");
    assert_eq!(banned(program, &log.iter().map(journal).collect::<Vec<_>>()), ["127.0.0.1"; 2]);
}

#[test]
fn fail2ban_reads_the_log_as_text() {
    let program = requires!(harness::installed("fail2ban-regex", "fail2ban", "reads our log"));
    let log = log("text");
    for what in ["allocation created", "allocation ended", "refused"] {
        let of_allocation =
            |line: &&String| line.contains(what) && (what != "refused" || line.contains("code=403"));
        let line = log.iter().find(of_allocation).unwrap();
        assert!(line.contains(" session=") && !line.contains("session=\""), "{line}");
    }
    assert_found(&program, &log);
}

#[test]
fn fail2ban_reads_the_log_as_json() {
    let program = requires!(harness::installed("fail2ban-regex", "fail2ban", "reads our log"));
    let log = log("json");
    let parsed: Vec<Value> = log.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let with = |message: &str| parsed.iter().find(|line| line["message"] == message).unwrap();
    assert_eq!(with("allocation created")["session"], with("allocation ended")["session"]);
    assert_eq!(with("allocation ended")["to_peer_packets"], 1);
    assert_eq!(with("authentication failed")["username"], "mallory");
    assert_found(&program, &log);
}

#[test]
fn a_source_that_guesses_does_not_fill_the_log() {
    let mut relay = Relay::start(&["--user", "alice:a-password"]);
    for _ in 0..50 {
        assert_eq!(relay.allocate().err(), Some(401));
    }
    let login = Login { password: "a-password", ..ALICE };
    let _allocation = Allocation::new(relay.addr, login).unwrap().unwrap();
    said(&mut relay.program, "allocation created");
    let lines = relay.program.output().matches("authentication failed").count();
    // Each of the two shards has a count of its own.
    assert!((5..=12).contains(&lines), "{lines}");
}
