//! TCP allocations: connections between a relayed transport address and peers, which clients take over (RFC 6062).
//!
//! A connection begins with Connect, or with a peer that connects. Either way the client is told its CONNECTION-ID, opens
//! a connection of its own, and names it there in a ConnectionBind. From then on whoever runs the engine passes on what the
//! two send each other, and the engine only counts it ([`Engine::count_piped`]).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rand::Rng;
use thirl_common::net::{FiveTuple, PeerAddr, Transmit};
use thirl_common::wire::{
    AddressFamily, AttributeType, Class, ConnectionId, MessageWriter, Method, TransactionId, XorPeerAddress,
};

use super::authenticate::Authenticated;
use super::bandwidth::Direction;
use super::output::{Action, RelayId};
use super::refusal::Refusal;
use super::request::{Envelope, Request, Success};
use super::table::Hashing;
use super::{Engine, Timer};

/// How long a connection waits for its ConnectionBind (RFC 6062, sections 5.2 and 5.3).
pub const BIND_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a peer may take to accept a connection (RFC 6062, section 5.2: "at least 30 seconds").
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// So many low bits of a CONNECTION-ID are random. Those above name the engine.
const RANDOM_BITS: u32 = 20;

/// How often a free CONNECTION-ID is looked for. With half of them taken, one try in a million fails.
const TRIES: usize = 20;

/// Comprehension-required attributes of a Connect's own.
const KNOWN_IN_CONNECT: [AttributeType; 1] = [AttributeType::XOR_PEER_ADDRESS];

/// Comprehension-required attributes of a ConnectionBind's own.
const KNOWN_IN_BIND: [AttributeType; 1] = [AttributeType::CONNECTION_ID];

/// A ConnectionBind whose sender is known, on its way to the engine that has the connection.
#[derive(Debug)]
pub struct ConnectionBind {
    connection: ConnectionId,
    user: Authenticated,
    envelope: Envelope,
}

impl ConnectionBind {
    /// The number of the engine that has the connection, if any has: see [`Engine::numbered`].
    pub fn engine(&self) -> usize {
        (self.connection.0 >> RANDOM_BITS) as usize
    }

    /// Which connection.
    pub fn connection(&self) -> ConnectionId {
        self.connection
    }

    /// On which connection of the client's it came.
    pub fn five_tuple(&self) -> FiveTuple {
        self.envelope.five_tuple
    }
}

/// What becomes of a stream that a ConnectionBind held up ([`Forward::Hold`](super::Forward::Hold)).
#[derive(Debug)]
pub enum Held {
    /// It was refused: what follows are messages.
    ReadOn(FiveTuple),
    /// Take the stream with all that follows to the engine that is named, and ask it
    /// ([`Engine::bind_connection`]).
    Bind(Box<ConnectionBind>),
}

/// The connections of one allocation, few enough to be searched in turn.
#[derive(Debug, Default)]
pub(super) struct PeerConnections(Vec<(PeerAddr, ConnectionId)>);

impl PeerConnections {
    /// Those to peers of one family.
    pub(super) fn of_family(&self, family: AddressFamily) -> PeerConnections {
        let of_family = |(peer, _): &&(PeerAddr, ConnectionId)| AddressFamily::of(peer.ip()) == family;
        PeerConnections(self.0.iter().filter(of_family).copied().collect())
    }
}

/// All connections of an engine.
#[derive(Debug)]
pub(super) struct Connections {
    engine: u32,
    by_id: HashMap<ConnectionId, Connection, Hashing>,
}

#[derive(Debug)]
struct Connection {
    relay: RelayId,
    peer: PeerAddr,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The Connect is answered when it is known what came of it.
    Connecting(Box<Envelope>),
    /// There, and waiting for a ConnectionBind.
    Waiting,
    /// Passed on to the client.
    Bound,
}

impl Connections {
    pub(super) fn new(hashing: Hashing) -> Connections {
        Connections { engine: 0, by_id: HashMap::with_hasher(hashing) }
    }

    fn free_id(&self, rng: &mut impl Rng) -> Option<ConnectionId> {
        (0..TRIES)
            .map(|_| ConnectionId(self.engine << RANDOM_BITS | rng.random_range(0..1 << RANDOM_BITS)))
            .find(|id| !self.by_id.contains_key(id))
    }
}

impl Engine {
    /// One of several engines of a server, of which each has another number, below 4096: CONNECTION-IDs tell it.
    pub fn numbered(mut self, number: u16) -> Engine {
        self.connections.engine = u32::from(number) % (1 << (u32::BITS - RANDOM_BITS));
        self
    }

    /// A peer connected to a relay. Returned is the name of its connection, which the client is told; `None`: close it.
    pub fn handle_peer_connection(
        &mut self,
        now: Instant,
        relay: RelayId,
        from: PeerAddr,
    ) -> Option<ConnectionId> {
        let Some(allocation) = self.allocations.of_relay(relay) else {
            self.counters.dropped.no_relay += 1;
            return None;
        };
        if allocation.permissions.get(from.ip(), now).is_none() {
            self.counters.dropped.from_peer_not_permitted += 1;
            return None;
        }
        let five_tuple = allocation.five_tuple;
        let connection = self.add_connection(relay, from, State::Waiting).ok()?;
        self.deadlines.set(Timer::Connection(connection), now + BIND_TIMEOUT);
        let id = TransactionId(self.transaction_ids.next());
        self.transmits.extend(attempt(id, five_tuple, connection, from));
        Some(connection)
    }

    /// The answer to [`Action::Connect`]: whether the peer can be reached.
    pub fn peer_connected(&mut self, connection: ConnectionId, connected: bool, now: Instant) {
        let Some(found) = self.connections.by_id.get_mut(&connection) else { return };
        let State::Connecting(envelope) = std::mem::replace(&mut found.state, State::Waiting) else { return };
        if connected {
            self.deadlines.set(Timer::Connection(connection), now + BIND_TIMEOUT);
            self.succeed(&envelope, &Success { connection: Some(connection), ..Success::default() });
        } else {
            let peer = found.peer;
            self.forget_connection(connection);
            self.refuse(&envelope, Refusal::NotConnected(peer), None);
        }
    }

    /// Gives a connection to the client that asks for it. The response is to be written to the client before anything
    /// else; an `Err` is one as well, and the last that the client is told.
    pub fn bind_connection(&mut self, bind: &ConnectionBind) -> Result<Transmit, Transmit> {
        let ConnectionBind { connection, user, envelope } = bind;
        let result = self.find_waiting(*connection, user);
        let result = match result {
            Ok(()) => {
                self.deadlines.cancel(Timer::Connection(*connection));
                self.counters.connections_bound += 1;
                self.counters.succeeded += 1;
                Ok(envelope.succeed(&Success::default()))
            }
            Err(refusal) => {
                let response = envelope.refuse(&refusal, None);
                self.note_refusal(envelope, refusal);
                Err(response)
            }
        };
        let nothing = || Transmit {
            transport: envelope.five_tuple.transport,
            from: envelope.five_tuple.server.0,
            to: envelope.five_tuple.client.0,
            payload: Vec::new(),
        };
        // Both fit: they say next to nothing.
        result
            .map(|success| success.unwrap_or_else(|_| nothing()))
            .map_err(|error| error.unwrap_or_else(|_| nothing()))
    }

    /// Of a connection that was bound, so many bytes were read. Until the time that is returned nothing more is to be read
    /// that way; `None`: nothing limits it.
    pub fn count_piped(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        direction: Direction,
        bytes: usize,
    ) -> Option<Instant> {
        let relay = self.connections.by_id.get(&connection)?.relay;
        let allocation = self.allocations.of_relay(relay)?;
        for traffic in [&mut allocation.traffic, &mut self.counters.relayed] {
            match direction {
                Direction::ToPeer => traffic.count_to_peer(bytes),
                Direction::ToClient => traffic.count_to_client(bytes),
            }
        }
        let rest = allocation.meters.as_ref()?.charge(direction, bytes, now);
        (rest > now).then_some(rest)
    }

    /// A connection is over, or its peer has closed it.
    pub fn handle_connection_closed(&mut self, connection: ConnectionId) {
        self.forget_connection(connection);
    }

    /// Connects to a peer for the client (RFC 6062, section 5.2). The response comes when that is done.
    pub(super) fn handle_connect(
        &mut self,
        request: &Request<'_>,
        user: &Authenticated,
    ) -> Result<(), Refusal> {
        request.check_known(&KNOWN_IN_CONNECT)?;
        let config = self.config.clone();
        let (id, allocation) = self.allocation_of(request, user)?;
        let Some(PeerConnections(connections)) = allocation.tcp.as_deref() else {
            return Err(Refusal::OtherTransport);
        };
        let peer = PeerAddr(request.message.require::<XorPeerAddress>()?.0);
        let family = AddressFamily::of(peer.ip());
        if !allocation.relays.is_bound(family) {
            return Err(Refusal::FamilyMismatch);
        }
        // It would talk to itself.
        if allocation.relays.addresses().iter().any(|relayed| relayed.0 == peer.0) {
            return Err(Refusal::PeerDenied(peer));
        }
        config.peers.reach_at(peer, &allocation.own_addresses()).ok_or(Refusal::PeerDenied(peer))?;
        if connections.iter().any(|(known, _)| *known == peer) {
            return Err(Refusal::ConnectionExists(peer));
        }
        let relay = RelayId { allocation: id, family };
        let envelope = Box::new(request.envelope(Some(user.signing.clone())));
        let connection = self.add_connection(relay, peer, State::Connecting(envelope))?;
        self.deadlines.set(Timer::Connection(connection), request.now + CONNECT_TIMEOUT);
        self.actions.push_back(Action::Connect { connection, relay, peer });
        Ok(())
    }

    /// Sends a client's connection to where it is wanted (RFC 6062, section 5.4).
    pub(super) fn handle_connection_bind(
        &mut self,
        request: &Request<'_>,
        user: Authenticated,
    ) -> Result<(), Refusal> {
        request.check_known(&KNOWN_IN_BIND)?;
        let connection = request.message.require::<ConnectionId>()?;
        // The connection that an allocation lives by cannot carry data.
        if self.allocations.find(&request.five_tuple).is_some() {
            return Err(Refusal::AllocationExists);
        }
        let envelope = request.envelope(Some(user.signing.clone()));
        self.held.push_back(Held::Bind(Box::new(ConnectionBind { connection, user, envelope })));
        Ok(())
    }

    /// The time of a connection that was not bound is over.
    pub(super) fn expire_connection(&mut self, connection: ConnectionId, now: Instant) {
        self.actions.push_back(Action::CloseConnection { connection });
        self.peer_connected(connection, false, now);
        self.forget_connection(connection);
    }

    /// Closes what goes by a relay that is no more.
    pub(super) fn close_connections(&mut self, PeerConnections(connections): &PeerConnections) {
        for (_, connection) in connections {
            self.actions.push_back(Action::CloseConnection { connection: *connection });
            self.forget_connection(*connection);
        }
    }

    fn add_connection(
        &mut self,
        relay: RelayId,
        peer: PeerAddr,
        state: State,
    ) -> Result<ConnectionId, Refusal> {
        let limit = self.config.max_peer_connections;
        let allocation = self.allocations.of_relay(relay).ok_or(Refusal::NoAllocation)?;
        let PeerConnections(connections) = allocation.tcp.as_deref_mut().ok_or(Refusal::OtherTransport)?;
        let connection = self.connections.free_id(&mut self.rng).filter(|_| connections.len() < limit);
        let connection = connection.ok_or(Refusal::AllocationFull)?;
        connections.push((peer, connection));
        self.connections.by_id.insert(connection, Connection { relay, peer, state });
        Ok(connection)
    }

    fn forget_connection(&mut self, connection: ConnectionId) {
        let Some(Connection { relay, .. }) = self.connections.by_id.remove(&connection) else { return };
        self.deadlines.cancel(Timer::Connection(connection));
        let allocation = self.allocations.of_relay(relay);
        if let Some(PeerConnections(connections)) = allocation.and_then(|it| it.tcp.as_deref_mut()) {
            connections.retain(|(_, other)| *other != connection);
        }
    }

    /// Marks a connection as the client's, if it waits and is the user's.
    fn find_waiting(&mut self, connection: ConnectionId, user: &Authenticated) -> Result<(), Refusal> {
        let found = self.connections.by_id.get_mut(&connection).ok_or(Refusal::NoConnection)?;
        let allocation = self.allocations.of_relay(found.relay).ok_or(Refusal::NoConnection)?;
        if !allocation.is_of(user) {
            return Err(Refusal::OtherUser);
        }
        if !matches!(found.state, State::Waiting) {
            return Err(Refusal::NoConnection);
        }
        found.state = State::Bound;
        Ok(())
    }
}

/// A ConnectionAttempt indication (RFC 6062, section 5.3).
fn attempt(
    id: TransactionId,
    FiveTuple { transport, client, server }: FiveTuple,
    connection: ConnectionId,
    peer: PeerAddr,
) -> Option<Transmit> {
    let mut buffer = [0; 64];
    let mut writer =
        MessageWriter::new(&mut buffer, Class::Indication, Method::CONNECTION_ATTEMPT, id).ok()?;
    writer.attribute(&connection).ok()?.attribute(&XorPeerAddress(peer.0)).ok()?;
    Some(Transmit { transport, from: server.0, to: client.0, payload: writer.finish().to_vec() })
}
