//! The order of a ClientHello's extensions, as a number: which of all orders of these kinds it is. A client may come back with
//! its extensions in another one, and the hash in the transcript is of the first.

/// So many extensions have fewer orders than a `u64` has values.
pub(super) const MAX_EXTENSIONS: usize = 20;

/// The number of this order. `None` if there are more than [`MAX_EXTENSIONS`], or two of a kind.
pub(super) fn number_of(kinds: &[u16]) -> Option<u64> {
    let mut left = kinds.to_vec();
    left.sort_unstable();
    if left.len() > MAX_EXTENSIONS || left.windows(2).any(|two| two[0] == two[1]) {
        return None;
    }
    // Each digit says which of those left comes next; how many are left is its base.
    kinds.iter().try_fold(0, |number, kind| {
        let (base, next) = (left.len() as u64, left.binary_search(kind).ok()?);
        left.remove(next);
        Some(number * base + next as u64)
    })
}

/// Puts extensions, which go by their kind, in the order of this number. `None` if there are too many, or not so many orders.
pub(super) fn put_in<T>(mut number: u64, mut extensions: Vec<(u16, T)>) -> Option<Vec<T>> {
    if extensions.len() > MAX_EXTENSIONS {
        return None;
    }
    extensions.sort_by_key(|(kind, _)| *kind);
    let mut digits: Vec<usize> = (1..=extensions.len() as u64)
        .map(|base| {
            let digit = number % base;
            number /= base;
            usize::try_from(digit).ok()
        })
        .collect::<Option<_>>()?;
    digits.reverse();
    (number == 0).then(|| digits.into_iter().map(|next| extensions.remove(next).1).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_order_has_a_number_of_its_own() {
        assert_eq!(put_in::<()>(0, vec![]), Some(vec![]));
        let kinds = || vec![(9, 'a'), (40, 'd'), (20, 'b'), (30, 'c')];
        let mut all: Vec<_> = (0..24).map(|number| put_in(number, kinds()).unwrap()).collect();
        assert_eq!((&all[0], &all[23]), (&vec!['a', 'b', 'c', 'd'], &vec!['d', 'c', 'b', 'a']));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 24);
        assert_eq!(put_in(24, kinds()), None);
        assert_eq!(number_of(&[7, 8, 7]), None);
        let many: Vec<u16> = (0..21).collect();
        assert_eq!(
            (number_of(&many), put_in(0, many.into_iter().map(|kind| (kind, ())).collect())),
            (None, None)
        );
    }

    proptest! {
        #[test]
        fn the_number_leads_back(
            kinds in proptest::collection::btree_set(any::<u16>(), 0..=MAX_EXTENSIONS)
                .prop_flat_map(|kinds| Just(Vec::from_iter(kinds)).prop_shuffle()),
        ) {
            let number = number_of(&kinds).unwrap();
            let mut shuffled: Vec<_> = kinds.iter().map(|kind| (*kind, *kind)).collect();
            shuffled.rotate_left(kinds.len() / 2);
            prop_assert_eq!(put_in(number, shuffled), Some(kinds));
        }
    }
}
