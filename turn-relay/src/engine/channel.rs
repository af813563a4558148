//! Channels: two bytes that stand for a peer (RFC 8656, section 12).

use std::time::{Duration, Instant};

use thirl_common::net::PeerAddr;
use thirl_common::wire::{AddressFamily, ChannelNumber};

use super::table::{Hashing, Table};

/// "Channel bindings last for 10 minutes unless refreshed" (RFC 8656, section 12).
pub const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

/// The channels of one allocation, found by either end. They have no timer: one that has expired is not seen, and is
/// forgotten when its number, its peer or its room is wanted.
#[derive(Debug, Default)]
pub(super) struct Channels {
    by_number: Table<ChannelNumber, Bound<PeerAddr>>,
    by_peer: Table<PeerAddr, Bound<ChannelNumber>>,
}

#[derive(Clone, Copy, Debug)]
struct Bound<T> {
    to: T,
    expires: Instant,
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
        self.by_number.get(&number).filter(|bound| bound.expires > now).map(|bound| bound.to)
    }

    /// The number that a peer is bound to now.
    #[inline]
    pub(super) fn number(&self, peer: PeerAddr, now: Instant) -> Option<ChannelNumber> {
        self.by_peer.get(&peer).filter(|bound| bound.expires > now).map(|bound| bound.to)
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
        if let Some(old) = self.by_number.get(&number).map(|bound| bound.to) {
            self.by_peer.remove(&old);
        }
        if let Some(old) = self.by_peer.get(&peer).map(|bound| bound.to) {
            self.by_number.remove(&old);
        }
        self.by_number.remove(&number);
        if self.by_number.len() >= limit {
            self.by_number.retain(|_, bound| bound.expires > now);
            self.by_peer.retain(|_, bound| bound.expires > now);
        }
        if self.by_number.len() >= limit {
            return Err(BindingRefused::NoRoom);
        }
        let expires = now + CHANNEL_LIFETIME;
        self.by_number.insert(number, Bound { to: peer, expires }, hashing);
        self.by_peer.insert(peer, Bound { to: number, expires }, hashing);
        Ok(())
    }

    /// Forgets the peers of a family.
    pub(super) fn remove_family(&mut self, family: AddressFamily) {
        self.by_number.retain(|_, bound| AddressFamily::of(bound.to.ip()) != family);
        self.by_peer.retain(|peer, _| AddressFamily::of(peer.ip()) != family);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::origin;

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
        assert_eq!((channels.by_number.len(), channels.by_peer.len()), (1, 1));
    }
}
