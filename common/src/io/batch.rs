//! What one turn received, and what it wants sent. No system calls: back ends fill the one and send the other.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::memory::Fixed;
use super::shard::SocketId;

/// Room before each datagram, for the prefix it is forwarded with: a Data indication's header is at most 48 bytes (header
/// 20, XOR-PEER-ADDRESS 24, DATA 4; RFC 8656, section 11.6).
pub const HEADROOM: usize = 64;

/// Room after each datagram, for padding to a multiple of four.
const TAILROOM: usize = 4;

/// So many datagrams are queued at most; one more sends them first.
pub(super) const QUEUE: usize = 512;

/// A queued datagram is made of so many pieces at most.
pub(super) const PIECES: usize = 3;

/// So many datagrams leave as one train at most: `UDP_MAX_SEGMENTS` of Linux, before 6.9 doubled it.
const TRAIN: usize = 64;

/// So many bytes leave as one train at most: what UDP over IPv4 carries.
const TRAIN_BYTES: usize = 65_507;

/// The unit of the processor's caches.
const LINE: usize = 64;

/// A datagram that was received in this turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received<'a> {
    /// The socket it came in by.
    pub socket: SocketId,
    /// The token that the socket was added with.
    pub token: u64,
    /// Its sender.
    pub from: SocketAddr,
    /// The local address it was sent to, if the socket was bound with `packet_info`; otherwise the socket's own.
    pub local: Option<IpAddr>,
    /// Its bytes, whole.
    pub payload: &'a [u8],
}

/// Which way a datagram leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The socket to send by.
    pub socket: SocketId,
    /// Where to.
    pub to: SocketAddr,
    /// The address to send from, of the same family, where the socket is bound to a wildcard.
    pub source: Option<IpAddr>,
}

/// What a back end found out about a datagram, apart from its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) socket: SocketId,
    pub(super) token: u64,
    pub(super) from: SocketAddr,
    pub(super) local: Option<IpAddr>,
}

/// The arena with the datagrams received into it, and the queue of those to send.
pub(super) struct Batch {
    arena: Fixed<u8>,
    slots: Slots,
    received: Vec<Incoming>,
    queue: Vec<Outgoing>,
    /// The bytes of queued datagrams that do not lie in the arena.
    owned: Vec<u8>,
    longest_train: usize,
}

/// Queued datagrams that follow each other and leave by one send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Train {
    /// The first one's place in the queue.
    pub(super) first: usize,
    /// How many.
    pub(super) count: usize,
    /// The length of each but the last, which may be shorter.
    pub(super) segment: usize,
}

/// How the arena is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    pub(super) count: usize,
    pub(super) max_datagram: usize,
    stride: usize,
}

struct Incoming {
    origin: Origin,
    /// Where the payload starts in the arena.
    start: usize,
    len: usize,
    /// What around the payload may be written to.
    room: Range<usize>,
    forwarded: bool,
}

/// A datagram to send: what stands before the payload, the payload, and what stands after it. Where there is room around the
/// payload, it includes them.
struct Outgoing {
    route: Route,
    /// In `owned`.
    before: Range<usize>,
    /// In the arena.
    payload: Range<usize>,
    /// In `owned`.
    after: Range<usize>,
}

impl Outgoing {
    fn len(&self) -> usize {
        self.before.len() + self.payload.len() + self.after.len()
    }
}

impl Slots {
    fn new(count: usize, head: usize, max_datagram: usize) -> Self {
        // An odd number of cache lines: the starts of slots a power of two apart would share a few sets of the cache.
        let lines = (head + max_datagram + TAILROOM).div_ceil(LINE) | 1;
        Slots { count, max_datagram, stride: lines * LINE }
    }

    /// Where a slot starts in the arena.
    pub(super) fn start(self, slot: usize) -> usize {
        slot * self.stride
    }

    /// The slot that holds this place.
    fn room(self, place: usize) -> Range<usize> {
        let start = place / self.stride * self.stride;
        start..start + self.stride
    }
}

impl Batch {
    /// An arena of `count` slots, each for `head` bytes (at least [`HEADROOM`]) and a datagram.
    pub(super) fn new(count: usize, head: usize, max_datagram: usize) -> Self {
        let slots = Slots::new(count, head.max(HEADROOM), max_datagram);
        Batch {
            arena: Fixed::new(slots.count * slots.stride),
            slots,
            received: Vec::with_capacity(count),
            queue: Vec::with_capacity(QUEUE),
            owned: Vec::new(),
            longest_train: TRAIN,
        }
    }

    /// Each datagram is sent by itself: the system knows no trains.
    pub(super) fn forbid_trains(&mut self) {
        self.longest_train = 1;
    }

    pub(super) fn slots(&self) -> Slots {
        self.slots
    }

    /// Bytes that the kernel wrote.
    pub(super) fn bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        self.arena.get(range)
    }

    /// The address of a place in the arena, for the kernel to write to.
    pub(super) fn address(&mut self, place: usize) -> *mut u8 {
        self.arena.at(place)
    }

    /// Notes what a back end received at this place in the arena: a datagram of `len` bytes, or several of `segment` bytes
    /// each, of which the last may be shorter. Returns how many.
    pub(super) fn received_at(
        &mut self,
        start: usize,
        len: usize,
        segment: Option<usize>,
        origin: Origin,
    ) -> u64 {
        let room = self.slots.room(start);
        debug_assert!(start + len <= room.end, "a datagram ends in its slot");
        let Some(segment) = segment.filter(|segment| (1..len).contains(segment)) else {
            self.received.push(Incoming { origin, start, len, room, forwarded: false });
            return 1;
        };
        for at in (0..len).step_by(segment) {
            let (first, last) = (at == 0, at + segment >= len);
            let (start, len) = (start + at, segment.min(len - at));
            // Between two of them there is no room.
            let room = if first { room.start } else { start }..if last { room.end } else { start + len };
            self.received.push(Incoming { origin, start, len, room, forwarded: false });
        }
        len.div_ceil(segment) as u64
    }

    pub(super) fn received_len(&self) -> usize {
        self.received.len()
    }

    pub(super) fn received(&self, index: usize) -> Option<Received<'_>> {
        let Incoming { origin, start, len, .. } = self.received.get(index)?;
        Some(Received {
            socket: origin.socket,
            token: origin.token,
            from: origin.from,
            local: origin.local,
            payload: self.arena.get(*start..start + len)?,
        })
    }

    /// Queues `prefix`, the datagram's bytes in `range`, and `pad` zeros. False if there is no such datagram or range.
    pub(super) fn forward(
        &mut self,
        index: usize,
        range: Range<usize>,
        prefix: &[u8],
        pad: usize,
        route: Route,
    ) -> bool {
        let Some(datagram) = self.received.get_mut(index) else { return false };
        if range.start > range.end || range.end > datagram.len {
            return false;
        }
        let (mut start, mut end) = (datagram.start + range.start, datagram.start + range.end);
        // What surrounds the range belongs to the first datagram made of it.
        let again = std::mem::replace(&mut datagram.forwarded, true);
        let room = if again { start..end } else { datagram.room.clone() };
        let (mut before, mut after) = (0..0, 0..0);
        // Without the checks for nothing to write, each packet without a prefix would pay two calls of memcpy.
        if !prefix.is_empty() {
            if prefix.len() <= start - room.start {
                self.arena[start - prefix.len()..start].copy_from_slice(prefix);
                start -= prefix.len();
            } else {
                before = self.own(prefix);
            }
        }
        if pad > 0 {
            if pad <= room.end - end {
                self.arena[end..end + pad].fill(0);
                end += pad;
            } else {
                let first = self.owned.len();
                self.owned.resize(first + pad, 0);
                after = first..first + pad;
            }
        }
        self.queue.push(Outgoing { route, before, payload: start..end, after });
        true
    }

    /// Queues a copy of these parts, as one datagram.
    pub(super) fn send(&mut self, route: Route, parts: &[&[u8]]) {
        let first = self.owned.len();
        parts.iter().for_each(|part| self.owned.extend_from_slice(part));
        let before = first..self.owned.len();
        self.queue.push(Outgoing { route, before, payload: 0..0, after: 0..0 });
    }

    fn own(&mut self, bytes: &[u8]) -> Range<usize> {
        let first = self.owned.len();
        self.owned.extend_from_slice(bytes);
        first..self.owned.len()
    }

    pub(super) fn queued_len(&self) -> usize {
        self.queue.len()
    }

    /// Which way a queued datagram leaves.
    pub(super) fn route(&self, index: usize) -> Option<Route> {
        Some(self.queue.get(index)?.route)
    }

    /// The pieces of a queued datagram, of which some may be empty.
    pub(super) fn pieces(&self, index: usize) -> [&[u8]; PIECES] {
        let Some(Outgoing { before, payload, after, .. }) = self.queue.get(index) else {
            return [&[]; PIECES];
        };
        [&self.owned[before.clone()], &self.arena[payload.clone()], &self.owned[after.clone()]]
    }

    /// What can leave by one send, from `first` on: datagrams of one route and one length, but for a shorter one at the
    /// end. `at_most` may be 1.
    pub(super) fn train(&self, first: usize, at_most: usize) -> Train {
        let rest = self.queue.get(first..).unwrap_or_default();
        let segment = rest.first().map_or(0, Outgoing::len);
        let most = TRAIN_BYTES.checked_div(segment).unwrap_or(1).min(self.longest_train).min(at_most);
        let mut count = 1;
        while count < most
            && let Some(next) = rest.get(count)
            && (1..=segment).contains(&next.len())
            && next.route == rest[0].route
        {
            count += 1;
            if next.len() < segment {
                break;
            }
        }
        Train { first, count, segment }
    }

    /// How many datagrams from `first` on leave by one socket.
    pub(super) fn queued_run(&self, first: usize, at_most: usize) -> usize {
        let Some(rest) = self.queue.get(first..) else { return 0 };
        let Some(socket) = rest.first().map(|outgoing| outgoing.route.socket) else { return 0 };
        rest.iter().take(at_most).take_while(|outgoing| outgoing.route.socket == socket).count()
    }

    /// Forgets the queue, once it is sent.
    pub(super) fn clear_queue(&mut self) {
        self.queue.clear();
        self.owned.clear();
    }

    /// Forgets what was received, for the arena to be filled anew. The queue must be empty: it may point there.
    pub(super) fn clear_received(&mut self) {
        debug_assert!(self.queue.is_empty(), "the queue is sent before the arena is filled anew");
        self.received.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        let from = "192.0.2.1:5".parse().unwrap();
        Origin { socket: SocketId::default(), token: 7, from, local: None }
    }

    /// A batch that received these, each in a slot.
    fn batch_with(payloads: &[&[u8]]) -> Batch {
        received(payloads, None)
    }

    fn received(payloads: &[&[u8]], segment: Option<usize>) -> Batch {
        let mut batch = Batch::new(4, HEADROOM, 32);
        for (slot, payload) in payloads.iter().enumerate() {
            let start = batch.slots().start(slot) + HEADROOM;
            batch.arena[start..start + payload.len()].copy_from_slice(payload);
            batch.received_at(start, payload.len(), segment, origin());
        }
        batch
    }

    fn route() -> Route {
        Route { socket: SocketId::default(), to: "192.0.2.9:9".parse().unwrap(), source: None }
    }

    fn queued(batch: &Batch, index: usize) -> Vec<u8> {
        batch.pieces(index).concat()
    }

    #[test]
    fn forward_frames_in_place() {
        let mut batch = batch_with(&[b"HEADpayload", b"other"]);
        assert!(batch.forward(0, 4..11, b"chan", 1, route()));
        assert_eq!(queued(&batch, 0), b"chanpayload\0");
        assert!(batch.owned.is_empty(), "it is one piece");
        assert_eq!(batch.received(1).unwrap().payload, b"other");
    }

    #[test]
    fn prefix_and_pad_may_take_the_whole_room_and_no_more() {
        let full = [b'x'; 32];
        let mut batch = batch_with(&[&full, &full]);
        assert!(batch.forward(0, 0..32, &[b'p'; HEADROOM], TAILROOM, route()));
        assert!(batch.owned.is_empty());
        assert!(batch.forward(1, 0..32, &[b'p'; HEADROOM + 1], 3, route()));
        assert_eq!(batch.owned.len(), HEADROOM + 1, "no room: kept aside");
        assert_eq!(batch.received(0).unwrap().payload, full);
        assert_eq!(queued(&batch, 0)[HEADROOM..HEADROOM + 32], full);
        assert_eq!(queued(&batch, 1), [&[b'p'; HEADROOM + 1][..], &full, &[0; 3]].concat());
    }

    #[test]
    fn forwarding_twice_spoils_neither() {
        let mut batch = batch_with(&[b"HEADpayload"]);
        assert!(batch.forward(0, 0..11, b"", 0, route()));
        assert!(batch.forward(0, 4..11, b"chan", 1, route()));
        assert_eq!(queued(&batch, 0), b"HEADpayload");
        assert_eq!(queued(&batch, 1), b"chanpayload\0");
    }

    #[test]
    fn ranges_outside_are_refused() {
        let mut batch = batch_with(&[b"abc"]);
        assert!(!batch.forward(0, 0..4, b"", 0, route()));
        assert!(!batch.forward(1, 0..1, b"", 0, route()));
        #[expect(clippy::reversed_empty_ranges, reason = "what a wrong caller might pass")]
        let reversed = 2..1;
        assert!(!batch.forward(0, reversed, b"", 0, route()));
        assert!(batch.forward(0, 3..3, b"", 0, route()), "an empty datagram is one");
        assert_eq!(batch.queued_len(), 1);
    }

    #[test]
    fn what_arrives_together_is_several_datagrams() {
        for (segment, expected) in [
            (Some(3), &[&b"abc"[..], b"def", b"gh"][..]),
            (Some(4), &[b"abcd", b"efgh"]),
            (Some(8), &[b"abcdefgh"]),
            (Some(0), &[b"abcdefgh"]),
            (None, &[b"abcdefgh"]),
        ] {
            let batch = received(&[b"abcdefgh"], segment);
            let payloads: Vec<_> =
                (0..batch.received_len()).map(|index| batch.received(index).unwrap().payload).collect();
            assert_eq!(payloads, expected, "{segment:?}");
        }
        assert_eq!(received(&[b""], Some(4)).received_len(), 1, "an empty datagram is one");
    }

    #[test]
    fn neighbours_are_framed_without_harm() {
        let mut batch = received(&[b"abcdefgh"], Some(3));
        for index in 0..3 {
            let len = batch.received(index).unwrap().payload.len();
            assert!(batch.forward(index, 0..len, b"chan", 2, route()));
        }
        let all: Vec<_> = (0..3).map(|index| queued(&batch, index)).collect();
        assert_eq!(all, [&b"chanabc\0\0"[..], b"chandef\0\0", b"changh\0\0"]);
        assert_eq!(
            batch.owned.len(),
            4 + 4 + 2 + 2,
            "only the first has room before it, and the last behind"
        );
    }

    #[test]
    fn a_train_is_of_one_way_and_one_length() {
        let mut batch = batch_with(&[]);
        let elsewhere = Route { to: "192.0.2.9:10".parse().unwrap(), ..route() };
        let lens = [3, 3, 2, 3, 3, 4, 0, 0, 2];
        for len in lens {
            batch.send(route(), &[&vec![1; len]]);
        }
        batch.send(elsewhere, &[b"22"]);
        let mut counts = Vec::new();
        let mut first = 0;
        while first < batch.queued_len() {
            let train = batch.train(first, usize::MAX);
            counts.push(train.count);
            first += train.count;
        }
        assert_eq!(counts, [3, 2, 1, 1, 1, 1, 1], "a shorter one ends it, and an empty one goes alone");
        assert_eq!(batch.train(0, 2), Train { first: 0, count: 2, segment: 3 });
        assert_eq!(batch.train(0, 1).count, 1);
    }

    #[test]
    fn a_train_has_an_end() {
        let mut batch = batch_with(&[]);
        for _ in 0..TRAIN + 1 {
            batch.send(route(), &[b"x"]);
        }
        assert_eq!(batch.train(0, usize::MAX).count, TRAIN);
        batch.clear_queue();
        for _ in 0..3 {
            batch.send(route(), &[&vec![0; TRAIN_BYTES / 2]]);
        }
        assert_eq!(batch.train(0, usize::MAX).count, 2);
        batch.clear_queue();
        for _ in 0..2 {
            batch.send(route(), &[&vec![0; TRAIN_BYTES + 1]]);
        }
        assert_eq!(batch.train(0, usize::MAX).count, 1, "whoever sends it will be told");
    }
}
