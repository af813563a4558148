//! One thread, its sockets and what it serves: the loop that the STUN server and the TURN relay share.
//!
//! # A turn
//! 1. [`ShardIo::turn`] sends what the last turn queued, waits, and receives a batch. Both clocks are read once.
//! 2. Each datagram goes to the [`Service`], and so does each frame of a stream that is readable (`streams`). The
//!    [`Outcome`] is queued: data in place, without a copy. Where the first byte says TLS or DTLS, the service gets what was
//!    decrypted (`streams`, `dtls`), under a five-tuple that says so.
//! 3. What other shards have for this one is handled likewise (`post`): letters between services, and datagrams from one
//!    service's socket to another's, which do not go through the kernel (`parcel`).
//! 4. What is due is ended: the service's timers, streams without use.
//! 5. [`Service::work`]: the service binds and closes sockets of its own; then its transmits are sent.
//!
//! `proxied`: clients behind a proxy, by UDP. `passed`: connections to an HTTPS server that shares the port. `figures`: what
//! a shard tells of itself when asked. `start`: binds all sockets of all shards, starts their threads, and ends them.
//! `handed`: sockets of a service manager's. `renewal`: certificates renewed on disk.
//!
//! Shards share nothing that data touches but their mail, of which a turn takes and gives at most one piece for each shard.
//! A five-tuple stays with one shard, since the kernel chooses by a hash of it among sockets with `SO_REUSEPORT`, and all
//! are bound before any thread runs.

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

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use thirl_common::io::{ClientConn, Event, Route, ShardIo, SocketId};
use thirl_common::net::{ClientAddr, FiveTuple, ServerAddr, Transmit, Transport, Undelivered};
use thirl_common::wire::{FrameLen, FramingError, frame_len};

use dtls::DtlsSessions;
pub use figures::ShardFigures;
pub use handed::Handed;
use parcel::{Outbox, Parcel};
pub use passed::HttpsBackend;
use post::Mail;
pub use post::Post;
use proxied::{Client, Proxied};
pub use renewal::replace_certificates;
pub use start::{Listen, Running, Secure, StartError, start};
use streams::Streams;

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

/// A UDP socket that clients send to.
#[derive(Clone, Copy, Debug)]
struct Listener {
    socket: SocketId,
    addr: SocketAddr,
}

impl Listener {
    /// The server address that a datagram was sent to.
    #[inline]
    fn server_addr(&self, local: Option<IpAddr>) -> ServerAddr {
        match local {
            Some(ip) if self.is_wildcard() => ServerAddr(SocketAddr::new(ip, self.addr.port())),
            _ => ServerAddr(self.addr),
        }
    }

    fn is_wildcard(&self) -> bool {
        self.addr.ip().is_unspecified()
    }

    /// How a datagram leaves from `server`, if it can by this socket.
    #[inline]
    fn route(&self, server: ServerAddr, client: ClientAddr) -> Option<Route> {
        let source = if self.addr == server.0 {
            None
        } else if self.is_wildcard()
            && self.addr.port() == server.port()
            && self.addr.is_ipv4() == server.0.is_ipv4()
        {
            Some(server.ip())
        } else {
            return None;
        };
        Some(Route { socket: self.socket, to: client.0, source })
    }
}

/// How datagrams get to clients.
struct Ways {
    listeners: Vec<Listener>,
    proxied: Proxied,
}

impl Ways {
    /// How a datagram gets to a client as it is; `None` if it is one with a stream or a session.
    #[inline]
    fn route(&self, five_tuple: &FiveTuple) -> Option<Route> {
        if five_tuple.transport != Transport::Udp {
            return None;
        }
        let direct = || {
            let mut listeners = self.listeners.iter();
            listeners.find_map(|listener| listener.route(five_tuple.server, five_tuple.client))
        };
        self.proxied.route(five_tuple).or_else(direct)
    }
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

    /// Datagrams of services of this server.
    fn unpack(&mut self, clock: Clock, parcel: &Parcel) {
        for (from, to, datagram) in parcel.iter() {
            if let Outcome::ToClient { five_tuple, prefix, range, padding } =
                self.service.handle_inside(clock, from, to, datagram)
                && let Some(data) = datagram.get(range)
            {
                let parts = [prefix.as_ref(), data, zeros(padding)];
                match self.ways.route(&five_tuple) {
                    Some(route) => self.io.send_parts(route, &parts),
                    None => self.write_data(clock, five_tuple, &parts),
                }
            }
        }
    }

    /// Data for a client with a stream or a session.
    fn write_data(&mut self, clock: Clock, five_tuple: FiveTuple, parts: &[&[u8]]) {
        let Shard { service, io, streams, dtls, outbox, .. } = self;
        match dtls {
            Some(dtls) if five_tuple.transport == Transport::Dtls => {
                dtls.write(clock, five_tuple, parts, service);
                dtls.advance(clock, five_tuple, service, io, outbox);
            }
            _ => streams.write_data(io, &five_tuple, parts),
        }
    }

    fn figures(&self) -> ShardFigures {
        let (tcp, tls) = self.streams.counts();
        let (dtls, dtls_handshakes) = self.dtls.as_ref().map_or((0, 0), DtlsSessions::counts);
        let passed_on = self.streams.passed_on();
        ShardFigures { tcp, tls, passed_on, dtls, dtls_handshakes, datagrams: self.io.counters() }
    }

    #[inline]
    fn handle_datagram(&mut self, clock: Clock, index: usize) {
        let Some(token) = self.io.received(index).map(|received| received.token) else { return };
        match token.checked_sub(SERVICE_TOKEN_LIMIT).map(usize::try_from) {
            None => self.handle_socket(clock, index),
            Some(Ok(listener)) => self.handle_client(clock, index, listener),
            Some(Err(_)) => {}
        }
    }

    /// A datagram that came to a socket of the service's.
    #[inline]
    fn handle_socket(&mut self, clock: Clock, index: usize) {
        let Shard { service, io, .. } = self;
        let Some(received) = io.received(index) else { return };
        match service.handle_socket(clock, received.token, received.from, received.payload) {
            Outcome::ToClient { five_tuple, prefix, range, padding } => {
                self.forward_to_client(clock, index, five_tuple, &prefix, range, padding);
            }
            Outcome::ToSocket { socket, to, range, whole } => {
                let route = Route { socket, to, source: None };
                send_by_socket(io, socket, whole, |io| io.forward(index, range, &[], 0, route));
            }
            Outcome::Reply(_)
            | Outcome::Send { .. }
            | Outcome::Inside { .. }
            | Outcome::Hold
            | Outcome::Nothing => {}
        }
    }

    /// A part of the datagram received at `index` goes to a service of this server: in place, if it is this shard's.
    fn forward_inside(
        &mut self,
        clock: Clock,
        index: usize,
        shard: usize,
        [from, to]: [SocketAddr; 2],
        range: Range<usize>,
    ) {
        let Shard { service, io, outbox, .. } = self;
        let Some(datagram) = io.received(index).and_then(|it| it.payload.get(range.clone())) else { return };
        if shard != self.number {
            outbox.push(shard, from, to, datagram);
        } else if let Outcome::ToClient { five_tuple, prefix, range: part, padding } =
            service.handle_inside(clock, from, to, datagram)
        {
            let part = range.start + part.start..range.start + part.end;
            self.forward_to_client(clock, index, five_tuple, &prefix, part, padding);
        }
    }

    /// A part of the datagram received at `index` goes to a client.
    #[inline]
    fn forward_to_client(
        &mut self,
        clock: Clock,
        index: usize,
        five_tuple: FiveTuple,
        prefix: &S::Prefix,
        range: Range<usize>,
        padding: usize,
    ) {
        let Shard { service, io, ways, streams, dtls, outbox, .. } = self;
        if let Some(route) = ways.route(&five_tuple) {
            io.forward(index, range, prefix.as_ref(), padding, route);
            return;
        }
        let Some(data) = io.received(index).and_then(|it| it.payload.get(range)) else { return };
        let parts = [prefix.as_ref(), data, zeros(padding)];
        match dtls {
            Some(dtls) if five_tuple.transport == Transport::Dtls => {
                dtls.write(clock, five_tuple, &parts, service);
                dtls.advance(clock, five_tuple, service, io, outbox);
            }
            _ => streams.write_data(io, &five_tuple, &parts),
        }
    }

    /// An error that a datagram of the service's met with.
    fn handle_undelivered(&mut self, clock: Clock, token: u64, error: &Undelivered) {
        let Some(notice) = self.service.handle_undelivered(clock, token, error) else { return };
        let five_tuple = five_tuple_of(&notice);
        match self.ways.route(&five_tuple) {
            Some(route) => self.io.send(route, &notice.payload),
            None => self.write_data(clock, five_tuple, &[&notice.payload]),
        }
    }

    /// A datagram that a client sent to a listening address.
    #[inline]
    fn handle_client(&mut self, clock: Clock, index: usize, listener: usize) {
        let Shard { service, io, ways, dtls, outbox, .. } = self;
        let (Some(received), Some(listener)) = (io.received(index), ways.listeners.get(listener)) else {
            return;
        };
        let server = listener.server_addr(received.local);
        let (client, start) = match ways.proxied.client(received.from, received.payload) {
            Client::Direct => (ClientAddr(received.from), 0),
            Client::Proxied { client, header } => (client, header),
            Client::Unknown => return,
        };
        let Some(payload) = received.payload.get(start..) else { return };
        // A proxy passes on what comes back, without a header.
        let route = listener.route(server, ClientAddr(received.from));
        if let Some(dtls) = dtls
            && DtlsSessions::concerns(payload)
        {
            let five_tuple = FiveTuple { transport: Transport::Dtls, client, server };
            let Some(route) = route else { return };
            match dtls.handle_datagram(clock, five_tuple, route, payload, service) {
                Some(answer) => answer.datagram().into_iter().for_each(|datagram| io.send(route, datagram)),
                None => dtls.advance(clock, five_tuple, service, io, outbox),
            }
            return;
        }
        let five_tuple = FiveTuple { transport: Transport::Udp, client, server };
        if let (true, Some(route)) = (start > 0, route) {
            ways.proxied.remember(five_tuple, route);
        }
        match service.handle_client(clock, five_tuple, payload) {
            Outcome::ToSocket { socket, to, range, whole } => {
                let route = Route { socket, to, source: None };
                let range = start + range.start..start + range.end;
                send_by_socket(io, socket, whole, |io| io.forward(index, range, &[], 0, route));
            }
            Outcome::Reply(reply) => {
                if let Some(route) = route {
                    io.send(route, reply);
                }
            }
            // What a client behind a proxy asks to be sent from another address would not find back to it.
            Outcome::Send { from, to, datagram } if start == 0 => {
                let five_tuple = FiveTuple { transport: Transport::Udp, client: to, server: from };
                if let Some(route) = ways.route(&five_tuple) {
                    io.send(route, datagram);
                }
            }
            Outcome::Inside { shard, from, to, range } => {
                let range = start + range.start..start + range.end;
                self.forward_inside(clock, index, shard, [from, to], range);
            }
            Outcome::Send { .. } | Outcome::ToClient { .. } | Outcome::Hold | Outcome::Nothing => {}
        }
    }

    fn transmit(&mut self, clock: Clock, transmit: &Transmit) {
        let five_tuple = five_tuple_of(transmit);
        let payload = &transmit.payload;
        match self.ways.route(&five_tuple) {
            Some(route) => self.io.send(route, payload),
            None if five_tuple.transport == Transport::Dtls => self.write_data(clock, five_tuple, &[payload]),
            None => {
                let Shard { service, io, streams, .. } = self;
                streams.write_control(clock, &five_tuple, payload, service, io);
            }
        }
    }
}

fn five_tuple_of(transmit: &Transmit) -> FiveTuple {
    let Transmit { transport, from, to, .. } = *transmit;
    FiveTuple { transport, client: ClientAddr(to), server: ServerAddr(from) }
}

/// Queues a datagram for one of the service's own sockets.
#[inline]
fn send_by_socket(io: &mut ShardIo, socket: SocketId, whole: bool, queue: impl FnOnce(&mut ShardIo)) {
    if whole { io.send_whole(socket, queue) } else { queue(io) }
}

/// Padding, of 3 bytes at the most.
fn zeros(count: usize) -> &'static [u8] {
    const ZEROS: &[u8] = &[0; 3];
    ZEROS.get(..count).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "a driver reads the clocks")]
fn read_clocks() -> Clock {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Clock { now: Instant::now(), unix_seconds: unix.map_or(0, |since| since.as_secs()) }
}
