//! Peers that nobody may reach, in every spelling, by every way to name one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thirl_common::net::PeerAddr;
use thirl_common::wire::*;

use crate::engine::testing::*;
use crate::engine::*;

/// IPv4 addresses that a client must not reach through a relay, and what each is.
const FORBIDDEN_V4: [(&str, &str); 17] = [
    ("0.0.0.0", "this host"),
    ("10.0.0.1", "private"),
    ("172.31.255.254", "private"),
    ("192.168.1.1", "private"),
    ("100.64.0.1", "carrier-grade NAT"),
    ("127.0.0.1", "loopback"),
    ("127.255.255.254", "loopback"),
    ("169.254.10.10", "link-local"),
    ("169.254.169.254", "metadata of AWS, Google, Azure and others"),
    ("100.100.100.200", "metadata of Alibaba"),
    ("168.63.129.16", "metadata of Azure"),
    ("192.0.0.192", "metadata of Oracle"),
    ("198.18.0.1", "benchmarks"),
    ("224.0.0.251", "multicast"),
    ("240.0.0.1", "reserved"),
    ("255.255.255.255", "broadcast"),
    ("203.0.113.11", "the relay's own, not for relaying"),
];

/// The same in IPv6.
const FORBIDDEN_V6: [&str; 11] = [
    "::",
    "::1",
    "100::1",
    "fc00::1",
    "fd00:ec2::254", // metadata of AWS
    "fd20:ce::254",  // metadata of Google
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "5f00::1",
    "2001:db8::11", // the relay's own, not for relaying
];

/// The IPv6 addresses by which a packet may come to an IPv4 address.
fn spellings(ip: Ipv4Addr) -> [(&'static str, Ipv6Addr); 11] {
    let bits = u128::from(ip.to_bits());
    let public = u128::from(Ipv4Addr::new(8, 8, 8, 8).to_bits());
    let at = |text: &str| text.parse::<Ipv6Addr>().map_or(0, Ipv6Addr::to_bits);
    [
        ("IPv4-mapped", at("::ffff:0:0") | bits),
        ("IPv4-compatible", bits),
        ("IPv4-translated", at("::ffff:0:0:0") | bits),
        ("6to4", at("2002::1") | bits << 80),
        ("Teredo's server", at("2001::") | bits << 64 | (public ^ 0xffff_ffff)),
        ("Teredo's client", at("2001::") | public << 64 | (bits ^ 0xffff_ffff)),
        ("NAT64", at("64:ff9b::") | bits),
        ("local NAT64, /96", at("64:ff9b:1::") | bits),
        ("local NAT64, /48", at("64:ff9b:1::") | (bits >> 16) << 64 | (bits & 0xffff) << 40),
        ("ISATAP", at("2001:db8:1::5efe:0:0") | bits),
        ("ISATAP, global", at("2001:db8:1:0:200:5efe:0:0") | bits),
    ]
    .map(|(name, bits)| (name, Ipv6Addr::from_bits(bits)))
}

/// Each with what it is.
fn forbidden() -> Vec<(String, IpAddr)> {
    let mut all = Vec::new();
    for (text, what) in FORBIDDEN_V4 {
        let ip: Ipv4Addr = text.parse().unwrap();
        all.push((format!("{text}, {what}"), ip.into()));
        all.extend(spellings(ip).map(|(how, spelt)| (format!("{text}, {what}, as {how}"), spelt.into())));
    }
    all.extend(FORBIDDEN_V6.map(|text| (text.to_owned(), text.parse().unwrap())));
    all
}

/// A server with an address that it does not relay from, and a client that has an allocation of both families.
fn server() -> Server {
    let mut server = Server::new(|config| {
        config.peers.own_ips = vec!["203.0.113.11".parse().unwrap(), "2001:db8::11".parse().unwrap()];
        config.peers.relay_ips = vec!["203.0.113.10".parse().unwrap(), "2001:db8::10".parse().unwrap()];
    });
    let reply = server.allocate(client(1), |writer| {
        writer.attribute(&AdditionalAddressFamily(Some(AddressFamily::Ipv6))).unwrap();
    });
    assert_eq!((reply.code(), server.sockets.len()), (0, 2));
    server
}

fn permit(server: &mut Server, peer: SocketAddr) -> u16 {
    let request = |writer: &mut MessageWriter<'_>| {
        writer.attribute(&XorPeerAddress(peer)).unwrap();
    };
    server.request(client(1), "alice", Method::CREATE_PERMISSION, request).code()
}

fn bind(server: &mut Server, peer: SocketAddr) -> u16 {
    let request = |writer: &mut MessageWriter<'_>| {
        writer.attribute(&ChannelNumber::MIN).unwrap().attribute(&XorPeerAddress(peer)).unwrap();
    };
    server.request(client(1), "alice", Method::CHANNEL_BIND, request).code()
}

/// Whether a Send indication goes on its way.
fn send(server: &mut Server, peer: SocketAddr) -> bool {
    let send = send_indication(PeerAddr(peer), Some(b"x"), |_| {});
    server.engine.handle_datagram(server.now, UNIX, client(1), &send).is_some()
}

#[test]
fn a_forbidden_peer_is_refused_in_every_spelling_by_every_way() {
    let all = forbidden();
    let distinct: BTreeSet<_> = all.iter().map(|(_, ip)| ip).collect();
    assert!(distinct.len() >= 200, "{} spellings", distinct.len());
    let mut server = server();
    for (what, ip) in all {
        let peer = SocketAddr::new(ip, 80);
        assert_eq!((permit(&mut server, peer), bind(&mut server, peer)), (403, 403), "{what}: {ip}");
        assert!(!send(&mut server, peer), "{what}: {ip}");
    }
    assert_eq!(server.engine.counters().relayed, Traffic::default());
}

#[test]
fn the_same_spellings_of_a_harmless_peer_pass_where_ipv6_knows_them() {
    let mut server = server();
    let ip = Ipv4Addr::new(9, 9, 9, 9);
    let passed = |(name, spelt): (&'static str, Ipv6Addr)| {
        let peer = SocketAddr::new(spelt.into(), 80);
        let permitted = permit(&mut server, peer) == 0;
        assert_eq!(send(&mut server, peer), permitted, "{name}");
        permitted.then_some(name)
    };
    let passed: Vec<_> = spellings(ip).into_iter().filter_map(passed).collect();
    assert_eq!(passed, ["6to4", "Teredo's server", "Teredo's client", "NAT64", "ISATAP", "ISATAP, global"]);
}

#[test]
fn where_the_server_relays_nothing_but_relayed_addresses_is_reached() {
    let mut server = server();
    for ip in ["203.0.113.10", "2001:db8::10", "64:ff9b::203.0.113.10", "2002:cb00:710a::1"] {
        let ip: IpAddr = ip.parse().unwrap();
        // CreatePermission has no port: who may reach some port of an address may have a permission for it.
        assert_eq!(permit(&mut server, SocketAddr::new(ip, 0)), 0, "{ip}");
        for port in [0, 22, 53, 80, 443, 3478, 5349, 5766, 9641, 49151] {
            let peer = SocketAddr::new(ip, port);
            assert!(!send(&mut server, peer), "{peer}");
            assert_eq!(bind(&mut server, peer), 403, "{peer}");
        }
        assert!(send(&mut server, SocketAddr::new(ip, 49152)), "{ip}");
    }
}

#[test]
fn rules_for_ports_hold_for_all_ways() {
    let mut server = Server::new(|config| {
        config.peers.allowed = vec!["10.0.0.0/8:53".parse().unwrap()];
        config.peers.denied = vec!["198.51.100.0/24:25".parse().unwrap()];
    });
    let relay = server.allocated(client(1));
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert_eq!(bind(&mut server, at("10.0.0.1:80")), 403);
    assert_eq!(permit(&mut server, at("10.0.0.1:80")), 0, "some port of it may be reached");
    assert!(!send(&mut server, at("10.0.0.1:80")) && send(&mut server, at("10.0.0.1:53")));
    assert_eq!(permit(&mut server, at("198.51.100.1:25")), 0);
    assert!(!send(&mut server, at("198.51.100.1:25")) && send(&mut server, at("198.51.100.1:26")));
    assert_eq!(bind(&mut server, at("198.51.100.1:25")), 403);
    assert_eq!(server.engine.counters().dropped.to_peer_not_permitted, 2);
    // What comes from a peer was never the relay's to keep from anybody: permissions are by address.
    let from = PeerAddr(at("198.51.100.1:25"));
    assert!(server.engine.handle_peer_datagram(server.now, relay, from, 1).is_some());
}
