//! What one source and one connection may ask of the server.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The part of the network that an address is counted under: an IPv4 /24, an IPv6 /48 (what one site is given,
/// RFC 6177, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourcePrefix(IpAddr);

impl SourcePrefix {
    /// The prefix of an address; an IPv4-mapped one counts as IPv4.
    pub fn of(address: IpAddr) -> SourcePrefix {
        SourcePrefix(match address.to_canonical() {
            IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << 8)).into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 80)).into(),
        })
    }
}

/// Counts something by source prefix. As large as what it counts, never larger.
#[derive(Debug, Default)]
pub(crate) struct PrefixCounts(HashMap<SourcePrefix, u32>);

impl PrefixCounts {
    pub(crate) fn get(&self, prefix: SourcePrefix) -> u32 {
        self.0.get(&prefix).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, prefix: SourcePrefix) {
        *self.0.entry(prefix).or_insert(0) += 1;
    }

    pub(crate) fn remove(&mut self, prefix: SourcePrefix) {
        if let Some(count) = self.0.get_mut(&prefix) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&prefix);
            }
        }
    }
}

/// How much a connection may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come back each second. A frame costs one, and one more for each whole KiB.
    pub per_second: u32,
    /// Tokens that a quiet connection saves up.
    pub burst: u32,
}

/// A token bucket, counted in thousandths of a token so that nothing is lost to rounding.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    rate: Rate,
    millitokens: u64,
    filled_at: Instant,
}

impl TokenBucket {
    pub(crate) fn new(rate: Rate, now: Instant) -> TokenBucket {
        TokenBucket { rate, millitokens: u64::from(rate.burst) * 1000, filled_at: now }
    }

    /// Takes the cost of a frame of `size` bytes, if the tokens are there.
    pub(crate) fn take(&mut self, now: Instant, size: usize) -> bool {
        self.fill(now);
        let cost = 1000 * (1 + size as u64 / 1024);
        let enough = self.millitokens >= cost;
        if enough {
            self.millitokens -= cost;
        }
        enough
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled_at).min(Duration::from_secs(3600));
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(0);
        self.filled_at += Duration::from_millis(millis);
        let full = u64::from(self.rate.burst) * 1000;
        self.millitokens = full.min(self.millitokens + millis * u64::from(self.rate.per_second));
        if elapsed >= Duration::from_secs(3600) {
            self.filled_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(address: &str) -> SourcePrefix {
        SourcePrefix::of(address.parse().unwrap())
    }

    #[test]
    fn prefixes_are_a_24_and_a_48() {
        assert_eq!(prefix("192.0.2.1"), prefix("::ffff:192.0.2.255"));
        assert_ne!(prefix("192.0.2.1"), prefix("192.0.3.1"));
        assert_eq!(prefix("2001:db8:1:2::3"), prefix("2001:db8:1:ffff::"));
        assert_ne!(prefix("2001:db8:1::"), prefix("2001:db8:2::"));
    }

    #[test]
    fn counts_end_where_they_began() {
        let mut counts = PrefixCounts::default();
        counts.add(prefix("192.0.2.1"));
        counts.add(prefix("192.0.2.2"));
        assert_eq!(counts.get(prefix("192.0.2.3")), 2);
        counts.remove(prefix("192.0.2.1"));
        counts.remove(prefix("192.0.2.1"));
        counts.remove(prefix("192.0.2.1"));
        assert!(counts.0.is_empty());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Rate { per_second: 10, burst: 4 }, start);
        assert!(!bucket.take(start, 4096), "costs five");
        assert!(bucket.take(start, 2048) && bucket.take(start, 0) && !bucket.take(start, 0));
        assert!(!bucket.take(start + Duration::from_millis(99), 0));
        assert!(bucket.take(start + Duration::from_millis(100), 0));
        let later = start + Duration::from_secs(100_000);
        assert!(bucket.take(later, 3072) && !bucket.take(later, 0));
        assert!(bucket.take(later + Duration::from_millis(100), 0));
    }
}
