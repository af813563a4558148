//! A shard's relays: their sockets, and their addresses outside.

use std::net::SocketAddr;

use thirl_common::index::Index;
use thirl_common::io::SocketId;
use thirl_common::net::RelayedAddr;

use crate::engine::RelayId;

/// A relay that has a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relay {
    pub(crate) id: RelayId,
    pub(crate) socket: SocketId,
    pub(crate) relayed: RelayedAddr,
}

/// The relays by [`RelayId`] and by address, each look-up O(1).
#[derive(Debug, Default)]
pub(crate) struct Relays {
    /// Those of IPv4 and those of IPv6, each at half of its slot.
    by_family: [Vec<Option<Relay>>; 2],
    by_addr: Index<foldhash::fast::RandomState>,
}

/// Which family, and where among its relays.
#[inline]
fn place(id: RelayId) -> (usize, usize) {
    (id.slot() % 2, id.slot() / 2)
}

impl Relays {
    pub(crate) fn len(&self) -> usize {
        self.by_family.iter().flatten().flatten().count()
    }

    #[inline]
    pub(crate) fn get(&self, id: RelayId) -> Option<&Relay> {
        let (family, at) = place(id);
        self.by_family[family].get(at)?.as_ref().filter(|relay| relay.id == id)
    }

    /// The relay that has this address outside.
    #[inline]
    pub(crate) fn at(&self, addr: SocketAddr) -> Option<&Relay> {
        let relays = &self.by_family[usize::from(addr.is_ipv6())];
        let there = |at: usize| relays.get(at)?.as_ref();
        let at = self.by_addr.get(&addr, |at| there(at).is_some_and(|relay| relay.relayed.0 == addr))?;
        there(at)
    }

    /// Two local addresses may be called the same outside: of their relays the later one is found by it.
    pub(crate) fn insert(&mut self, relay: Relay) {
        let RelayedAddr(addr) = relay.relayed;
        let (family, at) = place(relay.id);
        let known = self.at(addr).map(|known| known.id);
        let relays = &mut self.by_family[family];
        if relays.len() <= at {
            relays.resize(at + 1, None);
        }
        relays[at] = Some(relay);
        match known {
            Some(known) => self.by_addr.set(&addr, place(known).1, at),
            None => self.by_addr.insert(&addr, at),
        }
    }

    /// Takes it out, and says whether it was found by its address.
    pub(crate) fn remove(&mut self, id: RelayId) -> Option<(Relay, bool)> {
        let relay = *self.get(id)?;
        let found = self.at(relay.relayed.0).is_some_and(|found| found.id == id);
        let (family, at) = place(id);
        if found {
            self.by_addr.remove(&relay.relayed.0, at);
        }
        self.by_family[family][at] = None;
        Some((relay, found))
    }

    /// Gives back room that is not needed.
    pub(crate) fn shrink(&mut self) {
        for relays in &mut self.by_family {
            while let Some(None) = relays.last() {
                relays.pop();
            }
            relays.shrink_to_fit();
        }
        self.by_addr.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(number: u64, addr: &str) -> Relay {
        let relayed = RelayedAddr(addr.parse().unwrap());
        Relay { id: RelayId::from_u64(number), socket: SocketId::default(), relayed }
    }

    #[test]
    fn relays_are_found_by_id_and_by_address() {
        let mut relays = Relays::default();
        let [one, two, six] =
            [relay(0, "192.0.2.1:1"), relay(1, "192.0.2.1:2"), relay(1 << 32, "[2001:db8::1]:1")];
        [one, two, six].into_iter().for_each(|relay| relays.insert(relay));
        assert_eq!(relays.len(), 3);
        for known in [one, two, six] {
            assert_eq!(relays.get(known.id).map(|relay| relay.relayed), Some(known.relayed));
            assert_eq!(relays.at(known.relayed.0).map(|relay| relay.id), Some(known.id));
        }
        let (removed, found) = relays.remove(one.id).unwrap();
        assert_eq!((removed.id, found), (one.id, true));
        assert!(relays.get(one.id).is_none() && relays.at(one.relayed.0).is_none());
        relays.remove(two.id).unwrap();
        relays.shrink();
        assert_eq!((relays.len(), relays.by_family[0].capacity()), (1, 0));
        assert_eq!(relays.at(six.relayed.0).map(|relay| relay.id), Some(six.id));
    }

    #[test]
    fn of_two_with_one_address_the_later_is_found() {
        let mut relays = Relays::default();
        let (early, late) = (relay(0, "192.0.2.1:1"), relay(1, "192.0.2.1:1"));
        relays.insert(early);
        relays.insert(late);
        assert_eq!(relays.at(late.relayed.0).map(|relay| relay.id), Some(late.id));
        assert!(!relays.remove(early.id).unwrap().1);
        assert!(relays.remove(late.id).unwrap().1);
        assert!(relays.at(late.relayed.0).is_none() && relays.by_addr.is_empty());
    }

    #[test]
    fn an_id_of_an_earlier_allocation_names_nothing() {
        let mut relays = Relays::default();
        let (old, new) = (relay(0, "192.0.2.1:1"), relay(1 << 33, "192.0.2.1:2"));
        assert_eq!(old.id.slot(), new.id.slot());
        relays.insert(new);
        assert!(relays.get(old.id).is_none() && relays.remove(old.id).is_none());
    }
}
