//! How the NAT before a side makes mappings (RFC 4787, sections 4.1 and 4.2), and how the sides tell each other: by an extension
//! of candidates, and by an attribute of checks.

use std::fmt;
use std::str::FromStr;

use thirl_common::wire::NatMapping;

use crate::candidate::Candidate;

/// The candidate extension (RFC 8839, section 5.1, cand-extension). That a peer tells it means that it knows what this module
/// does.
pub(in super::super) const EXTENSION: &str = "x-mapping";
/// Its value on a candidate that is a guess of the port.
pub(super) const PREDICTED: &str = "predicted";

/// On the number of a behaviour in a check: the filter before the sender lets in what comes from any port of an address that
/// was sent to ([`super::filter`]).
pub(super) const LENIENT: u8 = 0x80;

/// What is so near is a sequence, on which other hosts may have been at work: ports. More mappings that this side asked for
/// between may make it wider, up to the second.
const MAX_JUMP: u32 = 128;
pub(super) const MAX_WIDTH: u32 = 1024;

/// What the port of a new mapping depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) enum MappingBehaviour {
    /// Too little was seen.
    #[default]
    Unknown,
    /// On nothing: all destinations have seen the same.
    Independent,
    /// On the destination: the next one comes after the last, upwards or downwards. Others may tell the step.
    Sequential(i8),
    /// On the destination, and no rule is seen.
    Random,
}

impl MappingBehaviour {
    /// Whether another destination sees another port.
    pub(in super::super) fn is_dependent(self) -> bool {
        matches!(self, MappingBehaviour::Sequential(_) | MappingBehaviour::Random)
    }

    /// Whether it comes next to the one before.
    pub(super) fn is_sequential(self) -> bool {
        matches!(self, MappingBehaviour::Sequential(_))
    }

    /// What the ports of mappings to different destinations show, numbered in the order in which the mappings were asked for.
    /// What was lost and repeated may have been made later, and others behind the NAT have mappings made too: so it is a
    /// sequence if all are near, and rises unless three at least have fallen. How far it goes at each step cannot be told
    /// from that.
    pub(in super::super) fn of(mut seen: Vec<(u32, u16)>) -> MappingBehaviour {
        seen.sort_unstable();
        let ports = || seen.iter().map(|(_, port)| *port);
        let (Some(lowest), Some(highest)) = (ports().min(), ports().max()) else {
            return MappingBehaviour::Unknown;
        };
        let between = seen.first().zip(seen.last()).map_or(0, |(first, last)| last.0 - first.0);
        match u32::from(highest - lowest) {
            _ if seen.len() < 2 => MappingBehaviour::Unknown,
            0 => MappingBehaviour::Independent,
            width if width > MAX_JUMP.saturating_add(between.saturating_mul(8)).min(MAX_WIDTH) => {
                MappingBehaviour::Random
            }
            _ => {
                let falls = seen.len() > 2 && seen.is_sorted_by(|one, other| one.1 > other.1);
                MappingBehaviour::Sequential(if falls { -1 } else { 1 })
            }
        }
    }

    /// As an attribute.
    pub(super) fn attribute(self, round: u8, port: u16) -> NatMapping {
        let (behaviour, step) = match self {
            MappingBehaviour::Unknown => (0, 0),
            MappingBehaviour::Independent => (1, 0),
            MappingBehaviour::Sequential(step) => (2, step),
            MappingBehaviour::Random => (3, 0),
        };
        NatMapping { behaviour, step, round, port }
    }

    /// What an attribute says; a later version's words say nothing.
    pub(super) fn of_attribute(told: NatMapping) -> MappingBehaviour {
        match (told.behaviour & !LENIENT, told.step) {
            (1, _) => MappingBehaviour::Independent,
            (2, step) if step != 0 => MappingBehaviour::Sequential(step),
            (2 | 3, _) => MappingBehaviour::Random,
            _ => MappingBehaviour::Unknown,
        }
    }

    /// What a candidate says; `None` if it says nothing of it.
    pub(super) fn told_by(candidate: &Candidate) -> Option<MappingBehaviour> {
        extension(candidate).map(|value| value.parse().unwrap_or_default())
    }
}

/// What a candidate has for the extension.
pub(super) fn extension(candidate: &Candidate) -> Option<&str> {
    let ours = |(name, _): &&(String, String)| name.eq_ignore_ascii_case(EXTENSION);
    candidate.extensions.iter().find(ours).map(|(_, value)| value.as_str())
}

/// Whether a candidate is a guess of the port.
pub(super) fn is_predicted(candidate: &Candidate) -> bool {
    extension(candidate) == Some(PREDICTED)
}

impl fmt::Display for MappingBehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MappingBehaviour::Unknown => f.write_str("unknown"),
            MappingBehaviour::Independent => f.write_str("independent"),
            MappingBehaviour::Sequential(step) => write!(f, "sequential:{step:+}"),
            MappingBehaviour::Random => f.write_str("random"),
        }
    }
}

/// The word is none of ours.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct UnknownBehaviour;

impl FromStr for MappingBehaviour {
    type Err = UnknownBehaviour;

    fn from_str(word: &str) -> Result<Self, UnknownBehaviour> {
        match word {
            "unknown" => Ok(MappingBehaviour::Unknown),
            "independent" => Ok(MappingBehaviour::Independent),
            "random" => Ok(MappingBehaviour::Random),
            _ => {
                let step = word.strip_prefix("sequential:").and_then(|step| step.parse().ok());
                step.filter(|step| *step != 0).map(MappingBehaviour::Sequential).ok_or(UnknownBehaviour)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use MappingBehaviour::{Independent, Random, Sequential, Unknown};

    #[test]
    fn the_ports_show_the_behaviour() {
        let of = |seen: &[(u32, u16)]| MappingBehaviour::of(seen.to_vec());
        assert_eq!(of(&[]), Unknown);
        assert_eq!(of(&[(1, 5000)]), Unknown);
        assert_eq!(of(&[(1, 5000), (2, 5000), (7, 5000)]), Independent);
        assert_eq!(of(&[(2, 5001), (1, 5000)]), Sequential(1), "whoever answered first");
        assert_eq!(of(&[(1, 5000), (4, 5006)]), Sequential(1));
        assert_eq!(of(&[(1, 5000), (2, 4999)]), Sequential(1), "the first was repeated");
        assert_eq!(of(&[(1, 5000), (2, 4999), (3, 4997)]), Sequential(-1));
        assert_eq!(of(&[(1, 5000), (2, 5040), (3, 5041)]), Sequential(1), "others were at work too");
        assert_eq!(of(&[(1, 5000), (2, 5000), (3, 5001)]), Sequential(1), "two servers with one address");
        assert_eq!(of(&[(1, 5006), (2, 5000), (3, 5003)]), Sequential(1), "the first was repeated");
        assert_eq!(of(&[(1, 5000), (2, 61_002)]), Random);
        assert_eq!(of(&[(1, 5000), (2, 5002), (3, 9000)]), Random);
    }

    proptest! {
        #[test]
        fn nothing_that_is_seen_panics(seen in proptest::collection::vec(any::<(u32, u16)>(), 0..20)) {
            MappingBehaviour::of(seen);
        }

        #[test]
        fn nothing_that_is_told_panics(word in "\\PC{0,20}", behaviour: u8, step: i8) {
            let _ = word.parse::<MappingBehaviour>();
            MappingBehaviour::of_attribute(NatMapping { behaviour, step, round: 0, port: 0 });
        }
    }

    #[test]
    fn what_is_told_is_understood() {
        for behaviour in [Unknown, Independent, Sequential(1), Sequential(-3), Random] {
            assert_eq!(behaviour.to_string().parse(), Ok(behaviour));
            assert_eq!(MappingBehaviour::of_attribute(behaviour.attribute(3, 9)), behaviour);
        }
        assert_eq!("sequential:+1".parse(), Ok(Sequential(1)));
        assert_eq!("sequential:0".parse::<MappingBehaviour>(), Err(UnknownBehaviour));
        assert_eq!("sequential:999".parse::<MappingBehaviour>(), Err(UnknownBehaviour));
    }
}
