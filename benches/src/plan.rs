//! How often and how long the sides are measured in turn, the same for all benchmarks of servers.

use std::time::Duration;

/// Warming up: sockets' buffers, branch predictors, the server's tables.
pub(crate) const WARM_UP: Duration = Duration::from_millis(500);

/// What the benchmarks of servers take alike.
#[derive(clap::Args, Debug)]
pub(crate) struct Plan {
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 3)]
    pub(crate) seconds: u64,
    /// Rounds; in each all sides run once.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Print one JSON line for each measurement instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Plan {
    /// The time of each measurement.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}
