//! ICE over TCP (RFC 6544): the ports that connections are made from and taken at, and the connections.
//!
//! A port is the base of up to three candidates: *active* ones connect from any port, *passive* ones are connected to, and
//! *so* ones (simultaneous open) connect from the port itself, which opens a way through a NAT that a connection from the
//! other side then takes. A connection belongs to one pair. It is asked for when the pair's check begins, which goes over it
//! as soon as it stands; pairs of passive candidates come to be when a check arrives over a connection that was accepted.
//!
//! - `connection`: what is kept of each connection, and for how long.
//! - `gathering`: the candidates on a port, with the help of STUN servers that are asked from it.

mod connection;
mod gathering;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::Rng;
use thirl_common::wire::{Protocol, classify, packet_header};

use super::event::{Action, Framing, ListenerId, Received, Route, StreamId, Transmit, Via};
use super::pair::{PairId, PairState};
use super::{Agent, Timer};
use crate::candidate::{CandidateKind, ComponentId, TcpType};

pub(super) use connection::Connections;
use connection::{Connection, Purpose};

/// Who was accepted has so long to prove itself.
const PROOF_PATIENCE: Duration = Duration::from_secs(10);
/// So many who have not may be connected at a time; for another the oldest goes.
const MAX_UNPROVEN: usize = 16;
/// So many connections may be, all in all.
const MAX_CONNECTIONS: usize = 128;
/// How often a simultaneous open is tried again that the other side's NAT has refused, for want of its own side's SYN.
const MAX_OPENS: u8 = 60;
/// How long after a refusal: the two sides' tries must meet on the way, so that they must not go in step.
const REOPEN: std::ops::Range<Duration> = Duration::from_millis(100)..Duration::from_millis(400);
/// After so many tries they are four times as rare.
const OFTEN: u8 = 20;
/// Connections that are not needed beside a selected pair are kept for so long.
pub(super) const UNUSED: Duration = Duration::from_secs(10);

impl Agent {
    /// Adds a TCP port of this host, bound to a specific address, for the first component: whoever drives the agent listens
    /// there, tells of connections by [`Agent::stream_accepted`], and connects from there where [`Action::ConnectTcp`] says so.
    /// With port 0 nobody listens, and connections go out only. The higher the preference, the better its interface.
    pub fn add_tcp_listener(&mut self, now: Instant, local: SocketAddr, preference: u8) -> ListenerId {
        self.add_tcp_listener_for(now, ComponentId::ONE, local, preference)
    }

    /// As [`Agent::add_tcp_listener`], for a component. For one that the agent has not, it is of no use.
    pub fn add_tcp_listener_for(
        &mut self,
        now: Instant,
        component: ComponentId,
        local: SocketAddr,
        preference: u8,
    ) -> ListenerId {
        let id = self.local.add_listener(component, local, preference);
        self.introduce_nat64_to_listener(id);
        if self.gathering.begun.is_some() && self.is_running() {
            self.gather_on_listener(now, id);
            self.pump(now);
        }
        id
    }

    /// A TCP port is gone, and with it the connections from and to it.
    pub fn tcp_listener_lost(&mut self, now: Instant, id: ListenerId) {
        if self.local.listeners.remove(&id).is_none() {
            return;
        }
        for stream in self.connections.of(id) {
            self.close_connection(stream);
        }
        for ty in [TcpType::Active, TcpType::Passive, TcpType::SimultaneousOpen] {
            self.route_lost(now, Route::Tcp(id, ty));
        }
        self.forget_lost();
        self.check_gathering(now);
        self.pump(now);
    }

    /// Somebody has connected. The name that the connection goes by from now on, with [`Framing::Packets`]; `None` if it is
    /// to be closed at once.
    pub fn stream_accepted(
        &mut self,
        now: Instant,
        listener: ListenerId,
        from: SocketAddr,
    ) -> Option<StreamId> {
        let from = self.local.listeners.get(&listener)?.at.host_at(from);
        let route = self.accepting_route(listener, from)?;
        if let Some(unproven) = self.connections.unproven_beyond(MAX_UNPROVEN) {
            self.close_connection(unproven);
        }
        if self.connections.len() >= MAX_CONNECTIONS {
            return None;
        }
        // One that we have asked for ourselves is no longer needed.
        if let Some(before) = self.connections.find(route, from) {
            self.close_connection(before);
        }
        let stream = self.new_stream();
        let connection = Connection::accepted(listener, route, from);
        self.connections.insert(stream, connection);
        self.timers.set(Timer::Stream(stream), now + PROOF_PATIENCE);
        self.send_waiting_check(now, route, from);
        Some(stream)
    }

    /// Whose connection it is: that of a pair which waits for it, or of an active candidate of the peer's.
    fn accepting_route(&self, listener: ListenerId, from: SocketAddr) -> Option<Route> {
        let simultaneous = Route::Tcp(listener, TcpType::SimultaneousOpen);
        let passive = Route::Tcp(listener, TcpType::Passive);
        let known = self.session.list.find(simultaneous, from).and_then(|id| self.session.list.get(id));
        let route = if known.is_some() { simultaneous } else { passive };
        let alive = self.local.component(route).is_some_and(|component| self.is_alive(component));
        (alive && self.local.is_open(route)).then_some(route)
    }

    /// The connection that a pair's check needs: `true` if it stands. Otherwise it is asked for, and the check waits.
    pub(super) fn has_connection(&mut self, now: Instant, id: PairId) -> bool {
        let Some(pair) = self.session.list.get(id) else { return false };
        let (route, to) = (pair.route, pair.to);
        let Route::Tcp(listener, ty) = route else { return true };
        if let Some(stream) = self.connections.find(route, to) {
            return self.connections.is_connected(stream);
        }
        let Some(mut local) = self.local.address(route) else { return false };
        if ty == TcpType::Passive || self.connections.len() >= MAX_CONNECTIONS {
            self.fail_pair(now, id, "there is no connection");
            return false;
        }
        if ty == TcpType::Active {
            local.set_port(0);
        }
        let stream = self.new_stream();
        self.connections.insert(stream, Connection::asked_for(listener, Purpose::Peer { route, to }));
        let to = self.local.listeners.get(&listener).map_or(to, |port| port.at.address_of(to));
        self.out.actions.push_back(Action::ConnectTcp { stream, local, to, framing: Framing::Packets });
        false
    }

    /// The answer to [`Action::ConnectTcp`].
    pub(super) fn connection_made(
        &mut self,
        now: Instant,
        stream: StreamId,
        result: Result<SocketAddr, String>,
    ) {
        let Some(connection) = self.connections.get_mut(stream) else { return };
        connection.connected = result.is_ok();
        match (&connection.purpose, result) {
            (Purpose::Server { .. }, Ok(_)) => self.ask_over_connection(stream),
            (Purpose::Peer { route, to }, Ok(_)) => {
                let (route, to) = (*route, *to);
                self.send_waiting_check(now, route, to);
            }
            (_, Err(reason)) => self.connection_lost(now, stream, &reason),
        }
    }

    /// A connection was refused, or has not answered for long: another is asked for when it is the pair's turn again, after
    /// those over UDP. `false` if it cannot be asked for.
    pub(super) fn connect_again(&mut self, id: PairId) -> bool {
        let Some(pair) = self.session.list.get_mut(id).filter(|pair| !pair.is_valid()) else { return false };
        let Route::Tcp(_, TcpType::Active | TcpType::SimultaneousOpen) = pair.route else { return false };
        pair.state = PairState::Waiting;
        let (route, to) = (pair.route, pair.to);
        if let Some(stream) = self.connections.find(route, to)
            && self.connections.is_connected(stream)
        {
            self.close_connection(stream);
        }
        true
    }

    /// A pair has failed: nobody needs its connection, unless the session before carries data over it.
    pub(super) fn abandon_connection(&mut self, id: PairId) {
        let Some(pair) = self.session.list.get(id).filter(|pair| pair.route.is_tcp()) else { return };
        let (component, route, to) = (pair.component, pair.route, pair.to);
        if let Some(stream) = self.connections.find(route, to)
            && !self.is_in_use(component, route, to)
        {
            self.close_connection(stream);
        }
    }

    /// A check that has waited for its connection.
    fn send_waiting_check(&mut self, now: Instant, route: Route, to: SocketAddr) {
        let Some(id) = self.session.list.find(route, to) else { return };
        let waiting = self.session.list.get(id).and_then(|pair| pair.check.as_ref());
        if let Some((transaction, bytes)) = waiting.map(|check| (check.id, check.bytes.clone())) {
            self.session.list.sent_only_now(transaction, now);
            self.send_check(now, id, bytes);
        }
    }

    /// What came over a connection.
    pub(super) fn handle_packet<'a>(
        &mut self,
        now: Instant,
        stream: StreamId,
        packet: &'a [u8],
    ) -> Option<Received<'a>> {
        let connection = self.connections.get(stream)?;
        let Purpose::Peer { route, to } = connection.purpose else {
            self.handle_answer_over_connection(now, stream, packet);
            return None;
        };
        if !connection.proven && classify(packet) != Protocol::Stun {
            // Whoever that is, it is no peer of ours.
            self.counters.dropped_unknown_sender += 1;
            self.close_connection(stream);
            return None;
        }
        self.handle_on_route(now, route, to, packet)
    }

    /// A connection has ended, or never came to be.
    pub(super) fn connection_lost(&mut self, now: Instant, stream: StreamId, why: &str) {
        let Some(connection) = self.forget_connection(stream) else { return };
        match connection.purpose {
            Purpose::Server { .. } => self.server_connection_lost(now, &connection, why),
            Purpose::Peer { route, to } => {
                let refused = !connection.connected;
                if !(refused && self.open_again(now, route, to)) {
                    let component = self.local.component(route);
                    self.ways_lost(now, component, why, |pair| (pair.route, pair.to) == (route, to));
                }
            }
        }
        self.pump(now);
    }

    /// Tries a simultaneous open again, if it was refused: the other side may not have sent its SYN yet.
    fn open_again(&mut self, now: Instant, route: Route, to: SocketAddr) -> bool {
        let pause = self.random.draw(|generator| generator.random_range(REOPEN));
        let Some(id) = self.session.list.find(route, to) else { return false };
        let Some(pair) = self.session.list.get_mut(id) else { return false };
        let Route::Tcp(_, TcpType::SimultaneousOpen) = route else { return false };
        let Some(check) = pair.check.as_mut().filter(|check| check.repeats < MAX_OPENS) else { return false };
        let pause = if check.repeats < OFTEN { pause } else { 4 * pause };
        check.repeat_at = Some(now + pause);
        self.timers.set(Timer::Check(id), now + pause);
        true
    }

    /// Sends a packet to the peer over the connection to it, if there is one.
    pub(super) fn send_over_connection(&mut self, route: Route, to: SocketAddr, packet: &[u8]) -> bool {
        let stream = self.connections.find(route, to).filter(|stream| self.connections.is_connected(*stream));
        let (Some(stream), Some(header)) = (stream, packet_header(packet.len())) else { return false };
        let payload = [&header, packet].concat();
        self.out.transmits.push_back(Transmit { via: Via::Stream(stream), to, payload });
        true
    }

    /// The other end has shown that it is the peer.
    pub(super) fn connection_proven(&mut self, route: Route, from: SocketAddr) {
        if let Some(stream) = self.connections.find(route, from)
            && self.connections.prove(stream)
        {
            self.timers.cancel(Timer::Stream(stream));
        }
    }

    /// It has had the time to prove itself, or to answer.
    pub(super) fn handle_stream_timeout(&mut self, now: Instant, stream: StreamId) {
        self.out.actions.push_back(Action::Close { stream });
        self.connection_lost(now, stream, "no answer");
    }

    /// Closes the connections of pairs that are not needed beside the selected one.
    pub(super) fn close_unused(&mut self, component: ComponentId) {
        for (stream, route, to) in self.connections.to_peer() {
            let connection = self.connections.get(stream);
            let of_it = self.local.component(route) == Some(component);
            if !of_it || connection.is_none_or(|connection| !connection.proven && connection.connected) {
                continue;
            }
            if self.is_in_use(component, route, to) {
                continue;
            }
            self.close_connection(stream);
            let pair = self.session.list.find(route, to).and_then(|id| {
                self.timers.cancel(Timer::Check(id));
                self.session.list.get_mut(id)
            });
            if let Some(pair) = pair {
                pair.state = PairState::Failed;
                pair.check = None;
                pair.failure = Some("not needed beside the selected one".into());
            }
        }
    }

    fn is_in_use(&self, component: ComponentId, route: Route, to: SocketAddr) -> bool {
        let sessions = [Some(&self.session), self.former.as_deref()].into_iter().flatten();
        let mut pairs = sessions.filter_map(|session| {
            let id = session.list.find(route, to)?;
            let pair = session.list.get(id).filter(|pair| pair.state != PairState::Failed)?;
            Some((id, session.streams.path(component)?, session.streams.may_check(pair)))
        });
        pairs.any(|(id, path, wanted)| {
            wanted || [path.selected, path.current, path.nominating].contains(&Some(id))
        })
    }

    /// Closes all connections: the agent is.
    pub(super) fn close_connections(&mut self) {
        for stream in self.connections.all() {
            self.close_connection(stream);
        }
    }

    fn close_connection(&mut self, stream: StreamId) {
        if self.forget_connection(stream).is_some() {
            self.out.actions.push_back(Action::Close { stream });
        }
    }

    fn forget_connection(&mut self, stream: StreamId) -> Option<Connection> {
        self.timers.cancel(Timer::Stream(stream));
        let connection = self.connections.remove(stream)?;
        if let Purpose::Peer { route: route @ Route::Tcp(_, TcpType::Active), to } = connection.purpose {
            self.forget_mapping(route, to);
        }
        Some(connection)
    }

    /// The next connection has another port, and is seen at another address.
    fn forget_mapping(&mut self, route: Route, to: SocketAddr) {
        let pair = self.session.list.find(route, to).and_then(|id| self.session.list.get(id));
        let mapped = pair.and_then(|pair| pair.mapped).and_then(|id| self.local.candidates.get_mut(&id));
        if let Some(mapped) = mapped.filter(|mapped| mapped.candidate.kind == CandidateKind::PeerReflexive) {
            mapped.lost = true;
            self.forget_lost();
        }
    }
}
