//! Attributes of connectivity checks (RFC 8445, section 7.1).

use super::attribute::{flag_attribute, integer_attribute};

/// The priority that a peer-reflexive candidate would have (RFC 8445, section 7.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority(pub u32);

/// The controlling agent nominates this pair (RFC 8445, section 7.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UseCandidate;

/// The sender is in the controlled role; its tie-breaker (RFC 8445, section 7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IceControlled(pub u64);

/// The sender is in the controlling role; its tie-breaker (RFC 8445, section 7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IceControlling(pub u64);

integer_attribute!(Priority, u32, PRIORITY);
flag_attribute!(UseCandidate, USE_CANDIDATE);
integer_attribute!(IceControlled, u64, ICE_CONTROLLED);
integer_attribute!(IceControlling, u64, ICE_CONTROLLING);
