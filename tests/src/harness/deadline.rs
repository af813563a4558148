//! The one place in which the tests read the clock.

use std::time::{Duration, Instant};

/// A point in time up to which a condition may come true.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    start: Instant,
    limit: Duration,
}

impl Deadline {
    /// `limit` from now on.
    #[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
    pub fn after(limit: Duration) -> Self {
        Self { start: Instant::now(), limit }
    }

    /// What is left; zero when it has passed.
    pub fn remaining(&self) -> Duration {
        self.limit.saturating_sub(self.start.elapsed())
    }

    /// Whether it has passed.
    pub fn has_passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// How long ago it was set.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}
