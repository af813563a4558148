//! Outgoing checks (RFC 8445, sections 6.1.4 and 7.2): pairs are formed, checked at a pace, and answered.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use thirl_common::net::{Transport, canonical};
use thirl_common::request::{Due, Retransmission, Transaction};
use thirl_common::wire::{Class, ErrorCode, Message, XorMappedAddress};

use super::config::Role;
use super::event::{PathKind, Route, State};
use super::local::{Found, LocalId, priority_on};
use super::pair::{Asked, Group, Likelihood, OutgoingCheck, Pair, PairId, PairOrigin, PairState, Stats};
use super::remote::RemoteId;
use super::{Agent, Timer, message};
use crate::candidate::{CandidateKind, TcpType, pair_priority};

/// Where the peer has been heard the path is open, so that a missing answer was most likely lost. An RTO is 500 ms at least
/// (RFC 8445, section 14.3): so the pair is asked anew before that, in a transaction that the pace counts, so many times.
const MAX_REPEATS: u8 = 3;

/// Over a connection answers are late rather than lost. One without an answer for so long is taken for dead, and made anew.
const RENEW_AFTER: Duration = Duration::from_secs(5);

/// A pair that is nominated has worked: if it does not answer the nomination it has broken since, and another is to be
/// nominated. So this is given up after 15 RTOs, not 79.
const NOMINATION: Retransmission = Retransmission { transmissions: 4, last_wait: 8, ..Retransmission::STUN };

/// How long an answer may take before the pair is asked anew.
fn repeat_after(transport: Transport, rtt: Option<Duration>) -> Duration {
    if transport.is_reliable() {
        return RENEW_AFTER;
    }
    rtt.map_or(Duration::from_millis(100), |rtt| rtt * 3 / 2 + Duration::from_millis(20))
}

impl Agent {
    /// Pairs a base with a remote candidate, if packets can pass between them.
    pub(super) fn form_pair(
        &mut self,
        now: Instant,
        route: Route,
        remote: RemoteId,
        origin: PairOrigin,
    ) -> Option<PairId> {
        let theirs = self.session.get(remote)?;
        let (component, to) = (theirs.component, self.host_towards(route, theirs.address.ip()?));
        if let Some(known) = self.session.list.find(route, to) {
            return Some(known);
        }
        let local = self.local.base(route)?;
        let ours = self.local.get(local)?;
        let base = ours.address;
        if ours.candidate.component != component || theirs.transport != route.counterpart() {
            return None;
        }
        let reachable = match route {
            Route::Socket(id) => self.local.sockets.get(&id).is_some_and(|socket| socket.at.reaches(to.ip())),
            Route::Relay(_) => base.is_ipv4() == to.is_ipv4() && base != to,
            // Connections come to passive candidates, so that a pair of theirs is formed by a check (RFC 6544, section 6.2).
            Route::Tcp(_, TcpType::Passive) if origin == PairOrigin::Candidates => false,
            Route::Tcp(id, _) => self.local.listeners.get(&id).is_some_and(|port| port.at.reaches(to.ip())),
        };
        if !reachable || origin == PairOrigin::Candidates && self.is_useless_guess(route, remote) {
            return None;
        }
        let mut pair = self.new_pair(local, remote)?;
        pair.heard = origin == PairOrigin::InboundCheck;
        // A path that is kept needs to know of others before it breaks.
        pair.wanted = pair.group.likelihood != Likelihood::Implausible && self.is_settled(now, component);
        let in_use =
            if self.session.list.is_full() { self.session.streams.pairs_in_use() } else { Vec::new() };
        let id = self.session.list.insert(now, pair, &in_use)?;
        if let Route::Relay(relay) = route {
            self.allow_peer(now, relay, to.ip());
        }
        Some(id)
    }

    /// Pairs a new base with all that is known of the peer.
    pub(super) fn form_pairs_on(&mut self, now: Instant, route: Route) {
        for remote in self.session.ids() {
            self.form_pair(now, route, remote, PairOrigin::Candidates);
        }
    }

    fn new_pair(&self, local: LocalId, remote: RemoteId) -> Option<Pair> {
        let (ours, theirs) = (self.local.get(local)?, self.session.get(remote)?);
        let to = self.host_towards(ours.route, theirs.address.ip()?);
        let path = self.path_kind(ours.route, theirs.kind, to);
        Some(Pair {
            component: ours.candidate.component,
            local,
            remote,
            route: ours.route,
            to,
            foundation: (self.local.first_alike(local)?, self.session.first_alike(remote)?),
            priority: self.priority_of(ours.candidate.priority, theirs.priority),
            path,
            group: Group {
                likelihood: Likelihood::of(ours.address.ip(), to.ip(), path),
                ipv4: to.is_ipv4(),
                local: ours.candidate.kind,
                remote: theirs.kind,
                component: ours.candidate.component,
            },
            state: PairState::Frozen,
            check: None,
            flow: 0,
            asked: Vec::new(),
            wanted: false,
            nominate: false,
            nominated_by_peer: false,
            nomination: None,
            heard: false,
            mapped: None,
            failure: None,
            stats: Stats::default(),
        })
    }

    fn priority_of(&self, ours: u32, theirs: u32) -> u64 {
        match self.role {
            Role::Controlling => pair_priority(ours, theirs),
            Role::Controlled => pair_priority(theirs, ours),
        }
    }

    /// A relay on either side makes a path relayed. A peer-reflexive address of a known relay's host is taken for a
    /// relayed candidate that has not been told yet.
    fn path_kind(&self, route: Route, kind: CandidateKind, remote: SocketAddr) -> PathKind {
        let at = |ip: IpAddr| ip == remote.ip() && !ip.is_loopback();
        let looks_relayed = kind == CandidateKind::PeerReflexive
            && (self.config.turn.iter().any(|server| at(server.address.ip()))
                || self.session.candidates.iter().any(|known| {
                    let host = known.address.ip().map(|address| address.ip());
                    known.kind == CandidateKind::Relayed && host.is_some_and(at)
                }));
        match route {
            Route::Socket(_) | Route::Tcp(..) if kind != CandidateKind::Relayed && !looks_relayed => {
                PathKind::Direct
            }
            _ => PathKind::Relayed,
        }
    }

    /// Roles or candidates have changed: so have priorities, foundations and kinds.
    pub(super) fn reprioritise(&mut self) {
        let fresh: Vec<_> = self
            .session
            .list
            .iter()
            .filter_map(|(id, pair)| self.new_pair(pair.local, pair.remote).map(|fresh| (id, fresh)))
            .collect();
        for (id, fresh) in fresh {
            if let Some(pair) = self.session.list.get_mut(id) {
                pair.priority = fresh.priority;
                pair.foundation = fresh.foundation;
                pair.path = fresh.path;
                pair.group = fresh.group;
            }
        }
    }

    /// Sends a check on a pair, with a new transaction. One that is under way may still be answered.
    pub(super) fn start_check(&mut self, now: Instant, id: PairId) -> bool {
        let Some(pair) = self.session.list.get(id).filter(|_| !self.config.lite) else { return false };
        let nominate = pair.nominate && self.role == Role::Controlling;
        let works = pair.is_valid();
        let repeats = pair.check.as_ref().map_or(0, |check| check.repeats.saturating_add(1));
        let transport = if pair.route.is_tcp() { Transport::Tcp } else { Transport::Udp };
        let repeat_at =
            (pair.heard && repeats < MAX_REPEATS).then(|| now + repeat_after(transport, pair.stats.rtt()));
        self.nominations += u32::from(nominate);
        let Some((transaction_id, bytes)) = self.write_check(id, nominate) else { return false };
        // "RTO = MAX (500ms, Ta * N * (Num-Waiting + Num-In-Progress))" (RFC 8445, section 14.3).
        let timings = &self.config.timings;
        let rto = timings.rto.max(timings.pacing * self.session.list.active().min(1000));
        let schedule = match nominate && works {
            true => Retransmission { rto: timings.rto, ..NOMINATION },
            false => Retransmission { rto, ..Retransmission::STUN },
        };
        let transaction = Transaction::start(schedule, transport, now);
        let check =
            OutgoingCheck { id: transaction_id, bytes: bytes.clone(), transaction, repeats, repeat_at };
        self.timers.set(Timer::Check(id), check.deadline());
        let asked = Asked { pair: id, sent: now, role: self.role, nominate };
        self.session.list.note_asked(transaction_id, asked);
        let Some(pair) = self.session.list.get_mut(id) else { return false };
        pair.check = Some(Box::new(check));
        if !pair.is_valid() {
            pair.state = PairState::InProgress;
        }
        if self.has_connection(now, id) {
            self.send_check(now, id, bytes);
        }
        true
    }

    pub(super) fn send_check(&mut self, now: Instant, id: PairId, bytes: Vec<u8>) {
        let Some(pair) = self.session.list.get_mut(id) else { return };
        if pair.stats.requests_sent == 0 && matches!(pair.route, Route::Socket(_)) {
            pair.flow = self.local.next_flow();
        }
        pair.stats.requests_sent += 1;
        let (route, to) = (pair.route, pair.to);
        self.transmit_on(now, route, to, bytes);
    }

    /// A check for a pair: its transaction, and its bytes.
    pub(super) fn write_check(
        &mut self,
        id: PairId,
        nominate: bool,
    ) -> Option<(thirl_common::wire::TransactionId, Vec<u8>)> {
        let transaction = self.transaction_id();
        let session = self.session_with(id);
        let pair = session.list.get(id)?;
        let remote = session.streams.remote(pair.component)?;
        let local = self.local.get(pair.local)?;
        let check = message::Check {
            id: transaction,
            username: &remote.username,
            priority: priority_on(
                pair.route,
                CandidateKind::PeerReflexive,
                local.local_preference,
                local.candidate.component,
            ),
            role: self.role,
            tie_breaker: self.tie_breaker,
            nominate,
            nomination: (nominate && session.capabilities.renomination).then_some(self.nominations),
            mapping: self.mapping_to_tell(pair.component),
        };
        Some((transaction, check.write(&remote.key)))
    }

    pub(super) fn handle_check_timeout(&mut self, now: Instant, id: PairId) {
        let stopped = !self.wants_repetition(id);
        let Some(pair) = self.session.list.get_mut(id) else { return };
        let Some(check) = pair.check.as_mut() else { return };
        if check.repeat_at.take_if(|at| *at <= now).is_some() {
            self.timers.set(Timer::Check(id), check.deadline());
            if !stopped && !self.connect_again(id) {
                self.session.list.trigger(id);
            }
            return;
        }
        let due = check.transaction.handle_timeout(now);
        match due {
            Due::Nothing => self.timers.set(Timer::Check(id), check.transaction.deadline()),
            Due::Retransmit if stopped => {
                pair.check = None;
                self.session.list.forget_all_asked(id);
            }
            Due::Retransmit => {
                self.timers.set(Timer::Check(id), check.transaction.deadline());
                let bytes = check.bytes.clone();
                self.send_check(now, id, bytes);
            }
            Due::TimedOut => {
                let (component, worked) = (pair.component, pair.is_valid());
                self.fail_pair(now, id, "no answer");
                if worked {
                    // Its relay may be what is gone.
                    self.check_relays(now, component);
                }
            }
        }
        self.consider_failure(now);
    }

    /// With a pair selected, others are only repeated if they could still become the selected one.
    fn wants_repetition(&self, id: PairId) -> bool {
        let Some(pair) = self.session.list.get(id) else { return false };
        pair.nominate || pair.nominated_by_peer || self.session.streams.may_check(pair)
    }

    pub(super) fn fail_pair(&mut self, now: Instant, id: PairId, why: &str) {
        self.timers.cancel(Timer::Check(id));
        let Some(pair) = self.session.list.get_mut(id) else { return };
        let component = pair.component;
        pair.state = PairState::Failed;
        pair.check = None;
        pair.nominate = false;
        pair.failure = Some(why.into());
        if let Some(path) = self.session.streams.path_mut(component) {
            path.nominating = path.nominating.filter(|nominating| *nominating != id);
        }
        self.pick_current(component);
        self.abandon_connection(id);
        self.evaluate_nomination(now);
    }

    /// A server will not relay to a peer: nothing can be had from the pairs over it.
    pub(super) fn route_refuses(&mut self, now: Instant, route: Route, peer: IpAddr, why: &str) {
        let refused: Vec<_> = self
            .session
            .list
            .iter()
            .filter(|(_, pair)| pair.route == route && pair.to.ip() == peer && !pair.is_valid())
            .map(|(id, _)| id)
            .collect();
        for id in refused {
            self.fail_pair(now, id, why);
        }
        self.consider_failure(now);
    }

    /// A response to a check of ours, if it is one.
    pub(super) fn handle_check_response(
        &mut self,
        now: Instant,
        route: Route,
        from: SocketAddr,
        message: &Message<'_>,
    ) -> bool {
        let id = message.transaction_id();
        let Some(asked) = self.session.list.asked(id) else { return false };
        let pair = self.session.list.get(asked.pair);
        let remote = pair.and_then(|pair| self.session.streams.remote(pair.component));
        let Some(remote) = remote else { return false };
        // Errors about the integrity carry none. They change nothing: the check is repeated until it is given up.
        if message.verify_integrity(&remote.key).is_err() {
            return true;
        }
        self.session.list.forget_asked(id);
        let symmetric =
            self.session.list.get(asked.pair).is_some_and(|pair| pair.route == route && pair.to == from);
        if !symmetric {
            *self.session.asymmetric.entry((route, from.ip())).or_default() += 1;
            // "the agent MUST set the candidate pair state to Failed" (RFC 8445, section 7.2.5.2.1).
            if self.session.list.get(asked.pair).is_some_and(|pair| !pair.is_valid()) {
                self.fail_pair(now, asked.pair, "the answer came from another address");
            }
        } else if message.class() == Class::Success {
            self.handle_success(now, asked, message);
        } else {
            self.handle_error(now, asked, message);
        }
        self.consider_failure(now);
        self.pump(now);
        true
    }

    fn handle_error(&mut self, now: Instant, asked: Asked, message: &Message<'_>) {
        let code = message.get::<ErrorCode<'_>>().ok().flatten().map_or(0, |error| error.code);
        if code == ErrorCode::ROLE_CONFLICT.code {
            // "the agent MUST change its tie-breaker value" and its role, unless it has done so since (RFC 8445,
            // section 7.2.5.1).
            if asked.role == self.role {
                self.switch_role(now, true);
            }
            self.session.list.trigger(asked.pair);
        } else {
            self.fail_pair(now, asked.pair, &format!("the peer refuses the check: {code}"));
        }
    }

    fn handle_success(&mut self, now: Instant, asked: Asked, message: &Message<'_>) {
        let Ok(XorMappedAddress(mapped)) = message.require::<XorMappedAddress>() else { return };
        let id = asked.pair;
        let mapped = self.valid_local(now, id, canonical(mapped));
        let wanted = self.session.list.take_wanted(id);
        let Some(pair) = self.session.list.get_mut(id) else { return };
        let moved = pair.mapped.is_some() && pair.mapped != mapped;
        pair.stats.rest().responses_received += 1;
        pair.heard = true;
        pair.mapped = mapped;
        let (component, way, to) = (pair.component, (pair.route, pair.to.ip()), pair.to);
        pair.failure = None;
        let news = std::mem::replace(&mut pair.state, PairState::Succeeded) != PairState::Succeeded;
        let current = pair.check.as_ref().filter(|check| check.id == message.transaction_id());
        if current.is_none_or(|check| check.transaction.transmissions() == 1) {
            pair.stats.rest().round_trip(now.saturating_duration_since(asked.sent));
        }
        // A nomination is only over when it is answered itself.
        if asked.nominate || !pair.nominate {
            pair.check = None;
            self.timers.cancel(Timer::Check(id));
        }
        let (foundation, by_peer) = (pair.foundation, pair.nominated_by_peer);
        if news {
            self.session.list.unfreeze(foundation);
        }
        self.session.asymmetric.remove(&way);
        self.connection_proven(way.0, to);
        self.pick_current(component);
        self.refresh_consent(now, component, id, asked.sent);
        if self.session.streams.component(component).is_some_and(|known| known.state == State::Checking) {
            self.set_component_state(component, State::Connected);
        }
        if asked.nominate && self.role == Role::Controlling {
            self.nomination_succeeded(now, id);
        } else if by_peer && self.role == Role::Controlled {
            self.accept_nomination(now, id);
        } else if moved && self.is_selected(id) {
            self.nominate_again(now, id);
        }
        if moved && let Some(known) = self.session.streams.component_mut(component) {
            known.liveness.mapping_changed(&self.config.timings);
        }
        if wanted {
            self.consider_better_interface(now, component, id);
        }
        self.hard_nat_succeeded(now, component);
        self.evaluate_nomination(now);
    }

    /// The local candidate that the peer sees: one that is known, or a peer-reflexive one (RFC 8445, section 7.2.5.3.1).
    fn valid_local(&mut self, now: Instant, id: PairId, mapped: SocketAddr) -> Option<LocalId> {
        let pair = self.session.list.get(id)?;
        let (route, local, seen_by, flow) = (pair.route, pair.local, pair.to, pair.flow);
        if let Route::Socket(socket) = route {
            self.local.note_mapping(socket, seen_by, mapped, flow);
        }
        if let Some(known) = self.local.find(route, mapped) {
            return Some(known);
        }
        let base = self.local.get(local)?;
        let found = Found {
            component: pair.component,
            kind: CandidateKind::PeerReflexive,
            address: mapped,
            told: None,
            route,
            local_preference: base.local_preference,
            related: Some(base.address),
            server: None,
            guess: None,
        };
        self.add_local_candidate(now, &found)
    }
}
