//! ICE agent (RFC 8445) with gathering, TURN client and NAT diagnosis.

pub mod nat;
pub mod turn;
