//! TCP allocations (RFC 6062), with clients whose connections come to any shard.
#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do, the test cannot")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::thread;

use thirl_common::net::Transport;
use thirl_common::wire::*;
use thirl_turn_relay::server::Running;

use super::client::*;

/// A client with a TCP allocation, and its relayed transport address.
pub(crate) fn allocated(running: &Running, ipv4: bool) -> (Client, SocketAddr) {
    let mut client = Client::connect(running, Transport::Tcp, ipv4);
    let family = if ipv4 { AddressFamily::Ipv4 } else { AddressFamily::Ipv6 };
    let response = client.request(Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::TCP).unwrap();
        writer.attribute(&RequestedAddressFamily(Some(family))).unwrap();
    });
    assert_eq!(code(&response), 0);
    let relayed = Message::parse(&response).unwrap().require::<XorRelayedAddress>().unwrap().0;
    (client, relayed)
}

pub(crate) fn connect(client: &mut Client, peer: SocketAddr) -> Result<ConnectionId, u16> {
    let response = client.request(Method::CONNECT, |writer| {
        writer.attribute(&XorPeerAddress(peer)).unwrap();
    });
    match code(&response) {
        0 => Ok(Message::parse(&response).unwrap().require().unwrap()),
        code => Err(code),
    }
}

/// A new connection of a client's that has become one to a peer.
fn bound(running: &Running, connection: ConnectionId, behind: &[u8]) -> TcpStream {
    let mut client = Client::connect(running, Transport::Tcp, true);
    client.trailer = behind.to_vec();
    let response = client.request(Method::CONNECTION_BIND, |writer| {
        writer.attribute(&connection).unwrap();
    });
    assert_eq!(code(&response), 0);
    let Wire::Tcp(stream) = client.wire else { panic!("connected by TCP") };
    stream
}

/// A client's connection to a peer of ours, by Connect.
fn pipe(running: &Running, client: &mut Client) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((LOOPBACK_V4, 0)).unwrap();
    let connection = connect(client, listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    (bound(running, connection, b""), peer)
}

pub(crate) fn read(stream: &mut impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn clients_connect_to_peers_from_the_relayed_address() {
    let running = start(|config| config.listen.shards = NonZeroUsize::new(3));
    for (ipv4, ip) in [(true, LOOPBACK_V4), (false, LOOPBACK_V6)] {
        let (mut client, relayed) = allocated(&running, ipv4);
        // So many that some come to the allocation's shard, and some to others.
        let pipes: Vec<_> = (0..12u8)
            .map(|n| {
                let listener = TcpListener::bind((ip, 0)).unwrap();
                let connection = connect(&mut client, listener.local_addr().unwrap()).unwrap();
                let (mut peer, from) = listener.accept().unwrap();
                assert_eq!(from, relayed);
                peer.set_read_timeout(Some(PATIENCE)).unwrap();
                peer.write_all(b"before").unwrap();
                let mut stream = bound(&running, connection, &[n; 4]);
                assert_eq!((read(&mut stream, 6), read(&mut peer, 4)), (b"before".to_vec(), vec![n; 4]));
                (n, stream, peer)
            })
            .collect();
        for (n, mut stream, mut peer) in pipes {
            stream.write_all(&[n; 100]).unwrap();
            peer.write_all(&[n; 200]).unwrap();
            assert_eq!((read(&mut peer, 100), read(&mut stream, 200)), (vec![n; 100], vec![n; 200]));
        }
    }
    running.shutdown();
    let engine = running.join().engine;
    assert_eq!((engine.connections_bound, engine.relayed.to_client_bytes), (24, 24 * 206));
    assert_eq!(engine.relayed.to_peer_bytes, 24 * 104);
}

#[test]
fn peers_connect_to_the_relayed_address() {
    let running = start(|config| config.listen.shards = NonZeroUsize::new(3));
    let (mut client, relayed) = allocated(&running, true);
    let mut early = TcpStream::connect(relayed).unwrap();
    early.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(!matches!(early.read(&mut [0]), Ok(1..)), "not permitted");
    assert_eq!(client.permit(SocketAddr::new(LOOPBACK_V4, 0)), 0);
    for n in 0..6u8 {
        let mut peer = TcpStream::connect(relayed).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let attempt = client.receive();
        let attempt = Message::parse(&attempt).unwrap();
        assert_eq!((attempt.class(), attempt.method()), (Class::Indication, Method::CONNECTION_ATTEMPT));
        assert_eq!(attempt.require::<XorPeerAddress>().unwrap().0, peer.local_addr().unwrap());
        let mut stream = bound(&running, attempt.require().unwrap(), b"");
        peer.write_all(&[n]).unwrap();
        stream.write_all(&[n, n]).unwrap();
        assert_eq!((read(&mut stream, 1), read(&mut peer, 2)), (vec![n], vec![n, n]));
    }
}

#[test]
fn each_way_ends_by_itself() {
    let running = start(|_| {});
    let (mut client, _) = allocated(&running, true);
    let (mut stream, mut peer) = pipe(&running, &mut client);
    stream.write_all(b"question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut question = String::new();
    peer.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    // More than all buffers hold, from a peer that has gone before it is read.
    let answer: Vec<u8> = (0..=250).cycle().take(12_000_000).collect();
    let sent = answer.clone();
    let sender = thread::spawn(move || peer.write_all(&sent).unwrap());
    let mut received = read(&mut stream, 1);
    assert_eq!(client.permit(SocketAddr::new(LOOPBACK_V4, 9)), 0, "others are served");
    stream.read_to_end(&mut received).unwrap();
    sender.join().unwrap();
    assert!(received == answer, "{} bytes", received.len());
}

#[test]
fn who_does_not_read_holds_its_own_pipe_up() {
    let running = start(|config| config.listen.shards = NonZeroUsize::new(1));
    let (mut client, _) = allocated(&running, true);
    let (mut stream, mut peer) = pipe(&running, &mut client);
    stream.set_write_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    let mut written = 0;
    while let Ok(count) = stream.write(&[7; 65_536]) {
        written += count;
        assert!(written < 100 << 20, "nothing holds the client back");
    }
    peer.write_all(b"hi").unwrap();
    assert_eq!(read(&mut stream, 2), b"hi", "the other way is free");
    let (mut other, mut other_peer) = pipe(&running, &mut client);
    other.write_all(b"x").unwrap();
    assert_eq!(read(&mut other_peer, 1), b"x");
    assert!(read(&mut peer, written).iter().all(|byte| *byte == 7));
}

#[test]
fn a_peer_that_refuses_is_a_447_and_a_forbidden_one_a_403() {
    let running = start(|_| {});
    let (mut client, relayed) = allocated(&running, true);
    let closed = TcpListener::bind((LOOPBACK_V4, 0)).unwrap().local_addr().unwrap();
    assert_eq!(connect(&mut client, closed), Err(447));
    assert_eq!(connect(&mut client, "127.0.0.2:80".parse().unwrap()), Err(403));
    assert_eq!(connect(&mut client, relayed), Err(403), "itself");
    let listener = TcpListener::bind((LOOPBACK_V4, 0)).unwrap();
    assert!(connect(&mut client, listener.local_addr().unwrap()).is_ok());
    assert_eq!(connect(&mut client, listener.local_addr().unwrap()), Err(446));
    let mut stranger = Client::connect(&running, Transport::Tcp, true);
    let wrong = stranger.request(Method::CONNECTION_BIND, |writer| {
        writer.attribute(&ConnectionId(u32::MAX)).unwrap();
    });
    assert_eq!(code(&wrong), 400);
}

#[test]
fn all_ends_with_the_allocation() {
    let running = start(|_| {});
    for gone in [true, false] {
        let (mut client, relayed) = allocated(&running, true);
        let (mut stream, mut peer) = pipe(&running, &mut client);
        let (_, mut waiting) = {
            let listener = TcpListener::bind((LOOPBACK_V4, 0)).unwrap();
            (connect(&mut client, listener.local_addr().unwrap()).unwrap(), listener.accept().unwrap().0)
        };
        let kept = if gone {
            drop(client);
            None
        } else {
            let end = client.request(Method::REFRESH, |writer| {
                writer.attribute(&Lifetime(0)).unwrap();
            });
            assert_eq!(code(&end), 0);
            Some(client)
        };
        for stream in [&mut stream, &mut peer, &mut waiting] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
        }
        eventually("nobody listens", || TcpStream::connect(relayed).is_err());
        drop(kept);
    }
    eventually("nothing is left", || running.allocations() == 0);
}
