//! ICMP errors that datagrams to peers drew.

use std::time::Duration;

use thirl_common::net::PeerAddr;
use thirl_common::wire::*;

use crate::engine::testing::*;
use crate::engine::*;

const PORT_UNREACHABLE: Icmp = Icmp { ty: 3, code: 3, data: 0 };

fn permitted(peers: &[PeerAddr]) -> (Server, RelayId) {
    let mut server = Server::new(|_| {});
    let relay = server.allocated(client(1));
    let permit = |writer: &mut MessageWriter<'_>| {
        for peer in peers {
            writer.attribute(&XorPeerAddress(peer.0)).unwrap();
        }
    };
    assert_eq!(server.request(client(1), "alice", Method::CREATE_PERMISSION, permit).code(), 0);
    (server, relay)
}

#[test]
fn the_client_is_told_what_the_error_says() {
    let (mut server, relay) = permitted(&[peer(1, 1)]);
    let too_big = Icmp { ty: 3, code: 4, data: 1400 };
    let notice = server.engine.handle_icmp(server.now, relay, peer(1, 9), too_big).unwrap();
    let five_tuple = client(1);
    assert_eq!((notice.from, notice.to), (five_tuple.server.0, five_tuple.client.0));
    let message = Message::parse(&notice.payload).unwrap();
    assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
    assert_eq!(message.require::<XorPeerAddress>().unwrap().0, peer(1, 9).0);
    assert_eq!(message.require::<Icmp>().unwrap(), too_big);
    assert_eq!(message.get::<Data<'_>>().unwrap(), None);
}

#[test]
fn only_some_kinds_and_only_of_permitted_peers() {
    let (mut server, relay) = permitted(&[peer(1, 1)]);
    let mut told =
        |to, ty| server.engine.handle_icmp(server.now, relay, to, Icmp { ty, ..PORT_UNREACHABLE }).is_some();
    let kinds: Vec<u8> = (0..=255).filter(|ty| told(peer(1, 9), *ty)).collect();
    assert_eq!(kinds, [3, 11]);
    assert!(!told(peer(2, 9), 3), "no permission");
    assert_eq!((server.engine.counters().icmp_relayed, server.engine.counters().dropped.icmp), (2, 255));
    server.engine.handle_client_gone(server.now, client(1));
    assert_eq!(server.engine.handle_icmp(server.now, relay, peer(1, 9), PORT_UNREACHABLE), None);
}

#[test]
fn kinds_of_icmpv6() {
    let mut server = Server::new(|_| {});
    let wish = |writer: &mut MessageWriter<'_>| {
        writer.attribute(&RequestedAddressFamily(Some(AddressFamily::Ipv6))).unwrap();
    };
    assert_eq!(server.allocate(client(1), wish).code(), 0);
    let relay = *server.sockets.keys().next().unwrap();
    let peer = PeerAddr("[2001:db8::99]:9".parse().unwrap());
    let permit = |writer: &mut MessageWriter<'_>| _ = writer.attribute(&XorPeerAddress(peer.0)).unwrap();
    assert_eq!(server.request(client(1), "alice", Method::CREATE_PERMISSION, permit).code(), 0);
    let kinds = (0..=255).filter(|ty| {
        let error = Icmp { ty: *ty, code: 0, data: 1280 };
        server.engine.handle_icmp(server.now, relay, peer, error).is_some()
    });
    assert_eq!(kinds.collect::<Vec<u8>>(), [1, 2, 3]);
}

#[test]
fn a_flood_of_errors_does_not_become_one_at_the_client() {
    let (mut server, relay) = permitted(&[peer(1, 1)]);
    for _ in 0..3 {
        let mut tell = || server.engine.handle_icmp(server.now, relay, peer(1, 9), PORT_UNREACHABLE);
        assert_eq!((0..1000).filter(|_| tell().is_some()).count(), 8);
        server.pass(Duration::from_secs(1));
    }
}
