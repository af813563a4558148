//! Allocations, and the table that finds them by five-tuple or by relay (RFC 8656, section 3.2).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Instant;

use thirl_common::index::Index;
use thirl_common::net::{FiveTuple, RelayedAddr};
use thirl_common::wire::{AddressFamily, TransactionId};

use super::authenticate::{Authenticated, Maker};
use super::bandwidth::{Direction, Meters};
use super::channel::Channels;
use super::counters::Traffic;
use super::icmp::IcmpWindow;
use super::mobility::Mobility;
use super::output::{AllocationId, GENERATIONS, RelayId, RelayedAddresses};
use super::peer_policy::OwnAddresses;
use super::permission::Permissions;
use super::request::{Envelope, Success};
use super::shared::Seat;
use super::table::Hashing;
use super::tcp::PeerConnections;

/// What a client holds: relayed transport addresses, permissions and channels.
#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) five_tuple: FiveTuple,
    /// Whether the client is there; if not, it may come again from elsewhere.
    pub(super) connected: bool,
    pub(super) expires: Instant,
    /// One for each family at the most.
    pub(super) relays: Relays,
    pub(super) permissions: Permissions,
    pub(super) channels: Channels,
    /// Of a TCP allocation alone.
    pub(super) tcp: Option<Box<PeerConnections>>,
    pub(super) traffic: Traffic,
    /// `None` if nothing limits its data.
    pub(super) meters: Option<Meters>,
    /// What data does not touch lies elsewhere, so that what it touches lies close together.
    pub(super) owner: Box<Owner>,
}

/// Who made an allocation, and by which request.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) maker: Arc<Maker>,
    pub(super) seat: Seat,
    /// The Allocate request, which is answered when the relay is bound, and again whenever it is retransmitted.
    pub(super) request: AllocateRequest,
    /// The seat of the port that is set aside along with the relay, until it is.
    pub(super) reserving: Option<Box<Seat>>,
    /// Bounds what the client is told of ICMP errors.
    pub(super) icmp: IcmpWindow,
    /// If the client may move.
    pub(super) mobility: Option<Box<Mobility>>,
}

/// What is kept of an Allocate request.
#[derive(Clone, Copy, Debug)]
pub(super) struct AllocateRequest {
    pub(super) transaction: TransactionId,
    pub(super) fingerprint: bool,
    pub(super) algorithm: thirl_common::wire::IntegrityAlgorithm,
    pub(super) lifetime: std::time::Duration,
    pub(super) reservation_token: Option<u64>,
}

/// The relays of an allocation, by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Relays {
    ipv4: Relay,
    ipv6: Relay,
}

/// The state of one relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Relay {
    /// Not asked for.
    #[default]
    None,
    /// Asked for; the Allocate waits for its answer.
    Binding,
    /// There.
    Bound(RelayedAddr),
    /// Not to be had, though the other is: the error code that says why.
    Refused(u16),
}

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Ipv4, AddressFamily::Ipv6];

impl Relays {
    pub(super) fn of(family: AddressFamily, relay: Relay) -> Relays {
        let mut relays = Relays::default();
        relays.set(family, relay);
        relays
    }

    pub(super) fn get(&self, family: AddressFamily) -> Relay {
        match family {
            AddressFamily::Ipv4 => self.ipv4,
            AddressFamily::Ipv6 => self.ipv6,
        }
    }

    pub(super) fn set(&mut self, family: AddressFamily, relay: Relay) {
        match family {
            AddressFamily::Ipv4 => self.ipv4 = relay,
            AddressFamily::Ipv6 => self.ipv6 = relay,
        }
    }

    /// Whether packets to and from peers of this family can be relayed.
    #[inline]
    pub(super) fn is_bound(&self, family: AddressFamily) -> bool {
        matches!(self.get(family), Relay::Bound(_))
    }

    pub(super) fn bound(&self) -> impl Iterator<Item = (AddressFamily, RelayedAddr)> + use<> {
        let relays = *self;
        FAMILIES.into_iter().filter_map(move |family| match relays.get(family) {
            Relay::Bound(addr) => Some((family, addr)),
            _ => None,
        })
    }

    /// The relayed transport addresses, IPv4 first.
    pub(super) fn addresses(&self) -> RelayedAddresses {
        let address = |family| match self.get(family) {
            Relay::Bound(addr) => Some(addr),
            _ => None,
        };
        RelayedAddresses(FAMILIES.map(address))
    }

    /// The families whose sockets are asked for.
    pub(super) fn binding(&self) -> impl Iterator<Item = AddressFamily> + use<> {
        let relays = *self;
        FAMILIES.into_iter().filter(move |family| relays.get(*family) == Relay::Binding)
    }

    /// The family that was not to be had though the other was, and why.
    pub(super) fn refused(&self) -> Option<(AddressFamily, u16)> {
        FAMILIES.into_iter().find_map(|family| match self.get(family) {
            Relay::Refused(code) => Some((family, code)),
            _ => None,
        })
    }

    /// Whether all that was asked for is there.
    pub(super) fn complete(&self) -> bool {
        self.ipv4 != Relay::Binding && self.ipv6 != Relay::Binding
    }
}

impl Allocation {
    pub(super) fn username(&self) -> &Arc<str> {
        &self.owner.maker.username
    }

    /// Whether it is the user's.
    pub(super) fn is_of(&self, user: &Authenticated) -> bool {
        self.owner.maker.is(user)
    }

    /// Whether `bytes` more may pass now.
    #[inline]
    pub(super) fn admits(&self, direction: Direction, bytes: usize, now: Instant) -> bool {
        self.meters.as_ref().is_none_or(|meters| meters.admit(direction, bytes, now))
    }

    /// The server's own addresses, as far as this allocation knows them.
    pub(super) fn own_addresses(&self) -> OwnAddresses {
        let RelayedAddresses(relayed) = self.relays.addresses();
        OwnAddresses {
            server: Some(self.five_tuple.server.ip()),
            relayed: relayed.map(|addr| addr.map(RelayedAddr::ip)),
        }
    }

    /// The envelope of the response to the Allocate request, first or repeated.
    pub(super) fn allocate_envelope(&self) -> Envelope {
        let AllocateRequest { transaction, fingerprint, algorithm, .. } = self.owner.request;
        Envelope {
            five_tuple: self.five_tuple,
            method: thirl_common::wire::Method::ALLOCATE,
            transaction,
            fingerprint,
            signing: Some(super::request::Signing { key: self.owner.maker.key.clone(), algorithm }),
        }
    }

    /// What the Allocate is answered with. A repeated answer tells what is left of the lifetime.
    pub(super) fn allocate_success(&self, now: Instant) -> Success {
        Success {
            relayed: self.relays.addresses(),
            refused: self.relays.refused(),
            lifetime: Some(self.expires.saturating_duration_since(now)),
            reservation_token: self.owner.request.reservation_token,
            mapped: Some(self.five_tuple.client),
            ticket: self.owner.mobility.as_ref().map(|mobility| mobility.ticket),
            connection: None,
        }
    }
}

/// All allocations of an engine. Nothing here takes longer the more of them there are.
#[derive(Debug)]
pub(super) struct Allocations {
    slots: Vec<Slot>,
    /// Places in `slots`. The first is taken first, so that the last ones get empty, and memory is given back.
    free: BinaryHeap<Reverse<u32>>,
    next_generation: u32,
    len: usize,
    /// Places in `slots` of those whose client is there.
    by_five_tuple: Index<Hashing>,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    allocation: Option<Allocation>,
}

/// Room for so many is kept.
const ROOM_KEPT: usize = 64;

impl Allocations {
    pub(super) fn new(hashing: Hashing) -> Allocations {
        Allocations {
            slots: Vec::new(),
            free: BinaryHeap::new(),
            next_generation: 0,
            len: 0,
            by_five_tuple: Index::new(hashing),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The five-tuple must have none yet.
    pub(super) fn insert(&mut self, allocation: Allocation) -> AllocationId {
        let five_tuple = allocation.five_tuple;
        let id = self.insert_detached(allocation);
        self.rekey(id, five_tuple);
        id
    }

    /// Without a client, until [`Allocations::rekey`].
    pub(super) fn insert_detached(&mut self, allocation: Allocation) -> AllocationId {
        let generation = self.next_generation;
        self.next_generation = (generation + 1) % GENERATIONS;
        let allocation = Allocation { connected: false, ..allocation };
        let slot = Slot { generation, allocation: Some(allocation) };
        let index = match self.free.pop() {
            Some(Reverse(index)) if (index as usize) < self.slots.len() => {
                self.slots[index as usize] = slot;
                index
            }
            // What else is free lies beyond the end as well.
            _ => {
                self.free.clear();
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.len += 1;
        AllocationId { index, generation }
    }

    pub(super) fn remove(&mut self, id: AllocationId) -> Option<Allocation> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        let allocation = slot.allocation.take()?;
        self.free.push(Reverse(id.index));
        self.len -= 1;
        if allocation.connected {
            self.by_five_tuple.remove(&allocation.five_tuple, id.index as usize);
        }
        self.give_room_back();
        Some(allocation)
    }

    /// Keeps the room for twice or four times as many as there are.
    fn give_room_back(&mut self) {
        while self.slots.last().is_some_and(|slot| slot.allocation.is_none()) {
            self.slots.pop();
        }
        let wanted = 2 * self.slots.len() + ROOM_KEPT;
        if self.slots.capacity() > 2 * wanted {
            self.slots.shrink_to(wanted);
            self.free.retain(|Reverse(index)| (*index as usize) < self.slots.len());
            self.free.shrink_to(wanted);
        }
        let wanted = 2 * self.by_five_tuple.len() + ROOM_KEPT;
        if self.by_five_tuple.capacity() > 2 * wanted {
            self.by_five_tuple.shrink_to(wanted);
        }
    }

    /// Its client is at this five-tuple, which has no other allocation, and at no other.
    pub(super) fn rekey(&mut self, id: AllocationId, five_tuple: FiveTuple) {
        self.detach(id);
        if let Some(allocation) = self.get_mut(id) {
            (allocation.five_tuple, allocation.connected) = (five_tuple, true);
            self.by_five_tuple.insert(&five_tuple, id.index as usize);
        }
    }

    /// Its client is gone for now.
    pub(super) fn detach(&mut self, id: AllocationId) {
        let Some(allocation) = self.get_mut(id).filter(|allocation| allocation.connected) else { return };
        allocation.connected = false;
        let five_tuple = allocation.five_tuple;
        self.by_five_tuple.remove(&five_tuple, id.index as usize);
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Allocation> {
        self.slots.iter_mut().filter_map(|slot| slot.allocation.as_mut())
    }

    pub(super) fn get(&self, id: AllocationId) -> Option<&Allocation> {
        let slot = self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        slot.allocation.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: AllocationId) -> Option<&mut Allocation> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        slot.allocation.as_mut()
    }

    #[inline]
    pub(super) fn find(&self, five_tuple: &FiveTuple) -> Option<(AllocationId, &Allocation)> {
        let index = self.index_of(five_tuple)?;
        let slot = self.slots.get(index as usize)?;
        Some((AllocationId { index, generation: slot.generation }, slot.allocation.as_ref()?))
    }

    #[inline]
    pub(super) fn find_mut(&mut self, five_tuple: &FiveTuple) -> Option<(AllocationId, &mut Allocation)> {
        let index = self.index_of(five_tuple)?;
        let slot = self.slots.get_mut(index as usize)?;
        Some((AllocationId { index, generation: slot.generation }, slot.allocation.as_mut()?))
    }

    #[inline]
    fn index_of(&self, five_tuple: &FiveTuple) -> Option<u32> {
        let at = |index: usize| self.slots.get(index)?.allocation.as_ref();
        let is_its = |index| at(index).is_some_and(|allocation| allocation.five_tuple == *five_tuple);
        u32::try_from(self.by_five_tuple.get(five_tuple, is_its)?).ok()
    }

    /// The allocation that a relay belongs to.
    #[inline]
    pub(super) fn of_relay(&mut self, relay: RelayId) -> Option<&mut Allocation> {
        self.get_mut(relay.allocation)
    }
}
