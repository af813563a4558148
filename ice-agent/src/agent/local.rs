//! This side: sockets, the candidates on them, and what servers and peers saw of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use thirl_common::net::canonical;

use super::event::{ListenerId, Route, SocketId};
use super::hard_nat::{Guess, MappingBehaviour};
use super::nat64::Vantage;
use super::sorted::SortedMap;
use crate::candidate::{
    Candidate, CandidateAddress, CandidateKind, CandidateTransport, ComponentId, priority, tcp_priority,
};

/// More mappings of one socket tell nothing new.
const MAX_MAPPINGS: usize = 16;

/// A local candidate's name, in the order in which they were had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LocalId(u32);

/// A UDP socket, which is a base (RFC 8445, section 4).
#[derive(Debug)]
pub(super) struct Socket {
    /// Whose packets it carries.
    pub(super) component: ComponentId,
    /// Where it is bound.
    pub(super) at: Vantage,
    /// The local preference of the candidates on it (RFC 8445, section 5.1.2.1).
    pub(super) local_preference: u16,
    /// Whether other agents use it as well.
    pub(super) shared: bool,
    pub(super) mappings: Vec<Mapping>,
    /// The NAT was seen to give ports in no sequence, though those of the mappings are near.
    pub(super) erratic: bool,
}

/// A TCP port: the base of candidates of up to three types (RFC 6544, section 4.1).
#[derive(Debug)]
pub(super) struct Listener {
    /// Whose packets its connections carry.
    pub(super) component: ComponentId,
    /// Where it is. With port 0 nothing listens.
    pub(super) at: Vantage,
    /// The other-pref of the candidates on it (RFC 6544, section 4.2).
    pub(super) other_preference: u16,
    /// How the driver ranks its interface.
    pub(super) preference: u8,
}

/// What someone saw of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// Who.
    pub(super) seen_by: SocketAddr,
    /// What.
    pub(super) mapped: SocketAddr,
    /// The number of the mapping, in the order in which this side had them made.
    pub(super) flow: u32,
}

/// A candidate of this side, and how it was had.
#[derive(Debug)]
pub(super) struct LocalCandidate {
    pub(super) candidate: Candidate,
    pub(super) address: SocketAddr,
    /// The base that it stands on.
    pub(super) route: Route,
    /// Over TCP the other-pref: the type of the candidate makes the rest (RFC 6544, section 4.2).
    pub(super) local_preference: u16,
    /// The server that gave or saw it.
    pub(super) server: Option<SocketAddr>,
    /// What the address is guessed from, if it is.
    pub(super) guess: Option<Guess>,
    /// Whether the peer is told.
    pub(super) signalled: bool,
    /// Whether what it stands on is gone, so that it is only there for the pairs that were made with it.
    pub(super) lost: bool,
}

/// What a new candidate is made from.
pub(super) struct Found {
    pub(super) component: ComponentId,
    pub(super) kind: CandidateKind,
    pub(super) address: SocketAddr,
    /// What the peer is told in place of the address.
    pub(super) told: Option<CandidateAddress>,
    pub(super) route: Route,
    pub(super) local_preference: u16,
    pub(super) related: Option<SocketAddr>,
    pub(super) server: Option<SocketAddr>,
    /// What the address is guessed from, if it is.
    pub(super) guess: Option<Guess>,
}

/// The priority of a candidate on a route, such as the peer-reflexive one that a check from there may discover.
pub(super) fn priority_on(
    route: Route,
    kind: CandidateKind,
    local_preference: u16,
    component: ComponentId,
) -> u32 {
    match route.transport() {
        CandidateTransport::Tcp(ty) => tcp_priority(kind, ty, local_preference, component),
        CandidateTransport::Udp | CandidateTransport::Other(_) => priority(kind, local_preference, component),
    }
}

#[derive(Debug, Default)]
pub(super) struct LocalSide {
    pub(super) sockets: SortedMap<SocketId, Box<Socket>>,
    sockets_made: u32,
    pub(super) listeners: SortedMap<ListenerId, Listener>,
    listeners_made: u32,
    pub(super) candidates: SortedMap<LocalId, LocalCandidate>,
    candidates_made: u32,
    /// So many mappings this side had made by the NAT, as far as it knows.
    flows: u32,
    /// Sockets on which the peer's checks arrived that nobody had told it of ([`super::hard_nat`]): bases as others.
    pub(super) found: Vec<SocketId>,
    /// Names that the peer is told in place of host addresses.
    pub(super) names: BTreeMap<IpAddr, String>,
}

impl LocalSide {
    pub(super) fn add_socket(
        &mut self,
        component: ComponentId,
        local: SocketAddr,
        preference: u8,
        shared: bool,
    ) -> SocketId {
        let id = self.next_socket();
        self.add_socket_as(id, component, local, preference, shared);
        id
    }

    /// A name that no other socket has had.
    pub(super) fn next_socket(&mut self) -> SocketId {
        self.sockets_made += 1;
        SocketId(self.sockets_made - 1)
    }

    pub(super) fn add_socket_as(
        &mut self,
        id: SocketId,
        component: ComponentId,
        local: SocketAddr,
        preference: u8,
        shared: bool,
    ) {
        let local_preference = self.local_preference(component, local, preference);
        let at = Vantage::new(local);
        let socket = Socket { component, at, local_preference, shared, mappings: Vec::new(), erratic: false };
        self.sockets.insert(id, Box::new(socket));
    }

    /// Takes a socket away, and the name of its address if that was the last one there.
    pub(super) fn remove_socket(&mut self, id: SocketId) -> Option<Box<Socket>> {
        let socket = self.sockets.remove(&id)?;
        if self.sockets.values().all(|other| other.at.local.ip() != socket.at.local.ip()) {
            self.names.remove(&socket.at.local.ip());
        }
        Some(socket)
    }

    /// Better interfaces before worse; among equals IPv6 and IPv4 in turn, IPv6 first (RFC 8421, section 4).
    fn local_preference(&self, component: ComponentId, local: SocketAddr, preference: u8) -> u16 {
        let of = |rank: u8| u16::from(preference) << 8 | u16::from(rank);
        let taken = |wanted: u16| {
            let mut sockets = self.sockets.values();
            sockets.any(|socket| socket.component == component && socket.local_preference == wanted)
        };
        let best = u8::MAX - u8::from(local.is_ipv4());
        (0..=best).rev().step_by(2).map(of).find(|wanted| !taken(*wanted)).unwrap_or(of(0))
    }

    pub(super) fn add_listener(
        &mut self,
        component: ComponentId,
        local: SocketAddr,
        preference: u8,
    ) -> ListenerId {
        let id = ListenerId(self.listeners_made);
        self.listeners_made += 1;
        let other_preference = self.other_preference(component, local, preference);
        let at = Vantage::new(local);
        self.listeners.insert(id, Listener { component, at, other_preference, preference });
        id
    }

    /// As [`Self::local_preference`], in 13 bits: candidates of one type and direction have different ones (RFC 6544, section
    /// 4.2).
    fn other_preference(&self, component: ComponentId, local: SocketAddr, preference: u8) -> u16 {
        let of = |rank: u8| u16::from(preference >> 3) << 8 | u16::from(rank);
        let taken = |wanted: u16| {
            let mut listeners = self.listeners.values();
            listeners.any(|listener| listener.component == component && listener.other_preference == wanted)
        };
        let best = u8::MAX - u8::from(local.is_ipv4());
        (0..=best).rev().step_by(2).map(of).find(|wanted| !taken(*wanted)).unwrap_or(of(0))
    }

    /// Where a route begins on this host; nowhere for an allocation.
    pub(super) fn address(&self, route: Route) -> Option<SocketAddr> {
        match route {
            Route::Socket(id) => self.sockets.get(&id).map(|socket| socket.at.local),
            Route::Tcp(id, _) => self.listeners.get(&id).map(|listener| listener.at.local),
            Route::Relay(_) => None,
        }
    }

    /// How a candidate's interface ranks: the higher, the better.
    pub(super) fn interface_preference(&self, local: &LocalCandidate) -> u16 {
        match local.route {
            Route::Tcp(id, _) => self.listeners.get(&id).map_or(0, |listener| u16::from(listener.preference)),
            Route::Socket(_) | Route::Relay(_) => local.local_preference >> 8,
        }
    }

    pub(super) fn get(&self, id: LocalId) -> Option<&LocalCandidate> {
        self.candidates.get(&id)
    }

    /// The candidate that is its own base on this route: what pairs are made of (RFC 8445, section 6.1.2.4).
    pub(super) fn base(&self, route: Route) -> Option<LocalId> {
        let is_base = |local: &LocalCandidate| {
            local.route == route
                && !local.lost
                && matches!(local.candidate.kind, CandidateKind::Host | CandidateKind::Relayed)
        };
        self.candidates.iter().find(|(_, local)| is_base(local)).map(|(id, _)| *id)
    }

    /// Whose packets a route carries; nobody's if there is no candidate on it.
    pub(super) fn component(&self, route: Route) -> Option<ComponentId> {
        self.base(route).and_then(|id| self.get(id)).map(|local| local.candidate.component)
    }

    /// Whether pairs may be made on this route: the peer is told of something there.
    pub(super) fn is_open(&self, route: Route) -> bool {
        let told = |local: &LocalCandidate| local.route == route && local.signalled && !local.lost;
        matches!(route, Route::Socket(id) if self.found.contains(&id)) || self.candidates.values().any(told)
    }

    pub(super) fn find(&self, route: Route, address: SocketAddr) -> Option<LocalId> {
        let at = |local: &LocalCandidate| {
            local.address == address || local.candidate.address == CandidateAddress::Ip(address)
        };
        let same = |local: &LocalCandidate| local.route == route && at(local) && !local.lost;
        self.candidates.iter().find(|(_, local)| same(local)).map(|(id, _)| *id)
    }

    /// Adds a candidate unless one with the same base and address is there: that would be redundant (RFC 8445, section
    /// 5.1.3).
    pub(super) fn add(&mut self, found: &Found) -> Option<LocalId> {
        let address = canonical(found.address);
        if address.port() == 0 || address.ip().is_unspecified() || self.find(found.route, address).is_some() {
            return None;
        }
        let id = LocalId(self.candidates_made);
        self.candidates_made += 1;
        // A guess comes after all that is known.
        let local_preference = found.guess.map_or(found.local_preference, Guess::local_preference);
        let candidate = Candidate {
            foundation: self.foundation(found).unwrap_or_else(|| self.candidates_made.to_string()),
            component: found.component,
            transport: found.route.transport(),
            priority: priority_on(found.route, found.kind, local_preference, found.component),
            address: found.told.clone().unwrap_or(CandidateAddress::Ip(address)),
            kind: found.kind,
            related: found.related.map(|related| CandidateAddress::Ip(canonical(related))),
            extensions: Vec::new(),
        };
        let local = LocalCandidate {
            candidate,
            address,
            route: found.route,
            local_preference,
            server: found.server,
            guess: found.guess,
            signalled: false,
            lost: false,
        };
        self.candidates.insert(id, local);
        Some(id)
    }

    /// The foundation of the candidates with which it has kind, base, server and transport in common, if there are some (RFC 8445,
    /// section 5.1.1.3).
    fn foundation(&self, found: &Found) -> Option<String> {
        let base = |route, address| self.address(route).unwrap_or(address).ip();
        // Over TCP what lets one side open a connection need not let the other.
        let transport = found.route.transport();
        let key =
            (found.kind, found.server, base(found.route, canonical(found.address)), &transport, found.guess);
        let alike = |known: &&LocalCandidate| {
            let Candidate { kind, transport, .. } = &known.candidate;
            (*kind, known.server, base(known.route, known.address), transport, known.guess) == key
        };
        self.candidates.values().find(alike).map(|known| known.candidate.foundation.clone())
    }

    /// The first candidate with the same foundation.
    pub(super) fn first_alike(&self, id: LocalId) -> Option<LocalId> {
        let foundation = &self.get(id)?.candidate.foundation;
        self.candidates.iter().find(|(_, known)| known.candidate.foundation == *foundation).map(|(id, _)| *id)
    }

    /// A first packet goes to some destination: the NAT may make a mapping for it, which has this number.
    pub(super) fn next_flow(&mut self) -> u32 {
        self.flows = self.flows.saturating_add(1);
        self.flows
    }

    /// Notes what someone saw of a socket.
    pub(super) fn note_mapping(&mut self, id: SocketId, seen_by: SocketAddr, mapped: SocketAddr, flow: u32) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let mapping = Mapping { seen_by, mapped: canonical(mapped), flow };
        if let Some(known) = socket.mappings.iter_mut().find(|known| known.seen_by == seen_by) {
            *known = mapping;
        } else if socket.mappings.len() < MAX_MAPPINGS {
            socket.mappings.reserve_exact(1);
            socket.mappings.push(mapping);
        }
    }

    /// Whether the mapping of some socket depends on the destination: `None` if too few have been asked to say.
    pub(super) fn mapping_depends_on_destination(&self) -> Option<bool> {
        let known = self.sockets.values().map(|socket| socket.behaviour());
        let known = known.filter(|behaviour| *behaviour != MappingBehaviour::Unknown);
        known.map(MappingBehaviour::is_dependent).max()
    }
}

impl Socket {
    /// What others saw of this socket from beyond the NAT. Who sees the socket itself stands on this side of it and knows
    /// nothing of it.
    pub(super) fn seen_outside(&self) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter().filter(|mapping| mapping.mapped != canonical(self.at.local))
    }

    /// How the NAT before this socket makes mappings. Only those at one address are compared: others may be of another NAT.
    pub(super) fn behaviour(&self) -> MappingBehaviour {
        let Some(first) = self.seen_outside().next() else { return MappingBehaviour::Unknown };
        let same = self.seen_outside().filter(|other| other.mapped.ip() == first.mapped.ip());
        match MappingBehaviour::of(same.map(|seen| (seen.flow, seen.mapped.port())).collect()) {
            MappingBehaviour::Sequential(_) if self.erratic => MappingBehaviour::Random,
            behaviour => behaviour,
        }
    }

    /// Its newest mapping.
    pub(super) fn newest_mapping(&self) -> Option<Mapping> {
        self.seen_outside().max_by_key(|mapping| mapping.flow).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::{Agent, AgentConfig, Role};
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    fn origin() -> Instant {
        Instant::now()
    }

    #[test]
    fn networks_that_come_and_go_leave_nothing() {
        let mut now = origin();
        let stun = vec!["192.0.2.1:3478".parse().unwrap(), "192.0.2.2:3478".parse().unwrap()];
        let mut agent = Agent::new(AgentConfig { stun, ..AgentConfig::new(Role::Controlling) }, [7; 32]);
        let first = agent.add_local_socket(now, "10.0.0.1:1000".parse().unwrap(), 255);
        agent.gather(now);
        let remote = super::super::Credentials { ufrag: "peer".to_owned(), pwd: "p".repeat(24) };
        agent.set_remote_credentials(now, remote).unwrap();
        let told = "candidate:1 1 udp 2130706431 203.0.113.1 2000 typ host";
        agent.add_remote_candidate(now, Candidate::parse(told).unwrap());
        let mut old = first;
        for n in 0..1000u16 {
            let [high, low] = n.to_be_bytes();
            let local = SocketAddr::new([10, 1, high, low].into(), 1000);
            agent.name_address(local.ip(), format!("{n}.local"));
            let new = agent.add_local_socket(now, local, 255);
            assert_ne!(new, old, "names are never used again");
            agent.local_socket_lost(now, old);
            old = new;
            now += Duration::from_millis(500);
            agent.handle_timeout(now);
            while agent.poll_transmit().is_some() || agent.poll_event().is_some() {}
        }
        assert_eq!((agent.local.sockets.len(), agent.local.names.len()), (1, 1));
        // Pairs that failed are kept for the report, up to the limit of pairs.
        assert!(agent.local.candidates.len() <= 101, "{}", agent.local.candidates.len());
        let report = agent.report();
        assert!(report.servers.len() <= 2, "{:?}", report.servers);
        assert_eq!(agent.local_candidates().count(), 1);
    }

    #[test]
    fn no_two_sockets_have_the_same_preference() {
        let mut side = LocalSide::default();
        let add = |side: &mut LocalSide, ip: &str| {
            side.add_socket(ComponentId::ONE, SocketAddr::new(ip.parse().unwrap(), 1), 200, false)
        };
        let ids = ["10.0.0.1", "fd00::1", "10.0.0.2"].map(|ip| add(&mut side, ip));
        side.sockets.remove(&ids[0]);
        add(&mut side, "10.0.0.3");
        add(&mut side, "10.0.0.4");
        let mut ranks: Vec<_> = side.sockets.values().map(|socket| socket.local_preference & 0xFF).collect();
        ranks.sort_unstable();
        assert_eq!(ranks, [250, 252, 254, 255], "IPv6 before IPv4, each its own");
    }
}
