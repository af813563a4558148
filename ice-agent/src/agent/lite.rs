//! Lite implementations (RFC 8445, section 2.5 and appendix A), on either side: they have host candidates only, send no checks
//! and answer those of the peer.

use std::time::Instant;

use super::config::{Capabilities, Role};
use super::event::State;
use super::pair::{PairId, PairState};
use super::{Agent, Timer};
use crate::candidate::ComponentId;

impl Agent {
    /// What this side can do, to be told to the peer.
    pub fn local_capabilities(&self) -> Capabilities {
        Capabilities { lite: self.config.lite, ice2: true, trickle: true, renomination: !self.config.lite }
    }

    /// What the peer's description says that it can do. Of a full and a lite side the full one controls, whatever was
    /// configured (RFC 8445, section 6.1.1).
    pub fn set_remote_capabilities(&mut self, now: Instant, capabilities: Capabilities) {
        self.session.capabilities = capabilities;
        let role = match (self.config.lite, capabilities.lite) {
            (false, true) => Role::Controlling,
            (true, false) => Role::Controlled,
            (true, true) => self.config.role,
            (false, false) => self.role,
        };
        if role != self.role {
            self.switch_role(now, false);
        }
        self.select_between_lites(now);
        self.pump(now);
    }

    /// A check that a lite implementation has answered makes its pair valid (RFC 8445, section 7.3.2).
    pub(super) fn follow_as_lite(&mut self, now: Instant, id: PairId, use_candidate: bool) {
        let Some(pair) = self.session.list.get_mut(id) else { return };
        pair.state = PairState::Succeeded;
        let component = pair.component;
        self.pick_current(component);
        if self.session.streams.component(component).is_some_and(|known| known.state == State::Checking) {
            self.set_component_state(component, State::Connected);
        }
        if use_candidate {
            self.accept_nomination(now, id);
        }
    }

    /// Between two lite sides nobody checks: the best pair is taken (RFC 8445, section 8.2.2), and trusted for good, since
    /// there is no consent without checks.
    pub(super) fn select_between_lites(&mut self, now: Instant) {
        if !(self.config.lite && self.session.capabilities.lite) {
            return;
        }
        for component in self.session.streams.ids() {
            if self.session.streams.path(component).is_none_or(|path| path.selected.is_some())
                || self.session.streams.remote(component).is_none()
            {
                continue;
            }
            let pairs = self.session.list.iter().filter(|(_, pair)| pair.component == component);
            let best = pairs.max_by_key(|(id, pair)| (pair.priority, std::cmp::Reverse(*id)));
            if let Some(id) = best.map(|(id, _)| id) {
                self.trust(now, component, id);
            }
        }
    }

    fn trust(&mut self, now: Instant, component: ComponentId, id: PairId) {
        if let Some(pair) = self.session.list.get_mut(id) {
            pair.state = PairState::Succeeded;
            pair.heard = true;
        }
        if let Some(path) = self.session.streams.path_mut(component) {
            path.why = Some("both sides are lite: it is the best");
        }
        self.select(now, id);
        self.timers.cancel(Timer::ConsentExpiry(component));
    }
}
