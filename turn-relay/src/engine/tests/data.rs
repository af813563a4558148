//! Send, Data and ChannelData, byte by byte.

use thirl_common::net::{FiveTuple, PeerAddr, Transport};
use thirl_common::wire::*;

use crate::engine::testing::*;
use crate::engine::*;

fn tcp(port: u16) -> FiveTuple {
    FiveTuple { transport: Transport::Tcp, ..client(port) }
}

fn bind(server: &mut Server, from: FiveTuple, number: u16, to: PeerAddr) {
    let reply = server.request(from, "alice", Method::CHANNEL_BIND, |writer| {
        writer.attribute(&ChannelNumber::new(number).unwrap()).unwrap();
        writer.attribute(&XorPeerAddress(to.0)).unwrap();
    });
    assert_eq!(reply.code(), 0);
}

fn permit(server: &mut Server, from: FiveTuple, to: PeerAddr) {
    let reply = server.request(from, "alice", Method::CREATE_PERMISSION, |writer| {
        writer.attribute(&XorPeerAddress(to.0)).unwrap();
    });
    assert_eq!(reply.code(), 0);
}

/// What the client gets of `payload`.
fn to_client(server: &mut Server, relay: RelayId, from: PeerAddr, payload: &[u8]) -> Option<Vec<u8>> {
    match server.engine.handle_peer_datagram(server.now, relay, from, payload.len())? {
        Forward::ToClient { prefix, range, padding, .. } => {
            assert_eq!(range, 0..payload.len());
            Some([&prefix[..], payload, &[0; 3][..padding]].concat())
        }
        Forward::ToPeer { .. } | Forward::Hold => panic!("the wrong way"),
    }
}

/// What `to` gets of the client's `datagram`.
fn to_peer(server: &mut Server, from: FiveTuple, datagram: &[u8]) -> Option<(RelayId, PeerAddr, Vec<u8>)> {
    match server.engine.handle_datagram(server.now, UNIX, from, datagram)? {
        Forward::ToPeer { relay, to, range, .. } => Some((relay, to, datagram[range].to_vec())),
        Forward::ToClient { .. } | Forward::Hold => panic!("the wrong way"),
    }
}

#[test]
fn data_above_a_limit_is_dropped_and_counted() {
    let second = std::time::Duration::from_secs(1);
    for limited in ["allocation", "user", "total"] {
        let mut server = Server::new(|config| {
            let limit = std::num::NonZeroU64::new(1000);
            *match limited {
                "allocation" => &mut config.bandwidth.allocation,
                "user" => &mut config.bandwidth.user,
                _ => &mut config.bandwidth.total,
            } = limit;
        });
        // Two of alice's and one of bob's.
        let relays = [1, 2].map(|port| server.allocated(client(port)));
        let other = |writer: &mut MessageWriter<'_>| _ = writer.attribute(&RequestedTransport::UDP).unwrap();
        assert_eq!(server.request(client(3), "bob", Method::ALLOCATE, other).code(), 0);
        for (from, user) in [(1, "alice"), (2, "alice"), (3, "bob")] {
            let permit =
                |writer: &mut MessageWriter<'_>| _ = writer.attribute(&XorPeerAddress(peer(1, 1).0)).unwrap();
            assert_eq!(server.request(client(from), user, Method::CREATE_PERMISSION, permit).code(), 0);
        }
        let datagram = send_indication(peer(1, 1), Some(&[0; 400]), |_| {});
        let mut passed = |from| to_peer(&mut server, client(from), &datagram).is_some();
        assert_eq!([passed(1), passed(1), passed(1)], [true, true, false], "{limited}");
        let [own, users] = match limited {
            "allocation" => [true, true],
            "user" => [false, true],
            _ => [false, false],
        };
        assert_eq!([passed(2), passed(3)], [own, users], "{limited}");
        let dropped = server.engine.counters().dropped;
        assert_eq!(dropped.to_peer_over_bandwidth, 1 + u64::from(!own) + u64::from(!users));
        assert!(to_client(&mut server, relays[0], peer(1, 1), &[0; 900]).is_some(), "the other way is free");
        assert!(to_client(&mut server, relays[0], peer(1, 1), &[0; 900]).is_none());
        assert_eq!(server.engine.counters().dropped.to_client_over_bandwidth, 1);
        server.pass(second);
        assert!(to_peer(&mut server, client(1), &datagram).is_some(), "{limited}");
    }
}

#[test]
fn channel_data_both_ways() {
    let mut server = Server::new(|_| {});
    for from in [client(1), tcp(1)] {
        let relay = server.allocated(from);
        bind(&mut server, from, 0x4abc, peer(1, 9));
        let up = to_peer(&mut server, from, b"\x4a\xbc\x00\x05hello\0\0\0");
        assert_eq!(up, Some((relay, peer(1, 9), b"hello".to_vec())));
        let down = to_client(&mut server, relay, peer(1, 9), b"hello").unwrap();
        let padding: &[u8] = if from.transport == Transport::Tcp { &[0; 3] } else { &[] };
        assert_eq!(down, [b"\x4a\xbc\x00\x05hello", padding].concat());
        assert_eq!(to_peer(&mut server, from, b"\x4a\xbc\x00\x00"), Some((relay, peer(1, 9), Vec::new())));
        assert_eq!(to_client(&mut server, relay, peer(1, 9), b"").unwrap(), b"\x4a\xbc\x00\x00");
    }
    let Traffic { to_peer_packets, to_peer_bytes, to_client_packets, to_client_bytes } =
        server.engine.counters().relayed;
    assert_eq!((to_peer_packets, to_peer_bytes, to_client_packets, to_client_bytes), (4, 10, 4, 10));
}

#[test]
fn indications_both_ways() {
    let mut server = Server::new(|_| {});
    let relay = server.allocated(client(1));
    permit(&mut server, client(1), peer(1, 0));
    for data in [&b""[..], b"h", b"hello", b"hello wo"] {
        let up = to_peer(&mut server, client(1), &send_indication(peer(1, 9), Some(data), |_| {}));
        assert_eq!(up, Some((relay, peer(1, 9), data.to_vec())));
        let down = to_client(&mut server, relay, peer(1, 9), data).unwrap();
        let message = Message::parse(&down).unwrap();
        assert_eq!((message.class(), message.method()), (Class::Indication, Method::DATA));
        assert_eq!(message.require::<XorPeerAddress>().unwrap().0, peer(1, 9).0);
        assert_eq!(message.require::<Data<'_>>().unwrap().0, data);
    }
    let ids: Vec<_> = (0..2)
        .map(|_| {
            Message::parse(&to_client(&mut server, relay, peer(1, 9), b"").unwrap()).unwrap().transaction_id()
        })
        .collect();
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn ipv6_peers_fit_the_prefix() {
    let mut server = Server::new(|_| {});
    let reply = server.allocate(client(1), |writer| {
        writer.attribute(&RequestedAddressFamily(Some(AddressFamily::Ipv6))).unwrap();
    });
    assert_eq!(reply.code(), 0);
    let relay = *server.sockets.keys().next().unwrap();
    let v6 = PeerAddr("[2001:db8::9]:9".parse().unwrap());
    permit(&mut server, client(1), v6);
    let down = to_client(&mut server, relay, v6, b"hi").unwrap();
    let message = Message::parse(&down).unwrap();
    assert_eq!(message.require::<XorPeerAddress>().unwrap().0, v6.0);
    assert_eq!(message.require::<Data<'_>>().unwrap().0, b"hi");
}

#[test]
fn what_shall_not_be_fragmented_is_marked_and_nothing_else() {
    let mut server = Server::new(|_| {});
    let reply = server.allocate(client(1), |writer| _ = writer.attribute(&DontFragment).unwrap());
    assert_eq!(reply.code(), 0);
    bind(&mut server, client(1), 0x4000, peer(1, 9));
    let plain = send_indication(peer(1, 9), Some(b"x"), |_| {});
    let whole =
        send_indication(peer(1, 9), Some(b"x"), |writer| _ = writer.attribute(&DontFragment).unwrap());
    for (datagram, expected) in [(&plain[..], false), (&whole, true), (b"\x40\x00\x00\x01x", false)] {
        match server.engine.handle_datagram(server.now, UNIX, client(1), datagram).unwrap() {
            Forward::ToPeer { dont_fragment, .. } => assert_eq!(dont_fragment, expected),
            Forward::ToClient { .. } | Forward::Hold => panic!("the wrong way"),
        }
    }
}

#[test]
fn what_is_not_permitted_goes_nowhere() {
    let mut server = Server::new(|_| {});
    let stranger = send_indication(peer(1, 9), Some(b"x"), |_| {});
    assert_eq!(to_peer(&mut server, client(1), &stranger), None);
    assert_eq!(to_peer(&mut server, client(1), b"\x40\x00\x00\x00"), None);
    assert_eq!(server.engine.counters().dropped.no_allocation, 2);
    let relay = server.allocated(client(1));
    assert_eq!(to_peer(&mut server, client(1), &stranger), None);
    assert_eq!(to_peer(&mut server, client(1), &send_indication(peer(1, 0), Some(b"x"), |_| {})), None);
    assert_eq!(server.engine.counters().dropped.to_peer_not_permitted, 2);
    permit(&mut server, client(1), peer(1, 9));
    assert_eq!(
        to_peer(&mut server, client(1), &send_indication(peer(1, 0), Some(b"x"), |_| {})),
        None,
        "no port 0"
    );
    for broken in [
        send_indication(peer(1, 9), None, |_| {}),
        send_indication(peer(1, 9), Some(b"x"), |writer| {
            writer.raw(AttributeType::DONT_FRAGMENT, b"\0\0\0\0").unwrap();
        }),
        send_indication(peer(1, 9), Some(b"x"), |writer| {
            writer.raw(AttributeType(0x7001), b"").unwrap();
        }),
        b"\x40\x00\x00\x02x".to_vec(),
        b"\x4f".to_vec(),
    ] {
        assert_eq!(to_peer(&mut server, client(1), &broken), None);
    }
    assert_eq!(server.engine.counters().dropped.malformed, 5);
    assert_eq!(to_peer(&mut server, client(1), b"\x40\x00\x00\x00"), None);
    assert_eq!(server.engine.counters().dropped.no_channel, 1);
    assert_eq!(server.engine.handle_peer_datagram(server.now, relay, peer(1, 9), 65_530), None);
    assert_eq!(server.engine.counters().dropped.oversized, 1);
    server.engine.handle_client_gone(server.now, client(1));
    assert_eq!(to_client(&mut server, relay, peer(1, 9), b"x"), None);
    assert_eq!(server.engine.counters().dropped.no_relay, 1);
}

#[test]
fn the_servers_other_ports_are_not_reached_by_send() {
    let mut server = Server::new(|_| {});
    server.allocated(client(1));
    let own = |port| PeerAddr(std::net::SocketAddr::new(client(1).server.ip(), port));
    permit(&mut server, client(1), own(0));
    assert!(to_peer(&mut server, client(1), &send_indication(own(50000), Some(b"x"), |_| {})).is_some());
    assert_eq!(to_peer(&mut server, client(1), &send_indication(own(3478), Some(b"x"), |_| {})), None);
    assert_eq!(to_peer(&mut server, client(1), &send_indication(own(53), Some(b"x"), |_| {})), None);
}

#[test]
fn a_relay_that_was_released_is_not_taken_for_its_successor() {
    let mut server = Server::new(|_| {});
    let old = server.allocated(client(1));
    server.engine.handle_client_gone(server.now, client(1));
    server.settle();
    let new = server.allocated(client(2));
    permit(&mut server, client(2), peer(1, 9));
    assert_eq!((old.slot(), old == new), (new.slot(), false));
    assert_eq!(to_client(&mut server, old, peer(1, 9), b"x"), None);
    assert!(to_client(&mut server, new, peer(1, 9), b"x").is_some());
}

#[test]
fn many_channels_and_permissions_on_one_allocation() {
    let mut server = Server::new(|_| {});
    let relay = server.allocated(client(1));
    for n in 0..256u16 {
        bind(&mut server, client(1), 0x4000 + n, peer(n.to_be_bytes()[1], 1000 + n));
    }
    for n in 0..256u16 {
        let to = peer(n.to_be_bytes()[1], 1000 + n);
        let [high, low] = (0x4000 + n).to_be_bytes();
        assert_eq!(to_peer(&mut server, client(1), &[high, low, 0, 0]), Some((relay, to, Vec::new())));
        assert_eq!(to_client(&mut server, relay, to, b"").unwrap(), [high, low, 0, 0]);
    }
}
