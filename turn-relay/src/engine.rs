//! The allocation engine: RFC 8656 without sockets, clocks or threads.
//!
//! In the order in which a datagram meets them:
//!
//! 1. [`Engine`]: method groups and poll order.
//! 2. `data`: Send, Data and ChannelData: [`Forward`].
//! 3. `authenticate`: who sent a request, in which realm ([`RealmConfig`]); `request`: the request and its responses; [`Refusal`]: why it is refused.
//! 4. `allocate`, `refresh`, `peers` (CreatePermission, ChannelBind), `reservation`: one handler for each request.
//! 5. `allocation`, `permission`, `channel`: what is kept of them, in `table`s.
//! 6. [`PeerPolicy`] of [`PeerRule`]s: which peers may be reached; [`Redirects`]: who is sent to another server. [`EngineConfig`]: what may be set.
//! 7. [`Shared`]: quotas and reservations, which the engines of one server have in common; [`Bandwidth`]: how much data
//!    passes.
//! 8. `mobility`: an allocation goes where its client goes: [`Notice`]s between engines.
//! 9. `icmp`: what the network says of datagrams to peers.
//! 10. `tcp`: connections to peers, and the clients' [`ConnectionBind`]s (RFC 6062).
//! 11. `output`: [`Action`], [`Event`]; `counters`: [`Counters`].

mod allocate;
mod allocation;
mod authenticate;
mod bandwidth;
mod channel;
mod config;
mod counters;
mod data;
mod icmp;
mod mobility;
mod output;
mod peer_policy;
mod peer_rule;
mod peers;
mod permission;
mod port_set;
mod realm;
mod redirect;
mod refresh;
mod refusal;
mod request;
mod reservation;
mod shared;
mod table;
mod tcp;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use bandwidth::{Bandwidth, Direction};
pub use channel::CHANNEL_LIFETIME;
pub use config::EngineConfig;
pub use counters::{Counters, Dropped, Ended, Refused, Traffic};
pub use data::{Forward, Prefix};
pub use mobility::{Notice, OutgoingNotice};
pub use output::{Action, AllocationId, BindError, EndReason, Event, PortWish, RelayId, RelayedAddresses};
pub use peer_policy::{DENIED_BY_DEFAULT, OwnAddresses, PeerPolicy, Reach};
pub use peer_rule::{PeerRule, PeerRuleError};
pub use permission::PERMISSION_LIFETIME;
pub use port_set::{ALL_PORTS, PortSet};
pub use realm::{RealmConfig, RealmLimits};
pub use redirect::{Alternate, RedirectWhen, Redirects};
pub use refusal::Refusal;
pub use reservation::RESERVATION_LIFETIME;
pub use shared::Shared;
pub use tcp::{BIND_TIMEOUT, CONNECT_TIMEOUT, ConnectionBind, Held};

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use thirl_common::auth::{LookupId, NonceKey};
use thirl_common::net::{FiveTuple, PeerAddr, RelayedAddr, Transmit};
use thirl_common::time::Deadlines;
use thirl_common::wire::{Class, ConnectionId, Icmp, Message, Method, Protocol, classify_at_relay};
use thirl_stun_server::{Limit, Limiter};

use allocation::{Allocation, Allocations, Relay};
use authenticate::{Authenticated, Deferred, Sender};
use data::TransactionIds;
use mobility::Moves;
use request::{Envelope, Offer, Request, Success};
use table::Hashing;
use tcp::Connections;

/// The allocations of one shard.
///
/// **In**, each with the time:
/// - [`handle_datagram`](Engine::handle_datagram): a client's datagram, or frame of its stream.
/// - [`handle_peer_datagram`](Engine::handle_peer_datagram): a datagram that came to a relay's socket.
/// - [`handle_icmp`](Engine::handle_icmp): an ICMP error that came for a datagram of a relay's socket.
/// - [`handle_client_gone`](Engine::handle_client_gone): a client's connection was closed.
/// - [`relay_bound`](Engine::relay_bound): the answer to [`Action::BindRelay`] and [`Action::ListenRelay`].
/// - [`handle_peer_connection`](Engine::handle_peer_connection): a peer connected to a relay.
/// - [`peer_connected`](Engine::peer_connected): the answer to [`Action::Connect`].
/// - [`bind_connection`](Engine::bind_connection): a client takes over a peer's connection.
/// - [`count_piped`](Engine::count_piped), [`handle_connection_closed`](Engine::handle_connection_closed): what became of it.
/// - [`credentials_ready`](Engine::credentials_ready): the answer to [`Action::AwaitCredentials`].
/// - [`reconfigure`](Engine::reconfigure): from now on it goes by this.
/// - [`handle_notice`](Engine::handle_notice): what another engine of the server says.
/// - [`handle_timeout`](Engine::handle_timeout): when [`poll_timeout`](Engine::poll_timeout) has come.
///
/// Data comes back at once as [`Forward`], to be sent before anything else is handed in.
///
/// **Out**, after one or several of these, each until it returns `None`:
/// 1. [`poll_action`](Engine::poll_action), whose answers may make transmits and events;
/// 2. [`poll_transmit`](Engine::poll_transmit);
/// 3. [`poll_notice`](Engine::poll_notice), and after [`handle_notice`](Engine::handle_notice) first of all
///    [`poll_arrived`](Engine::poll_arrived), where there are several engines;
/// 4. [`poll_held`](Engine::poll_held), where clients have streams;
/// 5. [`poll_event`](Engine::poll_event), for logs: a few may be left unread;
/// 6. [`poll_timeout`](Engine::poll_timeout).
///
/// Binding requests are not the engine's: `thirl_stun_server::Responder` answers them.
///
/// ```
/// use std::time::Instant;
/// use thirl_common::net::{ClientAddr, FiveTuple, RelayedAddr, ServerAddr, Transport};
/// use thirl_common::wire::{
///     Class, ErrorCode, Message, MessageWriter, Method, Nonce, RequestedTransport, TransactionId,
/// };
/// use thirl_turn_relay::engine::{Action, Engine, EngineConfig};
///
/// let mut engine = Engine::new(EngineConfig::default(), [7; 32]);
/// let five_tuple = FiveTuple {
///     transport: Transport::Udp,
///     client: ClientAddr("192.0.2.1:40000".parse()?),
///     server: ServerAddr("203.0.113.10:3478".parse()?),
/// };
/// # #[expect(clippy::disallowed_methods, reason = "an example's clock")]
/// let (now, unix_seconds) = (Instant::now(), 1_800_000_000);
///
/// // A client asks without credentials...
/// let mut buffer = [0; 64];
/// let mut request =
///     MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, TransactionId([1; 12]))?;
/// request.attribute(&RequestedTransport::UDP)?;
/// assert!(engine.handle_datagram(now, unix_seconds, five_tuple, request.finish()).is_none());
///
/// // ... so there is nothing to bind, and it is told the realm and a nonce.
/// while let Some(action) = engine.poll_action() {
///     if let Action::BindRelay { relay, .. } = action {
///         engine.relay_bound(relay, Ok(RelayedAddr("203.0.113.10:50000".parse()?)), now);
///     }
/// }
/// let response = engine.poll_transmit().unwrap();
/// assert_eq!(response.to, five_tuple.client.0);
/// let response = Message::parse(&response.payload)?;
/// assert_eq!(response.require::<ErrorCode>()?.code, 401);
/// assert!(response.get::<Nonce>()?.is_some());
/// assert_eq!(engine.poll_timeout(), None, "nothing is kept of a stranger");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Engine {
    config: Arc<EngineConfig>,
    nonces: NonceKey,
    shared: Shared,
    hashing: Hashing,
    allocations: Allocations,
    connections: Connections,
    deadlines: Deadlines<Timer>,
    rng: StdRng,
    transaction_ids: TransactionIds,
    deferred: Deferred,
    moves: Moves,
    limiter: Option<Limiter>,
    counters: Counters,
    transmits: VecDeque<Transmit>,
    actions: VecDeque<Action>,
    held: VecDeque<Held>,
    events: VecDeque<Event>,
}

/// What a deadline is for. Permissions and channels have none: they are looked at when they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Timer {
    Allocation(AllocationId),
    Reservation(u64),
    /// One to a peer that is being made, or that waits for its client.
    Connection(ConnectionId),
}

/// So much ends at once. An allocation's end takes some 15 µs, most of which closing its socket takes.
const ENDED_AT_ONCE: usize = 32;

impl Engine {
    /// An engine on its own. `seed`: 32 random bytes, for nonces, reservation tokens and hashing.
    pub fn new(config: impl Into<Arc<EngineConfig>>, seed: [u8; 32]) -> Engine {
        Engine::with_shared(config, Shared::default(), seed)
    }

    /// One of several engines of a server, each with a seed of its own.
    pub fn with_shared(config: impl Into<Arc<EngineConfig>>, shared: Shared, seed: [u8; 32]) -> Engine {
        let config = config.into();
        let mut rng = StdRng::from_seed(seed);
        let mut nonce_key = [0; 32];
        rng.fill_bytes(&mut nonce_key);
        let hashing = Hashing::with_seed(rng.next_u64(), foldhash::SharedSeed::global_random());
        let limiter = limiter(config.stranger_limit, &mut rng);
        Engine {
            limiter,
            nonces: config.nonce_key.clone().unwrap_or_else(|| NonceKey::new(&nonce_key)),
            config,
            shared,
            allocations: Allocations::new(hashing.clone()),
            moves: Moves::new(hashing.clone()),
            connections: Connections::new(hashing.clone()),
            hashing,
            deadlines: Deadlines::default(),
            transaction_ids: TransactionIds::new(rng.next_u64()),
            rng,
            deferred: authenticate::no_one_waits(),
            counters: Counters::default(),
            transmits: VecDeque::new(),
            actions: VecDeque::new(),
            held: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The engine of the server's shard of this number, from 0 up, which [`Notice`]s name; no two have the same.
    pub fn on_shard(mut self, shard: usize) -> Engine {
        self.moves.shard = shard;
        self
    }

    /// A datagram of a client, or a frame of its stream. `unix_seconds` is the wall clock, for credentials that expire.
    #[inline]
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        unix_seconds: u64,
        five_tuple: FiveTuple,
        datagram: &[u8],
    ) -> Option<Forward> {
        if classify_at_relay(datagram) == Protocol::ChannelData {
            self.relay_channel_data(now, five_tuple, datagram)
        } else {
            self.handle_stun(now, unix_seconds, five_tuple, datagram)
        }
    }

    /// A datagram of `len` bytes that `from` sent to a relay's socket. Its content does not matter.
    #[inline]
    pub fn handle_peer_datagram(
        &mut self,
        now: Instant,
        relay: RelayId,
        from: PeerAddr,
        len: usize,
    ) -> Option<Forward> {
        self.relay_to_client(now, relay, from, len)
    }

    /// An ICMP error, or ICMPv6 as `to` is of the one family or the other, for a datagram that a relay's socket sent `to` a
    /// peer. What it says must have been checked to be about such a datagram. Returned is what the client is told of it,
    /// which is data: it may be dropped where the client does not read.
    pub fn handle_icmp(
        &mut self,
        now: Instant,
        relay: RelayId,
        to: PeerAddr,
        error: Icmp,
    ) -> Option<Transmit> {
        self.relay_icmp(now, relay, to, error)
    }

    /// The client's connection was closed: its allocation ends, unless it has a ticket to come again with.
    pub fn handle_client_gone(&mut self, now: Instant, five_tuple: FiveTuple) {
        self.forget_deferred(&five_tuple);
        self.connection_closed(now, five_tuple);
    }

    /// What another engine says: when all actions are carried out, and before others are handed in, what
    /// [`Engine::poll_notice`] then gives is to be fetched. Returned are the relays whose sockets came along, in the order of
    /// [`OutgoingNotice::relays`]: they are this engine's now.
    pub fn handle_notice(&mut self, now: Instant, notice: Notice) -> Vec<RelayId> {
        self.take(now, notice)
    }

    /// The socket of a relay that came by [`Engine::handle_notice`] cannot be used: its allocation ends.
    pub fn relay_lost(&mut self, relay: RelayId) {
        self.end_allocation(relay.allocation, EndReason::RelayLost);
    }

    /// The answer to [`Action::BindRelay`]: the address that peers send to, as they see it.
    pub fn relay_bound(&mut self, relay: RelayId, result: Result<RelayedAddr, BindError>, now: Instant) {
        self.finish_allocate(relay, result, now);
    }

    /// The answer to [`Action::AwaitCredentials`]: the store knows what it was asked. The requests that waited for it are
    /// handled once more.
    pub fn credentials_ready(&mut self, lookup: LookupId, now: Instant, unix_seconds: u64) {
        self.handle_deferred(lookup, now, unix_seconds);
    }

    /// Takes no new allocations from now on, as [`Shared::drain`], for all engines of the server.
    pub fn drain(&mut self) {
        self.shared.drain();
    }

    /// Goes by another configuration from now on. Allocations, their permissions and channels, nonces and reservations stay;
    /// data is held to the new limits at once, and what is asked for to everything else. The nonce key stays as it is.
    pub fn reconfigure(&mut self, now: Instant, config: Arc<EngineConfig>) {
        let before = std::mem::replace(&mut self.config, config);
        let config = &*self.config;
        if config.stranger_limit != before.stranger_limit {
            self.limiter = limiter(config.stranger_limit, &mut self.rng);
        }
        if !config.has_the_bandwidths_of(&before) {
            for allocation in self.allocations.iter_mut() {
                allocation.meters = self.shared.meters(&allocation.owner.seat, config, now);
            }
        }
    }

    /// What counts the requests of strangers, for others whom the same strangers ask: Binding requests are counted too.
    pub fn limiter_mut(&mut self) -> Option<&mut Limiter> {
        self.limiter.as_mut()
    }

    /// Ends what has expired. If that is much, it is done in parts, so that data passes in between:
    /// [`Engine::poll_timeout`] is then still due.
    pub fn handle_timeout(&mut self, now: Instant) {
        for _ in 0..ENDED_AT_ONCE {
            let Some(timer) = self.deadlines.pop_due(now) else { return };
            match timer {
                Timer::Allocation(id) => self.end_allocation(id, EndReason::Expired),
                Timer::Reservation(token) => self.expire_reservation(token),
                Timer::Connection(connection) => self.expire_connection(connection, now),
            }
        }
    }

    /// What to do with sockets next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A response to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What to tell the engine of another shard.
    pub fn poll_notice(&mut self) -> Option<OutgoingNotice> {
        self.moves.poll_notice()
    }

    /// A client's datagram, and where it came from, that waited for an allocation to come from another shard: to be handed
    /// to [`Engine::handle_datagram`] once the allocation's sockets are in use.
    pub fn poll_arrived(&mut self) -> Option<(FiveTuple, Box<[u8]>)> {
        self.moves.poll_arrived()
    }

    /// What becomes of a stream that was held up.
    pub fn poll_held(&mut self) -> Option<Held> {
        self.held.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Engine::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.next()
    }

    /// Whether a client has an allocation, or may move one there, so that its connection is worth keeping.
    pub fn has_allocation(&self, five_tuple: &FiveTuple) -> bool {
        self.allocations.find(five_tuple).is_some() || self.moves.is_guest(five_tuple)
    }

    /// How many allocations there are.
    pub fn allocations(&self) -> usize {
        self.allocations.len()
    }

    /// What it did so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn handle_stun(
        &mut self,
        now: Instant,
        unix_seconds: u64,
        five_tuple: FiveTuple,
        datagram: &[u8],
    ) -> Option<Forward> {
        let message = Message::parse(datagram).ok();
        let checked = message.and_then(|message| Some((message, message.check_fingerprint().ok()?)));
        match checked {
            Some((message, _))
                if (message.class(), message.method()) == (Class::Indication, Method::SEND) =>
            {
                return self.relay_send(now, five_tuple, &message);
            }
            Some((message, fingerprint)) if message.class() == Class::Request => {
                self.handle_request(&Request { now, unix_seconds, five_tuple, message, fingerprint });
                if message.method() == Method::CONNECTION_BIND && five_tuple.transport.is_reliable() {
                    return Some(Forward::Hold);
                }
            }
            _ => self.counters.dropped.malformed += 1,
        }
        None
    }

    fn handle_request(&mut self, request: &Request<'_>) {
        let known = match request.message.method() {
            Method::ALLOCATE | Method::REFRESH | Method::CREATE_PERMISSION | Method::CHANNEL_BIND => true,
            // In datagrams they cannot be meant, and a stranger's draw nothing.
            Method::CONNECT | Method::CONNECTION_BIND => request.five_tuple.transport.is_reliable(),
            _ => false,
        };
        if !known {
            self.counters.dropped.malformed += 1;
            return;
        }
        self.counters.requests += 1;
        let pending = self.answer(request);
        if !pending && request.message.method() == Method::CONNECTION_BIND {
            self.held.push_back(Held::ReadOn(request.five_tuple));
        }
    }

    /// Whether something is still to come of the request.
    fn answer(&mut self, request: &Request<'_>) -> bool {
        match self.authenticate(request) {
            Ok(Sender::Known(user)) => {
                let envelope = request.envelope(Some(user.signing.clone()));
                match self.dispatch(request, user) {
                    Ok(Some(success)) => self.succeed(&envelope, &success),
                    Ok(None) => return true,
                    Err(refusal) => self.refuse(&envelope, refusal, None),
                }
            }
            Ok(Sender::Later(lookup)) => return self.defer(lookup, request),
            Ok(Sender::Overloaded) => self.counters.dropped.overloaded += 1,
            Err(refusal) => {
                let client = request.five_tuple.client.ip();
                if self.limiter.as_mut().is_some_and(|limiter| !limiter.admit(request.now, client, 1)) {
                    self.counters.dropped.limited += 1;
                    return false;
                }
                let nonce = self.nonces.mint_with(self.config.features, client, request.unix_seconds);
                let config = self.config.clone();
                let served = config.realm_of(request.five_tuple.server, &request.message);
                let offer = Offer { served, features: config.features, nonce: &nonce };
                self.refuse(&request.envelope(None), refusal, Some(&offer));
            }
        }
        false
    }

    /// `None`: the response comes later, or none does.
    fn dispatch(&mut self, request: &Request<'_>, user: Authenticated) -> Result<Option<Success>, Refusal> {
        let Request { now, five_tuple, message, .. } = request;
        if self.precedes(five_tuple, message) && !self.arrives(*now, *five_tuple, message.as_bytes()) {
            return Ok(None);
        }
        match request.message.method() {
            Method::ALLOCATE => self.handle_allocate(request, user),
            Method::REFRESH => self.handle_refresh(request, &user),
            Method::CREATE_PERMISSION => self.handle_create_permission(request, &user).map(Some),
            Method::CHANNEL_BIND => self.handle_channel_bind(request, &user).map(Some),
            Method::CONNECT => self.handle_connect(request, &user).map(|()| None),
            Method::CONNECTION_BIND => self.handle_connection_bind(request, user).map(|()| None),
            _ => Ok(None),
        }
    }

    /// The allocation of the request's five-tuple, if it is the user's.
    fn allocation_of(
        &mut self,
        request: &Request<'_>,
        user: &Authenticated,
    ) -> Result<(AllocationId, &mut Allocation), Refusal> {
        let (id, allocation) = self.allocations.find_mut(&request.five_tuple).ok_or(Refusal::NoAllocation)?;
        if !allocation.is_of(user) {
            return Err(Refusal::OtherUser);
        }
        if allocation.relays.complete() { Ok((id, allocation)) } else { Err(Refusal::NoAllocation) }
    }

    fn end_allocation(&mut self, id: AllocationId, reason: EndReason) {
        let Some(allocation) = self.allocations.remove(id) else { return };
        self.deadlines.cancel(Timer::Allocation(id));
        if let Some(mobility) = &allocation.owner.mobility {
            self.forget_mobility(mobility);
        }
        if let Some(connections) = &allocation.tcp {
            self.close_connections(connections);
        }
        for (family, _) in allocation.relays.bound() {
            self.release(RelayId { allocation: id, family });
        }
        // Of one that waits for a socket nobody was told.
        if allocation.relays.complete() {
            self.counters.allocations_ended.count(reason);
            let Allocation { five_tuple, traffic, .. } = allocation;
            let username = allocation.username().clone();
            Event::AllocationEnded { id, five_tuple, username, reason, traffic }
                .queue(&mut self.events, &mut self.counters.dropped);
        }
    }

    /// Ends one of the two relays of an allocation, with what it was good for.
    fn end_relay(&mut self, relay: RelayId) {
        let Some(allocation) = self.allocations.get_mut(relay.allocation) else { return };
        allocation.relays.set(relay.family, Relay::None);
        allocation.permissions.remove_family(relay.family);
        allocation.channels.remove_family(relay.family);
        if let Some(connections) = allocation.tcp.as_ref().map(|all| all.of_family(relay.family)) {
            self.close_connections(&connections);
        }
        self.release(relay);
    }

    fn release(&mut self, relay: RelayId) {
        if self.config.fast_path {
            self.actions.push_back(Action::RemoveFastPath { relay });
        }
        self.actions.push_back(Action::ReleaseRelay { relay });
    }

    fn succeed(&mut self, envelope: &Envelope, success: &Success) {
        self.counters.succeeded += 1;
        // It fits: every attribute has a bounded length.
        self.transmits.extend(envelope.succeed(success).ok());
    }

    fn refuse(&mut self, envelope: &Envelope, refusal: Refusal, offer: Option<&Offer<'_>>) {
        let challenge = offer.filter(|_| refusal.is_challenge());
        // It fits, unless the realm is longer than the RFC allows.
        self.transmits.extend(envelope.refuse(&refusal, challenge).ok());
        self.note_refusal(envelope, refusal);
    }

    /// Counts and tells that a request was refused.
    fn note_refusal(&mut self, envelope: &Envelope, refusal: Refusal) {
        match refusal {
            Refusal::Challenge | Refusal::StaleNonce => self.counters.challenges += 1,
            Refusal::WrongCredentials { .. } => self.counters.unauthenticated += 1,
            Refusal::TryAlternate(_) => self.counters.redirected += 1,
            _ => self.counters.refused.count(refusal.error_code().code),
        }
        if !refusal.is_routine() {
            let five_tuple = envelope.five_tuple;
            let id = self.allocations.find(&five_tuple).map(|(id, _)| id);
            Event::Refused { id, five_tuple, method: envelope.method, refusal }
                .queue(&mut self.events, &mut self.counters.dropped);
        }
    }
}

fn limiter(limit: Option<Limit>, rng: &mut StdRng) -> Option<Limiter> {
    let mut seed = [0; 16];
    rng.fill_bytes(&mut seed);
    limit.map(|limit| Limiter::new(limit, seed))
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("allocations", &self.allocations.len())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
