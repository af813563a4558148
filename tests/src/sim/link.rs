//! What a link does to packets.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use super::packet::Packet;

/// The way between a host or middlebox and the network that it stands in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// One way.
    pub delay: Duration,
    /// Up to so much more, each packet by itself: some overtake others.
    pub jitter: Duration,
    /// The probability that a packet is lost, each way: 0 to 1.
    pub loss: f64,
    /// The probability that it comes twice, each way: 0 to 1.
    pub duplication: f64,
    /// The largest datagram with its headers, bytes; larger ones vanish, as where ICMP is filtered. The segments of TCP
    /// fit, as what is told in their SYNs (RFC 9293, section 3.7.1) sees to.
    pub mtu: usize,
}

impl Link {
    /// A link without loss.
    pub fn delayed(delay: Duration) -> Link {
        Link { delay, jitter: Duration::ZERO, loss: 0.0, duplication: 0.0, mtu: 1500 }
    }

    /// The delays after which a packet comes out: none if it is lost, two if it is doubled.
    pub(super) fn delays(&self, rng: &mut StdRng, packet: &Packet) -> impl Iterator<Item = Duration> + use<> {
        let happens = |rng: &mut StdRng, chance: f64| chance > 0.0 && rng.random_bool(chance);
        let too_large = !packet.is_tcp() && packet.len() > self.mtu;
        let copies = match too_large || happens(rng, self.loss) {
            true => 0,
            false => 1 + usize::from(happens(rng, self.duplication)),
        };
        let delays = [(); 2].map(|()| match self.jitter.is_zero() {
            true => self.delay,
            false => self.delay + rng.random_range(Duration::ZERO..self.jitter),
        });
        delays.into_iter().take(copies)
    }
}
