//! The deadline table: every timer of a state machine, keyed by what it is for.

use std::hash::Hash;
use std::time::Instant;

use crate::index::Index;

/// At most one deadline for each key.
///
/// [`Deadlines::next`] is O(1), everything else O(log n): a heap, of which it is known where each key stands. So what is
/// moved or cancelled leaves nothing behind that would have to be cleared away, now and then, at once.
///
/// ```
/// use std::time::{Duration, Instant};
/// use thirl_common::time::Deadlines;
///
/// # #[expect(clippy::disallowed_methods, reason = "an example's clock")]
/// let now = Instant::now();
/// let mut deadlines = Deadlines::default();
/// deadlines.set("refresh", now + Duration::from_secs(300));
/// deadlines.set("expiry", now + Duration::from_secs(600));
/// deadlines.set("refresh", now + Duration::from_secs(400)); // moved
/// assert_eq!(deadlines.next(), Some(now + Duration::from_secs(400)));
/// assert_eq!(deadlines.pop_due(now + Duration::from_secs(500)), Some("refresh"));
/// assert_eq!(deadlines.pop_due(now + Duration::from_secs(500)), None);
/// ```
#[derive(Debug, Clone)]
pub struct Deadlines<K: Ord + Hash> {
    /// None is later than the [`BRANCHES`] below it: those of the one at `n` stand from `BRANCHES * n + 1` on.
    heap: Vec<(Instant, K)>,
    places: Index<foldhash::fast::RandomState>,
}

/// More than two make the heap flatter: fewer entries move, and each move has to be noted.
const BRANCHES: usize = 4;

/// Room for so many is kept.
const ROOM_KEPT: usize = 64;

/// The place of an entry while others move.
const NOWHERE: usize = u32::MAX as usize;

impl<K: Ord + Hash> Default for Deadlines<K> {
    fn default() -> Self {
        Deadlines { heap: Vec::new(), places: Index::default() }
    }
}

impl<K: Ord + Hash + Copy> Deadlines<K> {
    /// Sets or moves the deadline of `key`.
    pub fn set(&mut self, key: K, at: Instant) {
        let place = self.place(key).unwrap_or_else(|| {
            self.places.insert(&key, self.heap.len());
            self.heap.push((at, key));
            self.heap.len() - 1
        });
        self.heap[place].0 = at;
        self.settle(place);
    }

    /// Cancels the deadline of `key`, if it has one.
    pub fn cancel(&mut self, key: K) {
        if let Some(place) = self.place(key) {
            self.remove(place);
        }
    }

    /// The deadline of `key`.
    pub fn get(&self, key: K) -> Option<Instant> {
        Some(self.heap[self.place(key)?].0)
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.heap.first().map(|(at, _)| *at)
    }

    /// Takes a key whose deadline is not after `now`, the earliest first.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        let &(_, key) = self.heap.first().filter(|(at, _)| *at <= now)?;
        self.remove(0);
        Some(key)
    }

    /// How many keys have a deadline.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether there is no deadline at all.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    fn place(&self, key: K) -> Option<usize> {
        self.places.get(&key, |place| self.heap.get(place).is_some_and(|(_, known)| *known == key))
    }

    /// Takes out the entry at a place, into which the last one comes.
    fn remove(&mut self, place: usize) {
        self.places.remove(&self.heap[place].1, place);
        if let Some(last) = self.heap.pop().filter(|_| place < self.heap.len()) {
            self.places.set(&last.1, self.heap.len(), place);
            self.heap[place] = last;
            self.settle(place);
        }
        let wanted = 2 * self.heap.len() + ROOM_KEPT;
        if self.heap.capacity() > 2 * wanted {
            self.heap.shrink_to(wanted);
            self.places.shrink_to(wanted);
        }
    }

    /// Moves the entry at a place, which alone may be out of order, to where it belongs.
    fn settle(&mut self, place: usize) {
        let entry = self.heap[place];
        let mut hole = place;
        while let Some(next) = self.better_place(hole, &entry) {
            if hole == place {
                self.places.set(&entry.1, place, NOWHERE);
            }
            self.places.set(&self.heap[next].1, next, hole);
            self.heap[hole] = self.heap[next];
            hole = next;
        }
        if hole != place {
            self.heap[hole] = entry;
            self.places.set(&entry.1, NOWHERE, hole);
        }
    }

    /// Where `entry` should rather be than at `place`: above or below, if it is out of order there.
    fn better_place(&self, place: usize, entry: &(Instant, K)) -> Option<usize> {
        let above = place.checked_sub(1).map(|below| below / BRANCHES);
        let first = BRANCHES * place + 1;
        let below = first..self.heap.len().min(first + BRANCHES);
        above.filter(|above| *entry < self.heap[*above]).or_else(|| {
            below.min_by_key(|below| self.heap[*below]).filter(|least| self.heap[*least] < *entry)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    fn origin() -> Instant {
        Instant::now()
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_searched_whole(steps in proptest::collection::vec((0..8u8, 0..50u64, 0..3u8), 0..400)) {
            let t0 = origin();
            let mut table = Deadlines::default();
            let mut model = BTreeMap::new();
            for (key, at, what) in steps {
                let at = t0 + Duration::from_millis(at);
                match what {
                    0 => { table.set(key, at); model.insert(key, at); }
                    1 => { table.cancel(key); model.remove(&key); }
                    _ => while let Some(due) = table.pop_due(at) {
                        let earliest = model.values().min().copied();
                        let was = model.remove(&due);
                        prop_assert!(was.is_some() && was == earliest && was <= Some(at));
                    }
                }
                prop_assert_eq!(table.next(), model.values().min().copied());
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.places.len(), model.len());
                prop_assert!(table.heap.capacity() <= 4 * model.len() + 3 * ROOM_KEPT);
                prop_assert!((0..8).all(|key| table.get(key) == model.get(&key).copied()));
            }
        }
    }
}
