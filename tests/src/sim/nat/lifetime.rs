//! How long a NAT or firewall keeps what it knows.

use std::time::{Duration, Instant};

use super::super::packet::Segment;

/// Which packets keep a UDP mapping (RFC 4787, section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Those that leave (REQ-6).
    Outbound,
    /// Those that come in as well.
    Both,
}

/// How long mappings and the filter's holes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of a UDP mapping without traffic.
    pub idle: Duration,
    /// What counts as traffic.
    pub refresh: Refresh,
    /// Of a UDP mapping, whatever its traffic.
    pub absolute: Option<Duration>,
    /// Of a TCP connection that is coming or going.
    pub transitory: Duration,
    /// Of one that is there.
    pub established: Duration,
}

impl Default for Lifetimes {
    /// The least that RFC 4787, section 4.3, and RFC 5382, section 5, allow: two minutes, kept by what leaves; four minutes,
    /// and two hours and four minutes.
    fn default() -> Lifetimes {
        Lifetimes {
            idle: Duration::from_secs(120),
            refresh: Refresh::Outbound,
            absolute: None,
            transitory: Duration::from_secs(240),
            established: Duration::from_secs(7440),
        }
    }
}

/// What is kept of the traffic with one remote endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    last: Instant,
    /// `None` for UDP.
    tcp: Option<Connection>,
}

/// A TCP connection as who stands in its way sees it.
#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    /// Whether something came each way: out, in.
    seen: [bool; 2],
    ending: bool,
}

impl Session {
    pub(super) fn new(now: Instant, is_tcp: bool) -> Session {
        Session { last: now, tcp: is_tcp.then(Connection::default) }
    }

    /// Takes notice of a packet.
    pub(super) fn pass(&mut self, now: Instant, segment: Option<Segment>, outbound: bool, refreshes: bool) {
        if refreshes {
            self.last = now;
        }
        if let (Some(connection), Some(segment)) = (&mut self.tcp, segment) {
            connection.seen[usize::from(!outbound)] = true;
            connection.ending |= matches!(segment, Segment::Fin(_) | Segment::Rst);
            connection.ending &= segment != Segment::Syn;
        }
    }

    pub(super) fn is_alive(&self, now: Instant, lifetimes: &Lifetimes) -> bool {
        now < self.last + self.lifetime(lifetimes)
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.tcp.is_some()
    }

    fn lifetime(&self, lifetimes: &Lifetimes) -> Duration {
        match self.tcp {
            None => lifetimes.idle,
            Some(Connection { seen: [true, true], ending: false }) => lifetimes.established,
            Some(_) => lifetimes.transitory,
        }
    }
}
