//! The expectation of each pair of the matrix by rules of thumb, from what the situations are said to be.
//!
//! 1. Over IPv6, two stateful firewalls are punched from both sides.
//! 2. Over UDP and IPv4, two endpoint-independent mappings are punched whatever the filters are. Where one side's mapping
//!    depends on the destination, its port towards the peer is unknown: the peer's filter has to let in any port of an
//!    address that it has sent to; or its own lets in anybody on the port that a server has seen, through which the answers
//!    leave too. Else the port has to be predicted, or met by chance: of the side whose mapping depends on the destination. If
//!    both do, of one that lets in any port of the other.
//! 3. A port that a gateway opens is a port without a filter.
//! 4. Over TCP and IPv4, both sides connect at once from the ports that a server has seen; these are of use where the mapping
//!    is endpoint-independent.

use super::{Expectation, Pair, Shared, Situation};
use crate::behaviour::{Filtering, Mapping};

/// The way out of a situation over IPv4.
#[derive(Clone, Copy)]
struct Way {
    mapping: Mapping,
    filtering: Filtering,
    sequential: bool,
    /// A gateway opens ports.
    mapped: bool,
    udp: bool,
    /// To any port; incoming connections as far as the filters allow.
    tcp: bool,
}

impl Expectation {
    /// The best path that can exist between the peers of a pair.
    pub fn of(pair: Pair) -> Self {
        match pair {
            Pair::Together(Shared::SameCgnat { hairpin: false }) => Self::Relayed,
            Pair::Together(_) => Self::Punch,
            Pair::Apart(a, b) if has_ipv6(a) && has_ipv6(b) => Self::Punch,
            Pair::Apart(a, b) => match (ipv4(a), ipv4(b)) {
                (Some(a), Some(b)) if a.udp && b.udp => over_udp(a, b),
                (Some(a), Some(b)) if a.tcp && b.tcp => over_tcp(a, b),
                _ => Self::Relayed,
            },
        }
    }
}

fn has_ipv6(situation: Situation) -> bool {
    matches!(situation, Situation::Ipv6Firewalled | Situation::Ipv6OnlyNat64)
}

fn ipv4(situation: Situation) -> Option<Way> {
    let home = Way {
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::AddressAndPortDependent,
        sequential: false,
        mapped: false,
        udp: true,
        tcp: true,
    };
    let symmetric = Way { mapping: Mapping::AddressAndPortDependent, ..home };
    match situation {
        Situation::Public => Some(Way { filtering: Filtering::EndpointIndependent, ..home }),
        Situation::Nat(mapping, filtering) => Some(Way { mapping, filtering, ..home }),
        Situation::SymmetricSequential => Some(Way { sequential: true, ..symmetric }),
        Situation::MappedGateway => Some(Way { mapped: true, ..symmetric }),
        Situation::CgnatOverNat | Situation::Ipv6OnlyNat64 => Some(home),
        Situation::UdpBlocked => Some(Way { udp: false, ..home }),
        Situation::Tcp443Only | Situation::HttpProxyOnly => Some(Way { udp: false, tcp: false, ..home }),
        Situation::Ipv6Firewalled => None,
    }
}

fn over_udp(a: Way, b: Way) -> Expectation {
    let hard = |way: Way| way.mapping != Mapping::EndpointIndependent;
    let lets_in = |way: Way, filtering: Filtering| way.filtering == filtering;
    let open = lets_in(a, Filtering::EndpointIndependent) || lets_in(b, Filtering::EndpointIndependent);
    let one_hard = |hard_side: Way, other: Way| {
        hard(hard_side) && !hard(other) && lets_in(other, Filtering::AddressDependent)
    };
    if open || !hard(a) && !hard(b) || one_hard(a, b) || one_hard(b, a) {
        return Expectation::Punch;
    }
    if a.mapped || b.mapped {
        return Expectation::Mapping;
    }
    let known = |way: Way| !hard(way) || way.sequential;
    match (known(a), known(b)) {
        (true, true) => Expectation::Prediction,
        // What comes from just any port has to be let in by the side whose ports are probed.
        _ if hard(a) && hard(b) && ![a, b].iter().any(|way| lets_in(*way, Filtering::AddressDependent)) => {
            Expectation::Relayed
        }
        _ => Expectation::Birthday,
    }
}

fn over_tcp(a: Way, b: Way) -> Expectation {
    if a.mapped || b.mapped {
        return Expectation::Mapping;
    }
    match [a, b].iter().all(|way| way.mapping == Mapping::EndpointIndependent) {
        true => Expectation::Tcp,
        false => Expectation::Relayed,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn well_known_pairs() {
        for (pair, expected) in [
            ("public,apdm-apdf", Expectation::Punch),
            ("eim-apdf,eim-apdf", Expectation::Punch),
            ("eim-adf,apdm-apdf", Expectation::Punch),
            ("eim-apdf,apdm-apdf", Expectation::Birthday),
            ("eim-apdf,sequential", Expectation::Prediction),
            ("sequential,sequential", Expectation::Prediction),
            ("apdm-apdf,sequential", Expectation::Relayed),
            ("apdm-apdf,apdm-apdf", Expectation::Relayed),
            ("apdm-adf,apdm-apdf", Expectation::Birthday),
            ("adm-adf,sequential", Expectation::Birthday),
            ("adm-apdf,apdm-apdf", Expectation::Relayed),
            ("apdm-apdf,gateway", Expectation::Mapping),
            ("public,no-udp", Expectation::Tcp),
            ("no-udp,no-udp", Expectation::Tcp),
            ("no-udp,apdm-apdf", Expectation::Relayed),
            ("public,tcp-443", Expectation::Relayed),
            ("public,ipv6", Expectation::Relayed),
            ("nat64,ipv6", Expectation::Punch),
            ("nat64,eim-apdf", Expectation::Punch),
            ("same-lan", Expectation::Punch),
            ("same-cgnat", Expectation::Relayed),
        ] {
            assert_eq!(Pair::named(pair).map(Expectation::of), Some(expected), "{pair}");
        }
        let mut counts = BTreeMap::new();
        Pair::all().into_iter().for_each(|pair| *counts.entry(Expectation::of(pair)).or_insert(0) += 1);
        assert_eq!(counts.values().sum::<u32>(), 174);
        assert!(!counts.contains_key(&Expectation::Nothing), "each lets something out: {counts:?}");
    }
}
