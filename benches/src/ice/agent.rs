//! What the bench wants of a sans-IO agent, whoever wrote it.

use std::net::SocketAddr;
use std::time::Instant;

/// How far an agent has come, in its own opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    /// Nothing works yet.
    Checking,
    /// It sends data that it is given.
    Works,
    /// It has a nominated pair.
    Nominated,
}

/// A username fragment and a password.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    pub(super) ufrag: String,
    pub(super) pwd: String,
}

/// One side: an agent with one socket.
pub(super) trait SansIo {
    fn credentials(&self) -> Credentials;
    fn set_remote_credentials(&mut self, now: Instant, remote: &Credentials);
    /// A line of RFC 8839, section 5.1, without `a=`.
    fn add_remote_candidate(&mut self, now: Instant, line: &str);
    fn end_of_candidates(&mut self, now: Instant);
    fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]);
    fn handle_timeout(&mut self, now: Instant);
    fn poll_timeout(&mut self, now: Instant) -> Option<Instant>;
    fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)>;
    fn progress(&mut self) -> Progress;
}

/// How one side begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) controlling: bool,
    pub(super) address: SocketAddr,
    pub(super) now: Instant,
    /// For agents whose randomness is the caller's.
    pub(super) seed: [u8; 32],
    /// Whether candidates come one by one, for agents that want to know.
    #[cfg_attr(not(feature = "peers"), expect(dead_code, reason = "only a peer wants to know"))]
    pub(super) trickle: bool,
}

/// An implementation: its name, and how to make one side of it.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) make: fn(&Start) -> Box<dyn SansIo>,
}
