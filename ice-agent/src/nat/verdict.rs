//! What the findings mean for connecting: who gets through, why, and what to change.

use serde::Serialize;

use super::behaviour::{Confidence, Filtering, Mapping, classic_name, direct_path};
use super::gateway::{GatewayReport, ServiceReport};
use super::path_mtu::PathMtuReport;
use super::report::{Families, TcpReport, UdpReport};
use super::surroundings::Surroundings;

/// How two hosts will be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Directly.
    Direct,
    /// Through a relay.
    Relay,
    /// That depends on what could not be measured.
    Unknown,
}

impl Reach {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Reach::Direct => "direct",
            Reach::Relay => "relay",
            Reach::Unknown => "unknown",
        }
    }
}

/// One combination of what the other side's NAT may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Its mapping behaviour.
    pub mapping: Mapping,
    /// Its filtering behaviour.
    pub filtering: Filtering,
    /// How it will be connected with us.
    pub path: Reach,
}

/// What it means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Which peers come directly and which do not: a sentence or two.
    pub summary: String,
    /// Why that is so, for each family.
    pub why: Vec<String>,
    /// What to change; empty if there is nothing to gain.
    pub advice: Vec<String>,
    /// All nine kinds of NAT that a peer over IPv4 can be behind; over IPv6 if there is no IPv4.
    pub peers: Vec<Peer>,
}

impl Verdict {
    pub(super) fn new(
        udp: &Families<UdpReport>,
        tcp: &Families<TcpReport>,
        gateway: &Families<GatewayReport>,
        around: Option<&Surroundings>,
    ) -> Verdict {
        let ipv4 = udp.ipv4.local.is_some() || udp.ipv6.local.is_none();
        let (name, main, main_tcp, gateway) = if ipv4 {
            ("IPv4", &udp.ipv4, &tcp.ipv4, &gateway.ipv4)
        } else {
            ("IPv6", &udp.ipv6, &tcp.ipv6, &gateway.ipv6)
        };
        let peers = peers(main);
        let mut summary = summary(name, main, main_tcp, around, &peers);
        if ipv4 && udp.ipv6.reachable {
            summary += match udp.ipv6.filtering {
                Some(Filtering::EndpointIndependent) => {
                    " Peers with IPv6 reach you directly, whatever their firewall."
                }
                _ if udp.ipv6.translated == Some(false) => {
                    " Peers with IPv6 and an ordinary firewall reach you directly."
                }
                _ => " There is IPv6 as well.",
            };
        }
        let families = [("IPv4", &udp.ipv4), ("IPv6", &udp.ipv6)];
        let why = families.into_iter().filter(|(_, family)| family.local.is_some());
        let why = why.map(|(name, family)| {
            let through = if family.is_through_nat64() { " through NAT64" } else { "" };
            format!("{name}{through}: {}", why_so(family))
        });
        let why = why.collect();
        let mut verdict =
            Verdict { summary, why, advice: advice(main, main_tcp, gateway, around, udp), peers };
        if let Some(around) = around {
            verdict.account_for(around);
        }
        verdict
    }

    /// How a peer behind such a NAT will be connected with us.
    pub fn path(&self, mapping: Mapping, filtering: Filtering) -> Reach {
        let peer = self.peers.iter().find(|peer| (peer.mapping, peer.filtering) == (mapping, filtering));
        peer.map_or(Reach::Unknown, |peer| peer.path)
    }
}

/// Everything that this side can be by what is known of it.
fn possible(report: &UdpReport) -> Vec<(Mapping, Filtering)> {
    let filterings = report.possible_filterings();
    let with_filters = |mapping| filterings.iter().map(move |filtering| (mapping, *filtering));
    report.possible_mappings().into_iter().flat_map(with_filters).collect()
}

fn peers(report: &UdpReport) -> Vec<Peer> {
    let possible = possible(report);
    let path = |peer| {
        let direct = possible.iter().filter(|this| direct_path(**this, peer)).count();
        match direct {
            _ if report.is_blocked() => Reach::Relay,
            _ if !report.reachable => Reach::Unknown,
            0 => Reach::Relay,
            count if count == possible.len() => Reach::Direct,
            _ => Reach::Unknown,
        }
    };
    let kinds =
        Mapping::ALL.into_iter().flat_map(|mapping| Filtering::ALL.map(|filtering| (mapping, filtering)));
    kinds.map(|(mapping, filtering)| Peer { mapping, filtering, path: path((mapping, filtering)) }).collect()
}

fn summary(
    name: &str,
    report: &UdpReport,
    tcp: &TcpReport,
    around: Option<&Surroundings>,
    peers: &[Peer],
) -> String {
    if report.local.is_none() && !report.reachable {
        return "Nothing could be measured: no server can be reached from here.".to_owned();
    }
    if !report.reachable {
        let reach = around.map(|around| &around.reach);
        let relay = if reach.is_some_and(|reach| reach.udp_443.is_open()) {
            "UDP to port 443 gets out, though: every path needs a relay that listens there."
        } else if tcp.reachable {
            "Every path over it needs a relay over TCP, which gets out."
        } else if reach.is_some_and(|reach| reach.tls_443.is_open()) {
            "Every path over it needs a relay over TLS on port 443, which gets out."
        } else {
            "TCP to the servers does not get out either: check the servers, or the network is cut off."
        };
        return format!(
            "No answer over UDP and {name}: it is blocked here, or the servers are down. {relay}"
        );
    }
    let of = |symmetric: bool| {
        let paths = peers.iter().filter(move |peer| peer.mapping.depends_on_destination() == symmetric);
        paths.map(|peer| peer.path).collect::<Vec<_>>()
    };
    let (cones, symmetric) = (of(false), of(true));
    format!(
        "Peers behind cone NATs, like most home routers, or behind none: {}. Peers behind symmetric NATs, like many \
         company and mobile networks: {}.",
        in_words(&cones),
        in_words(&symmetric)
    )
}

fn in_words(paths: &[Reach]) -> &'static str {
    let all = |reach| paths.iter().all(|path| *path == reach);
    let any = |reach| paths.contains(&reach);
    match () {
        () if all(Reach::Direct) => "direct",
        () if all(Reach::Relay) => "through a relay",
        () if !any(Reach::Unknown) => "direct with some, through a relay with those that filter strictly",
        () if !any(Reach::Relay) => {
            "direct with some at least; what could not be measured decides about the others"
        }
        () if !any(Reach::Direct) => "through a relay, perhaps direct with some; that could not be measured",
        () => "that depends on what could not be measured",
    }
}

fn why_so(report: &UdpReport) -> String {
    if !report.reachable {
        return report.reason.clone();
    }
    if report.translated == Some(false) {
        return match report.filtering {
            Some(Filtering::EndpointIndependent) => {
                "there is no NAT, and no firewall keeps anybody's packets out.".to_owned()
            }
            Some(filtering) => {
                format!("there is no NAT, but a stateful firewall with {filtering} filtering.")
            }
            None => "there is no NAT; whose packets are let in could not be measured.".to_owned(),
        };
    }
    let mapping = match (report.translated, report.mapping_depends_on_destination) {
        (_, Some(false)) => {
            "the external port is the same for every destination, so peers can be told where to send"
        }
        (_, Some(true)) => {
            "the external port changes with the destination, so nobody can be told where to send"
        }
        (Some(_), None) => "there is address translation, of a kind that could not be measured",
        (None, None) => "no server that can be believed answered",
    };
    let filtering = match report.filtering {
        Some(Filtering::EndpointIndependent) => "anybody's packets are let in",
        Some(Filtering::AddressDependent) => {
            "packets are let in from any port of an address that was sent to"
        }
        Some(Filtering::AddressAndPortDependent) => "packets are let in only from where packets were sent to",
        None => "whose packets are let in could not be measured",
    };
    format!("{mapping}; {filtering}.")
}

fn advice(
    report: &UdpReport,
    tcp: &TcpReport,
    gateway: &GatewayReport,
    around: Option<&Surroundings>,
    udp: &Families<UdpReport>,
) -> Vec<String> {
    let mut advice = about_gateway(report, gateway);
    let mut say = |words: &str| advice.push(words.to_owned());
    if report.is_blocked() {
        say("Allow UDP to leave the network, or at least to the relay's port.");
        match around {
            Some(around) if around.reach.tls_443.is_open() => {
                say("Run a relay with TLS on port 443, which gets out here.");
            }
            _ if !tcp.reachable => say("Run a relay on a TCP port that gets out, such as 443."),
            _ => {}
        }
    }
    if let Some(PathMtuReport { bytes: Some(bytes), black_hole: Some(true), .. }) = &report.path_mtu {
        say(&format!(
            "Packets larger than {bytes} bytes vanish, and nobody says so: DTLS handshakes, QUIC and video may stall. Set \
             the MTU to {bytes} bytes, here or on the router, where \"MSS clamping\" helps TCP; or let ICMP \
             \"fragmentation needed\" through.",
        ));
    }
    if report.layers.carrier_grade == Some(true) {
        let sure = report.layers.carrier_grade_confidence == Some(Confidence::High);
        say(&format!(
            "Your provider {} one public address between customers: ask for one of your own, or for IPv6. Forwarding a \
             port on your own router does not help then.",
            if sure { "shares" } else { "probably shares" }
        ));
    } else if report.mapping_depends_on_destination == Some(true) && report.translated != Some(false) {
        say(
            "Set the router's NAT to \"full cone\" or \"endpoint-independent\" (games call symmetric NAT \"strict\"), \
             or forward a UDP port to this machine.",
        );
    } else if report.filtering == Some(Filtering::AddressAndPortDependent) {
        match report.translated {
            Some(false) => say(
                "To be reached from behind symmetric NATs as well: let the firewall pass UDP to a port of this machine.",
            ),
            _ => say("To be reached from behind symmetric NATs as well: forward a UDP port to this machine."),
        }
    }
    if report.reachable && report.translated == Some(true) && !udp.ipv6.reachable {
        say(
            "IPv6 would avoid the address translation: there is none here, or no server with IPv6 was asked.",
        );
    }
    if report.reachable && report.translated != Some(false) && report.mapping_depends_on_destination.is_none()
    {
        say("Ask a second server: --server may be repeated.");
    }
    advice
}

/// What the router could do, where that would help.
fn about_gateway(report: &UdpReport, gateway: &GatewayReport) -> Vec<String> {
    let open = report.filtering == Some(Filtering::EndpointIndependent)
        && (report.translated == Some(false) || report.mapping == Some(Mapping::EndpointIndependent));
    if gateway.address.is_none() || !report.reachable || open {
        return Vec::new();
    }
    let named = |which: fn(&ServiceReport) -> bool| -> Vec<_> {
        let services = gateway.services().into_iter().filter(|(_, service)| which(service));
        services.map(|(protocol, service)| (protocol, service.reason.as_str())).collect()
    };
    let granting = named(|service| service.granted == Some(true));
    match (granting.first(), report.layers.at_least) {
        (Some((protocol, _)), Some(2..)) => {
            return vec![format!(
                "{protocol} on your router can open a port, but another NAT is above the router, and would have to open \
                 one too."
            )];
        }
        (Some((protocol, _)), _) => {
            return vec![format!(
                "{protocol} on your router can open a port: peers behind any NAT then reach you directly, if the app \
                 asks for it."
            )];
        }
        // It refuses because of what is above it, or would not help.
        (None, Some(2..)) => return Vec::new(),
        (None, _) => {}
    }
    let refusing = named(|service| service.granted == Some(false));
    if refusing.is_empty() && report.translated == Some(true) {
        return vec![
            "Switch on PCP, NAT-PMP or UPnP in the router's settings: apps can then open a port by themselves."
                .to_owned(),
        ];
    }
    let refusing = refusing.into_iter();
    refusing
        .map(|(protocol, reason)| format!("Your router offers {protocol}, but opens no port: {reason}."))
        .collect()
}

/// How people call such a NAT.
pub(super) fn known_as(report: &UdpReport) -> Option<&'static str> {
    match (report.translated, report.mapping, report.filtering) {
        (Some(false), ..) => None,
        (_, Some(mapping), Some(filtering)) => classic_name(mapping, filtering),
        (_, Some(Mapping::AddressAndPortDependent), None) => Some("symmetric"),
        (_, Some(Mapping::EndpointIndependent), None) => Some("cone"),
        _ => None,
    }
}
