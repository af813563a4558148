//! What the network of a peer does, and the pairs of such networks.
//!
//! Both instruments build these to the letter. Where nothing else is said, a network has IPv4 only and TCP is let out;
//! a NAT maps TCP as it maps UDP and lets in a TCP segment only from an endpoint that the host has sent to (RFC 5382,
//! section 5, allows all three filters; this is the one that most have).
//!
//! The server stands in public with IPv4 and IPv6 and two addresses of each: STUN and TURN over UDP and TCP on port 3478, and
//! TURN over TLS on port 443.

use std::fmt;

use crate::behaviour::{Filtering, Mapping, combinations};

/// What the network of a peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Situation {
    /// A public IPv4 address and no filter.
    Public,
    /// One NAT: with endpoint-independent mapping it preserves ports, otherwise they are random.
    Nat(Mapping, Filtering),
    /// APDM/APDF with sequential ports, which nobody else uses.
    SymmetricSequential,
    /// An EIM/APDF home NAT behind an EIM/APDF carrier-grade NAT that serves no other peer; both preserve ports.
    CgnatOverNat,
    /// An EIM/APDF NAT that preserves ports and passes no UDP at all.
    UdpBlocked,
    /// An EIM/APDF NAT that passes nothing but TCP to port 443.
    Tcp443Only,
    /// Nothing is routed: an HTTP proxy in the LAN passes CONNECT to port 443, and nothing else.
    HttpProxyOnly,
    /// IPv6 behind a stateful firewall (APDF); IPv4 by a NAT64 whose mapping and filtering are EIM/APDF, with a prefix that
    /// the resolver tells (RFC 7050).
    Ipv6OnlyNat64,
    /// IPv6 behind a stateful firewall (APDF), no IPv4 and no NAT64.
    Ipv6Firewalled,
    /// An APDM/APDF NAT with random ports and one public address, whose gateway maps UDP and TCP ports on request by PCP,
    /// NAT-PMP and UPnP.
    MappedGateway,
}

impl Situation {
    /// All of them, in the order of the matrix.
    pub fn all() -> Vec<Self> {
        let nats = combinations().map(|(mapping, filtering)| Self::Nat(mapping, filtering));
        let others = [
            Self::SymmetricSequential,
            Self::CgnatOverNat,
            Self::UdpBlocked,
            Self::Tcp443Only,
            Self::HttpProxyOnly,
            Self::Ipv6OnlyNat64,
            Self::Ipv6Firewalled,
            Self::MappedGateway,
        ];
        [Self::Public].into_iter().chain(nats).chain(others).collect()
    }

    /// A short name for the matrix and for `--only`.
    pub fn name(self) -> String {
        match self {
            Self::Public => "public".into(),
            Self::Nat(mapping, filtering) => {
                format!("{}-{}", mapping.name(), filtering.name()).to_ascii_lowercase()
            }
            Self::SymmetricSequential => "sequential".into(),
            Self::CgnatOverNat => "cgnat".into(),
            Self::UdpBlocked => "no-udp".into(),
            Self::Tcp443Only => "tcp-443".into(),
            Self::HttpProxyOnly => "http-proxy".into(),
            Self::Ipv6OnlyNat64 => "nat64".into(),
            Self::Ipv6Firewalled => "ipv6".into(),
            Self::MappedGateway => "gateway".into(),
        }
    }

    /// The situation of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|situation| situation.name() == name)
    }

    /// One line for who reads the matrix.
    pub fn description(self) -> String {
        match self {
            Self::Public => "a public IPv4 address, no filter".into(),
            Self::Nat(mapping, filtering) => {
                let ports = match mapping {
                    Mapping::EndpointIndependent => "preserved",
                    Mapping::AddressDependent | Mapping::AddressAndPortDependent => "random",
                };
                format!("a NAT: {} mapping, {} filtering, {ports} ports", mapping.name(), filtering.name())
            }
            Self::SymmetricSequential => "a NAT: APDM mapping, APDF filtering, sequential ports".into(),
            Self::CgnatOverNat => "an EIM/APDF home NAT behind an EIM/APDF carrier-grade NAT".into(),
            Self::UdpBlocked => "an EIM/APDF NAT that passes no UDP".into(),
            Self::Tcp443Only => "a NAT that passes TCP to port 443 and nothing else".into(),
            Self::HttpProxyOnly => "nothing but an HTTP proxy that passes CONNECT to port 443".into(),
            Self::Ipv6OnlyNat64 => "IPv6 behind a stateful firewall, IPv4 by an EIM/APDF NAT64".into(),
            Self::Ipv6Firewalled => "IPv6 behind a stateful firewall, no IPv4".into(),
            Self::MappedGateway => {
                "an APDM/APDF NAT with random ports that opens ports by PCP and UPnP".into()
            }
        }
    }
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// A network that two peers are in together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared {
    /// One LAN behind one APDM/APDF NAT.
    SameLan,
    /// Two EIM/APDF home NATs behind one EIM/APDF carrier-grade NAT; all preserve ports.
    SameCgnat {
        /// Whether the carrier-grade NAT passes on what one home sends to the public address of another; it then comes from
        /// the sender's public address (RFC 4787, section 6).
        hairpin: bool,
    },
}

impl Shared {
    /// All of them.
    pub const ALL: [Self; 3] =
        [Self::SameLan, Self::SameCgnat { hairpin: true }, Self::SameCgnat { hairpin: false }];

    /// A short name for the matrix and for `--only`.
    pub fn name(self) -> &'static str {
        match self {
            Self::SameLan => "same-lan",
            Self::SameCgnat { hairpin: true } => "same-cgnat-hairpin",
            Self::SameCgnat { hairpin: false } => "same-cgnat",
        }
    }

    /// One line for who reads the matrix.
    pub fn description(self) -> &'static str {
        match self {
            Self::SameLan => "one LAN behind an APDM/APDF NAT",
            Self::SameCgnat { hairpin: true } => {
                "two EIM/APDF home NATs behind one EIM/APDF carrier-grade NAT that hairpins"
            }
            Self::SameCgnat { hairpin: false } => {
                "two EIM/APDF home NATs behind one EIM/APDF carrier-grade NAT that does not hairpin"
            }
        }
    }
}

/// Two peers: a cell of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pair {
    /// Each in a network of its own. The first is controlling.
    Apart(Situation, Situation),
    /// Both in one.
    Together(Shared),
}

impl Pair {
    /// All unordered pairs of situations, and the shared ones.
    pub fn all() -> Vec<Self> {
        let situations = Situation::all();
        let apart = situations
            .iter()
            .enumerate()
            .flat_map(|(n, a)| situations[n..].iter().map(move |b| Self::Apart(*a, *b)));
        apart.chain(Shared::ALL.map(Self::Together)).collect()
    }

    /// The pair of this name: that of a [`Shared`] network, or those of two situations with a comma between them, in any order.
    pub fn named(name: &str) -> Option<Self> {
        let Some((a, b)) = name.split_once(',') else {
            return Shared::ALL.into_iter().find(|shared| shared.name() == name).map(Self::Together);
        };
        let (a, b) = (Situation::named(a.trim())?, Situation::named(b.trim())?);
        Some(Self::Apart(a.min(b), a.max(b)))
    }

    /// The same with the ends exchanged.
    #[must_use]
    pub fn swapped(self) -> Self {
        match self {
            Self::Apart(a, b) => Self::Apart(b, a),
            Self::Together(shared) => Self::Together(shared),
        }
    }

    /// Whether one of the two, or what they share, has this name.
    pub fn involves(self, name: &str) -> bool {
        match self {
            Self::Apart(a, b) => a.name() == name || b.name() == name,
            Self::Together(shared) => shared.name() == name,
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apart(a, b) => write!(f, "{a},{b}"),
            Self::Together(shared) => f.write_str(shared.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_pair_is_there_once_and_found_by_its_name() {
        let (situations, pairs) = (Situation::all(), Pair::all());
        assert_eq!(situations.len(), 18);
        assert_eq!(pairs.len(), 18 * 19 / 2 + 3);
        assert_eq!(pairs.iter().collect::<BTreeSet<_>>().len(), pairs.len());
        for pair in pairs {
            assert_eq!(Pair::named(&pair.to_string()), Some(pair), "{pair}");
        }
        assert_eq!(
            Pair::named("gateway, public"),
            Some(Pair::Apart(Situation::Public, Situation::MappedGateway))
        );
    }
}
