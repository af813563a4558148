//! One thread, its sockets and what it serves: the loop that the STUN server and the TURN relay share.
//!
//! # A turn
//! 1. [`ShardIo::turn`] sends what the last turn queued, waits, and receives a batch. Both clocks are read once.
//! 2. Each datagram goes to the [`Service`] (`datagram`), and so does each frame of a stream that is readable (`streams`). The
//!    [`Outcome`] is queued: data in place, without a copy. Where the first byte says TLS or DTLS, the service gets what was
//!    decrypted (`streams`, `dtls`), under a five-tuple that says so.
//! 3. What other shards have for this one is handled likewise (`post`): letters between services, and datagrams from one
//!    service's socket to another's, which do not go through the kernel (`parcel`).
//! 4. What is due is ended: the service's timers, streams without use.
//! 5. [`Service::work`]: the service binds and closes sockets of its own; then its transmits are sent.
//!
//! `ways`: how datagrams get to clients. `proxied`: clients behind a proxy, by UDP. `passed`: connections to an HTTPS server that shares the port. `figures`: what
//! a shard tells of itself when asked. `start`: binds all sockets of all shards, starts their threads, and ends them.
//! `handed`: sockets of a service manager's. `renewal`: certificates renewed on disk.
//!
//! Shards share nothing that data touches but their mail, of which a turn takes and gives at most one piece for each shard.
//! A five-tuple stays with one shard, since the kernel chooses by a hash of it among sockets with `SO_REUSEPORT`, and all
//! are bound before any thread runs.

mod datagram;
mod dtls;
mod figures;
mod handed;
mod parcel;
mod passed;
mod post;
mod proxied;
mod renewal;
mod start;
mod streams;
mod ways;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use thirl_common::io::{ClientConn, Event, ShardIo, SocketId};
use thirl_common::net::{ClientAddr, FiveTuple, ServerAddr, Transmit, Undelivered};
use thirl_common::wire::{FrameLen, FramingError, frame_len};

use dtls::DtlsSessions;
pub use figures::ShardFigures;
pub use handed::Handed;
use parcel::Outbox;
pub use passed::HttpsBackend;
use post::Mail;
pub use post::Post;
pub use renewal::replace_certificates;
pub use start::{Listen, Running, Secure, StartError, start};
use streams::Streams;
use ways::Ways;

/// The tokens of a service's own sockets are below this.
pub const SERVICE_TOKEN_LIMIT: u64 = 1 << 63;

/// The tokens under which a service may have `io.poller()` watch what it likes: those of which the four highest bits are
/// these. Their events come by [`Service::handle_event`].
pub const SERVICE_EVENT: u64 = 1 << 60;

/// How long a shard rests when the system fails it, so as not to spin.
const REST: Duration = Duration::from_millis(100);

/// The time of a turn.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// For everything that lasts.
    pub now: Instant,
    /// Wall clock, in seconds since 1970.
    pub unix_seconds: u64,
}

/// What a shard serves. All calls are made by the shard's thread.
pub trait Service: Send + 'static {
    /// What is put before data that is forwarded to a client.
    type Prefix: AsRef<[u8]>;
    /// What the services of a server, and others, tell a service: see [`Post`].
    type Letter: Send + 'static;

    /// A datagram that a client sent to a listening address, or a frame of a client's stream.
    fn handle_client(
        &mut self,
        clock: Clock,
        five_tuple: FiveTuple,
        message: &[u8],
    ) -> Outcome<'_, Self::Prefix>;

    /// A datagram that came to a socket which the service added under `token`.
    fn handle_socket(
        &mut self,
        clock: Clock,
        token: u64,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Outcome<'_, Self::Prefix> {
        let _ = (clock, token, from, datagram);
        Outcome::Nothing
    }

    /// What the network says of a datagram that was sent by a socket which the service added under `token`, and what the
    /// client is to be told of it.
    fn handle_undelivered(&mut self, clock: Clock, token: u64, error: &Undelivered) -> Option<Transmit> {
        let _ = (clock, token, error);
        None
    }

    /// A datagram that a service of this server sent from its `from` to this one's `to`: see [`Outcome::Inside`].
    fn handle_inside(
        &mut self,
        clock: Clock,
        from: SocketAddr,
        to: SocketAddr,
        datagram: &[u8],
    ) -> Outcome<'_, Self::Prefix> {
        let _ = (clock, from, to, datagram);
        Outcome::Nothing
    }

    /// A letter by [`Post::send`]. What is to be sent in answer comes by [`Service::poll_transmit`].
    fn handle_letter(&mut self, clock: Clock, letter: Self::Letter, io: &mut ShardIo) {
        let _ = (clock, letter, io);
    }

    /// Where the next message ends in a client's stream.
    fn frame_len(&self, buffered: &[u8]) -> Result<FrameLen, FramingError> {
        frame_len(buffered)
    }

    /// A client's stream was closed.
    fn handle_client_gone(&mut self, clock: Clock, five_tuple: FiveTuple) {
        let _ = (clock, five_tuple);
    }

    /// Whether a client's stream is to be kept open though it is not used.
    fn keeps(&self, five_tuple: &FiveTuple) -> bool {
        let _ = five_tuple;
        false
    }

    /// What becomes of a stream that is held up: see [`Outcome::Hold`].
    fn poll_held(&mut self) -> Option<Held> {
        None
    }

    /// The stream that [`Held::Take`] asked for, which nobody watches. What it was sent so far went before; what came of it
    /// and was not handled is still in it.
    fn handle_taken(&mut self, clock: Clock, five_tuple: FiveTuple, stream: ClientConn, io: &ShardIo) {
        let _ = (clock, five_tuple, stream, io);
    }

    /// Something is ready that the service has watched under a token of [`SERVICE_EVENT`].
    fn handle_event(&mut self, clock: Clock, event: Event, io: &ShardIo) {
        let _ = (clock, event, io);
    }

    /// [`Service::poll_timeout`] has come.
    fn handle_timeout(&mut self, clock: Clock) {
        let _ = clock;
    }

    /// When [`Service::handle_timeout`] is due.
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// After each turn: add sockets to `io` under tokens below [`SERVICE_TOKEN_LIMIT`], and remove them.
    fn work(&mut self, clock: Clock, io: &mut ShardIo) {
        let _ = (clock, io);
    }

    /// A message for a client.
    fn poll_transmit(&mut self) -> Option<Transmit> {
        None
    }
}

/// What a service wants done about a message.
#[derive(Debug)]
pub enum Outcome<'s, P> {
    /// Nothing, or nothing yet.
    Nothing,
    /// Answer whoever sent it.
    Reply(&'s [u8]),
    /// Send a datagram to a client by the listening socket of `from`: not the way that the message came. A message of a
    /// stream has no such answer.
    Send {
        /// Any UDP address that the server listens on; each shard has a socket of its own for each.
        from: ServerAddr,
        /// Which client.
        to: ClientAddr,
        /// What.
        datagram: &'s [u8],
    },
    /// Send a part of it by one of the service's own sockets.
    ToSocket {
        /// Which socket.
        socket: SocketId,
        /// Where to.
        to: SocketAddr,
        /// Which part.
        range: Range<usize>,
        /// Whether nobody may fragment it.
        whole: bool,
    },
    /// Hand a part of it to a service of this server as a datagram, without the kernel in between. In answer to
    /// [`Service::handle_socket`] or [`Service::handle_inside`] it is nothing.
    Inside {
        /// The shard of that service.
        shard: usize,
        /// The address that it seems to come from.
        from: SocketAddr,
        /// The address of the service's that it goes to.
        to: SocketAddr,
        /// Which part.
        range: Range<usize>,
    },
    /// Send a part of it to a client, between `prefix` and `padding` zeros (0 to 3).
    ToClient {
        /// Which client.
        five_tuple: FiveTuple,
        /// What comes before.
        prefix: P,
        /// Which part.
        range: Range<usize>,
        /// How many zeros come after.
        padding: usize,
    },
    /// What follows in the client's stream may be no messages: it is left until [`Service::poll_held`] says what becomes of
    /// it. To what came otherwise it is nothing.
    Hold,
}

/// What becomes of a stream that was held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// What follows are messages.
    ReadOn(FiveTuple),
    /// The service takes it, by [`Service::handle_taken`], if it is still there.
    Take(FiveTuple),
}

/// A thread's share of a server.
struct Shard<S: Service> {
    number: usize,
    post: Post<S::Letter>,
    outbox: Outbox,
    service: S,
    io: ShardIo,
    ways: Ways,
    streams: Streams,
    dtls: Option<DtlsSessions>,
    stop: Arc<AtomicBool>,
}

impl<S: Service> Shard<S> {
    /// Serves until it is stopped, and returns the service.
    fn run(mut self) -> S {
        let mut events = Vec::new();
        let mut clock = read_clocks();
        while !self.stop.load(Ordering::Acquire) {
            let dtls = self.dtls.as_ref().and_then(DtlsSessions::poll_timeout);
            let proxied = self.ways.proxied.poll_timeout();
            let next = [self.service.poll_timeout(), self.streams.poll_timeout(), dtls, proxied];
            let next = next.into_iter().flatten().min();
            // Since the turn began, which makes the wait too long by what the turn took at the most.
            let timeout = next.map(|at| at.saturating_duration_since(clock.now));
            if let Err(error) = self.io.turn(timeout, &mut events) {
                tracing::error!(%error, "the system fails this shard; it goes on");
                std::thread::park_timeout(REST);
            }
            clock = read_clocks();
            self.turn(clock, &events);
        }
        self.io.flush();
        self.service
    }

    fn turn(&mut self, clock: Clock, events: &[Event]) {
        for index in 0..self.io.received_len() {
            self.handle_datagram(clock, index);
        }
        for (token, error) in self.io.take_undelivered() {
            self.handle_undelivered(clock, token, &error);
        }
        for event in events {
            let Shard { streams, service, io, outbox, .. } = self;
            if event.token >> 60 == SERVICE_EVENT >> 60 {
                service.handle_event(clock, *event, io);
            } else {
                streams.handle_event(clock, *event, service, io, outbox);
            }
        }
        self.take_mail(clock);
        if self.service.poll_timeout().is_some_and(|at| at <= clock.now) {
            self.service.handle_timeout(clock);
        }
        if self.streams.poll_timeout().is_some_and(|at| at <= clock.now) {
            self.streams.handle_timeout(clock, &mut self.service, &self.io);
        }
        if let Some(dtls) = &mut self.dtls
            && dtls.poll_timeout().is_some_and(|at| at <= clock.now)
        {
            dtls.handle_timeout(clock, &mut self.service, &mut self.io, &mut self.outbox);
        }
        while let Some(held) = self.service.poll_held() {
            self.settle(clock, held);
        }
        self.service.work(clock, &mut self.io);
        while let Some(transmit) = self.service.poll_transmit() {
            self.transmit(clock, &transmit);
        }
        self.ways.proxied.settle(clock.now, |five_tuple| self.service.keeps(five_tuple));
        let own = self.outbox.take(self.number);
        self.unpack(clock, &own);
        let dropped = self.outbox.send(&self.post);
        self.io.count_no_buffer(dropped);
    }

    fn settle(&mut self, clock: Clock, held: Held) {
        let Shard { service, io, streams, outbox, .. } = self;
        match held {
            Held::ReadOn(five_tuple) => streams.read_on(clock, &five_tuple, service, io, outbox),
            Held::Take(five_tuple) => {
                if let Some(stream) = streams.give(&five_tuple, io) {
                    service.handle_taken(clock, five_tuple, stream, io);
                }
            }
        }
    }

    fn take_mail(&mut self, clock: Clock) {
        for mail in self.post.take(self.number) {
            match mail {
                Mail::Letter(letter) => self.service.handle_letter(clock, letter, &mut self.io),
                Mail::Parcel(parcel) => self.unpack(clock, &parcel),
                // Whoever asked may have gone.
                Mail::Figures(answer) => {
                    let _ = answer.send(self.figures());
                }
            }
        }
    }

    fn figures(&self) -> ShardFigures {
        let (tcp, tls) = self.streams.counts();
        let (dtls, dtls_handshakes) = self.dtls.as_ref().map_or((0, 0), DtlsSessions::counts);
        let passed_on = self.streams.passed_on();
        ShardFigures { tcp, tls, passed_on, dtls, dtls_handshakes, datagrams: self.io.counters() }
    }
}

#[expect(clippy::disallowed_methods, reason = "a driver reads the clocks")]
fn read_clocks() -> Clock {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Clock { now: Instant::now(), unix_seconds: unix.map_or(0, |since| since.as_secs()) }
}
