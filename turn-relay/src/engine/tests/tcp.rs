//! TCP allocations: Connect, ConnectionBind, ConnectionAttempt (RFC 6062).

use std::num::NonZeroU64;
use std::time::Duration;

use thirl_common::net::{FiveTuple, PeerAddr, Transport};
use thirl_common::wire::*;

use crate::engine::testing::*;
use crate::engine::*;

fn stream(port: u16) -> FiveTuple {
    FiveTuple { transport: Transport::Tcp, ..client(port) }
}

fn allocate(server: &mut Server, from: FiveTuple, write: impl FnOnce(&mut MessageWriter<'_>)) -> u16 {
    let allocate = server.request(from, "alice", Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::TCP).unwrap();
        write(writer);
    });
    allocate.code()
}

/// A server with a TCP allocation for alice at `stream(1)`, and its relay.
fn allocated(configure: impl FnOnce(&mut EngineConfig)) -> (Server, RelayId) {
    let mut server = Server::new(configure);
    assert_eq!(allocate(&mut server, stream(1), |_| {}), 0);
    let (allocation, _) = server.engine.allocations.find(&stream(1)).unwrap();
    (server, RelayId { allocation, family: AddressFamily::Ipv4 })
}

/// The connection that a Connect leads to, or why it does not.
fn connect(server: &mut Server, peer: &str) -> Result<ConnectionId, u16> {
    let before = server.connections.clone();
    let request = server.signed(stream(1), "alice", Method::CONNECT, |writer| {
        writer.attribute(&XorPeerAddress(peer.parse().unwrap())).unwrap();
    });
    match server.deliver(stream(1), &request) {
        Some(refused) => Err(refused.code()),
        None => {
            let new = server.connections.iter().find(|(id, _)| !before.contains_key(id));
            let (id, peer_addr) = new.unwrap();
            assert_eq!(*peer_addr, Some(PeerAddr(peer.parse().unwrap())));
            Ok(*id)
        }
    }
}

/// What comes when the peer has been connected to or not.
fn connected(server: &mut Server, connection: ConnectionId, connected: bool) -> Reply {
    if !connected {
        server.connections.remove(&connection);
    }
    server.engine.peer_connected(connection, connected, server.now);
    Reply(server.settle().pop().unwrap().payload)
}

fn permit(server: &mut Server, last: u8) {
    let permitted = server.request(stream(1), "alice", Method::CREATE_PERMISSION, |writer| {
        writer.attribute(&XorPeerAddress(peer(last, 0).0)).unwrap();
    });
    assert_eq!(permitted.code(), 0);
}

/// A connection that a peer opened, after the client was told.
fn attempted(server: &mut Server, relay: RelayId, from: PeerAddr) -> ConnectionId {
    let connection = server.engine.handle_peer_connection(server.now, relay, from).unwrap();
    assert_eq!(server.connections.insert(connection, None), None);
    let told = server.settle().pop().unwrap();
    assert_eq!(told.to, stream(1).client.0);
    let told = Message::parse(&told.payload).unwrap();
    assert_eq!((told.class(), told.method()), (Class::Indication, Method::CONNECTION_ATTEMPT));
    assert_eq!(told.require::<XorPeerAddress>().unwrap().0, from.0);
    assert_eq!(told.require::<ConnectionId>().unwrap(), connection);
    connection
}

/// What a ConnectionBind is answered with.
fn bind(server: &mut Server, from: FiveTuple, username: &str, connection: ConnectionId) -> u16 {
    let request = server.signed(from, username, Method::CONNECTION_BIND, |writer| {
        writer.attribute(&connection).unwrap();
    });
    let held = server.engine.handle_datagram(server.now, server.unix(), from, &request);
    assert_eq!(held, Some(Forward::Hold));
    let response = match server.engine.poll_held() {
        Some(Held::Bind(bind)) => {
            assert_eq!((bind.five_tuple(), bind.connection()), (from, connection));
            assert_eq!(bind.engine(), (connection.0 >> 20) as usize);
            server.engine.bind_connection(&bind).unwrap_or_else(|refused| refused)
        }
        Some(Held::ReadOn(five_tuple)) => {
            assert_eq!(five_tuple, from);
            server.settle().pop().unwrap()
        }
        None => panic!("the stream would wait for ever"),
    };
    assert!(server.settle().is_empty());
    let reply = Reply(response.payload);
    assert!(reply.message().verify_integrity(&key(username)).is_ok());
    reply.code()
}

#[test]
fn only_clients_with_streams_get_tcp_and_nothing_of_udp() {
    let mut server = Server::new(|_| {});
    for transport in [Transport::Udp, Transport::Dtls] {
        assert_eq!(allocate(&mut server, FiveTuple { transport, ..client(1) }, |_| {}), 400);
    }
    let tls = FiveTuple { transport: Transport::Tls, ..client(2) };
    assert_eq!(allocate(&mut server, tls, |writer| _ = writer.attribute(&EvenPort { reserve: false })), 400);
    assert_eq!(allocate(&mut server, tls, |writer| _ = writer.attribute(&ReservationToken(1))), 400);
    assert_eq!(allocate(&mut server, tls, |writer| _ = writer.attribute(&DontFragment)), 400);
    assert_eq!(allocate(&mut server, tls, |_| {}), 0);
    let mut without = Server::new(|config| config.tcp_relay = false);
    assert_eq!(allocate(&mut without, tls, |_| {}), 442);
}

#[test]
fn a_client_connects_and_takes_the_connection_over() {
    let (mut server, _) = allocated(|_| {});
    let connection = connect(&mut server, "198.51.100.1:80").unwrap();
    assert_eq!(bind(&mut server, stream(2), "alice", connection), 400, "not before it is there");
    let reply = connected(&mut server, connection, true);
    assert_eq!((reply.code(), reply.message().require::<ConnectionId>().unwrap()), (0, connection));
    assert_eq!(bind(&mut server, stream(1), "alice", connection), 437, "not where the allocation is");
    assert_eq!(bind(&mut server, stream(2), "bob", connection), 441);
    assert_eq!(bind(&mut server, stream(2), "alice", ConnectionId(connection.0 ^ 1)), 400);
    assert_eq!(bind(&mut server, stream(2), "alice", connection), 0);
    assert_eq!(bind(&mut server, stream(3), "alice", connection), 400, "once");
    server.pass(Duration::from_secs(500));
    assert!(server.connections.contains_key(&connection), "no deadline is left");

    assert_eq!(server.engine.count_piped(server.now, connection, Direction::ToPeer, 7), None);
    assert_eq!(server.engine.count_piped(server.now, connection, Direction::ToClient, 9), None);
    let Counters { relayed, connections_bound, .. } = server.engine.counters();
    assert_eq!((relayed.to_peer_bytes, relayed.to_client_bytes, connections_bound), (7, 9, 1));
}

#[test]
fn connect_says_why_not() {
    let (mut server, _) = allocated(|config| config.max_peer_connections = 2);
    assert_eq!(connect(&mut server, "10.0.0.1:80"), Err(403));
    assert_eq!(connect(&mut server, "203.0.113.10:3478"), Err(403), "the server itself");
    assert_eq!(connect(&mut server, "198.51.100.1:0"), Err(403));
    assert_eq!(connect(&mut server, "[2001:db8::1]:80"), Err(443));
    let first = connect(&mut server, "198.51.100.1:80").unwrap();
    assert_eq!(connect(&mut server, "198.51.100.1:80"), Err(446), "while it is made");
    assert_eq!(connected(&mut server, first, true).code(), 0);
    assert_eq!(connect(&mut server, "198.51.100.1:80"), Err(446));
    let second = connect(&mut server, "198.51.100.1:81").unwrap();
    assert_eq!(connect(&mut server, "198.51.100.2:80"), Err(508));
    assert_eq!(connected(&mut server, second, false).code(), 447);
    assert!(connect(&mut server, "198.51.100.1:81").is_ok(), "it is forgotten");
    let nothing = server.request(stream(1), "alice", Method::CONNECT, |_| {});
    assert_eq!(nothing.code(), 400);
    let mut to = |from, username| {
        let connect = server.request(from, username, Method::CONNECT, |writer| {
            writer.attribute(&XorPeerAddress(peer(9, 9).0)).unwrap();
        });
        connect.code()
    };
    assert_eq!((to(stream(5), "alice"), to(stream(1), "bob")), (437, 441));
    server.allocated(stream(6));
    let of_udp = server.request(stream(6), "alice", Method::CONNECT, |writer| {
        writer.attribute(&XorPeerAddress(peer(9, 9).0)).unwrap();
    });
    assert_eq!(of_udp.code(), 403);
}

#[test]
fn a_peer_that_does_not_answer_is_given_up() {
    let (mut server, _) = allocated(|_| {});
    let connection = connect(&mut server, "198.51.100.1:80").unwrap();
    server.now += CONNECT_TIMEOUT;
    server.engine.handle_timeout(server.now);
    let response = server.settle().pop().unwrap();
    assert_eq!(Reply(response.payload).code(), 447);
    assert!(!server.connections.contains_key(&connection), "closed");
    server.engine.peer_connected(connection, true, server.now);
    assert!(server.settle().is_empty(), "too late");
}

#[test]
fn peers_connect_if_they_are_permitted() {
    let (mut server, relay) = allocated(|config| config.max_peer_connections = 2);
    assert_eq!(server.engine.handle_peer_connection(server.now, relay, peer(1, 80)), None);
    assert_eq!(server.engine.counters().dropped.from_peer_not_permitted, 1);
    permit(&mut server, 1);
    let first = attempted(&mut server, relay, peer(1, 80));
    attempted(&mut server, relay, peer(1, 81));
    assert_eq!(server.engine.handle_peer_connection(server.now, relay, peer(1, 82)), None, "no room");
    assert_eq!(bind(&mut server, stream(2), "alice", first), 0);
    server.pass(BIND_TIMEOUT);
    assert_eq!(server.connections.keys().collect::<Vec<_>>(), [&first], "the other waited in vain");
    attempted(&mut server, relay, peer(1, 82));
    server.connections.remove(&first);
    server.engine.handle_connection_closed(first);
    attempted(&mut server, relay, peer(1, 80));
}

#[test]
fn an_allocation_ends_with_its_connections() {
    for refresh in [true, false] {
        let (mut server, relay) = allocated(|_| {});
        permit(&mut server, 1);
        let waiting = attempted(&mut server, relay, peer(1, 80));
        assert_eq!(bind(&mut server, stream(2), "alice", waiting), 0);
        connect(&mut server, "198.51.100.1:81").unwrap();
        if refresh {
            let end = |writer: &mut MessageWriter<'_>| _ = writer.attribute(&Lifetime(0)).unwrap();
            assert_eq!(server.request(stream(1), "alice", Method::REFRESH, end).code(), 0);
        } else {
            server.engine.handle_client_gone(server.now, stream(1));
            server.settle();
        }
        assert!(server.connections.is_empty() && server.sockets.is_empty());
        assert_eq!(server.engine.poll_timeout(), None);
        assert_eq!(server.engine.handle_peer_connection(server.now, relay, peer(1, 82)), None);
        assert_eq!(server.engine.count_piped(server.now, waiting, Direction::ToPeer, 7), None);
    }
}

#[test]
fn one_family_of_two_ends_with_its_connections() {
    let mut server = Server::new(|_| {});
    let both = AdditionalAddressFamily(Some(AddressFamily::Ipv6));
    assert_eq!(allocate(&mut server, stream(1), |writer| _ = writer.attribute(&both)), 0);
    connect(&mut server, "198.51.100.1:80").unwrap();
    let over_ipv6 = connect(&mut server, "[2606:4700::1]:80").unwrap();
    let end = server.request(stream(1), "alice", Method::REFRESH, |writer| {
        writer.attribute(&Lifetime(0)).unwrap();
        writer.attribute(&RequestedAddressFamily(Some(AddressFamily::Ipv4))).unwrap();
    });
    assert_eq!(end.code(), 0);
    assert_eq!(server.connections.keys().collect::<Vec<_>>(), [&over_ipv6]);
    assert_eq!(connect(&mut server, "198.51.100.1:80"), Err(443));
}

#[test]
fn there_are_neither_channels_nor_indications() {
    let (mut server, _) = allocated(|_| {});
    permit(&mut server, 1);
    let channel = server.request(stream(1), "alice", Method::CHANNEL_BIND, |writer| {
        writer.attribute(&ChannelNumber::MIN).unwrap();
        writer.attribute(&XorPeerAddress(peer(1, 1).0)).unwrap();
    });
    assert_eq!(channel.code(), 403);
    let send = send_indication(peer(1, 1), Some(b"x"), |_| {});
    assert_eq!(server.engine.handle_datagram(server.now, UNIX, stream(1), &send), None);
    assert_eq!(server.engine.counters().dropped.to_peer_not_permitted, 1);
}

#[test]
fn bandwidth_makes_streams_rest() {
    let (mut server, relay) =
        allocated(|config| config.bandwidth.allocation = Some(NonZeroU64::new(1000).unwrap()));
    permit(&mut server, 1);
    let connection = attempted(&mut server, relay, peer(1, 80));
    assert_eq!(bind(&mut server, stream(2), "alice", connection), 0);
    let now = server.now;
    let mut count = |direction| server.engine.count_piped(now, connection, direction, 1000);
    assert_eq!(count(Direction::ToPeer), None);
    assert_eq!(count(Direction::ToPeer), Some(now + Duration::from_secs(1)));
    assert_eq!(count(Direction::ToClient), None, "the other way is not concerned");
}

#[test]
fn a_connection_bind_without_credentials_is_challenged_and_the_stream_read_on() {
    let mut server = Server::new(|_| {});
    let mut buffer = [0; 64];
    let mut bind =
        MessageWriter::new(&mut buffer, Class::Request, Method::CONNECTION_BIND, TransactionId([1; 12]))
            .unwrap();
    bind.attribute(&ConnectionId(1)).unwrap();
    let held = server.engine.handle_datagram(server.now, UNIX, stream(1), bind.finish());
    assert_eq!(held, Some(Forward::Hold));
    assert!(matches!(server.engine.poll_held(), Some(Held::ReadOn(from)) if from == stream(1)));
    assert_eq!(Reply(server.settle().pop().unwrap().payload).code(), 401);
}

#[test]
fn connection_ids_name_their_engine() {
    let (mut server, relay) = allocated(|_| {});
    server.engine = server.engine.numbered(4095);
    permit(&mut server, 1);
    let connection = attempted(&mut server, relay, peer(1, 80));
    assert_eq!(connection.0 >> 20, 4095);
    assert_eq!(bind(&mut server, stream(2), "alice", connection), 0);
}
