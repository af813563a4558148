//! The best path that can exist between two peers, and what is required of the runs of a pair.

use std::fmt;
use std::time::Duration;

use super::Mode;

/// The best path that can exist, the best first, and the least that it takes to find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Expectation {
    /// Direct, by host, server-reflexive and peer-reflexive candidates alone: what standard ICE does.
    Punch,
    /// Direct, by a port that a gateway maps on request.
    Mapping,
    /// Direct, by the next ports of a NAT that gives them out in sequence.
    Prediction,
    /// Direct, by very many ports on one side: that NAT's are random, and the other side's mapping is endpoint-independent, or
    /// its own filter looks at addresses only.
    Birthday,
    /// Direct over TCP, where UDP is not let out.
    Tcp,
    /// Through a relay only.
    Relayed,
    /// Nothing is let out.
    Nothing,
}

impl Expectation {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Punch,
        Self::Mapping,
        Self::Prediction,
        Self::Birthday,
        Self::Tcp,
        Self::Relayed,
        Self::Nothing,
    ];

    /// For the matrix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Punch => "punch",
            Self::Mapping => "mapping",
            Self::Prediction => "prediction",
            Self::Birthday => "birthday",
            Self::Tcp => "TCP",
            Self::Relayed => "relayed",
            Self::Nothing => "nothing",
        }
    }

    /// Whether it is direct.
    pub fn is_direct(self) -> bool {
        !matches!(self, Self::Relayed | Self::Nothing)
    }

    /// The best path that agents in this mode look for.
    #[must_use]
    pub fn in_mode(self, mode: Mode) -> Self {
        match (self, mode) {
            (Self::Prediction | Self::Birthday, Mode::Standard) => Self::Relayed,
            // Nothing is required of others.
            (_, Mode::Mixed | Mode::Aioice) => Self::Nothing,
            _ => self,
        }
    }

    /// The least percentage of runs that have to find a direct path. Two of them are matters of luck.
    pub fn required_direct(self, mode: Mode) -> u32 {
        match self.in_mode(mode) {
            Self::Punch | Self::Mapping | Self::Tcp => 100,
            Self::Prediction | Self::Birthday => 95,
            Self::Relayed | Self::Nothing => 0,
        }
    }

    /// The least percentage of runs that have to connect, by whichever path.
    pub fn required_connected(self, mode: Mode) -> u32 {
        if self.in_mode(mode) == Self::Nothing { 0 } else { 100 }
    }

    /// How long a run waits for a direct path, counted from when both sides know each other.
    pub fn patience(self) -> Duration {
        Duration::from_secs(match self {
            Self::Relayed => 8,
            Self::Punch | Self::Nothing => 15,
            Self::Mapping | Self::Tcp => 25,
            Self::Prediction => 30,
            Self::Birthday => 60,
        })
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
