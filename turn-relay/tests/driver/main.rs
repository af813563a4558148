//! The relay over real sockets on loopback.
#![cfg(feature = "driver")]

mod client;
mod mobility;
mod tcp;
mod tcp_by_tls;
mod undelivered;

use std::cell::Cell;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use client::*;
use thirl_common::auth::{LongTermKey, RemoteLimits, RemoteUser, RemoteUsers};
use thirl_common::io::Technique;
use thirl_common::net::Transport;
use thirl_common::proxy_protocol::TrustedProxies;
use thirl_common::wire::*;
use thirl_turn_relay::server::{Config, ExternalIp};

const WAYS: [(Transport, bool); 4] =
    [(Transport::Udp, true), (Transport::Udp, false), (Transport::Tcp, true), (Transport::Tcp, false)];

#[test]
fn a_store_may_answer_later() {
    let users = Arc::new(RemoteUsers::new(RemoteLimits::default()));
    let running = start(|config| config.engine.credentials = users.clone());
    for (transport, ipv4) in WAYS {
        users.forget();
        let mut client = Client::connect(&running, transport, ipv4);
        let allocated = std::thread::spawn(move || client.allocate(AddressFamily::Ipv4));
        let lookup = Cell::new(None);
        eventually("the store is asked", || {
            let next = users.poll_lookup();
            let asked = next.is_some();
            lookup.set(next);
            asked
        });
        let id = lookup.take().unwrap().id;
        let keys = vec![LongTermKey::new("alice", "thirl", "secret")];
        users.answer(id, Some(RemoteUser { username: "alice".into(), keys }), u64::MAX);
        // Over TCP, nobody sends the request again.
        assert_eq!(allocated.join().unwrap().unwrap().ip(), LOOPBACK_V4);
    }
}

#[test]
fn relays_over_both_transports_and_families() {
    let running = start(|_| {});
    for (transport, ipv4) in WAYS {
        for (family, ip) in [(AddressFamily::Ipv4, LOOPBACK_V4), (AddressFamily::Ipv6, LOOPBACK_V6)] {
            let mut client = Client::connect(&running, transport, ipv4);
            let relayed = client.allocate(family).unwrap();
            assert_eq!(relayed.ip(), ip);
            let peer = peer(ip);
            let peer_addr = peer.local_addr().unwrap();

            assert_eq!(client.permit(peer_addr), 0);
            client.send_indication(peer_addr, b"hello");
            assert_eq!(receive_from(&peer), (b"hello".to_vec(), relayed));
            peer.send_to(b"hi", relayed).unwrap();
            let data = client.receive();
            let data = Message::parse(&data).unwrap();
            assert_eq!(data.require::<XorPeerAddress>().unwrap().0, peer_addr);
            assert_eq!(data.require::<Data<'_>>().unwrap().0, b"hi");

            assert_eq!(client.bind(peer_addr), 0);
            for len in [0, 1, 3, 4, 1200] {
                let payload = vec![7; len];
                client.send(&[&ChannelData::header(ChannelNumber::MIN, len).unwrap()[..], &payload].concat());
                assert_eq!(receive_from(&peer), (payload.clone(), relayed));
                peer.send_to(&payload, relayed).unwrap();
                let data = client.receive();
                assert_eq!(ChannelData::parse(&data).unwrap().data, payload);
            }
        }
    }
    running.shutdown();
    let report = running.join();
    assert_eq!((report.engine.allocations_created, report.engine.relayed.to_client_packets), (8, 8 * 6));
}

#[test]
fn clients_of_one_server_reach_each_other_and_nothing_else_on_it() {
    let running = start(|config| config.engine.peers.allowed.clear());
    let mut one = Client::connect(&running, Transport::Udp, true);
    let mut other = Client::connect(&running, Transport::Tcp, true);
    let (relay, other_relay) =
        (one.allocate(AddressFamily::Ipv4).unwrap(), other.allocate(AddressFamily::Ipv4).unwrap());
    assert_eq!((one.bind(other_relay), other.bind(relay)), (0, 0));
    one.send(b"\x40\x00\x00\x05hello");
    assert_eq!(other.receive(), b"\x40\x00\x00\x05hello");
    other.send(b"\x40\x00\x00\x02hi");
    assert_eq!(one.receive(), b"\x40\x00\x00\x02hi");
    let third = Client::connect(&running, Transport::Udp, true).bind(addr_of(&running, Transport::Udp, true));
    assert_eq!(third, 437);
    assert_eq!(one.permit("127.0.0.2:9".parse().unwrap()), 403);
}

/// The address outside is none of this host's, so that nothing gets there but in memory.
#[test]
fn what_clients_of_one_server_send_each_other_never_leaves_it() {
    let external = "203.0.113.77".parse().unwrap();
    for shards in [1, 3] {
        let running = start(|config| {
            config.listen.shards = NonZeroUsize::new(shards);
            config.relay.external = vec![ExternalIp { external, local: None }];
            config.engine.peers.allowed.clear();
        });
        let mut clients: Vec<_> = (0..8)
            .map(|n| {
                let transport = if n % 4 == 3 { Transport::Tcp } else { Transport::Udp };
                let mut client = Client::connect(&running, transport, true);
                let relayed = client.allocate(AddressFamily::Ipv4).unwrap();
                (client, relayed)
            })
            .collect();
        let mut one = clients.remove(0);
        for (number, other) in (0..).zip(&mut clients) {
            let channel = ChannelNumber::new(0x4000 + number).unwrap();
            assert_eq!((one.0.bind_channel(channel, other.1), other.0.permit(one.1)), (0, 0));
            for len in [1, 3, 200] {
                let payload = vec![7; len];
                one.0.send(&[&ChannelData::header(channel, len).unwrap()[..], &payload].concat());
                let data = other.0.receive();
                let data = Message::parse(&data).unwrap();
                assert_eq!(data.require::<XorPeerAddress>().unwrap().0, one.1);
                assert_eq!(data.require::<Data<'_>>().unwrap().0, payload);
                other.0.send_indication(one.1, &payload);
                assert_eq!(ChannelData::parse(&one.0.receive()).unwrap().data, payload);
            }
        }
        // Who permits nobody gets nothing.
        let mut stranger = clients.remove(0);
        let mut other = Client::connect(&running, Transport::Udp, true);
        let unpermitting = other.allocate(AddressFamily::Ipv4).unwrap();
        assert_eq!(stranger.0.bind(unpermitting), 0);
        stranger.0.send(b"\x40\x00\x00\x01x");
        assert_eq!(stranger.0.permit(unpermitting), 0, "handled after the data");
        running.shutdown();
        let report = running.join().engine;
        let sent = 7 * 3 * 2;
        assert_eq!((report.relayed.to_peer_packets, report.relayed.to_client_packets), (sent + 1, sent));
        if shards == 1 {
            assert_eq!(report.dropped.from_peer_not_permitted, 1);
        }
    }
}

#[test]
fn clients_behind_a_proxy_have_their_own_allocations() {
    for technique in [Technique::IoUring, Technique::Epoll] {
        let configure = |config: &mut Config| {
            config.listen.technique = Some(technique);
            config.listen.proxies = TrustedProxies(vec!["127.0.0.9".parse().unwrap()]);
        };
        let Ok(running) = try_start(configure) else { continue };
        // One proxy, and one socket of its for all clients: only the headers tell them apart.
        let proxy = UdpSocket::bind("127.0.0.9:0").unwrap();
        proxy.set_read_timeout(Some(PATIENCE)).unwrap();
        proxy.connect(addr_of(&running, Transport::Udp, true)).unwrap();
        let mut clients = [[192, 0, 2, 1], [192, 0, 2, 2]].map(|client| {
            let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0C".to_vec();
            header.extend([&client[..], &[198, 51, 100, 1, 0x13, 0x88, 0x0D, 0x96]].concat());
            Client::over(Wire::Proxied(proxy.try_clone().unwrap(), header))
        });
        let peer = peer(LOOPBACK_V4);
        for (round, client) in (0u8..).zip(&mut clients) {
            let relayed = client.allocate(AddressFamily::Ipv4).unwrap();
            assert_eq!(client.bind(peer.local_addr().unwrap()), 0);
            client.send(&[0x40, 0, 0, 1, round]);
            assert_eq!(receive_from(&peer), (vec![round], relayed));
            peer.send_to(&[round, 7], relayed).unwrap();
            assert_eq!(ChannelData::parse(&client.receive()).unwrap().data, [round, 7]);
        }
        assert_eq!(running.allocations(), 2);
    }
}

#[test]
fn a_wildcard_relays_from_the_address_that_the_client_reached() {
    let running = start(|config| {
        config.listen.udp = vec!["0.0.0.0:0".parse().unwrap()];
        config.listen.tcp = Vec::new();
    });
    let port = addr_of(&running, Transport::Udp, true).port();
    let mut client = Client::connect(&running, Transport::Udp, true);
    assert_eq!(client.allocate(AddressFamily::Ipv4).unwrap().ip(), LOOPBACK_V4);
    let Wire::Udp(socket) = &client.wire else { panic!("connected by UDP") };
    let another = SocketAddr::from(([127, 0, 0, 7], port));
    socket.connect(another).unwrap();
    assert_eq!(client.allocate(AddressFamily::Ipv4).unwrap().ip(), another.ip(), "another five-tuple");
}

#[test]
fn what_peers_are_told_is_the_address_outside() {
    let external = "203.0.113.77".parse().unwrap();
    let running = start(|config| config.relay.external = vec![ExternalIp { external, local: None }]);
    let mut client = Client::connect(&running, Transport::Udp, true);
    let relayed = client.allocate(AddressFamily::Ipv4).unwrap();
    assert_eq!(relayed.ip(), external);
    let peer = peer(LOOPBACK_V4);
    assert_eq!(client.bind(peer.local_addr().unwrap()), 0);
    client.send(b"\x40\x00\x00\x01x");
    let inside = receive_from(&peer).1;
    assert_eq!(inside, SocketAddr::new(LOOPBACK_V4, relayed.port()));
}

#[test]
fn a_port_range_that_is_used_up_costs_one_client_one_answer() {
    // Some port that is free now; should somebody take it meanwhile, every client is refused, and the test says so.
    let free = UdpSocket::bind((LOOPBACK_V4, 0)).unwrap().local_addr().unwrap().port();
    let running = start(|config| config.relay.ports = free..=free);
    let mut first = Client::connect(&running, Transport::Tcp, true);
    assert_eq!(first.allocate(AddressFamily::Ipv4).map(|addr| addr.port()), Ok(free));
    let mut second = Client::connect(&running, Transport::Udp, true);
    assert_eq!(second.allocate(AddressFamily::Ipv4), Err(508));
    drop(first);
    eventually("a client that is gone holds nothing", || running.allocations() == 0);
    eventually("its port is free again", || UdpSocket::bind((LOOPBACK_V4, free)).is_ok());
    assert_eq!(second.allocate(AddressFamily::Ipv4).map(|addr| addr.port()), Ok(free));
}

#[test]
fn a_client_that_does_not_read_loses_data_and_nothing_else() {
    let running = start(|config| config.listen.shards = NonZeroUsize::new(1));
    let mut slow = Client::connect(&running, Transport::Tcp, true);
    let relayed = slow.allocate(AddressFamily::Ipv4).unwrap();
    let peer = peer(LOOPBACK_V4);
    assert_eq!(slow.bind(peer.local_addr().unwrap()), 0);
    let mut brisk = Client::connect(&running, Transport::Udp, true);
    // More than all buffers on the way hold; in portions, each answered to another client before the next.
    for _ in 0..400 {
        for _ in 0..32 {
            peer.send_to(&[5; 1201], relayed).unwrap();
        }
        assert_eq!(brisk.permit(peer.local_addr().unwrap()), 437, "others are served");
    }
    // What did come is whole, in order, and not all.
    let mut frames = 0;
    let Wire::Tcp(stream) = &slow.wire else { panic!("connected by TCP") };
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut received = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let Wire::Tcp(stream) = &mut slow.wire else { panic!("connected by TCP") };
        match stream.read(&mut buffer) {
            Ok(len) => received.extend_from_slice(&buffer[..len]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("{error}"),
        }
    }
    for frame in received.chunks(1208) {
        assert_eq!(frame[..4], [0x40, 0, 0x04, 0xB1]);
        assert_eq!((&frame[4..1205], &frame[1205..]), (&[5; 1201][..], &[0; 3][..]));
        frames += 1;
    }
    assert!((100..400 * 32).contains(&frames), "{frames} frames");
    assert_eq!(slow.permit(peer.local_addr().unwrap()), 0, "and the client is served on");
}

#[test]
fn a_shutdown_ends_all_shards_soon() {
    let running = start(|config| config.listen.shards = NonZeroUsize::new(8));
    let mut client = Client::connect(&running, Transport::Udp, true);
    client.allocate(AddressFamily::Ipv4).unwrap();
    assert_eq!(running.allocations(), 1);
    running.shutdown();
    running.shutdown();
    assert_eq!(running.join().engine.allocations_created, 1);
}
