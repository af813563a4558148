//! What people and scripts see of the commands: refusals, signals, exit codes, first lines.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use thirl_tests::harness::{self, Program};

const LIMIT: Duration = Duration::from_secs(30);

fn run(program: PathBuf, arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().copied());
    let mut program = Program::spawn(command).unwrap();
    let status = program.wait_for_end(LIMIT).unwrap();
    (status.code(), program.output())
}

/// A configuration file that is removed with its test.
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn new(name: &str, text: &str) -> ConfigFile {
        let path = std::env::temp_dir().join(format!("thirl-cli-{}-{name}.toml", std::process::id()));
        fs::write(&path, text).unwrap();
        ConfigFile(path)
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn bad_configuration_is_refused_with_file_line_key_and_hint() {
    for (name, text, expected) in [
        (
            "unknown",
            "realm = \"x\"\nlistning-port = 1\n",
            [":2:", "listning-port", "did you mean `listening-port`?"],
        ),
        ("port", "\nlistening-port = \"high\"\n", [":2:", "listening-port", "hint: give a number"]),
        ("range", "min-port = 6000\nmax-port = 5000\n", [":2:", "max-port", "hint:"]),
        (
            "peer",
            "denied-peer-ip = [\n\"10.0.0.0/8\",\n\"10.0.0.0/64\"]\n",
            [":3:", "denied-peer-ip", "hint:"],
        ),
        ("user", "user = \"alice\"\n", [":1:", "user", "name:password"]),
        ("syntax", "realm = \n", [":1:", "realm =", "hint:"]),
    ] {
        let file = ConfigFile::new(name, text);
        let path = file.0.to_str().unwrap();
        for (program, arguments) in [
            (harness::thirl(), vec!["serve", "--config", path]),
            (harness::turn_relay(), vec!["--config", path]),
        ] {
            let (code, output) = run(program, &arguments, &[]);
            assert_eq!(code, Some(2), "{output}");
            assert!(output.contains(path), "{output}");
            for part in &expected[..expected.len() - usize::from(name == "syntax") * 2] {
                assert!(output.contains(part), "{part} in {output}");
            }
        }
    }
}

#[test]
fn flags_and_environment_are_refused_alike() {
    let (code, output) = run(harness::thirl(), &["serve", "--min-port", "70000"], &[]);
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("command line: min-port: \"70000\" is no port"), "{output}");
    let (code, output) = run(harness::thirl(), &["serve"], &[("THIRL_MIN_PORT", "0")]);
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("environment variable THIRL_MIN_PORT: min-port"), "{output}");
    let (code, output) = run(harness::thirl(), &["serve", "--listning-port", "1"], &[]);
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("--listening-port"), "{output}");
}

#[test]
fn an_occupied_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let arguments =
        ["serve", "--listening-ip", "127.0.0.1", "--listening-port", &port, "--signalling-port", "0"];
    let (code, output) = run(harness::thirl(), &arguments, &[]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains(&format!("127.0.0.1:{port}")) && output.contains("in use"), "{output}");
}

fn serve() -> Program {
    let mut command = Command::new(harness::thirl());
    let port = harness::free_udp_port().unwrap().to_string();
    command.args([
        "serve",
        "--listening-ip",
        "127.0.0.1",
        "--listening-port",
        &port,
        "--signalling-port",
        "0",
    ]);
    Program::spawn(command).unwrap().named("serve")
}

#[test]
fn serve_prints_what_to_paste_and_what_to_type_next() {
    let mut serve = serve();
    serve.wait_for_line("thirl listen", LIMIT).unwrap();
    let output = serve.output();
    for part in ["stun:127.0.0.1", "turn:127.0.0.1", "?transport=tcp", "username", "credential"] {
        assert!(output.contains(part), "{part} in {output}");
    }
}

#[test]
fn servers_end_cleanly_on_both_signals() {
    for signal in ["INT", "TERM"] {
        let mut serve = serve();
        serve.wait_for_line("thirl listen", LIMIT).unwrap();
        let port = harness::free_udp_port().unwrap().to_string();
        let mut relay = Command::new(harness::turn_relay());
        relay.args(["--listening-ip", "127.0.0.1", "--listening-port", &port]);
        let mut relay = Program::spawn(relay).unwrap().named("turn-relay");
        relay.wait_for_line("turn:127.0.0.1", LIMIT).unwrap();
        let mut stun = Command::new(harness::stun_server());
        stun.args(["--listening-ip", "127.0.0.1", "--listening-port", "0"]);
        let mut stun = Program::spawn(stun).unwrap().named("stun-server");
        stun.wait_for_line("stun:127.0.0.1", LIMIT).unwrap();
        for mut server in [serve, relay, stun] {
            server.signal(signal).unwrap();
            let status = server.wait_for_end(LIMIT).unwrap();
            assert_eq!(status.code(), Some(0), "SIG{signal}: {}", server.output());
        }
    }
}

#[test]
fn help_names_every_setting_alike() {
    let (code, output) = run(harness::thirl(), &["serve", "--help"], &[]);
    assert_eq!(code, Some(0), "{output}");
    for name in [
        "listening-ip",
        "listening-port",
        "relay-ip",
        "external-ip",
        "min-port",
        "max-port",
        "realm",
        "user",
        "static-auth-secret",
        "allowed-peer-ip",
        "denied-peer-ip",
    ] {
        let variable = format!("THIRL_{}", name.to_uppercase().replace('-', "_"));
        assert!(output.contains(&format!("--{name}")) && output.contains(&variable), "{name} in {output}");
    }
}

/// A server, a node that listens at it as the server says to, and the node's ticket.
fn listening() -> (Program, Program, String) {
    let mut serve = serve();
    let next = serve.wait_for_line("thirl listen --server", LIMIT).unwrap();
    let server = next.split_whitespace().skip_while(|word| *word != "--server").nth(1).unwrap().to_owned();
    let mut listen = Command::new(harness::thirl());
    listen.args(["listen", "--server", &server, "--json"]);
    let mut listen = Program::spawn(listen).unwrap().named("listen");
    let ticket = listen.wait_for_json(LIMIT).unwrap()["ticket"].as_str().unwrap().to_owned();
    (serve, listen, ticket)
}

#[test]
fn listen_and_ping_on_one_machine() {
    let (_serve, _listen, ticket) = listening();
    let (code, output) = run(harness::thirl(), &["ping", &ticket, "--count", "2"], &[]);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("direct ") && output.contains(" ↔ "), "{output}");
}

#[test]
fn a_ticket_that_is_none_and_a_node_that_is_away_are_said_so() {
    let (code, output) = run(harness::thirl(), &["ping", "thirl1junk"], &[]);
    assert_eq!(code, Some(2), "{output}");
    let (_serve, listen, ticket) = listening();
    drop(listen);
    let (code, output) = run(harness::thirl(), &["ping", &ticket], &[]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("not connected to the server"), "{output}");
}
