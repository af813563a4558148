//! What a NAT or firewall remembers: its mappings, and through each the remote endpoints that were sent to.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::packet::{Packet, Segment};
use super::begun::Begun;
use super::lifetime::{Lifetimes, Refresh, Session};
use crate::behaviour::{Filtering, Mapping};

/// An internal endpoint, and the part of the destination that the mapping depends on (RFC 4787, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Key {
    internal: SocketAddr,
    address: Option<IpAddr>,
    port: Option<u16>,
}

impl Key {
    pub(in super::super) fn new(mapping: Mapping, internal: SocketAddr, to: SocketAddr) -> Key {
        let (address, port) = match mapping {
            Mapping::EndpointIndependent => (None, None),
            Mapping::AddressDependent => (Some(to.ip()), None),
            Mapping::AddressAndPortDependent => (Some(to.ip()), Some(to.port())),
        };
        Key { internal, address, port }
    }
}

#[derive(Debug)]
struct Entry {
    /// `None` if it was asked for, by PCP or the like.
    key: Option<Key>,
    internal: SocketAddr,
    made: Instant,
    last: Instant,
    /// When one that was asked for ends.
    until: Option<Instant>,
    sessions: BTreeMap<SocketAddr, Session>,
}

/// The mappings of one transport protocol.
#[derive(Debug, Default)]
pub(in super::super) struct Table {
    by_key: BTreeMap<Key, SocketAddr>,
    by_external: BTreeMap<SocketAddr, Entry>,
    begun_outside: Begun,
}

impl Table {
    /// The external endpoint that packets of this key leave by, if there is one.
    pub(in super::super) fn mapped(
        &mut self,
        now: Instant,
        key: Key,
        lifetimes: &Lifetimes,
    ) -> Option<SocketAddr> {
        let external = *self.by_key.get(&key)?;
        if self.is_taken(now, external, lifetimes) {
            return Some(external);
        }
        self.remove(external);
        None
    }

    /// Where an answer leaves to what has come in first, and where it goes to: by the mapping through which that came,
    /// whatever mapping the destination would have by itself.
    pub(in super::super) fn answers_by(
        &self,
        now: Instant,
        packet: &Packet,
        lifetimes: &Lifetimes,
    ) -> Option<(SocketAddr, SocketAddr)> {
        let (external, remote) = self.begun_outside.of(packet.from, packet.to)?;
        let entry = self.by_external.get(&external).filter(|entry| entry.is_alive(now, lifetimes))?;
        let alive = entry.is_in_session(now, remote, lifetimes);
        (entry.internal == packet.from && alive).then_some((external, remote))
    }

    /// Whether an external endpoint is in use.
    pub(in super::super) fn is_taken(
        &self,
        now: Instant,
        external: SocketAddr,
        lifetimes: &Lifetimes,
    ) -> bool {
        self.by_external.get(&external).is_some_and(|entry| entry.is_alive(now, lifetimes))
    }

    /// The external endpoint that this internal one has asked for.
    pub(in super::super) fn asked_for(&self, now: Instant, internal: SocketAddr) -> Option<SocketAddr> {
        let mut of_it = self.by_external.iter().filter(|(_, entry)| entry.internal == internal);
        of_it.find(|(_, entry)| entry.until > Some(now)).map(|(external, _)| *external)
    }

    /// Makes a mapping, in place of what was there.
    pub(in super::super) fn map(&mut self, now: Instant, key: Key, external: SocketAddr) {
        self.remove(external);
        let internal = key.internal;
        let entry =
            Entry { key: Some(key), internal, made: now, last: now, until: None, sessions: BTreeMap::new() };
        self.by_external.insert(external, entry);
        self.by_key.insert(key, external);
    }

    /// Makes or renews a mapping that was asked for.
    pub(in super::super) fn map_explicitly(
        &mut self,
        now: Instant,
        internal: SocketAddr,
        external: SocketAddr,
        lifetime: Duration,
    ) {
        if let Some(entry) = self
            .by_external
            .get_mut(&external)
            .filter(|entry| entry.key.is_none() && entry.internal == internal)
        {
            entry.until = Some(now + lifetime);
            return;
        }
        self.remove(external);
        let until = Some(now + lifetime);
        let entry = Entry { key: None, internal, made: now, last: now, until, sessions: BTreeMap::new() };
        self.by_external.insert(external, entry);
    }

    /// Ends what this endpoint has asked for.
    pub(in super::super) fn unmap(&mut self, internal: SocketAddr) {
        self.by_external.retain(|_, entry| entry.key.is_some() || entry.internal != internal);
    }

    /// Lets a packet out by a mapping that is there. `false` if it is a segment of no connection.
    pub(in super::super) fn pass_out(
        &mut self,
        now: Instant,
        external: SocketAddr,
        (to, segment): (SocketAddr, Option<Segment>),
        lifetimes: &Lifetimes,
    ) -> bool {
        let Some(entry) = self.by_external.get_mut(&external) else { return false };
        entry.last = now;
        entry.pass(now, to, segment, true, lifetimes)
    }

    /// Whom a packet to an external endpoint is for, and from whom that host sees it come; `None` if it is not let in (RFC
    /// 4787, section 5; RFC 5382, section 4).
    pub(in super::super) fn pass_in(
        &mut self,
        now: Instant,
        packet: &Packet,
        filtering: Filtering,
        lifetimes: &Lifetimes,
    ) -> Option<(SocketAddr, SocketAddr)> {
        let (external, from) = (packet.to, packet.from);
        let entry = self.by_external.get_mut(&external).filter(|entry| entry.is_alive(now, lifetimes))?;
        let filtering = if entry.key.is_none() { Filtering::EndpointIndependent } else { filtering };
        let mut open = entry.sessions.iter().filter(|(_, session)| session.is_alive(now, lifetimes));
        let let_in = match filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => open.any(|(to, _)| to.ip() == from.ip()),
            Filtering::AddressAndPortDependent => open.any(|(to, _)| *to == from),
        };
        let known = entry.is_in_session(now, from, lifetimes);
        if !let_in || !entry.pass(now, from, packet.segment, false, lifetimes) {
            return None;
        }
        if lifetimes.refresh == Refresh::Both {
            entry.last = now;
        }
        let internal = entry.internal;
        if !known {
            self.begin_outside(now, internal, (external, from), lifetimes);
        }
        Some((internal, self.begun_outside.seen_as(external, from).unwrap_or(from)))
    }

    /// Where the host sends to this endpoint already, by another mapping, the source gets another port, by which the answers
    /// are known. So do NATs of Linux.
    fn begin_outside(
        &mut self,
        now: Instant,
        internal: SocketAddr,
        (external, from): (SocketAddr, SocketAddr),
        lifetimes: &Lifetimes,
    ) {
        let is_other = |(known, entry): (&SocketAddr, &Entry)| {
            *known != external && entry.internal == internal && entry.is_in_session(now, from, lifetimes)
        };
        let clashes = self.by_external.iter().any(is_other);
        self.begun_outside.insert(internal, (external, from), clashes);
    }

    fn remove(&mut self, external: SocketAddr) {
        if let Some(key) = self.by_external.remove(&external).and_then(|entry| entry.key) {
            self.by_key.remove(&key);
        }
    }
}

impl Entry {
    fn is_in_session(&self, now: Instant, remote: SocketAddr, lifetimes: &Lifetimes) -> bool {
        self.sessions.get(&remote).is_some_and(|session| session.is_alive(now, lifetimes))
    }

    fn is_alive(&self, now: Instant, lifetimes: &Lifetimes) -> bool {
        if let Some(until) = self.until {
            return now < until;
        }
        let is_tcp = self.sessions.values().any(Session::is_tcp);
        let kept = match is_tcp {
            true => self.sessions.values().any(|session| session.is_alive(now, lifetimes)),
            false => now < self.last + lifetimes.idle,
        };
        kept && (is_tcp || lifetimes.absolute.is_none_or(|absolute| now < self.made + absolute))
    }

    /// Takes notice of a packet to or from a remote endpoint. `false` if it is a segment of no connection.
    fn pass(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        segment: Option<Segment>,
        outbound: bool,
        lifetimes: &Lifetimes,
    ) -> bool {
        let known = self.is_in_session(now, remote, lifetimes);
        let begins = segment.is_none_or(|segment| segment == Segment::Syn);
        if !known && !begins {
            return false;
        }
        if !known {
            self.sessions.insert(remote, Session::new(now, segment.is_some()));
        }
        let refreshes =
            outbound || segment.is_some() || self.key.is_none() || lifetimes.refresh == Refresh::Both;
        if let Some(session) = self.sessions.get_mut(&remote) {
            session.pass(now, segment, outbound, refreshes);
        }
        true
    }
}
