//! Data between client and peer: Send and Data indications, ChannelData (RFC 8656, sections 11 and 12).
//!
//! Nothing here allocates, copies the payload, or looks at more than one allocation.

use std::ops::Range;
use std::time::Instant;

use thirl_common::net::{FiveTuple, PeerAddr};
use thirl_common::wire::{
    AddressFamily, AttributeType, ChannelData, Class, Data, DontFragment, Message, MessageWriter, Method,
    TransactionId, XorPeerAddress, padded,
};

use super::Engine;
use super::bandwidth::Direction;
use super::output::RelayId;

/// Comprehension-required attributes of a Send indication.
const KNOWN_IN_SEND: [AttributeType; 3] =
    [AttributeType::XOR_PEER_ADDRESS, AttributeType::DATA, AttributeType::DONT_FRAGMENT];

/// The longest prefix: a Data indication's header (20), XOR-PEER-ADDRESS for IPv6 (24), DATA's header (4).
const MAX_PREFIX_LEN: usize = 48;

/// Application data of the datagram that was handed in, which is to be sent on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forward {
    /// To a peer, as a datagram from the relay's socket.
    ToPeer {
        /// From which socket.
        relay: RelayId,
        /// Where to.
        to: PeerAddr,
        /// Which bytes of what was handed in.
        range: Range<usize>,
        /// Whether nobody may fragment it: the DF bit of IPv4. That is for this datagram alone; others have the bit clear,
        /// channel data too (RFC 8656, section 14, the alternate behavior).
        dont_fragment: bool,
    },
    /// To the client: `prefix`, the bytes of `range`, then `padding` zeros, as one datagram or as a part of its stream.
    ToClient {
        /// Which client, and from which address of the server.
        five_tuple: FiveTuple,
        /// A ChannelData header, or a Data indication up to its data.
        prefix: Prefix,
        /// Which bytes of what was handed in.
        range: Range<usize>,
        /// 0 to 3.
        padding: usize,
    },
    /// Nothing. But what follows in the client's stream may be no messages: it is to be left until
    /// [`Engine::poll_held`] says what becomes of it.
    Hold,
}

/// At most 48 bytes, without an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    bytes: [u8; MAX_PREFIX_LEN],
    len: usize,
}

impl Prefix {
    fn new(content: &[u8]) -> Option<Prefix> {
        let mut bytes = [0; MAX_PREFIX_LEN];
        bytes.get_mut(..content.len())?.copy_from_slice(content);
        Some(Prefix { bytes, len: content.len() })
    }

    /// A Data indication up to its `len` bytes of data; `None` if they do not fit its 16-bit lengths.
    fn data_indication(id: TransactionId, peer: PeerAddr, len: usize) -> Option<Prefix> {
        let mut bytes = [0; MAX_PREFIX_LEN];
        let mut writer = MessageWriter::new(&mut bytes, Class::Indication, Method::DATA, id).ok()?;
        writer.attribute(&XorPeerAddress(peer.0)).ok()?;
        writer.raw(AttributeType::DATA, &[]).ok()?;
        let written = writer.len();
        let message_len = u16::try_from(written - 20 + padded(len)).ok()?;
        bytes[2..4].copy_from_slice(&message_len.to_be_bytes());
        bytes[written - 2..written].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
        Some(Prefix { bytes, len: written })
    }
}

impl AsRef<[u8]> for Prefix {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::ops::Deref for Prefix {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Engine {
    /// ChannelData of a client (RFC 8656, section 12.6).
    #[inline]
    pub(super) fn relay_channel_data(
        &mut self,
        now: Instant,
        five_tuple: FiveTuple,
        datagram: &[u8],
    ) -> Option<Forward> {
        let dropped = &mut self.counters.dropped;
        let Ok(ChannelData { channel, data }) = ChannelData::parse_at_relay(datagram) else {
            dropped.malformed += 1;
            return None;
        };
        let Some((id, allocation)) = self.allocations.find_mut(&five_tuple) else {
            let here = self.arrives(now, five_tuple, datagram);
            return if here { self.relay_channel_data(now, five_tuple, datagram) } else { None };
        };
        let Some(to) = allocation.channels.peer(channel, now) else {
            dropped.no_channel += 1;
            return None;
        };
        if !allocation.admits(Direction::ToPeer, data.len(), now) {
            dropped.to_peer_over_bandwidth += 1;
            return None;
        }
        allocation.traffic.count_to_peer(data.len());
        self.counters.relayed.count_to_peer(data.len());
        let relay = RelayId { allocation: id, family: AddressFamily::of(to.ip()) };
        Some(Forward::ToPeer { relay, to, range: range_in(datagram, data)?, dont_fragment: false })
    }

    /// A Send indication (RFC 8656, section 11.2). Whatever is wrong with it, nobody is told.
    pub(super) fn relay_send(
        &mut self,
        now: Instant,
        five_tuple: FiveTuple,
        message: &Message<'_>,
    ) -> Option<Forward> {
        let dropped = &mut self.counters.dropped;
        let well_formed = message.unknown_attributes(&KNOWN_IN_SEND).is_empty();
        let (true, Ok(XorPeerAddress(to)), Ok(Data(data)), Ok(dont_fragment)) =
            (well_formed, message.require(), message.require(), message.get::<DontFragment>())
        else {
            dropped.malformed += 1;
            return None;
        };
        let Some((id, allocation)) = self.allocations.find_mut(&five_tuple) else {
            let here = self.arrives(now, five_tuple, message.as_bytes());
            return if here { self.relay_send(now, five_tuple, message) } else { None };
        };
        let reach = allocation.permissions.get(to.ip(), now).filter(|_| allocation.tcp.is_none());
        if !reach.is_some_and(|reach| reach.admits(to.port())) {
            dropped.to_peer_not_permitted += 1;
            return None;
        }
        if !allocation.admits(Direction::ToPeer, data.len(), now) {
            dropped.to_peer_over_bandwidth += 1;
            return None;
        }
        allocation.traffic.count_to_peer(data.len());
        self.counters.relayed.count_to_peer(data.len());
        let relay = RelayId { allocation: id, family: AddressFamily::of(to.ip()) };
        let range = range_in(message.as_bytes(), data)?;
        Some(Forward::ToPeer { relay, to: PeerAddr(to), range, dont_fragment: dont_fragment.is_some() })
    }

    /// A datagram of a peer (RFC 8656, sections 11.3 and 12.7).
    #[inline]
    pub(super) fn relay_to_client(
        &mut self,
        now: Instant,
        relay: RelayId,
        from: PeerAddr,
        len: usize,
    ) -> Option<Forward> {
        let dropped = &mut self.counters.dropped;
        let Some(allocation) = self.allocations.of_relay(relay) else {
            dropped.no_relay += 1;
            return None;
        };
        if allocation.permissions.get(from.ip(), now).is_none() {
            dropped.from_peer_not_permitted += 1;
            return None;
        }
        if !allocation.connected {
            dropped.no_client += 1;
            return None;
        }
        if !allocation.admits(Direction::ToClient, len, now) {
            dropped.to_client_over_bandwidth += 1;
            return None;
        }
        let five_tuple = allocation.five_tuple;
        let (prefix, padding) = match allocation.channels.number(from, now) {
            Some(channel) => {
                // Padded in a stream; "over UDP, the padding is not required" (RFC 8656, section 12.5).
                let padding = if five_tuple.transport.is_reliable() { padded(len) - len } else { 0 };
                (ChannelData::header(channel, len).and_then(|header| Prefix::new(&header)), padding)
            }
            None => {
                let id = TransactionId(self.transaction_ids.next());
                (Prefix::data_indication(id, from, len), padded(len) - len)
            }
        };
        let Some(prefix) = prefix else {
            dropped.oversized += 1;
            return None;
        };
        allocation.traffic.count_to_client(len);
        self.counters.relayed.count_to_client(len);
        Some(Forward::ToClient { five_tuple, prefix, range: 0..len, padding })
    }
}

/// Where a part of a datagram stands in it.
#[inline]
fn range_in(whole: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start + part.len();
    (end <= whole.len()).then_some(start..end)
}

/// Transaction ids of indications, which nobody answers: distinct, and not told from others by their looks.
#[derive(Debug)]
pub(super) struct TransactionIds {
    seed: u64,
    count: u64,
}

impl TransactionIds {
    pub(super) fn new(seed: u64) -> TransactionIds {
        TransactionIds { seed, count: 0 }
    }

    #[inline]
    pub(super) fn next(&mut self) -> [u8; 12] {
        self.count += 1;
        // The finaliser of SplitMix64, which is a permutation: no id comes twice in 2^64.
        let mut mixed = self.seed.wrapping_add(self.count.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let [a, b, c, d, e, f, g, h] = (mixed ^ (mixed >> 31)).to_be_bytes();
        let [i, j, k, l, ..] = self.seed.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }
}
