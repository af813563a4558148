//! On which addresses sockets are bound: those of real interfaces first, few of virtual ones.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use thirl_common::net::{HostIpv6, parse_if_inet6};

use crate::nat::HostNetwork;

/// More sockets than this make checks slow and find nothing.
pub(super) const MAX_ADDRESSES: usize = 8;
/// Of interfaces that are there for containers and virtual machines, so many beside real ones.
const MAX_VIRTUAL: usize = 2;

/// Names of interfaces that lead to containers and virtual machines of this host.
const VIRTUAL: &[&str] = &[
    "docker", "br-", "veth", "virbr", "vmnet", "vboxnet", "lxc", "lxd", "cni", "flannel", "cali", "podman",
    "kube", "vnet", "awdl", "llw", "anpi",
];
/// Names of tunnels: they may be the only way, and mostly are a detour.
const TUNNELS: &[&str] = &["tun", "tap", "wg", "utun", "ppp", "tailscale", "zt", "ipsec", "nebula"];

/// Preferences, as upper halves of local preferences.
const PREFER_WIRED: u8 = 220;
const PREFER_OTHER: u8 = 200;
const PREFER_TUNNEL: u8 = 100;
const PREFER_VIRTUAL: u8 = 40;

/// An address to bind a socket on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address; the port is zero for any, the scope that of a link-local address.
    pub address: SocketAddr,
    /// The higher the better: 255 is the best.
    pub preference: u8,
}

/// An address as the system lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) interface: String,
    index: u32,
    pub(super) ip: IpAddr,
    prefix: u8,
    /// Not for new sessions.
    unusable: bool,
    /// A temporary address (RFC 8981), which RFC 8445, section 5.1.1.1, prefers for privacy.
    temporary: bool,
}

/// The addresses of this host that are worth a socket, the best first.
pub fn local_addresses() -> io::Result<Vec<LocalAddress>> {
    Ok(choose(list()?).iter().map(local_address).collect())
}

/// The same addresses with their networks, for [`Facts`](crate::nat::Facts).
pub fn host_networks() -> io::Result<Vec<HostNetwork>> {
    Ok(choose(list()?).iter().map(|listed| HostNetwork { ip: listed.ip, prefix: listed.prefix }).collect())
}

/// All addresses of interfaces that are up, worth a socket or not.
pub(super) fn list() -> io::Result<Vec<Listed>> {
    let flags: BTreeMap<_, _> =
        host_ipv6().unwrap_or_default().into_iter().map(|host| (IpAddr::from(host.ip), host)).collect();
    let up = |interface: &if_addrs::Interface| {
        interface.oper_status != if_addrs::IfOperStatus::Down || interface.is_loopback()
    };
    let listed = if_addrs::get_if_addrs()?.into_iter().filter(up).map(|interface| {
        let prefix = match &interface.addr {
            if_addrs::IfAddr::V4(v4) => v4.prefixlen,
            if_addrs::IfAddr::V6(v6) => v6.prefixlen,
        };
        let flags = flags.get(&interface.ip());
        Listed {
            ip: interface.ip(),
            index: interface.index.unwrap_or(0),
            prefix,
            unusable: flags.is_some_and(|flags| flags.deprecated || flags.tentative),
            temporary: flags.is_some_and(|flags| flags.temporary),
            interface: interface.name,
        }
    });
    Ok(listed.collect())
}

/// Those that are worth a socket, the best first.
pub(super) fn choose(mut listed: Vec<Listed>) -> Vec<Listed> {
    listed.retain(|address| !address.ip.is_unspecified() && !address.unusable);
    // Each scope only if there is no wider one.
    for scope in [Scope::Wide, Scope::LinkLocal, Scope::Loopback] {
        let mut chosen: Vec<_> = listed.iter().filter(|address| Scope::of(address.ip) == scope).collect();
        if chosen.is_empty() {
            continue;
        }
        chosen.sort_by_key(|address| std::cmp::Reverse(preference(address)));
        let real = chosen.iter().any(|address| preference(address) > PREFER_VIRTUAL);
        let mut virtual_left = if real { MAX_VIRTUAL } else { MAX_ADDRESSES };
        chosen.retain(|address| {
            let keep = preference(address) > PREFER_VIRTUAL || virtual_left > 0;
            virtual_left -= usize::from(keep && preference(address) <= PREFER_VIRTUAL);
            keep
        });
        chosen.truncate(MAX_ADDRESSES);
        return chosen.into_iter().cloned().collect();
    }
    Vec::new()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Wide,
    LinkLocal,
    Loopback,
}

impl Scope {
    fn of(ip: IpAddr) -> Scope {
        match ip {
            _ if ip.is_loopback() => Scope::Loopback,
            IpAddr::V4(ip) if ip.is_link_local() => Scope::LinkLocal,
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Scope::LinkLocal,
            _ => Scope::Wide,
        }
    }
}

fn preference(address: &Listed) -> u8 {
    let named = |prefixes: &[&str]| prefixes.iter().any(|prefix| address.interface.starts_with(prefix));
    let preference = if named(VIRTUAL) {
        return PREFER_VIRTUAL;
    } else if named(TUNNELS) {
        PREFER_TUNNEL
    } else if named(&["en", "eth"]) {
        PREFER_WIRED
    } else {
        PREFER_OTHER
    };
    preference + u8::from(address.temporary)
}

pub(super) fn local_address(listed: &Listed) -> LocalAddress {
    let address = match listed.ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => SocketAddrV6::new(ip, 0, 0, listed.index).into(),
        ip => SocketAddr::new(ip, 0),
    };
    LocalAddress { address, preference: preference(listed) }
}

/// The IPv6 addresses with their flags, where the system tells them: Linux.
pub(crate) fn host_ipv6() -> io::Result<Vec<HostIpv6>> {
    let table = std::fs::read_to_string("/proc/net/if_inet6")?;
    Ok(parse_if_inet6(&table).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(interface: &str, ip: &str, flag: &str) -> Listed {
        Listed {
            interface: interface.to_owned(),
            index: 3,
            ip: ip.parse().unwrap(),
            prefix: 24,
            unusable: flag == "deprecated",
            temporary: flag == "temporary",
        }
    }

    fn chosen(listed: Vec<Listed>) -> Vec<String> {
        choose(listed).iter().map(|listed| listed.ip.to_string()).collect()
    }

    #[test]
    fn real_interfaces_come_first_and_virtual_ones_are_few() {
        let mut all: Vec<_> = (0..9).map(|n| listed("docker0", &format!("172.17.{n}.1"), "")).collect();
        all.extend([
            listed("lo", "127.0.0.1", ""),
            listed("wg0", "10.8.0.2", ""),
            listed("eth0", "192.168.1.2", ""),
        ]);
        all.extend([listed("eth0", "fe80::1", ""), listed("eth0", "2001:db8::1", "deprecated")]);
        all.extend([listed("eth0", "2001:db8::2", ""), listed("eth0", "2001:db8::3", "temporary")]);
        let best = ["2001:db8::3", "192.168.1.2", "2001:db8::2", "10.8.0.2", "172.17.0.1", "172.17.1.1"];
        assert_eq!(chosen(all), best);
    }

    #[test]
    fn loopback_and_link_local_only_if_alone() {
        assert_eq!(
            chosen(vec![listed("lo", "127.0.0.1", ""), listed("lo", "::1", "")]),
            ["127.0.0.1", "::1"]
        );
        let link_local = choose(vec![listed("lo", "127.0.0.1", ""), listed("eth0", "fe80::1", "")]);
        assert_eq!(local_address(&link_local[0]).address.to_string(), "[fe80::1%3]:0");
        assert_eq!(link_local.len(), 1);
    }
}
