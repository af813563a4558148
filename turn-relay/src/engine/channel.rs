//! Channels: two bytes that stand for a peer (RFC 8656, section 12).

use std::time::{Duration, Instant};

use thirl_common::net::PeerAddr;
use thirl_common::wire::{
    AttributeError, AttributeType, CHANNEL_HEADER_LEN, FrameLen, FramingError, Message, padded,
};

use super::table::{Hashing, Table};

/// "Channel bindings last for 10 minutes unless refreshed" (RFC 8656, section 12).
pub const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

/// A channel number that a client of this server may bind: 0x4000 to 0x7FFF.
///
/// Clients of RFC 8656 keep to 0x4FFF (section 12), and so does [`thirl_common::wire::ChannelNumber`], so that ChannelData
/// can share a port with QUIC. Those of RFC 5766 (section 11), coturn's among them, use all, and nothing that a TURN
/// server's port speaks starts with 0x50 to 0x7F.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(u16);

impl Channel {
    /// The channel with this number, if it is one that can be bound.
    #[inline]
    pub const fn new(number: u16) -> Option<Channel> {
        if matches!(number, 0x4000..=0x7FFF) { Some(Channel(number)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Whether a datagram or a stream's next frame is ChannelData: STUN starts with 0 to 3.
    #[inline]
    pub(crate) fn starts(bytes: &[u8]) -> bool {
        matches!(bytes, [0x40..=0x7F, ..])
    }

    /// Reads a ChannelData message. What comes after the length is padding (RFC 8656, section 12.4).
    #[inline]
    pub(super) fn parse(bytes: &[u8]) -> Option<(Channel, &[u8])> {
        let (&[n0, n1, l0, l1], rest) = bytes.split_first_chunk()?;
        let channel = Channel::new(u16::from_be_bytes([n0, n1]))?;
        Some((channel, rest.get(..usize::from(u16::from_be_bytes([l0, l1])))?))
    }

    /// What stands before `len` bytes of data; `None` if they do not fit the 16-bit length.
    #[inline]
    pub(super) fn header(self, len: usize) -> Option<[u8; CHANNEL_HEADER_LEN]> {
        let [n0, n1] = self.0.to_be_bytes();
        let [l0, l1] = u16::try_from(len).ok()?.to_be_bytes();
        Some([n0, n1, l0, l1])
    }

    /// The CHANNEL-NUMBER of a request.
    pub(super) fn of(message: &Message<'_>) -> Result<Channel, AttributeError> {
        let attribute = message.attributes().find(|attribute| attribute.ty == AttributeType::CHANNEL_NUMBER);
        match attribute.map(|attribute| attribute.value) {
            Some(&[n0, n1, _, _]) => Channel::new(u16::from_be_bytes([n0, n1])),
            _ => None,
        }
        .ok_or(AttributeError { attribute: AttributeType::CHANNEL_NUMBER })
    }
}

/// Where a message ends in a client's stream: [`thirl_common::wire::frame_len`] with all channels.
#[inline]
pub fn frame_len(buffered: &[u8]) -> Result<FrameLen, FramingError> {
    match buffered {
        [0x40..=0x7F, _, l0, l1, ..] => {
            let frame = CHANNEL_HEADER_LEN + usize::from(u16::from_be_bytes([*l0, *l1]));
            let padded = padded(frame);
            Ok(if buffered.len() < padded {
                FrameLen::NeedMore(padded)
            } else {
                FrameLen::Complete { frame, padded }
            })
        }
        [0x40..=0x7F, ..] => Ok(FrameLen::NeedMore(CHANNEL_HEADER_LEN)),
        _ => thirl_common::wire::frame_len(buffered),
    }
}

/// The channels of one allocation, found by either end. They have no timer: one that has expired is not seen, and is
/// forgotten when its number, its peer or its room is wanted.
#[derive(Debug, Default)]
pub(super) struct Channels {
    by_number: Table<Channel, Bound<PeerAddr>>,
    by_peer: Table<PeerAddr, Bound<Channel>>,
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
    pub(super) fn peer(&self, number: Channel, now: Instant) -> Option<PeerAddr> {
        self.by_number.get(&number).filter(|bound| bound.expires > now).map(|bound| bound.to)
    }

    /// The number that a peer is bound to now.
    #[inline]
    pub(super) fn number(&self, peer: PeerAddr, now: Instant) -> Option<Channel> {
        self.by_peer.get(&peer).filter(|bound| bound.expires > now).map(|bound| bound.to)
    }

    /// Whether [`Channels::bind`] would succeed, apart from the room. "The channel number is not currently bound to a
    /// different transport address, and the transport address ... to a different channel number" (section 12.2).
    pub(super) fn check(&self, number: Channel, peer: PeerAddr, now: Instant) -> Result<(), BindingRefused> {
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
        number: Channel,
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
            self.by_number.retain(|bound| bound.expires > now);
            self.by_peer.retain(|bound| bound.expires > now);
        }
        if self.by_number.len() >= limit {
            return Err(BindingRefused::NoRoom);
        }
        let expires = now + CHANNEL_LIFETIME;
        self.by_number.insert(number, Bound { to: peer, expires }, hashing);
        self.by_peer.insert(peer, Bound { to: number, expires }, hashing);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::origin;

    const A: Channel = Channel(0x4000);
    const B: Channel = Channel(0x7FFF);

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

    #[test]
    fn channels_of_both_rfcs() {
        for (number, valid) in
            [(0x3FFF, false), (0x4000, true), (0x4FFF, true), (0x5000, true), (0x7FFF, true), (0x8000, false)]
        {
            assert_eq!(Channel::new(number).is_some(), valid, "{number:#x}");
        }
        assert_eq!(Channel::parse(b"\x7f\xff\0\x01ab"), Some((B, &b"a"[..])));
        assert_eq!(Channel::parse(b"\x7f\xff\0\x03ab"), None);
        assert_eq!(Channel::parse(b"\x80\0\0\0"), None);
        assert_eq!(B.header(258), Some([0x7F, 0xFF, 1, 2]));
        assert_eq!(B.header(65_536), None);
    }

    #[test]
    fn frames_end_where_the_wires_do() {
        let whole = [[0x4F, 0xFF, 0, 5], [1, 2, 3, 4], [5, 0, 0, 0]].concat();
        for len in 0..=whole.len() {
            let of_wire = thirl_common::wire::frame_len(&whole[..len]);
            assert_eq!(frame_len(&whole[..len]), of_wire);
            let mut wider = whole.clone();
            wider[0] = 0x7F;
            assert_eq!(frame_len(&wider[..len]), of_wire, "and for the channels above");
        }
        assert!(frame_len(b"\x80").is_err());
    }
}
