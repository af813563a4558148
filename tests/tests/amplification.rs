//! What a stranger's datagram draws from the relay, in bytes, beside what it draws from coturn: `docs/amplification.md` has
//! the table, and is held to it. `THIRL_WRITE_DOCS=1` writes it anew.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use thirl_common::wire::{
    AttributeType, Class, Data, IntegrityAlgorithm, IntegrityKey, Lifetime, MessageWriter, Method,
    RequestedTransport, XorPeerAddress,
};
use thirl_tests::harness::turn::{Login, RawClient, message, stranger};
use thirl_tests::harness::{self, Certificate, Program, Relay};
use thirl_tests::requires;

const LIMIT: Duration = Duration::from_secs(30);
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/amplification.md");
const BEGIN: &str = "<!-- measured by tests/tests/amplification.rs -->\n";
const END: &str = "<!-- end -->\n";
const COTURN: &str = "4.6.1";
/// Of 5 characters on both servers: it is in every challenge.
const REALM: &str = "thirl";

/// What a stranger sends.
enum Datagram {
    /// First of all.
    First(fn() -> Vec<u8>),
    /// After it was told realm and nonce; it is answered, maybe once the user was looked up.
    Challenged(fn(Login) -> Vec<u8>),
    /// The same with what a neighbour at another address was told.
    Stolen(fn(Login) -> Vec<u8>),
    /// DTLS: asked anything else afterwards, a server may think that it belongs to the handshake.
    Hello(&'static [u8]),
}

use Datagram::{Challenged, First, Hello, Stolen};

/// By name, in the order of the table.
const CASES: &[(&str, Datagram)] = &[
    ("Binding", First(|| stranger(Method::BINDING, |_| {}))),
    ("Binding with FINGERPRINT", First(|| stranger(Method::BINDING, |writer| drop(writer.fingerprint())))),
    ("Binding of RFC 3489", First(|| [[0, 1, 0, 0].as_slice(), &[7; 16]].concat())),
    ("Binding with an unknown required attribute", First(|| unknown_attribute(Method::BINDING))),
    ("Binding with a broken attribute", First(|| broken_attribute(Method::BINDING))),
    ("Allocate, empty", First(|| stranger(Method::ALLOCATE, |_| {}))),
    ("Allocate, as clients begin", First(|| stranger(Method::ALLOCATE, udp))),
    (
        "Allocate of 1020 bytes",
        First(|| {
            stranger(Method::ALLOCATE, |writer| {
                drop(writer.raw(AttributeType(0x8777), &[0; 996]));
            })
        }),
    ),
    ("Allocate with an unknown required attribute", First(|| unknown_attribute(Method::ALLOCATE))),
    ("Allocate with a broken attribute", First(|| broken_attribute(Method::ALLOCATE))),
    ("Allocate, a wrong password", Challenged(|login| login.sign(Method::ALLOCATE, udp))),
    (
        "Allocate, an unknown user",
        Challenged(|login| Login { username: "mallory".to_owned(), ..login }.sign(Method::ALLOCATE, udp)),
    ),
    (
        "Allocate, another realm",
        Challenged(|login| Login { realm: "other".to_owned(), ..login }.sign(Method::ALLOCATE, udp)),
    ),
    (
        "Allocate, an old nonce",
        Challenged(|login| {
            Login { nonce: "0123456789abcdef".to_owned(), ..login }.sign(Method::ALLOCATE, udp)
        }),
    ),
    ("Allocate, the nonce of another address", Stolen(|login| login.sign(Method::ALLOCATE, udp))),
    (
        "Allocate, integrity without a user",
        First(|| {
            stranger(Method::ALLOCATE, |writer| {
                udp(writer);
                drop(writer.integrity(IntegrityAlgorithm::Sha1, &IntegrityKey::new(&[7; 16])));
            })
        }),
    ),
    ("Refresh", First(|| stranger(Method::REFRESH, |writer| drop(writer.attribute(&Lifetime(0)))))),
    ("CreatePermission", First(|| stranger(Method::CREATE_PERMISSION, peer))),
    ("ChannelBind", First(|| stranger(Method::CHANNEL_BIND, peer))),
    ("Connect (RFC 6062)", First(|| stranger(Method::CONNECT, peer))),
    ("ConnectionBind (RFC 6062)", First(|| stranger(Method::CONNECTION_BIND, |_| {}))),
    ("A request of an unknown method", First(|| stranger(Method::new(0x7F), |_| {}))),
    (
        "Send indication",
        First(|| {
            message(Class::Indication, Method::SEND, |writer| {
                peer(writer);
                drop(writer.attribute(&Data(&[7; 100])));
            })
        }),
    ),
    ("Data indication", First(|| message(Class::Indication, Method::DATA, peer))),
    ("Binding indication", First(|| message(Class::Indication, Method::BINDING, |_| {}))),
    ("A success response", First(|| message(Class::Success, Method::ALLOCATE, |_| {}))),
    ("An error response", First(|| message(Class::Error, Method::BINDING, |_| {}))),
    ("ChannelData", First(|| [[0x40, 0, 0, 100].as_slice(), &[7; 100]].concat())),
    ("ChannelData that is cut off", First(|| vec![0x40, 0, 4, 0, 7, 7, 7, 7])),
    ("A request that is cut off", First(|| stranger(Method::ALLOCATE, udp)[..24].to_vec())),
    (
        "Binding with a wrong FINGERPRINT",
        First(|| {
            let mut request = stranger(Method::BINDING, |writer| drop(writer.fingerprint()));
            request.last_mut().into_iter().for_each(|byte| *byte ^= 1);
            request
        }),
    ),
    ("An empty datagram", First(Vec::new)),
    ("One byte", First(|| vec![0])),
    ("1200 bytes of nothing", First(|| vec![0xFF; 1200])),
    ("1200 zeros", First(|| vec![0; 1200])),
    ("DTLS ClientHello without a cookie", Hello(include_bytes!("../interop/client_hello.bin"))),
    ("DTLS 1.3 ClientHello without a cookie", Hello(include_bytes!("../interop/client_hello_1_3.bin"))),
];

fn udp(writer: &mut MessageWriter<'_>) {
    drop(writer.attribute(&RequestedTransport::UDP));
}

fn peer(writer: &mut MessageWriter<'_>) {
    drop(writer.attribute(&XorPeerAddress(SocketAddr::from(([192, 0, 2, 1], 9)))));
}

fn unknown_attribute(method: Method) -> Vec<u8> {
    stranger(method, |writer| drop(writer.raw(AttributeType(0x7777), &[])))
}

/// Longer than the message is.
fn broken_attribute(method: Method) -> Vec<u8> {
    let mut request = stranger(method, |writer| drop(writer.raw(AttributeType(0x8777), &[0; 4])));
    request[23] = 200;
    request
}

/// Bytes of a case and of all that it drew.
type Measured = (usize, usize);

fn measure(server: SocketAddr) -> Vec<Measured> {
    CASES.iter().map(|(name, datagram)| measure_case(server, name, datagram)).collect()
}

fn measure_case(server: SocketAddr, name: &str, datagram: &Datagram) -> Measured {
    let client = || RawClient::new(IpAddr::V4(Ipv4Addr::LOCALHOST), server, "alice", "wrong").unwrap();
    let mut own = client();
    let (request, answers) = match datagram {
        First(make) => {
            let request = make();
            let answers = own.answers(&request);
            (request, answers)
        }
        Challenged(make) => {
            own.log_in().unwrap();
            let request = make(own.login.clone());
            let answer = own.ask(&request);
            (request, answer.map(|answer| vec![answer]))
        }
        Stolen(make) => {
            let neighbour = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
            let mut neighbour = RawClient::new(neighbour, server, "alice", "wrong").unwrap();
            neighbour.log_in().unwrap();
            let request = make(neighbour.login);
            let answer = own.ask(&request);
            (request, answer.map(|answer| vec![answer]))
        }
        Hello(hello) => {
            own.send(hello).unwrap();
            (hello.to_vec(), own.receive().map(|answer| vec![answer]))
        }
    };
    let answers = answers.unwrap_or_else(|error| panic!("{name}: {error}"));
    (request.len(), answers.iter().map(Vec::len).sum())
}

fn ours() -> Vec<Measured> {
    let relay = Relay::start(&["--realm", REALM]).unwrap();
    measure(relay.addr)
}

/// As Debian ships it, with a realm and a user.
fn coturn() -> Vec<Measured> {
    let port = harness::free_udp_port().unwrap();
    let certificate = Certificate::new().unwrap();
    let mut command = Command::new("turnserver");
    command.args(["-n", "--no-cli", "--log-file", "stdout", "--simple-log", "-v", "--pidfile", "/dev/null"]);
    command.args(["--userdb", "/dev/null", "--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1"]);
    command.args(["--listening-port", &port.to_string(), "-a", "-r", REALM, "-u", "alice:secret"]);
    let tls_port = harness::free_udp_port().unwrap().to_string();
    command.args(["--tls-listening-port", &tls_port]).args(certificate.flags());
    let mut server = Program::spawn(command).unwrap().named("coturn");
    server.wait_for_line("UDP listener opened on", LIMIT).unwrap();
    measure(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// What the protocol wants larger: a Binding response with the address, and a challenge with realm and nonce, whose sizes
/// are these at most.
#[test]
fn no_answer_is_larger_than_the_protocol_wants() {
    for ((name, _), (request, response)) in CASES.iter().zip(ours()) {
        let wanted = match *name {
            _ if name.starts_with("Binding") => 40,
            "Refresh" | "CreatePermission" | "ChannelBind" => 64,
            _ if name.starts_with("Allocate") => 64,
            _ => 0,
        };
        assert!(response <= request.max(wanted), "{name}: {response} bytes for {request}");
    }
}

#[test]
fn the_document_says_what_strangers_draw() {
    requires!(harness::installed("turnserver", "coturn", "is the TURN server that ours is compared with"));
    let ours = ours();
    let table = table(&ours, &coturn());
    let written = fs::read_to_string(DOCUMENT).unwrap();
    let (before, rest) = written.split_once(BEGIN).unwrap();
    let (old, after) = rest.split_once(END).unwrap();
    if env::var_os("THIRL_WRITE_DOCS").is_some() {
        fs::write(DOCUMENT, [before, BEGIN, &table, END, after].concat()).unwrap();
    } else {
        assert_eq!(
            old, table,
            "write docs/amplification.md anew: THIRL_WRITE_DOCS=1 cargo test --test amplification"
        );
    }
}

fn table(ours: &[Measured], coturn: &[Measured]) -> String {
    let mut table = format!("| datagram | Thirl | coturn {COTURN} |\n|---|---|---|\n");
    for (((name, _), ours), coturn) in CASES.iter().zip(ours).zip(coturn) {
        writeln!(table, "| {name} | {} | {} |", answer(*ours), answer(*coturn)).unwrap();
    }
    table
}

/// With the factor, where it is above 1. A server's own nonce is part of what it is sent.
fn answer((request, response): Measured) -> String {
    match response {
        0 => format!("{request} → nothing"),
        _ if response > request => {
            let tenths = (response * 10).div_ceil(request);
            format!("{request} → {response} (× {}.{})", tenths / 10, tenths % 10)
        }
        _ => format!("{request} → {response}"),
    }
}
