//! What a diagnosis found, as data. The JSON that `thirl nat --json` prints is this: `docs/nat-json.md`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::allocation::AllocationReport;
use super::behaviour::{Confidence, Filtering, Mapping};
use super::filtering;
use super::findings::{Answer, Findings, Scope};
use super::gateway::{GatewayReport, look_above};
use super::hairpin::HairpinReport;
use super::hops::Hop;
use super::lifetime::LifetimeReport;
use super::mapping::{Conclusion, MappingTest};
use super::path_mtu::PathMtuReport;
use super::servers::FaultyServer;
use super::surroundings::Surroundings;
use super::verdict::Verdict;

/// The whole diagnosis.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What it means for connecting.
    pub verdict: Verdict,
    /// What happens to UDP.
    pub udp: Families<UdpReport>,
    /// What happens to TCP.
    pub tcp: Families<TcpReport>,
    /// What the gateway offers.
    pub gateway: Families<GatewayReport>,
    /// What else was found, if anybody looked around.
    #[serde(flatten)]
    pub surroundings: Option<Surroundings>,
}

/// The same for both address families.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Families<T> {
    /// IPv4.
    pub ipv4: T,
    /// IPv6.
    pub ipv6: T,
}

impl Report {
    /// Puts the reports of both families together.
    pub fn new(mut ipv4: FamilyReport, ipv6: FamilyReport) -> Report {
        look_above(&mut ipv4.udp, &ipv4.gateway);
        let udp = Families { ipv4: ipv4.udp, ipv6: ipv6.udp };
        let tcp = Families { ipv4: ipv4.tcp, ipv6: ipv6.tcp };
        let gateway = Families { ipv4: ipv4.gateway, ipv6: ipv6.gateway };
        Report { verdict: Verdict::new(&udp, &tcp, &gateway, None), udp, tcp, gateway, surroundings: None }
    }

    /// Adds what was found around, which the verdict then takes into account.
    #[must_use]
    pub fn with_surroundings(mut self, mut surroundings: Surroundings) -> Report {
        surroundings.nat64.used = self.udp.ipv4.is_through_nat64();
        self.verdict = Verdict::new(&self.udp, &self.tcp, &self.gateway, Some(&surroundings));
        self.surroundings = Some(surroundings);
        self
    }

    /// Whether any server answered over UDP.
    pub fn is_reachable(&self) -> bool {
        self.udp.ipv4.reachable || self.udp.ipv6.reachable
    }
}

/// What was found for one family.
#[derive(Clone, Debug, PartialEq)]
pub struct FamilyReport {
    /// Over UDP.
    pub udp: UdpReport,
    /// Over TCP.
    pub tcp: TcpReport,
    /// Of the gateway, which is asked beside the diagnosis.
    pub gateway: GatewayReport,
}

/// What happens to UDP of one family. What is `None` could not be told, and a reason stands beside it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UdpReport {
    /// Where the packets left this machine; `None` if it has no address of the family or no server was asked.
    pub local: Option<SocketAddr>,
    /// Whether anybody answered.
    pub reachable: bool,
    /// What each destination saw of one socket.
    pub answers: Vec<Answer>,
    /// Who did not answer.
    pub silent: Vec<SocketAddr>,
    /// Servers whose answers are not used.
    pub faulty: Vec<FaultyServer>,
    /// Whether there is address translation at all.
    pub translated: Option<bool>,
    /// The mapping behaviour.
    pub mapping: Option<Mapping>,
    /// Whether the mapping depends on the destination; known in more cases than the behaviour itself.
    pub mapping_depends_on_destination: Option<bool>,
    /// How sure that is.
    pub mapping_confidence: Option<Confidence>,
    /// Why `mapping` is `None`, or what it rests on.
    pub reason: String,
    /// The filtering behaviour.
    pub filtering: Option<Filtering>,
    /// How sure that is.
    pub filtering_confidence: Option<Confidence>,
    /// Why `filtering` is `None`, or what it rests on.
    pub filtering_reason: String,
    /// How ports and addresses are chosen; `None` if nobody answered.
    pub allocation: Option<AllocationReport>,
    /// The layers of NAT.
    pub layers: LayersReport,
    /// How large packets may be; `None` if nobody answered.
    pub path_mtu: Option<PathMtuReport>,
    /// Hairpinning; `None` unless it was asked for.
    pub hairpin: Option<HairpinReport>,
    /// The lifetime of mappings; `None` unless it was asked for.
    pub lifetime: Option<LifetimeReport>,
}

/// How many NATs there are on the way, as far as addresses tell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayersReport {
    /// So many or more.
    pub at_least: Option<usize>,
    /// Whether one of them is the provider's (CGNAT).
    pub carrier_grade: Option<bool>,
    /// How sure `carrier_grade` is.
    pub carrier_grade_confidence: Option<Confidence>,
    /// The routers on the way to the servers, the nearest first; `None` if nothing of them could be learnt. Each is
    /// asked for from another port, so where the way divides they may be of different ways.
    pub hops: Option<Vec<Hop>>,
    /// What it rests on.
    pub reason: String,
}

/// What happens to TCP of one family.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TcpReport {
    /// The port that all connections left from.
    pub local: Option<SocketAddr>,
    /// Whether a connection got out to any server's port.
    pub reachable: bool,
    /// What each destination saw.
    pub answers: Vec<Answer>,
    /// Whom no STUN answer came from, and why.
    pub failed: Vec<TcpFailure>,
    /// The mapping behaviour.
    pub mapping: Option<Mapping>,
    /// Whether the mapping depends on the destination.
    pub mapping_depends_on_destination: Option<bool>,
    /// Why `mapping` is `None`, or what it rests on.
    pub reason: String,
}

/// A server that did not answer over TCP.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TcpFailure {
    /// The server.
    pub server: SocketAddr,
    /// What happened.
    pub reason: String,
}

/// What the machine hands over.
pub(super) struct Conclusions<'a> {
    pub(super) found: &'a Findings,
    /// Of the socket that the answers came to.
    pub(super) local: Option<SocketAddr>,
    pub(super) failure: Option<&'a str>,
    pub(super) answers: Vec<Answer>,
    pub(super) silent: Vec<SocketAddr>,
    pub(super) mapping: Conclusion,
    pub(super) filtering: Option<filtering::Verdict>,
    pub(super) allocation: Option<AllocationReport>,
    pub(super) hairpin: Option<HairpinReport>,
    pub(super) lifetime: Option<LifetimeReport>,
    pub(super) streams: &'a MappingTest,
    pub(super) hops: Option<Vec<Hop>>,
    pub(super) path_mtu: Option<PathMtuReport>,
}

impl FamilyReport {
    pub(super) fn new(conclusions: Conclusions<'_>) -> FamilyReport {
        let tcp = TcpReport::new(conclusions.streams);
        FamilyReport { udp: UdpReport::new(conclusions), tcp, gateway: GatewayReport::unknown("not asked") }
    }

    /// What half of the connections tell is not used.
    pub(super) fn without_tcp_mapping(mut self, reason: &str) -> FamilyReport {
        self.tcp.mapping = None;
        self.tcp.mapping_depends_on_destination = None;
        self.tcp.reason = reason.to_owned();
        self
    }

    /// Nothing could be measured.
    pub fn unavailable(reason: &str) -> FamilyReport {
        let udp = UdpReport {
            local: None,
            reachable: false,
            answers: Vec::new(),
            silent: Vec::new(),
            faulty: Vec::new(),
            translated: None,
            mapping: None,
            mapping_depends_on_destination: None,
            mapping_confidence: None,
            reason: reason.to_owned(),
            filtering: None,
            filtering_confidence: None,
            filtering_reason: reason.to_owned(),
            allocation: None,
            layers: LayersReport::unknown(reason),
            path_mtu: None,
            hairpin: None,
            lifetime: None,
        };
        let tcp = TcpReport {
            local: None,
            reachable: false,
            answers: Vec::new(),
            failed: Vec::new(),
            mapping: None,
            mapping_depends_on_destination: None,
            reason: reason.to_owned(),
        };
        FamilyReport { udp, tcp, gateway: GatewayReport::unknown(reason) }
    }
}

impl UdpReport {
    fn new(conclusions: Conclusions<'_>) -> UdpReport {
        let Conclusions { found, failure, mut answers, silent, mapping, filtering, .. } = conclusions;
        if answers.is_empty() {
            answers = found.sound.iter().map(Answer::of).collect();
        }
        let silent: BTreeSet<_> = found.silent.iter().chain(&silent).copied().collect();
        let reason = match failure {
            Some(failure) => format!("not available on this machine: {failure}"),
            None => mapping.reason,
        };
        let (filtering, filtering_confidence, filtering_reason) =
            filtering.unwrap_or_else(|| (None, None, format!("not measurable: {reason}")));
        let translated = found
            .observations
            .first()
            .map(|_| found.observations.iter().any(|seen| seen.local != seen.reflexive));
        UdpReport {
            local: conclusions.local,
            reachable: !found.observations.is_empty() || !found.faulty.is_empty(),
            answers,
            silent: silent.into_iter().collect(),
            faulty: found.faulty.clone(),
            translated,
            mapping: mapping.mapping,
            mapping_depends_on_destination: mapping.depends,
            mapping_confidence: mapping.confidence,
            reason,
            filtering,
            filtering_confidence,
            filtering_reason,
            allocation: conclusions.allocation,
            layers: LayersReport::new(found, translated, conclusions.hops),
            path_mtu: conclusions.path_mtu,
            hairpin: conclusions.hairpin,
            lifetime: conclusions.lifetime,
        }
    }

    /// Whether IPv4 is reached from an IPv6 address of this machine.
    pub(super) fn is_through_nat64(&self) -> bool {
        let mut asked = self.answers.iter().map(|answer| &answer.server).chain(&self.silent);
        asked.any(SocketAddr::is_ipv4) && self.local.is_some_and(|local| local.is_ipv6())
    }

    /// Whether it is certain that nothing comes back over UDP, though servers were asked.
    pub fn is_blocked(&self) -> bool {
        !self.reachable && !self.silent.is_empty()
    }
}

impl LayersReport {
    fn unknown(reason: &str) -> LayersReport {
        LayersReport {
            at_least: None,
            carrier_grade: None,
            carrier_grade_confidence: None,
            hops: None,
            reason: reason.to_owned(),
        }
    }

    fn new(found: &Findings, translated: Option<bool>, hops: Option<Vec<Hop>>) -> LayersReport {
        let local = found.observations.first().map(|seen| seen.local.ip());
        let (Some(local), Some(translated)) = (local, translated) else {
            return LayersReport::unknown("nobody answered");
        };
        let seen: BTreeSet<_> = found.observations.iter().map(|seen| seen.reflexive.ip()).collect();
        let outermost = seen.iter().map(|ip| Scope::of(*ip)).max();
        let inner = |ip: &&IpAddr| Some(Scope::of(**ip)) != outermost && **ip != local;
        let (carrier_grade, reason) = carrier_grade(local, &seen, translated, hops.as_deref());
        LayersReport {
            at_least: Some(if translated { seen.iter().filter(inner).count() + 1 } else { 0 }),
            carrier_grade: carrier_grade.map(|(carrier_grade, _)| carrier_grade),
            carrier_grade_confidence: carrier_grade.map(|(_, confidence)| confidence),
            hops,
            reason,
        }
    }
}

/// Whether the provider translates addresses, and what tells it.
fn carrier_grade(
    local: IpAddr,
    seen: &BTreeSet<IpAddr>,
    translated: bool,
    hops: Option<&[Hop]>,
) -> (Option<(bool, Confidence)>, String) {
    const RANGE: &str = "of the range between a provider and its customers (RFC 6598)";
    if !translated {
        return (Some((false, Confidence::High)), "no address translation".to_owned());
    }
    if let Some(ip) = seen.iter().chain([&local]).find(|ip| Scope::of(**ip) == Scope::Shared) {
        return (Some((true, Confidence::High)), format!("{ip} is {RANGE}"));
    }
    let shared = |hop: &&Hop| hop.scope == Some(Scope::Shared);
    if let Some(Hop { distance, address: Some(ip), .. }) = hops.unwrap_or_default().iter().find(shared) {
        let reason = format!(
            "router {distance} on the way is {ip}, {RANGE}; a few providers number routers so for customers with an \
             address of their own too"
        );
        return (Some((true, Confidence::Medium)), reason);
    }
    let reason = "the provider's NAT cannot be seen from here: compare the address that the router has on the outside \
                  with the reflexive address";
    (None, reason.to_owned())
}

impl TcpReport {
    fn new(test: &MappingTest) -> TcpReport {
        let failed = test.failed.iter().map(|(server, reason)| (*server, reason.clone()));
        let silent =
            test.silent.iter().map(|server| (*server, "no connection within eight seconds".to_owned()));
        let failed: Vec<_> =
            failed.chain(silent).map(|(server, reason)| TcpFailure { server, reason }).collect();
        let answers = test.answers();
        let conclusion = test.conclude(failed.len());
        TcpReport {
            local: test.local,
            reachable: !answers.is_empty() || test.accepted,
            answers,
            failed,
            mapping: conclusion.mapping,
            mapping_depends_on_destination: conclusion.depends,
            reason: conclusion.reason,
        }
    }
}
