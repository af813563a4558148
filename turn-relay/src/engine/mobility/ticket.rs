//! Tickets, and what the engines of a server know of them together.
//!
//! A ticket is random letters and digits, which say nothing: what it is good for stands in a table that all engines share, as with
//! reservation tokens. So it cannot be forged, ends with its allocation, and stays good whichever shard the allocation is
//! on by then, which one that named the shard would not.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::Rng;
use rand::distr::Alphanumeric;
use rand::rngs::StdRng;

use crate::engine::authenticate::Maker;
use crate::engine::output::{AllocationId, RelayedAddresses};

/// Characters of a ticket, of 5.95 bits each: 142 bits are not guessed. Characters, since coturn's client takes a ticket for
/// a string that ends at the first zero, and keeps 32 of them.
const TICKET_LEN: usize = 24;

/// The value of a MOBILITY-TICKET that this server made.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::engine) struct Ticket([u8; TICKET_LEN]);

/// Where a ticket's allocation is, and whose.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Home {
    pub(in crate::engine) shard: usize,
    /// `None`: on its way there.
    pub(in crate::engine) allocation: Option<AllocationId>,
    pub(in crate::engine) maker: Arc<Maker>,
    pub(in crate::engine) relayed: RelayedAddresses,
}

/// All tickets that are good. Locked for the time of a look-up, when an allocation that may move comes, moves or ends.
#[derive(Clone, Default)]
pub(in crate::engine) struct Tickets(Arc<Mutex<Homes>>);

type Homes = HashMap<Ticket, Home, foldhash::fast::RandomState>;

impl Ticket {
    pub(super) fn random(rng: &mut StdRng) -> Ticket {
        Ticket(std::array::from_fn(|_| rng.sample(Alphanumeric)))
    }

    /// As it stands in a MOBILITY-TICKET.
    pub(in crate::engine) fn value(&self) -> &[u8] {
        &self.0
    }
}

impl Home {
    /// Whether it is the same allocation at the same place.
    pub(super) fn is(&self, shard: usize, allocation: AllocationId) -> bool {
        (self.shard, self.allocation) == (shard, Some(allocation))
    }
}

impl Tickets {
    /// What the value of a MOBILITY-TICKET is good for.
    pub(in crate::engine) fn find(&self, value: &[u8]) -> Option<(Ticket, Home)> {
        let ticket = Ticket(value.try_into().ok()?);
        let home = self.lock().get(&ticket)?.clone();
        Some((ticket, home))
    }

    pub(super) fn home(&self, ticket: Ticket) -> Option<Home> {
        self.lock().get(&ticket).cloned()
    }

    pub(super) fn set(&self, ticket: Ticket, home: Home) {
        self.lock().insert(ticket, home);
    }

    pub(super) fn remove(&self, ticket: Ticket) {
        self.lock().remove(&ticket);
    }

    /// How many there are.
    #[cfg(test)]
    pub(in crate::engine) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Homes> {
        // No panic leaves the table half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever holds it and the credentials holds the allocation.
impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket(redacted)")
    }
}
