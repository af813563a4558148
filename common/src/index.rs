//! Finding an entry of a table by a key that the entry itself holds.

use std::fmt;
use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;

/// From keys to places in a table, without a copy of the keys: 8 bytes for each, where a hash map would keep the key as well.
///
/// A place is found by the key's hash; whether its entry has the key is for the caller to see, who needs the entry anyway.
/// Each look-up is O(1). The hashes are kept, so that growing looks at no entry and is done in a fraction of a millisecond.
#[derive(Clone)]
pub struct Index<S> {
    places: HashTable<Place>,
    hashing: S,
}

#[derive(Clone, Copy)]
struct Place {
    hash: u32,
    at: u32,
}

impl Place {
    /// The table takes a place from the lower bits and a tag from the highest, of which there are enough in half of them.
    fn hash(&self) -> u64 {
        u64::from(self.hash) << 32 | u64::from(self.hash)
    }
}

impl<S: BuildHasher> Index<S> {
    /// An empty one. Where keys come from outside, `hashing` is to be seeded, so that nobody can choose keys that collide.
    pub fn new(hashing: S) -> Index<S> {
        Index { places: HashTable::new(), hashing }
    }

    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
    fn place<K: Hash + ?Sized>(&self, key: &K, at: usize) -> Place {
        let hash = self.hashing.hash_one(key);
        Place { hash: (hash ^ hash >> 32) as u32, at: number(at) }
    }

    /// Where the entry with this key is; `has` says whether the entry at a place has it.
    #[inline]
    pub fn get<K: Hash + ?Sized>(&self, key: &K, mut has: impl FnMut(usize) -> bool) -> Option<usize> {
        let wanted = self.place(key, 0);
        let is_it = |place: &Place| place.hash == wanted.hash && has(place.at as usize);
        self.places.find(wanted.hash(), is_it).map(|place| place.at as usize)
    }

    /// The entry with this key, which must have none, is at this place.
    pub fn insert<K: Hash + ?Sized>(&mut self, key: &K, at: usize) {
        let place = self.place(key, at);
        self.places.insert_unique(place.hash(), place, Place::hash);
    }

    /// The entry with this key is no longer at `from` but at `to`.
    pub fn set<K: Hash + ?Sized>(&mut self, key: &K, from: usize, to: usize) {
        let known = self.place(key, from);
        if let Some(place) = self.places.find_mut(known.hash(), |place| place.at == known.at) {
            place.at = number(to);
        }
    }

    /// There is no entry with this key any more at this place.
    pub fn remove<K: Hash + ?Sized>(&mut self, key: &K, at: usize) {
        let known = self.place(key, at);
        if let Ok(found) = self.places.find_entry(known.hash(), |place| place.at == known.at) {
            found.remove();
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// For how many there is room.
    pub fn capacity(&self) -> usize {
        self.places.capacity()
    }

    /// Gives back room for more than so many.
    pub fn shrink_to(&mut self, wanted: usize) {
        self.places.shrink_to(wanted, Place::hash);
    }
}

/// As it is kept: tables are shorter than 2^32.
fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

impl<S: BuildHasher + Default> Default for Index<S> {
    fn default() -> Self {
        Index::new(S::default())
    }
}

impl<S> fmt::Debug for Index<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("len", &self.places.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_is_there(steps in proptest::collection::vec((0..40u8, 0..3u8), 0..300)) {
            let mut index: Index<foldhash::fast::RandomState> = Index::default();
            let mut table: Vec<u8> = Vec::new();
            for (key, what) in steps {
                let at = table.iter().position(|known| *known == key);
                match (what, at) {
                    (0, Some(at)) => {
                        index.remove(&key, at);
                        table.swap_remove(at);
                        if let Some(moved) = table.get(at) {
                            index.set(moved, table.len(), at);
                        }
                    }
                    (1, _) => index.shrink_to(table.len()),
                    (_, None) => {
                        index.insert(&key, table.len());
                        table.push(key);
                    }
                    _ => {}
                }
                prop_assert_eq!(index.len(), table.len());
                for key in 0..40u8 {
                    let at = table.iter().position(|known| *known == key);
                    prop_assert_eq!(index.get(&key, |at| table[at] == key), at);
                }
            }
        }
    }
}
