//! coturn's clients against `thirl serve`, on loopback, in every mode that the server supports: over UDP, TCP, TLS and DTLS,
//! IPv4, IPv6 and both, by channels and by Send indications, to a peer and from relay to relay, with the credentials that
//! the server prints and with the shared secret. Nothing may be lost.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
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

/// What a client does besides its flags. Each run has 4 clients, which send 40 messages each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    /// To a peer that echoes: one relayed transport address for a client.
    Peer,
    /// To a peer that echoes, each client with two relayed transport addresses: a port that is even, and the next one by
    /// the reservation.
    PeerWithRtcp,
    /// To each other, relayed transport address to relayed transport address.
    EachOther,
    /// To each other, with two relayed transport addresses each.
    EachOtherWithRtcp,
}

/// A run of uclient: whom it sends to, its flags, and the server's address.
type Mode<'a> = (To, &'a [&'a str], &'a str);

/// Runs uclient in these modes, all at a time, against one server.
fn uclient(program: &Path, peer: &Path, serve: &Serve, modes: &[Mode<'_>]) {
    let peer_port = harness::free_udp_port().unwrap().to_string();
    let servers: BTreeSet<&str> = modes.iter().map(|(_, _, server)| *server).collect();
    let mut peers = Vec::new();
    for server in servers {
        let mut command = Command::new(peer);
        command.args(["-L", server, "-p", &peer_port]);
        peers.push(Program::spawn(command).unwrap().named("turnutils_peer"));
        wait_for_echo(server, peer_port.parse().unwrap());
    }
    let start = |mode| Program::spawn(command(program, serve, &peer_port, mode)).unwrap();
    let clients: Vec<_> = modes.iter().map(|mode| (mode, start(*mode))).collect();
    for ((_, flags, server), client) in clients {
        let mut client = client.named(&format!("turnutils_uclient {} {server}", flags.join(" ")));
        let status = client.wait_for_end(LIMIT).unwrap();
        let output = client.output();
        assert!(status.success(), "{flags:?} {server}: {output}");
        assert!(output.contains("Total lost packets 0 (0.000000%)"), "{flags:?} {server}: {output}");
        assert!(output.contains("tot_send_msgs=160, tot_recv_msgs=160"), "{flags:?} {server}: {output}");
    }
}

/// Every other mode has the shared secret, with which uclient makes credentials itself; the others have the printed ones.
fn command(program: &Path, serve: &Serve, peer_port: &str, (to, flags, server): Mode<'_>) -> Command {
    let mut command = Command::new(program);
    command.args(["-v", "-m", "4", "-n", "40"]).args(flags);
    if matches!(to, To::Peer | To::EachOther) {
        command.arg("-c");
    }
    match to {
        To::Peer | To::PeerWithRtcp => command.args(["-e", server, "-r", peer_port]),
        To::EachOther | To::EachOtherWithRtcp => command.arg("-y"),
    };
    match flags.contains(&"-s") {
        true => command.args(["-u", "someone", "-W", SECRET]),
        false => command.args(["-u", &serve.username, "-w", &serve.credential]),
    };
    // It is given the other port for TLS and DTLS. Of each it tries old versions too, at random, until it has one that the
    // server takes.
    let port = if flags.contains(&"-S") { serve.tls_port } else { serve.port };
    command.args(["-p", &port.to_string(), server]);
    command
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
    ($($name:ident $(($($setting:literal),+))? { $($to:ident $flags:expr, $server:expr;)+ })*) => {$(
        #[test]
        fn $name() {
            let purpose = "is the TURN client of others";
            let program = requires!(harness::installed("turnutils_uclient", "coturn", purpose));
            let peer = requires!(harness::installed("turnutils_peer", "coturn", purpose));
            let serve = Serve::start(&[$($($setting),+)?]);
            uclient(&program, &peer, &serve, &[$((To::$to, &$flags, $server)),+]);
        }
    )*};
}

// By flag: -t TCP, -S TLS or DTLS, -s Send indications instead of channels, -X and -x a family asked for, -Z both families
// in one allocation, -D ChannelData padded over UDP as well, -G requests again and again, -B clients that vanish and come
// again, -T TCP relayed, -N faulty requests in between, -I no permissions for relayed addresses of the server,
// -g DONT-FRAGMENT, -o ORIGIN, -a bandwidth, -M clients that go to another port with a mobility ticket; not by TLS or DTLS,
// where uclient fails at times.
uclient_tests! {
    udp {
        Peer [], LOCALHOST;
        Peer ["-s"], LOCALHOST;
        Peer ["-X"], LOCALHOST;
        Peer ["-l", "1400"], LOCALHOST;
        Peer ["-D", "-l", "101"], LOCALHOST;
        PeerWithRtcp [], LOCALHOST;
        PeerWithRtcp ["-s", "-X"], LOCALHOST;
    }
    tcp {
        Peer ["-t"], LOCALHOST;
        Peer ["-t", "-s"], LOCALHOST;
        Peer ["-t", "-X"], LOCALHOST;
        Peer ["-t", "-l", "101"], LOCALHOST;
        Peer ["-t", "-D", "-l", "103"], LOCALHOST;
        PeerWithRtcp ["-t"], LOCALHOST;
        PeerWithRtcp ["-t", "-s"], LOCALHOST;
    }
    tls {
        Peer ["-S", "-t"], LOCALHOST;
        Peer ["-S", "-t", "-s"], LOCALHOST;
        Peer ["-S", "-t", "-l", "101"], LOCALHOST;
        Peer ["-S", "-t", "-D", "-X", "-l", "103"], LOCALHOST;
        PeerWithRtcp ["-S", "-t"], LOCALHOST;
    }
    dtls {
        Peer ["-S"], LOCALHOST;
        Peer ["-S", "-s"], LOCALHOST;
        Peer ["-S", "-l", "1100"], LOCALHOST;
        Peer ["-S", "-D", "-X", "-l", "101"], LOCALHOST;
        PeerWithRtcp ["-S"], LOCALHOST;
    }
    ipv6 {
        Peer ["-x"], "::1";
        Peer ["-x", "-s"], "::1";
        Peer ["-x", "-t"], "::1";
        Peer ["-x", "-S", "-t"], "::1";
        Peer ["-x", "-S"], "::1";
        PeerWithRtcp ["-x", "-t", "-s"], "::1";
        EachOther ["-x"], "::1";
    }
    dont_fragment {
        Peer ["-g", "-s"], LOCALHOST;
        Peer ["-g", "-s", "-t"], LOCALHOST;
        Peer ["-g", "-s", "-x"], "::1";
    }
    both_families_in_one_allocation {
        Peer ["-Z"], LOCALHOST;
        Peer ["-Z", "-t", "-s"], "::1";
        Peer ["-Z", "-S", "-t"], LOCALHOST;
        Peer ["-Z", "-S"], "::1";
    }
    from_relay_to_relay {
        EachOther [], LOCALHOST;
        EachOther ["-s"], LOCALHOST;
        EachOther ["-t"], LOCALHOST;
        EachOther ["-S", "-t", "-s"], LOCALHOST;
        EachOther ["-S"], LOCALHOST;
        EachOtherWithRtcp [], LOCALHOST;
        EachOtherWithRtcp ["-t", "-s"], LOCALHOST;
    }
    tcp_relay {
        EachOther ["-T"], LOCALHOST;
        EachOther ["-T", "-S"], LOCALHOST;
        EachOther ["-T", "-x"], "::1";
        EachOther ["-T", "-S", "-l", "1400"], LOCALHOST;
    }
    clients_that_misbehave {
        Peer ["-G"], LOCALHOST;
        Peer ["-G", "-S", "-t"], LOCALHOST;
        Peer ["-B"], LOCALHOST;
        Peer ["-B", "-t"], LOCALHOST;
        Peer ["-I"], LOCALHOST;
        Peer ["-o", "https://example.org", "-a", "100000"], LOCALHOST;
        EachOther ["-N"], LOCALHOST;
    }
    clients_that_move {
        Peer ["-M"], LOCALHOST;
        Peer ["-M", "-s"], LOCALHOST;
        Peer ["-M", "-t"], LOCALHOST;
        Peer ["-M", "-x"], "::1";
        PeerWithRtcp ["-M"], LOCALHOST;
        EachOther ["-M"], LOCALHOST;
    }
    by_epoll ("--io", "epoll") {
        Peer [], LOCALHOST;
        Peer ["-s"], LOCALHOST;
        Peer ["-g", "-s"], LOCALHOST;
        Peer ["-t"], LOCALHOST;
        Peer ["-S"], LOCALHOST;
        Peer ["-x", "-S", "-t"], "::1";
        EachOther [], LOCALHOST;
    }
}

/// HAProxy in front of both ports of a server: of the one with version 1 of the PROXY protocol, of the other with version 2.
struct Haproxy {
    _program: Program,
    ports: [u16; 2],
}

impl Haproxy {
    /// From this address it asks the server.
    const SOURCE: &str = "127.0.0.9";

    fn start(program: &Path, serve: &Serve) -> Haproxy {
        let ports = [(); 2].map(|()| harness::free_tcp_port().unwrap());
        let [first, second] = ports;
        let (source, port, tls_port) = (Self::SOURCE, serve.port, serve.tls_port);
        let file = std::env::temp_dir().join(format!("thirl-haproxy-{}.cfg", std::process::id()));
        let config = format!(
            "global\n maxconn 100\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             listen plain\n bind {LOCALHOST}:{first}\n server s {LOCALHOST}:{port} source {source} send-proxy\n\
             listen tls\n bind {LOCALHOST}:{second}\n server s {LOCALHOST}:{tls_port} source {source} send-proxy-v2\n"
        );
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(program);
        command.arg("-db").arg("-f").arg(&file);
        let program = Program::spawn(command).unwrap().named("haproxy");
        let deadline = harness::Deadline::after(LIMIT);
        while ports.iter().any(|port| TcpStream::connect((LOCALHOST, *port)).is_err()) {
            assert!(!deadline.has_passed(), "haproxy does not listen: {}", program.output());
            std::thread::yield_now();
        }
        std::fs::remove_file(file).unwrap();
        Haproxy { _program: program, ports }
    }
}

#[test]
fn behind_haproxy() {
    let purpose = "is the TURN client of others";
    let program = requires!(harness::installed("turnutils_uclient", "coturn", purpose));
    let peer = requires!(harness::installed("turnutils_peer", "coturn", purpose));
    let haproxy = requires!(harness::installed("haproxy", "haproxy", "speaks the PROXY protocol"));
    // Who does not take HAProxy's header for what it is sees bytes that are no STUN.
    let mut serve = Serve::start(&["--proxy-protocol-from", Haproxy::SOURCE]);
    let haproxy = Haproxy::start(&haproxy, &serve);
    [serve.port, serve.tls_port] = haproxy.ports;
    let modes: &[Mode<'_>] = &[
        (To::Peer, &["-t"], LOCALHOST),
        (To::Peer, &["-t", "-s"], LOCALHOST),
        (To::Peer, &["-S", "-t"], LOCALHOST),
        (To::EachOther, &["-S", "-t", "-s"], LOCALHOST),
    ];
    uclient(&program, &peer, &serve, modes);
}

/// uclient has them all come at once.
#[test]
fn a_hundred_clients_at_a_time() {
    let purpose = "is the TURN client of others";
    let program = requires!(harness::installed("turnutils_uclient", "coturn", purpose));
    let serve = Serve::start(&[]);
    let mut command = Command::new(program);
    command.args(["-v", "-m", "100", "-n", "20", "-c", "-y", "-u", &serve.username, "-w", &serve.credential]);
    command.args(["-p", &serve.port.to_string(), LOCALHOST]);
    let mut client = Program::spawn(command).unwrap().named("turnutils_uclient");
    assert!(client.wait_for_end(LIMIT).unwrap().success(), "{}", client.output());
    assert!(client.output().contains("tot_send_msgs=2000, tot_recv_msgs=2000"), "{}", client.output());
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
