//! Which peers a client may reach through the relay.
//!
//! A relay stands inside somebody's network: without this, whoever has credentials reaches what only the relay should
//! (server-side request forgery; CVE-2020-26262, CVE-2026-27624).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::ip_range::IpRange;

/// The rules, and the server's own addresses.
///
/// The decision on an address, in this order:
/// 1. The narrowest of the `allowed` and `denied` ranges that hold it decides; between two of one width, denial.
/// 2. The addresses that the server relays from are reachable on the ports of relayed transport addresses only, where
///    other clients' allocations are, which hold permissions of their own: two clients of one server reach each other even
///    where that server has a private address.
/// 3. The server's other addresses are denied, and so is what [`DENIED_BY_DEFAULT`] lists; anything else is allowed.
///
/// An IPv6 address in which an IPv4 address stands (6to4, NAT64, Teredo, mapped..) must pass twice: as it is, and as the
/// IPv4 address.
#[derive(Clone, Debug)]
pub struct PeerPolicy {
    /// `allowed-peer-ip`.
    pub allowed: Vec<IpRange>,
    /// `denied-peer-ip`.
    pub denied: Vec<IpRange>,
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

/// Which ports of an allowed address can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Those of relayed transport addresses: it is an address of this server.
    RelayPorts,
    /// All.
    AllPorts,
}

/// Denied unless a rule allows it. Documentation prefixes are not here: they are nobody's, and tests live in them.
pub const DENIED_BY_DEFAULT: &[IpRange] = &[
    IpRange::v4([0, 0, 0, 0], 8), // this host on this network (RFC 1122, section 3.2.1.3)
    IpRange::v4([10, 0, 0, 0], 8), // private (RFC 1918)
    IpRange::v4([100, 64, 0, 0], 10), // carrier-grade NAT (RFC 6598); Alibaba's metadata
    IpRange::v4([127, 0, 0, 0], 8), // loopback (RFC 1122)
    IpRange::v4([168, 63, 129, 16], 32), // Azure's metadata and host agent
    IpRange::v4([169, 254, 0, 0], 16), // link-local (RFC 3927); cloud metadata
    IpRange::v4([172, 16, 0, 0], 12), // private (RFC 1918)
    IpRange::v4([192, 0, 0, 0], 24), // protocol assignments (RFC 6890); Oracle's metadata
    IpRange::v4([192, 88, 99, 0], 24), // 6to4 relays, deprecated (RFC 7526)
    IpRange::v4([192, 168, 0, 0], 16), // private (RFC 1918)
    IpRange::v4([198, 18, 0, 0], 15), // benchmarks (RFC 2544)
    IpRange::v4([224, 0, 0, 0], 4), // multicast (RFC 5771)
    IpRange::v4([240, 0, 0, 0], 4), // reserved, and broadcast (RFC 1112, RFC 919)
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
    pub fn reach(&self, ip: IpAddr, own: &OwnAddresses) -> Option<Reach> {
        let reach = self.reach_literally(ip, own)?;
        let IpAddr::V6(v6) = ip else { return Some(reach) };
        embedded_ipv4(v6)
            .into_iter()
            .flatten()
            .try_fold(reach, |reach, v4| Some(reach.min(self.reach_literally(v4.into(), own)?)))
    }

    /// Whether a port is among those. No peer has port 0.
    pub fn admits(&self, reach: Reach, port: u16) -> bool {
        match reach {
            Reach::AllPorts => port != 0,
            Reach::RelayPorts => self.relay_ports.contains(&port) && !self.listening_ports.contains(&port),
        }
    }

    fn reach_literally(&self, ip: IpAddr, own: &OwnAddresses) -> Option<Reach> {
        let narrowest =
            |ranges: &[IpRange]| ranges.iter().filter(|range| range.contains(ip)).map(IpRange::width).min();
        match (narrowest(&self.allowed), narrowest(&self.denied)) {
            (Some(allowed), Some(denied)) if allowed < denied => return Some(Reach::AllPorts),
            (Some(_), None) => return Some(Reach::AllPorts),
            (_, Some(_)) => return None,
            (None, None) => {}
        }
        if own.relayed.contains(&Some(ip)) || self.relay_ips.contains(&ip) {
            return Some(Reach::RelayPorts);
        }
        let denied = own.server == Some(ip)
            || self.own_ips.contains(&ip)
            || DENIED_BY_DEFAULT.iter().any(|range| range.contains(ip));
        (!denied).then_some(Reach::AllPorts)
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
        let relay_ips = vec![ip("203.0.113.10"), ip("127.0.0.1")];
        let own_ips = vec![ip("203.0.113.11")];
        let policy = PeerPolicy {
            relay_ips: relay_ips.clone(),
            own_ips,
            listening_ports: vec![50000],
            ..Default::default()
        };
        for relay_ip in relay_ips {
            let own = OwnAddresses { server: Some(relay_ip), relayed: [None, Some(relay_ip)] };
            assert_eq!(policy.reach(relay_ip, &OwnAddresses::default()), Some(Reach::RelayPorts));
            assert_eq!(PeerPolicy::default().reach(relay_ip, &own), Some(Reach::RelayPorts));
            let elsewhere = OwnAddresses { server: Some(relay_ip), relayed: [None; 2] };
            assert_eq!(PeerPolicy::default().reach(relay_ip, &elsewhere), None);
        }
        assert_eq!(reach(&policy, "203.0.113.11"), None);
        assert_eq!(reach(&policy, "64:ff9b::203.0.113.11"), None);
        assert_eq!(reach(&policy, "64:ff9b::203.0.113.10"), Some(Reach::RelayPorts));
        for (port, admitted) in
            [(49152, true), (65535, true), (50000, false), (3478, false), (22, false), (0, false)]
        {
            assert_eq!(policy.admits(Reach::RelayPorts, port), admitted, "port {port}");
        }
        assert!(policy.admits(Reach::AllPorts, 22) && !policy.admits(Reach::AllPorts, 0));
        let denied = PeerPolicy { denied: vec!["203.0.113.10".parse().unwrap()], ..policy };
        assert_eq!(reach(&denied, "203.0.113.10"), None);
    }
}
