//! The bodies of the fuzz targets, compiled here without the rest of `tests`, so that libFuzzer instruments what they
//! test and no more.

#[path = "../../tests/src/fuzz/mod.rs"]
pub mod bodies;
