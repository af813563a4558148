//! The deadline table: every timer of a state machine, keyed by what it is for.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;
use std::time::Instant;

/// At most one deadline for each key.
///
/// [`Deadlines::next`] is O(1), everything else O(log n) amortised. A deadline that was moved or cancelled stays in the
/// heap until it comes to the top or until such remains outnumber the live ones, so memory follows the number of keys.
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
    heap: BinaryHeap<Reverse<(Instant, K)>>,
    current: HashMap<K, Instant, foldhash::fast::RandomState>,
}

/// The heap is rebuilt when it holds more than twice the live deadlines and so many.
const REMAINS_ALLOWED: usize = 64;

impl<K: Ord + Hash> Default for Deadlines<K> {
    fn default() -> Self {
        Deadlines { heap: BinaryHeap::new(), current: HashMap::default() }
    }
}

impl<K: Ord + Hash + Copy> Deadlines<K> {
    /// Sets or moves the deadline of `key`.
    pub fn set(&mut self, key: K, at: Instant) {
        if self.current.insert(key, at) != Some(at) {
            self.heap.push(Reverse((at, key)));
            self.tidy();
        }
    }

    /// Cancels the deadline of `key`, if it has one.
    pub fn cancel(&mut self, key: K) {
        if self.current.remove(&key).is_some() {
            self.tidy();
        }
    }

    /// The deadline of `key`.
    pub fn get(&self, key: K) -> Option<Instant> {
        self.current.get(&key).copied()
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes a key whose deadline is not after `now`, the earliest first.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        let &Reverse((at, key)) = self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        self.current.remove(&key);
        self.tidy();
        Some(key)
    }

    /// How many keys have a deadline.
    pub fn len(&self) -> usize {
        self.current.len()
    }

    /// Whether there is no deadline at all.
    pub fn is_empty(&self) -> bool {
        self.current.is_empty()
    }

    /// Keeps the invariant that the heap's top is live, so that [`Deadlines::next`] need not search.
    fn tidy(&mut self) {
        while let Some(Reverse((at, key))) = self.heap.peek() {
            if self.current.get(key) == Some(at) {
                break;
            }
            self.heap.pop();
        }
        if self.heap.len() > 2 * self.current.len() + REMAINS_ALLOWED {
            let current = &self.current;
            self.heap.retain(|Reverse((at, key))| current.get(key) == Some(at));
            self.heap.shrink_to(2 * self.current.len() + REMAINS_ALLOWED);
        }
        let wanted = 2 * self.current.len() + REMAINS_ALLOWED;
        if self.current.capacity() > 2 * wanted {
            self.current.shrink_to(wanted);
        }
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
                prop_assert!(table.heap.len() <= 2 * table.current.len() + REMAINS_ALLOWED);
            }
        }
    }
}
