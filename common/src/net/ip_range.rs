//! Ranges of IP addresses, as operators write them: `10.0.0.0/8`, `192.0.2.1-192.0.2.9`, `2001:db8::1`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The addresses from `first` to `last`, both included, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpRange {
    first: IpAddr,
    last: IpAddr,
}

/// The text is no range of addresses: whoever wrote the configuration has to change it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IpRangeError {
    /// No address where one should be.
    #[error("{0:?} is not an IP address; write 192.0.2.1, 192.0.2.0/24 or 192.0.2.1-192.0.2.9")]
    NotAnAddress(String),
    /// The number behind the slash.
    #[error("{0:?} is not a prefix length of this family (0 to 32 for IPv4, 0 to 128 for IPv6)")]
    NotAPrefixLength(String),
    /// One end is IPv4, the other IPv6.
    #[error("both ends of a range must be of one address family")]
    MixedFamilies,
    /// The first address is after the last.
    #[error("the range ends before it begins")]
    Reversed,
}

impl IpRange {
    /// The range between two addresses, both included.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<IpRange, IpRangeError> {
        match (first, last) {
            _ if first.is_ipv4() != last.is_ipv4() => Err(IpRangeError::MixedFamilies),
            _ if first > last => Err(IpRangeError::Reversed),
            _ => Ok(IpRange { first, last }),
        }
    }

    /// The addresses that share their first `prefix_len` bits with `ip`.
    pub fn prefix(ip: IpAddr, prefix_len: u8) -> Result<IpRange, IpRangeError> {
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        if u32::from(prefix_len) > bits {
            return Err(IpRangeError::NotAPrefixLength(prefix_len.to_string()));
        }
        let host = u128::MAX.checked_shr(128 - bits + u32::from(prefix_len)).unwrap_or(0);
        let number = number(ip);
        Ok(IpRange {
            first: address(number & !host, ip.is_ipv4()),
            last: address(number | host, ip.is_ipv4()),
        })
    }

    /// One IPv4 prefix of a table in the code, whose length fits: 0 to 32.
    pub const fn v4(octets: [u8; 4], prefix_len: u32) -> IpRange {
        let host = if prefix_len == 0 { u32::MAX } else { (1u32 << (32 - prefix_len)) - 1 };
        let first = u32::from_be_bytes(octets);
        IpRange {
            first: IpAddr::V4(Ipv4Addr::from_bits(first)),
            last: IpAddr::V4(Ipv4Addr::from_bits(first | host)),
        }
    }

    /// One IPv6 prefix of a table in the code, whose length fits: 0 to 128.
    pub const fn v6(segments: [u16; 8], prefix_len: u32) -> IpRange {
        let [a, b, c, d, e, f, g, h] = segments;
        let first = Ipv6Addr::new(a, b, c, d, e, f, g, h);
        let host = if prefix_len == 0 { u128::MAX } else { (1u128 << (128 - prefix_len)) - 1 };
        IpRange { first: IpAddr::V6(first), last: IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() | host)) }
    }

    /// Whether the address is in the range. An IPv4-mapped address is an IPv6 one here.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&ip)
    }

    /// Whether an address is in both.
    pub fn overlaps(&self, other: &IpRange) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// How many addresses there are besides the first: the smaller, the more specific.
    pub fn width(&self) -> u128 {
        number(self.last) - number(self.first)
    }
}

impl FromStr for IpRange {
    type Err = IpRangeError;

    fn from_str(text: &str) -> Result<IpRange, IpRangeError> {
        let ip = |text: &str| {
            text.trim().parse::<IpAddr>().map_err(|_| IpRangeError::NotAnAddress(text.trim().to_owned()))
        };
        if let Some((base, len)) = text.split_once('/') {
            let base = ip(base)?;
            let len = len.trim();
            let len = len.parse().map_err(|_| IpRangeError::NotAPrefixLength(len.to_owned()))?;
            return IpRange::prefix(base, len);
        }
        match text.split_once('-') {
            Some((first, last)) => IpRange::new(ip(first)?, ip(last)?),
            None => ip(text).map(|ip| IpRange { first: ip, last: ip }),
        }
    }
}

impl From<IpAddr> for IpRange {
    fn from(ip: IpAddr) -> IpRange {
        IpRange { first: ip, last: ip }
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn address(number: u128, ipv4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if ipv4 => Ipv4Addr::from_bits(number).into(),
        _ => Ipv6Addr::from_bits(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> IpRange {
        text.parse().unwrap()
    }

    #[test]
    fn every_way_to_write_a_range() {
        for (text, inside, outside) in [
            ("192.0.2.1", &["192.0.2.1"][..], &["192.0.2.2", "::ffff:192.0.2.1"][..]),
            ("10.0.0.0/8", &["10.0.0.0", "10.255.255.255"], &["9.255.255.255", "11.0.0.0"]),
            ("10.1.2.3/8", &["10.0.0.0"], &["11.0.0.0"]),
            ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255"], &["::1"]),
            ("192.0.2.7 - 192.0.2.9", &["192.0.2.7", "192.0.2.9"], &["192.0.2.6", "192.0.2.10"]),
            ("fc00::/7", &["fc00::", "fdff::1"], &["fe00::", "10.0.0.1"]),
            ("::/0", &["::", "ffff::"], &["1.2.3.4"]),
            ("::1/128", &["::1"], &["::2"]),
        ] {
            for ip in inside {
                assert!(range(text).contains(ip.parse().unwrap()), "{text} holds {ip}");
            }
            for ip in outside {
                assert!(!range(text).contains(ip.parse().unwrap()), "{text} does not hold {ip}");
            }
        }
        for (one, other, overlap) in [
            ("10.0.0.0/8", "10.255.0.0/16", true),
            ("10.0.0.0/8", "9.0.0.0-10.0.0.0", true),
            ("10.0.0.0/8", "11.0.0.0/8", false),
            ("0.0.0.0/0", "::/0", false),
        ] {
            assert_eq!(range(one).overlaps(&range(other)), overlap, "{one} {other}");
            assert_eq!(range(other).overlaps(&range(one)), overlap, "{other} {one}");
        }
        assert_eq!(range("10.0.0.0/8").width(), (1 << 24) - 1);
        assert_eq!(range("10.0.0.0/8").to_string(), "10.0.0.0-10.255.255.255");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, error) in [
            ("", IpRangeError::NotAnAddress(String::new())),
            ("example.org", IpRangeError::NotAnAddress("example.org".into())),
            ("10.0.0.0/33", IpRangeError::NotAPrefixLength("33".into())),
            ("10.0.0.0/x", IpRangeError::NotAPrefixLength("x".into())),
            ("10.0.0.1-::1", IpRangeError::MixedFamilies),
            ("10.0.0.2-10.0.0.1", IpRangeError::Reversed),
        ] {
            assert_eq!(text.parse::<IpRange>(), Err(error), "{text}");
        }
    }

    #[test]
    fn constants_are_what_the_text_says() {
        assert_eq!(IpRange::v4([172, 16, 0, 0], 12), range("172.16.0.0/12"));
        assert_eq!(IpRange::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), range("fe80::/10"));
    }
}
