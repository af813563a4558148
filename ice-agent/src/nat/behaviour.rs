//! What NATs do, in the terms of RFC 4787, and which pairs of them leave a direct path.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Mapping behaviour (RFC 4787, section 4.1): what the external port depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mapping {
    /// Endpoint-independent: one external port whatever the destination ("cone").
    #[serde(rename = "EIM")]
    EndpointIndependent,
    /// Address-dependent: another external port for each destination address.
    #[serde(rename = "ADM")]
    AddressDependent,
    /// Address- and port-dependent: another external port for each destination ("symmetric").
    #[serde(rename = "APDM")]
    AddressAndPortDependent,
}

impl Mapping {
    /// All of them, the kindest first.
    pub const ALL: [Mapping; 3] =
        [Mapping::EndpointIndependent, Mapping::AddressDependent, Mapping::AddressAndPortDependent];

    /// Whether the external port depends on the destination, which makes a direct path hard to find.
    pub fn depends_on_destination(self) -> bool {
        self != Mapping::EndpointIndependent
    }

    /// EIM, ADM or APDM.
    pub fn name(self) -> &'static str {
        match self {
            Mapping::EndpointIndependent => "EIM",
            Mapping::AddressDependent => "ADM",
            Mapping::AddressAndPortDependent => "APDM",
        }
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mapping::EndpointIndependent => "endpoint-independent (EIM)",
            Mapping::AddressDependent => "address-dependent (ADM)",
            Mapping::AddressAndPortDependent => "address- and port-dependent (APDM)",
        })
    }
}

/// Filtering behaviour (RFC 4787, section 5): whose packets come in through a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Filtering {
    /// Endpoint-independent: everyone's.
    #[serde(rename = "EIF")]
    EndpointIndependent,
    /// Address-dependent: those from any port of an address that was sent to.
    #[serde(rename = "ADF")]
    AddressDependent,
    /// Address- and port-dependent: those from an address and port that was sent to.
    #[serde(rename = "APDF")]
    AddressAndPortDependent,
}

impl Filtering {
    /// All of them, the kindest first.
    pub const ALL: [Filtering; 3] =
        [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];

    /// EIF, ADF or APDF.
    pub fn name(self) -> &'static str {
        match self {
            Filtering::EndpointIndependent => "EIF",
            Filtering::AddressDependent => "ADF",
            Filtering::AddressAndPortDependent => "APDF",
        }
    }
}

impl fmt::Display for Filtering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Filtering::EndpointIndependent => "endpoint-independent (EIF)",
            Filtering::AddressDependent => "address-dependent (ADF)",
            Filtering::AddressAndPortDependent => "address- and port-dependent (APDF)",
        })
    }
}

/// The name that RFC 3489 (section 5) had for such a NAT. It had none for the other combinations.
pub fn classic_name(mapping: Mapping, filtering: Filtering) -> Option<&'static str> {
    match (mapping, filtering) {
        (Mapping::EndpointIndependent, Filtering::EndpointIndependent) => Some("full cone"),
        (Mapping::EndpointIndependent, Filtering::AddressDependent) => Some("restricted cone"),
        (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent) => Some("port restricted cone"),
        // There, only hosts that were sent to answer through a symmetric NAT.
        (Mapping::AddressAndPortDependent, Filtering::EndpointIndependent) => None,
        (Mapping::AddressAndPortDependent, _) => Some("symmetric"),
        (Mapping::AddressDependent, _) => None,
    }
}

/// How a new mapping gets its port (RFC 4787, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortAllocation {
    /// The internal port, while it is free.
    Preserving,
    /// The last one and a step.
    Sequential,
    /// Any.
    Random,
}

impl fmt::Display for PortAllocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PortAllocation::Preserving => "preserving",
            PortAllocation::Sequential => "sequential",
            PortAllocation::Random => "random",
        })
    }
}

/// Which external address a new mapping gets, where there are several (RFC 4787, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// Always the same one for this host.
    Paired,
    /// Any of the pool.
    Arbitrary,
}

/// How well a result is founded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// It rests on silence on a line that loses packets.
    Low,
    /// It rests on a single observation, or on silence that was asked for often enough.
    Medium,
    /// It rests on answers that did come, or several servers agree.
    High,
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Confidence::Low => "low",
            Confidence::Medium => "medium",
            Confidence::High => "high",
        })
    }
}

/// Whether ICE finds a direct path between hosts behind these two NATs, each telling the other its reflexive address.
///
/// It takes a packet that comes in where the other side told (RFC 5128, section 3.3). Its answer leaves by the same port: NATs
/// keep track of who has begun.
/// Without address translation the mapping is endpoint-independent.
///
/// ```
/// use thirl_ice_agent::nat::{Filtering, Mapping, direct_path};
///
/// let home = (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent);
/// let symmetric = (Mapping::AddressAndPortDependent, Filtering::AddressAndPortDependent);
/// assert!(direct_path(home, home));
/// assert!(!direct_path(home, symmetric));
/// ```
pub fn direct_path(one: (Mapping, Filtering), other: (Mapping, Filtering)) -> bool {
    comes_in(one, other) || comes_in(other, one)
}

/// How two agents of this project find a direct path between two NATs where standard ICE finds none: `docs/hard-nats.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Search {
    /// By the next ports of a sequence.
    Prediction,
    /// By very many ports on one side, of which the other hits one.
    Birthday,
}

/// What is left where [`direct_path`] says no, if anything. The ports are those that the NAT gives to new mappings, if that is
/// known.
pub fn search(
    one: (Mapping, Filtering, Option<PortAllocation>),
    other: (Mapping, Filtering, Option<PortAllocation>),
) -> Option<Search> {
    let sequential = |side: (_, _, Option<PortAllocation>)| side.2 == Some(PortAllocation::Sequential);
    let met = |side| Some(if sequential(side) { Search::Prediction } else { Search::Birthday });
    match [one, other].map(|side| side.0.depends_on_destination()) {
        [true, true] if sequential(one) && sequential(other) => Some(Search::Prediction),
        // The many ports are on the side that lets in whatever port the other one's packets come from.
        [true, true] => {
            let lenient =
                [one, other].into_iter().filter(|side| side.1 != Filtering::AddressAndPortDependent);
            lenient.max_by_key(|side| sequential(*side)).and_then(met)
        }
        [true, false] => met(one),
        [false, true] => met(other),
        [false, false] => None,
    }
}

fn comes_in(from: (Mapping, Filtering), to: (Mapping, Filtering)) -> bool {
    let told_is_used = !to.0.depends_on_destination();
    match to.1 {
        Filtering::EndpointIndependent => true,
        // The other side must have sent to this address through the mapping that it told ...
        Filtering::AddressDependent => told_is_used,
        // ... and to this port, which it knows only if it does not depend on the destination.
        Filtering::AddressAndPortDependent => told_is_used && !from.0.depends_on_destination(),
    }
}
