//! What an engine did, as plain numbers. An exporter reads them; nothing here knows of one.

use super::output::EndReason;

/// Packets and bytes of application data, without headers. Of TCP, what was read at once counts as a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the client to peers.
    pub to_peer_packets: u64,
    /// From the client to peers.
    pub to_peer_bytes: u64,
    /// From peers to the client.
    pub to_client_packets: u64,
    /// From peers to the client.
    pub to_client_bytes: u64,
}

/// What was neither relayed nor answered, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dropped {
    /// From a client: broken, of an unknown protocol or method, a response, or with a wrong FINGERPRINT.
    pub malformed: u64,
    /// From a client without an allocation.
    pub no_allocation: u64,
    /// From a client, to a channel that is not bound.
    pub no_channel: u64,
    /// From a client, to a peer without a permission.
    pub to_peer_not_permitted: u64,
    /// From a peer without a permission.
    pub from_peer_not_permitted: u64,
    /// From a peer, to a relayed transport address that is no more.
    pub no_relay: u64,
    /// From a client, above a limit of [`EngineConfig::bandwidth`](super::EngineConfig::bandwidth).
    pub to_peer_over_bandwidth: u64,
    /// From a peer, above such a limit.
    pub to_client_over_bandwidth: u64,
    /// From a peer, for a client whose connection is closed and that has a ticket to come again.
    pub no_client: u64,
    /// Too large for the header that it would need.
    pub oversized: u64,
    /// ICMP errors for datagrams to peers that the client was not told of: without a permission, of a kind that is none of
    /// its business, or too many.
    pub icmp: u64,
    /// Requests whose credentials nobody could look up in time: the store or the engine has no more room.
    pub overloaded: u64,
    /// Requests without credentials that hold, of a source that sent too many ([`EngineConfig::stranger_limit`]).
    ///
    /// [`EngineConfig::stranger_limit`]: super::EngineConfig::stranger_limit
    pub limited: u64,
    /// Events that nobody fetched in time.
    pub events: u64,
}

/// Allocations that ended, by [`EndReason`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended([u64; EndReason::ALL.len()]);

/// Error responses by their code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused([u64; CODES.len()]);

/// The codes that [`Refused`] tells apart; what is none of them counts as the last.
const CODES: [u16; 16] = [400, 401, 403, 405, 420, 437, 438, 440, 441, 442, 443, 446, 447, 486, 508, 500];

/// What an [`Engine`](super::Engine) did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Well-formed requests.
    pub requests: u64,
    /// Challenges: 401 to a request without integrity, and 438.
    pub challenges: u64,
    /// 401 to a request with credentials that do not hold.
    pub unauthenticated: u64,
    /// Clients sent to another server: 300.
    pub redirected: u64,
    /// Other error responses.
    pub refused: Refused,
    /// Success responses.
    pub succeeded: u64,
    /// Allocations made.
    pub allocations_created: u64,
    /// Allocations that ended.
    pub allocations_ended: Ended,
    /// Moves of allocations to other five-tuples.
    pub allocations_moved: u64,
    /// Connections of peers that clients took over (RFC 6062).
    pub connections_bound: u64,
    /// Data relayed.
    pub relayed: Traffic,
    /// ICMP errors for datagrams to peers that the client was told of.
    pub icmp_relayed: u64,
    /// Data not relayed.
    pub dropped: Dropped,
}

impl Traffic {
    /// Adds up.
    pub fn add(&mut self, other: &Traffic) {
        self.to_peer_packets += other.to_peer_packets;
        self.to_peer_bytes += other.to_peer_bytes;
        self.to_client_packets += other.to_client_packets;
        self.to_client_bytes += other.to_client_bytes;
    }

    #[inline]
    pub(super) fn count_to_peer(&mut self, bytes: usize) {
        self.to_peer_packets += 1;
        self.to_peer_bytes += bytes as u64;
    }

    #[inline]
    pub(super) fn count_to_client(&mut self, bytes: usize) {
        self.to_client_packets += 1;
        self.to_client_bytes += bytes as u64;
    }
}

impl Ended {
    /// For all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// How often for which reason.
    pub fn iter(&self) -> impl Iterator<Item = (EndReason, u64)> + use<> {
        EndReason::ALL.into_iter().zip(self.0)
    }

    /// Adds up.
    pub fn add(&mut self, other: &Ended) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    pub(super) fn count(&mut self, reason: EndReason) {
        let at = EndReason::ALL.iter().position(|other| *other == reason);
        at.and_then(|at| self.0.get_mut(at)).into_iter().for_each(|count| *count += 1);
    }
}

impl Refused {
    /// With all codes.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// How often with which code.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> + use<> {
        CODES.into_iter().zip(self.0)
    }

    /// Adds up.
    pub fn add(&mut self, other: &Refused) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    pub(super) fn count(&mut self, code: u16) {
        let at = CODES.iter().position(|other| *other == code).unwrap_or(CODES.len() - 1);
        self.0[at] += 1;
    }
}

impl Dropped {
    /// How much for which reason.
    pub fn by_reason(&self) -> [(&'static str, u64); 13] {
        [
            ("malformed", self.malformed),
            ("no_allocation", self.no_allocation),
            ("no_channel", self.no_channel),
            ("to_peer_not_permitted", self.to_peer_not_permitted),
            ("from_peer_not_permitted", self.from_peer_not_permitted),
            ("no_relay", self.no_relay),
            ("to_peer_over_bandwidth", self.to_peer_over_bandwidth),
            ("to_client_over_bandwidth", self.to_client_over_bandwidth),
            ("no_client", self.no_client),
            ("oversized", self.oversized),
            ("icmp", self.icmp),
            ("overloaded", self.overloaded),
            ("limited", self.limited),
        ]
    }

    /// Adds up.
    pub fn add(&mut self, other: &Dropped) {
        self.malformed += other.malformed;
        self.no_allocation += other.no_allocation;
        self.no_channel += other.no_channel;
        self.to_peer_not_permitted += other.to_peer_not_permitted;
        self.from_peer_not_permitted += other.from_peer_not_permitted;
        self.no_relay += other.no_relay;
        self.to_peer_over_bandwidth += other.to_peer_over_bandwidth;
        self.to_client_over_bandwidth += other.to_client_over_bandwidth;
        self.no_client += other.no_client;
        self.oversized += other.oversized;
        self.icmp += other.icmp;
        self.overloaded += other.overloaded;
        self.limited += other.limited;
        self.events += other.events;
    }
}

impl Counters {
    /// Adds what another engine did.
    pub fn add(&mut self, other: &Counters) {
        self.requests += other.requests;
        self.challenges += other.challenges;
        self.unauthenticated += other.unauthenticated;
        self.redirected += other.redirected;
        self.refused.add(&other.refused);
        self.succeeded += other.succeeded;
        self.allocations_created += other.allocations_created;
        self.allocations_ended.add(&other.allocations_ended);
        self.allocations_moved += other.allocations_moved;
        self.connections_bound += other.connections_bound;
        self.relayed.add(&other.relayed);
        self.icmp_relayed += other.icmp_relayed;
        self.dropped.add(&other.dropped);
    }
}
