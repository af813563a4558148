//! Consent (RFC 7675), which is keepalive as well: the pair that carries data is asked now and then, more often when it is
//! silent (`liveness`), and without an answer the agent tries other pairs and in the end stops sending.

use std::time::{Duration, Instant};

use rand::Rng;

use super::check_list::Ordinary;
use super::event::State;
use super::liveness::{Due, Liveness};
use super::pair::{Asked, Pair, PairId, PairState};
use super::{Agent, Timer, tcp};
use crate::candidate::ComponentId;

/// Candidates that are told together come within so long.
const SETTLED: Duration = Duration::from_secs(2);
/// A timer that is late by so much was not slow: this host has slept.
const SLEEP: Duration = Duration::from_secs(5);

impl Agent {
    /// Something about this host's network is another now: a router, an address, or it slept. Paths that are in use are asked at
    /// once whether they still work.
    pub fn network_changed(&mut self, now: Instant) {
        for component in self.session.streams.ids() {
            if self.carrier(component).is_some_and(|carrier| self.is_selected(carrier)) {
                self.doubt(now, component);
            }
        }
    }

    /// A pair was selected: its nomination was the first consent.
    pub(super) fn begin_consent(&mut self, now: Instant, component: ComponentId) {
        if let Some(known) = self.session.streams.component_mut(component) {
            known.liveness = Liveness::default();
        }
        self.consented(now, component);
        if !self.config.lite {
            self.schedule_consent(now, component);
        }
    }

    /// A valid answer came on a pair to what was asked then (RFC 7675, section 5.1).
    pub(super) fn refresh_consent(
        &mut self,
        now: Instant,
        component: ComponentId,
        id: PairId,
        asked: Instant,
    ) {
        if !self.is_selected(id) || self.carrier(component) != Some(id) {
            return;
        }
        self.consented(now, component);
        let rank = self.session.list.get(id).map(Pair::rank);
        let Some(known) = self.session.streams.component_mut(component) else { return };
        known.liveness.answered(now, asked);
        match (known.state, rank) {
            (State::Disconnected, Some(rank)) => {
                known.ordinary = Ordinary::beside(rank);
                self.timers.set(Timer::Unused(component), now + tcp::UNUSED);
                self.set_component_state(component, State::Completed);
            }
            (State::Checking, None) => self.set_component_state(component, State::Connected),
            _ => {}
        }
    }

    fn consented(&mut self, now: Instant, component: ComponentId) {
        if let Some(path) = self.session.streams.path_mut(component) {
            path.expired = None;
        }
        self.timers.set(Timer::ConsentExpiry(component), now + self.config.timings.consent_timeout);
    }

    /// "randomized between 0.8 and 1.2 times" (RFC 7675, section 5.1).
    fn schedule_consent(&mut self, now: Instant, component: ComponentId) {
        let Some(known) = self.session.streams.component_mut(component) else { return };
        let interval = known.liveness.next_interval(&self.config.timings);
        let factor = self.random.draw(|rng| rng.random_range(0.8..=1.2));
        self.timers.set(Timer::Consent(component), now + interval.mul_f64(factor));
    }

    pub(super) fn send_consent_check(&mut self, now: Instant, component: ComponentId) {
        if self.carrier(component).is_some_and(|id| self.is_selected(id)) {
            self.schedule_consent(now, component);
            self.ask(now, component);
        }
    }

    /// Asks the selected pair, while it carries data.
    fn ask(&mut self, now: Instant, component: ComponentId) {
        let Some(id) = self.carrier(component).filter(|id| self.is_selected(*id)) else { return };
        if self.config.lite {
            return;
        }
        let Some((transaction, bytes)) = self.write_check(id, false) else { return };
        let asked = Asked { pair: id, sent: now, role: self.role, nominate: false };
        let list = &mut self.session_with_mut(id).list;
        list.note_asked(transaction, asked);
        let Some(pair) = list.get_mut(id) else { return };
        pair.stats.rest().consent_requests_sent += 1;
        let (route, to) = (pair.route, pair.to);
        if let Some(known) = self.session.streams.component_mut(component) {
            known.liveness.asks(now);
        }
        self.watch(component, now);
        self.transmit_on(now, route, to, bytes);
    }

    /// Looks at a silence then, unless that is to be done sooner.
    fn watch(&mut self, component: ComponentId, at: Instant) {
        let timer = Timer::Silence(component);
        if self.timers.get(timer).is_none_or(|set| at < set) {
            self.timers.set(timer, at);
        }
    }

    /// Data is sent on the pair that carries it.
    pub(super) fn note_sent(&mut self, now: Instant, component: ComponentId) {
        let known = self.session.streams.component_mut(component).filter(|_| !self.config.lite);
        if known.is_some_and(|known| known.liveness.sent_data(now)) {
            self.watch(component, now);
        }
    }

    /// The peer was heard on a pair: data or a check. If it is not the one that carries data, the peer may have left that.
    pub(super) fn note_heard(&mut self, now: Instant, component: ComponentId, id: PairId, data: bool) {
        let carrier = self.carrier(component);
        let selected = carrier.is_some_and(|carrier| self.is_selected(carrier));
        let Some(known) = self.session.streams.component_mut(component) else { return };
        if carrier == Some(id) {
            known.liveness.heard(data);
            // Who sends no checks takes the peer's for its consent.
            if self.config.lite && self.timers.get(Timer::ConsentExpiry(component)).is_some() {
                self.consented(now, component);
            }
        } else if selected && known.path.nominating.is_none() {
            self.doubt(now, component);
        }
    }

    /// Something speaks against the pair that carries data: it is asked at once.
    pub(super) fn doubt(&mut self, now: Instant, component: ComponentId) {
        let known = self.session.streams.component_mut(component).filter(|_| !self.config.lite);
        if known.is_some_and(|known| known.liveness.doubts(now)) {
            self.watch(component, now);
        }
    }

    pub(super) fn handle_silence(&mut self, now: Instant, component: ComponentId) {
        let rtt = self.carrier(component).and_then(|id| self.session_with(id).list.get(id)?.stats.rtt());
        let Some(known) = self.session.streams.component_mut(component) else { return };
        match known.liveness.handle_timeout(now, rtt.unwrap_or_default(), &self.config.timings) {
            Due::Nothing => {}
            Due::Later(at) => self.watch(component, at),
            Due::Ask(next) => {
                self.ask(now, component);
                self.timers.set(Timer::Silence(component), next);
            }
            Due::Silent(next) => {
                self.handle_disconnected(now, component);
                self.ask(now, component);
                self.timers.set(Timer::Silence(component), next);
            }
        }
    }

    /// This host has slept, if what is due should have been done long ago. Every path is asked at once, and the peer gets the
    /// time to answer before the path is given up. Where consent has expired meanwhile no data is sent until it does, to
    /// what it is asked now: answers to what it was asked before "do not re-establish consent" (RFC 7675, section 5.1).
    pub(super) fn consider_sleep(&mut self, now: Instant) {
        if self.timers.next().is_none_or(|due| now < due + SLEEP) {
            return;
        }
        for component in self.session.streams.ids() {
            let expiry = Timer::ConsentExpiry(component);
            if let Some(expires) = self.timers.get(expiry) {
                if expires <= now {
                    self.suspend(component);
                }
                self.timers.set(expiry, now + SLEEP);
                self.timers.set(Timer::Consent(component), now);
                self.doubt(now, component);
            }
        }
    }

    fn suspend(&mut self, component: ComponentId) {
        let Some(carrier) = self.carrier(component) else { return };
        let list = &mut self.session_with_mut(carrier).list;
        list.forget_all_asked(carrier);
        if list.get_mut(carrier).is_some_and(|pair| pair.check.take().is_some()) {
            list.trigger(carrier);
            self.timers.cancel(Timer::Check(carrier));
        }
        if let Some(path) = self.session.streams.path_mut(component) {
            path.expired = Some(carrier);
        }
    }

    /// No answer for a while: every pair of the component gets another chance. Both sides do so at about the same time.
    pub(super) fn handle_disconnected(&mut self, now: Instant, component: ComponentId) {
        let carried_by_former =
            self.carrier(component).is_some_and(|carrier| self.session.list.get(carrier).is_none());
        let Some(known) = self.session.streams.component_mut(component) else { return };
        match known.state {
            State::Completed => {}
            // The present session is being checked already.
            State::Connected if carried_by_former => {
                self.set_component_state(component, State::Checking);
                return self.check_relays(now, component);
            }
            _ => return,
        }
        known.ordinary = Ordinary::All;
        self.set_component_state(component, State::Disconnected);
        let mut again = Vec::new();
        let (local, connections) = (&self.local, &self.connections);
        let has_base = |pair: &Pair| {
            let may_be_had = connections.may_be_had(pair.route, pair.to);
            pair.component == component && local.base(pair.route).is_some() && may_be_had
        };
        for (id, pair) in self.session.list.iter_mut().filter(|(_, pair)| has_base(pair)) {
            match pair.state {
                // It worked, but that was some time ago.
                PairState::Succeeded => again.push(id),
                PairState::InProgress if pair.check.is_some() => continue,
                _ => {}
            }
            pair.state = PairState::Waiting;
        }
        again.into_iter().for_each(|id| self.session.list.trigger(id));
        self.check_relays(now, component);
        self.pump(now);
    }

    /// Consent to the selected pair is gone. A pair that works takes its place if there is one, even without the
    /// controlling side's nomination: it may see nothing amiss.
    pub(super) fn handle_consent_expiry(&mut self, now: Instant, component: ComponentId) {
        if let Some(path) = self.former.as_mut().and_then(|former| former.streams.path_mut(component))
            && path.selected.take().is_some()
        {
            // The present session goes on looking for a path.
            path.current = None;
            return self.consider_failure(now);
        }
        let best = self.session.list.best_valid(component);
        let Some(path) = self.session.streams.path_mut(component) else { return };
        match best.filter(|best| Some(*best) != path.selected) {
            Some(other) => {
                path.why = Some("consent to the pair selected before has expired");
                self.select(now, other);
            }
            None => {
                path.selected = None;
                let why = "the peer has not answered on the selected pair for as long as consent lasts";
                self.fail_stream(now, component.stream(), why);
            }
        }
    }

    /// Whether a path was found so long ago that what comes now is news: another interface, another address of the peer's.
    pub(super) fn is_settled(&self, now: Instant, component: ComponentId) -> bool {
        let path = self.session.streams.path(component);
        path.and_then(|path| path.selected_since).is_some_and(|since| now >= since + SETTLED)
    }
}
