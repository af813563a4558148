//! IPv4 addresses within IPv6 ones (RFC 6052), and how a host finds the prefix of its network's NAT64 (RFC 7050).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The lengths that a prefix may have (RFC 6052, section 2.2), bits.
const LENGTHS: [u8; 6] = [96, 64, 56, 48, 40, 32];

/// Bits 64 to 71 are zero (RFC 6052, section 2.2), which the byte with this number is.
const RESERVED: usize = 8;

/// What `ipv4only.arpa` has (RFC 7050, section 8.2).
const WELL_KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];

/// The IPv6 prefix under which a NAT64 lets hosts reach IPv4 ones.
///
/// ```
/// use thirl_common::net::Nat64Prefix;
///
/// let prefix: Nat64Prefix = "64:ff9b::/96".parse()?;
/// let ip = prefix.synthesize([192, 0, 2, 33].into());
/// assert_eq!(ip.to_string(), "64:ff9b::c000:221");
/// assert_eq!(prefix.extract(ip), Some([192, 0, 2, 33].into()));
/// # Ok::<(), thirl_common::net::NotAPrefix>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nat64Prefix {
    prefix: Ipv6Addr,
    len: u8,
}

/// No prefix that RFC 6052 lets stand: whoever wrote it has to mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no prefix of RFC 6052: it is 32, 40, 48, 56, 64 or 96 bits long, and its bits 64 to 71 are zero")]
pub struct NotAPrefix;

impl Nat64Prefix {
    /// The prefix of this length; bits beyond it are dropped.
    pub fn new(prefix: Ipv6Addr, len: u8) -> Result<Nat64Prefix, NotAPrefix> {
        if !LENGTHS.contains(&len) {
            return Err(NotAPrefix);
        }
        let prefix = Ipv6Addr::from(u128::from(prefix) & (u128::MAX << (128 - u32::from(len))));
        match prefix.octets()[RESERVED] {
            0 => Ok(Nat64Prefix { prefix, len }),
            _ => Err(NotAPrefix),
        }
    }

    /// The prefixes that the AAAA records of `ipv4only.arpa` tell (RFC 7050, section 3): those under which both of its
    /// addresses are come first.
    pub fn discover(records: &[Ipv6Addr]) -> Vec<Nat64Prefix> {
        let told: Vec<_> = records.iter().flat_map(|ip| known_within(*ip)).collect();
        let mut prefixes = Vec::new();
        for (prefix, _) in &told {
            if !prefixes.contains(prefix) {
                prefixes.push(*prefix);
            }
        }
        let addresses = |of: &Nat64Prefix| {
            told.iter().filter(|(prefix, _)| prefix == of).map(|(_, ip)| *ip).collect::<BTreeSet<_>>().len()
        };
        prefixes.sort_by_key(|prefix| std::cmp::Reverse(addresses(prefix)));
        prefixes
    }

    /// The address under which an IPv6 host reaches `ip` (RFC 6052, section 2.3).
    pub fn synthesize(self, ip: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.prefix.octets();
        for (place, octet) in places(self.len).zip(ip.octets()) {
            octets[place] = octet;
        }
        octets.into()
    }

    /// The IPv4 address within `ip`, if it is one of this prefix. What stands behind it is ignored (section 2.2).
    pub fn extract(self, ip: Ipv6Addr) -> Option<Ipv4Addr> {
        let same = Nat64Prefix::new(ip, self.len) == Ok(self) && ip.octets()[RESERVED] == 0;
        same.then(|| within(ip, self.len))
    }

    /// An IPv4 destination as one that an IPv6 socket can send to; any other unchanged.
    pub fn to_ipv6(self, addr: SocketAddr) -> SocketAddr {
        match addr.ip() {
            IpAddr::V4(ip) => SocketAddr::new(self.synthesize(ip).into(), addr.port()),
            IpAddr::V6(_) => addr,
        }
    }

    /// The IPv4 address and port that stand behind an address of the prefix; any other unchanged.
    pub fn to_ipv4(self, addr: SocketAddr) -> SocketAddr {
        match addr.ip() {
            IpAddr::V6(ip) => self.extract(ip).map_or(addr, |ip| SocketAddr::new(ip.into(), addr.port())),
            IpAddr::V4(_) => addr,
        }
    }
}

impl fmt::Display for Nat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.prefix, self.len)
    }
}

impl FromStr for Nat64Prefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Nat64Prefix, NotAPrefix> {
        let (prefix, len) = text.split_once('/').ok_or(NotAPrefix)?;
        let (prefix, len) = (prefix.parse().map_err(|_| NotAPrefix)?, len.parse().map_err(|_| NotAPrefix)?);
        Nat64Prefix::new(prefix, len)
    }
}

/// Which bytes the IPv4 address is in.
fn places(len: u8) -> impl Iterator<Item = usize> {
    (usize::from(len) / 8..16).filter(|place| *place != RESERVED).take(4)
}

fn within(ip: Ipv6Addr, len: u8) -> Ipv4Addr {
    let mut octets = [0; 4];
    for (octet, place) in octets.iter_mut().zip(places(len)) {
        *octet = ip.octets()[place];
    }
    octets.into()
}

/// The prefix before a well-known address, and which that is; none if it stands in several places, which tells nothing.
fn known_within(ip: Ipv6Addr) -> Option<(Nat64Prefix, Ipv4Addr)> {
    let mut found = LENGTHS.into_iter().filter_map(|len| {
        let known = within(ip, len);
        let prefix = Nat64Prefix::new(ip, len).ok()?;
        (WELL_KNOWN.contains(&known) && ip.octets()[RESERVED] == 0).then_some((prefix, known))
    });
    let first = found.next();
    first.filter(|_| found.next().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 6052, section 2.4.
    const OF_THE_RFC: [(&str, &str); 7] = [
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
        ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
    ];

    #[test]
    fn addresses_of_rfc_6052() {
        for (prefix, expected) in OF_THE_RFC {
            let prefix: Nat64Prefix = prefix.parse().unwrap();
            let ip = prefix.synthesize(Ipv4Addr::new(192, 0, 2, 33));
            assert_eq!(ip, expected.parse::<Ipv6Addr>().unwrap(), "{prefix}");
        }
    }

    #[test]
    fn what_is_no_prefix() {
        for text in ["64:ff9b::/95", "64:ff9b::", "2001:db8:0:0:ff00::/96", "nonsense/96", "::/129"] {
            assert_eq!(text.parse::<Nat64Prefix>(), Err(NotAPrefix), "{text}");
        }
    }

    #[test]
    fn a_prefix_is_found_by_the_well_known_addresses() {
        for (prefix, _) in OF_THE_RFC {
            let prefix: Nat64Prefix = prefix.parse().unwrap();
            let records = WELL_KNOWN.map(|ip| prefix.synthesize(ip));
            assert_eq!(Nat64Prefix::discover(&records), [prefix]);
            assert_eq!(Nat64Prefix::discover(&records[..1]), [prefix]);
        }
        assert_eq!(Nat64Prefix::discover(&["2001:db8::1".parse().unwrap()]), []);
    }

    #[test]
    fn an_address_in_two_places_tells_nothing() {
        let ambiguous: Ipv6Addr = "2001:db8:c000:aa::c000:aa".parse().unwrap();
        assert_eq!(Nat64Prefix::discover(&[ambiguous]), []);
        let other: Ipv6Addr = "64:ff9b::c000:aa".parse().unwrap();
        assert_eq!(Nat64Prefix::discover(&[ambiguous, other]), ["64:ff9b::/96".parse().unwrap()]);
    }

    proptest! {
        #[test]
        fn what_is_synthesized_is_extracted(prefix: u128, len in 0..LENGTHS.len(), ip: u32) {
            let prefix = Ipv6Addr::from(prefix & !(0xFF << 56));
            let prefix = Nat64Prefix::new(prefix, LENGTHS[len]).unwrap();
            prop_assert_eq!(prefix.extract(prefix.synthesize(ip.into())), Some(ip.into()));
            prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
        }
    }
}
