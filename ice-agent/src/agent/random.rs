//! An agent's randomness.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A generator that has a key and no output to spare: there is one in each of very many agents, and each draws seldom. Whoever
/// learns the key learns nothing that was drawn before.
pub(super) struct Random {
    key: [u8; 32],
}

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random(redacted)")
    }
}

impl Random {
    pub(super) fn new(seed: [u8; 32]) -> Random {
        Random { key: seed }
    }

    /// Draws something, with a generator that is used for this only.
    pub(super) fn draw<T>(&mut self, what: impl FnOnce(&mut StdRng) -> T) -> T {
        let mut generator = StdRng::from_seed(self.key);
        self.key = generator.random();
        what(&mut generator)
    }
}
