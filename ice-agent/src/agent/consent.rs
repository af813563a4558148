//! Consent (RFC 7675), which is keepalive as well: the selected pair is asked every few seconds, and without an answer the
//! agent tries other pairs and in the end stops sending.

use std::time::Instant;

use rand::Rng;

use super::check_list::Ordinary;
use super::event::State;
use super::pair::{Asked, PairId, PairState};
use super::{Agent, Timer};
use crate::candidate::ComponentId;

impl Agent {
    /// A pair was selected: its nomination was the first consent.
    pub(super) fn begin_consent(&mut self, now: Instant, component: ComponentId) {
        self.consented(now, component);
        self.schedule_consent(now, component);
    }

    /// A valid answer came on a pair (RFC 7675, section 5.1).
    pub(super) fn refresh_consent(&mut self, now: Instant, component: ComponentId, id: PairId) {
        if !self.is_selected(id) || self.carrier(component) != Some(id) {
            return;
        }
        self.consented(now, component);
        let kind = self.session.list.get(id).map(|pair| pair.path);
        if let (Some(known), Some(kind)) = (self.session.streams.component_mut(component), kind)
            && known.state == State::Disconnected
        {
            known.ordinary = Ordinary::beside(kind);
            self.set_component_state(component, State::Completed);
        }
    }

    fn consented(&mut self, now: Instant, component: ComponentId) {
        self.timers.set(Timer::ConsentExpiry(component), now + self.config.timings.consent_timeout);
        self.timers.set(Timer::Disconnected(component), now + self.config.timings.disconnected);
    }

    /// "randomized between 0.8 and 1.2 times" (RFC 7675, section 5.1).
    fn schedule_consent(&mut self, now: Instant, component: ComponentId) {
        let interval = self.config.timings.consent_interval.mul_f64(self.rng.random_range(0.8..=1.2));
        self.timers.set(Timer::Consent(component), now + interval);
    }

    pub(super) fn send_consent_check(&mut self, now: Instant, component: ComponentId) {
        let Some(id) = self.carrier(component).filter(|id| self.is_selected(*id)) else { return };
        self.schedule_consent(now, component);
        let Some((transaction, bytes)) = self.write_check(id, false) else { return };
        let asked = Asked { pair: id, sent: now, role: self.role, nominate: false };
        let list = &mut self.session_with_mut(id).list;
        list.note_asked(transaction, asked);
        let Some(pair) = list.get_mut(id) else { return };
        pair.stats.consent_requests_sent += 1;
        let (route, to) = (pair.route, pair.to);
        self.transmit_on(now, route, to, bytes);
    }

    /// No consent for a while: every pair of the component gets another chance. Both sides do so at about the same time.
    pub(super) fn handle_disconnected(&mut self, now: Instant, component: ComponentId) {
        let Some(known) = self.session.streams.component_mut(component) else { return };
        if known.state != State::Completed {
            return;
        }
        known.ordinary = Ordinary::All;
        self.set_component_state(component, State::Disconnected);
        let mut again = Vec::new();
        for (id, pair) in self.session.list.iter_mut().filter(|(_, pair)| pair.component == component) {
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
}
