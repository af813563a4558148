//! What the engines of one server share: quotas and reserved ports. Touched when allocations come and go, never by data.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thirl_common::wire::AddressFamily;

/// Shared by all engines of a server; its clones are the same.
///
/// An engine's methods lock it for the time of a look-up, when an allocation or a reservation comes or goes.
#[derive(Clone, Default)]
pub struct Shared {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    seats: usize,
    by_user: HashMap<Arc<str>, usize, foldhash::fast::RandomState>,
    reservations: HashMap<u64, Reservation, foldhash::fast::RandomState>,
}

/// One allocation's, or one reservation's, share of the quotas; dropped, it is given back.
pub(super) struct Seat {
    shared: Shared,
    username: Arc<str>,
}

/// Which quota leaves no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuotaReached {
    User,
    Total,
}

/// A port that EVEN-PORT set aside (RFC 8656, section 7.2).
#[derive(Debug)]
pub(super) struct Reservation {
    pub(super) seat: Seat,
    pub(super) family: AddressFamily,
}

impl Shared {
    /// How many allocations and reservations there are.
    pub fn seats(&self) -> usize {
        self.lock().seats
    }

    /// A seat for one more allocation of a user.
    pub(super) fn admit(
        &self,
        username: &str,
        user_quota: usize,
        total_quota: usize,
    ) -> Result<Seat, QuotaReached> {
        let mut state = self.lock();
        if state.seats >= total_quota {
            return Err(QuotaReached::Total);
        }
        let (username, held) = match state.by_user.get_key_value(username) {
            Some((username, held)) => (username.clone(), *held),
            None => (Arc::from(username), 0),
        };
        if held >= user_quota {
            return Err(QuotaReached::User);
        }
        state.seats += 1;
        state.by_user.insert(username.clone(), held + 1);
        Ok(Seat { shared: self.clone(), username })
    }

    pub(super) fn reserve(&self, token: u64, reservation: Reservation) {
        let replaced = self.lock().reservations.insert(token, reservation);
        // Dropped here: giving back a seat takes the lock.
        drop(replaced);
    }

    /// Takes a reservation to use it. It is its maker's: to others it is as if there were none.
    pub(super) fn claim_reservation(&self, token: u64, username: &str) -> Option<Reservation> {
        let mut state = self.lock();
        state.reservations.get(&token).filter(|reservation| *reservation.seat.username == *username)?;
        state.reservations.remove(&token)
    }

    /// Takes a reservation to end it, unless it was used.
    pub(super) fn end_reservation(&self, token: u64) -> Option<Reservation> {
        self.lock().reservations.remove(&token)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    pub(super) fn username(&self) -> &Arc<str> {
        &self.username
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.seats -= 1;
        match state.by_user.get_mut(&self.username) {
            Some(held) if *held > 1 => *held -= 1,
            _ => {
                state.by_user.remove(&self.username);
            }
        }
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seat({})", self.username)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("seats", &self.seats()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_by_user_and_in_all() {
        let shared = Shared::default();
        let admit = |user| shared.admit(user, 2, 3);
        let (alice, _alice) = (admit("alice").unwrap(), admit("alice").unwrap());
        assert_eq!(admit("alice").unwrap_err(), QuotaReached::User);
        let bob = admit("bob").unwrap();
        assert_eq!(admit("carol").unwrap_err(), QuotaReached::Total);
        drop(alice);
        assert_eq!(shared.seats(), 2);
        drop((admit("alice").unwrap(), bob));
        assert_eq!((shared.seats(), shared.lock().by_user.len()), (1, 1), "nothing is kept of who is gone");
    }

    #[test]
    fn a_reservation_is_taken_once_and_holds_a_seat() {
        let shared = Shared::default();
        let seat = shared.admit("alice", 1, 1).unwrap();
        shared.reserve(7, Reservation { seat, family: AddressFamily::Ipv4 });
        assert_eq!(shared.admit("alice", 1, 1).unwrap_err(), QuotaReached::Total);
        assert!(shared.claim_reservation(8, "alice").is_none());
        assert!(shared.claim_reservation(7, "bob").is_none());
        drop(shared.claim_reservation(7, "alice").unwrap());
        assert!(shared.claim_reservation(7, "alice").is_none() && shared.end_reservation(7).is_none());
        assert_eq!(shared.seats(), 0);
    }
}
