//! This side: sockets, the candidates on them, and what servers and peers saw of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use thirl_common::net::{Nat64Prefix, canonical};

use super::event::{Route, SocketId};
use crate::candidate::{
    Candidate, CandidateAddress, CandidateKind, CandidateTransport, ComponentId, priority,
};

/// More mappings of one socket tell nothing new.
const MAX_MAPPINGS: usize = 16;

/// The index of a local candidate. Local candidates are never taken off their list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LocalId(pub(super) usize);

/// A UDP socket, which is a base (RFC 8445, section 4).
#[derive(Debug)]
pub(super) struct Socket {
    /// Whose packets it carries.
    pub(super) component: ComponentId,
    /// With its scope, if it is link-local.
    pub(super) local: SocketAddr,
    /// The local preference of the candidates on it (RFC 8445, section 5.1.2.1).
    pub(super) local_preference: u16,
    /// How the driver ranks its interface.
    pub(super) preference: u8,
    /// Whether other agents use it as well.
    pub(super) shared: bool,
    /// Under what it reaches IPv4 hosts, if it is one of IPv6.
    pub(super) nat64: Option<Nat64Prefix>,
    pub(super) lost: bool,
    pub(super) mappings: Vec<Mapping>,
}

/// What someone saw of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// Who.
    pub(super) seen_by: SocketAddr,
    /// What.
    pub(super) mapped: SocketAddr,
}

/// A candidate of this side, and how it was had.
#[derive(Debug)]
pub(super) struct LocalCandidate {
    pub(super) candidate: Candidate,
    pub(super) address: SocketAddr,
    /// The base that it stands on.
    pub(super) route: Route,
    pub(super) local_preference: u16,
    /// The server that gave or saw it.
    pub(super) server: Option<SocketAddr>,
    /// Whether the peer is told.
    pub(super) signalled: bool,
    /// Whether what it stands on is gone.
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
}

/// What makes two candidates' foundations equal (RFC 8445, section 5.1.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FoundationKey {
    kind: CandidateKind,
    base: IpAddr,
    server: Option<SocketAddr>,
}

#[derive(Debug, Default)]
pub(super) struct LocalSide {
    /// In boxes, since a node of the map has room for eleven.
    pub(super) sockets: BTreeMap<SocketId, Box<Socket>>,
    pub(super) candidates: Vec<LocalCandidate>,
    /// Names that the peer is told in place of host addresses.
    pub(super) names: BTreeMap<IpAddr, String>,
    foundations: Vec<FoundationKey>,
}

impl LocalSide {
    pub(super) fn add_socket(
        &mut self,
        component: ComponentId,
        local: SocketAddr,
        preference: u8,
        shared: bool,
    ) -> SocketId {
        let id = SocketId(u32::try_from(self.sockets.len()).unwrap_or(u32::MAX));
        let local_preference = self.local_preference(component, local, preference);
        let socket = Socket {
            component,
            local,
            local_preference,
            preference,
            shared,
            nat64: None,
            lost: false,
            mappings: Vec::new(),
        };
        self.sockets.insert(id, Box::new(socket));
        id
    }

    /// Better interfaces before worse; among equals IPv6 and IPv4 in turn, IPv6 first (RFC 8421, section 4).
    fn local_preference(&self, component: ComponentId, local: SocketAddr, preference: u8) -> u16 {
        let alike = |socket: &Socket| {
            socket.component == component
                && socket.preference == preference
                && socket.local.is_ipv4() == local.is_ipv4()
        };
        let before =
            2 * self.sockets.values().filter(|socket| alike(socket)).count() + usize::from(local.is_ipv4());
        u16::from(preference) << 8 | u16::from(255 - u8::try_from(before).unwrap_or(u8::MAX))
    }

    pub(super) fn get(&self, id: LocalId) -> Option<&LocalCandidate> {
        self.candidates.get(id.0)
    }

    /// The candidate that is its own base on this route: what pairs are made of (RFC 8445, section 6.1.2.4).
    pub(super) fn base(&self, route: Route) -> Option<LocalId> {
        let is_base = |local: &LocalCandidate| {
            local.route == route
                && !local.lost
                && matches!(local.candidate.kind, CandidateKind::Host | CandidateKind::Relayed)
        };
        self.candidates.iter().position(is_base).map(LocalId)
    }

    /// Whose packets a route carries; nobody's if there is no candidate on it.
    pub(super) fn component(&self, route: Route) -> Option<ComponentId> {
        self.base(route).and_then(|id| self.get(id)).map(|local| local.candidate.component)
    }

    /// Whether pairs may be made on this route: the peer is told of something there.
    pub(super) fn is_open(&self, route: Route) -> bool {
        self.candidates.iter().any(|local| local.route == route && local.signalled && !local.lost)
    }

    pub(super) fn find(&self, route: Route, address: SocketAddr) -> Option<LocalId> {
        let at = |local: &LocalCandidate| {
            local.address == address || local.candidate.address == CandidateAddress::Ip(address)
        };
        let same = |local: &LocalCandidate| local.route == route && at(local) && !local.lost;
        self.candidates.iter().position(same).map(LocalId)
    }

    /// Adds a candidate unless one with the same base and address is there: that would be redundant (RFC 8445, section
    /// 5.1.3).
    pub(super) fn add(&mut self, found: &Found) -> Option<LocalId> {
        let address = canonical(found.address);
        if address.port() == 0 || address.ip().is_unspecified() || self.find(found.route, address).is_some() {
            return None;
        }
        let foundation = self.foundation(found);
        let candidate = Candidate {
            foundation,
            component: found.component,
            transport: CandidateTransport::Udp,
            priority: priority(found.kind, found.local_preference, found.component),
            address: found.told.clone().unwrap_or(CandidateAddress::Ip(address)),
            kind: found.kind,
            related: found.related.map(|related| CandidateAddress::Ip(canonical(related))),
            extensions: Vec::new(),
        };
        self.candidates.push(LocalCandidate {
            candidate,
            address,
            route: found.route,
            local_preference: found.local_preference,
            server: found.server,
            signalled: false,
            lost: false,
        });
        Some(LocalId(self.candidates.len() - 1))
    }

    fn foundation(&mut self, found: &Found) -> String {
        let base = match found.route {
            Route::Socket(id) => self.sockets.get(&id).map_or(found.address, |socket| socket.local),
            Route::Relay(_) => found.address,
        };
        let key = FoundationKey { kind: found.kind, base: base.ip(), server: found.server };
        let at = self.foundations.iter().position(|known| *known == key).unwrap_or_else(|| {
            self.foundations.push(key);
            self.foundations.len() - 1
        });
        (at + 1).to_string()
    }

    /// Notes what someone saw of a socket.
    pub(super) fn note_mapping(&mut self, id: SocketId, seen_by: SocketAddr, mapped: SocketAddr) {
        let Some(socket) = self.sockets.get_mut(&id) else { return };
        let mapping = Mapping { seen_by, mapped: canonical(mapped) };
        if let Some(known) = socket.mappings.iter_mut().find(|known| known.seen_by == seen_by) {
            *known = mapping;
        } else if socket.mappings.len() < MAX_MAPPINGS {
            socket.mappings.push(mapping);
        }
    }

    /// Whether the mapping of some socket depends on the destination: `None` if too few have been asked to say.
    pub(super) fn mapping_depends_on_destination(&self) -> Option<bool> {
        let mut verdict = None;
        for socket in self.sockets.values() {
            // Who sees the socket itself stands on this side of the NAT and knows nothing of it.
            let outside = |mapping: &&Mapping| mapping.mapped != canonical(socket.local);
            let mut seen = socket.mappings.iter().filter(outside);
            let Some(first) = seen.next() else { continue };
            for other in seen {
                if other.mapped != first.mapped && other.mapped.ip() == first.mapped.ip() {
                    return Some(true);
                }
                verdict = Some(false);
            }
        }
        verdict
    }
}
