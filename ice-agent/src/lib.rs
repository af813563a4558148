//! ICE agent (RFC 8445) with gathering, TURN client and NAT diagnosis.
//!
//! In the order in which a path is found:
//!
//! 1. [`candidate`]: what one side tells the other: candidates, their priority, the `candidate:` line.
//! 2. [`agent`]: the sans-IO agent: gathering, checks, nomination, consent, report.
//! 3. [`turn`]: the sans-IO TURN client, of which the agent has one for each server and socket.
//! 4. [`nat`]: what this side's NAT does.

pub mod agent;
pub mod candidate;
pub mod nat;
pub mod turn;
