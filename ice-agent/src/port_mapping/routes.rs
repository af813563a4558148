//! The default gateway, from the routing tables that Linux shows under `/proc/net`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Flags of a route (Linux, `route.h`): it is up; it leads through a gateway.
const UP: u32 = 1;
const GATEWAY: u32 = 2;

/// The way out of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The router.
    pub gateway: IpAddr,
    /// The name of the interface that leads there; a link-local gateway cannot be reached without it.
    pub interface: String,
}

/// The default gateway of a `/proc/net/route`; `None` if the best default route has none, as that of a tunnel.
pub fn ipv4_default(table: &str) -> Option<DefaultRoute> {
    best(table.lines().skip(1).filter_map(|line| {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        // Iface Destination Gateway Flags RefCnt Use Metric Mask; addresses in the host's byte order.
        let &[interface, destination, gateway, flags, _, _, metric, mask, ..] = words.as_slice() else {
            return None;
        };
        let hex = |word| u32::from_str_radix(word, 16).ok();
        if (hex(destination)?, hex(mask)?) != (0, 0) {
            return None;
        }
        let gateway = Ipv4Addr::from(hex(gateway)?.to_ne_bytes()).into();
        Some(Route { metric: metric.parse().ok()?, flags: hex(flags)?, gateway, interface })
    }))
}

/// The default gateway of a `/proc/net/ipv6_route`.
pub fn ipv6_default(table: &str) -> Option<DefaultRoute> {
    best(table.lines().filter_map(|line| {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        // Destination and length, source and length, next hop, metric, references, use, flags, interface.
        let &[destination, length, _, source_length, gateway, metric, _, _, flags, interface] =
            words.as_slice()
        else {
            return None;
        };
        let hex = |word| u32::from_str_radix(word, 16).ok();
        let address = |word: &str| u128::from_str_radix(word, 16).ok().map(Ipv6Addr::from);
        if !address(destination)?.is_unspecified() || (hex(length)?, hex(source_length)?) != (0, 0) {
            return None;
        }
        let gateway = address(gateway)?.into();
        // The kernel's "no route" has this form too, on the loopback interface.
        (interface != "lo").then_some(Route { metric: hex(metric)?, flags: hex(flags)?, gateway, interface })
    }))
}

struct Route<'a> {
    metric: u32,
    flags: u32,
    gateway: IpAddr,
    interface: &'a str,
}

fn best<'a>(routes: impl Iterator<Item = Route<'a>>) -> Option<DefaultRoute> {
    let best = routes.filter(|route| route.flags & UP != 0).min_by_key(|route| route.metric)?;
    let (gateway, interface) = (best.gateway, best.interface.to_owned());
    (best.flags & GATEWAY != 0 && !gateway.is_unspecified()).then_some(DefaultRoute { gateway, interface })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    fn ipv4(routes: &[&str]) -> Option<(String, String)> {
        let found = ipv4_default(&format!("{HEAD}{}", routes.join("\n")))?;
        Some((found.gateway.to_string(), found.interface))
    }

    /// As written by a little-endian machine.
    #[cfg(target_endian = "little")]
    #[test]
    fn the_best_of_ipv4() {
        let lan = "eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0";
        let wifi = "wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0";
        let wired = "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0";
        let tunnel = "tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0";
        let found = |gateway: &str, interface: &str| Some((gateway.to_owned(), interface.to_owned()));
        assert_eq!(ipv4(&[lan, wifi, wired]), found("192.168.1.1", "eth0"));
        assert_eq!(ipv4(&[wifi, lan]), found("192.168.2.1", "wlan0"));
        assert_eq!(ipv4(&[lan]), None);
        assert_eq!(ipv4(&[wired, tunnel]), None, "packets go into the tunnel");
        assert_eq!(ipv4(&["eth0\t00000000", "", "\u{fffd}"]), None);
    }

    #[test]
    fn the_best_of_ipv6() {
        let zero = "0".repeat(32);
        let line = |hop: &str, metric: &str, flags: &str, interface: &str| {
            format!("{zero} 00 {zero} 00 {hop} {metric} 00000001 00000000 {flags} {interface}\n")
        };
        let router = line("fe800000000000000000000000000001", "00000400", "00450003", "    eth0");
        let none = line(&zero, "ffffffff", "00200200", "      lo");
        let found = ipv6_default(&format!("{none}{router}"));
        let eth0 = DefaultRoute { gateway: "fe80::1".parse().unwrap(), interface: "eth0".to_owned() };
        assert_eq!(found, Some(eth0));
        assert_eq!(ipv6_default(&none), None);
        assert_eq!(ipv6_default(&router.replace(" 00 ", " 40 ")), None, "no default route");
    }
}
