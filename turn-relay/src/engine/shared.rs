//! What the engines of one server share: quotas, limits and reserved ports. Touched when allocations come and go, never by
//! data, which meets only the meters that it is counted against.

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use thirl_common::wire::AddressFamily;

use super::bandwidth::{Bandwidth, Meter, Meters};

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
    by_user: HashMap<Arc<str>, User, foldhash::fast::RandomState>,
    total: Option<Arc<Meter>>,
    reservations: HashMap<u64, Reservation, foldhash::fast::RandomState>,
}

/// What is kept of a user who has a seat.
struct User {
    held: usize,
    meter: Option<Arc<Meter>>,
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
        let username = match state.by_user.get_key_value(username) {
            Some((_, user)) if user.held >= user_quota => return Err(QuotaReached::User),
            Some((username, _)) => username.clone(),
            None if user_quota == 0 => return Err(QuotaReached::User),
            None => Arc::from(username),
        };
        state.seats += 1;
        state.by_user.entry(username.clone()).or_insert(User { held: 0, meter: None }).held += 1;
        Ok(Seat { shared: self.clone(), username })
    }

    /// What the data of an allocation with this seat is counted against.
    pub(super) fn meters(&self, seat: &Seat, limits: &Bandwidth, now: Instant) -> Option<Meters> {
        let meter = |limit: Option<NonZeroU64>| limit.map(|limit| Meter::new(limit, now));
        let own = meter(limits.allocation);
        if limits.user.is_none() && limits.total.is_none() {
            return Meters::new([own]);
        }
        let mut state = self.lock();
        let State { by_user, total, .. } = &mut *state;
        let user =
            by_user.get_mut(&seat.username).and_then(|user| shared_meter(&mut user.meter, limits.user, now));
        Meters::new([own, user, shared_meter(total, limits.total, now)])
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

/// The meter that others use already, or the first.
fn shared_meter(
    known: &mut Option<Arc<Meter>>,
    limit: Option<NonZeroU64>,
    now: Instant,
) -> Option<Arc<Meter>> {
    let limit = limit?;
    Some(known.get_or_insert_with(|| Meter::new(limit, now)).clone())
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
            Some(user) if user.held > 1 => user.held -= 1,
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
