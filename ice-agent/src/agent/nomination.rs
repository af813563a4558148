//! Nomination (RFC 8445, section 8): which pair is selected, and when.
//!
//! The controlling agent nominates the first direct pair over UDP that works. If only one over TCP or a relayed one does, it
//! waits for [`Timings::relay_patience`](super::Timings::relay_patience), unless no better pair is left that could work. Data
//! flows over the best pair that works meanwhile. A better pair that works after another was selected is nominated in its
//! place; its priority is higher, so that peers of RFC 5245 follow too.

use std::time::Instant;

use super::check_list::Ordinary;
use super::config::Role;
use super::event::{Event, Route, SelectedPair, State};
use super::pair::{Likelihood, Pair, PairId, PairState, Rank};
use super::remote::Session;
use super::{Agent, Timer, tcp};
use crate::candidate::{Candidate, CandidateAddress, ComponentId};

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
    /// The number of the peer's nomination that selected it, if the peer renominates.
    nomination: Option<u32>,
    /// Since when there is a selected pair.
    pub(super) selected_since: Option<Instant>,
    /// The pair to which consent has expired while this host slept, until the peer answers on it.
    pub(super) expired: Option<PairId>,
    /// Since when a pair works, but none over UDP and directly.
    lesser_since: Option<Instant>,
    /// Why the selected pair was nominated.
    pub(super) why: Option<&'static str>,
}

impl Agent {
    /// As the controlling agent, nominates what is ripe for it: one pair for each component.
    pub(super) fn evaluate_nomination(&mut self, now: Instant) {
        for component in self.session.streams.ids() {
            self.evaluate_component(now, component);
        }
    }

    pub(super) fn evaluate_component(&mut self, now: Instant, id: ComponentId) {
        let Some(component) = self.session.streams.component(id) else { return };
        if self.role != Role::Controlling || component.path.nominating.is_some() || !self.is_alive(id) {
            return;
        }
        let disconnected = component.state == State::Disconnected;
        let selected = self.selected_rank(id);
        if selected == Some(Rank::Direct) && !disconnected && !self.session.capabilities.renomination {
            return;
        }
        let Some((best, rank)) = self.best_candidate_for_nomination(id) else { return };
        let why = match (selected, rank) {
            (Some(Rank::Relayed), Rank::Direct | Rank::DirectOverTcp) => {
                "a direct path was found after a relayed one"
            }
            (Some(Rank::DirectOverTcp), Rank::Direct) => "a path over UDP was found after one over TCP",
            (Some(Rank::Direct), Rank::Direct) if self.may_renominate(id, best) => {
                "a direct path of higher priority was found"
            }
            (Some(_), _) if !disconnected => return,
            (Some(_), _) => "the pair selected before does not answer any more",
            (None, Rank::Direct) => "the first direct path that worked",
            (None, Rank::DirectOverTcp | Rank::Relayed) => match self.reason_to_settle(now, id, rank) {
                Some(why) => why,
                None => return,
            },
        };
        self.nominate(now, best, why);
    }

    /// Whether the peer follows from one direct pair to a better one at any time.
    fn may_renominate(&self, component: ComponentId, best: PairId) -> bool {
        let priority = |id: PairId| self.session.list.get(id).map(|pair| pair.priority);
        let selected = self.session.streams.path(component).and_then(|path| path.selected);
        self.session.capabilities.renomination && priority(best) > selected.and_then(priority)
    }

    fn nominate(&mut self, now: Instant, id: PairId, why: &'static str) {
        let Some(pair) = self.session.list.get_mut(id) else { return };
        pair.nominate = true;
        if let Some(path) = self.session.streams.path_mut(pair.component) {
            path.nominating = Some(id);
            path.why = Some(why);
        }
        self.session.list.trigger(id);
        self.pump(now);
    }

    /// The peer sees this side at another address than before: the NAT has lost its mapping. To the peer it is another
    /// pair, which has to be nominated anew.
    pub(super) fn nominate_again(&mut self, now: Instant, id: PairId) {
        let path = self.session.list.get(id).and_then(|pair| self.session.streams.path(pair.component));
        if self.role == Role::Controlling && path.is_some_and(|path| path.nominating.is_none()) {
            self.nominate(now, id, "this side's mapping has changed");
        }
    }

    fn best_candidate_for_nomination(&self, component: ComponentId) -> Option<(PairId, Rank)> {
        let best = self.session.list.best_valid(component).filter(|best| !self.is_selected(*best))?;
        Some((best, self.session.list.get(best)?.rank()))
    }

    fn selected_rank(&self, component: ComponentId) -> Option<Rank> {
        let selected = self.session.streams.path(component)?.selected?;
        self.session.list.get(selected).map(Pair::rank)
    }

    /// Whether a pair is the selected one of its component, in its session.
    pub(super) fn is_selected(&self, id: PairId) -> bool {
        let session = self.session_with(id);
        let path = session.list.get(id).and_then(|pair| session.streams.path(pair.component));
        path.is_some_and(|path| path.selected == Some(id))
    }

    /// Why a pair should be nominated now that is relayed or over TCP, if it should.
    fn reason_to_settle(&mut self, now: Instant, component: ComponentId, rank: Rank) -> Option<&'static str> {
        let path = self.session.streams.path_mut(component)?;
        let since = *path.lesser_since.get_or_insert(now);
        let until = since + self.config.timings.relay_patience;
        let over_tcp = rank == Rank::DirectOverTcp;
        if now >= until {
            let why =
                if over_tcp { "no path over UDP worked in time" } else { "no direct path worked in time" };
            return Some(why);
        }
        if !self.better_is_possible(component, rank) {
            let why = if over_tcp {
                "no path over UDP is left that could work"
            } else {
                "no direct path is left that could work"
            };
            return Some(why);
        }
        self.timers.set(Timer::RelayPatience(component), until);
        None
    }

    /// Whether some direct pair of a component may still come to work that is wanted more.
    fn better_is_possible(&self, component: ComponentId, rank: Rank) -> bool {
        let end_of_candidates =
            self.session.streams.of(component).is_some_and(|stream| stream.end_of_candidates);
        let still_to_come =
            self.config.policy == super::Policy::All && !(end_of_candidates && self.gathering.complete);
        let mut pairs = self.session.list.iter().filter(|(_, pair)| pair.component == component);
        still_to_come || pairs.any(|(_, pair)| pair.rank() > rank && self.may_work_directly(pair))
    }

    fn may_work_directly(&self, pair: &Pair) -> bool {
        let sent = pair.check.as_ref().map_or(0, |check| check.transaction.transmissions());
        let hopeless = pair.state == PairState::InProgress && sent >= HOPELESS_AFTER
            || self.both_mappings_depend_on_destination() && pair.group.likelihood != Likelihood::SameSubnet;
        pair.is_open() && !hopeless
    }

    pub(super) fn both_mappings_depend_on_destination(&self) -> bool {
        self.remote_mapping_depends() == Some(true)
            && self.local.mapping_depends_on_destination() == Some(true)
    }

    pub(super) fn nomination_succeeded(&mut self, now: Instant, id: PairId) {
        let Some(pair) = self.session.list.get_mut(id) else { return };
        pair.nominate = false;
        if let Some(path) = self.session.streams.path_mut(pair.component) {
            path.nominating = None;
        }
        self.select(now, id);
    }

    /// As the controlled agent, follows the peer's nomination. Of several, as peers of RFC 5245 make them with every check, the
    /// pair of the highest priority counts, unless the selected one has stopped answering; else the last one, which the
    /// peer makes when it has lost what it selected before.
    pub(super) fn accept_nomination(&mut self, now: Instant, id: PairId) {
        let Some(pair) = self.session.list.get_mut(id) else { return };
        pair.nominated_by_peer = false;
        let (priority, component, nomination) = (pair.priority, pair.component, pair.nomination);
        let deliberate = self.session.nominates_deliberately || self.session.capabilities.ice2;
        let Some(component) = self.session.streams.component_mut(component) else { return };
        let selected = component.path.selected.and_then(|selected| self.session.list.get(selected));
        let follows = match (nomination, selected) {
            (_, None) => true,
            (Some(number), _) => Some(number) > component.path.nomination,
            (None, Some(selected)) => {
                deliberate || component.state == State::Disconnected || priority >= selected.priority
            }
        };
        if follows {
            component.path.nomination = nomination.max(component.path.nomination);
        }
        if follows && component.path.selected != Some(id) {
            component.path.why = Some("the peer nominated it");
            self.select(now, id);
        }
    }

    pub(super) fn select(&mut self, now: Instant, id: PairId) {
        let Some(pair) = self.session.list.get(id) else { return };
        let (component, route, to, rank) = (pair.component, pair.route, pair.to, pair.rank());
        let before = self.selected_on(component);
        let Some(known) = self.session.streams.component_mut(component) else { return };
        known.path.selected = Some(id);
        known.path.selected_since.get_or_insert(now);
        let why = known.path.why.unwrap_or_default();
        known.path.current = Some(id);
        known.path.lesser_since = None;
        known.ordinary = Ordinary::beside(rank);
        self.timers.set(Timer::Unused(component), now + tcp::UNUSED);
        if let Route::Relay(relay) = route {
            self.bind_channel(now, relay, to);
        }
        self.relieve_former(now, component);
        self.begin_consent(now, component);
        self.set_component_state(component, State::Completed);
        if let Some(selected) = self.selected_on(component) {
            if before.is_some() {
                self.out.events.push_back(Event::PathChanged { component, why: why.to_owned() });
            }
            self.out.events.push_back(Event::Selected(selected));
        }
        if rank == Rank::Relayed {
            self.expect_hard_nat(now);
        }
    }

    /// A pair on a new interface works. If the interface is a better one than that of the selected pair, and the path is no
    /// worse, the controlling agent moves there before the old one breaks.
    pub(super) fn consider_better_interface(&mut self, now: Instant, component: ComponentId, id: PairId) {
        let Some(path) = self.session.streams.path(component) else { return };
        let preference = |id: PairId| {
            let pair = self.session.list.get(id)?;
            Some((pair.rank(), self.local.interface_preference(self.local.get(pair.local)?)))
        };
        if self.role != Role::Controlling || path.nominating.is_some() {
            return;
        }
        if let (Some((ours, fresh)), Some((theirs, old))) =
            (preference(id), path.selected.and_then(preference))
            && ours == theirs
            && fresh > old
        {
            self.nominate(now, id, "a better interface has come");
        }
    }

    /// The selected pair's remote candidate has turned out to be another kind: the application is told.
    pub(super) fn refresh_selected(&mut self, component: ComponentId) {
        if let Some(selected) = self.selected_on(component) {
            self.out.events.push_back(Event::Selected(selected));
        }
    }

    /// The pair of the first component that was nominated, if one was.
    pub fn selected(&self) -> Option<SelectedPair> {
        self.selected_on(ComponentId::ONE)
    }

    /// The pair of a component that was nominated, if one was.
    pub fn selected_on(&self, component: ComponentId) -> Option<SelectedPair> {
        let selected = |session: &Session| session.streams.path(component)?.selected;
        self.describe(selected(&self.session).or_else(|| self.former.as_deref().and_then(selected))?)
    }

    /// The pair that the first component's data is sent over: the selected one, or until there is one the best that works.
    pub fn current(&self) -> Option<SelectedPair> {
        self.current_on(ComponentId::ONE)
    }

    /// The pair that a component's data is sent over.
    pub fn current_on(&self, component: ComponentId) -> Option<SelectedPair> {
        self.describe(self.carrier(component)?)
    }

    fn describe(&self, id: PairId) -> Option<SelectedPair> {
        let session = self.session_with(id);
        let pair = session.list.get(id)?;
        let local = self.local.get(pair.mapped.unwrap_or(pair.local))?;
        let relay = match pair.route {
            Route::Relay(relay) => self.gathering.relays.get(&relay).map(|relay| relay.server.address),
            Route::Socket(_) | Route::Tcp(..) => None,
        };
        Some(SelectedPair {
            component: pair.component,
            local: Candidate {
                address: match &local.candidate.address {
                    // This side knows what the name stands for.
                    CandidateAddress::Unresolved { .. } => CandidateAddress::Ip(local.address),
                    told => told.clone(),
                },
                ..local.candidate.clone()
            },
            remote: session.get(pair.remote)?.clone(),
            path: pair.path,
            relay,
        })
    }

    /// Chooses where a component's data goes.
    pub(super) fn pick_current(&mut self, component: ComponentId) {
        let Session { streams, list, .. } = &mut self.session;
        let Some(path) = streams.path_mut(component) else { return };
        let works = |id: &PairId| list.get(*id).is_some_and(Pair::is_valid);
        path.current = path.selected.filter(works).or_else(|| list.best_valid(component)).or(path.selected);
    }

    /// The pairs' priorities follow the roles (RFC 8445, section 7.3.1.1).
    pub(super) fn switch_role(&mut self, now: Instant, new_tie_breaker: bool) {
        self.role = self.role.opposite();
        if new_tie_breaker {
            self.tie_breaker = self.random.draw(rand::Rng::random);
        }
        for component in self.session.streams.ids() {
            let nominating = self.session.streams.path_mut(component).and_then(|path| path.nominating.take());
            if let Some(pair) = nominating.and_then(|id| self.session.list.get_mut(id)) {
                pair.nominate = false;
            }
        }
        self.reprioritise();
        self.evaluate_nomination(now);
    }
}
