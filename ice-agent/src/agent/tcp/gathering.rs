//! TCP candidates (RFC 6544, section 4.1): host candidates of three types, and what STUN servers see of connections from the
//! port itself. A NAT that maps the port for one destination as for all others lets a simultaneous open through there, and
//! one that filters nothing any connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::net::{Transport, canonical};
use thirl_common::wire::Message;

use super::super::event::{Action, Framing, ListenerId, Route, StreamId, Via};
use super::super::gather::{ServerOutcome, Task};
use super::super::local::Found;
use super::super::{Agent, Timer, message};
use super::connection::{Connection, Purpose};
use crate::candidate::{CandidateKind, TcpType};

/// The port of an active candidate, which says nothing: the discard port (RFC 6544, section 4.5).
const DISCARD: u16 = 9;
/// What a port is outside: to meet at, and to connect to.
const REFLEXIVE: [TcpType; 2] = [TcpType::SimultaneousOpen, TcpType::Passive];
/// So many STUN servers are asked from each port: what they see differs by the destination alone.
const SERVERS: usize = 2;
/// A connection to a server that takes longer is of no use.
const PATIENCE: Duration = Duration::from_secs(5);
/// The least time that gathering waits for connections to servers when all else is done.
const LEAST_WAIT: Duration = Duration::from_millis(50);

impl Agent {
    /// The host candidates of a TCP port, and what servers can add to them.
    pub(in crate::agent) fn gather_on_listener(&mut self, now: Instant, id: ListenerId) {
        let Some(listener) = self.local.listeners.get(&id) else { return };
        let local = listener.at.local;
        // A lite side opens no connections, and where nobody listens none are accepted.
        let types = [
            (TcpType::Active, !self.config.lite),
            (TcpType::Passive, local.port() != 0),
            (TcpType::SimultaneousOpen, local.port() != 0 && !self.config.lite),
        ];
        for (ty, _) in types.into_iter().filter(|(_, wanted)| *wanted) {
            self.add_tcp_host(now, id, ty);
        }
        if local.port() == 0 || self.config.lite {
            return;
        }
        for rule in self.config.external_addresses.clone() {
            if !rule.replaces && rule.is_of(canonical(local).ip()) {
                let external = SocketAddr::new(rule.external, local.port());
                self.add_tcp_reflexive(now, id, &REFLEXIVE, external, None);
            }
        }
        self.ask_servers_over_tcp(id, |_| true);
    }

    /// Has servers say how they see connections from a port: those that can be reached and are wanted.
    pub(in crate::agent) fn ask_servers_over_tcp(
        &mut self,
        id: ListenerId,
        wanted: impl Fn(&SocketAddr) -> bool,
    ) {
        let Some(listener) = self.local.listeners.get(&id) else { return };
        if listener.at.local.port() == 0 || self.config.lite {
            return;
        }
        let clear = |transport| matches!(transport, Transport::Udp | Transport::Tcp);
        let turn = self.config.turn.iter().filter(|server| clear(server.transport));
        let servers: Vec<_> = self
            .config
            .stun
            .iter()
            .copied()
            .chain(turn.map(|server| canonical(server.address)))
            .map(|server| listener.at.host_at(server))
            .filter(|server| {
                listener.at.reaches_server(server.ip()) && !server.ip().is_unspecified() && wanted(server)
            })
            .collect();
        for server in servers.into_iter().take(SERVERS) {
            self.queue_after_datagrams(Task::BindingOverTcp { listener: id, server });
        }
    }

    fn add_tcp_host(&mut self, now: Instant, id: ListenerId, ty: TcpType) {
        let Some(listener) = self.local.listeners.get(&id) else { return };
        let mut address = listener.at.local;
        if ty == TcpType::Active {
            address.set_port(DISCARD);
        }
        let found = Found {
            component: listener.component,
            kind: CandidateKind::Host,
            address,
            told: self.told_in_place_of(address),
            route: Route::Tcp(id, ty),
            local_preference: listener.other_preference,
            related: None,
            server: None,
            guess: None,
        };
        self.add_local_candidate(now, &found);
    }

    /// The address at which a port is known outside.
    pub(in crate::agent) fn add_tcp_reflexive(
        &mut self,
        now: Instant,
        id: ListenerId,
        types: &[TcpType],
        external: SocketAddr,
        server: Option<SocketAddr>,
    ) {
        for &ty in types {
            let Some(found) = self.reflexive(Route::Tcp(id, ty), external) else { return };
            self.add_local_candidate(now, &Found { server, ..found });
        }
    }

    /// Connects to a STUN server from a port, to ask how it is seen.
    pub(in crate::agent) fn connect_to_server(&mut self, now: Instant, id: ListenerId, server: SocketAddr) {
        let Some(local) = self.local.listeners.get(&id) else { return };
        let (local, to) = (local.at.local, local.at.address_of(server));
        let stream = self.new_stream();
        let purpose = Purpose::Server { server, asked: self.transaction_id(), answered: false };
        self.connections.insert(stream, Connection::asked_for(id, purpose));
        self.timers.set(Timer::Stream(stream), now + PATIENCE);
        self.out.actions.push_back(Action::ConnectTcp { stream, local, to, framing: Framing::Stun });
    }

    pub(super) fn ask_over_connection(&mut self, stream: StreamId) {
        let Some(Purpose::Server { server, asked, .. }) = self.connections.get(stream).map(|c| c.purpose)
        else {
            return;
        };
        self.transmit_from(Via::Stream(stream), server, message::binding_request(asked));
    }

    /// What a STUN server says. Its connection stays, and with it the NAT's mapping.
    pub(super) fn handle_answer_over_connection(&mut self, now: Instant, stream: StreamId, bytes: &[u8]) {
        let Ok(message) = Message::parse(bytes) else { return };
        let Some(connection) = self.connections.get_mut(stream) else { return };
        let listener = connection.listener;
        let Purpose::Server { server, asked, answered } = &mut connection.purpose else { return };
        if message.transaction_id() != *asked || std::mem::replace(answered, true) {
            return;
        }
        let server = *server;
        let result = message::mapped_address(&message);
        self.timers.cancel(Timer::Stream(stream));
        self.note_tcp_outcome(server, result.clone());
        if let Ok(mapped) = result {
            self.add_tcp_reflexive(now, listener, &REFLEXIVE, mapped, Some(server));
            self.hasten_gathering(now);
        }
        self.check_gathering(now);
        self.pump(now);
    }

    pub(super) fn server_connection_lost(&mut self, now: Instant, connection: &Connection, why: &str) {
        if let Purpose::Server { server, answered: false, .. } = connection.purpose {
            self.note_tcp_outcome(server, Err(why.to_owned()));
            self.check_gathering(now);
        }
    }

    fn note_tcp_outcome(&mut self, server: SocketAddr, result: Result<SocketAddr, String>) {
        let transport = Transport::Tcp;
        self.gathering.outcomes.push(ServerOutcome { server, transport, turn: false, socket: None, result });
    }

    /// Whether a server may still answer over a connection.
    pub(in crate::agent) fn waits_for_server_connections(&self) -> bool {
        self.connections.to_servers().iter().any(|(_, answered)| !answered)
    }

    /// All else is done. A connection takes a round trip more than a datagram: so it is waited for once more as long as
    /// everything else has taken.
    pub(in crate::agent) fn hasten_server_connections(&mut self, now: Instant) {
        let Some(begun) = self.gathering.begun else { return };
        let soon = now + now.saturating_duration_since(begun).max(LEAST_WAIT);
        if self.timers.get(Timer::GatheringEnd).is_some_and(|end| soon < end) {
            self.timers.set(Timer::GatheringEnd, soon);
        }
    }

    /// Keeps the mappings that servers have seen, or lets them go once a pair is selected.
    pub(in crate::agent) fn keep_server_connections(&mut self, needed: bool) {
        for (stream, answered) in self.connections.to_servers() {
            let server = self.connections.get(stream).map(|connection| connection.purpose);
            match server {
                Some(Purpose::Server { server, .. }) if needed && answered => {
                    let id = self.transaction_id();
                    self.transmit_from(Via::Stream(stream), server, message::binding_indication(id));
                }
                _ if !needed => self.close_connection(stream),
                _ => {}
            }
        }
    }
}
