//! The hard side: very many sockets, each of which has a mapping made to one address of the peer's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::wire::{Class, Message, Username};

use super::{MappingBehaviour, Search};
use crate::agent::event::{Action, Received, Route, SocketId, Transmit, Via};
use crate::agent::local::Found;
use crate::agent::{Agent, Timer, Timings};
use crate::candidate::{CandidateKind, ComponentId};

/// So many sockets are opened: of 1536 probes to other ports out of 64512, one at least then hits in 998 of 1000 cases.
const SOCKETS: usize = 256;
/// The same at first where ports are near to each other, and the peer knows where to begin.
const SOCKETS_NEARBY: usize = 64;
/// After so long the peer has sent all its probes.
const LASTS: Duration = Duration::from_secs(20);
/// Mappings last for two minutes (RFC 4787, section 4.3), but where nothing has come back many NATs keep them for 30 s or
/// less. What is lost on its way is made up for as well.
const RENEWED_AFTER: Duration = Duration::from_secs(5);

/// The sockets of a search, and what they send to.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) target: SocketAddr,
    wanted: usize,
    /// So many are wanted when the mappings of the first ones have to be renewed.
    at_last: usize,
    pub(super) sockets: BTreeMap<SocketId, SocketAddr>,
    /// So many were opened in all.
    pub(super) made: usize,
    /// One has been asked for.
    pub(super) asked: bool,
    /// Why there are no more.
    pub(super) refused: Option<String>,
    /// Checks sent.
    pub(super) sent: u32,
    /// The last one that sent, while mappings are renewed one after another.
    renewed: Option<SocketId>,
    renewal: Instant,
    renewed_after: Duration,
}

/// What is to be done next with the sockets.
pub(super) enum Next {
    Open,
    Send(SocketId),
    /// Nothing until then.
    Wait(Instant),
}

impl Opened {
    pub(super) fn new(target: SocketAddr, wanted: usize, now: Instant) -> Opened {
        Opened {
            target,
            wanted,
            at_last: wanted,
            sockets: BTreeMap::new(),
            made: 0,
            asked: false,
            refused: None,
            sent: 0,
            renewed: None,
            renewal: now + RENEWED_AFTER,
            renewed_after: RENEWED_AFTER,
        }
    }

    /// As [`Opened::new`], for few sockets, whose mappings are renewed more often.
    pub(super) fn brief(target: SocketAddr, wanted: usize, now: Instant) -> Opened {
        let renewed_after = Duration::from_secs(1);
        Opened { renewal: now + renewed_after, renewed_after, ..Opened::new(target, wanted, now) }
    }

    pub(super) fn next(&mut self, now: Instant) -> Next {
        let opening = self.made < self.wanted && self.refused.is_none();
        if self.asked || opening {
            return if self.asked { Next::Wait(now + Timings::MIN_PACING) } else { Next::Open };
        }
        if now < self.renewal {
            return Next::Wait(self.renewal);
        }
        if self.made < self.at_last && self.refused.is_none() {
            self.wanted = self.at_last;
            return Next::Open;
        }
        let after = |last: SocketId| self.sockets.range(last..).map(|(id, _)| *id).find(|id| *id > last);
        let next = self.renewed.map_or_else(|| self.sockets.keys().next().copied(), after);
        match next {
            Some(id) => {
                self.renewed = Some(id);
                Next::Send(id)
            }
            None => {
                self.renewed = None;
                self.renewal = now + self.renewed_after;
                Next::Wait(self.renewal)
            }
        }
    }
}

impl Agent {
    /// The sockets of a side that opens them by itself, beside one.
    pub(super) fn new_opened(&self, beside: SocketId, target: SocketAddr, now: Instant) -> Opened {
        let behaviour = self.local.sockets.get(&beside).map(|socket| socket.behaviour());
        let nearby = behaviour.is_some_and(MappingBehaviour::is_sequential);
        let at_last = if self.config.hard_nats.birthday { SOCKETS } else { SOCKETS_NEARBY };
        let wanted = if nearby { SOCKETS_NEARBY } else { at_last };
        Opened { at_last, ..Opened::new(target, wanted, now) }
    }

    pub(super) fn go_on_opening(&mut self, now: Instant) {
        let Some(search) = self.search() else { return };
        // Without any path nobody knows when the peer begins: the agent's own patience ends it.
        if now >= search.begun + LASTS && self.has_relayed(search.component) {
            return self.end_search(now, false);
        }
        self.work_on_opened(now);
    }

    /// Does the next thing with the sockets, at the pace.
    pub(super) fn work_on_opened(&mut self, now: Instant) {
        let turn = self.turn_beside(now);
        if now < turn {
            self.timers.set(Timer::HardNat, turn);
            return;
        }
        let Some(search) = self.search_mut() else { return };
        let beside = search.plan.socket();
        let Some(opened) = search.opened_mut() else { return };
        let at = match opened.next(now) {
            Next::Open => {
                opened.asked = true;
                self.out.actions.push_back(Action::OpenSocket { beside });
                now + Timings::MIN_PACING
            }
            Next::Send(id) => {
                self.send_from_opened(now, id);
                now + Timings::MIN_PACING
            }
            Next::Wait(at) => at,
        };
        self.timers.set(Timer::HardNat, at);
    }

    /// Answers [`Action::OpenSocket`]: where the socket is bound, or why there is none. Its name, unless it is not wanted any
    /// more: then it is to be closed.
    pub fn socket_opened(&mut self, now: Instant, result: Result<SocketAddr, String>) -> Option<SocketId> {
        let opened = self.search_mut().and_then(Search::opened_mut).filter(|opened| opened.asked)?;
        opened.asked = false;
        let local = match result {
            Ok(local) => local,
            Err(why) => {
                opened.refused = Some(why);
                return None;
            }
        };
        let id = self.local.next_socket();
        let opened = self.search_mut().and_then(Search::opened_mut)?;
        opened.sockets.insert(id, local);
        opened.made += 1;
        if !self.look_from(now, id) {
            self.send_from_opened(now, id);
        }
        Some(id)
    }

    fn send_from_opened(&mut self, now: Instant, id: SocketId) {
        let Some(Search { component, plan, .. }) = self.search() else { return };
        let (component, beside) = (*component, plan.socket());
        if !self.hard_nat().openings.spend(now) {
            return;
        }
        let Some(bytes) = self.write_bare_check(component, beside) else { return };
        self.sent_beside(now);
        let Some(opened) = self.search_mut().and_then(Search::opened_mut) else { return };
        opened.sent += 1;
        let target = opened.target;
        self.transmit_beside(beside, id, target, bytes);
    }

    /// Sends from an opened socket, which reaches what the one beside it does.
    pub(super) fn transmit_beside(
        &mut self,
        beside: SocketId,
        id: SocketId,
        to: SocketAddr,
        payload: Vec<u8>,
    ) {
        let to = self.local.sockets.get(&beside).map_or(to, |socket| socket.at.address_of(to));
        self.out.transmits.push_back(Transmit { via: Via::Socket(id), to, payload });
    }

    /// Whether a socket is one of the many.
    pub(in super::super) fn is_opened(&self, id: SocketId) -> bool {
        self.search().and_then(Search::opened).is_some_and(|opened| opened.sockets.contains_key(&id))
    }

    /// What comes in on one of the many: a check that proves itself makes it a base; all else but what was asked of a server
    /// is passed over.
    pub(in super::super) fn handle_on_opened<'a>(
        &mut self,
        now: Instant,
        id: SocketId,
        from: SocketAddr,
        datagram: &'a [u8],
    ) -> Option<Received<'a>> {
        let beside = self.search()?.plan.socket();
        let from = self.host_at(beside, from);
        let message = super::super::inbound::parse(datagram)?;
        match message.class() {
            Class::Request if self.proves_itself(&message) => {
                self.promote(now, id);
                self.handle_on_route(now, Route::Socket(id), from, datagram)
            }
            Class::Success => {
                self.take_look(now, id, from, &message);
                None
            }
            _ => None,
        }
    }

    /// Whether a check is one of the peer's, of this session.
    fn proves_itself(&self, message: &Message<'_>) -> bool {
        let Ok(Some(Username(username))) = message.get::<Username<'_>>() else { return false };
        let ours = username.split_once(':').is_some_and(|(ours, _)| ours == self.session.local.ufrag);
        ours && message.verify_integrity(&self.session.local_key).is_ok()
    }

    /// One of the many becomes a socket as all others. The peer is told nothing: it has found it.
    fn promote(&mut self, now: Instant, id: SocketId) {
        let Some(search) = self.search_mut() else { return };
        let (component, beside): (ComponentId, SocketId) = (search.component, search.plan.socket());
        let Some(local) = search.opened_mut().and_then(|opened| opened.sockets.remove(&id)) else { return };
        let preference =
            self.local.sockets.get(&beside).map_or(0, |socket| socket.local_preference.to_be_bytes()[0]);
        self.local.add_socket_as(id, component, local, preference, false);
        self.introduce_nat64(id);
        self.local.found.push(id);
        let local_preference = self.local.sockets.get(&id).map_or(0, |socket| socket.local_preference);
        let host = Found {
            component,
            kind: CandidateKind::Host,
            address: local,
            told: None,
            route: Route::Socket(id),
            local_preference,
            related: None,
            server: None,
            guess: None,
        };
        self.local.add(&host);
        self.hard_nat_heard(now, component);
    }

    /// An opened socket is gone, as with its interface.
    pub(in super::super) fn opened_socket_lost(&mut self, id: SocketId) {
        if let Some(opened) = self.search_mut().and_then(Search::opened_mut) {
            opened.sockets.remove(&id);
        }
    }
}
