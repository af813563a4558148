//! The relay as what a shard serves: the engine, and the sockets of its relays.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rand::RngCore;
use rand::rngs::StdRng;
use thirl_common::auth::LookupId;
use thirl_common::io::{ClientConn, Event, Route, ShardIo, return_memory};
use thirl_common::net::{FiveTuple, PeerAddr, RelayedAddr, Transmit, Undelivered};
use thirl_common::wire::{FrameLen, FramingError, frame_len_at_relay};
use thirl_stun_server::binding::Binding;
use thirl_stun_server::shard::{Clock, Held, Outcome, Post, Service};

use crate::engine::{
    self, Action, BindError, ConnectionBind, Engine, EngineConfig, Forward, Notice, OutgoingNotice, Prefix,
    RelayId,
};
use crate::inside::Inside;
use crate::log::Log;
use crate::ports::{BoundRelay, Ports};
use crate::relayed_tcp::RelayedTcp;
use crate::relays::{Relay, Relays};
use crate::server::Report;

/// How long requests wait until their credential store is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How long after a relay's end memory is looked after.
const TIDY_AFTER: Duration = Duration::from_secs(1);

/// What a shard is told.
pub(crate) enum Letter {
    /// To go by this from now on, and to say so.
    Configure(Arc<EngineConfig>, Arc<Ports>, Sender<()>),
    /// To give a client's connection one to a peer.
    Bind(Box<ConnectionBind>, Box<ClientConn>),
    /// To say what it is and did so far.
    Report(Sender<Report>),
    /// What another shard's engine says, and the sockets of [`OutgoingNotice::relays`]. `None`: there is none.
    Move(Notice, Vec<Option<BoundRelay>>),
}

/// One shard's share of a relay.
pub(crate) struct RelayService {
    shard: usize,
    post: Post<Letter>,
    log: Log,
    pub(crate) engine: Engine,
    pub(crate) binding: Binding,
    relays: Relays,
    tcp: RelayedTcp,
    /// For the stream that the shard is about to hand over.
    binding_stream: Option<Box<ConnectionBind>>,
    /// All shards' relays.
    inside: Arc<Inside>,
    /// The look-ups that requests wait for.
    awaited: BTreeSet<LookupId>,
    ask_again: Option<Instant>,
    /// How many allocations there were at most since memory was given back.
    most: usize,
    tidy_at: Option<Instant>,
    ports: Arc<Ports>,
    rng: StdRng,
}

impl RelayService {
    pub(crate) fn new(
        (shard, post): (usize, Post<Letter>),
        engine: Engine,
        binding: Binding,
        (ports, inside): (Arc<Ports>, Arc<Inside>),
        mut rng: StdRng,
    ) -> RelayService {
        let mut seed = [0; 16];
        rng.fill_bytes(&mut seed);
        RelayService {
            shard,
            post,
            log: Log::new(shard, seed),
            engine: engine.on_shard(shard),
            binding,
            relays: Relays::default(),
            tcp: RelayedTcp::default(),
            binding_stream: None,
            inside,
            awaited: BTreeSet::new(),
            ask_again: None,
            most: 0,
            tidy_at: None,
            ports,
            rng,
        }
    }

    pub(crate) fn report(&self) -> Report {
        Report {
            allocations: self.engine.allocations(),
            relays: self.relays.len() + self.tcp.relays(),
            engine: self.engine.counters(),
            binding: self.binding.counters(),
        }
    }

    #[inline]
    fn outcome(&self, forward: Option<Forward>) -> Outcome<'_, Prefix> {
        match forward {
            Some(Forward::ToPeer { relay, to: PeerAddr(to), range, dont_fragment }) => {
                let Some(&Relay { socket, relayed, .. }) = self.relays.get(relay) else {
                    return Outcome::Nothing;
                };
                match self.inside.shard(to) {
                    Some(shard) => Outcome::Inside { shard, from: relayed.0, to, range },
                    None => Outcome::ToSocket { socket, to, range, whole: dont_fragment },
                }
            }
            Some(Forward::ToClient { five_tuple, prefix, range, padding }) => {
                Outcome::ToClient { five_tuple, prefix, range, padding }
            }
            Some(Forward::Hold) => Outcome::Hold,
            None => Outcome::Nothing,
        }
    }

    fn carry_out(&mut self, action: Action, clock: Clock, io: &mut ShardIo) {
        match action {
            Action::BindRelay { relay, family, five_tuple, port } => {
                let bound = self
                    .ports
                    .bind(five_tuple.server, family, port, &mut self.rng)
                    .and_then(|bound| self.add(relay, bound, io));
                self.engine.relay_bound(relay, bound, clock.now);
            }
            Action::ListenRelay { relay, family, five_tuple } => {
                let listening = self.ports.listen(five_tuple.server, family, &mut self.rng);
                let bound = listening.and_then(|listening| self.tcp.listen(relay, listening, io));
                self.engine.relay_bound(relay, bound, clock.now);
            }
            Action::Connect { connection, relay, peer } => {
                if let Err(error) = self.tcp.connect(connection, relay, peer, io) {
                    tracing::debug!(%peer, %error, "a peer cannot be connected to");
                    self.engine.peer_connected(connection, false, clock.now);
                }
            }
            Action::CloseConnection { connection } => self.tcp.close(connection),
            Action::ReleaseRelay { relay } => {
                self.tcp.release(relay);
                drop(self.take(relay, clock, io));
            }
            // Who looks them up need not know of shards: the engine will say so if the store does not know yet.
            Action::AwaitCredentials { lookup } => {
                self.awaited.insert(lookup);
                self.ask_again.get_or_insert(clock.now + ASK_AGAIN);
            }
            Action::ReleaseReserved { token } => drop(self.ports.take_reserved(token)),
            // Fast paths are not asked for (`EngineConfig::fast_path`).
            _ => {}
        }
    }

    fn add(
        &mut self,
        id: RelayId,
        BoundRelay { socket, relayed }: BoundRelay,
        io: &mut ShardIo,
    ) -> Result<RelayedAddr, BindError> {
        let socket = io.add(socket, id.to_u64()).map_err(|error| BindError::System(error.to_string()))?;
        self.relays.insert(Relay { id, socket, relayed });
        self.inside.insert(relayed, self.shard);
        self.most = self.most.max(self.engine.allocations());
        Ok(relayed)
    }

    /// Gives memory back to the system if a quarter of what was there has gone. Where as many come as go, it stays.
    fn tidy(&mut self) {
        let there = self.engine.allocations();
        if there <= self.most / 4 * 3 {
            self.most = there;
            self.relays.shrink();
            return_memory();
        }
    }

    fn take(&mut self, relay: RelayId, clock: Clock, io: &mut ShardIo) -> Option<BoundRelay> {
        let (Relay { socket, relayed, .. }, found) = self.relays.remove(relay)?;
        if found {
            self.inside.remove(relayed);
        }
        self.tidy_at.get_or_insert(clock.now + TIDY_AFTER);
        Some(BoundRelay { socket: io.remove(socket)?, relayed })
    }

    fn carry_out_all(&mut self, clock: Clock, io: &mut ShardIo) {
        while let Some(action) = self.engine.poll_action() {
            self.carry_out(action, clock, io);
        }
    }

    fn send_notices(&mut self, clock: Clock, io: &mut ShardIo) {
        while let Some(OutgoingNotice { shard, relays, notice }) = self.engine.poll_notice() {
            let sockets = relays.into_iter().map(|relay| self.take(relay, clock, io)).collect();
            self.post.send(shard, Letter::Move(notice, sockets));
        }
    }

    /// Allocations come here from other shards, and what their clients have sent here already.
    fn handle_notice(
        &mut self,
        clock: Clock,
        notice: Notice,
        sockets: Vec<Option<BoundRelay>>,
        io: &mut ShardIo,
    ) {
        // A relay that ended may have had the place of one that comes, and one that goes leaves its own to the next.
        self.carry_out_all(clock, io);
        let relays = self.engine.handle_notice(clock.now, notice);
        self.send_notices(clock, io);
        for (relay, bound) in relays.into_iter().zip(sockets) {
            let added = bound.ok_or(BindError::NoAddress).and_then(|bound| self.add(relay, bound, io));
            if let Err(error) = added {
                tracing::error!(%error, "a relay cannot follow its client to another shard, and ends");
                self.engine.relay_lost(relay);
            }
        }
        while let Some((five_tuple, datagram)) = self.engine.poll_arrived() {
            let forward = self.engine.handle_datagram(clock.now, clock.unix_seconds, five_tuple, &datagram);
            if let Some(Forward::ToPeer { relay, to: PeerAddr(to), range, dont_fragment }) = forward
                && let (Some(&Relay { socket, .. }), Some(data)) =
                    (self.relays.get(relay), datagram.get(range))
            {
                let route = Route { socket, to, source: None };
                match dont_fragment {
                    true => io.send_whole(socket, |io| io.send(route, data)),
                    false => io.send(route, data),
                }
            }
        }
    }
}

impl Service for RelayService {
    type Prefix = Prefix;
    type Letter = Letter;

    #[inline]
    fn handle_client(&mut self, clock: Clock, five_tuple: FiveTuple, message: &[u8]) -> Outcome<'_, Prefix> {
        if Binding::concerns(message) {
            return self.binding.handle_client(clock, five_tuple, message, self.engine.limiter_mut());
        }
        let forward = self.engine.handle_datagram(clock.now, clock.unix_seconds, five_tuple, message);
        self.outcome(forward)
    }

    #[inline]
    fn handle_socket(
        &mut self,
        clock: Clock,
        token: u64,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Outcome<'_, Prefix> {
        let relay = RelayId::from_u64(token);
        let forward = self.engine.handle_peer_datagram(clock.now, relay, PeerAddr(from), datagram.len());
        self.outcome(forward)
    }

    fn handle_undelivered(&mut self, clock: Clock, token: u64, error: &Undelivered) -> Option<Transmit> {
        let relay = RelayId::from_u64(token);
        self.engine.handle_icmp(clock.now, relay, PeerAddr(error.to), error.icmp?)
    }

    #[inline]
    fn handle_inside(
        &mut self,
        clock: Clock,
        from: SocketAddr,
        to: SocketAddr,
        datagram: &[u8],
    ) -> Outcome<'_, Prefix> {
        let Some(relay) = self.relays.at(to) else { return Outcome::Nothing };
        let forward = self.engine.handle_peer_datagram(clock.now, relay.id, PeerAddr(from), datagram.len());
        self.outcome(forward)
    }

    #[inline]
    fn frame_len(&self, buffered: &[u8]) -> Result<FrameLen, FramingError> {
        frame_len_at_relay(buffered)
    }

    fn handle_letter(&mut self, clock: Clock, letter: Letter, io: &mut ShardIo) {
        match letter {
            Letter::Bind(bind, client) => self.tcp.bind(clock, &bind, *client, &mut self.engine, io),
            Letter::Configure(config, ports, done) => {
                self.engine.reconfigure(clock.now, config);
                self.ports = ports;
                let _ = done.send(());
            }
            // Whoever asked may have gone.
            Letter::Report(answer) => {
                let _ = answer.send(self.report());
            }
            Letter::Move(notice, sockets) => self.handle_notice(clock, notice, sockets, io),
        }
    }

    fn poll_held(&mut self) -> Option<Held> {
        Some(match self.engine.poll_held()? {
            engine::Held::ReadOn(five_tuple) => Held::ReadOn(five_tuple),
            engine::Held::Bind(bind) => Held::Take(self.binding_stream.insert(bind).five_tuple()),
        })
    }

    fn handle_taken(&mut self, clock: Clock, _five_tuple: FiveTuple, stream: ClientConn, io: &ShardIo) {
        let Some(bind) = self.binding_stream.take() else { return };
        let shard = bind.engine();
        if shard != self.shard && shard < self.post.shards() {
            self.post.send(shard, Letter::Bind(bind, Box::new(stream)));
        } else {
            self.tcp.bind(clock, &bind, stream, &mut self.engine, io);
        }
    }

    fn handle_event(&mut self, clock: Clock, event: Event, io: &ShardIo) {
        self.tcp.handle_event(clock, event, &mut self.engine, io);
    }

    fn handle_client_gone(&mut self, clock: Clock, five_tuple: FiveTuple) {
        self.engine.handle_client_gone(clock.now, five_tuple);
    }

    fn keeps(&self, five_tuple: &FiveTuple) -> bool {
        self.engine.has_allocation(five_tuple)
    }

    fn handle_timeout(&mut self, clock: Clock) {
        self.engine.handle_timeout(clock.now);
        self.tcp.handle_timeout(clock);
        if self.binding.poll_timeout().is_some_and(|at| at <= clock.now) {
            self.binding.handle_timeout(clock);
        }
        if self.tidy_at.is_some_and(|at| at <= clock.now) {
            self.tidy_at = None;
            self.tidy();
        }
        if self.ask_again.is_some_and(|at| at <= clock.now) {
            self.ask_again = None;
            for lookup in std::mem::take(&mut self.awaited) {
                self.engine.credentials_ready(lookup, clock.now, clock.unix_seconds);
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let timeouts = [
            self.engine.poll_timeout(),
            self.tcp.poll_timeout(),
            self.binding.poll_timeout(),
            self.ask_again,
            self.tidy_at,
        ];
        timeouts.into_iter().flatten().min()
    }

    fn work(&mut self, clock: Clock, io: &mut ShardIo) {
        self.tcp.work(io);
        self.carry_out_all(clock, io);
        self.send_notices(clock, io);
        while let Some(event) = self.engine.poll_event() {
            self.log.event(clock.now, &event);
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.engine.poll_transmit().or_else(|| self.binding.poll_transmit())
    }
}
