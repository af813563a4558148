//! The bodies of the fuzz targets, compiled here without the rest of `tests`, so that libFuzzer instruments what they
//! test and no more.

#[path = "../../tests/src/fuzz/mod.rs"]
pub mod bodies;
#[path = "../../tests/src/harness/turn.rs"]
pub mod turn;

/// What the bodies have of the tests' harness.
mod harness {
    pub(crate) use super::turn;
}
