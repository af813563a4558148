//! What the gateway offers: PCP, NAT-PMP and UPnP, the external address that each claims, and whether a port is opened
//! when one asks. Each is asked for a mapping of a socket of ours, which is removed at once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::Serialize;
use thirl_common::net::Transport;

use super::behaviour::Confidence;
use super::findings::{Scope, beyond_all_nats};
use super::report::UdpReport;
use crate::port_mapping::{
    Event, MappingError, MappingId, MappingRequest, PortMapper, Protocol, ResultCode, UpnpError,
};

/// How long a trial mapping would last if its removal got lost.
const TRIAL: Duration = Duration::from_secs(60);

/// What the default gateway offers to one address family.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GatewayReport {
    /// The gateway; `None` if it is not known, or was not asked.
    pub address: Option<IpAddr>,
    /// The address that it has outside, if all its services that claim one agree.
    pub external: Option<IpAddr>,
    /// What `external` rests on, or why it is `None`.
    pub reason: String,
    /// Port Control Protocol (RFC 6887).
    pub pcp: ServiceReport,
    /// NAT Port Mapping Protocol (RFC 6886).
    pub nat_pmp: ServiceReport,
    /// UPnP IGD.
    pub upnp: ServiceReport,
}

/// One protocol by which a gateway opens ports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceReport {
    /// Whether it is spoken; `None` if that was not asked.
    pub offered: Option<bool>,
    /// The external address that it claims.
    pub external: Option<IpAddr>,
    /// Whether it made a mapping; `None` if it was not asked to.
    pub granted: Option<bool>,
    /// What that rests on.
    pub reason: String,
}

impl GatewayReport {
    /// Nothing was asked.
    pub fn unknown(reason: &str) -> GatewayReport {
        GatewayReport {
            address: None,
            external: None,
            reason: reason.to_owned(),
            pcp: ServiceReport::unknown(reason),
            nat_pmp: ServiceReport::unknown(reason),
            upnp: ServiceReport::unknown(reason),
        }
    }

    /// The services, the preferred first.
    pub fn services(&self) -> [(Protocol, &ServiceReport); 3] {
        [(Protocol::Pcp, &self.pcp), (Protocol::NatPmp, &self.nat_pmp), (Protocol::Upnp, &self.upnp)]
    }

    /// Whether an app that asks gets a port opened.
    pub fn opens_ports(&self) -> bool {
        self.services().iter().any(|(_, service)| service.granted == Some(true))
    }

    fn new(address: IpAddr, [pcp, nat_pmp, upnp]: [ServiceReport; 3]) -> GatewayReport {
        let mut report = GatewayReport {
            address: Some(address),
            external: None,
            reason: String::new(),
            pcp,
            nat_pmp,
            upnp,
        };
        let claims = report.services().map(|(protocol, service)| Some((protocol, service.external?)));
        let claims: Vec<_> = claims.into_iter().flatten().collect();
        let told = |says: &str| {
            let told: Vec<_> =
                claims.iter().map(|(protocol, ip)| format!("{protocol} {says} {ip}")).collect();
            told.join(", ")
        };
        (report.external, report.reason) = match report.claimed().len() {
            0 => (None, "the router claims no external address".to_owned()),
            1 => (claims.first().map(|(_, ip)| *ip), told("claims")),
            _ => (None, format!("the router's services disagree: {}", told("claims"))),
        };
        report
    }

    fn claimed(&self) -> BTreeSet<IpAddr> {
        self.services().iter().filter_map(|(_, service)| service.external).collect()
    }
}

impl ServiceReport {
    fn unknown(reason: &str) -> ServiceReport {
        ServiceReport { offered: None, external: None, granted: None, reason: reason.to_owned() }
    }
}

/// Puts what the router claims to have outside beside what servers see.
pub(super) fn look_above(udp: &mut UdpReport, gateway: &GatewayReport) {
    let claimed = gateway.claimed();
    let Some(claim) = claimed.iter().min_by_key(|ip| Scope::of(**ip)) else { return };
    if udp.translated == Some(false) {
        return;
    }
    let seen: BTreeSet<_> =
        beyond_all_nats(&udp.answers).iter().map(|answer| answer.reflexive.ip()).collect();
    let (at_least, carrier_grade, reason) = match (Scope::of(*claim), seen.first()) {
        (Scope::Global, _) if !seen.is_disjoint(&claimed) => {
            (1, Some(false), format!("servers see {claim}, the address that the router has outside"))
        }
        // With several external addresses, the one that was claimed may not have been seen.
        (Scope::Global, Some(only)) if seen.len() == 1 => {
            let reason =
                format!("the router has {claim} outside, but servers see {only}: another NAT is above it");
            (2, None, reason)
        }
        // A server that sees that very address is on this side of what may be above.
        (Scope::Global, _) => return,
        _ if seen.contains(claim) => return,
        (Scope::Shared, _) => {
            let range = "of the range between a provider and its customers (RFC 6598)";
            (2, Some(true), format!("the router has {claim} outside, {range}"))
        }
        (Scope::Private, _) => {
            (2, None, format!("the router has {claim} outside, a private address: another NAT is above it"))
        }
    };
    let layers = &mut udp.layers;
    layers.at_least = layers.at_least.max(Some(at_least));
    let known = layers.carrier_grade.is_some() && layers.carrier_grade_confidence == Some(Confidence::High);
    // A router on the way that looks like a provider's is weaker evidence than this.
    if !known && (carrier_grade.is_some() || layers.carrier_grade.is_none()) {
        layers.carrier_grade = carrier_grade;
        layers.carrier_grade_confidence = carrier_grade.map(|_| Confidence::High);
        layers.reason = reason;
    }
}

/// Asks everything of one gateway, by a mapper whose events it is told; its report belongs into
/// [`FamilyReport::gateway`](super::FamilyReport).
#[derive(Debug)]
pub struct GatewayTest {
    gateway: IpAddr,
    trials: [Trial; 3],
}

#[derive(Debug)]
struct Trial {
    protocol: Protocol,
    /// Of a socket of ours that is open, so that nobody else's port is opened.
    internal_port: u16,
    mapping: Option<MappingId>,
    over: bool,
    report: ServiceReport,
}

impl GatewayTest {
    /// Begins. `internal_ports` are those of UDP sockets of ours, one for each protocol.
    pub fn begin(now: Instant, mapper: &mut PortMapper, internal_ports: [u16; 3]) -> GatewayTest {
        mapper.discover(now);
        let mut ports = internal_ports.into_iter();
        let trials = Protocol::ALL.map(|protocol| Trial {
            protocol,
            internal_port: ports.next().unwrap_or_default(),
            mapping: None,
            over: false,
            report: ServiceReport::unknown("not asked"),
        });
        GatewayTest { gateway: mapper.gateway(), trials }
    }

    /// Takes an event of the mapper.
    pub fn handle_event(&mut self, now: Instant, mapper: &mut PortMapper, event: &Event) {
        let (Event::Found { protocol: by, .. } | Event::Missing { protocol: by, .. }) = event else {
            if let Some(trial) = self.trials.iter_mut().find(|trial| trial.is_about(event)) {
                trial.handle_mapping(now, mapper, event);
            }
            return;
        };
        let Some(trial) = self.trials.iter_mut().find(|trial| trial.protocol == *by) else { return };
        match event {
            Event::Found { external, .. } if trial.mapping.is_none() => {
                trial.report.offered = Some(true);
                trial.report.external = *external;
                trial.mapping = Some(mapper.map(
                    now,
                    MappingRequest {
                        lifetime: TRIAL,
                        protocol: Some(trial.protocol),
                        permanent: false,
                        ..MappingRequest::new(Transport::Udp, trial.internal_port)
                    },
                ));
            }
            Event::Found { external, .. } => trial.report.external = external.or(trial.report.external),
            Event::Missing { reason, .. } => trial.missing(reason),
            _ => {}
        }
    }

    /// Whether everything has been asked.
    pub fn is_over(&self) -> bool {
        self.trials.iter().all(|trial| trial.over)
    }

    /// What was found.
    pub fn report(&self) -> GatewayReport {
        GatewayReport::new(self.gateway, self.trials.each_ref().map(|trial| trial.report.clone()))
    }
}

impl Trial {
    fn is_about(&self, event: &Event) -> bool {
        match event {
            Event::Mapped { mapping, .. }
            | Event::Failed { mapping, .. }
            | Event::Removed { mapping, .. } => self.mapping == Some(*mapping),
            _ => false,
        }
    }

    fn handle_mapping(&mut self, now: Instant, mapper: &mut PortMapper, event: &Event) {
        match event {
            Event::Mapped { mapping, external, .. } => {
                self.report.granted = Some(true);
                self.report.external = Some(external.ip());
                self.report.reason = "it opened a port for a moment".to_owned();
                mapper.remove(now, *mapping);
            }
            Event::Failed { reasons, .. } => {
                let reason = reasons.iter().find(|(protocol, _)| *protocol == self.protocol);
                let permanent = MappingError::Upnp(UpnpError::OnlyPermanent);
                self.report.granted = (reason.map(|(_, reason)| reason) != Some(&permanent)).then_some(false);
                self.report.reason = reason.map_or(String::new(), |(_, reason)| reason.to_string());
                self.over = true;
            }
            Event::Removed { result, .. } => {
                if let Err(error) = result {
                    let left = TRIAL.as_secs();
                    self.report.reason +=
                        &format!("; it did not confirm the removal ({error}): {left} s later it is gone");
                }
                self.over = true;
            }
            _ => {}
        }
    }

    fn missing(&mut self, reason: &MappingError) {
        let refused =
            matches!(reason, MappingError::Refused(code) if *code != ResultCode::UnsupportedVersion);
        self.report.offered = (*reason != MappingError::Ipv4Only).then_some(refused);
        self.report.granted = refused.then_some(false);
        self.report.reason = reason.to_string();
        self.over = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::Answer;
    use crate::nat::report::FamilyReport;
    use crate::port_mapping::simulated::{EXTERNAL, Gateway, Speaks, World};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn claiming(claims: [&str; 3]) -> GatewayReport {
        let service = |claim: &str| {
            let external = (!claim.is_empty()).then(|| ip(claim));
            ServiceReport { external, ..ServiceReport::unknown("") }
        };
        GatewayReport::new(ip("192.168.1.1"), claims.map(service))
    }

    fn layers(claims: [&str; 3], seen: &[&str]) -> (Option<usize>, Option<bool>) {
        let mut udp = FamilyReport::unavailable("").udp;
        udp.translated = Some(true);
        udp.layers.at_least = Some(1);
        let answer = |seen: &&str| {
            let server = "192.0.2.9:3478".parse().unwrap();
            Answer { server, reflexive: (ip(seen), 1).into(), rtt_ms: None }
        };
        udp.answers = seen.iter().map(answer).collect();
        look_above(&mut udp, &claiming(claims));
        (udp.layers.at_least, udp.layers.carrier_grade)
    }

    #[test]
    fn what_the_router_has_outside_tells_of_what_is_above() {
        assert_eq!(layers(["11.0.0.1", "", ""], &["11.0.0.1"]), (Some(1), Some(false)));
        assert_eq!(layers(["11.0.0.1", "", ""], &["11.0.0.2"]), (Some(2), None));
        assert_eq!(layers(["", "10.0.0.7", ""], &["11.0.0.2"]), (Some(2), None));
        assert_eq!(layers(["", "", "100.64.0.9"], &["11.0.0.2"]), (Some(2), Some(true)));
        assert_eq!(layers(["100.64.0.9", "100.64.0.9", ""], &[]), (Some(2), Some(true)));
    }

    #[test]
    fn what_proves_nothing_changes_nothing() {
        for (claims, seen) in [
            (["", "", ""], ["11.0.0.1"].as_slice()),
            (["11.0.0.9", "", ""], &["11.0.0.1", "11.0.0.2"]),
            (["11.0.0.9", "", ""], &[]),
            (["10.0.0.7", "", ""], &["10.0.0.7"]),
            (["100.64.0.9", "", "11.0.0.1"], &["100.64.0.9"]),
        ] {
            assert_eq!(layers(claims, seen), (Some(1), None), "{claims:?} {seen:?}");
        }
    }

    /// Offered and granted, by PCP, NAT-PMP and UPnP.
    fn asked(settings: impl FnOnce(&mut Gateway)) -> (GatewayReport, [[Option<bool>; 2]; 3]) {
        let mut world = World::new(settings);
        let mut test = GatewayTest::begin(world.now, &mut world.mapper, [5000, 5001, 5002]);
        while !test.is_over() {
            let event = world.run(TRIAL, |event| Some(event.clone())).expect("it comes to an end");
            test.handle_event(world.now, &mut world.mapper, &event);
        }
        assert!(world.gateway.mappings.is_empty(), "trials are removed");
        let report = test.report();
        let services = report.services().map(|(_, service)| [service.offered, service.granted]);
        (report, services)
    }

    #[test]
    fn each_service_is_tried() {
        let (yes, no) = ([Some(true); 2], [Some(false), None]);
        let (report, services) = asked(|_| {});
        assert_eq!((report.external, services), (Some(EXTERNAL), [yes, yes, yes]));
        let (report, services) = asked(|gateway| {
            gateway.pcp = Speaks::Refusing(ResultCode::NotAuthorized);
            gateway.nat_pmp = Speaks::Nothing;
            gateway.upnp = Some(Err(UpnpError::OnlyPermanent));
        });
        assert_eq!(services, [[Some(true), Some(false)], no, [Some(true), None]]);
        assert!(report.pcp.reason.starts_with("NOT_AUTHORIZED"), "{}", report.pcp.reason);
        assert!(
            report.upnp.reason.contains("until they are removed"),
            "none is made: {}",
            report.upnp.reason
        );
        let (_, services) = asked(|gateway| {
            gateway.pcp = Speaks::OtherVersion;
            gateway.upnp = None;
        });
        assert_eq!(services, [no, yes, no]);
    }

    #[test]
    fn services_that_disagree_are_named() {
        let agreed = claiming(["11.0.0.1", "", "11.0.0.1"]);
        assert_eq!(agreed.external, Some(ip("11.0.0.1")));
        let apart = claiming(["11.0.0.1", "11.0.0.1", "10.0.0.1"]);
        assert_eq!(apart.external, None);
        assert!(apart.reason.contains("PCP claims 11.0.0.1, NAT-PMP claims 11.0.0.1, UPnP claims 10.0.0.1"));
    }
}
