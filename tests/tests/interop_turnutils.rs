//! coturn's clients against `thirl serve`, on loopback: with channels and with Send indications, over UDP, TCP, TLS and
//! DTLS, with the credentials that the server prints and with the shared secret. Nothing may be lost.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use thirl_tests::harness::{self, Certificate, Program};
use thirl_tests::requires;

const LIMIT: Duration = Duration::from_secs(60);
const LOCALHOST: &str = "127.0.0.1";
const SECRET: &str = "north-south-east";

/// `thirl serve --json` on loopback, with loopback peers allowed, and with a certificate.
struct Serve {
    _program: Program,
    _certificate: Certificate,
    port: u16,
    tls_port: u16,
    username: String,
    credential: String,
}

impl Serve {
    /// With further settings, as flags.
    fn start(flags: &[&str]) -> Serve {
        let port = harness::free_udp_port().unwrap();
        let tls_port = harness::free_udp_port().unwrap();
        let certificate = Certificate::new().unwrap();
        let mut command = Command::new(harness::thirl());
        command.args(["serve", "--json", "--listening-ip", LOCALHOST, "--listening-ip", "::1"]);
        command.args(["--listening-port", &port.to_string(), "--static-auth-secret", SECRET]);
        command.args(["--tls-listening-port", &tls_port.to_string()]).args(certificate.flags());
        command.args(["--signalling-port", "0"]).args(flags);
        command.args(["--allowed-peer-ip", LOCALHOST, "--allowed-peer-ip", "::1"]);
        let mut program = Program::spawn(command).unwrap().named("serve");
        let said: Value = program.wait_for_json(LIMIT).unwrap();
        let text = |key: &str| said[key].as_str().unwrap().to_owned();
        let (username, credential) = (text("username"), text("credential"));
        Serve { port, tls_port, username, credential, _program: program, _certificate: certificate }
    }
}

/// Who the client says it is.
#[derive(Clone, Copy)]
enum Credentials {
    Printed,
    Secret,
}

/// Runs uclient with these flags: 3 clients, 40 messages each, against one echoing peer.
fn uclient(
    program: &Path,
    peer: &Path,
    flags: &[&str],
    credentials: Credentials,
    server: &str,
    settings: &[&str],
) {
    let serve = Serve::start(settings);
    let mut command = Command::new(peer);
    let peer_port = harness::free_udp_port().unwrap().to_string();
    command.args(["-L", server, "-p", &peer_port]);
    let _peer = Program::spawn(command).unwrap().named("turnutils_peer");
    wait_for_echo(server, peer_port.parse().unwrap());

    let mut command = Command::new(program);
    command.args(["-v", "-m", "3", "-n", "40", "-c", "-e", server, "-r", &peer_port]).args(flags);
    match credentials {
        Credentials::Printed => command.args(["-u", &serve.username, "-w", &serve.credential]),
        Credentials::Secret => command.args(["-u", "someone", "-W", SECRET]),
    };
    // It is given the other port for TLS and DTLS. Of each it tries old versions too, at random, until it has one that the
    // server takes.
    let port = if flags.contains(&"-S") { serve.tls_port } else { serve.port };
    command.args(["-p", &port.to_string(), server]);
    let mut client = Program::spawn(command).unwrap().named("turnutils_uclient");
    let status = client.wait_for_end(LIMIT).unwrap();
    let output = client.output();
    assert!(status.success(), "{output}");
    assert!(output.contains("Total lost packets 0 (0.000000%)"), "{output}");
    assert!(output.contains("tot_send_msgs=120, tot_recv_msgs=120"), "{output}");
}

/// The peer prints nothing when it is ready, so it is asked until it echoes.
fn wait_for_echo(ip: &str, port: u16) {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let deadline = harness::Deadline::after(LIMIT);
    while !deadline.has_passed() {
        let _ = socket.send_to(b"are you there?", (ip, port));
        if socket.recv(&mut [0; 64]).is_ok() {
            return;
        }
    }
    assert!(!deadline.has_passed(), "turnutils_peer does not echo");
}

macro_rules! uclient_tests {
    ($($name:ident: $flags:expr, $credentials:ident, $server:expr $(, $($setting:literal)+)?;)*) => {$(
        #[test]
        fn $name() {
            let purpose = "is the TURN client of others";
            let program = requires!(harness::installed("turnutils_uclient", "coturn", purpose));
            let peer = requires!(harness::installed("turnutils_peer", "coturn", purpose));
            let settings = &[$($($setting),+)?];
            uclient(&program, &peer, &$flags, Credentials::$credentials, $server, settings);
        }
    )*};
}

uclient_tests! {
    udp_with_channels_and_the_printed_credentials: ["-X"], Printed, LOCALHOST;
    udp_with_send_indications_and_the_printed_credentials: ["-s"], Printed, LOCALHOST;
    udp_with_channels_and_the_secret: [], Secret, LOCALHOST;
    udp_with_send_indications_and_the_secret: ["-s"], Secret, LOCALHOST;
    tcp_with_channels_and_the_printed_credentials: ["-t"], Printed, LOCALHOST;
    tcp_with_send_indications_and_the_printed_credentials: ["-t", "-s"], Printed, LOCALHOST;
    tcp_with_channels_and_the_secret: ["-t"], Secret, LOCALHOST;
    tcp_with_send_indications_and_the_secret: ["-t", "-s"], Secret, LOCALHOST;
    ipv6_over_udp: ["-x"], Printed, "::1";
    ipv6_over_tcp: ["-x", "-t"], Printed, "::1";
    packets_of_odd_length_over_tcp: ["-t", "-l", "101"], Printed, LOCALHOST;
    large_packets: ["-l", "1400"], Printed, LOCALHOST;
    tls_with_channels: ["-S", "-t"], Printed, LOCALHOST;
    tls_with_send_indications: ["-S", "-t", "-s"], Secret, LOCALHOST;
    ipv6_over_tls: ["-S", "-x", "-t"], Printed, "::1";
    packets_of_odd_length_over_tls: ["-S", "-t", "-l", "101"], Printed, LOCALHOST;
    dtls_with_channels: ["-S"], Printed, LOCALHOST;
    dtls_with_send_indications: ["-S", "-s"], Secret, LOCALHOST;
    ipv6_over_dtls: ["-S", "-x"], Printed, "::1";
    large_packets_over_dtls: ["-S", "-l", "1100"], Printed, LOCALHOST;
    both_families_in_one_allocation: ["-Z"], Printed, LOCALHOST;
    both_families_in_one_allocation_over_tcp: ["-Z", "-t", "-s"], Secret, "::1";
    udp_with_channels_by_epoll: [], Printed, LOCALHOST, "--io" "epoll";
    udp_with_send_indications_by_epoll: ["-s"], Secret, LOCALHOST, "--io" "epoll";
    tcp_with_channels_by_epoll: ["-t"], Printed, LOCALHOST, "--io" "epoll";
}

#[test]
fn stunclient_gets_its_address() {
    let purpose = "is the STUN client of others";
    let program = requires!(harness::installed("turnutils_stunclient", "coturn", purpose));
    let serve = Serve::start(&[]);
    let mut command = Command::new(program);
    command.args(["-p", &serve.port.to_string(), LOCALHOST]);
    let mut client = Program::spawn(command).unwrap().named("turnutils_stunclient");
    assert!(client.wait_for_end(LIMIT).unwrap().success(), "{}", client.output());
    let reflexive = format!("reflexive addr: {}:", Ipv4Addr::LOCALHOST);
    assert!(client.output().contains(&reflexive), "{}", client.output());
}

#[test]
fn a_wrong_password_is_refused() {
    let purpose = "is the TURN client of others";
    let program = requires!(harness::installed("turnutils_uclient", "coturn", purpose));
    let serve = Serve::start(&[]);
    let mut command = Command::new(program);
    command.args(["-m", "1", "-n", "1", "-c", "-y", "-u", &serve.username, "-w", "wrong"]);
    command.args(["-p", &serve.port.to_string(), LOCALHOST]);
    let mut client = Program::spawn(command).unwrap().named("turnutils_uclient");
    let status = client.wait_for_end(LIMIT).unwrap();
    assert!(
        !status.success() && client.output().contains("Cannot complete Allocation"),
        "{}",
        client.output()
    );
}
