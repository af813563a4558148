//! Channels: two bytes that stand for a peer (RFC 8656, section 12).

use std::time::{Duration, Instant};

use thirl_common::index::Index;
use thirl_common::net::PeerAddr;
use thirl_common::wire::{AddressFamily, ChannelNumber};

use super::table::{FEW, Hashing};

/// "Channel bindings last for 10 minutes unless refreshed" (RFC 8656, section 12).
pub const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

/// The channels of one allocation, found by either end. They have no timer: one that has expired is not seen, and is
/// forgotten when its number, its peer or its room is wanted.
#[derive(Debug, Default)]
pub(super) struct Channels {
    list: Vec<Channel>,
    /// Where in the list they stand, once they were more than [`FEW`].
    ends: Option<Box<Ends>>,
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    number: ChannelNumber,
    peer: PeerAddr,
    expires: Instant,
}

#[derive(Debug)]
struct Ends {
    by_number: Index<Hashing>,
    by_peer: Index<Hashing>,
}

/// Why a channel is not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BindingRefused {
    /// The number is bound to another peer.
    NumberTaken,
    /// The peer is bound to another number.
    PeerTaken,
    /// The allocation has as many as it may have.
    NoRoom,
}

impl Channels {
    /// The peer that a number is bound to now.
    #[inline]
    pub(super) fn peer(&self, number: ChannelNumber, now: Instant) -> Option<PeerAddr> {
        let channel = &self.list[self.of_number(number)?];
        (channel.expires > now).then_some(channel.peer)
    }

    /// The number that a peer is bound to now.
    #[inline]
    pub(super) fn number(&self, peer: PeerAddr, now: Instant) -> Option<ChannelNumber> {
        let channel = &self.list[self.of_peer(peer)?];
        (channel.expires > now).then_some(channel.number)
    }

    /// Whether [`Channels::bind`] would succeed, apart from the room. "The channel number is not currently bound to a
    /// different transport address, and the transport address ... to a different channel number" (section 12.2).
    pub(super) fn check(
        &self,
        number: ChannelNumber,
        peer: PeerAddr,
        now: Instant,
    ) -> Result<(), BindingRefused> {
        if self.peer(number, now).is_some_and(|bound| bound != peer) {
            return Err(BindingRefused::NumberTaken);
        }
        if self.number(peer, now).is_some_and(|bound| bound != number) {
            return Err(BindingRefused::PeerTaken);
        }
        Ok(())
    }

    /// Binds, or binds again for as long.
    pub(super) fn bind(
        &mut self,
        number: ChannelNumber,
        peer: PeerAddr,
        now: Instant,
        limit: usize,
        hashing: &Hashing,
    ) -> Result<(), BindingRefused> {
        self.check(number, peer, now)?;
        // What the number or the peer was bound to has expired, unless it is the same.
        self.of_number(number).into_iter().for_each(|at| self.remove(at));
        self.of_peer(peer).into_iter().for_each(|at| self.remove(at));
        if self.list.len() >= limit {
            self.retain(|channel| channel.expires > now);
        }
        if self.list.len() >= limit {
            return Err(BindingRefused::NoRoom);
        }
        self.push(Channel { number, peer, expires: now + CHANNEL_LIFETIME }, hashing);
        Ok(())
    }

    /// Forgets the peers of a family.
    pub(super) fn remove_family(&mut self, family: AddressFamily) {
        self.retain(|channel| AddressFamily::of(channel.peer.ip()) != family);
    }

    #[inline]
    fn of_number(&self, number: ChannelNumber) -> Option<usize> {
        match &self.ends {
            None => self.list.iter().position(|channel| channel.number == number),
            Some(ends) => ends.by_number.get(&number, |at| self.list[at].number == number),
        }
    }

    #[inline]
    fn of_peer(&self, peer: PeerAddr) -> Option<usize> {
        match &self.ends {
            None => self.list.iter().position(|channel| channel.peer == peer),
            Some(ends) => ends.by_peer.get(&peer, |at| self.list[at].peer == peer),
        }
    }

    fn push(&mut self, channel: Channel, hashing: &Hashing) {
        if self.list.len() < FEW {
            self.list.reserve_exact(1);
        }
        self.list.push(channel);
        match &mut self.ends {
            Some(ends) => ends.insert(&channel, self.list.len() - 1),
            None if self.list.len() > FEW => {
                let mut ends = Ends::new(hashing);
                self.list.iter().enumerate().for_each(|(at, channel)| ends.insert(channel, at));
                self.ends = Some(Box::new(ends));
            }
            None => {}
        }
    }

    /// The last one takes its place.
    fn remove(&mut self, at: usize) {
        let removed = self.list.swap_remove(at);
        let Some(ends) = &mut self.ends else { return };
        ends.remove(&removed, at);
        if let Some(moved) = self.list.get(at) {
            ends.remove(moved, self.list.len());
            ends.insert(moved, at);
        }
    }

    fn retain(&mut self, keep: impl Fn(&Channel) -> bool) {
        for at in (0..self.list.len()).rev() {
            if !keep(&self.list[at]) {
                self.remove(at);
            }
        }
    }
}

impl Ends {
    fn new(hashing: &Hashing) -> Ends {
        Ends { by_number: Index::new(hashing.clone()), by_peer: Index::new(hashing.clone()) }
    }

    fn insert(&mut self, channel: &Channel, at: usize) {
        self.by_number.insert(&channel.number, at);
        self.by_peer.insert(&channel.peer, at);
    }

    fn remove(&mut self, channel: &Channel, at: usize) {
        self.by_number.remove(&channel.number, at);
        self.by_peer.remove(&channel.peer, at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::origin;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const A: ChannelNumber = ChannelNumber::MIN;
    const B: ChannelNumber = ChannelNumber::MAX;

    fn peer(port: u16) -> PeerAddr {
        PeerAddr(([192, 0, 2, 1], port).into())
    }

    #[test]
    fn a_number_has_one_peer_and_a_peer_one_number() {
        let (t0, hashing) = (origin(), Hashing::random());
        let mut channels = Channels::default();
        let mut bind = |number, port, now| channels.bind(number, peer(port), now, 2, &hashing);
        assert_eq!(bind(A, 1, t0), Ok(()));
        assert_eq!(bind(A, 2, t0), Err(BindingRefused::NumberTaken));
        assert_eq!(bind(B, 1, t0), Err(BindingRefused::PeerTaken));
        let later = t0 + CHANNEL_LIFETIME / 2;
        assert_eq!(bind(A, 1, later), Ok(()), "the same again is a refresh");
        assert_eq!(bind(A, 2, t0 + CHANNEL_LIFETIME), Err(BindingRefused::NumberTaken));
        let expired = later + CHANNEL_LIFETIME;
        assert_eq!(bind(A, 2, expired), Ok(()));
        assert_eq!(bind(B, 1, expired), Ok(()));
        assert_eq!(channels.peer(A, expired), Some(peer(2)));
        assert_eq!(
            (channels.number(peer(1), expired), channels.number(peer(2), expired)),
            (Some(B), Some(A))
        );
    }

    #[test]
    fn both_ends_expire_together() {
        let (t0, hashing) = (origin(), Hashing::random());
        let mut channels = Channels::default();
        channels.bind(A, peer(1), t0, 1, &hashing).unwrap();
        let end = t0 + CHANNEL_LIFETIME;
        let last = end - Duration::from_nanos(1);
        assert_eq!((channels.peer(A, last), channels.number(peer(1), last)), (Some(peer(1)), Some(A)));
        assert_eq!((channels.peer(A, end), channels.number(peer(1), end)), (None, None));
        // Across: the number was one peer's and the peer another number's, both long ago.
        assert_eq!(channels.bind(B, peer(2), last, 1, &hashing), Err(BindingRefused::NoRoom));
        assert_eq!(channels.bind(B, peer(1), end, 1, &hashing), Ok(()));
        assert_eq!((channels.peer(A, end), channels.peer(B, end)), (None, Some(peer(1))));
        assert_eq!(channels.list.len(), 1);
    }
    proptest! {
        #[test]
        fn many_are_found_like_few(steps in proptest::collection::vec((0..40u16, 0..40u16, 0..2u8), 0..200)) {
            let (t0, hashing) = (origin(), Hashing::random());
            let mut channels = Channels::default();
            let mut model = BTreeMap::new();
            for (step, (number, port, what)) in steps.into_iter().enumerate() {
                // The earliest expire on the way.
                let now = t0 + CHANNEL_LIFETIME * u32::try_from(step).unwrap() / 100;
                model.retain(|_, (_, expires)| *expires > now);
                if what == 0 && number % 8 == 0 {
                    channels.remove_family(AddressFamily::Ipv4);
                    model.clear();
                }
                let taken = model.get(&number).is_some_and(|(known, _)| *known != port)
                    || model.iter().any(|(known, (of, _))| *known != number && *of == port);
                let id = ChannelNumber::new(0x4000 + number).unwrap();
                let bound = channels.bind(id, peer(port), now, 30, &hashing);
                if !taken && (model.len() < 30 || model.contains_key(&number)) {
                    model.insert(number, (port, now + CHANNEL_LIFETIME));
                    prop_assert_eq!(bound, Ok(()));
                } else {
                    prop_assert!(bound.is_err());
                }
                for number in 0..40 {
                    let id = ChannelNumber::new(0x4000 + number).unwrap();
                    prop_assert_eq!(channels.peer(id, now), model.get(&number).map(|(port, _)| peer(*port)));
                }
                for port in 0..40 {
                    let known = model.iter().find(|(_, (of, _))| *of == port).map(|(number, _)| *number);
                    let number = known.and_then(|number| ChannelNumber::new(0x4000 + number));
                    prop_assert_eq!(channels.number(peer(port), now), number);
                }
            }
        }
    }
}
