//! How many bytes a second are relayed at most: for an allocation, for a user, in all. What is above that is dropped and
//! counted, never queued.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Limits on application data, in bytes per second, of either direction by itself. `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Of each allocation.
    pub allocation: Option<NonZeroU64>,
    /// Of all allocations of a username.
    pub user: Option<NonZeroU64>,
    /// Of all allocations.
    pub total: Option<NonZeroU64>,
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to a peer.
    ToPeer,
    /// From a peer to the client.
    ToClient,
}

/// What an allocation's data is counted against; there is none where nothing is limited.
#[derive(Clone, Debug)]
pub(super) struct Meters(Box<[Arc<Meter>]>);

impl Meters {
    pub(super) fn new(meters: impl IntoIterator<Item = Option<Arc<Meter>>>) -> Option<Meters> {
        let meters: Box<[_]> = meters.into_iter().flatten().collect();
        if meters.is_empty() { None } else { Some(Meters(meters)) }
    }

    /// Counts what a stream passed on, of which nothing can be dropped, and says when it may pass on more.
    pub(super) fn charge(&self, direction: Direction, bytes: usize, now: Instant) -> Instant {
        self.0.iter().fold(now, |rest, meter| rest.max(meter.charge(direction, bytes, now)))
    }

    /// Whether `bytes` more may pass now. Where one meter refuses, those before it have counted them all the same: what
    /// is sent above one limit is sent at the cost of the others, which is the sender's loss.
    #[inline]
    pub(super) fn admit(&self, direction: Direction, bytes: usize, now: Instant) -> bool {
        self.0.iter().all(|meter| meter.admit(direction, bytes, now))
    }
}

/// One limit, shared by whoever it is a limit for, across threads and without a lock.
#[derive(Debug)]
pub(super) struct Meter {
    since: Instant,
    /// 2^16 nanoseconds, divided by the bytes for which they are.
    cost: u64,
    to_peer: Bucket,
    to_client: Bucket,
}

/// Nanoseconds from [`Meter::since`] to the time at which the bucket will be as good as never used.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

/// A bucket holds what flows in a second: a key frame or a burst may pass at once.
const BURST: u64 = 1_000_000_000;

impl Meter {
    /// Whether it is one for this limit.
    pub(super) fn is_for(&self, bytes_per_second: NonZeroU64) -> bool {
        self.cost == Meter::cost_of(bytes_per_second)
    }

    fn cost_of(bytes_per_second: NonZeroU64) -> u64 {
        (BURST << 16) / bytes_per_second
    }

    pub(super) fn new(bytes_per_second: NonZeroU64, now: Instant) -> Arc<Meter> {
        let cost = Meter::cost_of(bytes_per_second);
        Arc::new(Meter { since: now, cost, to_peer: Bucket::default(), to_client: Bucket::default() })
    }

    #[inline]
    fn admit(&self, direction: Direction, bytes: usize, now: Instant) -> bool {
        let (Bucket(full_at), now, cost) = self.bucket(direction, bytes, now);
        let take = |at: u64| {
            // A datagram longer than the bucket is deep passes when it is full, or nothing ever would.
            let at = at.max(now);
            (at == now || at.saturating_add(cost) <= now.saturating_add(BURST))
                .then(|| at.saturating_add(cost))
        };
        full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Counts them, and says when the bucket holds some again.
    fn charge(&self, direction: Direction, bytes: usize, now: Instant) -> Instant {
        let (Bucket(full_at), since, cost) = self.bucket(direction, bytes, now);
        let take = |at: u64| Some(at.max(since).saturating_add(cost));
        let at = full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).unwrap_or_else(|at| at);
        let full = at.max(since).saturating_add(cost);
        now + Duration::from_nanos(full.saturating_sub(since.saturating_add(BURST)))
    }

    /// The bucket, the time since [`Meter::since`], and what so many bytes cost, in nanoseconds.
    #[inline]
    fn bucket(&self, direction: Direction, bytes: usize, now: Instant) -> (&Bucket, u64, u64) {
        let bucket = match direction {
            Direction::ToPeer => &self.to_peer,
            Direction::ToClient => &self.to_client,
        };
        // For 580 years.
        let now = u64::try_from(now.saturating_duration_since(self.since).as_nanos()).unwrap_or(u64::MAX);
        (bucket, now, (bytes as u64).saturating_mul(self.cost) >> 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::origin;

    fn rate(bytes: u64) -> NonZeroU64 {
        NonZeroU64::new(bytes).unwrap()
    }

    /// How many of `count` datagrams of 100 bytes pass, sent `apart`.
    fn passed(meter: &Meter, from: Instant, apart: Duration, count: u32) -> u32 {
        let times = (0..count).map(|n| from + apart * n);
        times.map(|now| u32::from(meter.admit(Direction::ToPeer, 100, now))).sum()
    }

    #[test]
    fn a_second_at_once_and_then_the_rate() {
        let t0 = origin();
        let meter = Meter::new(rate(10_000), t0);
        assert_eq!(passed(&meter, t0, Duration::ZERO, 1000), 100, "what flows in a second");
        assert_eq!(passed(&meter, t0, Duration::from_millis(1), 10_000), 1000 - 1, "in ten seconds");
        assert_eq!(passed(&meter, t0 + Duration::from_secs(60), Duration::from_millis(10), 6000), 6000);
        assert!(meter.admit(Direction::ToClient, 10_000, t0), "the other direction has a bucket of its own");
    }

    #[test]
    fn what_is_longer_than_a_second_passes_alone() {
        let t0 = origin();
        let meter = Meter::new(rate(10), t0);
        assert!(meter.admit(Direction::ToPeer, 1000, t0));
        assert!(!meter.admit(Direction::ToPeer, 1, t0 + Duration::from_secs(98)));
        assert!(meter.admit(Direction::ToPeer, 1, t0 + Duration::from_secs(100)));
    }

    #[test]
    fn extremes_neither_overflow_nor_stop() {
        let t0 = origin();
        for bytes in [1, u64::MAX] {
            let meter = Meter::new(rate(bytes), t0);
            assert!(meter.admit(Direction::ToPeer, 65_535, t0), "{bytes}");
        }
        let meter = Meter::new(rate(u64::MAX), t0);
        assert!((0..1000).all(|_| meter.admit(Direction::ToPeer, 65_535, t0)));
    }

    #[test]
    fn a_stream_rests_until_it_has_paid() {
        let t0 = origin();
        let meter = Meter::new(rate(10_000), t0);
        let charge = |bytes, after| meter.charge(Direction::ToPeer, bytes, t0 + Duration::from_secs(after));
        assert_eq!(charge(10_000, 0), t0, "what flows in a second");
        assert_eq!(charge(20_000, 0), t0 + Duration::from_secs(2));
        assert_eq!(charge(10_000, 3), t0 + Duration::from_secs(3));
        assert!(!meter.admit(Direction::ToPeer, 1, t0 + Duration::from_secs(3)), "datagrams pay with it");
    }

    #[test]
    fn threads_share_a_limit() {
        let t0 = origin();
        let meter = Meter::new(rate(10_000), t0);
        let passed: u32 = std::thread::scope(|scope| {
            let thread = || scope.spawn(|| passed(&meter, t0, Duration::ZERO, 1000));
            [thread(), thread()].map(|thread| thread.join().unwrap()).iter().sum()
        });
        assert_eq!(passed, 100);
    }

    #[test]
    fn nothing_is_kept_where_nothing_is_limited() {
        assert!(Meters::new([None, None]).is_none());
    }
}
