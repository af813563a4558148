//! Which peers a client may reach through the relay.
//!
//! A relay stands inside somebody's network: without this, whoever has credentials reaches what only the relay should
//! (server-side request forgery; CVE-2020-26262, CVE-2026-27624).

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use thirl_common::net::{IpRange, PeerAddr};

use super::peer_rule::PeerRule;
use super::port_set::{ALL_PORTS, PortSet};

/// The rules, and the server's own addresses.
///
/// Every rule, an operator's or a built-in one, says something of some addresses and of some of their ports. Of the rules
/// that hold a peer's address and port the narrowest decides: the one with the fewest addresses, and among those of one
/// width an operator's before a built-in one, then the one with the fewest ports, then denial. The built-in rules:
///
/// 1. What [`DENIED_BY_DEFAULT`] lists is denied.
/// 2. The server's own addresses are denied, each as a rule of one address: who allows `10.0.0.0/8` does not open what
///    listens at the relay's own 10.0.0.5, unless it says so. Only loopback is as wide as 127.0.0.0/8: who allows that
///    means this very host.
/// 3. Of the addresses that the server relays from, only the ports of relayed transport addresses are not denied, even
///    where 1 holds them. There are other clients' allocations, which hold permissions of their own: two clients of one
///    server reach each other.
///
/// What no rule holds is allowed. An IPv6 address in which an IPv4 address stands (6to4, NAT64, Teredo, mapped..) must pass
/// twice: as it is, and as the IPv4 address.
#[derive(Clone, Debug)]
pub struct PeerPolicy {
    /// `allowed-peer-ip`.
    pub allowed: Vec<PeerRule>,
    /// `denied-peer-ip`.
    pub denied: Vec<PeerRule>,
    /// Addresses that the server relays from, and what they are mapped to outside.
    pub relay_ips: Vec<IpAddr>,
    /// Other addresses of the server.
    pub own_ips: Vec<IpAddr>,
    /// `min-port` to `max-port`.
    pub relay_ports: RangeInclusive<u16>,
    /// Ports within `relay_ports` that the server itself listens on.
    pub listening_ports: Vec<u16>,
}

impl Default for PeerPolicy {
    /// No rules but the built-in ones; the dynamic ports (RFC 6335, section 6) are for relaying.
    fn default() -> Self {
        PeerPolicy {
            allowed: Vec::new(),
            denied: Vec::new(),
            relay_ips: Vec::new(),
            own_ips: Vec::new(),
            relay_ports: 49152..=65535,
            listening_ports: Vec::new(),
        }
    }
}

/// What an allocation adds to the server's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// Where the client sends to.
    pub server: Option<IpAddr>,
    /// Where its relayed transport addresses are.
    pub relayed: [Option<IpAddr>; 2],
}

/// Which ports of an address can be reached; there is one at least.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All but 0, which no peer has.
    AllPorts,
    /// These.
    Ports(Arc<PortSet>),
}

impl Reach {
    /// Whether a port is among them.
    #[inline]
    pub fn admits(&self, port: u16) -> bool {
        match self {
            Reach::AllPorts => port != 0,
            Reach::Ports(ports) => ports.contains(port),
        }
    }
}

/// What one rule says of an address that it holds.
struct Layer {
    /// How many addresses it holds besides the first.
    width: u128,
    by_operator: bool,
    allows: bool,
    ports: RangeInclusive<u16>,
}

/// RFC 1122, section 3.2.1.3.
const LOOPBACK: IpRange = IpRange::v4([127, 0, 0, 0], 8);

/// Denied unless a rule of the same width or a narrower one allows it. Documentation prefixes are not here: they are nobody's, and tests live in them.
pub const DENIED_BY_DEFAULT: &[IpRange] = &[
    IpRange::v4([0, 0, 0, 0], 8), // this host on this network (RFC 1122, section 3.2.1.3)
    IpRange::v4([10, 0, 0, 0], 8), // private (RFC 1918)
    IpRange::v4([100, 64, 0, 0], 10), // carrier-grade NAT (RFC 6598); Alibaba's metadata
    LOOPBACK,
    IpRange::v4([168, 63, 129, 16], 32), // Azure's metadata and host agent
    IpRange::v4([169, 254, 0, 0], 16),   // link-local (RFC 3927); cloud metadata
    IpRange::v4([172, 16, 0, 0], 12),    // private (RFC 1918)
    IpRange::v4([192, 0, 0, 0], 24),     // protocol assignments (RFC 6890); Oracle's metadata
    IpRange::v4([192, 88, 99, 0], 24),   // 6to4 relays, deprecated (RFC 7526)
    IpRange::v4([192, 168, 0, 0], 16),   // private (RFC 1918)
    IpRange::v4([198, 18, 0, 0], 15),    // benchmarks (RFC 2544)
    IpRange::v4([224, 0, 0, 0], 4),      // multicast (RFC 5771)
    IpRange::v4([240, 0, 0, 0], 4),      // reserved, and broadcast (RFC 1112, RFC 919)
    IpRange::v6([0, 0, 0, 0, 0, 0, 0, 0], 96), // unspecified, loopback, IPv4-compatible (RFC 4291)
    IpRange::v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), // IPv4-mapped (RFC 4291): never on the wire
    IpRange::v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), // IPv4-translated (RFC 2765)
    IpRange::v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), // local-use NAT64 (RFC 8215)
    IpRange::v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), // discard (RFC 6666)
    IpRange::v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), // segment routing (RFC 9602)
    IpRange::v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), // unique local (RFC 4193); cloud metadata
    IpRange::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), // link-local (RFC 4291)
    IpRange::v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), // site-local, deprecated (RFC 3879)
    IpRange::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), // multicast (RFC 4291)
];

impl PeerPolicy {
    /// Which ports of `ip` the allocation with these addresses may reach; `None`: none.
    ///
    /// That is what a CreatePermission asks, which has no port. The permission remembers the answer, and Send looks into
    /// it.
    pub fn reach(&self, ip: IpAddr, own: &OwnAddresses) -> Option<Reach> {
        let mut ports = self.ports(ip, own);
        if let IpAddr::V6(v6) = ip {
            for v4 in embedded_ipv4(v6).into_iter().flatten() {
                ports = ports.intersection(&self.ports(v4.into(), own));
            }
        }
        match ports {
            none if none.is_empty() => None,
            all if all == PortSet::all() => Some(Reach::AllPorts),
            some => Some(Reach::Ports(Arc::new(some))),
        }
    }

    /// The same of an address whose port is known, as in ChannelBind and Connect; `None` if that port is not among them.
    pub fn reach_at(&self, peer: PeerAddr, own: &OwnAddresses) -> Option<Reach> {
        self.reach(peer.ip(), own).filter(|reach| reach.admits(peer.port()))
    }

    /// Paints what the rules say of an address over each other, the widest first.
    fn ports(&self, ip: IpAddr, own: &OwnAddresses) -> PortSet {
        let mut layers = self.built_in(ip, own);
        for (rules, allows) in [(&self.allowed, true), (&self.denied, false)] {
            let holding = rules.iter().filter(|rule| rule.addresses.contains(ip));
            layers.extend(holding.map(|rule| Layer {
                width: rule.addresses.width(),
                by_operator: true,
                allows,
                ports: rule.ports.clone(),
            }));
        }
        layers.sort_by_key(|Layer { width, by_operator, allows, ports }| {
            (Reverse(*width), *by_operator, Reverse(ports.len()), !*allows)
        });
        let mut painted = PortSet::all();
        for Layer { allows, ports, .. } in layers {
            if allows { painted.insert(&ports) } else { painted.remove(&ports) }
        }
        painted
    }

    /// The built-in rules that hold an address. All of them deny.
    fn built_in(&self, ip: IpAddr, own: &OwnAddresses) -> Vec<Layer> {
        let deny = |width, ports| Layer { width, by_operator: false, allows: false, ports };
        let own_width = if ip.is_ipv4() && ip.is_loopback() { LOOPBACK.width() } else { 0 };
        if own.relayed.contains(&Some(ip)) || self.relay_ips.contains(&ip) {
            let (first, last) = (*self.relay_ports.start(), *self.relay_ports.end());
            let below = first.checked_sub(1).map(|end| 0..=end);
            let above = last.checked_add(1).map(|start| start..=u16::MAX);
            let listening = self.listening_ports.iter().map(|port| *port..=*port);
            let denied = below.into_iter().chain(above).chain(listening);
            return denied.map(|ports| deny(own_width, ports)).collect();
        }
        let listed = DENIED_BY_DEFAULT.iter().filter(|range| range.contains(ip)).map(IpRange::width);
        let is_own = own.server == Some(ip) || self.own_ips.contains(&ip);
        listed.chain(is_own.then_some(own_width)).map(|width| deny(width, ALL_PORTS)).collect()
    }
}

/// The IPv4 addresses that a packet to this address may end at.
fn embedded_ipv4(ip: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = ip.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    let last = v4(s6, s7);
    match [s0, s1, s2, s3, s4, s5] {
        // Unspecified and loopback have no IPv4 address in them (RFC 4291, sections 2.5.2 and 2.5.3).
        [0, 0, 0, 0, 0, 0] if s6 == 0 && s7 <= 1 => [None, None],
        // IPv4-compatible, IPv4-mapped (RFC 4291, section 2.5.5), IPv4-translated (RFC 2765, section 2.1).
        [0, 0, 0, 0, 0, 0 | 0xffff] | [0, 0, 0, 0, 0xffff, 0] => [last, None],
        // NAT64 (RFC 6052, section 2.1; RFC 8215).
        [0x64, 0xff9b, 0, 0, 0, 0] => [last, None],
        [0x64, 0xff9b, 1, ..] => [last, None],
        // 6to4 (RFC 3056, section 2).
        [0x2002, high, low, ..] => [v4(high, low), None],
        // Teredo: the server, and the client's address inverted (RFC 4380, section 4).
        [0x2001, 0, high, low, ..] => [v4(high, low), v4(!s6, !s7)],
        // ISATAP (RFC 5214, section 6.1).
        [_, _, _, _, 0 | 0x200, 0x5efe] => [last, None],
        _ => [None, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(policy: &PeerPolicy, ip: &str) -> Option<Reach> {
        policy.reach(ip.parse().unwrap(), &OwnAddresses::default())
    }

    fn rules(allowed: &[&str], denied: &[&str]) -> PeerPolicy {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        PeerPolicy { allowed: parse(allowed), denied: parse(denied), ..PeerPolicy::default() }
    }

    /// Every way that we know of to write an address that a stranger must not reach.
    const DANGEROUS: &[&str] = &[
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.100.100.200",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.88.99.1",
        "192.168.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::10.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0.0.0.0",
        "::ffff:8.8.8.8",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::127.0.0.1",
        "64:ff9b:1:7f00:0:100::",
        "64:ff9b:1::8.8.8.8",
        "100::1",
        "2001:0:7f00:1::1",
        "2001:0:808:808:0:0:80ff:fffe",
        "2001:0:808:808:0:0:5601:5601",
        "2002:7f00:1::",
        "2002:7f00:1::1",
        "2002:a00:1::1",
        "2002:a9fe:a9fe::1",
        "2002:c0a8:1::1",
        "2001:db8::5efe:127.0.0.1",
        "2001:db8::200:5efe:10.0.0.1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fe80::1",
        "febf::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ];

    #[test]
    fn dangerous_peers_are_denied_in_every_spelling() {
        for ip in DANGEROUS {
            assert_eq!(reach(&PeerPolicy::default(), ip), None, "{ip}");
        }
        let distinct: std::collections::BTreeSet<_> = DANGEROUS.iter().collect();
        assert!(distinct.len() >= 40 && distinct.len() == DANGEROUS.len());
    }

    #[test]
    fn harmless_peers_are_allowed() {
        for ip in [
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "128.0.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.2.1",
            "198.17.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "223.255.255.255",
            "2001:db8::1",
            "2606:4700::1",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:0:808:808:0:0:f7f7:f7f7",
        ] {
            assert_eq!(reach(&PeerPolicy::default(), ip), Some(Reach::AllPorts), "{ip}");
        }
    }

    #[test]
    fn the_narrowest_rule_decides_and_on_a_tie_the_denial() {
        let policy =
            rules(&["10.1.0.0/16", "10.1.2.3", "203.0.113.7"], &["10.1.2.0/24", "203.0.113.7", "8.8.8.0/24"]);
        assert_eq!(reach(&policy, "10.1.9.9"), Some(Reach::AllPorts));
        assert_eq!(reach(&policy, "10.1.2.4"), None);
        assert_eq!(reach(&policy, "10.1.2.3"), Some(Reach::AllPorts));
        assert_eq!(reach(&policy, "10.2.0.1"), None, "the built-in rules hold elsewhere");
        assert_eq!(reach(&policy, "203.0.113.7"), None);
        assert_eq!(reach(&policy, "8.8.8.8"), None);
    }

    #[test]
    fn who_allows_everything_allows_nothing_that_is_denied_by_default() {
        let everything = rules(&["0.0.0.0/0", "::/0"], &[]);
        for ip in DANGEROUS {
            assert_eq!(reach(&everything, ip), None, "{ip}");
        }
        assert_eq!(reach(&rules(&["10.0.0.0/8"], &[]), "10.1.2.3"), Some(Reach::AllPorts), "a tie");
        let only = rules(&["203.0.113.0/24"], &["0.0.0.0/0", "::/0"]);
        assert_eq!(reach(&only, "203.0.113.7"), Some(Reach::AllPorts));
        assert!(reach(&only, "8.8.8.8").is_none() && reach(&only, "2606:4700::1").is_none());
    }

    /// Of `ports`, those that can be reached.
    fn reached(policy: &PeerPolicy, ip: &str, ports: &[u16]) -> Vec<u16> {
        let reach = reach(policy, ip);
        ports.iter().copied().filter(|port| reach.as_ref().is_some_and(|reach| reach.admits(*port))).collect()
    }

    #[test]
    fn ports_decide_among_rules_of_one_width() {
        let policy = rules(
            &["10.0.0.0/8:53", "10.0.0.0/8:1000-2000", "10.7.0.0/16:9000", "8.8.8.8:53"],
            &["10.0.0.0/8:1500-1600", "10.0.0.0/8:2000", "10.7.0.0/16:53", "8.8.8.0/24", "9.9.9.9:25"],
        );
        let ports = [0, 53, 999, 1000, 1499, 1500, 1600, 1601, 1999, 2000, 9000];
        assert_eq!(reached(&policy, "10.1.1.1", &ports), [53, 1000, 1499, 1601, 1999]);
        assert_eq!(
            reached(&policy, "10.7.1.1", &ports),
            [1000, 1499, 1601, 1999, 9000],
            "addresses go first"
        );
        assert_eq!(reached(&policy, "8.8.8.8", &ports), [53]);
        assert_eq!(reach(&policy, "8.8.8.9"), None);
        assert_eq!(reached(&policy, "9.9.9.9", &[24, 25, 26]), [24, 26]);
        assert_eq!(reached(&policy, "2002:808:808::1", &ports), [53], "in another spelling too");
        let tie = rules(&["10.0.0.0/8:53"], &["10.0.0.0/8:53"]);
        assert_eq!(reach(&tie, "10.0.0.1"), None);
        let narrow = rules(&["10.0.0.0/8:53"], &["10.0.0.0/8:50-60"]);
        assert_eq!(reached(&narrow, "10.0.0.1", &[52, 53, 54]), [53]);
    }

    #[test]
    fn a_peer_with_a_port_is_reached_at_it_or_not_at_all() {
        let policy = rules(&["10.0.0.0/8:53"], &[]);
        let at = |peer: &str| policy.reach_at(PeerAddr(peer.parse().unwrap()), &OwnAddresses::default());
        assert!(at("10.0.0.1:53").is_some_and(|reach| !reach.admits(54)));
        assert!(at("10.0.0.1:54").is_none() && at("8.8.8.8:0").is_none());
        assert_eq!(at("8.8.8.8:1"), Some(Reach::AllPorts));
    }

    #[test]
    fn a_rule_for_ipv4_holds_for_its_ipv6_spellings() {
        let policy = rules(&["127.0.0.1", "::/0"], &["8.8.8.8"]);
        assert_eq!(reach(&policy, "64:ff9b::8.8.8.8"), None);
        assert_eq!(reach(&policy, "2002:808:808::1"), None);
        assert_eq!(reach(&policy, "64:ff9b::10.0.0.1"), None, "::/0 does not speak for 10.0.0.1");
        assert_eq!(reach(&policy, "64:ff9b::127.0.0.1"), Some(Reach::AllPorts), "both were allowed");
        assert_eq!(reach(&rules(&["127.0.0.1"], &[]), "::ffff:127.0.0.1"), None, "one was not");
        assert_eq!(
            reach(&rules(&["::1"], &[]), "::1"),
            Some(Reach::AllPorts),
            "it has no IPv4 address in it"
        );
    }

    #[test]
    fn the_servers_own_addresses_are_reachable_on_relay_ports_only() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let relay_ips = vec![ip("203.0.113.10"), ip("10.0.0.5")];
        let policy = PeerPolicy {
            relay_ips: relay_ips.clone(),
            own_ips: vec![ip("203.0.113.11")],
            listening_ports: vec![50000],
            ..Default::default()
        };
        let ports = [0, 22, 3478, 49151, 49152, 50000, 65535];
        for relay_ip in relay_ips {
            let text = relay_ip.to_string();
            assert_eq!(reached(&policy, &text, &ports), [49152, 65535]);
            let own = OwnAddresses { server: Some(relay_ip), relayed: [None, Some(relay_ip)] };
            assert!(PeerPolicy::default().reach(relay_ip, &own).is_some_and(|reach| !reach.admits(22)));
            let elsewhere = OwnAddresses { server: Some(relay_ip), relayed: [None; 2] };
            assert_eq!(PeerPolicy::default().reach(relay_ip, &elsewhere), None);
            // A rule for a network does not open the server in it; one for the server does.
            let allowing = |rule: &str| PeerPolicy { allowed: vec![rule.parse().unwrap()], ..policy.clone() };
            assert_eq!(reached(&allowing(&format!("{text}/8")), &text, &ports), [49152, 65535]);
            assert_eq!(reached(&allowing(&format!("{text}:22")), &text, &ports), [22, 49152, 65535]);
        }
        assert_eq!(reach(&policy, "203.0.113.11"), None);
        assert_eq!(reach(&policy, "64:ff9b::203.0.113.11"), None);
        assert_eq!(reached(&policy, "64:ff9b::203.0.113.10", &ports), [49152, 65535]);
        for rule in ["203.0.113.10", "203.0.113.0/24"] {
            let denied = PeerPolicy { denied: vec![rule.parse().unwrap()], ..policy.clone() };
            assert_eq!(reach(&denied, "203.0.113.10"), None, "{rule}");
        }
    }

    #[test]
    fn who_allows_loopback_means_this_host() {
        let own = OwnAddresses { server: Some(Ipv4Addr::LOCALHOST.into()), relayed: [None; 2] };
        for (rule, reached) in
            [("127.0.0.0/8", true), ("127.0.0.1", true), ("0.0.0.0/0", false), ("126.0.0.0/7", false)]
        {
            let policy = rules(&[rule], &[]);
            assert_eq!(policy.reach(Ipv4Addr::LOCALHOST.into(), &own).is_some(), reached, "{rule}");
        }
    }
}
