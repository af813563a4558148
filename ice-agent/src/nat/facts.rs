//! What one side of a pair tells the other of its network: what decides how the two are connected, and no more.
//!
//! A verdict about a pair needs what both sides measured. It must not be taken for more than it is: the other side says
//! it, so everything is bounded and checked ([`Facts::check`]), there is no text in it, and nothing is sent anywhere
//! because of it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::behaviour::{Filtering, Mapping, PortAllocation};
use super::findings::{Answer, Scope, beyond_all_nats};
use super::report::{Report, TcpReport, UdpReport};

/// The version of [`Facts`]. Within it fields are added, and readers skip what they do not know.
pub const VERSION: u32 = 1;

/// Nobody sits behind more NATs.
const MAX_LAYERS: u8 = 16;

/// What decides how a host is connected with another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// [`VERSION`].
    pub version: u32,
    /// Whether this side uses relays only, and so hides its addresses here as well.
    #[serde(default)]
    pub relay_only: bool,
    /// IPv4; `None` if this side has none.
    #[serde(default)]
    pub ipv4: Option<FamilyFacts>,
    /// IPv6; `None` if this side has none.
    #[serde(default)]
    pub ipv6: Option<FamilyFacts>,
}

/// What is known of one address family. `None` could not be told; what a behaviour can be is told as a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyFacts {
    /// Whether UDP comes back: `Some(false)` if servers were asked and none answered.
    #[serde(default)]
    pub udp: Option<bool>,
    /// Whether TCP gets out to a server.
    #[serde(default)]
    pub tcp: Option<bool>,
    /// Whether there is address translation.
    #[serde(default)]
    pub translated: Option<bool>,
    /// What the mapping behaviour can be: one to three, the kindest first.
    pub mapping: Vec<Mapping>,
    /// What the filtering behaviour can be: one to three, the kindest first.
    pub filtering: Vec<Filtering>,
    /// How ports are chosen.
    #[serde(default)]
    pub ports: Option<PortAllocation>,
    /// So many NATs, or more.
    #[serde(default)]
    pub layers: Option<u8>,
    /// Whether one of them is the provider's (CGNAT).
    #[serde(default)]
    pub carrier_grade: Option<bool>,
    /// Whether the NAT turns packets for its own external address around, and the receiver sees the sender's external
    /// address.
    #[serde(default)]
    pub hairpin: Option<bool>,
    /// The address that the internet sees. A candidate of ICE tells the same.
    #[serde(default)]
    pub external: Option<IpAddr>,
    /// This host's own address and its network. A candidate of ICE tells the same.
    #[serde(default)]
    pub network: Option<HostNetwork>,
}

/// An address of a host, and how much of it names its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostNetwork {
    /// The address.
    pub ip: IpAddr,
    /// The length of the network's prefix in bits.
    pub prefix: u8,
}

/// Facts that cannot be: the fault is with whoever sent them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidFacts {
    /// Of another version.
    #[error("facts of version {found}, this build knows {VERSION}: update the older of the two sides")]
    Version {
        /// The version they state.
        found: u32,
    },
    /// A field that cannot be so.
    #[error("the other side's {field} cannot be")]
    Field {
        /// Which.
        field: &'static str,
    },
}

impl Facts {
    /// What `report` found on a host with these addresses.
    pub fn new(report: &Report, networks: &[HostNetwork]) -> Facts {
        let family = |ipv4, udp, tcp| FamilyFacts::new(ipv4, udp, tcp, networks);
        Facts {
            version: VERSION,
            relay_only: false,
            ipv4: family(true, &report.udp.ipv4, &report.tcp.ipv4),
            ipv6: family(false, &report.udp.ipv6, &report.tcp.ipv6),
        }
    }

    /// The same for a side that uses relays only: without its addresses.
    #[must_use]
    pub fn relay_only(mut self) -> Facts {
        self.relay_only = true;
        for family in [&mut self.ipv4, &mut self.ipv6].into_iter().flatten() {
            family.external = None;
            family.network = None;
        }
        self
    }

    /// Whether they can be: to be asked of everything that comes from elsewhere.
    pub fn check(&self) -> Result<(), InvalidFacts> {
        if self.version != VERSION {
            return Err(InvalidFacts::Version { found: self.version });
        }
        self.ipv4.iter().try_for_each(|facts| facts.check(true))?;
        self.ipv6.iter().try_for_each(|facts| facts.check(false))
    }
}

impl FamilyFacts {
    fn new(ipv4: bool, udp: &UdpReport, tcp: &TcpReport, networks: &[HostNetwork]) -> Option<FamilyFacts> {
        let local = udp.local.or(tcp.local).map(|local| local.ip());
        let network = match local {
            Some(ip) => networks.iter().find(|network| network.ip == ip),
            None => {
                let of_family = networks.iter().filter(|network| network.ip.is_ipv4() == ipv4);
                of_family.max_by_key(|network| Scope::of(network.ip))
            }
        };
        local.or(network.map(|network| network.ip))?;
        let hairpin = udp.hairpin.as_ref().and_then(|hairpin| match (hairpin.works, hairpin.from_external) {
            (Some(true), from_external) => from_external,
            (works, _) => works,
        });
        Some(FamilyFacts {
            udp: if udp.reachable { Some(true) } else { udp.is_blocked().then_some(false) },
            tcp: tcp.local.map(|_| tcp.reachable),
            translated: udp.translated,
            mapping: udp.possible_mappings(),
            filtering: udp.possible_filterings(),
            ports: udp.allocation.as_ref().and_then(|allocation| allocation.ports),
            layers: udp
                .layers
                .at_least
                .map(|layers| u8::try_from(layers).map_or(MAX_LAYERS, |n| n.min(MAX_LAYERS))),
            carrier_grade: udp.layers.carrier_grade,
            hairpin,
            external: outermost(&udp.answers).or(outermost(&tcp.answers)),
            network: network.copied(),
        })
    }

    fn check(&self, ipv4: bool) -> Result<(), InvalidFacts> {
        let field = |field, good: bool| if good { Ok(()) } else { Err(InvalidFacts::Field { field }) };
        field("mapping", is_set(&self.mapping))?;
        field("filtering", is_set(&self.filtering))?;
        field("layers", self.layers.is_none_or(|layers| layers <= MAX_LAYERS))?;
        let is_host = |ip: IpAddr| ip.is_ipv4() == ipv4 && !ip.is_unspecified() && !ip.is_multicast();
        field("external address", self.external.is_none_or(is_host))?;
        let bits = if ipv4 { 32 } else { 128 };
        field("network", self.network.is_none_or(|network| is_host(network.ip) && network.prefix <= bits))
    }
}

impl HostNetwork {
    /// Whether another host's address is in the same network, as far as addresses tell.
    pub fn is_with(&self, other: &HostNetwork) -> bool {
        self.prefix == other.prefix
            && self.prefix > 0
            && self.masked().is_some_and(|masked| Some(masked) == other.masked())
    }

    fn masked(&self) -> Option<IpAddr> {
        Some(match self.ip {
            IpAddr::V4(ip) => {
                let host = 32_u32.checked_sub(self.prefix.into())?;
                IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(host).unwrap_or(0)).into())
            }
            IpAddr::V6(ip) => {
                let host = 128_u32.checked_sub(self.prefix.into())?;
                IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(host).unwrap_or(0)).into())
            }
        })
    }
}

impl UdpReport {
    /// What the mapping can be by what is known: at least one. Without address translation it is endpoint-independent.
    pub(super) fn possible_mappings(&self) -> Vec<Mapping> {
        let fits =
            |mapping: &Mapping| match (self.translated, self.mapping, self.mapping_depends_on_destination) {
                (Some(false), ..) => *mapping == Mapping::EndpointIndependent,
                (_, Some(known), _) => *mapping == known,
                (_, None, Some(depends)) => mapping.depends_on_destination() == depends,
                // Two ports of one server that see the same address leave open only whether its IP address counts.
                (_, None, None) => {
                    *mapping != Mapping::AddressAndPortDependent || !two_ports_agree(&self.answers)
                }
            };
        Mapping::ALL.into_iter().filter(fits).collect()
    }

    /// What the filtering can be by what is known: at least one.
    pub(super) fn possible_filterings(&self) -> Vec<Filtering> {
        Filtering::ALL.into_iter().filter(|fits| self.filtering.is_none_or(|known| *fits == known)).collect()
    }
}

fn two_ports_agree(answers: &[Answer]) -> bool {
    let answers = beyond_all_nats(answers);
    answers.iter().enumerate().any(|(n, one)| {
        let same = |other: &Answer| {
            one.server.ip() == other.server.ip()
                && one.server != other.server
                && one.reflexive == other.reflexive
        };
        answers[n + 1..].iter().any(same)
    })
}

fn outermost(answers: &[Answer]) -> Option<IpAddr> {
    beyond_all_nats(answers).first().map(|answer| answer.reflexive.ip())
}

fn is_set<T: Ord>(values: &[T]) -> bool {
    !values.is_empty() && values.is_sorted_by(|a, b| a < b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::FamilyReport;
    use proptest::prelude::*;

    fn answer(server: &str, reflexive: &str) -> Answer {
        Answer { server: server.parse().unwrap(), reflexive: reflexive.parse().unwrap(), rtt_ms: None }
    }

    fn network(ip: &str, prefix: u8) -> HostNetwork {
        HostNetwork { ip: ip.parse().unwrap(), prefix }
    }

    fn report(answers: &[Answer]) -> Report {
        let mut ipv4 = FamilyReport::unavailable("a test");
        ipv4.udp.local = Some("192.168.1.2:5000".parse().unwrap());
        ipv4.udp.reachable = !answers.is_empty();
        ipv4.udp.answers = answers.to_vec();
        ipv4.udp.translated = Some(true);
        Report::new(ipv4, FamilyReport::unavailable("a test"))
    }

    #[test]
    fn what_could_not_be_told_stays_open() {
        use Mapping::{AddressAndPortDependent as APDM, AddressDependent as ADM, EndpointIndependent as EIM};
        let (one, same) = (answer("9.9.9.9:3478", "5.5.5.5:1"), answer("9.9.9.9:3480", "5.5.5.5:1"));
        let networks = [network("192.168.1.2", 24), network("10.8.0.2", 16)];
        let mapping = |answers: &[Answer]| Facts::new(&report(answers), &networks).ipv4.unwrap().mapping;
        assert_eq!(mapping(&[one]), [EIM, ADM, APDM]);
        assert_eq!(mapping(&[one, same]), [EIM, ADM], "one server on two ports");
        let mut known = report(&[one, same]);
        known.udp.ipv4.mapping_depends_on_destination = Some(true);
        assert_eq!(Facts::new(&known, &networks).ipv4.unwrap().mapping, [ADM, APDM]);
        known.udp.ipv4.translated = Some(false);
        assert_eq!(Facts::new(&known, &networks).ipv4.unwrap().mapping, [EIM]);
    }

    #[test]
    fn a_family_is_told_if_the_host_has_it_and_addresses_only_if_they_are_not_hidden() {
        let networks = [network("192.168.1.2", 24), network("fd00::1", 64), network("2001:db8::1", 64)];
        let facts = Facts::new(&report(&[answer("9.9.9.9:3478", "5.5.5.5:1")]), &networks);
        facts.check().unwrap();
        let (ipv4, ipv6) = (facts.ipv4.as_ref().unwrap(), facts.ipv6.as_ref().unwrap());
        assert_eq!((ipv4.external, ipv4.network), (Some("5.5.5.5".parse().unwrap()), Some(networks[0])));
        assert_eq!(
            (ipv6.udp, ipv6.network),
            (None, Some(networks[2])),
            "not measured, and the widest address"
        );
        let hidden = serde_json::to_string(&facts.relay_only()).unwrap();
        assert!(!hidden.contains("5.5.5.5") && !hidden.contains("192.168"), "{hidden}");
        assert_eq!(Facts::new(&report(&[]), &networks[..1]).ipv6, None);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let good = Facts::new(&report(&[answer("9.9.9.9:3478", "5.5.5.5:1")]), &[network("192.168.1.2", 24)]);
        let refused = |change: fn(&mut FamilyFacts)| {
            let mut facts = good.clone();
            change(facts.ipv4.as_mut().unwrap());
            match facts.check() {
                Err(InvalidFacts::Field { field }) => field,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused(|facts| facts.mapping.clear()), "mapping");
        assert_eq!(refused(|facts| facts.mapping.push(Mapping::EndpointIndependent)), "mapping");
        assert_eq!(refused(|facts| facts.filtering.reverse()), "filtering");
        assert_eq!(refused(|facts| facts.layers = Some(17)), "layers");
        assert_eq!(refused(|facts| facts.external = Some("::1".parse().unwrap())), "external address");
        assert_eq!(refused(|facts| facts.network = Some(network("10.0.0.1", 33))), "network");
        assert_eq!(Facts { version: 2, ..good }.check(), Err(InvalidFacts::Version { found: 2 }));
    }

    #[test]
    fn networks() {
        for (one, other, same) in [
            (network("192.168.1.2", 24), network("192.168.1.200", 24), true),
            (network("192.168.1.2", 24), network("192.168.2.2", 24), false),
            (network("192.168.1.2", 24), network("192.168.1.3", 25), false),
            (network("10.0.0.1", 32), network("10.0.0.2", 32), false),
            (network("10.0.0.1", 0), network("11.0.0.1", 0), false),
            (network("2001:db8::1", 64), network("2001:db8::2", 64), true),
            (network("2001:db8::1", 64), network("2001:db8:0:1::2", 64), false),
            (network("10.0.0.1", 200), network("10.0.0.1", 200), false),
        ] {
            assert_eq!(one.is_with(&other), same, "{one:?} {other:?}");
        }
    }

    proptest! {
        #[test]
        fn networks_never_panic(a: [u8; 16], b: [u8; 4], prefix: u8) {
            let (a, b) = (HostNetwork { ip: a.into(), prefix }, HostNetwork { ip: b.into(), prefix });
            prop_assert!(!a.is_with(&b) || a.masked() == b.masked());
        }
    }
}
