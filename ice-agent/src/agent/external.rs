//! What this side tells of its addresses, and what no STUN server says of them: rules for 1:1 NATs, mappings that a router
//! made, names in place of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use thirl_common::net::canonical;

use super::Agent;
use super::config::Policy;
use super::event::{ListenerId, Route, SocketId};
use super::local::Found;
use crate::candidate::{Candidate, CandidateAddress, CandidateKind, TcpType};

/// The port of a related address that is not told: the discard port (RFC 8839, section 5.1).
const DISCARD: u16 = 9;

/// How this host's addresses are known outside: a rule for a 1:1 NAT, as clouds have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternalAddress {
    /// This host's address; `None` for any of the same family as the external one.
    pub local: Option<IpAddr>,
    /// The address outside. The ports are the same.
    pub external: IpAddr,
    /// Whether the peer is told the external address in place of this host's, not beside it.
    pub replaces: bool,
}

impl ExternalAddress {
    pub(super) fn is_of(&self, local: IpAddr) -> bool {
        self.external.is_ipv4() == local.is_ipv4() && self.local.is_none_or(|own| own == local)
    }
}

type Accepts = dyn Fn(&Candidate) -> bool + Send + Sync;

/// Says which candidates may be used; all of them by default.
#[derive(Clone, Default)]
pub struct CandidateFilter(Option<Arc<Accepts>>);

impl CandidateFilter {
    /// Those for which `accepts` says so.
    pub fn new(accepts: impl Fn(&Candidate) -> bool + Send + Sync + 'static) -> CandidateFilter {
        CandidateFilter(Some(Arc::new(accepts)))
    }

    pub(super) fn accepts(&self, candidate: &Candidate) -> bool {
        self.0.as_ref().is_none_or(|accepts| accepts(candidate))
    }
}

impl fmt::Debug for CandidateFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "CandidateFilter(of the application)"
        } else {
            "CandidateFilter(all)"
        })
    }
}

impl Agent {
    /// Tells a name in place of a host address from now on, such as one of mDNS (draft-ietf-mmusic-mdns-ice-candidates,
    /// section 3.1). To be called before sockets with that address are added.
    pub fn name_address(&mut self, ip: IpAddr, name: String) {
        self.local.names.insert(ip, name);
    }

    /// This host's router maps an external address to a socket: it becomes a server-reflexive candidate.
    pub fn add_mapped_address(&mut self, now: Instant, id: SocketId, external: SocketAddr) {
        self.add_external(now, id, external);
        self.pump(now);
    }

    /// The same for a TCP port: it becomes a passive candidate, to which the peer connects.
    pub fn add_mapped_tcp_address(&mut self, now: Instant, id: ListenerId, external: SocketAddr) {
        self.add_tcp_reflexive(now, id, &[TcpType::Passive], external, None);
        self.pump(now);
    }

    /// What rules say of a socket's address, beside itself.
    pub(super) fn add_external_addresses(&mut self, now: Instant, id: SocketId) {
        let Some(local) = self.local.sockets.get(&id).map(|socket| socket.at.local) else { return };
        let rules = self.config.external_addresses.clone();
        for rule in rules.iter().filter(|rule| !rule.replaces && rule.is_of(local.ip())) {
            self.add_external(now, id, SocketAddr::new(rule.external, local.port()));
        }
    }

    fn add_external(&mut self, now: Instant, id: SocketId, external: SocketAddr) {
        if let Some(found) = self.reflexive(Route::Socket(id), external) {
            self.add_local_candidate(now, &found);
        }
    }

    /// A candidate at an address by which a socket or TCP port is known outside, whoever says so; `None` if it cannot be.
    pub(super) fn reflexive(&self, route: Route, address: SocketAddr) -> Option<Found> {
        let (at, component, local_preference) = match route {
            Route::Socket(id) => {
                let socket = self.local.sockets.get(&id)?;
                (socket.at, socket.component, socket.local_preference)
            }
            Route::Tcp(id, _) => {
                let listener = self.local.listeners.get(&id)?;
                (listener.at, listener.component, listener.other_preference)
            }
            Route::Relay(_) => return None,
        };
        at.can_be_known_as(address).then(|| Found {
            component,
            kind: CandidateKind::ServerReflexive,
            address,
            told: None,
            route,
            local_preference,
            related: Some(self.told_base(route)),
            server: None,
            guess: None,
        })
    }

    /// What the peer is told in place of a host address, if not that.
    pub(super) fn told_in_place_of(&self, local: SocketAddr) -> Option<CandidateAddress> {
        let replaced = |rule: &&ExternalAddress| rule.replaces && rule.is_of(canonical(local).ip());
        if let Some(rule) = self.config.external_addresses.iter().find(replaced) {
            return Some(CandidateAddress::Ip(SocketAddr::new(rule.external, local.port())));
        }
        let name = self.local.names.get(&local.ip())?.clone();
        Some(CandidateAddress::Unresolved { name, port: local.port() })
    }

    /// The related address of a reflexive candidate on a route: nothing, if the peer is not told the base either.
    pub(super) fn told_base(&self, route: Route) -> SocketAddr {
        let base = self.local.base(route).and_then(|base| self.local.get(base));
        let told = base.filter(|base| base.signalled).and_then(|base| base.candidate.address.ip());
        match self.local.address(route) {
            Some(local) if told == Some(canonical(local)) => local,
            Some(SocketAddr::V6(_)) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), DISCARD),
            _ => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), DISCARD),
        }
    }

    /// Whether a candidate may be told and used.
    pub(super) fn accepts(&self, candidate: &Candidate) -> bool {
        let hidden = self.config.policy == Policy::NoHost && candidate.kind == CandidateKind::Host;
        !hidden && self.config.filter.accepts(candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AgentConfig, Event, Role};
    use super::*;

    fn told(config: AgentConfig, act: impl FnOnce(&mut Agent, Instant, SocketId)) -> Vec<String> {
        #[expect(clippy::disallowed_methods, reason = "a test's clock")]
        let now = Instant::now();
        let mut agent = Agent::new(config, [1; 32]);
        agent.name_address("10.0.0.2".parse().unwrap(), "a-name.local".to_owned());
        let ids = ["192.168.1.2:4000", "10.0.0.2:5000"]
            .map(|local| agent.add_local_socket(now, local.parse().unwrap(), 255));
        agent.gather(now);
        act(&mut agent, now, ids[0]);
        let events = std::iter::from_fn(|| agent.poll_event()).filter_map(|event| match event {
            Event::LocalCandidate(told) => {
                let related = told.related.map_or(String::new(), |related| format!(" {related}"));
                Some(format!("{} {}{related}", told.kind, told.address))
            }
            _ => None,
        });
        events.collect()
    }

    fn rule(local: Option<&str>, replaces: bool) -> ExternalAddress {
        let local = local.map(|ip| ip.parse().unwrap());
        ExternalAddress { local, external: "198.51.100.7".parse().unwrap(), replaces }
    }

    fn config(external_addresses: Vec<ExternalAddress>) -> AgentConfig {
        AgentConfig { external_addresses, ..AgentConfig::new(Role::Controlling) }
    }

    const OWN: [&str; 2] = ["host 192.168.1.2:4000", "host a-name.local:5000"];

    #[test]
    fn rules_add_and_replace() {
        let nothing = |_: &mut Agent, _, _| {};
        assert_eq!(told(config(vec![]), nothing), OWN);
        let added = told(config(vec![rule(Some("192.168.1.2"), false)]), nothing);
        assert_eq!(added, [OWN[0], "srflx 198.51.100.7:4000 192.168.1.2:4000", OWN[1]]);
        let replaced = told(config(vec![rule(None, true)]), nothing);
        assert_eq!(replaced, ["host 198.51.100.7:4000", "host 198.51.100.7:5000"]);
        // A rule is for its own family.
        let ipv6 = ExternalAddress { external: "2001:db8::1".parse().unwrap(), ..rule(None, true) };
        assert_eq!(told(config(vec![ipv6]), nothing), OWN);
    }

    #[test]
    fn what_a_router_maps_is_told_once() {
        let external = "198.51.100.9:6000".parse().unwrap();
        let map = |agent: &mut Agent, now, id| {
            agent.add_mapped_address(now, id, external);
            agent.add_mapped_address(now, id, external);
            agent.add_mapped_address(now, id, "0.0.0.0:6000".parse().unwrap());
            agent.add_mapped_address(now, id, "[2001:db8::1]:6000".parse().unwrap());
        };
        assert_eq!(told(config(vec![]), map), [OWN[0], OWN[1], "srflx 198.51.100.9:6000 192.168.1.2:4000"]);
        let no_host = AgentConfig { policy: Policy::NoHost, ..config(vec![]) };
        assert_eq!(told(no_host, map), ["srflx 198.51.100.9:6000 0.0.0.0:9"]);
        let hosts_only = CandidateFilter::new(|candidate| candidate.kind == CandidateKind::Host);
        assert_eq!(told(AgentConfig { filter: hosts_only, ..config(vec![]) }, map), OWN);
        let relay = AgentConfig { policy: Policy::Relay, ..config(vec![]) };
        assert_eq!(told(relay, map), [""; 0]);
    }
}
