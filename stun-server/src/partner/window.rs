//! Which sequence numbers have been seen: a sliding window as of RFC 6479.

const WORDS: usize = 16;
const BITS: u64 = u64::BITS as u64;

/// How far behind the highest a number may come late: one word is always in use for what comes next.
const LEN: u64 = (WORDS as u64 - 1) * BITS;

/// Takes each number once, and none that is far behind.
#[derive(Clone, Debug)]
pub(super) struct Window {
    highest: u64,
    seen: [u64; WORDS],
}

impl Window {
    /// A window that has seen `first`.
    pub(super) fn new(first: u64) -> Window {
        let mut window = Window { highest: first, seen: [0; WORDS] };
        window.admit(first);
        window
    }

    /// Whether a number is new.
    pub(super) fn admit(&mut self, number: u64) -> bool {
        if self.highest.saturating_sub(number) >= LEN {
            return false;
        }
        let word = number / BITS;
        // The words between have not been in use since they stood for numbers that are now far behind.
        for passed in (self.highest / BITS + 1..=word).take(WORDS) {
            self.seen[index(passed)] = 0;
        }
        self.highest = self.highest.max(number);
        let (seen, bit) = (&mut self.seen[index(word)], 1 << (number % BITS));
        let new = *seen & bit == 0;
        *seen |= bit;
        new
    }
}

#[expect(clippy::cast_possible_truncation, reason = "below WORDS")]
fn index(word: u64) -> usize {
    (word % WORDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Against a set that forgets nothing.
        #[test]
        fn takes_each_number_once_and_late_ones_within_the_window(
            first in prop_oneof![0..5000u64, (u64::MAX - 5000)..],
            steps in proptest::collection::vec(prop_oneof![-1000..1000i64, -5..20i64], 0..300),
        ) {
            let (mut window, mut taken, mut highest) = (Window::new(first), BTreeSet::from([first]), first);
            let mut at = first;
            for step in steps {
                at = at.saturating_add_signed(step);
                let far_behind = highest - at.min(highest) >= LEN;
                prop_assert_eq!(window.admit(at), !far_behind && taken.insert(at), "{} of {}", at, highest);
                highest = highest.max(at);
            }
        }
    }
}
