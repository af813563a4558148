//! Rules about peers, as operators write them: `10.0.0.0/8`, `10.0.0.0/8:53`, `[2001:db8::/32]:1000-2000`.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use thirl_common::net::{IpRange, IpRangeError};

use super::port_set::ALL_PORTS;

/// Addresses, and which of their ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRule {
    /// The addresses.
    pub addresses: IpRange,
    /// The ports; [`ALL_PORTS`] where the text has none.
    pub ports: RangeInclusive<u16>,
}

/// The text is no rule: whoever wrote the configuration has to change it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRuleError {
    /// What stands before the ports.
    #[error(transparent)]
    Addresses(#[from] IpRangeError),
    /// What stands behind the colon.
    #[error("{0:?} is neither a port nor a range of ports such as 1000-2000")]
    NotPorts(String),
    /// A bracket without its other half, or something behind it that is no port.
    #[error("write addresses in brackets and then a colon and ports, as in [2001:db8::/32]:443")]
    Brackets,
}

impl FromStr for PeerRule {
    type Err = PeerRuleError;

    fn from_str(text: &str) -> Result<PeerRule, PeerRuleError> {
        let (addresses, ports) = match text.trim().strip_prefix('[') {
            Some(rest) => match rest.split_once(']').ok_or(PeerRuleError::Brackets)? {
                (addresses, "") => (addresses, None),
                (addresses, ports) => {
                    (addresses, Some(ports.strip_prefix(':').ok_or(PeerRuleError::Brackets)?))
                }
            },
            // An IPv6 address has two colons or more, and no ports without brackets.
            None => match text.split_once(':') {
                Some((addresses, ports)) if !ports.contains(':') => (addresses, Some(ports)),
                _ => (text, None),
            },
        };
        Ok(PeerRule { addresses: addresses.parse()?, ports: ports.map_or(Ok(ALL_PORTS), parse_ports)? })
    }
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, PeerRuleError> {
    let refused = || PeerRuleError::NotPorts(text.to_owned());
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(refused);
    let ports = port(first)?..=port(last)?;
    if ports.is_empty() { Err(refused()) } else { Ok(ports) }
}

impl From<IpAddr> for PeerRule {
    fn from(ip: IpAddr) -> PeerRule {
        PeerRule { addresses: ip.into(), ports: ALL_PORTS }
    }
}

impl fmt::Display for PeerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PeerRule { addresses, ports } = self;
        if *ports == ALL_PORTS {
            return addresses.fmt(f);
        }
        write!(f, "[{addresses}]:{}", ports.start())?;
        if ports.start() == ports.end() { Ok(()) } else { write!(f, "-{}", ports.end()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_ports() {
        for (text, addresses, ports) in [
            ("10.0.0.0/8", "10.0.0.0/8", ALL_PORTS),
            ("10.0.0.0/8:53", "10.0.0.0/8", 53..=53),
            ("192.0.2.1:1000-2000", "192.0.2.1", 1000..=2000),
            ("192.0.2.1-192.0.2.9:53", "192.0.2.1-192.0.2.9", 53..=53),
            ("[192.0.2.1]:53", "192.0.2.1", 53..=53),
            ("2001:db8::/32", "2001:db8::/32", ALL_PORTS),
            ("::1", "::1", ALL_PORTS),
            ("[2001:db8::/32]", "2001:db8::/32", ALL_PORTS),
            ("[2001:db8::/32]:443", "2001:db8::/32", 443..=443),
            ("[2001:db8::1-2001:db8::9]:1-65535", "2001:db8::1-2001:db8::9", ALL_PORTS),
        ] {
            let rule: PeerRule = text.parse().unwrap();
            assert_eq!(rule, PeerRule { addresses: addresses.parse().unwrap(), ports }, "{text}");
            assert_eq!(rule.to_string().parse(), Ok(rule), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let ports = |text: &str| PeerRuleError::NotPorts(text.to_owned());
        for (text, error) in [
            ("10.0.0.0/8:", ports("")),
            ("10.0.0.0/8:0", ports("0")),
            ("10.0.0.0/8:65536", ports("65536")),
            ("10.0.0.0/8:20-10", ports("20-10")),
            ("10.0.0.1:53-10.0.0.9", ports("53-10.0.0.9")),
            ("[::1]53", PeerRuleError::Brackets),
            ("[::1", PeerRuleError::Brackets),
            ("10.0.0.0/40:53", IpRangeError::NotAPrefixLength("40".into()).into()),
            ("turn.example.org:53", IpRangeError::NotAnAddress("turn.example.org".into()).into()),
        ] {
            assert_eq!(text.parse::<PeerRule>(), Err(error), "{text}");
        }
    }
}
