//! How much one source may ask, in memory that does not grow.
//!
//! A table of sources would have to forget some when a flood with forged addresses fills it, and each way of forgetting
//! helps the flood. So there is no table: every prefix has one cell in each of two rows, found by a keyed hash, and shares
//! each with other prefixes. A request passes if *either* cell has room, so a busy source hinders another only where both
//! cells fall together (one pair of prefixes in 2^28), and a flood from everywhere hinders somebody only when it is as
//! large as all cells' rates together: 2^14 times what one source may ask. It is a count-min sketch (Cormode and
//! Muthukrishnan 2005) with conservative update, whose counters are leaky buckets (GCRA, ITU-T I.371).

use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;
use std::time::Instant;

/// Cells of a row. Two rows of 8 bytes each: 256 KiB for each limiter.
const CELLS: usize = 1 << 14;

const NANOSECONDS: u64 = 1_000_000_000;

/// How much one prefix may ask: an IPv4 address, or an IPv6 /64.
///
/// A host chooses among the 2^64 addresses of its link as it likes (RFC 4291, section 2.5.1), so that counting each would
/// limit nobody; a wider prefix may hold many customers. An IPv4 address is the smallest thing that one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Requests a second for ever.
    pub per_second: u32,
    /// Requests at once, after a rest.
    pub burst: u32,
}

impl Default for Limit {
    /// 1000 a second, 2000 at once. Ten thousand hosts behind one address, each with a keep-alive in 15 s (RFC 8445,
    /// section 11), ask 667 times a second; a carrier's NAT has some hundred hosts to an address. Who forges one address
    /// makes us send it 0.5 Mbit/s.
    fn default() -> Self {
        Limit { per_second: 1000, burst: 2000 }
    }
}

impl Limit {
    /// Each of `shards` limiters' share. A source with many ports is spread over all shards; one port is one shard's.
    #[must_use]
    pub fn share(self, shards: usize) -> Limit {
        let shards = u32::try_from(shards).unwrap_or(u32::MAX).max(1);
        Limit { per_second: self.per_second.div_ceil(shards), burst: self.burst.div_ceil(shards) }
    }
}

/// Counts sources and says who asks too much. Allocates when it is made, and never again.
///
/// ```
/// use std::time::Duration;
/// use thirl_stun_server::{Limit, Limiter};
///
/// # #[expect(clippy::disallowed_methods, reason = "an example's clock")]
/// let now = std::time::Instant::now();
/// let mut limiter = Limiter::new(Limit { per_second: 10, burst: 2 }, [7; 16]);
/// let client = "192.0.2.1".parse()?;
/// assert!(limiter.admit(now, client, 1) && limiter.admit(now, client, 1));
/// assert!(!limiter.admit(now, client, 1));
/// assert!(limiter.admit(now + Duration::from_millis(100), client, 1));
/// assert_eq!(limiter.limited(), 1);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Limiter {
    /// Per cell, when what it admitted will have drained at the allowed rate, in nanoseconds since `epoch`.
    rows: [Box<[u64]>; 2],
    /// The seed, hashed.
    keyed: DefaultHasher,
    epoch: Option<Instant>,
    /// What a request costs, in nanoseconds.
    interval: u64,
    /// How far ahead of the clock a cell may be, in nanoseconds.
    tolerance: u64,
    limited: u64,
}

impl Limiter {
    /// A limiter that has seen nobody. The seed is secret: who knew it could choose prefixes that share cells.
    pub fn new(limit: Limit, seed: [u8; 16]) -> Limiter {
        let mut keyed = DefaultHasher::new();
        keyed.write(&seed);
        let interval = NANOSECONDS / u64::from(limit.per_second.max(1));
        let row = || vec![0; CELLS].into_boxed_slice();
        Limiter {
            rows: [row(), row()],
            keyed,
            epoch: None,
            interval,
            tolerance: interval * u64::from(limit.burst.max(1)),
            limited: 0,
        }
    }

    /// Whether `source` may have something done that costs as much as `cost` requests. O(1).
    ///
    /// What is refused costs the source nothing: it may go on at the allowed rate.
    #[inline]
    pub fn admit(&mut self, now: Instant, source: IpAddr, cost: u32) -> bool {
        let epoch = *self.epoch.get_or_insert(now);
        let now = u64::try_from(now.saturating_duration_since(epoch).as_nanos()).unwrap_or(u64::MAX);
        let [first, second] = self.places(source);
        let [row, other_row] = &mut self.rows;
        let (Some(a), Some(b)) = (row.get_mut(first), other_row.get_mut(second)) else { return false };
        let drained = now.max((*a).min(*b)).saturating_add(self.interval.saturating_mul(u64::from(cost)));
        if drained > now.saturating_add(self.tolerance) {
            self.limited += 1;
            return false;
        }
        (*a, *b) = (drained.max(*a), drained.max(*b));
        true
    }

    /// How often it refused.
    pub fn limited(&self) -> u64 {
        self.limited
    }

    /// The cell of a source's prefix in each row.
    #[expect(clippy::cast_possible_truncation, reason = "a part of the hash")]
    fn places(&self, source: IpAddr) -> [usize; 2] {
        let mut hasher = self.keyed.clone();
        match source.to_canonical() {
            IpAddr::V4(ip) => hasher.write_u32(ip.to_bits()),
            IpAddr::V6(ip) => hasher.write_u64((ip.to_bits() >> 64) as u64),
        }
        let hash = hasher.finish();
        [hash as usize % CELLS, (hash >> 32) as usize % CELLS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn limiter(per_second: u32, burst: u32) -> Limiter {
        Limiter::new(Limit { per_second, burst }, [3; 16])
    }

    /// How many of `requests` pass, spread evenly over `time` from `start` on.
    fn passed(limiter: &mut Limiter, start: Instant, time: Duration, requests: u32, source: IpAddr) -> usize {
        (0..requests).filter(|n| limiter.admit(start + time / requests * *n, source, 1)).count()
    }

    #[test]
    fn the_burst_passes_and_then_the_rate() {
        let (t0, source) = (origin(), "192.0.2.1".parse().unwrap());
        let mut limiter = limiter(100, 50);
        assert_eq!(passed(&mut limiter, t0, Duration::ZERO, 1000, source), 50);
        assert_eq!(limiter.limited(), 950);
        let second = passed(&mut limiter, t0, Duration::from_secs(10), 10_000, source);
        assert!((999..=1000).contains(&second), "{second}");
        assert_eq!(passed(&mut limiter, t0 + Duration::from_secs(20), Duration::ZERO, 1000, source), 50);
    }

    #[test]
    fn what_costs_more_passes_less_often() {
        let (t0, source) = (origin(), "192.0.2.1".parse().unwrap());
        let mut limiter = limiter(1, 17);
        let count = (0..10).filter(|_| limiter.admit(t0, source, 8)).count();
        assert_eq!(count, 2);
        assert!(limiter.admit(t0, source, 1), "what was refused cost nothing");
        assert!(!limiter.admit(t0, source, 1));
    }

    #[test]
    fn a_prefix_is_one_source_and_its_neighbour_another() {
        let t0 = origin();
        for (a, same, other) in [
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::9", "2001:db8:0:2::1"),
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
        ] {
            let mut limiter = limiter(1, 1);
            let mut admit = |ip: &str| limiter.admit(t0, ip.parse().unwrap(), 1);
            assert_eq!([admit(a), admit(same), admit(other)], [true, false, true], "{a}");
        }
    }

    #[test]
    fn a_flood_from_everywhere_hinders_hardly_anybody() {
        let t0 = origin();
        let mut limiter = limiter(100, 200);
        let mut flood = 1u32;
        let mut refused = 0;
        // A second in which a million forged sources ask once each, while a thousand honest ones ask ten times each.
        for step in 0..1000u32 {
            let now = t0 + Duration::from_millis(u64::from(step));
            for _ in 0..1000 {
                flood = flood.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                limiter.admit(now, Ipv4Addr::from_bits(flood).into(), 1);
            }
            for honest in 0..10u32 {
                let source = Ipv4Addr::from_bits(0xc612_0000 + (step * 10 + honest) % 1000).into();
                refused += u32::from(!limiter.admit(now, source, 1));
            }
        }
        assert_eq!(refused, 0);
    }

    #[test]
    fn the_seed_decides_who_shares_cells() {
        let (a, b) = (Limiter::new(Limit::default(), [1; 16]), Limiter::new(Limit::default(), [2; 16]));
        let same = (0..1000).filter(|n| {
            let source = Ipv4Addr::from_bits(*n).into();
            a.places(source) == b.places(source)
        });
        assert!(same.count() < 2);
    }

    #[test]
    fn time_that_stands_still_or_goes_back_and_the_least_limit_do_no_harm() {
        let (t0, source) = (origin() + Duration::from_secs(10), "192.0.2.1".parse().unwrap());
        let mut limiter = limiter(0, 0);
        assert!(limiter.admit(t0, source, 1));
        assert!(!limiter.admit(t0 - Duration::from_secs(5), source, 1));
        assert!(!limiter.admit(t0, source, u32::MAX));
        assert!(limiter.admit(t0 + Duration::from_secs(1), source, 1));
    }
}
