//! NAT diagnosis: what the network does to packets on their way out.
//!
//! 1. [`MappingTest`]: the sans-IO machine that asks STUN servers from one socket.
//! 2. [`Mapping`], [`MappingReport`]: what it found.
//! 3. `driver` (feature `driver`): [`diagnose`] runs a test for each address family on fresh sockets.

#[cfg(feature = "driver")]
mod driver;
mod mapping;
mod report;

#[cfg(feature = "driver")]
pub use driver::{DiagnoseError, diagnose};
pub use mapping::MappingTest;
pub use report::{Answer, Diagnosis, FamilyReport, Mapping, MappingReport};
