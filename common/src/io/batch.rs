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

struct Outgoing {
    route: Route,
    place: Place,
    range: Range<usize>,
}

#[derive(Clone, Copy)]
enum Place {
    Arena,
    Owned,
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
        }
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

    /// Notes a datagram of `len` bytes that a back end received at this place in the arena.
    pub(super) fn received_at(&mut self, start: usize, len: usize, origin: Origin) {
        let room = self.slots.room(start);
        debug_assert!(start + len <= room.end, "a datagram ends in its slot");
        self.received.push(Incoming { origin, start, len, room, forwarded: false });
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
        let (start, end) = (datagram.start + range.start, datagram.start + range.end);
        let again = std::mem::replace(&mut datagram.forwarded, true);
        let fits = prefix.len() <= start - datagram.room.start && pad <= datagram.room.end - end;
        if fits && !again {
            let range = start - prefix.len()..end + pad;
            // Without the checks for nothing to write, each packet without a prefix would pay two calls of memcpy.
            if !prefix.is_empty() {
                self.arena[range.start..start].copy_from_slice(prefix);
            }
            if pad > 0 {
                self.arena[end..range.end].fill(0);
            }
            self.queue.push(Outgoing { route, place: Place::Arena, range });
        } else {
            // What surrounds the range may belong to the first datagram made of it.
            let first = self.owned.len();
            self.owned.extend_from_slice(prefix);
            self.owned.extend_from_slice(&self.arena[start..end]);
            self.owned.resize(self.owned.len() + pad, 0);
            self.queue.push(Outgoing { route, place: Place::Owned, range: first..self.owned.len() });
        }
        true
    }

    /// Queues a copy of `datagram`.
    pub(super) fn send(&mut self, route: Route, datagram: &[u8]) {
        let first = self.owned.len();
        self.owned.extend_from_slice(datagram);
        self.queue.push(Outgoing { route, place: Place::Owned, range: first..self.owned.len() });
    }

    pub(super) fn queued_len(&self) -> usize {
        self.queue.len()
    }

    /// A queued datagram: which way it leaves, and its bytes.
    pub(super) fn queued(&self, index: usize) -> Option<(Route, &[u8])> {
        let outgoing = self.queue.get(index)?;
        let bytes: &[u8] = match outgoing.place {
            Place::Arena => &self.arena,
            Place::Owned => &self.owned,
        };
        Some((outgoing.route, bytes.get(outgoing.range.clone())?))
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

    fn batch_with(payloads: &[&[u8]]) -> Batch {
        let mut batch = Batch::new(4, HEADROOM, 32);
        for (slot, payload) in payloads.iter().enumerate() {
            let start = batch.slots().start(slot) + HEADROOM;
            batch.arena[start..start + payload.len()].copy_from_slice(payload);
            let from = "192.0.2.1:5".parse().unwrap();
            batch.received_at(
                start,
                payload.len(),
                Origin { socket: SocketId::default(), token: 7, from, local: None },
            );
        }
        batch
    }

    fn route() -> Route {
        Route { socket: SocketId::default(), to: "192.0.2.9:9".parse().unwrap(), source: None }
    }

    #[test]
    fn forward_frames_in_place() {
        let mut batch = batch_with(&[b"HEADpayload", b"other"]);
        assert!(batch.forward(0, 4..11, b"chan", 1, route()));
        assert_eq!(batch.queued(0).unwrap().1, b"chanpayload\0");
        assert!(batch.owned.is_empty(), "nothing was copied");
        assert_eq!(batch.received(1).unwrap().payload, b"other");
    }

    #[test]
    fn prefix_and_pad_may_take_the_whole_room_and_no_more() {
        let full = [b'x'; 32];
        let mut batch = batch_with(&[&full, &full]);
        assert!(batch.forward(0, 0..32, &[b'p'; HEADROOM], TAILROOM, route()));
        assert!(batch.owned.is_empty());
        assert!(batch.forward(1, 0..32, &[b'p'; HEADROOM + 1], 3, route()));
        assert_eq!(batch.owned.len(), HEADROOM + 1 + 32 + 3, "no room: copied");
        assert_eq!(batch.received(0).unwrap().payload, full);
        assert_eq!(batch.queued(0).unwrap().1[HEADROOM..HEADROOM + 32], full);
    }

    #[test]
    fn forwarding_twice_spoils_neither() {
        let mut batch = batch_with(&[b"HEADpayload"]);
        assert!(batch.forward(0, 0..11, b"", 0, route()));
        assert!(batch.forward(0, 4..11, b"chan", 1, route()));
        assert_eq!(batch.queued(0).unwrap().1, b"HEADpayload");
        assert_eq!(batch.queued(1).unwrap().1, b"chanpayload\0");
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
}
