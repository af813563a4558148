//! What the engines of one server share: quotas, limits, reserved ports, and whether it drains. Touched when allocations come and go, never by
//! data, which meets only the meters that it is counted against.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use thirl_common::net::source_prefix;
use thirl_common::wire::AddressFamily;

use super::bandwidth::{Meter, Meters};
use super::config::EngineConfig;
use super::mobility::Tickets;
use super::realm::realm_of;

/// Shared by all engines of a server; its clones are the same.
///
/// An engine's methods lock it for the time of a look-up, when an allocation or a reservation comes or goes.
#[derive(Clone, Default)]
pub struct Shared {
    state: Arc<Mutex<State>>,
    draining: Arc<AtomicBool>,
    pub(super) tickets: Tickets,
}

#[derive(Default)]
struct State {
    seats: usize,
    by_account: HashMap<Arc<str>, Account, foldhash::fast::RandomState>,
    /// All accounts of a realm besides the server's own.
    by_realm: HashMap<Box<str>, Account, foldhash::fast::RandomState>,
    /// Seats by [`source_prefix`], if there is a quota for it.
    by_address: HashMap<IpAddr, usize, foldhash::fast::RandomState>,
    total: Option<Arc<Meter>>,
    reservations: HashMap<u64, Reservation, foldhash::fast::RandomState>,
}

/// What is kept of a user, or of all users of a realm, who have seats.
#[derive(Default)]
struct Account {
    held: usize,
    meter: Option<Arc<Meter>>,
}

/// One allocation's, or one reservation's, share of the quotas; dropped, it is given back.
pub(super) struct Seat {
    state: Arc<Mutex<State>>,
    account: Arc<str>,
    address: Option<IpAddr>,
}

/// How many seats there are at most; `None`: as many as in all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quotas {
    pub(super) account: Option<usize>,
    /// Of the account's realm.
    pub(super) realm: Option<usize>,
    pub(super) address: Option<usize>,
    pub(super) total: usize,
}

/// Which quota leaves no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QuotaReached {
    User,
    Realm,
    Address,
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

    /// Takes no new allocations from now on, in any of the engines: each is answered with 300 if there is another server to
    /// send the client to, and with 508 otherwise. What there is stays, and ends as ever.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether it takes no new allocations.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// A seat for one more allocation of a user, for a client at that address.
    pub(super) fn admit(
        &self,
        account: &Arc<str>,
        client: IpAddr,
        quotas: &Quotas,
    ) -> Result<Seat, QuotaReached> {
        let address = quotas.address.map(|_| source_prefix(client));
        let mut state = self.lock();
        let State { seats, by_account, by_realm, by_address, .. } = &mut *state;
        let realm = realm_of(account);
        let of_realm = realm.and_then(|realm| by_realm.get(realm)).map_or(0, |realm| realm.held);
        let held = |address: &IpAddr| by_address.get(address).copied().unwrap_or(0);
        let known = by_account.get_key_value(&**account);
        if *seats >= quotas.total {
            return Err(QuotaReached::Total);
        }
        if quotas.account.is_some_and(|quota| known.map_or(0, |(_, account)| account.held) >= quota) {
            return Err(QuotaReached::User);
        }
        if address.as_ref().is_some_and(|address| quotas.address.is_some_and(|quota| held(address) >= quota))
        {
            return Err(QuotaReached::Address);
        }
        if quotas.realm.is_some_and(|quota| of_realm >= quota) {
            return Err(QuotaReached::Realm);
        }
        if let Some(realm) = realm {
            match by_realm.get_mut(realm) {
                Some(known) => known.held += 1,
                None => drop(by_realm.insert(realm.into(), Account { held: 1, meter: None })),
            }
        }
        let account = known.map_or(account, |(known, _)| known).clone();
        *seats += 1;
        by_account.entry(account.clone()).or_default().held += 1;
        if let Some(address) = address {
            *by_address.entry(address).or_insert(0) += 1;
        }
        Ok(Seat { state: self.state.clone(), account, address })
    }

    /// What the data of an allocation with this seat is counted against.
    pub(super) fn meters(&self, seat: &Seat, config: &EngineConfig, now: Instant) -> Option<Meters> {
        let realm = realm_of(&seat.account);
        let limits = config.limits_of(realm).bandwidth;
        let own = limits.allocation.map(|limit| Meter::new(limit, now));
        let in_all = config.bandwidth.total;
        if [limits.user, limits.total, in_all].iter().all(Option::is_none) {
            return Meters::new([own]);
        }
        let mut state = self.lock();
        let State { by_account, by_realm, total, .. } = &mut *state;
        let meter = |of: Option<&mut Account>, limit| shared_meter(&mut of?.meter, limit, now);
        let user = meter(by_account.get_mut(&seat.account), limits.user);
        let realm = meter(realm.and_then(|realm| by_realm.get_mut(realm)), limits.total);
        Meters::new([own, user, realm, shared_meter(total, in_all, now)])
    }

    pub(super) fn reserve(&self, token: u64, reservation: Reservation) {
        let replaced = self.lock().reservations.insert(token, reservation);
        // Dropped here: giving back a seat takes the lock.
        drop(replaced);
    }

    /// Takes a reservation to use it. It is its maker's: to others it is as if there were none.
    pub(super) fn claim_reservation(&self, token: u64, account: &str) -> Option<Reservation> {
        let mut state = self.lock();
        state.reservations.get(&token).filter(|reservation| *reservation.seat.account == *account)?;
        state.reservations.remove(&token)
    }

    /// Takes a reservation to end it, unless it was used.
    pub(super) fn end_reservation(&self, token: u64) -> Option<Reservation> {
        self.lock().reservations.remove(&token)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// One seat less of whom this is kept, and nothing of who has none.
fn give_back<K, Q, V>(
    map: &mut HashMap<K, V, foldhash::fast::RandomState>,
    key: &Q,
    held: impl FnOnce(&mut V) -> &mut usize,
) where
    K: Borrow<Q> + Eq + Hash,
    Q: Eq + Hash + ?Sized,
{
    match map.get_mut(key).map(held) {
        Some(held) if *held > 1 => *held -= 1,
        _ => drop(map.remove(key)),
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // No panic leaves the state half-changed.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The meter that others use already, or the first.
fn shared_meter(
    known: &mut Option<Arc<Meter>>,
    limit: Option<NonZeroU64>,
    now: Instant,
) -> Option<Arc<Meter>> {
    let limit = limit?;
    match known {
        Some(meter) if meter.is_for(limit) => Some(meter.clone()),
        // The limit may have been set anew: the first that comes makes the meter that others take.
        _ => Some(known.insert(Meter::new(limit, now)).clone()),
    }
}

impl Seat {
    /// Whom it counts for.
    pub(super) fn account(&self) -> &Arc<str> {
        &self.account
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.seats -= 1;
        give_back(&mut state.by_account, &*self.account, |account| &mut account.held);
        if let Some(realm) = realm_of(&self.account) {
            give_back(&mut state.by_realm, realm, |realm| &mut realm.held);
        }
        if let Some(address) = &self.address {
            give_back(&mut state.by_address, address, |held| held);
        }
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seat({})", self.account)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("seats", &self.seats()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::realm::account;
    use super::*;
    use std::net::Ipv4Addr;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn seats_are_counted_by_user_and_in_all() {
        let shared = Shared::default();
        let quotas = Quotas { account: Some(2), realm: None, address: None, total: 3 };
        let admit = |user: &str| shared.admit(&user.into(), CLIENT, &quotas);
        let (alice, _alice) = (admit("alice").unwrap(), admit("alice").unwrap());
        assert_eq!(admit("alice").unwrap_err(), QuotaReached::User);
        let bob = admit("bob").unwrap();
        assert_eq!(admit("carol").unwrap_err(), QuotaReached::Total);
        drop(alice);
        assert_eq!(shared.seats(), 2);
        drop((admit("alice").unwrap(), bob));
        assert_eq!(
            (shared.seats(), shared.lock().by_account.len()),
            (1, 1),
            "nothing is kept of who is gone"
        );
    }

    #[test]
    fn seats_are_counted_by_address_whoever_the_user_is() {
        let shared = Shared::default();
        let quotas = Quotas { account: None, realm: None, address: Some(2), total: 9 };
        let admit = |user: &str, ip: &str| shared.admit(&user.into(), ip.parse().unwrap(), &quotas);
        let first = admit("alice", "2001:db8::1").unwrap();
        let second = admit("bob", "2001:db8::ffff:0:1").unwrap();
        assert_eq!(admit("carol", "2001:db8::2").unwrap_err(), QuotaReached::Address);
        let elsewhere = (admit("alice", "2001:db8:0:1::1").unwrap(), admit("alice", "192.0.2.1").unwrap());
        drop(first);
        let third = admit("alice", "2001:db8::3").unwrap();
        drop(third);
        assert_eq!(shared.lock().by_address.len(), 3);
        drop((second, elsewhere));
        assert!(shared.lock().by_address.is_empty(), "nothing is kept of who is gone");
        let unlimited = Quotas { address: None, ..quotas };
        let _seat = shared.admit(&"alice".into(), CLIENT, &unlimited).unwrap();
        assert!(shared.lock().by_address.is_empty(), "nor where nothing is limited");
    }

    #[test]
    fn seats_are_counted_by_realm_besides() {
        let shared = Shared::default();
        let quotas = Quotas { account: None, realm: Some(2), address: None, total: 9 };
        let admit = |user: &str, realm| shared.admit(&account(user.into(), realm), CLIENT, &quotas);
        let seats = [("alice", Some("video")), ("bob", Some("video")), ("alice", None), ("bob", None)]
            .map(|(user, realm)| admit(user, realm).unwrap());
        assert_eq!(admit("carol", Some("video")).unwrap_err(), QuotaReached::Realm);
        let elsewhere = admit("carol", Some("chat")).unwrap();
        let odd = admit("x\nvideo", None).unwrap();
        assert_eq!(shared.lock().by_realm["video"].held, 2, "no name makes a user another realm's");
        drop((seats, elsewhere, odd));
        assert!(shared.lock().by_realm.is_empty() && shared.lock().by_account.is_empty());
    }

    #[test]
    fn a_reservation_is_taken_once_and_holds_a_seat() {
        let shared = Shared::default();
        let one = Quotas { account: None, realm: None, address: None, total: 1 };
        let seat = shared.admit(&"alice".into(), CLIENT, &one).unwrap();
        shared.reserve(7, Reservation { seat, family: AddressFamily::Ipv4 });
        assert_eq!(shared.admit(&"alice".into(), CLIENT, &one).unwrap_err(), QuotaReached::Total);
        assert!(shared.claim_reservation(8, "alice").is_none());
        assert!(shared.claim_reservation(7, "bob").is_none());
        drop(shared.claim_reservation(7, "alice").unwrap());
        assert!(shared.claim_reservation(7, "alice").is_none() && shared.end_reservation(7).is_none());
        assert_eq!(shared.seats(), 0);
    }
}
