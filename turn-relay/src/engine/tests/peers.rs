//! CreatePermission and ChannelBind: 400, 403, 437, 443, 508.

use std::time::Duration;

use thirl_common::net::PeerAddr;
use thirl_common::wire::*;

use crate::engine::testing::*;
use crate::engine::*;

fn permit(server: &mut Server, peers: &[&str]) -> u16 {
    server
        .request(client(1), "alice", Method::CREATE_PERMISSION, |writer| {
            for peer in peers {
                writer.attribute(&XorPeerAddress(peer.parse().unwrap())).unwrap();
            }
        })
        .code()
}

fn bind(server: &mut Server, number: u16, peer: &str) -> u16 {
    let [high, low] = number.to_be_bytes();
    server
        .request(client(1), "alice", Method::CHANNEL_BIND, |writer| {
            writer.raw(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0]).unwrap();
            writer.attribute(&XorPeerAddress(peer.parse().unwrap())).unwrap();
        })
        .code()
}

fn admits(server: &mut Server, relay: RelayId, peer: &str) -> bool {
    let peer = PeerAddr(peer.parse().unwrap());
    server.engine.handle_peer_datagram(server.now, relay, peer, 10).is_some()
}

#[test]
fn without_an_allocation_there_is_a_mismatch() {
    let mut server = Server::new(|_| {});
    assert_eq!(permit(&mut server, &["198.51.100.1:1"]), 437);
    assert_eq!(bind(&mut server, 0x4000, "198.51.100.1:1"), 437);
}

#[test]
fn permissions_are_by_address_and_last_five_minutes() {
    let mut server = Server::new(|_| {});
    let relay = server.allocated(client(1));
    assert!(!admits(&mut server, relay, "198.51.100.1:1"));
    assert_eq!(permit(&mut server, &["198.51.100.1:1", "198.51.100.2:0"]), 0);
    assert!(admits(&mut server, relay, "198.51.100.1:9999") && admits(&mut server, relay, "198.51.100.2:1"));
    assert!(!admits(&mut server, relay, "198.51.100.3:1"));
    server.pass(Duration::from_secs(200));
    assert_eq!(permit(&mut server, &["198.51.100.1:7"]), 0);
    server.pass(Duration::from_secs(100));
    assert!(admits(&mut server, relay, "198.51.100.1:1") && !admits(&mut server, relay, "198.51.100.2:1"));
    assert_eq!(server.engine.counters().dropped.from_peer_not_permitted, 3);
}

#[test]
fn permissions_are_installed_all_or_none() {
    let mut server = Server::new(|config| config.max_permissions = 2);
    let relay = server.allocated(client(1));
    for (peers, code) in [
        (&["198.51.100.1:1", "127.0.0.1:1"][..], 403),
        (&["198.51.100.1:1", "[2001:db8::1]:1"], 443),
        (&["198.51.100.1:1", "198.51.100.2:1", "198.51.100.3:1"], 508),
        (&[], 400),
    ] {
        assert_eq!(permit(&mut server, peers), code, "{peers:?}");
        assert!(!admits(&mut server, relay, "198.51.100.1:1"));
    }
    let broken = server.request(client(1), "alice", Method::CREATE_PERMISSION, |writer| {
        writer.attribute(&XorPeerAddress(peer(1, 1).0)).unwrap();
        writer.raw(AttributeType::XOR_PEER_ADDRESS, &[0, 9, 0, 0]).unwrap();
    });
    assert_eq!(broken.code(), 400);
    assert!(!admits(&mut server, relay, "198.51.100.1:1"));
}

#[test]
fn channel_numbers_and_peers_are_checked() {
    let mut server = Server::new(|config| config.max_channels = 2);
    server.allocated(client(1));
    for (number, peer, code) in [
        (0x3FFF, "198.51.100.1:1", 400),
        (0x8000, "198.51.100.1:1", 400),
        (0x4000, "10.0.0.1:1", 403),
        (0x4000, "198.51.100.1:0", 403),
        (0x4000, "[2001:db8::1]:1", 443),
        (0x4000, "198.51.100.1:1", 0),
        (0x4000, "198.51.100.1:1", 0),
        (0x4000, "198.51.100.1:2", 400),
        (0x4001, "198.51.100.1:1", 400),
        (0x7FFF, "198.51.100.1:2", 0),
        (0x4001, "198.51.100.3:1", 508),
    ] {
        assert_eq!(bind(&mut server, number, peer), code, "{number:#x} {peer}");
    }
    let only_number = server.request(client(1), "alice", Method::CHANNEL_BIND, |writer| {
        writer.attribute(&ChannelNumber::MIN).unwrap();
    });
    let only_peer = server.request(client(1), "alice", Method::CHANNEL_BIND, |writer| {
        writer.attribute(&XorPeerAddress(peer(1, 1).0)).unwrap();
    });
    assert_eq!((only_number.code(), only_peer.code()), (400, 400));
}

#[test]
fn a_channel_installs_a_permission_and_outlives_it() {
    let mut server = Server::new(|_| {});
    let relay = server.allocated(client(1));
    assert_eq!(bind(&mut server, 0x4000, "198.51.100.1:1"), 0);
    assert!(admits(&mut server, relay, "198.51.100.1:2"));
    server.pass(Duration::from_secs(300));
    assert!(!admits(&mut server, relay, "198.51.100.1:1"));
    let data = [0x40, 0, 0, 1, b'x'];
    let mut up = || server.engine.handle_datagram(server.now, UNIX, client(1), &data).is_some();
    assert!(up(), "the channel is bound for ten minutes");
    assert_eq!(permit(&mut server, &["198.51.100.1:1"]), 0);
    assert!(admits(&mut server, relay, "198.51.100.1:1"));
    server.pass(Duration::from_secs(299));
    server.request(client(1), "alice", Method::REFRESH, |_| {});
    server.pass(Duration::from_secs(1));
    let expired = server.engine.handle_datagram(server.now, UNIX, client(1), &data);
    assert_eq!((expired, server.engine.counters().dropped.no_channel), (None, 1));
}

#[test]
fn the_server_itself_is_reachable_where_it_relays_and_nowhere_else() {
    let mut server = Server::new(|_| {});
    let relay = server.allocated(client(1));
    assert_eq!(permit(&mut server, &["203.0.113.10:50002"]), 0);
    assert!(admits(&mut server, relay, "203.0.113.10:50002"));
    assert_eq!(bind(&mut server, 0x4000, "203.0.113.10:50002"), 0);
    assert_eq!(bind(&mut server, 0x4001, "203.0.113.10:3478"), 403);
    assert_eq!(bind(&mut server, 0x4001, "203.0.113.10:22"), 403);
}

#[test]
fn an_operator_may_allow_what_is_denied_by_default() {
    let mut server = Server::new(|config| {
        config.peers.allowed = vec!["127.0.0.1".parse().unwrap()];
        config.peers.denied = vec!["198.51.100.0/24".parse().unwrap()];
    });
    server.allocated(client(1));
    assert_eq!(permit(&mut server, &["127.0.0.1:1"]), 0);
    assert_eq!(permit(&mut server, &["127.0.0.2:1"]), 403);
    assert_eq!(permit(&mut server, &["198.51.100.1:1"]), 403);
}

#[test]
fn fast_paths_are_offered_only_where_they_are_taken() {
    for fast_path in [false, true] {
        let mut server = Server::new(|config| config.fast_path = fast_path);
        let relay = server.allocated(client(1));
        assert_eq!(bind(&mut server, 0x4000, "198.51.100.1:1"), 0);
        assert_eq!(server.fast_paths.contains(&relay), fast_path);
        server.pass(Duration::from_secs(600));
        assert!(server.fast_paths.is_empty() && server.sockets.is_empty());
    }
}
