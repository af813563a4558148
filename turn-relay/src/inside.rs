//! Which relayed transport addresses are this server's own, and whose: what one of its clients sends to another of them
//! need not go through the kernel.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use thirl_common::net::RelayedAddr;

/// So many IP addresses are known at most; what is sent to relays on others goes through the kernel.
const IPS: usize = 8;

/// The shard of each relay, by its address outside. Looked up for each packet, without a lock.
#[derive(Debug, Default)]
pub(crate) struct Inside([OnceLock<Ports>; IPS]);

#[derive(Debug)]
struct Ports {
    ip: IpAddr,
    /// By port: 0, or 1 more than the shard's number.
    shards: Box<[AtomicU16]>,
}

impl Ports {
    fn new(ip: IpAddr) -> Ports {
        Ports { ip, shards: (0..=u16::MAX).map(|_| AtomicU16::new(0)).collect() }
    }
}

impl Inside {
    /// A relay is there.
    pub(crate) fn insert(&self, RelayedAddr(addr): RelayedAddr, shard: usize) {
        let Ok(number) = u16::try_from(shard + 1) else { return };
        // Each place is one address's for ever: the first one's that came there.
        let mut places = self.0.iter().map(|place| place.get_or_init(|| Ports::new(addr.ip())));
        if let Some(ports) = places.find(|ports| ports.ip == addr.ip()) {
            ports.shards[usize::from(addr.port())].store(number, Ordering::Release);
        }
    }

    /// It is no more.
    pub(crate) fn remove(&self, RelayedAddr(addr): RelayedAddr) {
        if let Some(shard) = self.entry(addr) {
            shard.store(0, Ordering::Release);
        }
    }

    /// The shard of the relay that has this address.
    #[inline]
    pub(crate) fn shard(&self, addr: SocketAddr) -> Option<usize> {
        usize::from(self.entry(addr)?.load(Ordering::Acquire)).checked_sub(1)
    }

    #[inline]
    fn entry(&self, addr: SocketAddr) -> Option<&AtomicU16> {
        let mut known = self.0.iter().map_while(OnceLock::get);
        known.find(|ports| ports.ip == addr.ip())?.shards.get(usize::from(addr.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_come_and_go() {
        let inside = Inside::default();
        let addr = |ip: u8, port| RelayedAddr(([192, 0, 2, ip], port).into());
        assert_eq!(inside.shard(addr(1, 50000).0), None);
        inside.insert(addr(1, 50000), 0);
        inside.insert(addr(2, 65535), 7);
        assert_eq!(inside.shard(addr(1, 50000).0), Some(0));
        assert_eq!(inside.shard(addr(2, 65535).0), Some(7));
        assert_eq!(inside.shard(addr(2, 50000).0), None);
        inside.remove(addr(1, 50000));
        assert_eq!(inside.shard(addr(1, 50000).0), None);
    }

    #[test]
    fn addresses_beyond_the_table_are_left_to_the_kernel() {
        let inside = Inside::default();
        for ip in 0..=IPS {
            inside.insert(RelayedAddr(([192, 0, 2, u8::try_from(ip).unwrap()], 50000).into()), 1);
        }
        let known = (0..=IPS)
            .filter(|ip| inside.shard(([192, 0, 2, u8::try_from(*ip).unwrap()], 50000).into()).is_some());
        assert_eq!(known.count(), IPS);
    }
}
