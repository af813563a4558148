//! Sets of ports.

use std::ops::RangeInclusive;

/// Ports, of which 0 is never one: no peer has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet {
    /// Ascending, with a gap between each and the next.
    ranges: Vec<RangeInclusive<u16>>,
}

/// Every port there is.
pub const ALL_PORTS: RangeInclusive<u16> = 1..=u16::MAX;

impl PortSet {
    /// All ports.
    pub fn all() -> PortSet {
        PortSet { ranges: vec![ALL_PORTS] }
    }

    /// Whether a port is in it. A search by halves: there may be as many ranges as an operator wrote rules.
    #[inline]
    pub fn contains(&self, port: u16) -> bool {
        let after = self.ranges.partition_point(|range| *range.end() < port);
        self.ranges.get(after).is_some_and(|range| range.contains(&port))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Adds a range.
    pub fn insert(&mut self, range: &RangeInclusive<u16>) {
        self.remove(range);
        let (first, last) = ((*range.start()).max(1), *range.end());
        if first > last {
            return;
        }
        self.ranges.push(first..=last);
        self.ranges.sort_unstable_by_key(|range| *range.start());
        self.ranges.dedup_by(|next, range| {
            let adjoins = range.end().checked_add(1) == Some(*next.start());
            if adjoins {
                *range = *range.start()..=*next.end();
            }
            adjoins
        });
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: &RangeInclusive<u16>) {
        let (first, last) = (*range.start(), *range.end());
        if first > last {
            return;
        }
        let parts = |known: &RangeInclusive<u16>| {
            let below = first.checked_sub(1).map(|end| *known.start()..=(*known.end()).min(end));
            let above = last.checked_add(1).map(|start| (*known.start()).max(start)..=*known.end());
            [below, above].into_iter().flatten().filter(|part| !part.is_empty())
        };
        self.ranges = self.ranges.iter().flat_map(parts).collect();
    }

    /// The ports that are in both.
    #[must_use]
    pub fn intersection(&self, other: &PortSet) -> PortSet {
        let common = |range: &RangeInclusive<u16>| {
            let (first, last) = (*range.start(), *range.end());
            let clipped =
                other.ranges.iter().map(move |with| first.max(*with.start())..=last.min(*with.end()));
            clipped.filter(|range| !range.is_empty())
        };
        PortSet { ranges: self.ranges.iter().flat_map(common).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Near both ends of what there is, where it is easy to go wrong, and one between.
    fn ports() -> impl Iterator<Item = u16> {
        (0..12).chain([30_000]).chain((u16::MAX - 11)..=u16::MAX)
    }

    fn members(set: &PortSet) -> BTreeSet<u16> {
        ports().filter(|port| set.contains(*port)).collect()
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(steps in proptest::collection::vec((any::<bool>(), 0..25usize, 0..25usize), 0..20)) {
            let known: Vec<u16> = ports().collect();
            let (mut set, mut model) = (PortSet::default(), BTreeSet::new());
            for (adds, first, last) in steps {
                let (before, range) = (set.clone(), known[first]..=known[last]);
                if adds {
                    set.insert(&range);
                    model.extend(ports().filter(|port| *port != 0 && range.contains(port)));
                } else {
                    set.remove(&range);
                    model.retain(|port| !range.contains(port));
                }
                prop_assert_eq!(members(&set), model.clone());
                prop_assert!(set.ranges.windows(2).all(|pair| pair[0].end() + 1 < *pair[1].start()), "{:?}", set);
                let both: BTreeSet<_> = members(&before).intersection(&model).copied().collect();
                prop_assert_eq!(members(&before.intersection(&set)), both);
                prop_assert!(!set.is_empty() || model.is_empty());
            }
        }
    }
}
