//! The verdict about a pair for people: what will be and what was, why, what to change, and the two sides.

use super::super::behaviour::{Filtering, Mapping, classic_name};
use super::super::facts::{Facts, FamilyFacts};
use super::super::words::{MIN_WIDTH, entry, paragraph};
use super::{PairPath, PairReport, Side, Trial};

impl PairReport {
    /// The verdict in lines of `width` columns; at least 32 are used.
    pub fn to_text(&self, width: usize) -> String {
        let width = width.max(MIN_WIDTH);
        let mut text = String::new();
        match (&self.prediction, &self.they_reason) {
            (Some(prediction), _) => paragraph(&mut text, width, "", &prediction.summary),
            (None, reason) => {
                let reason = reason.as_deref().unwrap_or("it did not say");
                let words =
                    format!("What their network does is not known, so nothing was predicted: {reason}.");
                paragraph(&mut text, width, "", &words);
            }
        }
        paragraph(&mut text, width, "", &self.trial());
        if let Some(prediction) = &self.prediction {
            text.push_str("\nWhy\n");
            prediction.why.iter().for_each(|why| paragraph(&mut text, width, "- ", why));
            if !prediction.advice.is_empty() && self.tried.path != PairPath::Direct {
                text.push_str("\nWhat would make it direct: any of these\n");
            }
            for advice in prediction.advice.iter().filter(|_| self.tried.path != PairPath::Direct) {
                let side = match advice.side {
                    Side::You => "your side",
                    Side::They => "their side",
                    Side::Both => "both sides",
                };
                paragraph(&mut text, width, "- ", &format!("{side}: {}", advice.text));
            }
        }
        side(&mut text, width, "Your side", &self.you);
        if let Some(they) = &self.they {
            side(&mut text, width, "Their side", they);
        }
        text
    }

    fn trial(&self) -> String {
        let agrees = match self.agrees {
            Some(true) => ", as predicted",
            Some(false) => ", other than predicted",
            None => "",
        };
        format!("It was tried: {}{agrees}.", outcome(&self.tried))
    }
}

fn outcome(tried: &Trial) -> String {
    let time = tried.connect_ms.map_or(String::new(), |ms| format!(" within {ms:.0} ms"));
    let why = tried.why.as_ref().map_or(String::new(), |why| format!(" ({why})"));
    match (tried.path, tried.local, tried.remote, tried.relay) {
        (PairPath::Direct, Some(local), Some(remote), _) => format!("direct, {local} ↔ {remote}{time}"),
        (PairPath::Direct, ..) => format!("direct{time}"),
        (PairPath::Relay, .., Some(relay)) => format!("relayed by {relay}{time}{why}"),
        (PairPath::Relay, ..) => format!("relayed{time}{why}"),
        (PairPath::None | PairPath::Unknown, ..) => format!("no path{why}"),
    }
}

fn side(text: &mut String, width: usize, name: &str, facts: &Facts) {
    for (family, facts) in [("IPv4", &facts.ipv4), ("IPv6", &facts.ipv6)] {
        let Some(facts) = facts else { continue };
        text.push_str(&format!("\n{name}, {family}\n"));
        family_words(text, width, facts);
    }
}

fn family_words(text: &mut String, width: usize, facts: &FamilyFacts) {
    let mut say = |key: &str, words: &str| entry(text, width, key, words);
    if let Some(network) = facts.network {
        say("address", &format!("{}/{}", network.ip, network.prefix));
    }
    if let Some(external) = facts.external {
        say("external", &external.to_string());
    }
    match facts.udp {
        Some(true) => {}
        Some(false) => {
            return say(
                "UDP",
                match facts.tcp {
                    Some(true) => "no answer; TCP gets out",
                    Some(false) => "no answer; TCP does not get out either",
                    None => "no answer",
                },
            );
        }
        None => return say("UDP", "not measured: no server of this family was asked"),
    }
    let mapping = match (facts.translated, &facts.mapping[..]) {
        (Some(false), _) => "none: no address translation".to_owned(),
        (_, [mapping]) => mapping.to_string(),
        (_, several) if several.len() < Mapping::ALL.len() => any_of(several, Mapping::name),
        _ => "not measurable".to_owned(),
    };
    say("mapping", &mapping);
    let filtering = match &facts.filtering[..] {
        [filtering] => filtering.to_string(),
        several if several.len() < Filtering::ALL.len() => any_of(several, Filtering::name),
        _ => "not measurable".to_owned(),
    };
    say("filtering", &filtering);
    if let (Some(true), [mapping], [filtering]) = (facts.translated, &facts.mapping[..], &facts.filtering[..])
        && let Some(name) = classic_name(*mapping, *filtering)
    {
        say("once called", &format!("{name} NAT (RFC 3489)"));
    }
    if facts.carrier_grade == Some(true) {
        say("layers", "one of the NATs is the provider's");
    } else if let Some(layers) = facts.layers.filter(|layers| *layers > 1) {
        say("layers", &format!("{layers} or more"));
    }
    if let Some(hairpin) = facts.hairpin {
        say("hairpinning", if hairpin { "works" } else { "does not work" });
    }
}

fn any_of<T: Copy>(several: &[T], name: fn(T) -> &'static str) -> String {
    several.iter().map(|one| name(*one)).collect::<Vec<_>>().join(" or ")
}
