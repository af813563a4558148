use std::net::UdpSocket;

use super::*;

/// Where no other test binds, so that a port given up is not taken by one of them.
const ALONE: &str = "127.66.0.1:0";

pub(super) fn small_io(on: Technique) -> ShardIo {
    ShardIo::new(IoOptions { slots: 8, max_datagram: 2048, per_socket: 4, ..options(on) }).unwrap()
}

pub(super) fn bound(io: &mut ShardIo, text: &str, packet_info: bool, token: u64) -> (SocketId, SocketAddr) {
    let socket = BindOptions { packet_info, ..BindOptions::default() }.bind(addr(text)).unwrap();
    let local = socket.local_addr().unwrap();
    (io.add(socket, token).unwrap(), local)
}

pub(super) fn peer(text: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(text).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let local = socket.local_addr().unwrap();
    (socket, local)
}

pub(super) fn take(peer: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 4096];
    let (len, from) = peer.recv_from(&mut buffer).unwrap();
    (buffer[..len].to_vec(), from)
}

fn echoes(on: Technique, text: &str) {
    let mut io = small_io(on);
    let (server, server_addr) = bound(&mut io, text, false, 5);
    let (peer, peer_addr) = peer(text);
    peer.send_to(b"HEADasked", server_addr).unwrap();
    let asked = Kept { token: 5, from: peer_addr, local: None, payload: b"HEADasked".to_vec() };
    assert_eq!(receive(&mut io, 1), [asked]);
    let back = Route { socket: server, to: peer_addr, source: None };
    io.forward(0, 4..9, b"re: ", 3, back);
    io.send(back, b"and more");
    io.flush();
    assert_eq!(take(&peer), (b"re: asked\0\0\0".to_vec(), server_addr));
    assert_eq!(take(&peer), (b"and more".to_vec(), server_addr));
    let counters = io.counters();
    assert_eq!((counters.received, counters.sent, counters.failed(), counters.misdirected), (1, 2, 0, 0));
}

fn ipv4_is_echoed(on: Technique) {
    echoes(on, "127.0.0.1:0");
}

fn ipv6_is_echoed(on: Technique) {
    match UdpSocket::bind("[::1]:0") {
        Ok(_) => echoes(on, "[::1]:0"),
        Err(error) => not_here("ipv6_is_echoed", &error),
    }
}

fn an_empty_datagram_is_a_datagram(on: Technique) {
    let mut io = small_io(on);
    let (server, server_addr) = bound(&mut io, "127.0.0.1:0", false, 0);
    let (peer, peer_addr) = peer("127.0.0.1:0");
    peer.send_to(b"", server_addr).unwrap();
    assert_eq!(receive(&mut io, 1)[0].payload, b"");
    io.forward(0, 0..0, b"", 0, Route { socket: server, to: peer_addr, source: None });
    io.flush();
    assert_eq!(take(&peer).0, b"");
}

fn answers_from_where_it_was_asked(on: Technique, any: &str, asked: &[&str]) {
    let mut io = small_io(on);
    let (server, bound) = bound(&mut io, any, true, 0);
    for ip in asked {
        let asked = SocketAddr::new(ip.parse().unwrap(), bound.port());
        let (peer, peer_addr) = peer(any);
        peer.send_to(b"hello", asked).unwrap();
        let got = receive(&mut io, 1);
        assert_eq!(got[0].local, Some(asked.ip()));
        let back = Route { socket: server, to: got[0].from, source: got[0].local };
        io.forward(0, 0..5, b"", 0, back);
        io.send(Route { source: None, ..back }, b"by routing");
        io.send(back, b"copied");
        io.flush();
        assert_eq!(take(&peer), (b"hello".to_vec(), asked));
        assert_eq!(take(&peer).0, b"by routing");
        assert_eq!(
            take(&peer),
            (b"copied".to_vec(), asked),
            "a datagram without a source does not spoil the next"
        );
        assert_eq!(got[0].from.port(), peer_addr.port());
    }
}

fn a_wildcard_answers_from_where_it_was_asked(on: Technique) {
    answers_from_where_it_was_asked(on, "0.0.0.0:0", &["127.0.0.2", "127.0.0.1", "127.9.9.9"]);
}

fn an_ipv6_wildcard_answers_from_where_it_was_asked(on: Technique) {
    match UdpSocket::bind("[::1]:0") {
        Ok(_) => answers_from_where_it_was_asked(on, "[::]:0", &["::1"]),
        Err(error) => not_here("an_ipv6_wildcard_answers_from_where_it_was_asked", &error),
    }
}

#[test]
fn both_wildcards_share_a_port() {
    let v4 = BindOptions::default().bind(addr("0.0.0.0:0")).unwrap();
    let port = v4.local_addr().unwrap().port();
    match BindOptions::default().bind(SocketAddr::new("::".parse().unwrap(), port)) {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            not_here("both_wildcards_share_a_port", &error);
        }
        result => drop(result.unwrap()),
    }
}

fn oversized_datagrams_are_dropped_and_counted(on: Technique) {
    let mut io = small_io(on);
    let (_, server_addr) = bound(&mut io, "127.0.0.1:0", false, 0);
    let (peer, _) = peer("127.0.0.1:0");
    for len in [2048, 2049, 9000, 1] {
        peer.send_to(&vec![7; len], server_addr).unwrap();
    }
    let got = receive(&mut io, 2);
    assert_eq!(got.iter().map(|kept| kept.payload.len()).collect::<Vec<_>>(), [2048, 1]);
    assert_eq!((io.counters().received, io.counters().oversized), (2, 2));
}

fn the_longest_datagram_fits_the_default_arena(on: Technique) {
    let mut io = ShardIo::new(options(on)).unwrap();
    let (server, server_addr) = bound(&mut io, "127.0.0.1:0", false, 0);
    let (peer, peer_addr) = peer("127.0.0.1:0");
    let longest = vec![7; 65_507];
    peer.send_to(&longest, server_addr).unwrap();
    assert_eq!(receive(&mut io, 1)[0].payload, longest);
    // With a header more it fits no datagram, which is its own trouble only.
    let route = Route { socket: server, to: peer_addr, source: None };
    io.forward(0, 0..65_507, b"head", 0, route);
    io.send(route, b"next");
    io.flush();
    assert_eq!(take(&peer).0, b"next");
    assert_eq!((io.counters().too_long, io.counters().sent), (1, 1));
}

fn a_peer_that_refuses_harms_nobody(on: Technique) {
    let mut io = small_io(on);
    let (server, server_addr) = bound(&mut io, "127.0.0.1:0", false, 0);
    let (gone, gone_addr) = peer(ALONE);
    drop(gone);
    let (peer, peer_addr) = peer("127.0.0.1:0");
    for round in 0..3u8 {
        for to in [gone_addr, peer_addr, gone_addr] {
            io.send(Route { socket: server, to, source: None }, &[round]);
        }
        io.flush();
        assert_eq!(take(&peer).0, [round]);
        peer.send_to(&[round], server_addr).unwrap();
        assert_eq!(receive(&mut io, 1)[0].payload, [round]);
    }
    assert_eq!(io.counters().failed(), 0, "an unconnected socket does not hear of ICMP");
    assert_eq!(io.counters().receive_errors, 0);
}

fn an_error_left_on_a_socket_costs_no_datagram(on: Technique) {
    let mut io = small_io(on);
    let (server, server_addr) = bound(&mut io, "127.0.0.1:0", false, 0);
    let (gone, gone_addr) = peer(ALONE);
    drop(gone);
    // Only a connected socket hears of ICMP.
    socket2::SockRef::from(io.socket(server).unwrap()).connect(&gone_addr.into()).unwrap();
    let (other, other_addr) = peer("127.0.0.1:0");
    for round in [[1], [2]] {
        io.send(Route { socket: server, to: gone_addr, source: None }, b"refused");
        io.send(Route { socket: server, to: other_addr, source: None }, &round);
        io.flush();
        assert_eq!(take(&other).0, round, "the refusal concerns the datagram before this");
    }
    assert_eq!((io.counters().sent, io.counters().failed()), (4, 0));
    io.send(Route { socket: server, to: gone_addr, source: None }, b"refused");
    io.flush();
    let (back, _) = peer(&gone_addr.to_string());
    back.send_to(b"back", server_addr).unwrap();
    assert_eq!(receive(&mut io, 1)[0].payload, b"back");
    assert_eq!(io.counters().receive_errors, 1);
}

fn a_bad_destination_in_the_middle_costs_itself_alone(on: Technique) {
    let mut io = small_io(on);
    let (server, _) = bound(&mut io, "127.0.0.1:0", false, 0);
    let (peer, peer_addr) = peer("127.0.0.1:0");
    // Port 0; broadcast without leave for it; the other family; a network that loopback cannot reach.
    let bad = ["127.0.0.1:0", "255.255.255.255:9", "[::1]:9", "240.0.0.1:9"].map(addr);
    let mut expected = Vec::new();
    for (number, to) in (0u8..).zip(bad) {
        let good = [number];
        io.send(Route { socket: server, to: peer_addr, source: None }, &good);
        io.send(Route { socket: server, to, source: None }, b"lost");
        expected.push(good);
    }
    io.send(Route { socket: server, to: peer_addr, source: None }, b"last");
    // An address that is not this host's cannot be sent from.
    let source = Some("192.0.2.77".parse().unwrap());
    io.send(Route { socket: server, to: peer_addr, source }, b"lost");
    io.flush();
    for good in expected {
        assert_eq!(take(&peer).0, good);
    }
    assert_eq!(take(&peer).0, b"last");
    let counters = io.counters();
    assert_eq!((counters.sent, counters.failed()), (5, 5), "{counters:?}");
    assert_eq!(counters.forbidden, 1, "{counters:?}");
    // Those that were tried again come later.
    let failed: Vec<SocketAddr> = io.failures().iter().map(|failure| failure.route.to).collect();
    assert!(bad.iter().all(|to| failed.contains(to)), "{failed:?}");
    assert!(io.failures()[0].to_string().starts_with("127.0.0.1:0: "), "{}", io.failures()[0]);
}

fn a_thousand_sockets_in_one_queue(on: Technique) {
    const SOCKETS: usize = 1000;
    let mut io = ShardIo::new(options(on)).unwrap();
    let big = Some(1 << 20);
    let server =
        BindOptions { recv_buffer: big, ..BindOptions::default() }.bind(addr("127.0.0.1:0")).unwrap();
    let server_addr = server.local_addr().unwrap();
    let server = io.add(server, u64::MAX).unwrap();
    let relays: Vec<(SocketId, SocketAddr)> =
        (0..SOCKETS).map(|index| bound(&mut io, "127.0.0.1:0", false, index as u64)).collect();
    // Two datagrams from each to the server, then one from the server to each: runs of 2, and runs of many.
    for (index, &(relay, _)) in relays.iter().enumerate() {
        let route = Route { socket: relay, to: server_addr, source: None };
        io.send(route, &index.to_be_bytes());
        io.send(route, b"again");
        if index % 50 == 49 {
            let got = receive(&mut io, 100);
            assert!(got.iter().all(|kept| kept.token == u64::MAX));
        }
    }
    for &(_, to) in &relays {
        io.send(Route { socket: server, to, source: None }, b"back");
    }
    let got = receive(&mut io, SOCKETS);
    let mut tokens: Vec<u64> = got.iter().map(|kept| kept.token).collect();
    tokens.sort_unstable();
    assert_eq!(tokens, (0..SOCKETS as u64).collect::<Vec<_>>());
    assert_eq!((io.counters().sent, io.counters().received), (3 * SOCKETS as u64, 3 * SOCKETS as u64));
}

fn more_than_the_arena_holds_comes_in_turns_and_in_order(on: Technique) {
    let mut io = small_io(on);
    let (_, first_addr) = bound(&mut io, "127.0.0.1:0", false, 1);
    let (_, second_addr) = bound(&mut io, "127.0.0.1:0", false, 2);
    let (_, third_addr) = bound(&mut io, "127.0.0.1:0", false, 3);
    let (peer, _) = peer("127.0.0.1:0");
    for number in 0..100u8 {
        peer.send_to(&[number], first_addr).unwrap();
        peer.send_to(&[number], second_addr).unwrap();
    }
    peer.send_to(&[99], third_addr).unwrap();
    let got = receive(&mut io, 201);
    for token in [1, 2] {
        let numbers: Vec<u8> =
            got.iter().filter(|kept| kept.token == token).map(|kept| kept.payload[0]).collect();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    }
    let third = got.iter().position(|kept| kept.token == 3).unwrap();
    // Four of each, as told; or all buffers full, and then what the kernel takes of one socket before it looks at the next.
    let most = if on == Technique::Epoll { 2 * 4 } else { 32 + 2 * 32 };
    assert!(third <= most, "two busy sockets keep the third waiting for {third} datagrams");
}

fn a_removed_socket_is_gone_and_its_id_with_it(on: Technique) {
    let mut io = small_io(on);
    let (old, old_addr) = bound(&mut io, ALONE, false, 1);
    let (peer, peer_addr) = peer("127.0.0.1:0");
    let route = Route { socket: old, to: peer_addr, source: None };
    io.send(route, b"farewell");
    let socket = io.remove(old).unwrap();
    assert_eq!(take(&peer).0, b"farewell", "what was queued is sent first");
    drop(socket);
    let (new, _) = bound(&mut io, &old_addr.to_string(), false, 2);
    assert_ne!(old, new);
    assert!(io.socket(old).is_none() && io.remove(old).is_none());
    io.send(route, b"nowhere");
    io.send(Route { socket: new, ..route }, b"here");
    io.flush();
    assert_eq!(take(&peer).0, b"here");
    assert_eq!(io.counters().misdirected, 1);
    peer.send_to(b"hello", old_addr).unwrap();
    assert_eq!(receive(&mut io, 1)[0].token, 2);
}

fn a_long_queue_is_sent_before_it_grows_further(on: Technique) {
    let mut io = small_io(on);
    let (server, _) = bound(&mut io, "127.0.0.1:0", false, 0);
    let (_peer, to) = peer("127.0.0.1:0");
    for _ in 0..10_000 {
        io.send(Route { socket: server, to, source: None }, b"x");
    }
    assert!(io.counters().sent > 9_000);
    io.flush();
    assert_eq!(io.counters().sent, 10_000);
}

#[test]
fn a_port_is_shared_only_by_those_who_all_ask() {
    let shared = BindOptions { reuse_port: true, ..BindOptions::default() };
    let first = shared.bind(addr("127.0.0.1:0")).unwrap();
    let taken = first.local_addr().unwrap();
    shared.bind(taken).unwrap();
    let refused = BindOptions::default().bind(taken).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn the_address_towards_loopback_is_loopback() {
    let towards = local_address_towards(addr("127.0.0.1:9")).unwrap();
    assert!(towards.is_loopback(), "{towards}");
}

#[test]
fn a_single_datagram_leaves_at_once() {
    let socket = BindOptions::default().bind(addr("127.0.0.1:0")).unwrap();
    let (peer, peer_addr) = peer("127.0.0.1:0");
    socket.send_to(b"alone", peer_addr).unwrap();
    assert_eq!(take(&peer), (b"alone".to_vec(), socket.local_addr().unwrap()));
}

on_each_technique! {
    ipv4_is_echoed
    ipv6_is_echoed
    an_empty_datagram_is_a_datagram
    a_wildcard_answers_from_where_it_was_asked
    an_ipv6_wildcard_answers_from_where_it_was_asked
    oversized_datagrams_are_dropped_and_counted
    the_longest_datagram_fits_the_default_arena
    a_peer_that_refuses_harms_nobody
    an_error_left_on_a_socket_costs_no_datagram
    a_bad_destination_in_the_middle_costs_itself_alone
    a_thousand_sockets_in_one_queue
    more_than_the_arena_holds_comes_in_turns_and_in_order
    a_removed_socket_is_gone_and_its_id_with_it
    a_long_queue_is_sent_before_it_grows_further
}
