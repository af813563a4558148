//! What will happen between exactly these two: by what both sides measured, before anything is tried.
//!
//! For each address family both sides have: one network, then blocked UDP, then one external address, then the two NATs
//! ([`direct_path`], for all that they can be, and what a [`search`] finds where that says no). The best family counts, as for ICE; if none is direct, a relay, if both
//! sides reach one. [`PairReport`] has beside it what came of trying.

mod advice;
mod report;
mod text;
mod words;

pub use report::{PairReport, Trial};

use serde::Serialize;

use super::behaviour::{Confidence, Filtering, Mapping, Search, direct_path, search};
use super::facts::{Facts, FamilyFacts, HostNetwork};
use super::findings::Scope;

/// How two particular hosts will be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PairPath {
    /// Directly.
    Direct,
    /// Through a relay.
    Relay,
    /// Not at all: one side reaches no relay.
    None,
    /// That depends on what could not be measured.
    Unknown,
}

/// Which way the packets will go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Within one machine.
    Host,
    /// Within one network.
    Lan,
    /// Over IPv6.
    Ipv6,
    /// Over IPv4.
    Ipv4,
    /// Over IPv4, turned around by the NAT that both are behind (RFC 4787, section 6).
    Hairpin,
    /// Through a relay.
    Relay,
}

/// Whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The side that asks.
    You,
    /// The other side.
    They,
    /// Both of them.
    Both,
}

/// What to change so that the path is direct.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// Who has to.
    pub side: Side,
    /// What.
    pub text: String,
}

/// What will happen between two hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Prediction {
    /// How they will be connected.
    pub path: PairPath,
    /// Which way; `None` if that is not known.
    pub way: Option<Way>,
    /// How sure that is; `None` if it is not known at all.
    pub confidence: Option<Confidence>,
    /// How a direct path will be found, if not by standard ICE.
    pub search: Option<Search>,
    /// The same in words.
    pub summary: String,
    /// Why, for each address family that both could use.
    pub why: Vec<String>,
    /// What either side could change; empty if the path is direct anyway.
    pub advice: Vec<Advice>,
}

/// What will happen between `you` and `they`.
///
/// ```
/// use thirl_ice_agent::nat::{Facts, PairPath, Search, predict};
///
/// let side = |mapping| Facts {
///     ipv4: serde_json::from_str(&format!(
///         r#"{{"udp":true,"tcp":true,"translated":true,"mapping":["{mapping}"],"filtering":["APDF"]}}"#
///     )).unwrap(),
///     ..Facts { version: 1, relay_only: false, ipv4: None, ipv6: None }
/// };
/// assert_eq!(predict(&side("EIM"), &side("EIM")).path, PairPath::Direct);
/// assert_eq!(predict(&side("EIM"), &side("APDM")).search, Some(Search::Birthday));
/// assert_eq!(predict(&side("APDM"), &side("APDM")).path, PairPath::Relay);
/// ```
pub fn predict(you: &Facts, they: &Facts) -> Prediction {
    let routes = routes(you, they);
    let best = best(&routes);
    let legs = [you, they].map(leg);
    let (path, way, confidence) = match best {
        Some(Route { path: PairPath::Direct, way, confidence, .. }) => {
            (PairPath::Direct, Some(*way), *confidence)
        }
        Some(Route { path: PairPath::Unknown, .. }) => (PairPath::Unknown, None, None),
        _ if legs.contains(&Leg::None) => (PairPath::None, None, Some(Confidence::Medium)),
        Some(route) => (PairPath::Relay, Some(Way::Relay), route.confidence),
        None => (PairPath::Relay, Some(Way::Relay), Some(Confidence::High)),
    };
    let advice = if path == PairPath::Direct { Vec::new() } else { advice::advice(you, they) };
    Prediction {
        path,
        way,
        confidence,
        search: best.filter(|_| path == PairPath::Direct).and_then(|route| route.search),
        summary: words::summary(path, way, confidence, legs),
        why: words::why(you, they, &routes),
        advice,
    }
}

/// How a family fares.
#[derive(Debug)]
struct Route {
    family: &'static str,
    path: PairPath,
    way: Way,
    confidence: Option<Confidence>,
    search: Option<Search>,
    why: String,
}

fn routes(you: &Facts, they: &Facts) -> Vec<Route> {
    if you.relay_only || they.relay_only {
        return Vec::new();
    }
    let families = [("IPv6", Way::Ipv6, &you.ipv6, &they.ipv6), ("IPv4", Way::Ipv4, &you.ipv4, &they.ipv4)];
    let both = families.into_iter().filter_map(|(name, way, you, they)| {
        let Found { path, way, confidence, search, why } = route(way, you.as_ref()?, they.as_ref()?);
        Some(Route { family: name, path, way, confidence, search, why })
    });
    both.collect()
}

/// The nearest way counts, and then the surest.
fn best(routes: &[Route]) -> Option<&Route> {
    routes.iter().min_by_key(|route| {
        let path = match route.path {
            PairPath::Direct => 0,
            PairPath::Unknown => 1,
            PairPath::Relay | PairPath::None => 2,
        };
        let near = !matches!(route.way, Way::Host | Way::Lan);
        (path, near, std::cmp::Reverse(route.confidence))
    })
}

struct Found {
    path: PairPath,
    way: Way,
    confidence: Option<Confidence>,
    search: Option<Search>,
    why: String,
}

impl Found {
    fn new(path: PairPath, way: Way, confidence: Option<Confidence>, why: String) -> Found {
        Found { path, way, confidence, search: None, why }
    }
}

/// What two NATs leave.
#[derive(Clone, Copy)]
struct Left {
    path: PairPath,
    confidence: Option<Confidence>,
    search: Option<Search>,
}

fn route(over: Way, you: &FamilyFacts, they: &FamilyFacts) -> Found {
    if let Some(found) = one_network(you, they) {
        return found;
    }
    match (you.udp, they.udp) {
        (Some(false), Some(false)) => {
            return without_udp(over, you, they, "no UDP comes back on either side");
        }
        (Some(false), _) => return without_udp(over, you, they, "no UDP comes back on your side"),
        (_, Some(false)) => return without_udp(over, you, they, "no UDP comes back on their side"),
        (Some(true), Some(true)) => {}
        _ => return not_measured(over, you, they),
    }
    let translated = you.translated == Some(true) && they.translated == Some(true);
    if translated && you.external.is_some() && you.external == they.external {
        return turned_around(you, they);
    }
    let left @ Left { path, confidence, search } = through_nats(you, they);
    Found { search, ..Found::new(path, over, confidence, words::between_nats(you, they, left)) }
}

/// What is left is a connection (RFC 6544), which both open at once: through NATs that map TCP as one that can be told of, and
/// that is not measured. A NAT whose mapping of UDP depends on the destination does not map TCP otherwise.
fn without_udp(over: Way, you: &FamilyFacts, they: &FamilyFacts, what: &str) -> Found {
    let may_be_met = |side: &FamilyFacts| {
        let depends = side.udp == Some(true) && !side.mapping.contains(&Mapping::EndpointIndependent);
        side.tcp == Some(true) && (side.translated == Some(false) || !depends)
    };
    if !(may_be_met(you) && may_be_met(they)) {
        return Found::new(PairPath::Relay, over, Some(Confidence::High), what.to_owned());
    }
    let why = format!(
        "{what}; TCP gets out on both, and is direct if the NATs let both sides open a connection at once"
    );
    Found::new(PairPath::Unknown, over, None, why)
}

/// Both in one network: what the routers do does not count.
fn one_network(you: &FamilyFacts, they: &FamilyFacts) -> Option<Found> {
    let (ours, theirs) = (you.network?, they.network?);
    let same_outside = you.external == they.external;
    let behind_provider =
        |side: &FamilyFacts| side.carrier_grade == Some(true) || side.layers.is_some_and(|layers| layers > 1);
    let confidence = match Scope::of(ours.ip) {
        _ if ours != theirs && !ours.is_with(&theirs) => return None,
        Scope::Global => Confidence::High,
        // A carrier's customers do not see each other.
        Scope::Shared if ours != theirs => return None,
        _ if !same_outside => return None,
        _ if behind_provider(you) || behind_provider(they) || you.external.is_none() => Confidence::Low,
        _ => Confidence::High,
    };
    let (way, place) =
        if ours == theirs { (Way::Host, "on one machine") } else { (Way::Lan, "in one network") };
    let why = match confidence {
        Confidence::Low => format!(
            "both are {place}, as far as addresses tell; but two networks of one provider's customers can look like that"
        ),
        _ => format!("both are {place}"),
    };
    Some(Found::new(PairPath::Direct, way, Some(confidence), why))
}

/// No server of this family was asked on one side at least.
fn not_measured(over: Way, you: &FamilyFacts, they: &FamilyFacts) -> Found {
    let global = |side: &FamilyFacts| {
        side.translated == Some(false)
            || side.network.is_some_and(|HostNetwork { ip, .. }| Scope::of(ip) == Scope::Global)
    };
    if over == Way::Ipv6 && global(you) && global(they) {
        let why = "both have public addresses, and firewalls let answers in; but no server of this family was asked on \
                   both sides, so nobody knows whether packets get through";
        return Found::new(PairPath::Direct, over, Some(Confidence::Low), why.to_owned());
    }
    let why = "no server of this family was asked on both sides";
    Found::new(PairPath::Unknown, over, None, why.to_owned())
}

/// Both behind one external address, in different networks: the NAT has to turn packets around.
fn turned_around(you: &FamilyFacts, they: &FamilyFacts) -> Found {
    let shared = match you.carrier_grade == Some(true) || they.carrier_grade == Some(true) {
        true => "both are behind one NAT of a provider, in different networks",
        false => "both are behind one external address, in different networks",
    };
    // It is one NAT: what either side measured of it is true for both.
    let hairpin = match [you.hairpin, they.hairpin] {
        sides if sides.contains(&Some(true)) => Some(true),
        sides if sides.contains(&Some(false)) => Some(false),
        _ => None,
    };
    match hairpin {
        Some(false) => {
            let why = format!(
                "{shared}; the NAT does not turn packets for its own address around (hairpinning), so only a route \
                 between the two networks would help"
            );
            Found::new(PairPath::Relay, Way::Hairpin, Some(Confidence::Medium), why)
        }
        Some(true) => {
            // Nobody searches for ports at an address of its own.
            let left @ Left { path, confidence, .. } = match through_nats(you, they) {
                Left { search: Some(_), confidence, .. } => {
                    Left { path: PairPath::Relay, confidence, search: None }
                }
                left => left,
            };
            let why = format!(
                "{shared}, which turns packets for its own address around; {}",
                words::between_nats(you, they, left)
            );
            Found::new(path, Way::Hairpin, confidence.min(Some(Confidence::Medium)), why)
        }
        None => {
            let why = format!(
                "{shared}: it depends on whether the NAT turns packets for its own address around (hairpinning), which \
                 was not measured"
            );
            Found::new(PairPath::Unknown, Way::Hairpin, None, why)
        }
    }
}

/// Everything that the two NATs can be; if that leaves both open, what is most common.
fn through_nats(you: &FamilyFacts, they: &FamilyFacts) -> Left {
    let can_be = |side: &FamilyFacts| {
        let filterings = side.filtering.clone();
        let kinds = side
            .mapping
            .iter()
            .flat_map(move |mapping| filterings.clone().into_iter().map(|f| (*mapping, f)));
        kinds.collect::<Vec<_>>()
    };
    let between = |one: (Mapping, Filtering), other: (Mapping, Filtering)| {
        let found = search((one.0, one.1, you.ports), (other.0, other.1, they.ports));
        let search = found.filter(|_| !direct_path(one, other));
        let direct = search.is_some() || direct_path(one, other);
        (if direct { PairPath::Direct } else { PairPath::Relay }, search)
    };
    let (ours, theirs) = (can_be(you), can_be(they));
    let outcomes: Vec<_> =
        ours.iter().flat_map(|one| theirs.iter().map(|other| between(*one, *other))).collect();
    let Some(&(path, search)) = outcomes.first() else {
        return Left { path: PairPath::Unknown, confidence: None, search: None };
    };
    // A search is a matter of luck, though of little.
    let sure = |search: Option<Search>| if search.is_some() { Confidence::Medium } else { Confidence::High };
    if outcomes.iter().all(|outcome| *outcome == (path, search)) {
        return Left { path, confidence: Some(sure(search)), search };
    }
    match most_common(you).zip(most_common(they)) {
        Some((one, other)) => {
            let (path, search) = between(one, other);
            Left { path, confidence: Some(Confidence::Medium), search }
        }
        None => Left { path: PairPath::Unknown, confidence: None, search: None },
    }
}

/// Of what a NAT can be, what NATs mostly are: nearly none has a mapping that depends on the address and not the port,
/// and nearly all filter as strictly as they can.
fn most_common(side: &FamilyFacts) -> Option<(Mapping, Filtering)> {
    let mapping = match side.mapping[..] {
        [known] => known,
        [Mapping::EndpointIndependent, Mapping::AddressDependent] => Mapping::EndpointIndependent,
        [Mapping::AddressDependent, Mapping::AddressAndPortDependent] => Mapping::AddressAndPortDependent,
        _ => return None,
    };
    Some((mapping, *side.filtering.last()?))
}

/// What carries a side's packets to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leg {
    Udp,
    Tcp,
    None,
    Unknown,
}

fn leg(side: &Facts) -> Leg {
    let families = || [&side.ipv4, &side.ipv6].into_iter().flatten();
    let udp = |gets_out| families().any(|family| family.udp == Some(gets_out));
    let tcp = |gets_out| families().any(|family| family.tcp == Some(gets_out));
    match () {
        () if udp(true) => Leg::Udp,
        () if tcp(true) => Leg::Tcp,
        () if udp(false) && tcp(false) => Leg::None,
        () => Leg::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::super::behaviour::PortAllocation;
    use super::*;
    use Mapping::{AddressAndPortDependent as APDM, AddressDependent as ADM, EndpointIndependent as EIM};

    const ADF: Filtering = Filtering::AddressDependent;
    const APDF: Filtering = Filtering::AddressAndPortDependent;

    fn family(mapping: &[Mapping], filtering: &[Filtering]) -> FamilyFacts {
        FamilyFacts {
            udp: Some(true),
            tcp: Some(true),
            translated: Some(true),
            mapping: mapping.to_vec(),
            filtering: filtering.to_vec(),
            ports: None,
            layers: Some(1),
            carrier_grade: None,
            hairpin: None,
            external: None,
            network: None,
        }
    }

    /// Behind a strict cone NAT of its own, number `n`.
    fn home(n: u8) -> FamilyFacts {
        placed(family(&[EIM], &[APDF]), &format!("5.5.5.{n}"), &format!("192.168.{n}.2"), 24)
    }

    fn placed(family: FamilyFacts, external: &str, ip: &str, prefix: u8) -> FamilyFacts {
        let network = Some(HostNetwork { ip: ip.parse().unwrap(), prefix });
        FamilyFacts { external: Some(external.parse().unwrap()), network, ..family }
    }

    fn public_ipv6(ip: &str, udp: Option<bool>) -> FamilyFacts {
        let translated = udp.map(|_| false);
        let facts = FamilyFacts { udp, tcp: udp, translated, ..family(&[EIM], &[APDF]) };
        placed(facts, ip, ip, 64)
    }

    fn ipv4(family: FamilyFacts) -> Facts {
        Facts { version: 1, relay_only: false, ipv4: Some(family), ipv6: None }
    }

    /// The same from both sides, which is asserted.
    #[track_caller]
    fn predicted(you: &Facts, they: &Facts) -> (PairPath, Option<Way>, Option<Confidence>) {
        let of = |prediction: Prediction| (prediction.path, prediction.way, prediction.confidence);
        let found = of(predict(you, they));
        assert_eq!(found, of(predict(they, you)), "swapped");
        found
    }

    const DIRECT: PairPath = PairPath::Direct;
    const RELAY: (PairPath, Option<Way>) = (PairPath::Relay, Some(Way::Relay));
    const HIGH: Option<Confidence> = Some(Confidence::High);
    const MEDIUM: Option<Confidence> = Some(Confidence::Medium);
    const LOW: Option<Confidence> = Some(Confidence::Low);
    const UNKNOWN: (PairPath, Option<Way>, Option<Confidence>) = (PairPath::Unknown, None, None);

    #[test]
    fn what_is_not_known_is_guessed_by_what_is_common_and_said_to_be() {
        let all = Filtering::ALL;
        let pair = |one: &[Mapping], other: &[Mapping]| {
            predicted(&ipv4(family(one, &all)), &ipv4(family(other, &all)))
        };
        assert_eq!(pair(&[EIM], &[EIM]), (DIRECT, Some(Way::Ipv4), HIGH), "whatever the filters do");
        assert_eq!(pair(&[EIM, ADM], &[EIM, ADM]), (DIRECT, Some(Way::Ipv4), MEDIUM));
        assert_eq!(pair(&[APDM], &[APDM]), (RELAY.0, RELAY.1, MEDIUM), "unless one of them lets anybody in");
        assert_eq!(pair(&[EIM, ADM], &[APDM]), (DIRECT, Some(Way::Ipv4), MEDIUM), "by a search");
        assert_eq!(pair(&[ADM, APDM], &[ADM, APDM]), (RELAY.0, RELAY.1, MEDIUM));
        assert_eq!(pair(&Mapping::ALL, &[EIM]), UNKNOWN);
        let open = ipv4(family(&[EIM], &[Filtering::EndpointIndependent]));
        let any = ipv4(family(&Mapping::ALL, &all));
        assert_eq!(predicted(&open, &any), (DIRECT, Some(Way::Ipv4), HIGH), "whatever the other NAT does");
    }

    #[test]
    fn what_standard_ice_does_not_find_is_searched_for() {
        let hard = |n, ports| ipv4(FamilyFacts { mapping: vec![APDM], ports: Some(ports), ..home(n) });
        let (random, sequential) = (PortAllocation::Random, PortAllocation::Sequential);
        let found = |you: &Facts, they: &Facts| {
            predicted(you, they);
            let Prediction { path, search, confidence, why, .. } = predict(you, they);
            assert!(search.is_none() || confidence == MEDIUM, "luck is needed");
            (path, search, why.join(" "))
        };
        let (path, search, why) = found(&hard(1, random), &ipv4(home(2)));
        assert_eq!((path, search), (DIRECT, Some(Search::Birthday)));
        assert!(why.contains("your external port changes with the destination, at random"), "{why}");
        let (path, search, why) = found(&ipv4(home(2)), &hard(1, sequential));
        assert_eq!((path, search), (DIRECT, Some(Search::Prediction)));
        assert!(why.contains("their external port changes with the destination, in sequence"), "{why}");
        let both = found(&hard(1, sequential), &hard(2, sequential));
        assert_eq!((both.0, both.1), (DIRECT, Some(Search::Prediction)));
        let one = found(&hard(1, sequential), &hard(2, random));
        assert_eq!((one.0, one.1), (PairPath::Relay, None));
        let lenient = |n, ports| {
            ipv4(FamilyFacts { mapping: vec![APDM], filtering: vec![ADF], ports: Some(ports), ..home(n) })
        };
        let (path, search, why) = found(&hard(1, sequential), &lenient(2, random));
        assert_eq!((path, search), (DIRECT, Some(Search::Birthday)));
        assert!(why.contains("but their side lets packets in from any port"), "{why}");
        for sides in
            [[lenient(1, sequential), lenient(2, random)], [lenient(1, random), lenient(2, sequential)]]
        {
            assert_eq!(found(&sides[0], &sides[1]).1, Some(Search::Prediction));
        }
        let open = ipv4(family(&[EIM], &[Filtering::EndpointIndependent]));
        let standard = found(&hard(1, random), &open);
        assert_eq!((standard.0, standard.1), (DIRECT, None));
    }

    #[test]
    fn one_network() {
        let one = home(1);
        let with = |ip: &str| placed(home(1), "5.5.5.1", ip, 24);
        let lan = (DIRECT, Some(Way::Lan), HIGH);
        assert_eq!(predicted(&ipv4(one.clone()), &ipv4(with("192.168.1.3"))), lan);
        assert_eq!(predicted(&ipv4(one.clone()), &ipv4(one.clone())), (DIRECT, Some(Way::Host), HIGH));
        let symmetric =
            |side: FamilyFacts| ipv4(FamilyFacts { mapping: vec![APDM], udp: Some(false), ..side });
        assert_eq!(
            predicted(&symmetric(one.clone()), &symmetric(with("192.168.1.3"))),
            lan,
            "the NAT is not met"
        );
        let elsewhere = placed(home(1), "5.5.5.2", "192.168.1.3", 24);
        assert_eq!(
            predicted(&ipv4(one), &ipv4(elsewhere)).1,
            Some(Way::Ipv4),
            "everybody has 192.168.1.0/24"
        );
        let at_provider = |ip: &str| ipv4(FamilyFacts { carrier_grade: Some(true), ..with(ip) });
        assert_eq!(
            predicted(&at_provider("192.168.1.2"), &at_provider("192.168.1.3")),
            (DIRECT, Some(Way::Lan), LOW)
        );
    }

    #[test]
    fn one_external_address() {
        let side = |n: u8, hairpin| {
            let ip = format!("192.168.{n}.2");
            ipv4(FamilyFacts { hairpin, carrier_grade: Some(true), ..placed(home(n), "5.5.5.5", &ip, 24) })
        };
        assert_eq!(predicted(&side(1, None), &side(2, None)), UNKNOWN);
        assert_eq!(predicted(&side(1, Some(false)), &side(2, None)), (RELAY.0, RELAY.1, MEDIUM));
        assert_eq!(predicted(&side(1, None), &side(2, Some(true))), (DIRECT, Some(Way::Hairpin), MEDIUM));
        let why = predict(&side(1, None), &side(2, None)).why.join(" ");
        assert!(why.contains("one NAT of a provider") && why.contains("hairpinning"), "{why}");
    }

    #[test]
    fn ipv6_on_both_sides() {
        let side = |n: u8, udp| Facts {
            ipv6: Some(public_ipv6(&format!("2001:db8:{n}::1"), udp)),
            ..ipv4(FamilyFacts { mapping: vec![APDM], ..home(n) })
        };
        let over_ipv6 = |confidence| (DIRECT, Some(Way::Ipv6), confidence);
        assert_eq!(predicted(&side(1, Some(true)), &side(2, Some(true))), over_ipv6(HIGH));
        assert_eq!(
            predicted(&side(1, None), &side(2, None)),
            over_ipv6(LOW),
            "no server with IPv6 was asked"
        );
        assert_eq!(predicted(&side(1, Some(false)), &side(2, None)), (RELAY.0, RELAY.1, HIGH));
        let without = Facts { ipv6: None, ..side(2, None) };
        let prediction = predict(&side(1, Some(true)), &without);
        assert_eq!(prediction.path, PairPath::Relay);
        assert!(
            prediction.advice.iter().any(|advice| advice.side == Side::They && advice.text.contains("IPv6"))
        );
        let ipv6_alone = Facts { ipv4: None, ..side(1, Some(true)) };
        assert_eq!(predicted(&ipv6_alone, &without), (RELAY.0, RELAY.1, HIGH), "no family in common");
    }

    #[test]
    fn relays() {
        let blocked = |n, tcp| ipv4(FamilyFacts { udp: Some(false), tcp: Some(tcp), ..home(n) });
        assert_eq!(predicted(&blocked(1, true), &ipv4(home(2))), UNKNOWN, "NATs may let TCP through");
        let symmetric = ipv4(FamilyFacts { mapping: vec![APDM], ..home(2) });
        assert_eq!(predicted(&blocked(1, true), &symmetric), (RELAY.0, RELAY.1, HIGH));
        let summary = predict(&blocked(1, true), &symmetric).summary;
        assert!(summary.contains("your side gets over TCP only"), "{summary}");
        assert_eq!(predicted(&blocked(1, false), &ipv4(home(2))), (PairPath::None, None, MEDIUM));
        let hiding = ipv4(home(1)).relay_only();
        assert_eq!(predicted(&hiding, &ipv4(home(2))), (RELAY.0, RELAY.1, HIGH));
        assert_eq!(predict(&ipv4(home(2)), &hiding).advice[0].side, Side::They);
    }

    #[test]
    fn advice_is_what_helps() {
        let strict = |n| ipv4(FamilyFacts { mapping: vec![APDM], ..home(n) });
        let sides = |you: &Facts, they: &Facts| {
            let advice = predict(you, they).advice;
            let nats = advice.iter().filter(|advice| !advice.text.contains("IPv6"));
            nats.map(|advice| advice.side).collect::<Vec<_>>()
        };
        assert_eq!(sides(&strict(1), &strict(2)), [Side::You, Side::They]);
        let customer = ipv4(FamilyFacts { mapping: vec![APDM], carrier_grade: Some(true), ..home(1) });
        let asks = &predict(&customer, &strict(2)).advice[0];
        assert!(asks.text.contains("provider"), "{asks:?}");
        assert_eq!(sides(&ipv4(home(1)), &ipv4(home(2))), [], "a direct path needs no advice");
        let by_address = ipv4(family(&[ADM], &[APDF]));
        assert!(!sides(&by_address, &strict(2)).is_empty());
    }
}
