//! Which IPv6 addresses this machine has, and which of them servers and peers see.

use std::net::Ipv6Addr;

use serde::Serialize;
use thirl_common::net::HostIpv6;

/// How far an address is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ipv6Scope {
    /// Everywhere (2000::/3).
    Global,
    /// Within a network of one's own (RFC 4193).
    UniqueLocal,
    /// Somewhere else, such as on one link.
    Other,
}

impl Ipv6Scope {
    fn of(ip: Ipv6Addr) -> Ipv6Scope {
        match ip {
            _ if ip.segments()[0] & 0xE000 == 0x2000 => Ipv6Scope::Global,
            _ if ip.is_unique_local() => Ipv6Scope::UniqueLocal,
            _ => Ipv6Scope::Other,
        }
    }
}

/// An address of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ipv6Address {
    /// The address.
    pub ip: Ipv6Addr,
    /// Its interface.
    pub interface: String,
    /// How far it is good.
    pub scope: Ipv6Scope,
    /// For privacy, and replaced within days (RFC 8981).
    pub temporary: bool,
    /// Not for new sessions any more.
    pub deprecated: bool,
    /// Made from the hardware address (RFC 4291, appendix A), by which the machine is known again in every network.
    pub from_hardware: bool,
}

/// The addresses of this machine that others can see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ipv6AddressesReport {
    /// Those of wider scope than a link; `None` if the system does not tell.
    pub addresses: Option<Vec<Ipv6Address>>,
    /// The one that new sessions to the internet have; `None` if none leads there.
    pub used: Option<Ipv6Addr>,
    /// Whether that is a temporary address.
    pub used_is_temporary: Option<bool>,
    /// What that rests on.
    pub reason: String,
}

impl Ipv6AddressesReport {
    /// From what the system lists, or why it does not, and the address that it takes towards the internet.
    pub fn new(listed: Result<Vec<HostIpv6>, String>, used: Option<Ipv6Addr>) -> Ipv6AddressesReport {
        let (addresses, reason) = match listed {
            Ok(listed) => (Some(listed.into_iter().filter_map(Ipv6Address::new).collect::<Vec<_>>()), None),
            Err(reason) => (None, Some(reason)),
        };
        let reason = reason.unwrap_or_else(|| {
            let reason = match used {
                Some(_) => "as the system lists them, and as it would send",
                None => "no route leads from here to the IPv6 internet",
            };
            reason.to_owned()
        });
        let mut report = Ipv6AddressesReport { addresses, used, used_is_temporary: None, reason };
        report.used_is_temporary = report.used_address().map(|address| address.temporary);
        report
    }

    pub(super) fn used_address(&self) -> Option<&Ipv6Address> {
        self.addresses.iter().flatten().find(|address| Some(address.ip) == self.used)
    }
}

impl Ipv6Address {
    fn new(listed: HostIpv6) -> Option<Ipv6Address> {
        let HostIpv6 { ip, interface, temporary, deprecated, tentative } = listed;
        let scope = Ipv6Scope::of(ip);
        let from_hardware = has_hardware_address(ip);
        let seen = scope != Ipv6Scope::Other && !tentative;
        seen.then_some(Ipv6Address { ip, interface, scope, temporary, deprecated, from_hardware })
    }
}

/// A modified EUI-64 interface identifier of a 48-bit address (RFC 4291, appendix A): FFFE in its middle, and the
/// universal bit.
fn has_hardware_address(ip: Ipv6Addr) -> bool {
    let octets = ip.octets();
    octets[11..13] == [0xFF, 0xFE] && octets[8] & 0x02 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(ip: &str, temporary: bool, deprecated: bool) -> HostIpv6 {
        let interface = "eth0".to_owned();
        HostIpv6 { ip: ip.parse().unwrap(), interface, temporary, deprecated, tentative: false }
    }

    #[test]
    fn the_addresses_that_others_see() {
        let temporary = "2001:db8::1234:5678:9abc:def0";
        let host = vec![
            listed("fe80::1", false, false),
            listed("::1", false, false),
            listed("2001:db8::a:bff:fe0c:d0e", false, false),
            listed("2001:db8::20a:bff:fe0c:d0e", false, false),
            listed(temporary, true, false),
            listed("fd00::1", false, true),
        ];
        let report = Ipv6AddressesReport::new(Ok(host), temporary.parse().ok());
        let addresses = report.addresses.as_ref().unwrap();
        assert_eq!(
            addresses.iter().map(|a| a.from_hardware).collect::<Vec<_>>(),
            [false, true, false, false]
        );
        assert_eq!(addresses[3].scope, Ipv6Scope::UniqueLocal);
        assert!(addresses[3].deprecated);
        assert_eq!(report.used_is_temporary, Some(true));
        let unknown = Ipv6AddressesReport::new(Err("no list".to_owned()), temporary.parse().ok());
        assert_eq!((unknown.used_is_temporary, unknown.reason.as_str()), (None, "no list"));
    }
}
