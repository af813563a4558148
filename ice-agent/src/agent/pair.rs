//! A candidate pair (RFC 8445, section 6.1.2), and how likely it is to work.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde::Serialize;
use thirl_common::request::Transaction;
use thirl_common::wire::TransactionId;

use super::config::Role;
use super::event::{PathKind, Route};
use super::local::LocalId;
use super::remote::RemoteId;
use crate::candidate::{CandidateKind, ComponentId};

/// A pair's name, in the order in which pairs were formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PairId(pub(super) u32);

impl From<usize> for PairId {
    fn from(number: usize) -> PairId {
        PairId(u32::try_from(number).unwrap_or(u32::MAX))
    }
}

impl From<PairId> for usize {
    fn from(id: PairId) -> usize {
        id.0 as usize
    }
}

/// RFC 8445, section 6.1.2.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PairState {
    /// Waits for another pair of its foundation.
    Frozen,
    /// Waits for its turn.
    Waiting,
    /// A check is under way.
    InProgress,
    /// A check succeeded.
    Succeeded,
    /// A check failed, or none can be sent.
    Failed,
}

/// How a pair came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PairOrigin {
    /// From two candidates that were told.
    Candidates,
    /// From a check of the peer's.
    InboundCheck,
}

/// How likely a pair is to work, from its addresses alone. The smaller, the likelier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Likelihood {
    /// Both in one subnet, as far as can be seen.
    SameSubnet,
    /// Nothing speaks against it.
    Plausible,
    /// Over a relay: works if anything does, but is not wanted first.
    Relayed,
    /// Between private networks that look different, or from a public address to a private one.
    Implausible,
}

impl Likelihood {
    /// Of pairs of different likelihood that wait, each class gets its share of the checks: one of so many.
    pub(super) fn stride(self) -> u32 {
        match self {
            Likelihood::SameSubnet => 1,
            Likelihood::Plausible => 2,
            Likelihood::Relayed => 3,
            Likelihood::Implausible => 6,
        }
    }

    pub(super) fn of(local: IpAddr, remote: IpAddr, path: PathKind) -> Likelihood {
        if path == PathKind::Relayed {
            return Likelihood::Relayed;
        }
        match (local, remote) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let same = |bits: u32| (u32::from(a) ^ u32::from(b)) >> (32 - bits) == 0;
                match (realm_v4(a), realm_v4(b)) {
                    _ if same(24) => Likelihood::SameSubnet,
                    (_, Realm::Global) => Likelihood::Plausible,
                    (Realm::Global, _) => Likelihood::Implausible,
                    (a, b) if a == b && same(16) => Likelihood::Plausible,
                    _ => Likelihood::Implausible,
                }
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let unique_local = |bits: u128| bits >> 121 == 0x7E;
                let (a, b) = (u128::from(a), u128::from(b));
                match (a ^ b) >> 64 {
                    0 => Likelihood::SameSubnet,
                    _ if unique_local(a) != unique_local(b) => Likelihood::Implausible,
                    _ => Likelihood::Plausible,
                }
            }
            // Through a NAT64.
            (IpAddr::V6(_), IpAddr::V4(remote)) if realm_v4(remote) == Realm::Global => Likelihood::Plausible,
            _ => Likelihood::Implausible,
        }
    }
}

/// How much a pair is wanted, before its priority is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Over a relay.
    Relayed,
    /// Directly, over a connection that delays what it repeats.
    DirectOverTcp,
    /// Directly, over UDP.
    Direct,
}

/// Whether no host has such an address: those of "this network", and all from multicast on (RFC 6890).
pub(super) fn is_no_hosts(ip: Ipv4Addr) -> bool {
    matches!(ip.octets(), [0 | 224.., ..])
}

/// Which network an IPv4 address belongs to: RFC 1918 has three, RFC 6598 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Realm {
    Ten,
    SeventeenTwo,
    OneNineTwo,
    SharedAddressSpace,
    LinkLocal,
    Loopback,
    Global,
}

pub(super) fn realm_v4(ip: Ipv4Addr) -> Realm {
    match ip.octets() {
        [10, ..] => Realm::Ten,
        [172, 16..=31, ..] => Realm::SeventeenTwo,
        [192, 168, ..] => Realm::OneNineTwo,
        [100, 64..=127, ..] => Realm::SharedAddressSpace,
        [169, 254, ..] => Realm::LinkLocal,
        [127, ..] => Realm::Loopback,
        _ => Realm::Global,
    }
}

/// Pairs that take turns with other groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Group {
    pub(super) likelihood: Likelihood,
    pub(super) ipv4: bool,
    pub(super) local: CandidateKind,
    pub(super) remote: CandidateKind,
    pub(super) component: ComponentId,
}

/// A check that is under way.
#[derive(Debug)]
pub(super) struct OutgoingCheck {
    pub(super) id: TransactionId,
    pub(super) bytes: Vec<u8>,
    pub(super) transaction: Transaction,
    /// How many transactions before this one asked the same.
    pub(super) repeats: u8,
    /// When another one should.
    pub(super) repeat_at: Option<Instant>,
}

impl OutgoingCheck {
    /// When something is due.
    pub(super) fn deadline(&self) -> Instant {
        let rto = self.transaction.deadline();
        self.repeat_at.map_or(rto, |at| at.min(rto))
    }
}

/// What was asked with a transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) pair: PairId,
    pub(super) sent: Instant,
    pub(super) role: Role,
    pub(super) nominate: bool,
}

/// Counts for the report. The names are those of W3C's `RTCIceCandidatePairStats`, in JSON to the letter; times are in seconds
/// there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PairStats {
    /// Datagrams of application data sent.
    pub packets_sent: u64,
    /// Datagrams of application data received.
    pub packets_received: u64,
    /// Their bytes, without any header.
    pub bytes_sent: u64,
    /// Their bytes, without any header.
    pub bytes_received: u64,
    /// Round-trip times of all checks whose answer tells it, together; consent checks are among them.
    #[serde(serialize_with = "seconds")]
    pub total_round_trip_time: Duration,
    /// The last of these.
    #[serde(serialize_with = "maybe_seconds")]
    pub current_round_trip_time: Option<Duration>,
    /// Checks sent, repetitions included.
    pub requests_sent: u32,
    /// Checks of the peer's.
    pub requests_received: u32,
    /// Those of them that were answered with success.
    pub responses_sent: u32,
    /// Checks and consent checks answered by the peer.
    pub responses_received: u32,
    /// Consent checks sent.
    pub consent_requests_sent: u32,
    /// Datagrams of application data that could not leave.
    pub packets_discarded_on_send: u32,
    /// Their bytes.
    pub bytes_discarded_on_send: u64,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

fn maybe_seconds<S: serde::Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

impl PairStats {
    pub(super) fn sent(&mut self, bytes: usize) {
        self.packets_sent += 1;
        self.bytes_sent += bytes as u64;
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.packets_received += 1;
        self.bytes_received += bytes as u64;
    }

    /// What was counted as sent has not left.
    pub(super) fn discarded(&mut self, bytes: usize) {
        self.packets_sent = self.packets_sent.saturating_sub(1);
        self.bytes_sent = self.bytes_sent.saturating_sub(bytes as u64);
        self.packets_discarded_on_send += 1;
        self.bytes_discarded_on_send += bytes as u64;
    }

    pub(super) fn round_trip(&mut self, time: Duration) {
        self.total_round_trip_time += time;
        self.current_round_trip_time = Some(time);
    }
}

/// What is counted of a pair. Most are only ever asked in vain: of those nothing is kept but how often.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) requests_sent: u32,
    rest: Option<Box<PairStats>>,
}

impl Stats {
    pub(super) fn all(&self) -> PairStats {
        PairStats { requests_sent: self.requests_sent, ..self.rest.as_deref().copied().unwrap_or_default() }
    }

    /// All but the requests sent.
    pub(super) fn rest(&mut self) -> &mut PairStats {
        self.rest.get_or_insert_default()
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rest.as_ref()?.current_round_trip_time
    }

    pub(super) fn requests_received(&self) -> u32 {
        self.rest.as_ref().map_or(0, |rest| rest.requests_received)
    }
}

/// What is equal for pairs of one foundation (RFC 8445, section 6.1.2.6): of each side the first candidate of that foundation.
pub(super) type Foundation = (LocalId, RemoteId);

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) component: ComponentId,
    pub(super) local: LocalId,
    pub(super) remote: RemoteId,
    pub(super) route: Route,
    pub(super) to: SocketAddr,
    pub(super) foundation: Foundation,
    pub(super) priority: u64,
    pub(super) path: PathKind,
    pub(super) group: Group,
    pub(super) state: PairState,
    pub(super) check: Option<Box<OutgoingCheck>>,
    /// The number of the mapping that the NAT made for the first check.
    pub(super) flow: u32,
    /// Transactions whose answer would still count, the oldest first.
    pub(super) asked: Vec<TransactionId>,
    /// Checked although a pair is selected: one of its ends is new.
    pub(super) wanted: bool,
    /// The next check nominates.
    pub(super) nominate: bool,
    /// The controlling peer has nominated this pair, and our own check has yet to succeed.
    pub(super) nominated_by_peer: bool,
    /// The number of the peer's last nomination of this pair, if it renominates.
    pub(super) nomination: Option<u32>,
    /// The peer has proved itself on this pair, so that its data is taken.
    pub(super) heard: bool,
    /// The local candidate as the peer sees it: the valid pair's (RFC 8445, section 7.2.5.3.2).
    pub(super) mapped: Option<LocalId>,
    pub(super) failure: Option<Box<str>>,
    pub(super) stats: Stats,
}

impl Pair {
    /// The way that its packets take.
    pub(super) fn way(&self) -> (Route, SocketAddr) {
        (self.route, self.to)
    }

    pub(super) fn is_valid(&self) -> bool {
        self.state == PairState::Succeeded
    }

    pub(super) fn rank(&self) -> Rank {
        match self.path {
            PathKind::Relayed => Rank::Relayed,
            PathKind::Direct if self.route.is_tcp() => Rank::DirectOverTcp,
            PathKind::Direct => Rank::Direct,
        }
    }

    /// Whether it may get an ordinary check when its turn comes.
    pub(super) fn is_unchecked(&self) -> bool {
        matches!(self.state, PairState::Frozen | PairState::Waiting)
    }

    /// Whether a check of this pair has yet to be answered or given up.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, PairState::Frozen | PairState::Waiting | PairState::InProgress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihood_follows_the_addresses() {
        let of = |local: &str, remote: &str| {
            Likelihood::of(local.parse().unwrap(), remote.parse().unwrap(), PathKind::Direct)
        };
        assert_eq!(of("192.168.1.5", "192.168.1.77"), Likelihood::SameSubnet);
        assert_eq!(of("192.168.1.5", "203.0.113.1"), Likelihood::Plausible);
        assert_eq!(of("192.168.1.5", "10.0.0.1"), Likelihood::Implausible);
        assert_eq!(of("192.168.1.5", "172.17.0.1"), Likelihood::Implausible);
        assert_eq!(of("198.51.100.1", "192.168.0.1"), Likelihood::Implausible);
        assert_eq!(of("10.1.2.3", "10.1.9.9"), Likelihood::Plausible);
        assert_eq!(of("2001:db8::1", "2001:db8::2"), Likelihood::SameSubnet);
        assert_eq!(of("2001:db8::1", "fd00::2"), Likelihood::Implausible);
        assert_eq!(of("127.0.0.1", "127.0.0.1"), Likelihood::SameSubnet);
    }
}
