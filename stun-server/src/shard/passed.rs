//! Connections that clients opened to somebody else: TLS whose client offers other protocols than ours, on a port that we
//! share with an HTTPS server. They are passed on as they came, and TLS ends there.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::io::{
    ClientConn, Connecting, Event, Interest, ShardIo, Side, Splice, StreamConn, StreamLimits,
};
use thirl_common::net::FiveTuple;
use thirl_common::proxy_protocol::header_of_stream;
use thirl_common::time::Deadlines;

use super::Clock;

/// How long the backend may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection is kept on which nothing passes either way. Web servers close idle ones before.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// A backend that is not there is told of so often at most, since any client can have it asked.
const WARN_AGAIN: Duration = Duration::from_secs(60);

/// Tokens of these connections have this bit; the lowest says which side.
const PASSED: u64 = 1 << 61;

/// Where connections go that are not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpsBackend {
    /// A server of HTTPS.
    pub addr: SocketAddr,
    /// Whether it is told the client's address by the PROXY protocol, version 2.
    pub proxy_protocol: bool,
}

/// All connections of a shard that are passed on.
pub(super) struct PassedOn {
    backend: HttpsBackend,
    /// By a number that is never used again.
    connections: HashMap<u64, Connection, foldhash::fast::RandomState>,
    next: u64,
    deadlines: Deadlines<u64>,
    warned: Option<Instant>,
}

struct Connection {
    five_tuple: FiveTuple,
    state: State,
    /// When it was last good for anything.
    used: Instant,
}

enum State {
    /// The client waits, and is not read.
    Connecting { client: StreamConn, backend: Connecting },
    /// The client first, the backend second.
    Spliced(Box<Splice>),
    /// In between.
    Gone,
}

impl PassedOn {
    pub(super) fn new(backend: HttpsBackend) -> PassedOn {
        let (connections, deadlines) = (HashMap::default(), Deadlines::default());
        PassedOn { backend, connections, next: 0, deadlines, warned: None }
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether an event is of one of these.
    pub(super) fn concerns(token: u64) -> bool {
        token & PASSED != 0
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    pub(super) fn handle_timeout(&mut self, clock: Clock) {
        while let Some(number) = self.deadlines.pop_due(clock.now) {
            let Some(connection) = self.connections.get(&number) else { continue };
            match connection.state {
                State::Spliced(_) if connection.used + IDLE_TIMEOUT > clock.now => {
                    self.deadlines.set(number, connection.used + IDLE_TIMEOUT);
                }
                State::Spliced(_) | State::Gone => drop(self.connections.remove(&number)),
                State::Connecting { .. } => {
                    self.connections.remove(&number);
                    self.warn(clock, &io::ErrorKind::TimedOut.into());
                }
            }
        }
    }

    /// Takes over a client's connection, with what it sent so far.
    pub(super) fn begin(&mut self, clock: Clock, five_tuple: FiveTuple, client: StreamConn, io: &ShardIo) {
        let number = self.next;
        let begun = Connecting::to(self.backend.addr, StreamLimits::default()).and_then(|backend| {
            io.poller().modify(&client, token(number, Side::First), Interest::NONE)?;
            io.poller().add(&backend, token(number, Side::Second), Interest::WRITE)?;
            Ok(State::Connecting { client, backend })
        });
        match begun {
            Ok(state) => {
                self.next += 1;
                self.connections.insert(number, Connection { five_tuple, state, used: clock.now });
                self.deadlines.set(number, clock.now + CONNECT_TIMEOUT);
            }
            Err(error) => self.warn(clock, &error),
        }
    }

    pub(super) fn handle_event(&mut self, clock: Clock, event: Event, io: &ShardIo) {
        let (number, side) = number_and_side(event.token);
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let was_connecting = matches!(connection.state, State::Connecting { .. });
        match connection.handle(clock, number, event, self.backend, io) {
            Ok(true) => {
                if was_connecting {
                    self.deadlines.set(number, clock.now + IDLE_TIMEOUT);
                }
            }
            ended => {
                self.connections.remove(&number);
                self.deadlines.cancel(number);
                if let (true, Side::Second, Err(error)) = (was_connecting, side, ended) {
                    self.warn(clock, &error);
                }
            }
        }
    }

    fn warn(&mut self, clock: Clock, error: &io::Error) {
        if self.warned.is_none_or(|warned| warned + WARN_AGAIN <= clock.now) {
            self.warned = Some(clock.now);
            tracing::warn!(backend = %self.backend.addr, %error, "the HTTPS backend cannot be reached");
        }
    }
}

impl Connection {
    /// Whether it goes on.
    fn handle(
        &mut self,
        clock: Clock,
        number: u64,
        event: Event,
        to: HttpsBackend,
        io: &ShardIo,
    ) -> io::Result<bool> {
        let (_, side) = number_and_side(event.token);
        let tokens = Side::BOTH.map(|side| token(number, side));
        match std::mem::replace(&mut self.state, State::Gone) {
            // The client has gone before it was passed on.
            State::Connecting { .. } if side == Side::First => return Ok(false),
            State::Connecting { client, backend } => {
                io.poller().remove(&client)?;
                io.poller().remove(&backend)?;
                let mut backend = backend.finish()?;
                if to.proxy_protocol {
                    let FiveTuple { client, server, .. } = self.five_tuple;
                    backend.write(&[&header_of_stream(client.0, server.0)])?;
                }
                let mut splice =
                    Box::new(Splice::new(ClientConn::plain(client), ClientConn::plain(backend))?);
                splice.watch(io.poller(), tokens)?;
                self.state = State::Spliced(splice);
                self.used = clock.now;
            }
            State::Spliced(mut splice) => {
                let spliced = splice.handle(side, event)?;
                if spliced.over {
                    return Ok(false);
                }
                if spliced.moved != [0; 2] {
                    self.used = clock.now;
                }
                splice.watch(io.poller(), tokens)?;
                self.state = State::Spliced(splice);
            }
            State::Gone => return Ok(false),
        }
        Ok(true)
    }
}

fn token(number: u64, side: Side) -> u64 {
    PASSED | number << 1 | side as u64
}

fn number_and_side(token: u64) -> (u64, Side) {
    let side = if token & 1 == 0 { Side::First } else { Side::Second };
    ((token & !PASSED) >> 1, side)
}
