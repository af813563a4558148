//! Which search is worth while between two sides, by what both know of their NATs.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::behaviour::{MappingBehaviour, is_predicted};
use super::is_public;
use super::probe::Known;
use crate::agent::config::Role;
use crate::agent::event::{Route, SocketId};
use crate::agent::{Agent, HardNats, Policy};
use crate::candidate::{Candidate, CandidateKind, CandidateTransport, ComponentId};

/// A search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Sockets beside this one send to the peer's address.
    Open { beside: SocketId, target: SocketAddr },
    /// This socket sends to ports at the peer's address.
    Probe { from: SocketId, peer: IpAddr },
    /// Sockets beside this one send to a port that the peer's NAT is about to give it.
    Mutual { beside: SocketId, peer: IpAddr },
}

impl Plan {
    pub(super) fn socket(self) -> SocketId {
        match self {
            Plan::Open { beside: socket, .. }
            | Plan::Probe { from: socket, .. }
            | Plan::Mutual { beside: socket, .. } => socket,
        }
    }

    pub(super) fn peer(self) -> IpAddr {
        match self {
            Plan::Open { target, .. } => target.ip(),
            Plan::Probe { peer, .. } | Plan::Mutual { peer, .. } => peer,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Plan::Open { .. } | Plan::Probe { .. } => "birthday probing",
            Plan::Mutual { .. } => "port prediction on both sides",
        }
    }
}

/// One of the two.
enum Side {
    Ours,
    Theirs,
}

/// Why no search is worth while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Off {
    Switched,
    NoFront,
    OneAddress,
    PeerUnaware,
    NeitherIsHard,
    BothAreHard,
}

impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Off::Switched => "no search: it is switched off on this side",
            Off::NoFront => "no search: not both sides know a public address of theirs of one family",
            Off::OneAddress => "no search: both sides have one public address",
            Off::PeerUnaware => "no search: the peer does not say that it can",
            Off::NeitherIsHard => "no search: no side's mapping is known to depend on the destination",
            Off::BothAreHard => {
                "no search: both sides' mappings depend on the destination, not both give out ports in sequence, and no filter is \
                 known to let in what comes from any port of the other side"
            }
        })
    }
}

/// The public address of a side by which the other is to reach it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Front {
    pub(super) socket: SocketId,
    pub(super) address: SocketAddr,
}

impl Agent {
    /// Whether any of it is to be done here.
    pub(in super::super) fn does_hard_nats(&self) -> bool {
        let HardNats { prediction, birthday, .. } = self.config.hard_nats;
        (prediction || birthday) && !self.config.lite && self.config.policy != Policy::Relay
    }

    /// Whether the peer says that it knows what this is.
    pub(super) fn peer_knows_hard_nats(&self) -> bool {
        let told = |known: &Candidate| MappingBehaviour::told_by(known).is_some();
        self.told().is_some() || self.session.candidates.iter().any(told)
    }

    /// What is worth while for a component.
    pub(super) fn plan(&self, component: ComponentId) -> Result<Plan, Off> {
        if !self.does_hard_nats() {
            return Err(Off::Switched);
        }
        let mut why = Off::NoFront;
        for ipv4 in [true, false] {
            let fronts = self.local_front(component, ipv4).zip(self.remote_front(component, ipv4));
            let Some((ours, target)) = fronts else { continue };
            if !self.peer_knows_hard_nats() {
                return Err(Off::PeerUnaware);
            }
            match self.plan_between(ours, target) {
                Ok(plan) => return Ok(plan),
                Err(off) => why = off,
            }
        }
        Err(why)
    }

    fn plan_between(&self, ours: Front, target: SocketAddr) -> Result<Plan, Off> {
        use MappingBehaviour::Sequential;
        let HardNats { prediction, birthday, .. } = self.config.hard_nats;
        let (socket, peer) = (ours.socket, target.ip());
        let mine =
            self.local.sockets.get(&socket).map_or(MappingBehaviour::Unknown, |socket| socket.behaviour());
        let theirs = self.remote_behaviour(peer);
        if ours.address.ip() == peer {
            return Err(Off::OneAddress);
        }
        let wanted = |hard: MappingBehaviour| birthday || prediction && hard.is_sequential();
        match (mine, theirs) {
            (Sequential(_), Sequential(_)) if prediction => Ok(Plan::Mutual { beside: socket, peer }),
            (mine, theirs) => match self.side_to_open(socket, mine, theirs)? {
                Side::Ours if wanted(mine) => Ok(Plan::Open { beside: socket, target }),
                Side::Theirs if wanted(theirs) => Ok(Plan::Probe { from: socket, peer }),
                _ => Err(Off::Switched),
            },
        }
    }

    /// Which side opens the many ports: the one whose mapping depends on the destination. If both do, one whose filter lets in
    /// what comes from whichever port of the other side.
    fn side_to_open(
        &self,
        socket: SocketId,
        mine: MappingBehaviour,
        theirs: MappingBehaviour,
    ) -> Result<Side, Off> {
        match (mine.is_dependent(), theirs.is_dependent()) {
            (false, false) => Err(Off::NeitherIsHard),
            (true, false) => Ok(Side::Ours),
            (false, true) => Ok(Side::Theirs),
            (true, true) => match (self.is_lenient(socket), self.is_peer_lenient()) {
                (false, false) => Err(Off::BothAreHard),
                (true, false) => Ok(Side::Ours),
                (false, true) => Ok(Side::Theirs),
                (true, true) => Ok(match (mine.is_sequential(), theirs.is_sequential()) {
                    (true, false) => Side::Ours,
                    (false, true) => Side::Theirs,
                    _ if self.role == Role::Controlling => Side::Ours,
                    _ => Side::Theirs,
                }),
            },
        }
    }

    /// This side's best public address of a family, as the peer finds it among what it was told.
    pub(super) fn local_front(&self, component: ComponentId, ipv4: bool) -> Option<Front> {
        let told = self.local.candidates.values().filter(|local| local.signalled && !local.lost);
        let fronts = told.filter_map(|local| {
            let Route::Socket(socket) = local.route else { return None };
            Some((front_rank(&local.candidate, component, ipv4)?, socket))
        });
        let ((_, std::cmp::Reverse(address)), socket) = fronts.max()?;
        Some(Front { socket, address })
    }

    /// The peer's.
    pub(super) fn remote_front(&self, component: ComponentId, ipv4: bool) -> Option<SocketAddr> {
        let told = self.session.candidates.iter();
        let fronts = told.filter_map(|known| front_rank(known, component, ipv4));
        fronts.max().map(|(_, std::cmp::Reverse(address))| address)
    }

    /// What is known of the peer's NAT that has this address. The worst of what its candidates say counts: the first was told
    /// before more was known.
    pub(super) fn remote_behaviour(&self, ip: IpAddr) -> MappingBehaviour {
        let heard = self.told().map_or(MappingBehaviour::Unknown, MappingBehaviour::of_attribute);
        if heard != MappingBehaviour::Unknown {
            return heard;
        }
        let told = self.candidates_at(ip).filter_map(MappingBehaviour::told_by);
        let known = told.filter(|told| *told != MappingBehaviour::Unknown);
        known.max_by_key(|told| told.is_dependent()).unwrap_or_default()
    }

    /// Whether the peer's mapping depends on the destination, if it told.
    pub(in super::super) fn remote_mapping_depends(&self) -> Option<bool> {
        let component = self.session.streams.ids().into_iter().next()?;
        let front = [true, false].into_iter().find_map(|ipv4| self.remote_front(component, ipv4));
        let told = front.map(|front| self.remote_behaviour(front.ip()));
        let told = told.filter(|told| *told != MappingBehaviour::Unknown);
        told.map(MappingBehaviour::is_dependent).or(self.session.hint)
    }

    /// The newest port that is known of the peer's.
    pub(super) fn remote_port(&self, ip: IpAddr) -> Option<Known> {
        if let Some((port, step)) = self.remote_sequence(ip) {
            return Some(Known { port, step: Some(step) });
        }
        let port = self.told_port().or_else(|| self.reflexive_ports(ip, |known| !is_predicted(known)).next());
        port.map(|port| Known { port, step: None })
    }

    /// The newest port that is known of the peer's sequence, if there is one.
    pub(super) fn remote_sequence(&self, ip: IpAddr) -> Option<(u16, i8)> {
        let MappingBehaviour::Sequential(step) = self.remote_behaviour(ip) else { return None };
        let sequential =
            |known: &Candidate| MappingBehaviour::told_by(known).is_some_and(MappingBehaviour::is_sequential);
        let told = self.reflexive_ports(ip, sequential);
        let furthest = told.max_by_key(|port| i32::from(*port) * i32::from(step.signum()));
        self.told_port().or(furthest).map(|port| (port, step))
    }

    /// The port of its newest mapping, as its checks told.
    fn told_port(&self) -> Option<u16> {
        self.told().map(|told| told.port).filter(|port| *port != 0)
    }

    fn reflexive_ports(&self, ip: IpAddr, fits: impl Fn(&Candidate) -> bool) -> impl Iterator<Item = u16> {
        let reflexive = |known: &&Candidate| known.kind == CandidateKind::ServerReflexive;
        let fitting = self.candidates_at(ip).filter(reflexive).filter(move |known| fits(known));
        fitting.filter_map(|known| Some(known.address.ip()?.port()))
    }

    /// What the peer told at an address of its own.
    fn candidates_at(&self, ip: IpAddr) -> impl Iterator<Item = &Candidate> {
        let there = move |known: &&Candidate| known.address.ip().is_some_and(|address| address.ip() == ip);
        self.session.candidates.iter().filter(there)
    }
}

/// How good a candidate is as the address by which the other side reaches this one, and that address.
fn front_rank(
    candidate: &Candidate,
    component: ComponentId,
    ipv4: bool,
) -> Option<(u32, std::cmp::Reverse<SocketAddr>)> {
    let address = candidate.address.ip()?;
    let kind = matches!(candidate.kind, CandidateKind::Host | CandidateKind::ServerReflexive);
    let fits = kind
        && candidate.component == component
        && candidate.transport == CandidateTransport::Udp
        && address.is_ipv4() == ipv4
        && is_public(address.ip())
        && !is_predicted(candidate);
    fits.then_some((candidate.priority, std::cmp::Reverse(address)))
}
