//! NAT diagnosis: what the network does to packets, and who will reach whom.
//!
//! 1. [`Diagnosis`]: the sans-IO machine for one address family. It runs, in this order, `servers` (who answers and can
//!    be believed), `filtering`, `mapping`, `allocation`, and on demand `hairpin` and `lifetime`; beside them the mapping
//!    test over TCP, and what the way to the servers is like: `hops` and `path_mtu`. They share the requests of `probe`
//!    and the results of `findings`. `gateway` asks the router what it offers, at the same time.
//! 2. [`Report`]: what it found, as data; [`Verdict`]: what that means; [`Report::to_text`]: both in words.
//! 3. [`Mapping`], [`Filtering`], [`direct_path`], [`search`]: the terms, and which pairs of NATs leave a direct path.
//! 4. [`Surroundings`]: what the network lets out at all, captive portals, NAT64, and the IPv6 addresses of this machine.
//! 5. [`Facts`] and [`predict`]: what two sides tell each other, and what will happen between exactly these two;
//!    [`PairReport`]: whether it did.
//! 6. `driver` (feature `driver`): [`diagnose`] runs a diagnosis for each address family on fresh sockets.

mod allocation;
mod behaviour;
mod diagnosis;
#[cfg(feature = "driver")]
mod driver;
mod facts;
mod filtering;
mod findings;
mod gateway;
mod hairpin;
mod hops;
mod lifetime;
mod mapping;
mod pair;
mod path_mtu;
mod probe;
mod report;
mod servers;
mod surroundings;
mod verdict;
mod words;

pub use allocation::AllocationReport;
pub use behaviour::{
    Confidence, Filtering, Mapping, Pooling, PortAllocation, Search, classic_name, direct_path, search,
};
pub use diagnosis::{Diagnosis, Event, Options};
#[cfg(feature = "driver")]
pub use driver::{DiagnoseError, diagnose};
pub use facts::{Facts, FamilyFacts, HostNetwork, InvalidFacts, VERSION as FACTS_VERSION};
pub use findings::{Answer, Scope};
pub use gateway::{GatewayReport, GatewayTest, ServiceReport};
pub use hairpin::HairpinReport;
pub use hops::Hop;
pub use lifetime::{Lifetime, LifetimeReport, Wait};
pub use pair::{Advice, PairPath, PairReport, Prediction, Side, Trial, Way, predict};
pub use path_mtu::PathMtuReport;
pub use probe::{Action, SocketId, Travel};
pub use report::{Families, FamilyReport, LayersReport, Report, TcpFailure, TcpReport, UdpReport};
pub use servers::{FaultyServer, ServerFault};
pub use surroundings::{
    Attempt, CaptivePortalReport, Ipv6Address, Ipv6AddressesReport, Ipv6Scope, Nat64Report, NotAWebProbe,
    Outcome, ReachReport, Surroundings, VersionNegotiation, WayReport, WebProbe,
};
#[cfg(feature = "driver")]
pub use surroundings::{discover_nat64, look_around};
pub use verdict::{Peer, Reach, Verdict};
