//! What comes in: application data, checks of the peer's, and answers to our own (RFC 8445, section 7.3).

use std::net::SocketAddr;
use std::time::Instant;

use thirl_common::wire::{
    Class, ErrorCode, IceControlled, IceControlling, Message, Method, NatMapping, Nomination, Priority,
    Protocol, UseCandidate, Username, classify,
};

use super::config::Role;
use super::event::{PathKind, Received, Route, SocketId};
use super::pair::{PairId, PairOrigin};
use super::remote::{Claim, EarlyCheck, RemoteCredentials, Session};
use super::{Agent, message};

/// What a check asks for, once it has proved where it comes from.
struct InboundCheck {
    claim: Claim,
    conflict: Option<(Role, u64)>,
    ufrag: String,
    mapping: Option<NatMapping>,
}

impl Agent {
    /// Takes a datagram. Application data is handed back; everything else is dealt with here.
    pub fn handle_datagram<'a>(
        &mut self,
        now: Instant,
        socket: SocketId,
        from: SocketAddr,
        datagram: &'a [u8],
    ) -> Option<Received<'a>> {
        if self.is_opened(socket) {
            return self.handle_on_opened(now, socket, from, datagram);
        }
        let from = self.host_at(socket, from);
        if let Some(&relay) = self.gathering.relay_by_server.get(&(socket, from)) {
            let answer = parse(datagram).filter(|message| message.method() == Method::BINDING);
            if answer.is_none() {
                let (route, peer, data) = self.handle_relay_input(now, relay, datagram)?;
                return self.handle_on_route(now, route, peer, data);
            }
        }
        self.handle_on_route(now, Route::Socket(socket), from, datagram)
    }

    /// What came by a route, taken out of whatever a relay had wrapped it in.
    pub(super) fn handle_on_route<'a>(
        &mut self,
        now: Instant,
        route: Route,
        from: SocketAddr,
        bytes: &'a [u8],
    ) -> Option<Received<'a>> {
        if !self.is_running() {
            return None;
        }
        self.consider_sleep(now);
        match parse(bytes) {
            Some(message) if self.handle_stun(now, route, from, &message) => None,
            _ => self.take_data(now, route, from, bytes),
        }
    }

    /// Data is taken from a peer that has proved itself on this way, in a check or in an answer.
    fn take_data<'a>(
        &mut self,
        now: Instant,
        route: Route,
        from: SocketAddr,
        data: &'a [u8],
    ) -> Option<Received<'a>> {
        let Some(id) = self.heard_from(route, from) else {
            self.counters.dropped_unknown_sender += 1;
            return None;
        };
        let pair = self.session_with_mut(id).list.get_mut(id)?;
        pair.stats.rest().received(data.len());
        let (component, path) = (pair.component, pair.path);
        self.note_heard(now, component, id, true);
        Some(Received { component, data, from, path })
    }

    /// The pair on which a peer has proved itself that sends from there.
    fn heard_from(&self, route: Route, from: SocketAddr) -> Option<PairId> {
        let heard = |session: &Session| {
            let id = session.list.find(route, from)?;
            session.list.get(id).filter(|pair| pair.heard).map(|_| id)
        };
        heard(&self.session).or_else(|| self.former.as_deref().and_then(heard))
    }

    /// Whether a STUN message was ours: a check with our ufrag, an answer to us, a keepalive. The application may speak
    /// STUN of its own.
    fn handle_stun(&mut self, now: Instant, route: Route, from: SocketAddr, message: &Message<'_>) -> bool {
        if message.method() != Method::BINDING {
            return false;
        }
        match message.class() {
            Class::Request if self.take_own_request(now, route, message.transaction_id()) => true,
            Class::Request => self.handle_request(now, route, from, message),
            Class::Indication => {
                let keepalive = message.check_fingerprint() == Ok(true);
                if let Some(id) = self.heard_from(route, from).filter(|_| keepalive) {
                    let component = self.session_with(id).list.get(id).map(|pair| pair.component);
                    component.into_iter().for_each(|component| self.note_heard(now, component, id, false));
                }
                keepalive
            }
            Class::Success | Class::Error => {
                let gathered = match route {
                    Route::Socket(socket) => self.handle_binding_response(now, socket, from, message),
                    Route::Relay(_) | Route::Tcp(..) => false,
                };
                if gathered {
                    self.pump(now);
                }
                gathered
                    || self.handle_check_response(now, route, from, message)
                    || self.handle_former_response(now, route, from, message)
                    || self
                        .remote_on(route)
                        .is_some_and(|remote| message.verify_integrity(&remote.key).is_ok())
            }
        }
    }

    /// Whether a request was for us. Nothing is changed by one that does not prove itself.
    fn handle_request(
        &mut self,
        now: Instant,
        route: Route,
        from: SocketAddr,
        message: &Message<'_>,
    ) -> bool {
        let Ok(Some(Username(username))) = message.get::<Username<'_>>() else { return false };
        let Some((ours, theirs)) = username.split_once(':') else { return false };
        if ours != self.session.local.ufrag {
            return self.answer_former(now, route, from, message, ours);
        }
        match self.read_check(route, message, theirs) {
            Ok(_) if self.local.base(route).is_none() => self.counters.dropped_unknown_sender += 1,
            Ok(check) => self.handle_check(now, route, from, message, &check),
            Err((code, integrity)) => {
                let key = integrity.then_some(&self.session.local_key);
                let response = message::error(message.transaction_id(), code, key);
                self.counters.rejected_checks += 1;
                // An answer to one who has proved nothing is never larger than what it answers.
                if integrity || response.len() <= message.as_bytes().len() {
                    self.transmit_on(now, route, from, response);
                }
            }
        }
        true
    }

    /// What the peer signs with that is on the other side of a route.
    fn remote_on(&self, route: Route) -> Option<&RemoteCredentials> {
        self.session.streams.remote(self.local.component(route)?)
    }

    /// What a check says, or with which error to answer and whether the sender has proved itself.
    fn read_check(
        &self,
        route: Route,
        message: &Message<'_>,
        theirs: &str,
    ) -> Result<InboundCheck, (ErrorCode<'static>, bool)> {
        use thirl_common::wire::IntegrityError;
        match message.verify_integrity(&self.session.local_key) {
            Ok(_) => {}
            Err(IntegrityError::Missing) => return Err((ErrorCode::BAD_REQUEST, false)),
            Err(_) => return Err((ErrorCode::UNAUTHENTICATED, false)),
        }
        if self.remote_on(route).is_some_and(|remote| remote.credentials.ufrag != theirs) {
            return Err((ErrorCode::UNAUTHENTICATED, true));
        }
        if !message.unknown_attributes(message::KNOWN).is_empty() {
            return Err((ErrorCode::UNKNOWN_ATTRIBUTE, true));
        }
        let malformed = |_| (ErrorCode::BAD_REQUEST, true);
        let controlling = message.get::<IceControlling>().map_err(malformed)?;
        let controlled = message.get::<IceControlled>().map_err(malformed)?;
        Ok(InboundCheck {
            claim: Claim {
                priority: message
                    .get::<Priority>()
                    .map_err(malformed)?
                    .ok_or((ErrorCode::BAD_REQUEST, true))?
                    .0,
                use_candidate: message.get::<UseCandidate>().map_err(malformed)?.is_some(),
                nomination: message.get::<Nomination>().ok().flatten().map(|Nomination(number)| number),
            },
            conflict: match (controlling, controlled) {
                (Some(IceControlling(theirs)), _) => Some((Role::Controlling, theirs)),
                (None, Some(IceControlled(theirs))) => Some((Role::Controlled, theirs)),
                (None, None) => None,
            },
            ufrag: theirs.to_owned(),
            mapping: message.get::<NatMapping>().ok().flatten(),
        })
    }

    fn handle_check(
        &mut self,
        now: Instant,
        route: Route,
        from: SocketAddr,
        message: &Message<'_>,
        check: &InboundCheck,
    ) {
        let id = message.transaction_id();
        if !self.settle_roles(now, check.conflict) {
            let response = message::error(id, ErrorCode::ROLE_CONFLICT, Some(&self.session.local_key));
            self.transmit_on(now, route, from, response);
            return;
        }
        self.connection_proven(route, from);
        let response = message::success(id, from, &self.session.local_key);
        self.transmit_on(now, route, from, response);
        if self.remote_on(route).is_some() {
            self.follow_check(now, route, from, check.claim);
            if let Some(mapping) = check.mapping {
                self.take_mapping(now, mapping);
            }
        } else {
            self.session.keep_early(EarlyCheck {
                route,
                from,
                claim: check.claim,
                ufrag: check.ufrag.clone(),
            });
        }
        self.pump(now);
    }

    /// `false` if the peer has to change its role (RFC 8445, section 7.3.1.1).
    fn settle_roles(&mut self, now: Instant, claimed: Option<(Role, u64)>) -> bool {
        match claimed {
            Some((role, theirs)) if role == self.role => {
                let ours_is_larger = self.tie_breaker >= theirs;
                // A lite side controls no full one.
                let peer_must_switch = self.config.lite || ours_is_larger == (role == Role::Controlling);
                if !peer_must_switch {
                    self.switch_role(now, false);
                }
                !peer_must_switch
            }
            _ => true,
        }
    }

    /// What an inbound check leads to: perhaps a candidate, a pair, and at once a check the other way (RFC 8445, sections
    /// 7.3.1.3 to 7.3.1.5).
    pub(super) fn follow_check(&mut self, now: Instant, route: Route, from: SocketAddr, claim: Claim) {
        let Some(remote) = self.peer_reflexive(route, from, claim.priority) else { return };
        let Some(id) = self.form_pair(now, route, remote, PairOrigin::InboundCheck) else { return };
        let Some(pair) = self.session.list.get_mut(id) else { return };
        pair.heard = true;
        pair.nomination = claim.nomination.max(pair.nomination);
        let stats = pair.stats.rest();
        stats.requests_received += 1;
        stats.responses_sent += 1;
        let (valid, component, direct) = (pair.is_valid(), pair.component, pair.path == PathKind::Direct);
        self.note_heard(now, component, id, false);
        if self.config.lite {
            return self.follow_as_lite(now, id, claim.use_candidate);
        }
        let Some(pair) = self.session.list.get_mut(id) else { return };
        if self.role == Role::Controlled && !claim.use_candidate {
            self.session.nominates_deliberately = true;
        } else if self.role == Role::Controlled {
            pair.nominated_by_peer = true;
            if valid {
                self.accept_nomination(now, id);
            }
        }
        if !valid {
            self.session.list.trigger(id);
            if direct {
                self.hard_nat_heard(now, component);
            }
        }
    }
}

/// A STUN message, if the bytes are one.
pub(super) fn parse(bytes: &[u8]) -> Option<Message<'_>> {
    if classify(bytes) == Protocol::Stun { Message::parse(bytes).ok() } else { None }
}
