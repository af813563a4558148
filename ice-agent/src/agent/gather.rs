//! Gathering (RFC 8445, section 5.1): each socket asks each STUN server, and makes an allocation on each TURN server.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use thirl_common::net::{Transport, canonical};
use thirl_common::request::{Due, Retransmission, Transaction};
use thirl_common::wire::{Message, OtherAddress, TransactionId};

use super::event::{Event, ListenerId, RelayId, Route, SocketId, State, StreamId, Via};
use super::hard_nat::is_public;
use super::local::Found;
use super::message;
use super::relay::Relay;
use super::{Agent, Timer, TurnServer};
use crate::candidate::CandidateKind;

/// For each TURN server and family, so many sockets of a component make an allocation: the best ones.
const SOCKETS_PER_TURN_SERVER: usize = 2;

/// A transaction that waits for its turn (RFC 8445, section 14.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Binding {
        socket: SocketId,
        server: SocketAddr,
    },
    Allocate(RelayId),
    /// To a STUN server, from a TCP port.
    BindingOverTcp {
        listener: ListenerId,
        server: SocketAddr,
    },
}

/// A Binding request to a STUN server that has not been answered.
#[derive(Debug)]
pub(super) struct Request {
    socket: SocketId,
    server: SocketAddr,
    transaction: Transaction,
    bytes: Vec<u8>,
    /// The number of the mapping.
    flow: u32,
}

/// How one server answered on one socket; for the report.
#[derive(Clone, Debug)]
pub(super) struct ServerOutcome {
    pub(super) server: SocketAddr,
    pub(super) transport: Transport,
    pub(super) turn: bool,
    pub(super) socket: Option<SocketId>,
    pub(super) result: Result<SocketAddr, String>,
}

#[derive(Debug, Default)]
pub(super) struct Gathering {
    pub(super) begun: Option<Instant>,
    pub(super) complete: bool,
    queue: VecDeque<Task>,
    requests: BTreeMap<TransactionId, Request>,
    pub(super) relays: BTreeMap<RelayId, Relay>,
    /// So many had names.
    pub(super) relays_made: u32,
    pub(super) streams_made: u32,
    /// From where packets are a relay's: the socket and the server.
    pub(super) relay_by_server: BTreeMap<(SocketId, SocketAddr), RelayId>,
    pub(super) relay_by_stream: BTreeMap<StreamId, RelayId>,
    pub(super) outcomes: Vec<ServerOutcome>,
}

impl Gathering {
    /// Whether a transaction waits for its turn.
    pub(super) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether some server may still answer.
    pub(super) fn is_busy(&self) -> bool {
        !self.queue.is_empty() || !self.requests.is_empty() || self.relays.values().any(Relay::is_pending)
    }

    /// The servers of a socket have other addresses, by which they are known from now on.
    pub(super) fn rename_servers(&mut self, id: SocketId, named: impl Fn(SocketAddr) -> SocketAddr) {
        for task in &mut self.queue {
            if let Task::Binding { socket, server } = task
                && *socket == id
            {
                *server = named(*server);
            }
        }
        for request in self.requests.values_mut().filter(|request| request.socket == id) {
            request.server = named(request.server);
        }
        for relay in self.relays.values_mut().filter(|relay| relay.carrier == Via::Socket(id)) {
            relay.server.address = named(relay.server.address);
        }
        let renamed = std::mem::take(&mut self.relay_by_server).into_iter();
        self.relay_by_server = renamed
            .map(|((socket, server), relay)| {
                ((socket, if socket == id { named(server) } else { server }), relay)
            })
            .collect();
    }
}

impl Agent {
    /// Starts gathering on all sockets that were added. Sockets added later join in at once.
    pub fn gather(&mut self, now: Instant) {
        if self.gathering.begun.is_some() || self.state == State::Closed {
            return;
        }
        self.gathering.begun = Some(now);
        self.timers.set(Timer::GatheringEnd, now + self.config.timings.gathering);
        self.timers.set(Timer::Keepalive, now + self.config.timings.keepalive);
        for socket in self.local.sockets.keys().copied().collect::<Vec<_>>() {
            self.gather_on(now, socket);
        }
        for listener in self.local.listeners.keys().copied().collect::<Vec<_>>() {
            self.gather_on_listener(now, listener);
        }
        self.connect_relays(now);
        self.pump(now);
        self.check_gathering(now);
    }

    /// Gathers once more after a failure, which gave all allocations back.
    pub(super) fn gather_anew(&mut self, now: Instant) {
        let gathering = &mut self.gathering;
        if gathering.begun.take().is_none() {
            return;
        }
        gathering.complete = false;
        gathering.relay_by_server.clear();
        gathering.relays.values_mut().for_each(Relay::retire);
        for local in self.local.candidates.values_mut() {
            local.lost |= matches!(local.route, Route::Relay(_));
        }
        self.gather(now);
    }

    /// The host candidate of a socket, and what servers can add to it.
    pub(super) fn gather_on(&mut self, now: Instant, id: SocketId) {
        let Some(socket) = self.local.sockets.get(&id) else { return };
        let (component, local, local_preference) =
            (socket.component, socket.at.local, socket.local_preference);
        let host = Found {
            component,
            kind: CandidateKind::Host,
            address: local,
            told: self.told_in_place_of(local),
            route: Route::Socket(id),
            local_preference,
            related: None,
            server: None,
            guess: None,
        };
        self.add_local_candidate(now, &host);
        self.add_external_addresses(now, id);
        self.ask_servers(id, |_| true);
    }

    /// Asks those servers that a socket reaches, of which `wanted` says so.
    pub(super) fn ask_servers(&mut self, id: SocketId, wanted: impl Fn(&SocketAddr) -> bool) {
        self.queue_allocations(id, &wanted);
        for server in self.config.stun.clone() {
            let Some(socket) = self.local.sockets.get(&id) else { return };
            let server = socket.at.host_at(server);
            let covered = self.gathering.relay_by_server.contains_key(&(id, server));
            if socket.at.reaches_server(server.ip()) && !covered && wanted(&server) {
                self.queue_binding(id, server);
            }
        }
    }

    fn queue_allocations(&mut self, id: SocketId, wanted: &impl Fn(&SocketAddr) -> bool) {
        for (index, server) in self.config.turn.clone().into_iter().enumerate() {
            let Some(socket) = self.local.sockets.get(&id) else { return };
            let (component, shared) = (socket.component, socket.shared);
            let server = TurnServer { address: socket.at.host_at(server.address), ..server };
            let address = server.address;
            let reached = socket.at.reaches_server(address.ip()) && wanted(&address);
            let alike =
                |socket| self.local.sockets.get(&socket).is_some_and(|other| other.component == component);
            let used = self.gathering.relay_by_server.keys();
            let used = used.filter(|(socket, at)| *at == address && *socket != id && alike(*socket)).count();
            let known = self.gathering.relay_by_server.contains_key(&(id, address));
            if server.transport != Transport::Udp || !reached || known {
                continue;
            }
            if used >= SOCKETS_PER_TURN_SERVER || shared {
                self.queue_binding(id, address);
                continue;
            }
            let relay = self.add_relay(Relay::new(component, &server, index, Via::Socket(id)));
            self.gathering.relay_by_server.insert((id, address), relay);
            self.queue_allocation(relay);
        }
    }

    pub(super) fn queue_allocation(&mut self, relay: RelayId) {
        self.queue_task(Task::Allocate(relay));
    }

    pub(super) fn queue_binding(&mut self, socket: SocketId, server: SocketAddr) {
        let task = Task::Binding { socket, server: canonical(server) };
        if self.local.sockets.get(&socket).is_some() && !self.gathering.queue.contains(&task) {
            self.queue_task(task);
        }
    }

    /// Datagrams go first.
    fn queue_task(&mut self, task: Task) {
        let queue = &mut self.gathering.queue;
        let over_tcp = |task: &Task| matches!(task, Task::BindingOverTcp { .. });
        let at = queue.iter().position(over_tcp).unwrap_or(queue.len());
        queue.insert(at, task);
    }

    pub(super) fn queue_after_datagrams(&mut self, task: Task) {
        self.gathering.queue.push_back(task);
    }

    /// Starts the transaction whose turn it is. `false` if there is none.
    pub(super) fn gather_next(&mut self, now: Instant) -> bool {
        match self.gathering.queue.pop_front() {
            None => false,
            Some(Task::Binding { socket, server }) => {
                let id = self.transaction_id();
                let (bytes, flow) = (message::binding_request(id), self.local.next_flow());
                let transaction = Transaction::start(Retransmission::STUN, Transport::Udp, now);
                self.timers.set(Timer::Binding(id), transaction.deadline());
                self.transmit_from(Via::Socket(socket), server, bytes.clone());
                self.gathering.requests.insert(id, Request { socket, server, transaction, bytes, flow });
                true
            }
            Some(Task::Allocate(relay)) => {
                self.start_relay(now, relay);
                true
            }
            Some(Task::BindingOverTcp { listener, server }) => {
                self.connect_to_server(now, listener, server);
                true
            }
        }
    }

    /// The socket is gone: nothing is asked from it any more, and what servers said of it is of no interest.
    pub(super) fn stop_gathering_on(&mut self, id: SocketId) {
        let Gathering { queue, requests, outcomes, .. } = &mut self.gathering;
        queue.retain(|task| !matches!(task, Task::Binding { socket, .. } if *socket == id));
        outcomes.retain(|outcome| outcome.socket != Some(id));
        let timers = &mut self.timers;
        requests.retain(|transaction, request| {
            let stays = request.socket != id;
            if !stays {
                timers.cancel(Timer::Binding(*transaction));
            }
            stays
        });
    }

    pub(super) fn handle_binding_timeout(&mut self, now: Instant, id: TransactionId) {
        let Some(request) = self.gathering.requests.get_mut(&id) else { return };
        match request.transaction.handle_timeout(now) {
            Due::Nothing => self.timers.set(Timer::Binding(id), request.transaction.deadline()),
            Due::Retransmit => {
                self.timers.set(Timer::Binding(id), request.transaction.deadline());
                let (socket, server, bytes) = (request.socket, request.server, request.bytes.clone());
                self.transmit_from(Via::Socket(socket), server, bytes);
            }
            Due::TimedOut => self.finish_binding(now, id, Err("no answer".to_owned())),
        }
    }

    /// A response to a Binding request of ours, if it is one: transaction, socket and server must all be right.
    pub(super) fn handle_binding_response(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddr,
        message: &Message<'_>,
    ) -> bool {
        let id = message.transaction_id();
        match self.gathering.requests.get(&id) {
            Some(request) if request.socket == socket && request.server == from => {}
            _ => return false,
        }
        let result = message::mapped_address(message);
        if result.is_ok() {
            self.ask_other_address(socket, from, message);
        }
        self.finish_binding(now, id, result);
        true
    }

    /// Where only one server is to be asked, its other address tells whether the mapping depends on the destination (RFC 5780,
    /// section 7.4).
    fn ask_other_address(&mut self, id: SocketId, server: SocketAddr, answer: &Message<'_>) {
        let configured = self.config.stun.iter().chain(self.config.turn.iter().map(|turn| &turn.address));
        let others =
            configured.filter(|other| other.ip() != server.ip() && other.is_ipv4() == server.is_ipv4());
        let Ok(Some(OtherAddress(other))) = answer.get::<OtherAddress>() else { return };
        let other = canonical(other);
        let fits = other.ip() != server.ip()
            && other.is_ipv4() == server.is_ipv4()
            && other.port() != 0
            && (is_public(other.ip()) || !is_public(server.ip()));
        if fits && self.config.stun.contains(&server) && others.count() == 0 && self.does_hard_nats() {
            self.queue_binding(id, other);
        }
    }

    fn finish_binding(&mut self, now: Instant, id: TransactionId, result: Result<SocketAddr, String>) {
        let Some(Request { socket, server, flow, .. }) = self.gathering.requests.remove(&id) else { return };
        self.timers.cancel(Timer::Binding(id));
        if let Ok(mapped) = result {
            self.add_server_reflexive(now, socket, server, mapped, flow);
            self.hasten_gathering(now);
        }
        self.gathering.outcomes.push(ServerOutcome {
            server,
            transport: Transport::Udp,
            turn: false,
            socket: Some(socket),
            result,
        });
        self.check_gathering(now);
        self.evaluate_nomination(now);
    }

    pub(super) fn add_server_reflexive(
        &mut self,
        now: Instant,
        id: SocketId,
        server: SocketAddr,
        mapped: SocketAddr,
        flow: u32,
    ) {
        self.local.note_mapping(id, server, mapped, flow);
        let Some(found) = self.reflexive(Route::Socket(id), mapped) else { return };
        self.add_local_candidate(now, &Found { server: Some(server), ..found });
        self.tell_guesses(now, id);
    }

    /// What was sent could not leave: there is no way from this socket to that address.
    pub(super) fn fail_unreachable_server(&mut self, now: Instant, socket: SocketId, to: SocketAddr) {
        let failed = |request: &Request| request.socket == socket && request.server == to;
        let failed: Vec<_> = self
            .gathering
            .requests
            .iter()
            .filter(|(_, request)| failed(request))
            .map(|(id, _)| *id)
            .collect();
        for id in failed {
            self.finish_binding(now, id, Err("unreachable from this address".to_owned()));
        }
        if let Some(&relay) = self.gathering.relay_by_server.get(&(socket, to)) {
            self.relay_unreachable(now, relay);
        }
    }

    /// One server's answer tells that the others, if they live, are not far behind.
    pub(super) fn hasten_gathering(&mut self, now: Instant) {
        let soon = now + self.config.timings.gathering_grace;
        if self.timers.get(Timer::GatheringEnd).is_some_and(|end| soon < end) {
            self.timers.set(Timer::GatheringEnd, soon);
        }
    }

    pub(super) fn handle_gathering_end(&mut self, now: Instant) {
        let last = self.gathering.begun.map_or(now, |begun| begun + self.config.timings.gathering);
        if self.gathering.queue.is_empty() || now >= last {
            self.end_gathering();
            self.evaluate_nomination(now);
        } else {
            let again = now + self.config.timings.gathering_grace;
            self.timers.set(Timer::GatheringEnd, again.min(last));
        }
    }

    fn end_gathering(&mut self) {
        if !self.gathering.complete && self.gathering.begun.is_some() {
            self.gathering.complete = true;
            self.local.candidates.shrink_to_fit();
            self.timers.cancel(Timer::GatheringEnd);
            self.out.events.push_back(Event::GatheringComplete);
        }
    }

    pub(super) fn check_gathering(&mut self, now: Instant) {
        if !self.gathering.is_busy() && !self.gathering.complete {
            if self.waits_for_server_connections() {
                self.hasten_server_connections(now);
            } else {
                self.end_gathering();
                self.evaluate_nomination(now);
            }
        }
        self.consider_failure(now);
    }

    /// Whether UDP to the servers gets no answer: `None` if nothing has been learnt.
    pub(super) fn udp_blocked(&self) -> Option<bool> {
        let gathering = &self.gathering;
        let mut udp =
            gathering.outcomes.iter().filter(|outcome| outcome.transport == Transport::Udp).peekable();
        let waiting = !gathering.requests.is_empty()
            || gathering
                .relays
                .values()
                .any(|relay| relay.is_pending() && matches!(relay.carrier, Via::Socket(_)));
        let asked = waiting || udp.peek().is_some();
        if udp.any(|outcome| outcome.result.is_ok()) {
            return Some(false);
        }
        let reached_otherwise =
            gathering.outcomes.iter().any(|outcome| outcome.turn && outcome.result.is_ok());
        (asked && (reached_otherwise || gathering.complete)).then_some(true)
    }

    /// Keeps the mappings of server-reflexive candidates open while they may still be used (RFC 8445, section 11).
    pub(super) fn send_keepalives(&mut self, now: Instant) {
        let needed = matches!(self.state, State::New | State::Checking | State::Connected);
        self.keep_server_connections(needed);
        if !needed {
            return;
        }
        self.timers.set(Timer::Keepalive, now + self.config.timings.keepalive);
        let targets: Vec<_> = self
            .local
            .candidates
            .values()
            .filter_map(|local| match local.route {
                Route::Socket(id)
                    if local.candidate.kind == CandidateKind::ServerReflexive && !local.lost =>
                {
                    Some((id, local.server?))
                }
                _ => None,
            })
            .collect();
        for (socket, server) in targets {
            let id = self.transaction_id();
            self.transmit_from(Via::Socket(socket), server, message::binding_indication(id));
        }
    }
}
