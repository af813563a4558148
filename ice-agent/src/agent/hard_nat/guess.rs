//! Candidates that nobody saw. They come after all others, and help peers that know nothing of this module too.

use std::net::SocketAddr;
use std::time::Instant;

use super::MappingBehaviour;
use super::ports::port_ahead;
use crate::agent::Agent;
use crate::agent::event::{Route, SocketId};
use crate::agent::local::Found;

/// So many ports of a sequence are told: more than this side's checks of the peer's other candidates use up.
const PREDICTED: u8 = 8;
/// No more sockets' own ports are told, of a component.
const MAX_OPTIMISTIC: usize = 2;

/// What an address is guessed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Guess {
    /// From the ports before, so many steps on.
    Predicted(u8),
    /// From the socket's port, which the NAT may keep or somebody may forward.
    Optimistic,
}

impl Guess {
    /// The local preference (RFC 8445, section 5.1.2.1): below that of any socket's.
    pub(in super::super) fn local_preference(self) -> u16 {
        match self {
            Guess::Predicted(steps) => u16::from(PREDICTED.saturating_sub(steps)) + 1,
            Guess::Optimistic => u16::from(PREDICTED) + 1,
        }
    }
}

impl Agent {
    /// A server has seen a socket: what that lets one guess is told, once.
    pub(in super::super) fn tell_guesses(&mut self, now: Instant, id: SocketId) {
        let Some(socket) = self.local.sockets.get(&id) else { return };
        let Some(newest) = socket.newest_mapping() else { return };
        let (component, behaviour, local) = (socket.component, socket.behaviour(), socket.at.local);
        let guessed = self.local.candidates.values().filter(|known| known.guess == Some(Guess::Optimistic));
        let of_component = guessed.clone().filter(|known| known.candidate.component == component).count();
        let of_socket = guessed.filter(|known| known.route == Route::Socket(id)).count();
        // A NAT64 has no reason to keep an IPv6 host's port.
        let may = self.config.hard_nats.optimistic && local.is_ipv4() == newest.mapped.is_ipv4();
        if may && of_component < MAX_OPTIMISTIC && of_socket == 0 {
            self.tell_guess(now, id, SocketAddr::new(newest.mapped.ip(), local.port()), Guess::Optimistic);
        }
        if let (MappingBehaviour::Sequential(step), true) = (behaviour, self.config.hard_nats.prediction) {
            for steps in 1..=PREDICTED {
                if let Some(port) = port_ahead(newest.mapped.port(), step, steps.into()) {
                    let address = SocketAddr::new(newest.mapped.ip(), port);
                    self.tell_guess(now, id, address, Guess::Predicted(steps));
                }
            }
        }
    }

    fn tell_guess(&mut self, now: Instant, id: SocketId, address: SocketAddr, guess: Guess) {
        if let Some(found) = self.reflexive(Route::Socket(id), address) {
            self.add_local_candidate(now, &Found { guess: Some(guess), ..found });
        }
    }
}
