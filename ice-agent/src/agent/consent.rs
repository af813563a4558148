//! Consent (RFC 7675), which is keepalive as well: the selected pair is asked every few seconds, and without an answer the
//! agent tries other pairs and in the end stops sending.

use std::time::Instant;

use rand::Rng;

use super::check_list::Ordinary;
use super::event::{Event, State};
use super::pair::{Asked, PairId, PairState};
use super::{Agent, Timer};

impl Agent {
    /// A pair was selected: its nomination was the first consent.
    pub(super) fn begin_consent(&mut self, now: Instant) {
        self.consented(now);
        self.schedule_consent(now);
    }

    /// A valid answer came on a pair (RFC 7675, section 5.1).
    pub(super) fn refresh_consent(&mut self, now: Instant, id: PairId) {
        if self.path.selected != Some(id) {
            return;
        }
        self.consented(now);
        if self.state == State::Disconnected {
            self.session.list.ordinary = match self.session.list.get(id).map(|pair| pair.path) {
                Some(super::PathKind::Relayed) => Ordinary::DirectOnly,
                _ => Ordinary::Stopped,
            };
            self.set_state(State::Completed);
        }
    }

    fn consented(&mut self, now: Instant) {
        self.timers.set(Timer::ConsentExpiry, now + self.config.timings.consent_timeout);
        self.timers.set(Timer::Disconnected, now + self.config.timings.disconnected);
    }

    /// "randomized between 0.8 and 1.2 times" (RFC 7675, section 5.1).
    fn schedule_consent(&mut self, now: Instant) {
        let interval = self.config.timings.consent_interval.mul_f64(self.rng.random_range(0.8..=1.2));
        self.timers.set(Timer::Consent, now + interval);
    }

    pub(super) fn send_consent_check(&mut self, now: Instant) {
        let Some(id) = self.path.selected else { return };
        self.schedule_consent(now);
        let Some((transaction, bytes)) = self.write_check(id, false) else { return };
        let asked = Asked { pair: id, sent: now, role: self.role, nominate: false };
        self.session.list.note_asked(transaction, asked);
        let Some(pair) = self.session.list.get_mut(id) else { return };
        pair.stats.consent_requests_sent += 1;
        let (route, to) = (pair.route, pair.to);
        self.transmit_on(now, route, to, bytes);
    }

    /// No consent for a while: every pair gets another chance. Both sides do so at about the same time.
    pub(super) fn handle_disconnected(&mut self, now: Instant) {
        if self.state != State::Completed {
            return;
        }
        self.set_state(State::Disconnected);
        self.session.list.ordinary = Ordinary::All;
        let mut again = Vec::new();
        for (id, pair) in self.session.list.iter_mut() {
            match pair.state {
                // It worked, but that was some time ago.
                PairState::Succeeded => again.push(id),
                PairState::InProgress if pair.check.is_some() => continue,
                _ => {}
            }
            pair.state = PairState::Waiting;
        }
        again.into_iter().for_each(|id| self.session.list.trigger(id));
        self.pump(now);
    }

    /// Consent to the selected pair is gone. A pair that works takes its place if there is one, even without the
    /// controlling side's nomination: it may see nothing amiss.
    pub(super) fn handle_consent_expiry(&mut self, now: Instant) {
        let lost = self.path.selected;
        match self.session.list.best_valid().filter(|best| Some(*best) != lost) {
            Some(other) => {
                self.path.why = Some("consent to the pair selected before has expired");
                self.select(now, other);
            }
            None => {
                self.path.selected = None;
                self.fail(now, "the peer has not answered on the selected pair for as long as consent lasts");
            }
        }
    }

    /// Fails if nothing is left that could work and patience is over (RFC 8863, section 4).
    pub(super) fn consider_failure(&mut self, now: Instant) {
        if !self.is_running() || self.path.current.is_some() || self.path.selected.is_some() {
            return;
        }
        // Patience is for what the peer may still send, which needs an address of ours to be sent to.
        let gathered = self.gathering.complete && !self.gathering.is_busy();
        if gathered && self.session.remote.is_some() && self.local_candidates().next().is_none() {
            self.fail(now, "this side has no candidate to offer");
        } else if self.session.patience_over && !self.session.list.has_open() {
            let why = match self.session.candidates.is_empty() {
                true => "the peer told no candidate that can be used, and sent no check",
                false => "no candidate pair works",
            };
            self.fail(now, why);
        }
    }

    fn fail(&mut self, now: Instant, why: &str) {
        self.failure = Some(why.to_owned());
        self.path.current = None;
        self.set_state(State::Failed);
        self.stop_timers();
        self.close_relays(now);
        let report = Box::new(self.report());
        self.out.events.push_back(Event::Failed(report));
    }
}
