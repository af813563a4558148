//! What the integration tests of Thirl stand on; no product code.
//!
//! - [`behaviour`]: what a NAT does, in the terms of RFC 4787.
//! - [`natlab`]: routers, NATs and hosts on the real kernel, in namespaces that a test makes and removes itself.
//! - [`judge`]: the lab as judge of `thirl nat`.
//! - [`scripted`]: brings two ICE ends together that speak JSON lines.
//! - [`harness`]: builds and runs our programs, waits for what they print, and says why a test could not run.
//! - [`sim`]: a simulated network in virtual time, with the real cores at its ends.
//! - [`reach`]: pairs of network situations, and whether peers in them connect, on both of these instruments.
//! - [`fuzz`]: the bodies of the fuzz targets.
//!
//! The tests themselves are `tests/tests/*.rs`; each file is one suite and one row in the table of `cargo xtask test`.

pub mod behaviour;
pub mod fuzz;
pub mod harness;
pub mod judge;
pub mod natlab;
pub mod reach;
pub mod scripted;
pub mod sim;
