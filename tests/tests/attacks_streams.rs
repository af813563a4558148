//! What attacks over TCP and TLS cost the relay, as a process: connections that say little, nothing or too much, and one
//! that never reads. Each prints its cost; `docs/attacks.md` has the table.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use thirl_common::wire::{
    Lifetime, Message, Method, Nonce, Realm, RequestedTransport, XorPeerAddress, XorRelayedAddress,
};
use thirl_tests::harness::turn::{Login, code, stranger};
use thirl_tests::harness::{Deadline, Relay};

const MIB: u64 = 1 << 20;
/// Longer than any deadline of the server's: 60 s for a message, 10 s for a handshake.
const LIMIT: Duration = Duration::from_secs(120);

fn relay() -> Relay {
    Relay::start(&["--relay-threads", "1", "--allowed-peer-ip", "127.0.0.1"]).unwrap()
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Sends a request and reads its response, which is all that comes.
fn ask(stream: &mut TcpStream, request: &[u8]) -> Vec<u8> {
    stream.write_all(request).unwrap();
    let mut response = vec![0; 20];
    stream.read_exact(&mut response).unwrap();
    let len = usize::from(u16::from_be_bytes([response[2], response[3]]));
    response.resize(20 + len, 0);
    stream.read_exact(&mut response[20..]).unwrap();
    response
}

/// An allocation over TCP: the stream, its login and its relayed transport address.
fn allocate(addr: SocketAddr) -> (TcpStream, Login, SocketAddr) {
    let mut stream = connect(addr);
    let challenge = ask(&mut stream, &stranger(Method::ALLOCATE, |_| {}));
    let challenge = Message::parse(&challenge).unwrap();
    let login = Login {
        username: "alice".to_owned(),
        password: "secret".to_owned(),
        realm: challenge.require::<Realm<'_>>().unwrap().0.to_owned(),
        nonce: challenge.require::<Nonce<'_>>().unwrap().0.to_owned(),
    };
    let request = login.sign(Method::ALLOCATE, |writer| drop(writer.attribute(&RequestedTransport::UDP)));
    let response = ask(&mut stream, &request);
    let relayed = Message::parse(&response).unwrap().require::<XorRelayedAddress>().unwrap().0;
    (stream, login, relayed)
}

fn honest_goes_on(stream: &mut TcpStream, login: &Login) {
    let request = login.sign(Method::REFRESH, |writer| drop(writer.attribute(&Lifetime(600))));
    assert_eq!(code(&ask(stream, &request)), 0);
}

fn cost(relay: &Relay, attack: &str, memory_before: u64, bound: u64) {
    let grown = relay.memory().unwrap().saturating_sub(memory_before);
    eprintln!("COST {attack}: {} KiB, {} files", grown >> 10, relay.open_files().unwrap());
    assert!(grown <= bound, "{attack}: {grown} bytes of memory");
}

/// Whether the server closes a stream; TLS may say why.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(len) => len < 64,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// Half of what would be a message, over and over in pieces: TCP with a STUN header, TLS with the start of a ClientHello.
#[test]
fn streams_that_say_little() {
    let relay = relay();
    let (mut honest, login, _) = allocate(relay.addr);
    let tls = SocketAddr::new(relay.addr.ip(), relay.tls_port);
    let (memory, files) = (relay.memory().unwrap(), relay.open_files().unwrap());
    let begin = |addr: SocketAddr, first: &[u8]| {
        let mut stream = connect(addr);
        stream.write_all(first).unwrap();
        stream
    };
    let mut slow: Vec<_> = (0..300).map(|_| begin(relay.addr, &[0, 1, 0, 8, 0x21])).collect();
    slow.extend((0..300).map(|_| begin(tls, &[22, 3, 1, 2, 0, 1, 0])));
    slow.extend((0..100).map(|_| connect(relay.addr)));
    honest_goes_on(&mut honest, &login);
    cost(&relay, "700 connections that say little", memory, 8 * MIB);
    // The server ends them all, and then has its sockets again.
    let since = Deadline::after(LIMIT);
    for stream in &mut slow {
        assert!(is_closed(stream), "still open after {:?}", since.elapsed());
    }
    honest_goes_on(&mut honest, &login);
    assert!(relay.open_files().unwrap() <= files, "sockets are left");
    cost(&relay, "the same, afterwards", memory, 8 * MIB);
}

/// Messages that are announced larger than anything is, and streams of what is no message.
#[test]
fn frames_that_are_too_large_or_nothing() {
    let relay = relay();
    let (mut honest, login, _) = allocate(relay.addr);
    let memory = relay.memory().unwrap();
    let mut streams = Vec::new();
    for first in [
        [0, 1, 0xFF, 0xFC, 0x21, 0x12, 0xA4, 0x42].as_slice(),
        &[0x40, 0, 0xFF, 0xFF, 7, 7, 7, 7],
        &[0xFF; 8],
        &[22, 3, 1, 0xFF, 0xFF, 1, 0, 0],
        b"GET / HTTP/1.1\r\n",
    ] {
        for _ in 0..20 {
            let mut stream = connect(relay.addr);
            stream.set_write_timeout(Some(LIMIT)).unwrap();
            // The server may close before all is written.
            let _ = stream.write_all(first).and_then(|()| stream.write_all(&[7; 100_000]));
            streams.push(stream);
        }
    }
    honest_goes_on(&mut honest, &login);
    cost(&relay, "100 streams of 100,000 bytes that are no messages", memory, 16 * MIB);
}

/// A peer sends and sends to a client that does not read: what does not fit is dropped, and nobody else waits.
#[test]
fn a_stream_that_never_reads() {
    let relay = relay();
    let (mut honest, login, _) = allocate(relay.addr);
    let memory = relay.memory().unwrap();
    let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let peer_addr = peer.local_addr().unwrap();
    let mut deaf = Vec::new();
    for _ in 0..20 {
        let (mut stream, login, relayed) = allocate(relay.addr);
        let permit = login.sign(Method::CREATE_PERMISSION, |writer| {
            drop(writer.attribute(&XorPeerAddress(peer_addr)));
        });
        assert_eq!(code(&ask(&mut stream, &permit)), 0);
        deaf.push((stream, relayed));
    }
    // 10 MB for each of them.
    for round in 0..10_000 {
        for (_, relayed) in &deaf {
            let _ = peer.send_to(&[7; 1000], relayed);
        }
        if round % 1000 == 0 {
            honest_goes_on(&mut honest, &login);
        }
    }
    honest_goes_on(&mut honest, &login);
    cost(&relay, "20 clients that do not read 10 MB each", memory, 16 * MIB);
}
