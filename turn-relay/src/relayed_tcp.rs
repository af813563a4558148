//! The sockets of TCP allocations: listeners at relayed transport addresses, connections to peers, and the pipes that they
//! become together with the clients' (RFC 6062).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::io::{
    Accepted, ClientConn, Connecting, Event, Interest, ShardIo, Side, Splice, StreamConn, StreamLimits,
    StreamListener,
};
use thirl_common::net::{PeerAddr, RelayedAddr, canonical};
use thirl_common::time::Deadlines;
use thirl_common::wire::ConnectionId;
use thirl_stun_server::shard::{Clock, SERVICE_EVENT};

use crate::engine::{BindError, ConnectionBind, Direction, Engine, RelayId};
use crate::ports::ListeningRelay;

/// So many peers are accepted in a turn by one relay, so that a flood of them does not stop data.
const ACCEPTED_PER_TURN: usize = 16;

/// How long a listener rests when there is no descriptor or memory for a connection.
const LISTENER_REST: Duration = Duration::from_secs(1);

/// Tokens of listeners have this bit, and the slot of their relay. Others have the CONNECTION-ID above the side.
const LISTENER: u64 = 1 << 59;

/// A pipe's sides: the client's, the peer's.
const CLIENT: Side = Side::First;
const PEER: Side = Side::Second;

/// All there is of a shard.
#[derive(Default)]
pub(crate) struct RelayedTcp {
    /// By the slot of their relay.
    listeners: HashMap<u64, Listener, foldhash::fast::RandomState>,
    connections: HashMap<ConnectionId, Connection, foldhash::fast::RandomState>,
    deadlines: Deadlines<Timer>,
    /// Timers that were due, for [`RelayedTcp::work`].
    due: Vec<Timer>,
}

struct Listener {
    relay: RelayId,
    listener: StreamListener,
    local: SocketAddr,
}

enum Connection {
    /// To a peer, being made.
    Connecting(Connecting),
    /// To a peer, for which the client has not sent its ConnectionBind. What the peer sends waits with the kernel.
    Waiting(StreamConn),
    Piped(Box<Splice>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Timer {
    /// A listener that rests.
    Listener(u64),
    /// The side of a pipe that rests, for it has sent as much as it may. True: the client's.
    Pipe(ConnectionId, bool),
}

impl RelayedTcp {
    /// How many listeners there are.
    pub(crate) fn relays(&self) -> usize {
        self.listeners.len()
    }

    /// Listens for a relay's peers.
    pub(crate) fn listen(
        &mut self,
        relay: RelayId,
        ListeningRelay { listener, local, relayed }: ListeningRelay,
        io: &ShardIo,
    ) -> Result<RelayedAddr, BindError> {
        let slot = relay.slot() as u64;
        io.poller()
            .add(&listener, SERVICE_EVENT | LISTENER | slot, Interest::READ)
            .map_err(|error| BindError::System(error.to_string()))?;
        self.listeners.insert(slot, Listener { relay, listener, local });
        Ok(relayed)
    }

    /// Listens for them no more.
    pub(crate) fn release(&mut self, relay: RelayId) {
        let slot = relay.slot() as u64;
        self.listeners.remove(&slot);
        self.deadlines.cancel(Timer::Listener(slot));
    }

    /// Connects to a peer. An error: it failed at once.
    pub(crate) fn connect(
        &mut self,
        connection: ConnectionId,
        relay: RelayId,
        PeerAddr(peer): PeerAddr,
        io: &ShardIo,
    ) -> io::Result<()> {
        let listener = self.listeners.get(&(relay.slot() as u64)).filter(|listener| listener.relay == relay);
        let local = listener.ok_or(io::ErrorKind::NotConnected)?.local;
        let connecting = Connecting::from_to(local, peer, StreamLimits::default())?;
        io.poller().add(&connecting, token(connection, PEER), Interest::WRITE)?;
        self.connections.insert(connection, Connection::Connecting(connecting));
        Ok(())
    }

    /// Closes a connection, of which the engine knows nothing any more.
    pub(crate) fn close(&mut self, connection: ConnectionId) {
        if let Some(Connection::Piped(splice)) = self.forget(connection) {
            splice.close();
        }
    }

    /// Gives a client's connection, which nobody watches, the one that it asks for; or tells it why not, and closes it.
    pub(crate) fn bind(
        &mut self,
        clock: Clock,
        bind: &ConnectionBind,
        mut client: ClientConn,
        engine: &mut Engine,
        io: &ShardIo,
    ) {
        let connection = bind.connection();
        let success = match engine.bind_connection(bind) {
            Ok(success) => success,
            Err(refused) => {
                // The client is done for in any case.
                let _ = client.write(&[&refused.payload]);
                client.close();
                return;
            }
        };
        let Some(Connection::Waiting(peer)) = self.connections.remove(&connection) else {
            engine.handle_connection_closed(connection);
            return;
        };
        let piped = client.write(&[&success.payload]).and_then(|_| {
            io.poller().remove(&peer)?;
            Splice::new(client, ClientConn::plain(peer)).map(Box::new)
        });
        match piped {
            Ok(splice) => self.pass(clock, connection, splice, [0; 2], engine, io),
            Err(_) => engine.handle_connection_closed(connection),
        }
    }

    /// Something is ready.
    pub(crate) fn handle_event(&mut self, clock: Clock, event: Event, engine: &mut Engine, io: &ShardIo) {
        if event.token & LISTENER != 0 {
            self.accept(clock, event.token & (LISTENER - 1), engine, io);
            return;
        }
        let (connection, side) = connection_and_side(event.token);
        match self.connections.remove(&connection) {
            Some(Connection::Connecting(connecting)) => {
                let connected = connecting.finish().and_then(|peer| {
                    io.poller().modify(&peer, event.token, Interest::NONE)?;
                    Ok(peer)
                });
                let is_connected = connected.is_ok();
                if let Ok(peer) = connected {
                    self.connections.insert(connection, Connection::Waiting(peer));
                }
                engine.peer_connected(connection, is_connected, clock.now);
            }
            Some(Connection::Waiting(_)) if event.closed => engine.handle_connection_closed(connection),
            Some(Connection::Piped(mut splice)) => match splice.handle(side, event) {
                Ok(spliced) if !spliced.over => {
                    self.pass(clock, connection, splice, spliced.moved, engine, io);
                }
                ended => {
                    if let Ok(spliced) = ended {
                        count(clock, connection, spliced.moved, engine);
                    }
                    self.forget(connection);
                    engine.handle_connection_closed(connection);
                }
            },
            Some(waiting @ Connection::Waiting(_)) => {
                self.connections.insert(connection, waiting);
            }
            None => {}
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    pub(crate) fn handle_timeout(&mut self, clock: Clock) {
        while let Some(timer) = self.deadlines.pop_due(clock.now) {
            self.due.push(timer);
        }
    }

    /// Goes on with what has rested.
    pub(crate) fn work(&mut self, io: &ShardIo) {
        for timer in std::mem::take(&mut self.due) {
            match timer {
                Timer::Listener(slot) => self.watch_listener(slot, Interest::READ, io),
                Timer::Pipe(connection, of_client) => {
                    let Some(Connection::Piped(splice)) = self.connections.get_mut(&connection) else {
                        continue;
                    };
                    splice.set_resting(if of_client { CLIENT } else { PEER }, false);
                    // It was watched before; if the system has no room for it now, the allocation's end closes it.
                    let _ = splice.watch(io.poller(), tokens(connection));
                }
            }
        }
    }

    /// Counts what was read of a pipe, and has it wait for what can be done next.
    fn pass(
        &mut self,
        clock: Clock,
        connection: ConnectionId,
        mut splice: Box<Splice>,
        moved: [usize; 2],
        engine: &mut Engine,
        io: &ShardIo,
    ) {
        for (side, rest) in count(clock, connection, moved, engine).into_iter().flatten() {
            splice.set_resting(side, true);
            self.deadlines.set(Timer::Pipe(connection, side == CLIENT), rest);
        }
        match splice.watch(io.poller(), tokens(connection)) {
            Ok(()) => {
                self.connections.insert(connection, Connection::Piped(splice));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be watched, and is closed");
                self.forget(connection);
                engine.handle_connection_closed(connection);
            }
        }
    }

    fn accept(&mut self, clock: Clock, slot: u64, engine: &mut Engine, io: &ShardIo) {
        for _ in 0..ACCEPTED_PER_TURN {
            let Some(Listener { relay, listener, .. }) = self.listeners.get(&slot) else { return };
            let peer = match listener.accept() {
                Ok(Accepted::Connection(peer)) => peer,
                Ok(Accepted::Nothing) => return,
                Ok(Accepted::Exhausted(error)) | Err(error) => {
                    tracing::warn!(%error, "a relay cannot accept a peer; accepting again in a second");
                    self.watch_listener(slot, Interest::NONE, io);
                    self.deadlines.set(Timer::Listener(slot), clock.now + LISTENER_REST);
                    return;
                }
            };
            let from = PeerAddr(canonical(peer.peer_addr()));
            let Some(connection) = engine.handle_peer_connection(clock.now, *relay, from) else { continue };
            match io.poller().add(&peer, token(connection, PEER), Interest::NONE) {
                Ok(()) => _ = self.connections.insert(connection, Connection::Waiting(peer)),
                Err(_) => engine.handle_connection_closed(connection),
            }
        }
    }

    fn watch_listener(&self, slot: u64, interest: Interest, io: &ShardIo) {
        if let Some(Listener { listener, .. }) = self.listeners.get(&slot)
            && let Err(error) = io.poller().modify(listener, SERVICE_EVENT | LISTENER | slot, interest)
        {
            tracing::error!(%error, "a relay's TCP listener cannot be watched");
        }
    }

    fn forget(&mut self, connection: ConnectionId) -> Option<Connection> {
        self.deadlines.cancel(Timer::Pipe(connection, true));
        self.deadlines.cancel(Timer::Pipe(connection, false));
        self.connections.remove(&connection)
    }
}

/// Has the engine count what was read of each side, and says which side is to rest until when.
fn count(
    clock: Clock,
    connection: ConnectionId,
    moved: [usize; 2],
    engine: &mut Engine,
) -> [Option<(Side, Instant)>; 2] {
    [(CLIENT, Direction::ToPeer), (PEER, Direction::ToClient)].map(|(side, direction)| {
        let bytes = moved[side as usize];
        let rest = (bytes > 0).then(|| engine.count_piped(clock.now, connection, direction, bytes));
        Some((side, rest??))
    })
}

fn token(connection: ConnectionId, side: Side) -> u64 {
    SERVICE_EVENT | u64::from(connection.0) << 1 | side as u64
}

fn tokens(connection: ConnectionId) -> [u64; 2] {
    Side::BOTH.map(|side| token(connection, side))
}

#[expect(clippy::cast_possible_truncation, reason = "32 bits were put there")]
fn connection_and_side(token: u64) -> (ConnectionId, Side) {
    (ConnectionId((token >> 1) as u32), if token & 1 == 0 { CLIENT } else { PEER })
}
