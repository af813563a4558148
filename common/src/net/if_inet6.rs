//! The IPv6 addresses of this host with their flags, as Linux lists them in `/proc/net/if_inet6`.

use std::net::Ipv6Addr;

/// `if_addr.h` of Linux.
const TEMPORARY: u8 = 0x01; // IFA_F_SECONDARY
const DAD_FAILED: u8 = 0x08; // IFA_F_DADFAILED
const DEPRECATED: u8 = 0x20; // IFA_F_DEPRECATED
const TENTATIVE: u8 = 0x40; // IFA_F_TENTATIVE

/// An address and what is special about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostIpv6 {
    /// The address.
    pub ip: Ipv6Addr,
    /// The name of its interface.
    pub interface: String,
    /// A temporary address, for privacy (RFC 8981).
    pub temporary: bool,
    /// Beyond its preferred lifetime: for sessions that have it already (RFC 4862, section 5.5.4).
    pub deprecated: bool,
    /// Not known to be unique, or known not to be (RFC 4862, section 5.4).
    pub tentative: bool,
}

/// Reads lines like `fe800000000000000000000000000001 02 40 20 80 eth0`: address, index, prefix length, scope, flags and
/// name, all but the name in hexadecimal. A line that is not like this is skipped.
pub fn parse_if_inet6(table: &str) -> impl Iterator<Item = HostIpv6> {
    table.lines().filter_map(parse_line)
}

fn parse_line(line: &str) -> Option<HostIpv6> {
    let mut words = line.split_ascii_whitespace();
    let address = words.next().filter(|word| word.len() == 32)?;
    let ip = Ipv6Addr::from(u128::from_str_radix(address, 16).ok()?);
    let flags = u8::from_str_radix(words.nth(3)?, 16).ok()?;
    let interface = words.next()?.to_owned();
    let has = |flag| flags & flag != 0;
    Some(HostIpv6 {
        ip,
        interface,
        temporary: has(TEMPORARY),
        deprecated: has(DEPRECATED),
        tentative: has(TENTATIVE) || has(DAD_FAILED),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_as_linux_writes_them() {
        let table = "20010db8000000000000000000000001 02 40 00 21     eth0\nnonsense\n\
            fe800000000000000000000000000001 02 40 20 c0 wlan0\n20010db8 02 40 00 00 eth0\n";
        let listed: Vec<_> = parse_if_inet6(table).collect();
        let first = HostIpv6 {
            ip: "2001:db8::1".parse().unwrap(),
            interface: "eth0".to_owned(),
            temporary: true,
            deprecated: true,
            tentative: false,
        };
        assert_eq!(listed[0], first);
        assert_eq!((listed[1].ip, listed[1].tentative), ("fe80::1".parse().unwrap(), true));
        assert_eq!(listed.len(), 2);
    }
}
