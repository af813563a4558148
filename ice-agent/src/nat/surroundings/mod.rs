//! What is around the NAT: what the network lets out at all, a portal that wants to be signed in to, NAT64, and the IPv6
//! addresses of this machine.
//!
//! 1. [`Surroundings`]: all of it as data, each part in a file of its own: `portal`, `reach`, `nat64`, `ipv6`.
//! 2. `quic`: the probe that every QUIC server answers.
//! 3. `verdict`: what it means; `words`: the text.
//! 4. `driver` (feature `driver`): [`look_around`] and [`discover_nat64`].

#[cfg(feature = "driver")]
mod driver;
mod ipv6;
mod nat64;
mod portal;
mod quic;
mod reach;
mod verdict;
mod words;

use serde::Serialize;

#[cfg(feature = "driver")]
pub use driver::{discover_nat64, look_around};
pub use ipv6::{Ipv6Address, Ipv6AddressesReport, Ipv6Scope};
pub use nat64::Nat64Report;
pub use portal::{CaptivePortalReport, NotAWebProbe, WebProbe};
pub use quic::VersionNegotiation;
pub use reach::{Attempt, Outcome, ReachReport, WayReport};

/// What was found beside the answers of STUN servers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Surroundings {
    /// Whether the network wants somebody to sign in first.
    pub captive_portal: CaptivePortalReport,
    /// What gets out.
    pub reach: ReachReport,
    /// How IPv4 is reached from a network with IPv6 only.
    pub nat64: Nat64Report,
    /// The IPv6 addresses of this machine.
    pub ipv6_addresses: Ipv6AddressesReport,
}
