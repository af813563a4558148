//! How far the components, the streams and the agent as a whole have come, and when one of them has failed.

use std::time::Instant;

use super::event::{Event, State};
use super::stream::Component;
use super::{Agent, Timer};
use crate::candidate::ComponentId;

impl Agent {
    /// How far a component has come.
    pub fn component_state(&self, component: ComponentId) -> Option<State> {
        let stream = self.session.streams.of(component)?;
        match (self.state, &stream.failure) {
            (State::Closed, _) => Some(State::Closed),
            (_, Some(_)) => Some(State::Failed),
            (_, None) => self.session.streams.component(component).map(|known| known.state),
        }
    }

    pub(super) fn set_component_state(&mut self, component: ComponentId, state: State) {
        let Some(known) = self.session.streams.component_mut(component) else { return };
        if known.state != state {
            known.state = state;
            self.refresh_state();
        }
    }

    /// The agent's state follows its components'.
    pub(super) fn refresh_state(&mut self) {
        if self.is_running() {
            self.set_state(self.session.streams.state());
        }
    }

    pub(super) fn is_running(&self) -> bool {
        !matches!(self.state, State::Failed | State::Closed)
    }

    /// Whether a component's stream is still being worked on.
    pub(super) fn is_alive(&self, component: ComponentId) -> bool {
        self.is_running() && self.session.streams.of(component).is_some_and(|stream| stream.failure.is_none())
    }

    pub(super) fn set_state(&mut self, state: State) {
        if self.state != state {
            self.state = state;
            self.out.events.push_back(Event::StateChanged(state));
        }
    }

    /// Fails the streams of which a component has nothing left that could work, once patience is over (RFC 8863, section
    /// 4).
    pub(super) fn consider_failure(&mut self, now: Instant) {
        for component in self.session.streams.ids() {
            if self.is_alive(component)
                && let Some(why) = self.reason_to_fail(component)
            {
                self.fail_stream(now, component.stream(), why);
            }
        }
    }

    fn reason_to_fail(&self, id: ComponentId) -> Option<&'static str> {
        let path = self.session.streams.path(id)?;
        if path.selected.is_some() || self.carrier(id).is_some() {
            return None;
        }
        // Patience is for what the peer may still send, which needs an address of ours to be sent to.
        let gathered = self.gathering.complete && !self.gathering.is_busy();
        let offers = self.local_candidates().any(|candidate| candidate.component == id);
        if gathered && !offers && self.session.streams.remote(id).is_some() {
            return Some("this side has no candidate to offer");
        }
        let checks = !self.config.lite;
        if !self.session.patience_over || checks && self.session.list.has_open(id) {
            return None;
        }
        match self.session.candidates.iter().any(|remote| remote.component == id) {
            false => Some("the peer told no candidate that can be used, and sent no check"),
            true => Some("no candidate pair works"),
        }
    }

    /// A data stream of which one component does not work is of no use (RFC 8445, section 6.1.2.1). The agent fails with
    /// the last of its streams.
    pub(super) fn fail_stream(&mut self, now: Instant, index: u8, why: &str) {
        let Some(stream) = self.session.streams.get_mut(index) else { return };
        stream.failure = Some(why.to_owned());
        stream.components_mut().for_each(Component::stop);
        for component in self.session.streams.ids().into_iter().filter(|id| id.stream() == index) {
            self.stop_component(component);
        }
        if self.session.streams.state() != State::Failed {
            self.out.events.push_back(Event::StreamFailed { stream: index, why: why.to_owned() });
            self.refresh_state();
            return;
        }
        self.set_state(State::Failed);
        self.stop_hard_nat();
        self.stop_timers();
        self.close_relays(now);
        self.close_connections();
        let report = Box::new(self.report());
        self.out.events.push_back(Event::Failed(report));
    }

    fn stop_component(&mut self, component: ComponentId) {
        let of_it = [
            Timer::RelayPatience(component),
            Timer::Consent(component),
            Timer::Silence(component),
            Timer::ConsentExpiry(component),
            Timer::Unused(component),
        ];
        of_it.into_iter().for_each(|timer| self.timers.cancel(timer));
        let pairs =
            self.session.list.iter().filter(|(_, pair)| pair.component == component).map(|(id, _)| id);
        for id in pairs.collect::<Vec<_>>() {
            self.timers.cancel(Timer::Check(id));
        }
    }
}
