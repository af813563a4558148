//! A prediction in words, from the side that asks: "you" and "they".

use super::super::behaviour::{Confidence, Filtering, Mapping, PortAllocation, Search};
use super::super::facts::{Facts, FamilyFacts};
use super::{Left, Leg, PairPath, Route, Way};

pub(super) fn summary(
    path: PairPath,
    way: Option<Way>,
    confidence: Option<Confidence>,
    legs: [Leg; 2],
) -> String {
    let what = match (path, way) {
        (PairPath::Unknown, _) => {
            return "Whether the path will be direct could not be told beforehand.".to_owned();
        }
        (PairPath::None, _) => {
            return "No path: neither UDP nor TCP gets out to a server on both sides, so not even a relay helps."
                .to_owned();
        }
        (PairPath::Relay, _) => match legs {
            [Leg::Tcp, Leg::Tcp] => "through a relay, to which both sides get over TCP only",
            [Leg::Tcp, _] => "through a relay, to which your side gets over TCP only",
            [_, Leg::Tcp] => "through a relay, to which their side gets over TCP only",
            _ => "through a relay",
        },
        (_, Some(Way::Host)) => "direct, within this machine",
        (_, Some(Way::Lan)) => "direct, within one network",
        (_, Some(Way::Ipv6)) => "direct, over IPv6",
        (_, Some(Way::Hairpin)) => "direct, turned around by the NAT that both are behind",
        _ => "direct, over IPv4",
    };
    let sure = match confidence {
        Some(Confidence::High) => "will be",
        Some(Confidence::Medium) => "will most likely be",
        Some(Confidence::Low) | None => "should be",
    };
    format!("The path between you and them {sure} {what}.")
}

pub(super) fn why(you: &Facts, they: &Facts, routes: &[Route]) -> Vec<String> {
    match (you.relay_only, they.relay_only) {
        (true, true) => return vec!["Both sides use relays only (--policy relay).".to_owned()],
        (true, false) => return vec!["Your side uses relays only (--policy relay).".to_owned()],
        (false, true) => return vec!["Their side uses relays only (--policy relay).".to_owned()],
        (false, false) => {}
    }
    let mut why: Vec<_> = routes.iter().map(|route| format!("{}: {}.", route.family, route.why)).collect();
    for (family, you, they) in [("IPv4", &you.ipv4, &they.ipv4), ("IPv6", &you.ipv6, &they.ipv6)] {
        match (you, they) {
            (Some(_), None) => why.push(format!("{family}: they have none.")),
            (None, Some(_)) => why.push(format!("{family}: you have none.")),
            _ => {}
        }
    }
    why
}

/// Why two NATs leave this path.
pub(super) fn between_nats(you: &FamilyFacts, they: &FamilyFacts, left: Left) -> String {
    if let Some(search) = left.search {
        return by_search(you, they, search);
    }
    let path = left.path;
    // `None`: it may or may not depend on the destination.
    let depends = |side: &FamilyFacts| {
        (side.mapping.len() < Mapping::ALL.len())
            .then(|| !side.mapping.contains(&Mapping::EndpointIndependent))
    };
    let untranslated = [you, they].map(|side| side.translated == Some(false)) == [true; 2];
    match (path, depends(you), depends(they)) {
        (PairPath::Direct, None, _) => "their side can be told of and lets anybody's packets in, so it does not matter what \
                                        your NAT does"
            .to_owned(),
        (PairPath::Direct, _, None) => "your side can be told of and lets anybody's packets in, so it does not matter what \
                                        their NAT does"
            .to_owned(),
        (PairPath::Unknown, ..) | (_, None, _) | (_, _, None) => {
            "it depends on what could not be measured of the NATs".to_owned()
        }
        (_, Some(false), Some(false)) if untranslated => {
            "there is no address translation on either side, and firewalls let answers in".to_owned()
        }
        (_, Some(false), Some(false)) => "each side keeps one external address for every destination, so the other can be \
                                          told where to send, and lets in who was sent to"
            .to_owned(),
        (PairPath::Direct, Some(true), Some(false)) => format!(
            "your external port changes with the destination, but their side {}, so your packets come in and are answered",
            lets_in(they)
        ),
        (PairPath::Direct, Some(false), Some(true)) => format!(
            "their external port changes with the destination, but your side {}, so their packets come in and are answered",
            lets_in(you)
        ),
        (PairPath::Direct, ..) => "the external ports of both sides change with the destination, but one side lets anybody's \
                                   packets in, and the other takes the answer from another port"
            .to_owned(),
        (_, Some(true), Some(false)) => format!(
            "your external port changes with the destination, so they cannot be told where to send, and their side {}",
            lets_in(they)
        ),
        (_, Some(false), Some(true)) => format!(
            "their external port changes with the destination, so you cannot be told where to send, and your side {}",
            lets_in(you)
        ),
        _ => "the external ports of both sides change with the destination, so neither can be told where to send".to_owned(),
    }
}

/// How a path will be found that standard ICE does not find.
fn by_search(you: &FamilyFacts, they: &FamilyFacts, search: Search) -> String {
    let hard = |side: &FamilyFacts| !side.mapping.contains(&Mapping::EndpointIndependent);
    let whose = match (hard(you), hard(they)) {
        (true, true) => "the external ports of both sides change",
        (true, false) => "your external port changes",
        _ => "their external port changes",
    };
    let in_sequence = |side: &FamilyFacts| side.ports == Some(PortAllocation::Sequential);
    let lenient = [("your", you), ("their", they)].into_iter().filter(|(_, side)| !is_strict(side));
    let but = match lenient.max_by_key(|(_, side)| in_sequence(side)) {
        Some((whose, side)) if hard(you) && hard(they) && !(in_sequence(you) && in_sequence(they)) => {
            format!("but {whose} side {}, and its ports come ", lets_in(side))
        }
        _ => String::new(),
    };
    let how = match search {
        Search::Prediction => "in sequence, so the next ones can be told",
        Search::Birthday => {
            "at random; so one side opens very many, and the other tries ports until it hits one of them, which takes some \
             seconds, while data goes through the relay"
        }
    };
    format!("{whose} with the destination, {but}{how}")
}

fn is_strict(side: &FamilyFacts) -> bool {
    side.filtering.last() == Some(&Filtering::AddressAndPortDependent)
}

fn lets_in(side: &FamilyFacts) -> &'static str {
    match side.filtering[..] {
        [Filtering::EndpointIndependent] => "lets anybody's packets in",
        [Filtering::AddressDependent] => "lets packets in from any port of an address that was sent to",
        [Filtering::AddressAndPortDependent] => "lets packets in only from where packets were sent to",
        _ => "most likely lets packets in only from where packets were sent to",
    }
}
