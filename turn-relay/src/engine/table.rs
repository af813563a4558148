//! A map that is a short list while it is small.

use std::collections::HashMap;
use std::hash::Hash;

/// Keyed by the engine's seed, so that nobody outside can choose keys that collide.
pub(super) type Hashing = foldhash::fast::SeedableRandomState;

/// So many entries are searched in turn: they lie side by side, which costs less than hashing.
pub(super) const FEW: usize = 8;

/// Most allocations have one or two permissions and channels: a list of exactly their number keeps them small. Beyond
/// [`FEW`] it becomes a hash map, so that a look-up is O(1) throughout.
#[derive(Debug)]
pub(super) enum Table<K, V> {
    Few(Vec<(K, V)>),
    // Boxed: an allocation holds several tables.
    #[expect(clippy::box_collection, reason = "rare, and three times as large as the list's header")]
    Many(Box<HashMap<K, V, Hashing>>),
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Table::Few(Vec::new())
    }
}

impl<K: Eq + Hash + Copy, V> Table<K, V> {
    #[inline]
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        match self {
            Table::Few(list) => list.iter().find(|(known, _)| known == key).map(|(_, value)| value),
            Table::Many(map) => map.get(key),
        }
    }

    /// Adds or replaces.
    pub(super) fn insert(&mut self, key: K, value: V, hashing: &Hashing) {
        match self {
            Table::Many(map) => {
                map.insert(key, value);
            }
            Table::Few(list) => {
                if let Some((_, known)) = list.iter_mut().find(|(known, _)| *known == key) {
                    *known = value;
                } else if list.len() < FEW {
                    list.reserve_exact(1);
                    list.push((key, value));
                } else {
                    let mut map = HashMap::with_capacity_and_hasher(2 * FEW, hashing.clone());
                    map.extend(list.drain(..));
                    map.insert(key, value);
                    *self = Table::Many(Box::new(map));
                }
            }
        }
    }

    /// Keeps the entries of which `keep` says so.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        match self {
            Table::Few(list) => list.retain(|(key, value)| keep(key, value)),
            Table::Many(map) => map.retain(|key, value| keep(key, value)),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Table::Few(list) => list.len(),
            Table::Many(map) => map.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec((0..24u8, 1..5u8), 0..200)) {
            let hashing = Hashing::random();
            let (mut table, mut model) = (Table::default(), BTreeMap::new());
            for (key, what) in steps {
                match what {
                    1 => { table.retain(|_, value| value % 3 != key % 3); model.retain(|_, value| *value % 3 != key % 3); }
                    _ => { table.insert(key, what * key, &hashing); model.insert(key, what * key); }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert!((0..24).all(|key| table.get(&key) == model.get(&key)));
            }
        }
    }
}
