//! The kernel lab as judge of `thirl nat`: networks whose behaviour is known, and what must be said of them.
//!
//! 1. `cases`: the table: each network with the values that the JSON must have.
//! 2. `trial`: one run of `thirl nat` in the lab of a case, and the comparison.
//! 3. `tally`: many runs, several labs at once, counted. `cargo xtask lab-nat` and `tests/tests/lab_nat.rs` run it.
//! 4. `servers`: what is asked.

mod cases;
mod servers;
mod tally;
mod trial;

pub use cases::{Case, cases};
pub use servers::{Software, coturn_is_here, serve, serve_partners};
pub use tally::{Plan, Row, run};
pub use trial::{Judgement, diagnose};
