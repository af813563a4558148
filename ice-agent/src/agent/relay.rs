//! The allocations of this agent: one TURN client for each server and socket, or for each stream.
//!
//! - `turns`: which of several ways to one server is tried when.
//! - `recovery`: what becomes of an allocation whose server, socket, stream or credentials go.

mod recovery;
mod turns;

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
use crate::turn::{Redirection, TurnClient, TurnClientConfig, TurnEvent};

/// The local preference of allocations over a stream: below those over UDP, since a stream delays what it repeats.
const STREAM_LOCAL_PREFERENCE: u16 = 0x1000;

/// That of allocations over a UDP socket of their own.
const OWN_SOCKET_LOCAL_PREFERENCE: u16 = 0x2000;

/// So much lower is the local preference of an allocation's second address: more than there are servers.
const SECOND_ADDRESS: u16 = 0x40;

/// Where an allocation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Not asked for as long as there is a better way to the same server.
    Reserved,
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
    component: ComponentId,
    pub(super) server: TurnServer,
    index: usize,
    pub(super) carrier: Via,
    progress: Progress,
    client: Option<TurnClient>,
    /// Who was asked, each on the word of the one before.
    redirection: Redirection,
    /// What the other address of the allocation goes by. That has no client.
    other: Option<RelayId>,
    /// What has the client, if this is the other address of an allocation.
    owner: Option<RelayId>,
    /// Another allocation takes the place of this one: when it ends, that is all.
    replaced: bool,
    /// Whether there was an allocation before, in whose place this one is: it is to be had, sooner or later.
    stands_in: bool,
    /// How often in a row it failed.
    failures: u32,
    /// Since when there is an allocation.
    since: Option<Instant>,
    /// The number of the mapping to the server.
    flow: u32,
}

impl Relay {
    pub(super) fn new(component: ComponentId, server: &TurnServer, index: usize, carrier: Via) -> Relay {
        let server = TurnServer { address: canonical(server.address), ..server.clone() };
        Relay {
            component,
            index,
            carrier,
            progress: Progress::Pending,
            client: None,
            redirection: Redirection::from(server.address),
            other: None,
            owner: None,
            replaced: false,
            stands_in: false,
            failures: 0,
            since: None,
            flow: 0,
            server,
        }
    }

    /// There is no allocation any more.
    pub(super) fn retire(&mut self) {
        self.progress = Progress::Over;
        self.client = None;
        self.replaced = true;
    }

    /// Whether it is over, and will not be tried again.
    pub(super) fn is_gone(&self) -> bool {
        self.progress == Progress::Over && (self.replaced || self.owner.is_some())
    }

    pub(super) fn is_pending(&self) -> bool {
        self.progress == Progress::Pending
    }
}

impl Agent {
    pub(super) fn add_relay(&mut self, relay: Relay) -> RelayId {
        let id = RelayId(self.gathering.relays_made);
        self.gathering.relays_made += 1;
        self.gathering.relays.insert(id, relay);
        id
    }

    /// A relay that a stream is to carry, or a UDP socket of its own, once it is [connected](Self::connect_relay).
    fn add_relay_by_stream(&mut self, component: ComponentId, server: &TurnServer, index: usize) -> RelayId {
        let stream = self.new_stream();
        let id = self.add_relay(Relay::new(component, server, index, Via::Stream(stream)));
        self.gathering.relay_by_stream.insert(stream, id);
        id
    }

    pub(super) fn new_stream(&mut self) -> StreamId {
        let stream = StreamId(self.gathering.streams_made);
        self.gathering.streams_made += 1;
        stream
    }

    /// Asks for the stream.
    fn connect_relay(&mut self, id: RelayId) {
        let Some(relay) = self.gathering.relays.get_mut(&id) else { return };
        let Via::Stream(stream) = relay.carrier else { return };
        if relay.client.is_none() {
            relay.progress = Progress::Pending;
        }
        let server = &relay.server;
        self.out.actions.push_back(Action::Connect {
            stream,
            server: server.address,
            host: server.host.clone().unwrap_or(Host::Ip(server.address.ip())),
            by_name: !relay.redirection.has_moved(),
            transport: server.transport,
            local: None,
        });
    }

    /// Sends the Allocate request of a relay over UDP.
    pub(super) fn start_relay(&mut self, now: Instant, id: RelayId) {
        let Some(relay) = self.gathering.relays.get(&id) else { return };
        let Via::Socket(socket) = relay.carrier else { return };
        if let Some(socket) = self.local.sockets.get(&socket) {
            self.start_relay_from(now, id, socket.at.local);
        }
    }

    /// Answers [`Action::Connect`] and [`Action::ConnectTcp`]: the stream's local address, or why there is no stream.
    pub fn stream_connected(&mut self, now: Instant, stream: StreamId, result: Result<SocketAddr, String>) {
        let Some(&id) = self.gathering.relay_by_stream.get(&stream) else {
            return self.connection_made(now, stream, result);
        };
        match result {
            Ok(local) if self.move_relay(now, id, canonical(local)) => {}
            Ok(local) => self.start_relay_from(now, id, canonical(local)),
            Err(reason) => self.stream_failed(now, id, reason),
        }
        self.pump(now);
    }

    /// Takes one whole frame of a stream, without its padding, as [`frame_len`](thirl_common::wire::frame_len) cuts it; one of
    /// [`Framing::Packets`](super::Framing::Packets) without its length too.
    pub fn handle_stream_frame<'a>(
        &mut self,
        now: Instant,
        stream: StreamId,
        frame: &'a [u8],
    ) -> Option<super::Received<'a>> {
        let Some(&id) = self.gathering.relay_by_stream.get(&stream) else {
            return self.handle_packet(now, stream, frame);
        };
        let (route, peer, data) = self.handle_relay_input(now, id, frame)?;
        self.handle_on_route(now, route, peer, data)
    }

    /// The stream was closed, by whomever.
    pub fn stream_closed(&mut self, now: Instant, stream: StreamId) {
        let Some(id) = self.gathering.relay_by_stream.remove(&stream) else {
            return self.connection_lost(now, stream, "the connection was closed");
        };
        self.carrier_lost(now, id);
        self.pump(now);
    }

    /// What came from the server: by which of its addresses, a peer's address and data, if it was that.
    pub(super) fn handle_relay_input<'a>(
        &mut self,
        now: Instant,
        id: RelayId,
        bytes: &'a [u8],
    ) -> Option<(Route, SocketAddr, &'a [u8])> {
        let client = self.gathering.relays.get_mut(&id)?.client.as_mut()?;
        let received = client.handle_input(now, bytes);
        if received.is_none() {
            self.drain_relay(now, id);
            self.pump(now);
        }
        let received = received?;
        let peer = canonical(received.peer);
        Some((Route::Relay(self.address_towards(id, peer.ip())), peer, received.data))
    }

    /// Of an allocation's addresses the one that is of the peer's family.
    fn address_towards(&self, id: RelayId, peer: IpAddr) -> RelayId {
        let fits = |id: &RelayId| match self.gathering.relays.get(id)?.progress {
            Progress::Allocated(local) => Some(self.local.get(local)?.address.is_ipv4() == peer.is_ipv4()),
            _ => None,
        };
        let other = self.gathering.relays.get(&id).and_then(|relay| relay.other);
        other.filter(|other| fits(other) == Some(true)).unwrap_or(id)
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
            self.timers.cancel(Timer::RelayTurn(id));
        }
        for &stream in self.gathering.relay_by_stream.keys() {
            self.out.actions.push_back(Action::Close { stream });
        }
    }

    fn start_relay_from(&mut self, now: Instant, id: RelayId, local: SocketAddr) {
        let seed = self.random.draw(Rng::random);
        let Some(relay) = self.gathering.relays.get_mut(&id).filter(|relay| relay.client.is_none()) else {
            return;
        };
        let config = TurnClientConfig {
            server: relay.server.address,
            transport: relay.server.transport,
            local,
            credentials: relay.server.credentials.clone(),
            families: self.config.relayed_families,
            mobile: self.config.mobility,
        };
        let mut client = TurnClient::new(config, seed);
        client.start(now);
        relay.client = Some(client);
        if let Via::Socket(_) = relay.carrier {
            relay.flow = self.local.next_flow();
        }
        self.drain_relay(now, id);
    }

    fn with_client(&mut self, now: Instant, id: RelayId, act: impl FnOnce(&mut TurnClient)) {
        let id = self.gathering.relays.get(&id).and_then(|relay| relay.owner).unwrap_or(id);
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
            TurnEvent::Allocated { relayed, additional, mapped, .. } => {
                self.relay_allocated(now, id, relayed, mapped);
                if let Some(additional) = additional {
                    self.second_address(now, id, additional, mapped);
                }
                self.check_gathering(now);
            }
            TurnEvent::Moved { .. } => {}
            TurnEvent::Failed { reason } | TurnEvent::Lost { reason } => {
                self.allocation_ended(now, id, &reason);
            }
            TurnEvent::PermissionFailed { peer, reason } => {
                let id = self.address_towards(id, peer);
                self.route_refuses(now, Route::Relay(id), peer, &reason.to_string());
            }
        }
    }

    fn relay_allocated(&mut self, now: Instant, id: RelayId, relayed: SocketAddr, mapped: SocketAddr) {
        let Some(relay) = self.gathering.relays.get_mut(&id) else { return };
        relay.since = Some(now);
        let (server, carrier, flow) = (relay.server.clone(), relay.carrier, relay.flow);
        if let Via::Socket(socket) = carrier {
            self.add_server_reflexive(now, socket, server.address, mapped, flow);
        }
        self.hasten_gathering(now);
        self.note_turn_outcome(&server, carrier, Ok(relayed));
        let preference = self.relay_preference(id);
        self.add_relayed(now, id, relayed, mapped, preference);
        self.retire_moved(now, id);
    }

    /// The allocation's address of the other family is a candidate of its own.
    fn second_address(&mut self, now: Instant, id: RelayId, relayed: SocketAddr, mapped: SocketAddr) {
        let preference = self.relay_preference(id).saturating_sub(SECOND_ADDRESS);
        let Some(relay) = self.gathering.relays.get(&id) else { return };
        let second = Relay::new(relay.component, &relay.server, relay.index, relay.carrier);
        let second = self.add_relay(Relay { owner: Some(id), ..second });
        if let Some(relay) = self.gathering.relays.get_mut(&id) {
            relay.other = Some(second);
        }
        self.add_relayed(now, second, relayed, mapped, preference);
    }

    fn add_relayed(
        &mut self,
        now: Instant,
        id: RelayId,
        relayed: SocketAddr,
        mapped: SocketAddr,
        local_preference: u16,
    ) {
        let Some(relay) = self.gathering.relays.get(&id) else { return };
        let found = Found {
            component: relay.component,
            kind: CandidateKind::Relayed,
            address: relayed,
            told: None,
            route: Route::Relay(id),
            local_preference,
            related: Some(mapped),
            server: Some(relay.server.address),
            guess: None,
        };
        let progress = match self.add_local_candidate(now, &found) {
            Some(local) => Progress::Allocated(local),
            None => Progress::Over,
        };
        if let Some(relay) = self.gathering.relays.get_mut(&id) {
            relay.progress = progress;
        }
    }

    /// Better interfaces, and servers that were named first, have the higher local preference.
    fn relay_preference(&self, id: RelayId) -> u16 {
        let Some(relay) = self.gathering.relays.get(&id) else { return 0 };
        let base = match relay.carrier {
            Via::Socket(socket) => {
                self.local.sockets.get(&socket).map_or(0, |socket| socket.local_preference)
            }
            Via::Stream(_) if relay.server.transport == Transport::Udp => OWN_SOCKET_LOCAL_PREFERENCE,
            Via::Stream(_) => STREAM_LOCAL_PREFERENCE,
        };
        base.saturating_sub(u16::try_from(relay.index).unwrap_or(u16::MAX))
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
            (Progress::Allocated(_), _) => self.addresses_lost(now, id),
            _ => {}
        }
        self.call_reserve(id);
        self.check_gathering(now);
    }

    /// The candidates of an allocation are no more.
    fn addresses_lost(&mut self, now: Instant, id: RelayId) {
        let other = self.gathering.relays.get(&id).and_then(|relay| relay.other);
        for id in [Some(id), other].into_iter().flatten() {
            if let Some(relay) = self.gathering.relays.get_mut(&id) {
                relay.progress = Progress::Over;
            }
            self.route_lost(now, Route::Relay(id));
        }
        self.forget_lost();
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
