//! The allocations of this agent: one TURN client for each server and socket, or for each stream.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::Rng;
use thirl_common::net::{Transport, canonical};
use thirl_common::uri::Host;

use super::config::TurnServer;
use super::event::{Action, RelayId, Route, StreamId, Via};
use super::gather::ServerOutcome;
use super::local::{Found, LocalId};
use super::{Agent, Timer};
use crate::candidate::{CandidateKind, ComponentId};
use crate::turn::{TurnClient, TurnClientConfig, TurnEvent};

/// The local preference of allocations over a stream: below those over UDP, since a stream delays what it repeats.
const STREAM_LOCAL_PREFERENCE: u16 = 0x1000;

/// Where an allocation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Waits for its turn, its stream or the server.
    Pending,
    /// There is a candidate.
    Allocated(LocalId),
    /// There will be none, or it is gone.
    Over,
}

/// One allocation, wanted or had.
#[derive(Debug)]
pub(super) struct Relay {
    /// Whose packets it carries.
    pub(super) component: ComponentId,
    pub(super) server: TurnServer,
    pub(super) index: usize,
    pub(super) carrier: Via,
    /// How often it was tried to have it again, since it was lost.
    pub(super) attempts: u32,
    progress: Progress,
    client: Option<TurnClient>,
}

impl Relay {
    pub(super) fn new(component: ComponentId, server: &TurnServer, index: usize, carrier: Via) -> Relay {
        let server = TurnServer { address: canonical(server.address), ..server.clone() };
        Relay { component, server, index, carrier, attempts: 0, progress: Progress::Pending, client: None }
    }

    /// There is no allocation any more.
    pub(super) fn retire(&mut self) {
        self.progress = Progress::Over;
        self.client = None;
    }

    pub(super) fn is_pending(&self) -> bool {
        self.progress == Progress::Pending
    }
}

impl Agent {
    pub(super) fn add_relay(&mut self, relay: Relay) -> RelayId {
        // One that is replaced leaves the list after the new one has come: no name is used twice.
        let id = RelayId(self.gathering.relays.last_key_value().map_or(0, |(last, _)| last.0 + 1));
        self.gathering.relays.insert(id, relay);
        id
    }

    /// Asks for a stream to each TURN server that is reached by one, for each component.
    pub(super) fn connect_relays(&mut self) {
        for (index, server) in self.config.turn.clone().into_iter().enumerate() {
            if server.transport != Transport::Udp {
                for component in self.session.streams.ids() {
                    self.connect_relay(component, index, &server);
                }
            }
        }
    }

    pub(super) fn connect_relay(
        &mut self,
        component: ComponentId,
        index: usize,
        server: &TurnServer,
    ) -> RelayId {
        let stream = StreamId(u32::try_from(self.gathering.relay_by_stream.len()).unwrap_or(u32::MAX));
        let relay = self.add_relay(Relay::new(component, server, index, Via::Stream(stream)));
        self.gathering.relay_by_stream.insert(stream, relay);
        self.out.actions.push_back(Action::Connect {
            stream,
            server: canonical(server.address),
            host: server.host.clone().unwrap_or(Host::Ip(server.address.ip())),
            transport: server.transport,
            local: None,
        });
        relay
    }

    /// Sends the Allocate request of a relay over UDP.
    pub(super) fn start_relay(&mut self, now: Instant, id: RelayId) {
        let Some(relay) = self.gathering.relays.get(&id) else { return };
        let Via::Socket(socket) = relay.carrier else { return };
        if let Some(socket) = self.local.sockets.get(&socket) {
            self.start_relay_from(now, id, socket.local);
        }
    }

    /// Answers [`Action::Connect`]: the stream's local address, or why there is no stream.
    pub fn stream_connected(&mut self, now: Instant, stream: StreamId, result: Result<SocketAddr, String>) {
        let Some(&id) = self.gathering.relay_by_stream.get(&stream) else { return };
        match result {
            Ok(local) => self.start_relay_from(now, id, canonical(local)),
            Err(reason) => self.relay_failed(now, id, reason),
        }
        self.pump(now);
    }

    /// Takes one whole frame of a stream, without its padding, as [`frame_len`](thirl_common::wire::frame_len) cuts it.
    pub fn handle_stream_frame<'a>(
        &mut self,
        now: Instant,
        stream: StreamId,
        frame: &'a [u8],
    ) -> Option<super::Received<'a>> {
        let &id = self.gathering.relay_by_stream.get(&stream)?;
        let received = self.handle_relay_input(now, id, frame)?;
        self.handle_on_route(now, Route::Relay(id), received.0, received.1)
    }

    /// The stream was closed, by whomever.
    pub fn stream_closed(&mut self, now: Instant, stream: StreamId) {
        let Some(&id) = self.gathering.relay_by_stream.get(&stream) else { return };
        if let Some(client) = self.gathering.relays.get_mut(&id).and_then(|relay| relay.client.as_mut()) {
            client.handle_disconnect();
            self.drain_relay(now, id);
        } else {
            self.relay_failed(now, id, "the connection was closed".to_owned());
        }
        self.pump(now);
    }

    /// What came from the server: a peer's address and data, if it was that.
    pub(super) fn handle_relay_input<'a>(
        &mut self,
        now: Instant,
        id: RelayId,
        bytes: &'a [u8],
    ) -> Option<(SocketAddr, &'a [u8])> {
        let client = self.gathering.relays.get_mut(&id)?.client.as_mut()?;
        let received = client.handle_input(now, bytes);
        if received.is_none() {
            self.drain_relay(now, id);
            self.pump(now);
        }
        received.map(|received| (canonical(received.peer), received.data))
    }

    pub(super) fn handle_relay_timeout(&mut self, now: Instant, id: RelayId) {
        if let Some(client) = self.gathering.relays.get_mut(&id).and_then(|relay| relay.client.as_mut()) {
            client.handle_timeout(now);
            self.drain_relay(now, id);
        }
    }

    /// Lets a peer's packets in; the server drops them otherwise.
    pub(super) fn allow_peer(&mut self, now: Instant, id: RelayId, peer: IpAddr) {
        self.with_client(now, id, |client| client.allow(now, peer));
    }

    /// Makes the packets to the selected peer shorter.
    pub(super) fn bind_channel(&mut self, now: Instant, id: RelayId, peer: SocketAddr) {
        self.with_client(now, id, |client| client.bind_channel(now, peer));
    }

    /// What an allocation refuses to send is lost, as any datagram may be: `false` then.
    pub(super) fn send_over_relay(
        &mut self,
        now: Instant,
        id: RelayId,
        peer: SocketAddr,
        data: &[u8],
    ) -> bool {
        let mut sent = false;
        self.with_client(now, id, |client| sent = client.send(now, peer, data).is_ok());
        sent
    }

    pub(super) fn close_relays(&mut self, now: Instant) {
        for id in self.gathering.relays.keys().copied().collect::<Vec<_>>() {
            self.with_client(now, id, |client| client.close(now));
            self.timers.cancel(Timer::Relay(id));
        }
        for &stream in self.gathering.relay_by_stream.keys() {
            self.out.actions.push_back(Action::Close { stream });
        }
    }

    fn start_relay_from(&mut self, now: Instant, id: RelayId, local: SocketAddr) {
        let seed = self.rng.random();
        let Some(relay) = self.gathering.relays.get_mut(&id).filter(|relay| relay.client.is_none()) else {
            return;
        };
        let config = TurnClientConfig {
            server: relay.server.address,
            transport: relay.server.transport,
            local,
            username: relay.server.username.clone(),
            password: relay.server.password.clone(),
            family: None,
        };
        let mut client = TurnClient::new(config, seed);
        client.start(now);
        relay.client = Some(client);
        self.drain_relay(now, id);
    }

    pub(super) fn with_client(&mut self, now: Instant, id: RelayId, act: impl FnOnce(&mut TurnClient)) {
        if let Some(client) = self.gathering.relays.get_mut(&id).and_then(|relay| relay.client.as_mut()) {
            act(client);
            self.drain_relay(now, id);
        }
    }

    /// Takes out what a TURN client has to send and to say.
    fn drain_relay(&mut self, now: Instant, id: RelayId) {
        loop {
            let Some(relay) = self.gathering.relays.get_mut(&id) else { return };
            let (carrier, to) = (relay.carrier, relay.server.address);
            let Some(client) = relay.client.as_mut() else { return };
            if let Some(payload) = client.poll_transmit() {
                self.transmit_from(carrier, to, payload);
            } else if let Some(event) = client.poll_event() {
                self.handle_turn_event(now, id, event);
            } else {
                match client.poll_timeout() {
                    Some(at) => self.timers.set(Timer::Relay(id), at),
                    None => self.timers.cancel(Timer::Relay(id)),
                }
                return;
            }
        }
    }

    fn handle_turn_event(&mut self, now: Instant, id: RelayId, event: TurnEvent) {
        match event {
            TurnEvent::Allocated { relayed, mapped, .. } => self.relay_allocated(now, id, relayed, mapped),
            TurnEvent::Failed { reason } => {
                self.relay_failed(now, id, reason.to_string());
                if self.gathering.relays.get(&id).is_some_and(|relay| relay.attempts > 0) {
                    self.renew_later(now, id, &reason);
                }
            }
            TurnEvent::Lost { reason } => {
                self.relay_failed(now, id, reason.to_string());
                self.renew_later(now, id, &reason);
            }
            TurnEvent::PermissionFailed { peer, reason } => {
                self.route_refuses(now, Route::Relay(id), peer, &reason.to_string());
            }
        }
    }

    fn relay_allocated(&mut self, now: Instant, id: RelayId, relayed: SocketAddr, mapped: SocketAddr) {
        let Some(relay) = self.gathering.relays.get(&id) else { return };
        let (component, server, carrier, index) =
            (relay.component, relay.server.clone(), relay.carrier, relay.index);
        let later = u16::try_from(index).unwrap_or(u16::MAX);
        let local_preference = match carrier {
            Via::Socket(socket) => {
                self.add_server_reflexive(now, socket, server.address, canonical(mapped));
                let preference = self.local.sockets.get(&socket).map_or(0, |socket| socket.local_preference);
                preference.saturating_sub(later)
            }
            Via::Stream(_) => STREAM_LOCAL_PREFERENCE.saturating_sub(later),
        };
        self.hasten_gathering(now);
        self.note_turn_outcome(&server, carrier, Ok(canonical(relayed)));
        let found = Found {
            component,
            kind: CandidateKind::Relayed,
            address: relayed,
            told: None,
            route: Route::Relay(id),
            local_preference,
            related: Some(mapped),
            server: Some(server.address),
        };
        if let Some(relay) = self.gathering.relays.get_mut(&id) {
            relay.attempts = 0;
        }
        let progress = match self.add_local_candidate(now, &found) {
            Some(local) => Progress::Allocated(local),
            None => Progress::Over,
        };
        if let Some(relay) = self.gathering.relays.get_mut(&id) {
            relay.progress = progress;
        }
        self.check_gathering(now);
    }

    /// What was to ask for the allocation could not leave.
    pub(super) fn relay_unreachable(&mut self, now: Instant, id: RelayId) {
        if let Some(relay) = self.gathering.relays.get_mut(&id).filter(|relay| relay.is_pending()) {
            relay.client = None;
            self.timers.cancel(Timer::Relay(id));
            self.relay_failed(now, id, "unreachable from this address".to_owned());
        }
    }

    /// There is no allocation, or no more. Over UDP the server may still tell a reflexive address.
    fn relay_failed(&mut self, now: Instant, id: RelayId, reason: String) {
        let Some(relay) = self.gathering.relays.get_mut(&id) else { return };
        let (server, carrier) = (relay.server.clone(), relay.carrier);
        let before = std::mem::replace(&mut relay.progress, Progress::Over);
        self.note_turn_outcome(&server, carrier, Err(reason));
        match (before, carrier) {
            (Progress::Pending, Via::Socket(socket)) => self.queue_binding(socket, server.address),
            (Progress::Allocated(_), _) => self.route_lost(now, Route::Relay(id)),
            _ => {}
        }
        self.check_gathering(now);
    }

    fn note_turn_outcome(&mut self, server: &TurnServer, carrier: Via, result: Result<SocketAddr, String>) {
        let socket = match carrier {
            Via::Socket(socket) => Some(socket),
            Via::Stream(_) => None,
        };
        let transport: Transport = server.transport;
        // Of allocations that are made anew the last attempt counts.
        self.gathering.outcomes.retain(|known| {
            (known.turn, known.server, known.transport, known.socket)
                != (true, server.address, transport, socket)
        });
        self.gathering.outcomes.push(ServerOutcome {
            server: server.address,
            transport,
            turn: true,
            socket,
            result,
        });
    }
}
