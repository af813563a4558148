//! ICE restart (RFC 8445, section 9; RFC 8839, section 4.4.1.1): a new session with new credentials, on the sockets and
//! allocations that there are. The session before it, the *former* one, carries data and keeps consent until the new one has
//! selected a pair, and answers what is still on its way for a while after that.

use std::net::SocketAddr;
use std::time::Instant;

use thirl_common::wire::{Class, Message};

use super::config::Credentials;
use super::event::{Event, Route, State};
use super::pair::{Pair, PairId, PairState};
use super::remote::Session;
use super::{Agent, Timer, message};
use crate::candidate::ComponentId;

impl Agent {
    /// Begins a new session, for all data streams, and returns its credentials. The peer has to be told them together with
    /// [`Agent::local_candidates`], and answers with new ones of its own and its candidates. Until the new session has a
    /// path the old one carries data. An agent that has failed gathers anew; a closed one does nothing.
    ///
    /// What the two sides tell each other must arrive in order. A session that the peer has not answered is still the new
    /// one, so that nothing begins anew if this is called again.
    pub fn restart(&mut self, now: Instant) -> Credentials {
        let answered = self.session.streams.iter().any(|stream| stream.remote.is_some());
        if self.state == State::Failed || answered && self.state != State::Closed {
            self.begin_session(now);
            self.pump(now);
        }
        self.session.local.clone()
    }

    /// The peer has other credentials than before, which is how it restarts: this side has to answer with new ones.
    pub(super) fn follow_restart(&mut self, now: Instant) {
        self.begin_session(now);
        self.out.events.push_back(Event::RemoteRestarted);
    }

    fn begin_session(&mut self, now: Instant) {
        let credentials = self.random.draw(Credentials::generate);
        let session = Session::after(&self.session, credentials, &self.config.streams);
        let mut before = std::mem::replace(&mut self.session, session);
        self.restarts += 1;
        self.stop_hard_nat();
        self.timers.cancel(Timer::Patience);
        for component in before.streams.ids() {
            self.timers.cancel(Timer::RelayPatience(component));
        }
        for id in before.list.rest() {
            self.timers.cancel(Timer::Check(id));
        }
        if self.state == State::Failed {
            self.former = None;
            self.set_state(State::New);
            self.gather_anew(now);
            return;
        }
        // Of a session that came to nothing, nothing is kept if the one before it still carries data.
        if self.former.is_none() || before.is_complete() {
            before.streams.stop_nominating();
            self.former = Some(Box::new(before));
        }
        self.keep_former(now);
        self.timers.cancel(Timer::FormerEnd);
        for component in self.session.streams.ids() {
            let state = match self.carrier(component) {
                Some(_) if self.state == State::Disconnected => State::Checking,
                Some(_) => State::Connected,
                None => State::New,
            };
            self.set_component_state(component, state);
            // Who restarts has a reason: of an allocation that is gone nothing else would tell while all pairs are new.
            self.check_relays(now, component);
        }
        if self.session.streams.ids().into_iter().all(|component| self.carrier(component).is_none()) {
            self.timers.set(Timer::FormerEnd, now + self.config.timings.consent_timeout);
        }
    }

    /// A pair that carries data is under consent from now on, even if it was not nominated in time.
    fn keep_former(&mut self, now: Instant) {
        for component in self.session.streams.ids() {
            let path = self.former.as_mut().and_then(|former| former.streams.path_mut(component));
            if let Some(path) = path.filter(|path| path.selected.is_none())
                && let Some(current) = path.current
            {
                path.selected = Some(current);
                self.begin_consent(now, component);
            }
        }
    }

    /// The pair that carries a component's data: the former session's until the present one has selected one.
    pub(super) fn carrier(&self, component: ComponentId) -> Option<PairId> {
        let present = self.session.streams.path(component)?;
        let former = self.former.as_ref().and_then(|former| former.streams.path(component)?.current);
        present.selected.and(present.current).or(former).or(present.current)
    }

    /// The session that a pair belongs to.
    pub(super) fn session_with(&self, id: PairId) -> &Session {
        match &self.former {
            Some(former) if former.list.get(id).is_some() => former,
            _ => &self.session,
        }
    }

    pub(super) fn session_with_mut(&mut self, id: PairId) -> &mut Session {
        match &mut self.former {
            Some(former) if former.list.get(id).is_some() => former,
            _ => &mut self.session,
        }
    }

    /// The present session has selected a pair: the former one's is not needed any more.
    pub(super) fn relieve_former(&mut self, now: Instant, component: ComponentId) {
        let Some(former) = &mut self.former else { return };
        if let Some(path) = former.streams.path_mut(component) {
            path.current = None;
            path.selected = None;
        }
        if self.session.is_complete() {
            self.timers.set(Timer::FormerEnd, now + self.config.timings.consent_timeout);
        }
    }

    /// The former session has had its time.
    pub(super) fn end_former(&mut self) {
        self.former = None;
        for component in self.session.streams.ids() {
            self.close_unused(component);
        }
    }

    /// What a former session's pairs were sent from is gone.
    pub(super) fn former_ways_lost(&mut self, lost: impl Fn(&Pair) -> bool) {
        let Some(former) = &mut self.former else { return };
        for (_, pair) in former.list.iter_mut().filter(|(_, pair)| lost(pair)) {
            pair.state = PairState::Failed;
        }
        let Session { streams, list, .. } = &mut **former;
        for component in streams.ids() {
            if let Some(path) = streams.path_mut(component) {
                let works = |id: &PairId| list.get(*id).is_some_and(Pair::is_valid);
                path.selected = path.selected.filter(works);
                path.current = path.current.filter(works).or_else(|| list.best_valid(component));
            }
        }
    }

    /// A check of the former session's: answered, and followed no further.
    pub(super) fn answer_former(
        &mut self,
        now: Instant,
        route: Route,
        from: SocketAddr,
        request: &Message<'_>,
        ufrag: &str,
    ) -> bool {
        let Some(former) = self.former.as_mut().filter(|former| former.local.ufrag == ufrag) else {
            return false;
        };
        if request.verify_integrity(&former.local_key).is_err() {
            self.counters.rejected_checks += 1;
            return true;
        }
        let response = message::success(request.transaction_id(), from, &former.local_key);
        if let Some(pair) = former.list.find(route, from).and_then(|id| former.list.get_mut(id)) {
            pair.heard = true;
            let stats = pair.stats.rest();
            stats.requests_received += 1;
            stats.responses_sent += 1;
        }
        self.transmit_on(now, route, from, response);
        true
    }

    /// An answer to a check of the former session's: all that it can mean is consent.
    pub(super) fn handle_former_response(
        &mut self,
        now: Instant,
        route: Route,
        from: SocketAddr,
        response: &Message<'_>,
    ) -> bool {
        let Some(former) = &mut self.former else { return false };
        let Some(asked) = former.list.asked(response.transaction_id()) else { return false };
        let Some(pair) = former.list.get(asked.pair) else { return false };
        let (component, symmetric) = (pair.component, pair.route == route && pair.to == from);
        let Some(remote) = former.streams.remote(component) else { return false };
        if response.verify_integrity(&remote.key).is_err() {
            return true;
        }
        former.list.forget_asked(response.transaction_id());
        if symmetric && response.class() == Class::Success {
            if let Some(pair) = former.list.get_mut(asked.pair) {
                let stats = pair.stats.rest();
                stats.responses_received += 1;
                stats.round_trip(now.saturating_duration_since(asked.sent));
            }
            self.refresh_consent(now, component, asked.pair, asked.sent);
        }
        true
    }
}
