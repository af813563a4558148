//! Reach: every pair of network situations, and whether two peers in them connect, by which path, and how fast.
//!
//! The same situations exist on two instruments: the simulated network ([`sim`](crate::sim)), thousands of runs a minute in
//! virtual time, and the kernel lab ([`natlab`](crate::natlab)), real programs on real kernels, which is the judge of both.
//!
//! 1. [`situation`](Situation): what the network of a peer does, and the [`Pair`]s of them.
//! 2. [`expectation`](Expectation): the best path that can exist, and what is required of the runs of a pair.
//! 3. [`outcome`](Outcome): what one run came to.
//! 4. [`kernel`]: runs of a pair in the kernel lab.
//! 5. [`simulated`]: runs of a pair in the simulated network.
//! 6. [`model`]: from first principles, what can exist in a topology of the simulation.
//! 7. [`matrix`](measure): all runs of all pairs; [`text`](text()), [`picture`](picture()) and [`html`](html()) show it.

mod expectation;
mod html;
pub mod kernel;
mod matrix;
pub mod model;
mod outcome;
mod picture;
mod rules;
pub mod simulated;
mod situation;
mod text;

pub use expectation::Expectation;
pub use html::html;
pub use matrix::{Cell, Instrument, Job, Matrix, Plan, Tally, measure};
pub use outcome::{Mode, Outcome, Path};
pub use picture::picture;
pub use situation::{Pair, Shared, Situation};
pub use text::text;
