//! Nomination (RFC 8445, section 8): which pair is selected, and when.
//!
//! The controlling agent nominates the first direct pair that works. If only a relayed one does, it waits for
//! [`Timings::relay_patience`](super::Timings::relay_patience), unless no direct pair is left that could work. Data flows
//! over the best pair that works meanwhile. A direct pair that works after a relayed one was selected is nominated in its
//! place; its priority is higher, so that peers of RFC 5245 follow too.

use std::time::Instant;

use super::check_list::Ordinary;
use super::config::Role;
use super::event::{Event, PathKind, Route, SelectedPair, State};
use super::pair::{Likelihood, Pair, PairId, PairState};
use super::{Agent, Timer};
use crate::candidate::ComponentId;

/// A direct pair whose check was sent so often without an answer is not waited for.
const HOPELESS_AFTER: u32 = 3;

/// Which pair carries the data of a component.
#[derive(Debug, Default)]
pub(super) struct Path {
    /// The selected pair (RFC 8445, section 8.1.1).
    pub(super) selected: Option<PairId>,
    /// Where data is sent: the selected pair, or the best that works.
    pub(super) current: Option<PairId>,
    /// The pair that is being nominated.
    pub(super) nominating: Option<PairId>,
    /// Since when a relayed pair works and no direct one.
    relayed_since: Option<Instant>,
    /// Why the selected pair was nominated.
    pub(super) why: Option<&'static str>,
}

impl Agent {
    /// As the controlling agent, nominates what is ripe for it.
    pub(super) fn evaluate_nomination(&mut self, now: Instant) {
        if self.role != Role::Controlling || self.path.nominating.is_some() || !self.is_running() {
            return;
        }
        let Some((best, path)) = self.best_candidate_for_nomination() else { return };
        let why = match (self.selected_pair_kind(), path) {
            (Some(PathKind::Relayed), PathKind::Direct) => "a direct path was found after a relayed one",
            (Some(_), _) if self.state != State::Disconnected => return,
            (Some(_), _) => "the pair selected before does not answer any more",
            (None, PathKind::Direct) => "the first direct path that worked",
            (None, PathKind::Relayed) => match self.reason_to_relay(now) {
                Some(why) => why,
                None => return,
            },
        };
        self.path.why = Some(why);
        self.nominate(now, best);
    }

    fn nominate(&mut self, now: Instant, id: PairId) {
        self.path.nominating = Some(id);
        if let Some(pair) = self.session.list.get_mut(id) {
            pair.nominate = true;
        }
        self.session.list.trigger(id);
        self.pump(now);
    }

    /// The peer sees this side at another address than before: the NAT has lost its mapping. To the peer it is another
    /// pair, which has to be nominated anew.
    pub(super) fn nominate_again(&mut self, now: Instant, id: PairId) {
        if self.role == Role::Controlling && self.path.nominating.is_none() {
            self.path.why = Some("this side's mapping has changed");
            self.nominate(now, id);
        }
    }

    fn best_candidate_for_nomination(&self) -> Option<(PairId, PathKind)> {
        let best = self.session.list.best_valid().filter(|best| self.path.selected != Some(*best))?;
        Some((best, self.session.list.get(best)?.path))
    }

    fn selected_pair_kind(&self) -> Option<PathKind> {
        self.session.list.get(self.path.selected?).map(|pair| pair.path)
    }

    /// Why a relayed pair should be nominated now, if it should.
    fn reason_to_relay(&mut self, now: Instant) -> Option<&'static str> {
        let since = *self.path.relayed_since.get_or_insert(now);
        let until = since + self.config.timings.relay_patience;
        if now >= until {
            return Some("no direct path worked in time");
        }
        if !self.direct_is_possible() {
            return Some("no direct path is left that could work");
        }
        self.timers.set(Timer::RelayPatience, until);
        None
    }

    /// Whether some direct pair may still come to work.
    fn direct_is_possible(&self) -> bool {
        let still_to_come = self.config.policy == super::Policy::All
            && !(self.session.end_of_candidates && self.gathering.complete);
        still_to_come || self.session.list.iter().any(|(_, pair)| self.may_work_directly(pair))
    }

    fn may_work_directly(&self, pair: &Pair) -> bool {
        let sent = pair.check.as_ref().map_or(0, |check| check.transaction.transmissions());
        let hopeless = pair.state == PairState::InProgress && sent >= HOPELESS_AFTER
            || self.both_mappings_depend_on_destination() && pair.group.likelihood != Likelihood::SameSubnet;
        pair.path == PathKind::Direct && pair.is_open() && !hopeless
    }

    pub(super) fn both_mappings_depend_on_destination(&self) -> bool {
        self.session.hint == Some(true) && self.local.mapping_depends_on_destination() == Some(true)
    }

    pub(super) fn nomination_succeeded(&mut self, now: Instant, id: PairId) {
        self.path.nominating = None;
        if let Some(pair) = self.session.list.get_mut(id) {
            pair.nominate = false;
        }
        self.select(now, id);
    }

    /// As the controlled agent, follows the peer's nomination. Of several, as peers of RFC 5245 make them, the pair of the
    /// highest priority counts, unless the selected one has stopped answering.
    pub(super) fn accept_nomination(&mut self, now: Instant, id: PairId) {
        let priority = |id| self.session.list.get(id).map_or(0, |pair: &Pair| pair.priority);
        let better = match self.path.selected {
            Some(selected) => self.state == State::Disconnected || priority(id) >= priority(selected),
            None => true,
        };
        if let Some(pair) = self.session.list.get_mut(id) {
            pair.nominated_by_peer = false;
        }
        if better && self.path.selected != Some(id) {
            self.path.why = Some("the peer nominated it");
            self.select(now, id);
        }
    }

    pub(super) fn select(&mut self, now: Instant, id: PairId) {
        self.path.selected = Some(id);
        self.path.current = Some(id);
        self.path.relayed_since = None;
        let Some(pair) = self.session.list.get(id) else { return };
        let (route, to, path) = (pair.route, pair.to, pair.path);
        self.session.list.ordinary = match path {
            PathKind::Direct => Ordinary::Stopped,
            PathKind::Relayed => Ordinary::DirectOnly,
        };
        if let Route::Relay(relay) = route {
            self.bind_channel(now, relay, to);
        }
        self.begin_consent(now);
        self.set_state(State::Completed);
        if let Some(selected) = self.selected() {
            self.out.events.push_back(Event::Selected(selected));
        }
    }

    /// The selected pair's remote candidate has turned out to be another kind: the application is told.
    pub(super) fn refresh_selected(&mut self) {
        if let Some(selected) = self.selected() {
            self.out.events.push_back(Event::Selected(selected));
        }
    }

    /// The pair that was nominated, if one was.
    pub fn selected(&self) -> Option<SelectedPair> {
        self.describe(self.path.selected?)
    }

    /// The pair that data is sent over: the selected one, or until there is one the best that works.
    pub fn current(&self) -> Option<SelectedPair> {
        self.describe(self.path.current?)
    }

    fn describe(&self, id: PairId) -> Option<SelectedPair> {
        let pair = self.session.list.get(id)?;
        let local = self.local.get(pair.mapped.unwrap_or(pair.local))?;
        let relay = match pair.route {
            Route::Relay(relay) => self.gathering.relays.get(&relay).map(|relay| relay.server.address),
            Route::Socket(_) => None,
        };
        Some(SelectedPair {
            component: ComponentId::ONE,
            local: local.candidate.clone(),
            remote: self.session.get(pair.remote)?.candidate.clone(),
            path: pair.path,
            relay,
        })
    }

    /// Chooses where data goes.
    pub(super) fn pick_current(&mut self) {
        let works = |id: &PairId| self.session.list.get(*id).is_some_and(Pair::is_valid);
        let selected = self.path.selected;
        self.path.current = selected.filter(works).or_else(|| self.session.list.best_valid()).or(selected);
    }

    /// The pairs' priorities follow the roles (RFC 8445, section 7.3.1.1).
    pub(super) fn switch_role(&mut self, now: Instant, new_tie_breaker: bool) {
        self.role = self.role.opposite();
        if new_tie_breaker {
            self.tie_breaker = rand::Rng::random(&mut self.rng);
        }
        if let Some(id) = self.path.nominating.take()
            && let Some(pair) = self.session.list.get_mut(id)
        {
            pair.nominate = false;
        }
        self.reprioritise();
        self.evaluate_nomination(now);
    }
}
