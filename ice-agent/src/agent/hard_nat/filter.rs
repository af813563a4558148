//! Whether the filter before this side looks at addresses only (RFC 4787, section 5: address-dependent filtering). If so, the
//! many sockets of this side can be hit by a peer whose own mapping depends on the destination too: whatever port its probes
//! come from.
//!
//! No server has to help: the agent writes to itself over its own relay. Where a socket was seen by the server on whose address
//! it has an allocation, a datagram to what was seen comes from an address that was sent to, and from another port.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::wire::{NatMapping, TransactionId};

use super::behaviour::LENIENT;
use crate::agent::event::{RelayId, Route, SocketId};
use crate::agent::{Agent, Timer, message};
use crate::candidate::ComponentId;

/// So often it is asked: the first time beside the request for the permission that it needs, which may be too early.
const TRIES: u8 = 5;
/// What was asked is asked again after so long, and each time after so much longer.
const AGAIN: Duration = Duration::from_millis(100);

/// What was asked of the filter before a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    socket: SocketId,
    mapped: SocketAddr,
    id: TransactionId,
    tries: u8,
    /// When it is asked again, or what was asked last is not waited for any more.
    until: Instant,
    /// It came in.
    lenient: bool,
}

impl Agent {
    /// Whether it is known of the filter before this side that it looks at addresses only.
    pub(super) fn is_lenient(&self, socket: SocketId) -> bool {
        let question = self.hard_nat.as_ref().and_then(|hard_nat| hard_nat.filter);
        question.is_some_and(|question| question.lenient && question.socket == socket)
    }

    /// Whether the peer said so.
    pub(super) fn is_peer_lenient(&self) -> bool {
        self.told().is_some_and(|told| told.behaviour & LENIENT != 0)
    }

    /// What is told of a socket's NAT, with that.
    pub(super) fn with_filter(&self, socket: SocketId, told: NatMapping) -> NatMapping {
        let lenient = if self.is_lenient(socket) { LENIENT } else { 0 };
        NatMapping { behaviour: told.behaviour | lenient, ..told }
    }

    /// Asks, unless that was done, or cannot be.
    pub(super) fn ask_filter(&mut self, now: Instant, component: ComponentId) {
        let Some(front) = self.local_front(component, true) else { return };
        let Some((relay, mapped)) = self.way_to_itself(front.socket) else { return };
        let before = self.hard_nat().filter;
        let before = before.filter(|known| (known.socket, known.mapped) == (front.socket, mapped));
        let question = match before {
            Some(known) if known.lenient || (known.tries == TRIES && now >= known.until) => return,
            Some(known) if now < known.until => return self.timers.set(Timer::HardNat, known.until),
            Some(known) => {
                let tries = known.tries + 1;
                Question { tries, until: now + AGAIN * tries.into(), ..known }
            }
            None => Question {
                socket: front.socket,
                mapped,
                id: self.transaction_id(),
                tries: 1,
                until: now + AGAIN,
                lenient: false,
            },
        };
        self.hard_nat().filter = Some(question);
        self.timers.set(Timer::HardNat, question.until);
        self.allow_peer(now, relay, mapped.ip());
        self.send_over_relay(now, relay, mapped, &message::binding_request(question.id));
    }

    /// An allocation with the address of somebody who has seen a socket, and what that saw.
    fn way_to_itself(&self, socket: SocketId) -> Option<(RelayId, SocketAddr)> {
        let socket = self.local.sockets.get(&socket)?;
        self.local.candidates.values().filter(|known| !known.lost).find_map(|known| {
            let Route::Relay(id) = known.route else { return None };
            let seen = socket.seen_outside().find(|seen| seen.seen_by.ip() == known.address.ip())?;
            Some((id, seen.mapped))
        })
    }

    /// Whether a request is what this side sent to itself. Then it has come in.
    pub(in super::super) fn take_own_request(
        &mut self,
        now: Instant,
        route: Route,
        id: TransactionId,
    ) -> bool {
        let Some(question) = self.hard_nat.as_mut().and_then(|hard_nat| hard_nat.filter.as_mut()) else {
            return false;
        };
        if (Route::Socket(question.socket), question.id) != (route, id) {
            return false;
        }
        if !std::mem::replace(&mut question.lenient, true) {
            if let Some(component) = self.component_to_search() {
                self.tell_mapping(now, component);
            }
            self.expect_hard_nat(now);
        }
        true
    }
}
