//! The agent (RFC 8445, full implementation), sans-IO.
//!
//! In the order in which a session goes:
//!
//! 1. `config`, `event`: what it is told, and what comes out.
//! 2. `local`, `gather`, `relay`: sockets become candidates, with the help of STUN and TURN servers. `external`: what else is
//!    known of addresses outside, and which are told.
//!    `nat64`: how an IPv6 socket reaches IPv4 hosts.
//! 3. `remote`, `stream`: the peer's credentials and candidates; data streams and their components.
//! 4. `pair`, `check_list`: pairs, and which is checked next.
//! 5. `pace`, `shared_pace`, `checks`, `inbound`, `message`: when a check goes out, checks out, checks in, and their bytes.
//!    `hard_nat`: what is done where a NAT's mapping depends on the destination.
//! 6. `tcp`: ports and connections where UDP does not get through.
//! 7. `nomination`, `consent`, `liveness`, `progress`: the pair that is selected, whether it still answers, and what comes
//!    of that.
//! 8. `restart`: the next session, and what is left of the one before.
//! 9. `lite`: what is different where a side is a lite implementation.
//! 10. `report`: what happened and why.
//!
//! `random` and `sorted` serve all of them.

mod check_list;
mod checks;
mod config;
mod consent;
mod event;
mod external;
mod gather;
mod hard_nat;
mod inbound;
mod lite;
mod liveness;
mod local;
mod message;
mod nat64;
mod nomination;
mod pace;
mod pair;
mod progress;
mod random;
mod relay;
mod remote;
mod report;
mod restart;
mod shared_pace;
mod sorted;
mod stream;
mod tcp;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use rand::Rng;
use thirl_common::net::canonical;
use thirl_common::time::Deadlines;
use thirl_common::wire::TransactionId;

use crate::candidate::ComponentId;

pub use config::{
    AgentConfig, Capabilities, Credentials, CredentialsError, HardNats, Policy, Role, Timings, TurnServer,
};
pub use event::{
    Action, Event, Framing, ListenerId, PathKind, Received, SelectedPair, SendError, SocketId, State,
    StreamId, Transmit, Via,
};
pub use external::{CandidateFilter, ExternalAddress};
pub use pair::{PairState, PairStats};
pub use report::{CandidateReport, PairReport, Report, ServerReport};
pub use shared_pace::SharedPace;

use event::{RelayId, Route};
use gather::Gathering;
use local::{Found, LocalId, LocalSide};
use pace::Pace;
use pair::{Pair, PairId};
use random::Random;
use remote::Session;
use tcp::Connections;

/// The largest UDP payload over IPv4: bytes.
const MAX_DATAGRAM: usize = 65_507;
/// More notes are not kept.
const MAX_NOTES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Timer {
    /// The next transaction may be started.
    Pace,
    Binding(TransactionId),
    Relay(RelayId),
    /// A relay is to be tried, or tried again.
    RelayTurn(RelayId),
    GatheringEnd,
    Keepalive,
    Check(PairId),
    RelayPatience(ComponentId),
    Patience,
    FormerEnd,
    HardNat,
    Consent(ComponentId),
    Silence(ComponentId),
    ConsentExpiry(ComponentId),
    /// Who is at the other end of a connection has had the time to show it.
    Stream(StreamId),
    /// Connections that are not needed are closed.
    Unused(ComponentId),
}

#[derive(Debug, Default)]
struct Outbox {
    transmits: VecDeque<Transmit>,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
}

#[derive(Debug, Default)]
struct Counters {
    /// Data from addresses where no peer has proved itself.
    dropped_unknown_sender: u64,
    /// Checks answered with an error.
    rejected_checks: u64,
}

/// An ICE agent, for one data stream of one component unless [`AgentConfig::streams`] says otherwise.
///
/// - **start**: [`Agent::add_local_socket`] for each socket, then [`Agent::gather`]; tell the peer
///   [`Agent::local_credentials`] and each [`Event::LocalCandidate`]; [`Agent::set_remote_credentials`] and
///   [`Agent::add_remote_candidate`] when the peer has told its own, in any order and at any time.
/// - **in**: [`Agent::handle_datagram`], [`Agent::handle_stream_frame`], [`Agent::handle_timeout`], the answers to
///   actions, and [`Agent::send`].
/// - **out**, after each of these, until all return `None`: [`Agent::poll_transmit`], [`Agent::poll_action`],
///   [`Agent::poll_event`]; then wait until [`Agent::poll_timeout`] or the next packet.
///
/// With several components, each has sockets of its own: [`Agent::add_local_socket_for`], [`Agent::send_on`],
/// [`Agent::selected_on`], [`Agent::component_state`] name it, and candidates, received data and selected pairs say theirs.
/// The pace, the role and the credentials are the whole agent's, and [`Agent::restart`] restarts all.
///
/// ```
/// use std::time::{Duration, Instant};
/// use thirl_ice_agent::agent::{Agent, AgentConfig, Event, Role, State};
///
/// # #[expect(clippy::disallowed_methods, reason = "an example's clock")]
/// let mut now = Instant::now();
/// let [a, b] = ["192.0.2.1:1000".parse().unwrap(), "192.0.2.2:1000".parse().unwrap()];
/// let mut alice = Agent::new(AgentConfig::new(Role::Controlling), [1; 32]);
/// let mut bob = Agent::new(AgentConfig::new(Role::Controlled), [2; 32]);
/// let (alice_socket, bob_socket) = (alice.add_local_socket(now, a, 255), bob.add_local_socket(now, b, 255));
/// alice.gather(now);
/// bob.gather(now);
/// alice.set_remote_credentials(now, bob.local_credentials().clone()).unwrap();
/// bob.set_remote_credentials(now, alice.local_credentials().clone()).unwrap();
/// while let Some(event) = alice.poll_event() {
///     if let Event::LocalCandidate(candidate) = event {
///         bob.add_remote_candidate(now, candidate);
///     }
/// }
/// // Bob's candidate is on its way still: Bob's check arrives first.
/// for _ in 0..10 {
///     while let Some(transmit) = bob.poll_transmit() {
///         alice.handle_datagram(now, alice_socket, b, &transmit.payload);
///     }
///     while let Some(transmit) = alice.poll_transmit() {
///         bob.handle_datagram(now, bob_socket, a, &transmit.payload);
///     }
///     now += Duration::from_millis(50);
///     alice.handle_timeout(now);
///     bob.handle_timeout(now);
/// }
/// assert_eq!((alice.state(), bob.state()), (State::Completed, State::Completed));
/// alice.send(now, b"hello").unwrap();
/// let transmit = alice.poll_transmit().unwrap();
/// assert_eq!(bob.handle_datagram(now, bob_socket, a, &transmit.payload).unwrap().data, b"hello");
/// ```
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    random: Random,
    role: Role,
    /// How often this side has nominated a pair (draft-thatcher-ice-renomination, section 4).
    nominations: u32,
    tie_breaker: u64,
    state: State,
    local: LocalSide,
    gathering: Gathering,
    connections: Connections,
    session: Session,
    /// The session before the last restart, while it is of use.
    former: Option<Box<Session>>,
    restarts: u32,
    pace: Pace,
    /// In a box: most agents never need it.
    hard_nat: Option<Box<hard_nat::HardNat>>,
    timers: Deadlines<Timer>,
    counters: Counters,
    notes: Vec<String>,
    out: Outbox,
}

impl Agent {
    /// An agent that has not started. All its randomness comes from the seed.
    pub fn new(mut config: AgentConfig, seed: [u8; 32]) -> Agent {
        let mut random = Random::new(seed);
        let credentials = config.credentials.clone().filter(|credentials| credentials.check().is_ok());
        let credentials = credentials.unwrap_or_else(|| random.draw(Credentials::generate));
        config.timings.pacing = config.timings.pacing.max(Timings::MIN_PACING);
        config.stun.iter_mut().for_each(|server| *server = canonical(*server));
        config.stun.sort_unstable();
        config.stun.dedup();
        config.streams.iter_mut().for_each(|components| *components = (*components).clamp(1, 256));
        if config.lite {
            config.stun.clear();
            config.turn.clear();
        }
        config.streams.truncate(256);
        if config.streams.is_empty() {
            config.streams.push(1);
        }
        Agent {
            role: if config.lite { Role::Controlled } else { config.role },
            nominations: 0,
            tie_breaker: random.draw(Rng::random),
            state: State::New,
            local: LocalSide::default(),
            gathering: Gathering::default(),
            connections: Connections::default(),
            session: Session::new(credentials, &config.streams),
            former: None,
            restarts: 0,
            pace: Pace::default(),
            hard_nat: None,
            timers: Deadlines::default(),
            counters: Counters::default(),
            notes: Vec::new(),
            out: Outbox::default(),
            config,
            random,
        }
    }

    /// The username fragment and password to tell the peer.
    pub fn local_credentials(&self) -> &Credentials {
        &self.session.local
    }

    /// The candidates that the peer is to be told, so far.
    pub fn local_candidates(&self) -> impl Iterator<Item = &crate::candidate::Candidate> {
        let told = self.local.candidates.values().filter(|local| local.signalled && !local.lost);
        told.map(|local| &local.candidate)
    }

    /// All components of all data streams.
    pub fn components(&self) -> Vec<ComponentId> {
        self.session.streams.ids()
    }

    /// How far the agent has come.
    pub fn state(&self) -> State {
        self.state
    }

    /// Which side nominates; may change if both claimed the same role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether gathering is complete.
    pub fn is_gathering_complete(&self) -> bool {
        self.gathering.complete
    }

    /// Whether this side's mapping depends on the destination, to be told to the peer (see
    /// [`Agent::set_remote_hint`]). `None` if fewer than two servers have answered.
    pub fn local_nat_hint(&self) -> Option<bool> {
        self.local.mapping_depends_on_destination()
    }

    /// Whether UDP to the servers gets no answer. `None` if there are none, or none had the time to answer.
    pub fn is_udp_blocked(&self) -> Option<bool> {
        self.udp_blocked()
    }

    /// Adds a UDP socket that is bound to a specific address, for the first component. The higher the preference, the better
    /// its interface: it becomes the upper half of the candidates' local preference. Before [`Agent::gather`] it only waits.
    pub fn add_local_socket(&mut self, now: Instant, local: SocketAddr, preference: u8) -> SocketId {
        self.add_local_socket_for(now, ComponentId::ONE, local, preference)
    }

    /// Adds a UDP socket for a component. For one that the agent has not, it is of no use.
    pub fn add_local_socket_for(
        &mut self,
        now: Instant,
        component: ComponentId,
        local: SocketAddr,
        preference: u8,
    ) -> SocketId {
        self.add_socket(now, component, local, preference, false)
    }

    /// Adds a UDP socket that other agents use as well ([`crate::mux`]), for the first component. No allocation is made on it:
    /// a TURN server keeps one for each five-tuple (RFC 8656, section 7.2).
    pub fn add_shared_socket(&mut self, now: Instant, local: SocketAddr, preference: u8) -> SocketId {
        self.add_socket(now, ComponentId::ONE, local, preference, true)
    }

    fn add_socket(
        &mut self,
        now: Instant,
        component: ComponentId,
        local: SocketAddr,
        preference: u8,
        shared: bool,
    ) -> SocketId {
        let id = self.local.add_socket(component, local, preference, shared);
        self.introduce_nat64(id);
        if self.gathering.begun.is_some() && self.is_running() {
            self.gather_on(now, id);
            self.pump(now);
        }
        id
    }

    /// A socket is gone, and with it what stood on it.
    pub fn local_socket_lost(&mut self, now: Instant, id: SocketId) {
        self.opened_socket_lost(id);
        let Some(socket) = self.local.remove_socket(id) else { return };
        self.local.found.retain(|found| *found != id);
        self.stop_gathering_on(id);
        self.route_lost(now, Route::Socket(id));
        self.relays_lost_with(now, id, socket.at.local.ip());
        self.forget_lost();
        self.check_gathering(now);
        self.pump(now);
    }

    /// A datagram could not be sent at all, such as for want of a route. Pairs and servers that need it fail at once.
    pub fn transmit_failed(&mut self, now: Instant, via: Via, to: SocketAddr) {
        let Via::Socket(socket) = via else { return };
        let to = self.host_at(socket, to);
        self.fail_unreachable_server(now, socket, to);
        if let Some(id) = self.session.list.find(Route::Socket(socket), to)
            && self.session.list.get(id).is_some_and(|pair| !pair.is_valid())
        {
            self.fail_pair(now, id, "cannot be reached from this address");
            self.consider_failure(now);
        } else {
            let carries = |component: &ComponentId| {
                let pair = self.carrier(*component).and_then(|id| self.session_with(id).list.get(id));
                pair.is_some_and(|pair| (pair.route, pair.to) == (Route::Socket(socket), to))
            };
            let doubtful = self.session.streams.ids().into_iter().find(carries);
            doubtful.into_iter().for_each(|component| self.doubt(now, component));
        }
        self.pump(now);
    }

    /// Sends application data of the first component over the selected pair, or until one is selected over the best that
    /// works.
    pub fn send(&mut self, now: Instant, data: &[u8]) -> Result<(), SendError> {
        self.send_on(now, ComponentId::ONE, data)
    }

    /// Sends application data of a component. After a sleep that consent has not outlasted it is discarded, as datagrams may
    /// be, until the peer has answered.
    pub fn send_on(&mut self, now: Instant, component: ComponentId, data: &[u8]) -> Result<(), SendError> {
        if data.len() > MAX_DATAGRAM {
            return Err(SendError::TooLarge);
        }
        self.consider_sleep(now);
        let current = self.carrier(component).filter(|_| self.is_running()).ok_or(SendError::NotConnected)?;
        let expired = self.session.streams.path(component).and_then(|path| path.expired) == Some(current);
        let pair = self.session_with_mut(current).list.get_mut(current).ok_or(SendError::NotConnected)?;
        pair.stats.rest().sent(data.len());
        let (route, to) = (pair.route, pair.to);
        let sent = !expired && {
            self.note_sent(now, component);
            self.transmit_on(now, route, to, data)
        };
        if !sent && let Some(pair) = self.session_with_mut(current).list.get_mut(current) {
            pair.stats.rest().discarded(data.len());
        }
        Ok(())
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.consider_sleep(now);
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Pace => {}
                Timer::Binding(id) => self.handle_binding_timeout(now, id),
                Timer::Relay(id) => self.handle_relay_timeout(now, id),
                Timer::RelayTurn(id) => self.handle_relay_turn(id),
                Timer::GatheringEnd => self.handle_gathering_end(now),
                Timer::Keepalive => self.send_keepalives(now),
                Timer::Check(id) => self.handle_check_timeout(now, id),
                Timer::RelayPatience(component) => self.evaluate_component(now, component),
                Timer::Patience => {
                    self.session.patience_over = true;
                    self.consider_failure(now);
                }
                Timer::FormerEnd => self.end_former(),
                Timer::HardNat => self.handle_hard_nat_timeout(now),
                Timer::Consent(component) => self.send_consent_check(now, component),
                Timer::Silence(component) => self.handle_silence(now, component),
                Timer::ConsentExpiry(component) => self.handle_consent_expiry(now, component),
                Timer::Stream(stream) => self.handle_stream_timeout(now, stream),
                Timer::Unused(component) => self.close_unused(component),
            }
        }
        self.pump(now);
    }

    /// Puts something into the report that only the driver knows, such as a server's name without an address.
    pub fn note(&mut self, note: String) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note);
        }
    }

    /// Gives allocations back and stops. What is still to be polled should be sent.
    pub fn close(&mut self, now: Instant) {
        if self.state == State::Closed {
            return;
        }
        self.stop_hard_nat();
        self.stop_timers();
        if self.state != State::Failed {
            self.close_relays(now);
            self.close_connections();
        }
        self.timers = Deadlines::default();
        self.set_state(State::Closed);
    }

    /// Bytes to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = self.out.transmits.pop_front();
        if transmit.is_none() {
            // Most agents have nothing to send most of the time.
            self.out.transmits = VecDeque::new();
        }
        transmit
    }

    /// What to do with streams.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.actions.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.out.events.pop_front();
        if self.out.events.is_empty() {
            // Events are large and rare.
            self.out.events = VecDeque::new();
        }
        event
    }

    /// When [`Agent::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }
}

impl Agent {
    fn transaction_id(&mut self) -> TransactionId {
        TransactionId(self.random.draw(Rng::random))
    }

    /// Tells the peer of a candidate, and pairs it if it is a base.
    fn add_local_candidate(&mut self, now: Instant, found: &Found) -> Option<LocalId> {
        use crate::candidate::CandidateKind;
        if self.config.policy == Policy::Relay && found.kind != CandidateKind::Relayed {
            return None;
        }
        let id = self.local.add(found)?;
        let was_open = self.local.is_open(found.route);
        let mapping = self.mapping_extension(id, found.guess);
        let accepted = self.local.get(id).is_some_and(|local| self.accepts(&local.candidate));
        let local = self.local.candidates.get_mut(&id)?;
        local.candidate.extensions.extend(mapping.map(|mapping| (hard_nat::EXTENSION.to_owned(), mapping)));
        // Peer-reflexive candidates are not told: the peer has seen them itself (RFC 8445, section 7.2.5.3.1).
        match found.kind {
            CandidateKind::PeerReflexive => {}
            _ if accepted => {
                local.signalled = true;
                self.out.events.push_back(Event::LocalCandidate(local.candidate.clone()));
            }
            // Others may stand on it.
            CandidateKind::Host => {}
            _ => {
                local.lost = true;
                return None;
            }
        }
        if !was_open && self.local.is_open(found.route) {
            self.form_pairs_on(now, found.route);
        }
        Some(id)
    }

    /// The ways from this host to the network that a component's pairs are made of.
    fn routes(&self, component: ComponentId) -> Vec<Route> {
        let of_it = self.local.candidates.iter().filter(|(_, local)| local.candidate.component == component);
        let bases = of_it.filter(|(id, local)| {
            self.local.base(local.route) == Some(**id) && self.local.is_open(local.route)
        });
        bases.map(|(_, local)| local.route).collect()
    }

    fn route_lost(&mut self, now: Instant, route: Route) {
        let component = self.local.component(route);
        for local in self.local.candidates.values_mut().filter(|local| local.route == route) {
            local.lost = true;
        }
        self.ways_lost(now, component, "what it was sent from is gone", |pair| pair.route == route);
    }

    /// The pairs for which `of_them` says so cannot carry anything any more.
    fn ways_lost(
        &mut self,
        now: Instant,
        component: Option<ComponentId>,
        why: &str,
        of_them: impl Fn(&Pair) -> bool,
    ) {
        let lost: Vec<_> =
            self.session.list.iter().filter(|(_, pair)| of_them(pair)).map(|(id, _)| id).collect();
        let selected = component.and_then(|component| self.session.streams.path(component)?.selected);
        for &id in &lost {
            self.fail_pair(now, id, why);
        }
        if let Some(component) = component
            && selected.is_some_and(|selected| lost.contains(&selected))
        {
            self.handle_disconnected(now, component);
            self.evaluate_component(now, component);
        }
        self.former_ways_lost(of_them);
        self.consider_failure(now);
    }

    /// Of what is gone nothing is kept but what pairs were made of, of which there are only so many: an agent does not grow
    /// with each change of the network.
    fn forget_lost(&mut self) {
        let sessions = [Some(&self.session), self.former.as_deref()];
        let pairs = || sessions.into_iter().flatten().flat_map(|session| session.list.iter());
        let used = |id| pairs().any(|(_, pair)| pair.local == id || pair.mapped == Some(id));
        self.local.candidates.retain(|id, local| !local.lost || used(*id));
        let local = &self.local;
        self.gathering.relays.retain(|id, relay| {
            let mut candidates = local.candidates.values();
            !relay.is_gone() || candidates.any(|local| local.route == Route::Relay(*id))
        });
        self.session.asymmetric.retain(|(route, _), _| local.base(*route).is_some());
    }

    /// `false` if an allocation does not take it, or there is no connection.
    fn transmit_on(
        &mut self,
        now: Instant,
        route: Route,
        to: SocketAddr,
        payload: impl Into<Vec<u8>> + AsRef<[u8]>,
    ) -> bool {
        match route {
            Route::Socket(socket) => {
                self.transmit_from(Via::Socket(socket), to, payload.into());
                true
            }
            Route::Relay(relay) => self.send_over_relay(now, relay, to, payload.as_ref()),
            Route::Tcp(..) => self.send_over_connection(route, to, payload.as_ref()),
        }
    }

    fn stop_timers(&mut self) {
        self.timers = Deadlines::default();
    }
}
