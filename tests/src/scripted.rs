//! Two ICE ends that speak JSON lines, `thirl ice` or others, brought together by a test.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Program, ProgramError};

/// How long an end may take for one step: more than the 39.5 s of a full set of retransmissions would hide a hang.
const STEP: Duration = Duration::from_secs(30);

/// What both ends said when they were connected.
#[derive(Debug)]
pub struct Connected {
    /// The first end's line.
    pub first: Value,
    /// The second end's line.
    pub second: Value,
}

/// Gives each end the other's description and waits until both are connected.
///
/// # Errors
/// With all that an end wrote, if it does not get there.
pub fn connect(first: &mut Program, second: &mut Program) -> Result<Connected, ProgramError> {
    let descriptions = (first.wait_for_json(STEP)?, second.wait_for_json(STEP)?);
    second.write_line(&descriptions.0.to_string())?;
    first.write_line(&descriptions.1.to_string())?;
    Ok(Connected { first: first.wait_for_json(STEP)?, second: second.wait_for_json(STEP)? })
}
