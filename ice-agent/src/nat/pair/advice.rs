//! What either side could change.

use super::super::behaviour::{Filtering, Mapping};
use super::super::facts::{Facts, FamilyFacts};
use super::{Advice, PairPath, Side, Way, best, routes};

/// What would make the path direct, found by trying it.
pub(super) fn advice(you: &Facts, they: &Facts) -> Vec<Advice> {
    let mut advice = Vec::new();
    let mut say = |side, text: &str| advice.push(Advice { side, text: text.to_owned() });
    for (side, this, other) in [(Side::You, you, they), (Side::They, they, you)] {
        if this.relay_only {
            say(side, "Leave out --policy relay; the other side then learns this side's addresses.");
        }
        let Some(ipv4) = &this.ipv4 else { continue };
        if ipv4.udp == Some(false) {
            say(side, "Allow UDP to leave the network.");
            continue;
        }
        let mut kinder = this.clone();
        kinder.ipv4 = Some(FamilyFacts {
            mapping: vec![Mapping::EndpointIndependent],
            filtering: vec![Filtering::EndpointIndependent],
            ..ipv4.clone()
        });
        let changes = ipv4.mapping != [Mapping::EndpointIndependent]
            || ipv4.filtering != [Filtering::EndpointIndependent];
        if !changes || best(&routes(&kinder, other)).is_none_or(|route| route.path != PairPath::Direct) {
            continue;
        }
        if ipv4.carrier_grade == Some(true) {
            say(side, "Ask the provider for a public address of one's own: several customers share one now.");
        } else {
            say(
                side,
                "Set the router's NAT to \"full cone\" or \"endpoint-independent\" (games call the others \"strict\"), or \
                 forward a UDP port to the machine.",
            );
        }
    }
    if routes(you, they).iter().any(|route| route.way == Way::Hairpin) {
        say(
            Side::Both,
            "Join one network, or switch on hairpinning (\"NAT loopback\") on the NAT that both are behind.",
        );
    }
    let has_ipv6 = |side: &Facts| side.ipv6.as_ref().is_some_and(|ipv6| ipv6.udp != Some(false));
    match (has_ipv6(you), has_ipv6(they)) {
        _ if you.relay_only || they.relay_only => {}
        (true, true) => {}
        (true, false) => say(Side::They, "Get IPv6: you have it, and it needs no address translation."),
        (false, true) => say(Side::You, "Get IPv6: they have it, and it needs no address translation."),
        (false, false) => say(Side::Both, "Get IPv6, which needs no address translation."),
    }
    advice
}
