//! The table: networks, and what `thirl nat --json` must say of each.

use serde_json::{Value, json};

use crate::behaviour::{Filtering, Mapping, PortAllocation, combinations};
use crate::natlab::{Firewall, Ipv6, Nat, Network, Node};

/// A network and what must be said of it.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it is.
    pub name: String,
    pub(super) network: Network,
    pub(super) cgn: Option<Nat>,
    /// Where the diagnosis runs.
    pub(super) client: Node,
    pub(super) servers: Vec<Place>,
    pub(super) arguments: Vec<&'static str>,
    /// Whether another host of the LAN opens mappings all the time.
    pub(super) neighbour: bool,
    /// Fields of the JSON (`docs/nat-json.md`), and their values. Where packets are lost, `null` is right as well.
    pub(super) expected: Vec<(String, Value)>,
}

/// Where servers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Public,
    PublicV6,
    /// Between the site's NAT and the provider's.
    Provider,
}

const EIM: Mapping = Mapping::EndpointIndependent;
const ADM: Mapping = Mapping::AddressDependent;
const APDM: Mapping = Mapping::AddressAndPortDependent;
const EIF: Filtering = Filtering::EndpointIndependent;
const ADF: Filtering = Filtering::AddressDependent;
const APDF: Filtering = Filtering::AddressAndPortDependent;

/// All cases.
pub fn cases() -> Vec<Case> {
    [
        combinations().map(|(mapping, filtering)| combination(mapping, filtering)).collect(),
        allocations(),
        poolings(),
        hairpinning(),
        providers(),
        others(),
    ]
    .concat()
}

fn nat(mapping: Mapping, filtering: Filtering) -> Nat {
    Nat::new().mapping(mapping).filtering(filtering)
}

fn combination(mapping: Mapping, filtering: Filtering) -> Case {
    let ports = match mapping {
        Mapping::EndpointIndependent => PortAllocation::Preserving,
        _ => PortAllocation::Random,
    };
    Case::behind(format!("{} {}", mapping.name(), filtering.name()), nat(mapping, filtering))
        .named(mapping, filtering)
        .allocates(ports)
        .says("udp.ipv4.allocation.pooling", "paired")
        .says("udp.ipv4.hairpin", Value::Null)
}

fn allocations() -> Vec<Case> {
    let case = |mapping: Mapping, filtering: Filtering, allocation: PortAllocation| {
        let name = format!("{} {}, {} ports", mapping.name(), filtering.name(), allocation.name());
        let nat = nat(mapping, filtering).allocation(allocation);
        Case::behind(name, nat).named(mapping, filtering).allocates(allocation)
    };
    let mut cases = vec![case(EIM, EIF, PortAllocation::Random), case(EIM, APDF, PortAllocation::Random)];
    for (mapping, filtering) in [(EIM, EIF), (EIM, APDF), (ADM, ADF), (APDM, APDF)] {
        cases.push(case(mapping, filtering, PortAllocation::Sequential).says("udp.ipv4.allocation.step", 1));
    }
    for (mapping, filtering) in [(EIM, ADF), (APDM, APDF)] {
        for allocation in [PortAllocation::Sequential, PortAllocation::Random] {
            let mut case = case(mapping, filtering, allocation);
            case.name += ", others' traffic";
            case.network = case.network.clients(2);
            case.neighbour = true;
            cases.push(case);
        }
    }
    cases
}

fn poolings() -> Vec<Case> {
    let cases = [
        (EIM, EIF, PortAllocation::Preserving),
        (EIM, APDF, PortAllocation::Random),
        (APDM, ADF, PortAllocation::Random),
    ];
    let case = |(mapping, filtering, allocation): (Mapping, Filtering, PortAllocation)| {
        let name = format!("{} {}, four external addresses", mapping.name(), filtering.name());
        Case::behind(name, nat(mapping, filtering).allocation(allocation).addresses(4))
            .named(mapping, filtering)
            .allocates(allocation)
            .says("udp.ipv4.allocation.pooling", "arbitrary")
            .says("udp.ipv4.layers.at_least", 1)
    };
    cases.map(case).to_vec()
}

fn hairpinning() -> Vec<Case> {
    let case = |mapping: Mapping, filtering: Filtering, hairpin: bool, works: Value| {
        let how = if hairpin { "on" } else { "off" };
        let name = format!("{} {}, hairpinning {how}", mapping.name(), filtering.name());
        let from_external = if works == true { json!(true) } else { Value::Null };
        Case::behind(name, nat(mapping, filtering).hairpin(hairpin))
            .asked("--hairpin")
            .named(mapping, filtering)
            .says("udp.ipv4.hairpin.works", works)
            .says("udp.ipv4.hairpin.from_external", from_external)
    };
    vec![
        case(EIM, EIF, true, json!(true)),
        case(EIM, EIF, false, json!(false)),
        case(EIM, APDF, true, json!(true)),
        case(EIM, APDF, false, json!(false)),
        case(APDM, EIF, true, json!(true)),
        case(APDM, EIF, false, json!(false)),
        // The filter stops such packets in any case.
        case(APDM, APDF, true, Value::Null),
        case(APDM, APDF, false, Value::Null),
    ]
}

/// The stricter of the two NATs decides.
fn providers() -> Vec<Case> {
    let case = |name: &str, home: Nat, cgn: Nat, mapping, filtering| {
        let mut case = Case::behind(name, Network::behind(home).behind_cgn()).named(mapping, filtering);
        case.cgn = Some(cgn);
        case
    };
    let symmetric = |name| case(name, nat(EIM, EIF), Nat::symmetric(), APDM, APDF);
    let kind = |name| case(name, nat(EIM, ADF), nat(EIM, EIF), EIM, ADF);
    let home = |name| case(name, Nat::symmetric(), nat(EIM, EIF), APDM, APDF);
    let seen = |case: Case| {
        let mut case = case.says("udp.ipv4.layers.at_least", 2).says("udp.ipv4.layers.carrier_grade", true);
        case.servers.push(Place::Provider);
        case
    };
    // Without a server between the two, only the router on the way shows the provider's NAT.
    let unseen = |case: Case| {
        case.says("udp.ipv4.layers.at_least", 1)
            .says("udp.ipv4.layers.carrier_grade", true)
            .says("udp.ipv4.layers.carrier_grade_confidence", "medium")
    };
    vec![
        unseen(symmetric("symmetric CGN")),
        seen(symmetric("symmetric CGN, a server of the provider")),
        unseen(kind("EIM CGN")),
        seen(kind("EIM CGN, a server of the provider")),
        unseen(home("EIM CGN, symmetric home")),
        seen(home("EIM CGN, symmetric home, a server of the provider")),
    ]
}

fn others() -> Vec<Case> {
    let no_udp = Network::behind(Nat::new()).firewall(Firewall::NoUdp);
    let blocked = Case::behind("UDP blocked", no_udp)
        .says("udp.ipv4.reachable", false)
        .says("udp.ipv4.mapping", Value::Null)
        .says("udp.ipv4.filtering", Value::Null)
        .says("tcp.ipv4.reachable", true)
        .says("tcp.ipv4.mapping", "EIM");
    let mut public = Case::behind("a public host", Nat::new())
        .named(EIM, EIF)
        .says("udp.ipv4.translated", false)
        .says("udp.ipv4.layers.at_least", 0);
    public.client = Node::Inet;
    let ipv6 = |name: &str, ipv6, filtering: Filtering| {
        let mut case = Case::behind(name, Network::behind(Nat::new()).ipv6(ipv6))
            .says("udp.ipv6.mapping", EIM.name())
            .says("udp.ipv6.filtering", filtering.name())
            .says("udp.ipv6.translated", false)
            .says("udp.ipv6.allocation.ports", Value::Null);
        case.servers = vec![Place::PublicV6];
        case
    };
    let only_443 = Network::behind(Nat::new()).firewall(Firewall::Tcp443Only);
    let only_443 = Case::behind("TCP 443 only", only_443)
        .says("udp.ipv4.reachable", false)
        .says("tcp.ipv4.reachable", false)
        .says("reach.tcp_3478.outcome", "silent")
        .says("reach.udp_443.outcome", "silent");
    let firewall = |filtering: Filtering| {
        ipv6(&format!("IPv6 behind an {} firewall", filtering.name()), Ipv6::Firewalled(filtering), filtering)
    };
    let slow = Case::behind("a line of 64 kbit/s", Network::behind(nat(EIM, ADF)).rate_kbit(64));
    vec![
        blocked,
        public,
        only_443,
        firewall(EIF),
        firewall(ADF),
        firewall(APDF),
        ipv6("IPv6, open", Ipv6::Open, EIF),
        slow.named(EIM, ADF).allocates(PortAllocation::Preserving),
    ]
}

impl Case {
    fn behind(name: impl Into<String>, network: impl Into<Network>) -> Case {
        Case {
            name: name.into(),
            network: network.into(),
            cgn: None,
            client: Node::A,
            servers: vec![Place::Public],
            arguments: Vec::new(),
            neighbour: false,
            expected: Vec::new(),
        }
    }

    fn asked(mut self, argument: &'static str) -> Case {
        self.arguments.push(argument);
        self
    }

    fn says(mut self, field: &str, value: impl Into<Value>) -> Case {
        self.expected.push((field.to_owned(), value.into()));
        self
    }

    fn named(self, mapping: Mapping, filtering: Filtering) -> Case {
        self.says("udp.ipv4.mapping", mapping.name()).says("udp.ipv4.filtering", filtering.name())
    }

    fn allocates(self, ports: PortAllocation) -> Case {
        self.says("udp.ipv4.allocation.ports", ports.name())
            .says("udp.ipv4.allocation.parity_preserved", ports == PortAllocation::Preserving)
    }
}
