//! The TCP side of a shard: listeners, and connections with bounded buffers and deadlines, TLS or not.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use thirl_common::io::{
    Accepted, ClientConn, Event, Interest, ReadOutcome, Route, ShardIo, StreamConn, StreamListener,
    WriteOutcome,
};
use thirl_common::net::{ClientAddr, FiveTuple, ServerAddr, Transport, canonical};
use thirl_common::proxy_protocol::TrustedProxies;
use thirl_common::time::Deadlines;
use thirl_common::tls::Certificates;

use super::datagram::send_by_socket;
use super::parcel::Outbox;
use super::passed::PassedOn;
use super::{Clock, Outcome, Service};

/// So many connections are accepted in a turn from one listener, so that a flood of them does not stop data.
const ACCEPTED_PER_TURN: usize = 32;

/// How long a listener rests when there is no descriptor or memory for a connection.
const LISTENER_REST: Duration = Duration::from_secs(1);

/// Tokens of connections have this bit, and their generation above their index. Listeners count from [`FIRST_LISTENER`].
const CONNECTION: u64 = 1 << 62;
/// The bits below are of connections that are passed on (`passed`), and of the service's.
const GENERATIONS: u32 = 1 << 28;

/// The waker has 0.
const FIRST_LISTENER: u64 = 1;

/// All streams of a shard.
pub(super) struct Streams {
    listeners: Vec<StreamListener>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_five_tuple: HashMap<FiveTuple, u32, foldhash::fast::RandomState>,
    deadlines: Deadlines<Timer>,
    limits: Limits,
    /// What clients who begin with TLS are served with.
    certificates: Option<Certificates>,
    /// Who says first whose a connection is.
    proxies: TrustedProxies,
    /// Connections that are somebody else's, if there is somebody.
    passed: Option<PassedOn>,
}

/// The bounds of [`Streams`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_connections: usize,
    pub(super) idle_timeout: Duration,
    /// For the handshake of TLS, and for the header of a proxy.
    pub(super) handshake_timeout: Duration,
}

struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

struct Connection {
    stream: ClientConn,
    five_tuple: FiveTuple,
    watched: Interest,
    /// The service has to say first what follows: [`Outcome::Hold`].
    held: bool,
    /// When it was last good for anything: a whole frame came.
    used: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Timer {
    /// A listener that rests.
    Listener(u64),
    /// A connection that may have been idle for too long, by its token.
    Connection(u64),
}

/// The connection is of no more use.
struct Lost;

/// What becomes of a connection.
enum Fate {
    Stays,
    /// It is somebody else's.
    Leaves,
}

impl Streams {
    pub(super) fn new(
        listeners: Vec<StreamListener>,
        limits: Limits,
        certificates: Option<Certificates>,
        proxies: TrustedProxies,
        passed: Option<PassedOn>,
        io: &ShardIo,
    ) -> std::io::Result<Streams> {
        for (listener, token) in listeners.iter().zip(FIRST_LISTENER..) {
            io.poller().add(listener, token, Interest::READ)?;
        }
        Ok(Streams {
            listeners,
            slots: Vec::new(),
            free: Vec::new(),
            by_five_tuple: HashMap::default(),
            deadlines: Deadlines::default(),
            limits,
            certificates,
            proxies,
            passed,
        })
    }

    /// How many there are without and with TLS.
    pub(super) fn counts(&self) -> (usize, usize) {
        let connections = self.slots.iter().filter_map(|slot| slot.connection.as_ref());
        let tls = connections.filter(|connection| connection.five_tuple.transport == Transport::Tls).count();
        (self.by_five_tuple.len() - tls, tls)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let passed = self.passed.as_ref().and_then(PassedOn::poll_timeout);
        [self.deadlines.next(), passed].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout<S: Service>(&mut self, clock: Clock, service: &mut S, io: &ShardIo) {
        if let Some(passed) = &mut self.passed {
            passed.handle_timeout(clock);
        }
        let idle_timeout = self.limits.idle_timeout;
        while let Some(timer) = self.deadlines.pop_due(clock.now) {
            match timer {
                Timer::Listener(token) => self.watch_listener(token, Interest::READ, io),
                Timer::Connection(token) => {
                    let Some(connection) = self.connection(token) else { continue };
                    let used =
                        if service.keeps(&connection.five_tuple) { clock.now } else { connection.used };
                    if used + idle_timeout > clock.now && !connection.stream.is_handshaking() {
                        self.deadlines.set(timer, used + idle_timeout);
                    } else {
                        self.close(clock, token, service);
                    }
                }
            }
        }
    }

    pub(super) fn handle_event<S: Service>(
        &mut self,
        clock: Clock,
        event: Event,
        service: &mut S,
        io: &mut ShardIo,
        outbox: &mut Outbox,
    ) {
        if event.token & CONNECTION == 0 {
            match &mut self.passed {
                Some(passed) if PassedOn::concerns(event.token) => passed.handle_event(clock, event, io),
                _ if event.token >= FIRST_LISTENER => self.accept(clock, event.token, io),
                _ => {}
            }
            return;
        }
        match self.advance(clock, event, service, io, outbox) {
            Ok(Fate::Stays) => self.watch(event.token, io),
            Ok(Fate::Leaves) => self.pass_on(clock, event.token, io),
            Err(Lost) => self.close(clock, event.token, service),
        }
    }

    fn advance<S: Service>(
        &mut self,
        clock: Clock,
        event: Event,
        service: &mut S,
        io: &mut ShardIo,
        outbox: &mut Outbox,
    ) -> Result<Fate, Lost> {
        let Streams { slots, certificates, passed, .. } = self;
        let connection = slot_of(slots, event.token).and_then(|(_, slot)| slot.connection.as_mut());
        let Some(connection) = connection else { return Ok(Fate::Stays) };
        if event.writable {
            connection.stream.flush().map_err(|_| Lost)?;
        }
        if connection.held {
            return if event.closed { Err(Lost) } else { Ok(Fate::Stays) };
        }
        if event.readable {
            connection.read(certificates.as_ref(), passed.is_some())?;
            self.identify(clock, event.token)?;
            let Some(connection) = self.connection(event.token) else { return Ok(Fate::Stays) };
            if connection.stream.is_foreign() {
                return Ok(Fate::Leaves);
            }
            connection.serve(clock, service, io, outbox)?;
        }
        Ok(Fate::Stays)
    }

    /// What follows in a stream that was held up are messages.
    pub(super) fn read_on<S: Service>(
        &mut self,
        clock: Clock,
        five_tuple: &FiveTuple,
        service: &mut S,
        io: &mut ShardIo,
        outbox: &mut Outbox,
    ) {
        let Some((token, connection)) = self.find(five_tuple) else { return };
        connection.held = false;
        match connection.serve(clock, service, io, outbox) {
            Ok(()) => self.watch(token, io),
            Err(Lost) => self.close(clock, token, service),
        }
    }

    /// Gives a stream away, with what came of it.
    pub(super) fn give(&mut self, five_tuple: &FiveTuple, io: &ShardIo) -> Option<ClientConn> {
        let (token, connection) = self.find(five_tuple)?;
        io.poller().remove(&connection.stream).ok()?;
        Some(self.take(token)?.stream)
    }

    /// Data for a client, in these parts; dropped where the client does not read as fast as its peers send.
    #[inline]
    pub(super) fn write_data(&mut self, io: &ShardIo, five_tuple: &FiveTuple, parts: &[&[u8]]) {
        let Some((token, connection)) = self.find(five_tuple) else { return };
        // A connection that was lost is reported by the poller, and closed then.
        if let Ok(WriteOutcome::Queued) = connection.stream.write(parts) {
            self.watch(token, io);
        }
    }

    /// A response for a client. One who does not read responses is of no use: the connection is closed.
    pub(super) fn write_control<S: Service>(
        &mut self,
        clock: Clock,
        five_tuple: &FiveTuple,
        message: &[u8],
        service: &mut S,
        io: &ShardIo,
    ) {
        let Some((token, connection)) = self.find(five_tuple) else { return };
        match connection.stream.write(&[message]) {
            Ok(WriteOutcome::Written) => {}
            Ok(WriteOutcome::Queued) => self.watch(token, io),
            Ok(WriteOutcome::Full) | Err(_) => self.close(clock, token, service),
        }
    }

    fn accept(&mut self, clock: Clock, token: u64, io: &ShardIo) {
        for _ in 0..ACCEPTED_PER_TURN {
            let listener = usize::try_from(token - FIRST_LISTENER).ok().and_then(|at| self.listeners.get(at));
            let Some(listener) = listener else { return };
            match listener.accept() {
                // Beyond the limit it is closed at once: the client learns of it, and another shard may have room.
                Ok(Accepted::Connection(_)) if self.len() >= self.limits.max_connections => {}
                Ok(Accepted::Connection(stream)) => self.insert(clock, stream, io),
                Ok(Accepted::Nothing) => return,
                Ok(Accepted::Exhausted(error)) => {
                    tracing::warn!(%error, "no descriptor for another connection; accepting again in a second");
                    self.rest(clock, token, io);
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "a TCP listener fails; trying again in a second");
                    self.rest(clock, token, io);
                    return;
                }
            }
        }
    }

    fn rest(&mut self, clock: Clock, token: u64, io: &ShardIo) {
        self.watch_listener(token, Interest::NONE, io);
        self.deadlines.set(Timer::Listener(token), clock.now + LISTENER_REST);
    }

    fn watch_listener(&self, token: u64, interest: Interest, io: &ShardIo) {
        let listener = usize::try_from(token - FIRST_LISTENER).ok().and_then(|at| self.listeners.get(at));
        if let Some(listener) = listener
            && let Err(error) = io.poller().modify(listener, token, interest)
        {
            tracing::error!(%error, "a TCP listener cannot be watched");
        }
    }

    fn insert(&mut self, clock: Clock, stream: StreamConn, io: &ShardIo) {
        let five_tuple = FiveTuple {
            transport: Transport::Tcp,
            client: ClientAddr(canonical(stream.peer_addr())),
            server: ServerAddr(canonical(stream.local_addr())),
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, connection: None });
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let slot = &mut self.slots[index as usize];
        let token = CONNECTION | u64::from(slot.generation) << 32 | u64::from(index);
        if let Err(error) = io.poller().add(&stream, token, Interest::READ) {
            tracing::warn!(%error, "a connection cannot be watched, and is closed");
            self.free.push(index);
            return;
        }
        let by_proxy = self.proxies.contains(five_tuple.client.ip());
        let stream = if by_proxy { ClientConn::by_proxy(stream) } else { ClientConn::new(stream) };
        let timeout = if by_proxy { self.limits.handshake_timeout } else { self.limits.idle_timeout };
        slot.connection =
            Some(Connection { stream, five_tuple, watched: Interest::READ, held: false, used: clock.now });
        self.by_five_tuple.insert(five_tuple, index);
        self.deadlines.set(Timer::Connection(token), clock.now + timeout);
    }

    /// A connection is known by what its first bytes say: whose a proxy says it is, and TLS, of which the handshake has a
    /// deadline.
    fn identify(&mut self, clock: Clock, token: u64) -> Result<(), Lost> {
        let Limits { handshake_timeout, idle_timeout, .. } = self.limits;
        let Some((index, Slot { connection: Some(connection), .. })) = self.slot(token) else {
            return Ok(());
        };
        let before = connection.five_tuple;
        let transport = if connection.stream.is_tls() { Transport::Tls } else { before.transport };
        let client = ClientAddr(canonical(connection.stream.client_addr()));
        let five_tuple = FiveTuple { transport, client, ..before };
        if five_tuple == before {
            return Ok(());
        }
        let timeout = if connection.stream.is_handshaking() { handshake_timeout } else { idle_timeout };
        // By two proxies a client may come from one port twice. Which of them is meant nobody could tell.
        if self.by_five_tuple.contains_key(&five_tuple) {
            tracing::debug!(client = %five_tuple, "another connection is this client's already");
            return Err(Lost);
        }
        if let Some(connection) = self.connection(token) {
            connection.five_tuple = five_tuple;
        }
        self.by_five_tuple.remove(&before);
        self.by_five_tuple.insert(five_tuple, index);
        self.deadlines.set(Timer::Connection(token), clock.now + timeout);
        Ok(())
    }

    fn close<S: Service>(&mut self, clock: Clock, token: u64, service: &mut S) {
        let Some(connection) = self.take(token) else { return };
        service.handle_client_gone(clock, connection.five_tuple);
        connection.stream.close();
    }

    /// The service has nothing of it: it never had a frame.
    fn pass_on(&mut self, clock: Clock, token: u64, io: &ShardIo) {
        let connection = self.take(token);
        if let (Some(Connection { stream, five_tuple, .. }), Some(passed)) = (connection, &mut self.passed) {
            passed.begin(clock, five_tuple, stream.into_stream(), io);
        }
    }

    fn take(&mut self, token: u64) -> Option<Connection> {
        let (index, slot) = self.slot(token)?;
        let connection = slot.connection.take()?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.free.push(index);
        self.by_five_tuple.remove(&connection.five_tuple);
        self.deadlines.cancel(Timer::Connection(token));
        Some(connection)
    }

    /// How many connections there are.
    fn len(&self) -> usize {
        self.by_five_tuple.len() + self.passed_on()
    }

    /// How many of them are somebody else's.
    pub(super) fn passed_on(&self) -> usize {
        self.passed.as_ref().map_or(0, PassedOn::len)
    }

    /// Watches a connection for writing exactly as long as something is queued, and for reading unless it is held up.
    fn watch(&mut self, token: u64, io: &ShardIo) {
        let Some(connection) = self.connection(token) else { return };
        let interest = Interest { readable: !connection.held, writable: connection.stream.wants_write() };
        // It is watched already, so this cannot fail for want of anything.
        if interest != connection.watched && io.poller().modify(&connection.stream, token, interest).is_ok() {
            connection.watched = interest;
        }
    }

    fn slot(&mut self, token: u64) -> Option<(u32, &mut Slot)> {
        slot_of(&mut self.slots, token)
    }

    fn connection(&mut self, token: u64) -> Option<&mut Connection> {
        self.slot(token)?.1.connection.as_mut()
    }

    #[inline]
    fn find(&mut self, five_tuple: &FiveTuple) -> Option<(u64, &mut Connection)> {
        let index = *self.by_five_tuple.get(five_tuple)?;
        let slot = self.slots.get_mut(index as usize)?;
        let token = CONNECTION | u64::from(slot.generation) << 32 | u64::from(index);
        Some((token, slot.connection.as_mut()?))
    }
}

fn slot_of(slots: &mut [Slot], token: u64) -> Option<(u32, &mut Slot)> {
    let index = u32::try_from(token & u64::from(u32::MAX)).ok()?;
    let slot = slots.get_mut(index as usize)?;
    (token >> 32 & u64::from(GENERATIONS - 1) == u64::from(slot.generation)).then_some((index, slot))
}

impl Connection {
    fn read(&mut self, certificates: Option<&Certificates>, pass_on: bool) -> Result<(), Lost> {
        let config = || Some(certificates?.current().tls().clone());
        match self.stream.read(config, pass_on).map_err(|_| Lost)? {
            ReadOutcome::Closed => Err(Lost),
            ReadOutcome::Data(_) | ReadOutcome::Idle | ReadOutcome::Full => Ok(()),
        }
    }

    /// Hands on each whole frame.
    fn serve<S: Service>(
        &mut self,
        clock: Clock,
        service: &mut S,
        io: &mut ShardIo,
        outbox: &mut Outbox,
    ) -> Result<(), Lost> {
        while !self.held
            && let Some(frame) =
                self.stream.take_frame(|buffered| service.frame_len(buffered)).map_err(|_| Lost)?
        {
            self.used = clock.now;
            match service.handle_client(clock, self.five_tuple, frame) {
                Outcome::ToSocket { socket, to, range, whole } => {
                    if let Some(data) = frame.get(range) {
                        let route = Route { socket, to, source: None };
                        send_by_socket(io, socket, whole, |io| io.send(route, data));
                    }
                }
                Outcome::Inside { shard, from, to, range } => {
                    if let Some(data) = frame.get(range) {
                        outbox.push(shard, from, to, data);
                    }
                }
                Outcome::Reply(reply) => match self.stream.write(&[reply]) {
                    Ok(WriteOutcome::Written | WriteOutcome::Queued) => {}
                    Ok(WriteOutcome::Full) | Err(_) => return Err(Lost),
                },
                Outcome::Hold => self.held = true,
                Outcome::ToClient { .. } | Outcome::Send { .. } | Outcome::Nothing => {}
            }
        }
        Ok(())
    }
}
