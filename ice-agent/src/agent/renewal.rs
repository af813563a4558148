//! Allocations that are lost are made anew: the server was restarted, or this side has another address for it, so that another
//! five-tuple asks.

use std::time::{Duration, Instant};

use super::event::{RelayId, Via};
use super::relay::Relay;
use super::{Agent, Timer};
use crate::candidate::ComponentId;
use crate::turn::TurnError;

/// How long to wait after a first attempt that failed; each further one waits twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// A server that stays away is asked so often.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl Agent {
    /// A component's path does not answer: its servers are asked whether they still have its allocations.
    pub(super) fn check_relays(&mut self, now: Instant, component: ComponentId) {
        let of_it = self.gathering.relays.iter().filter(|(_, relay)| relay.component == component);
        for id in of_it.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.with_client(now, id, |client| client.check(now));
        }
    }

    /// There was an allocation, or another attempt to have it again: there is one more, unless it can bring nothing.
    pub(super) fn renew_later(&mut self, now: Instant, id: RelayId, reason: &TurnError) {
        let Some(relay) = self.gathering.relays.get_mut(&id) else { return };
        if matches!(
            reason,
            TurnError::TimedOut { .. } | TurnError::Disconnected | TurnError::AllocationMismatch
        ) || matches!(reason, TurnError::Refused { code: 500.., .. })
        {
            let wait = match relay.attempts {
                0 => Duration::ZERO,
                attempts => (FIRST_WAIT * 2_u32.saturating_pow(attempts - 1)).min(LONGEST_WAIT),
            };
            relay.attempts = relay.attempts.saturating_add(1);
            self.timers.set(Timer::Renew(id), now + wait);
        }
    }

    /// Asks the same server by the same way. Its answer is another relayed candidate.
    pub(super) fn renew(&mut self, now: Instant, id: RelayId) {
        let Some(relay) = self.gathering.relays.get(&id) else { return };
        let (component, index, server, carrier) =
            (relay.component, relay.index, relay.server.clone(), relay.carrier);
        let attempts = relay.attempts;
        if !self.is_alive(component) {
            return;
        }
        let new = match carrier {
            Via::Socket(socket) if self.local.sockets.get(&socket).is_none_or(|socket| socket.lost) => return,
            Via::Socket(socket) => {
                let new = self.add_relay(Relay::new(component, &server, index, carrier));
                self.gathering.relay_by_server.insert((socket, server.address), new);
                self.queue_allocation(new);
                new
            }
            Via::Stream(_) => self.connect_relay(component, index, &server),
        };
        if let Some(new) = self.gathering.relays.get_mut(&new) {
            new.attempts = attempts;
        }
        self.gathering.relays.remove(&id);
        self.pump(now);
    }
}
