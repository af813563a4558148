//! Mobility: a client keeps its allocation when its address changes (RFC 8016).
//!
//! 1. An Allocate with an empty MOBILITY-TICKET gets a ticket in its response.
//! 2. A Refresh with the ticket, from another five-tuple, gets a new one: the client may come from there from now on, and
//!    its new five-tuple is a *guest*. Until it does, all goes on over the old one.
//! 3. What comes from the guest first, data or a request, moves the allocation; so does the end of the old connection.
//!    From then on the old five-tuple and the old ticket are nobody's (RFC 8016, section 3.2.2).
//!
//! The guest may be on another shard than the allocation. Then the two engines tell each other [`Notice`]s, and step 3
//! hands over the whole allocation, sockets and all: data never crosses shards, neither before nor after. It is given away
//! only to an engine that has just asked for it, so that it cannot be lost on the way to one that has ended; what the client
//! sends meanwhile waits, bounded.
//!
//! An allocation with a ticket outlives its client's connection until it expires: that the connection breaks is what mobility
//! is for. It keeps its seat, and counts against the quota of the address that made it wherever it goes, so that to move
//! does not evade a quota.

mod ticket;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use thirl_common::net::FiveTuple;
use thirl_common::wire::{Lifetime, Message, Method, MobilityTicket, RequestedAddressFamily, TransactionId};

pub(super) use ticket::{Home, Ticket, Tickets};

use super::allocation::Allocation;
use super::authenticate::{Authenticated, Maker};
use super::output::{Action, AllocationId, EndReason, Event, RelayId};
use super::refusal::Refusal;
use super::request::{Request, Success};
use super::table::Hashing;
use super::{Engine, Timer};

/// So many bytes of one client wait at most while its allocation is on its way: what a socket's buffer would hold.
const MAX_WAITING_LEN: usize = 64 << 10;

/// What an allocation that may move knows of that.
#[derive(Debug)]
pub(super) struct Mobility {
    /// The ticket that the client was given last.
    pub(super) ticket: Ticket,
    /// The one before, as long as the client has not come from where it was given the last.
    previous: Option<Ticket>,
    /// From where the client may come.
    next: Option<Next>,
    /// The Refresh by which it came to where it is, and its answer, in case it is retransmitted.
    moved: Option<(TransactionId, Success)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Next {
    shard: usize,
    five_tuple: FiveTuple,
}

/// A five-tuple of this shard's that an allocation may move to, which is here or on another shard.
#[derive(Debug)]
struct Guest {
    home: Home,
    transaction: TransactionId,
    success: Success,
    /// Whether the allocation was asked for and is on its way.
    called: bool,
    waiting: Vec<Box<[u8]>>,
    waiting_len: usize,
}

/// What an engine knows of allocations that move.
#[derive(Debug)]
pub(super) struct Moves {
    /// The number of the engine's shard.
    pub(super) shard: usize,
    guests: HashMap<FiveTuple, Guest, Hashing>,
    notices: VecDeque<OutgoingNotice>,
    /// What waited for allocations that are here now.
    arrived: VecDeque<(FiveTuple, Box<[u8]>)>,
}

/// What the engine of one shard tells that of another about an allocation that moves between them.
#[derive(Debug)]
pub struct Notice(Content);

/// A notice, and where it goes.
#[derive(Debug)]
pub struct OutgoingNotice {
    /// The shard whose engine is to be told: [`Engine::handle_notice`].
    pub shard: usize,
    /// The relays whose sockets are to go along: they are no longer this engine's.
    pub relays: Vec<RelayId>,
    /// What it says.
    pub notice: Notice,
}

#[derive(Debug)]
enum Content {
    /// To the home: the client was given a new ticket for its allocation, and may come from there.
    Claimed(Claim),
    /// To the home: the client came from there, so the allocation is wanted.
    Wanted { allocation: AllocationId, next: Next },
    /// To the home: the client's new connection is closed.
    Gone { allocation: AllocationId, next: Next },
    /// To the guest's: the old connection is closed, so the allocation may be had.
    Free { home: (usize, AllocationId), five_tuple: FiveTuple },
    /// To the guest's: here it is.
    Moved { home: (usize, AllocationId), five_tuple: FiveTuple, allocation: Box<Allocation> },
    /// To the guest's: there is no such allocation, or it goes elsewhere.
    Lost { home: (usize, AllocationId), five_tuple: FiveTuple },
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    allocation: AllocationId,
    next: Next,
    used: Ticket,
    ticket: Ticket,
    lifetime: Duration,
}

impl Mobility {
    pub(super) fn new(ticket: Ticket) -> Mobility {
        Mobility { ticket, previous: None, next: None, moved: None }
    }

    fn tickets(&self) -> impl Iterator<Item = Ticket> + use<> {
        [Some(self.ticket), self.previous].into_iter().flatten()
    }
}

impl Moves {
    pub(super) fn new(hashing: Hashing) -> Moves {
        Moves {
            shard: 0,
            guests: HashMap::with_hasher(hashing),
            notices: VecDeque::new(),
            arrived: VecDeque::new(),
        }
    }

    /// Whether a client may come from there.
    pub(super) fn is_guest(&self, five_tuple: &FiveTuple) -> bool {
        self.guests.contains_key(five_tuple)
    }

    /// Whose allocation a guest may have.
    pub(super) fn maker(&self, five_tuple: &FiveTuple) -> Option<&Maker> {
        self.guests.get(five_tuple).map(|guest| &*guest.home.maker)
    }

    pub(super) fn poll_notice(&mut self) -> Option<OutgoingNotice> {
        self.notices.pop_front()
    }

    pub(super) fn poll_arrived(&mut self) -> Option<(FiveTuple, Box<[u8]>)> {
        self.arrived.pop_front()
    }

    fn send(&mut self, shard: usize, content: Content) {
        self.notices.push_back(OutgoingNotice { shard, relays: Vec::new(), notice: Notice(content) });
    }

    fn forget_guest(&mut self, home: (usize, AllocationId), five_tuple: &FiveTuple) -> Option<Guest> {
        let (shard, allocation) = home;
        self.guests.get(five_tuple).filter(|guest| guest.home.is(shard, allocation))?;
        self.guests.remove(five_tuple)
    }
}

/// The ticket that a Refresh shows, whoever sent it.
pub(super) fn shown<'m>(message: &Message<'m>) -> Option<&'m [u8]> {
    let ticket = (message.method() == Method::REFRESH).then(|| message.get::<MobilityTicket<'m>>());
    ticket?.ok()?.map(|MobilityTicket(value)| value)
}

// The client's side.
impl Engine {
    pub(super) fn new_ticket(&mut self) -> Ticket {
        Ticket::random(&mut self.rng)
    }

    /// The allocation is there, or has changed: from now on its ticket is good for it as it is.
    pub(super) fn issue_ticket(&mut self, id: AllocationId) {
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        let Some(mobility) = &allocation.owner.mobility else { return };
        let home = Home {
            shard: self.moves.shard,
            allocation: id,
            maker: allocation.owner.maker.clone(),
            relayed: allocation.relays.addresses(),
        };
        mobility.tickets().for_each(|ticket| self.shared.tickets.set(ticket, home.clone()));
    }

    /// A Refresh with MOBILITY-TICKET (RFC 8016, section 3.2.2).
    pub(super) fn handle_claim(
        &mut self,
        request: &Request<'_>,
        user: &Authenticated,
        value: &[u8],
    ) -> Result<Success, Refusal> {
        if !self.config.mobility {
            return Err(Refusal::MobilityForbidden);
        }
        if let Some(success) = self.repeated_claim(request, user) {
            return Ok(success);
        }
        let (used, home) = self.shared.tickets.find(value).ok_or(Refusal::InvalidTicket)?;
        if !home.maker.is(user) {
            return Err(Refusal::OtherUser);
        }
        if let Some((id, _)) = self.allocations.find(&request.five_tuple) {
            let own = home.is(self.moves.shard, id);
            return Err(if own { Refusal::NotMoved } else { Refusal::AllocationExists });
        }
        let lifetime = self.claimed_lifetime(request, user, &home)?;
        let ticket = self.new_ticket();
        let next = Next { shard: self.moves.shard, five_tuple: request.five_tuple };
        let claim = Claim { allocation: home.allocation, next, used, ticket, lifetime };
        let mut success = Success { lifetime: Some(lifetime), ..Success::default() };
        if !lifetime.is_zero() {
            success.ticket = Some(ticket);
            self.shared.tickets.set(ticket, home.clone());
            self.add_guest(request, &home, success);
        }
        self.tell(request.now, home.shard, Content::Claimed(claim));
        Ok(success)
    }

    /// The answer that a retransmitted Refresh had.
    fn repeated_claim(&self, request: &Request<'_>, user: &Authenticated) -> Option<Success> {
        let (transaction, success, maker) = match self.allocations.find(&request.five_tuple) {
            Some((_, allocation)) => {
                let (transaction, success) = allocation.owner.mobility.as_ref()?.moved?;
                (transaction, success, &allocation.owner.maker)
            }
            None => {
                let guest = self.moves.guests.get(&request.five_tuple)?;
                (guest.transaction, guest.success, &guest.home.maker)
            }
        };
        (transaction == request.message.transaction_id() && maker.is(user)).then_some(success)
    }

    /// As with any Refresh, but that of two families not one alone is ended from elsewhere.
    fn claimed_lifetime(
        &self,
        request: &Request<'_>,
        user: &Authenticated,
        home: &Home,
    ) -> Result<Duration, Refusal> {
        let requested = request.message.get::<Lifetime>()?.map(|Lifetime(seconds)| seconds);
        if let Some(RequestedAddressFamily(family)) = request.message.get()? {
            let has = |family| {
                home.relayed.iter().any(|addr| thirl_common::wire::AddressFamily::of(addr.ip()) == family)
            };
            if !family.is_some_and(has) {
                return Err(Refusal::FamilyMismatch);
            }
            if requested == Some(0) && home.relayed.iter().count() > 1 {
                return Err(Refusal::Conflicting("MOBILITY-TICKET and the end of one address family"));
            }
        }
        Ok(match requested {
            Some(0) => Duration::ZERO,
            _ => user.limit(self.config.lifetime(requested), request.unix_seconds),
        })
    }

    fn add_guest(&mut self, request: &Request<'_>, home: &Home, success: Success) {
        let guest = Guest {
            home: home.clone(),
            transaction: request.message.transaction_id(),
            success,
            called: false,
            waiting: Vec::new(),
            waiting_len: 0,
        };
        let before = self.moves.guests.insert(request.five_tuple, guest);
        if let Some(before) = before.filter(|before| !before.home.is(home.shard, home.allocation)) {
            self.tell_gone(request.now, &before.home, request.five_tuple);
        }
    }

    /// Something came from a five-tuple without an allocation. True: it has one now, since the client was expected to come
    /// from there. If that is on its way from another shard, what came waits for it; if there is none, it is counted.
    #[cold]
    pub(super) fn arrives(&mut self, now: Instant, five_tuple: FiveTuple, datagram: &[u8]) -> bool {
        let Some(guest) = self.moves.guests.get_mut(&five_tuple) else {
            self.counters.dropped.no_allocation += 1;
            return false;
        };
        if guest.home.shard != self.moves.shard {
            if guest.waiting_len + datagram.len() > MAX_WAITING_LEN {
                self.counters.dropped.no_allocation += 1;
                return false;
            }
            guest.waiting_len += datagram.len();
            guest.waiting.push(datagram.into());
        }
        self.call(now, five_tuple);
        self.allocations.find(&five_tuple).is_some()
    }

    /// Asks for the allocation of a guest, once.
    fn call(&mut self, now: Instant, five_tuple: FiveTuple) {
        let Some(guest) = self.moves.guests.get_mut(&five_tuple).filter(|guest| !guest.called) else {
            return;
        };
        guest.called = true;
        let (shard, allocation) = (guest.home.shard, guest.home.allocation);
        let next = Next { shard: self.moves.shard, five_tuple };
        self.tell(now, shard, Content::Wanted { allocation, next });
    }

    /// A client's connection is closed.
    pub(super) fn connection_closed(&mut self, now: Instant, five_tuple: FiveTuple) {
        if let Some(guest) = self.moves.guests.remove(&five_tuple) {
            self.tell_gone(now, &guest.home, five_tuple);
        }
        let Some((id, allocation)) = self.allocations.find_mut(&five_tuple) else { return };
        let told = allocation.relays.complete();
        let Some(mobility) = allocation.owner.mobility.as_ref().filter(|_| told) else {
            self.end_allocation(id, EndReason::ClientGone);
            return;
        };
        let next = mobility.next;
        self.allocations.detach(id);
        self.offer(now, id, next);
    }

    /// Lets whoever is to have the allocation next have it, since nobody has it now.
    fn offer(&mut self, now: Instant, id: AllocationId, next: Option<Next>) {
        if let Some(Next { shard, five_tuple }) = next {
            self.tell(now, shard, Content::Free { home: (self.moves.shard, id), five_tuple });
        }
    }

    fn tell_gone(&mut self, now: Instant, home: &Home, five_tuple: FiveTuple) {
        let next = Next { shard: self.moves.shard, five_tuple };
        self.tell(now, home.shard, Content::Gone { allocation: home.allocation, next });
    }
}

// The home's side, and what goes between the two.
impl Engine {
    fn tell(&mut self, now: Instant, shard: usize, content: Content) {
        if shard == self.moves.shard {
            self.take_notice(now, content);
        } else {
            self.moves.send(shard, content);
        }
    }

    fn tell_lost(&mut self, id: AllocationId, Next { shard, five_tuple }: Next) {
        let home = (self.moves.shard, id);
        if shard == self.moves.shard {
            drop(self.moves.forget_guest(home, &five_tuple));
        } else {
            self.moves.send(shard, Content::Lost { home, five_tuple });
        }
    }

    pub(super) fn take(&mut self, now: Instant, Notice(content): Notice) -> Vec<RelayId> {
        match content {
            Content::Moved { home, five_tuple, allocation } => self.install(home, five_tuple, *allocation),
            other => {
                self.take_notice(now, other);
                Vec::new()
            }
        }
    }

    fn take_notice(&mut self, now: Instant, content: Content) {
        match content {
            Content::Claimed(claim) => self.claimed(now, claim),
            Content::Wanted { allocation, next } => self.wanted(allocation, next),
            Content::Gone { allocation, next } => {
                if let Some(mobility) = self.mobility(allocation)
                    && mobility.next == Some(next)
                {
                    mobility.next = None;
                }
            }
            Content::Free { home, five_tuple } => {
                let (shard, allocation) = home;
                let guest = self.moves.guests.get(&five_tuple);
                if guest.is_some_and(|guest| guest.home.is(shard, allocation)) {
                    self.call(now, five_tuple);
                }
            }
            Content::Lost { home, five_tuple } => drop(self.moves.forget_guest(home, &five_tuple)),
            Content::Moved { home, five_tuple, allocation } => {
                drop(self.install(home, five_tuple, *allocation));
            }
        }
    }

    fn mobility(&mut self, id: AllocationId) -> Option<&mut Mobility> {
        self.allocations.get_mut(id)?.owner.mobility.as_deref_mut()
    }

    fn claimed(&mut self, now: Instant, claim: Claim) {
        let Claim { allocation: id, next, used, ticket, lifetime } = claim;
        if lifetime.is_zero() {
            self.end_allocation(id, EndReason::Deleted);
            return;
        }
        let Some(mobility) = self.mobility(id) else {
            // It ended, or moved, while this was on its way.
            self.shared.tickets.remove(ticket);
            self.tell_lost(id, next);
            return;
        };
        let tickets = mobility.tickets();
        (mobility.ticket, mobility.previous) = (ticket, Some(used));
        let before = mobility.next.replace(next);
        tickets.filter(|ticket| *ticket != used).for_each(|ticket| self.shared.tickets.remove(ticket));
        if let Some(before) = before.filter(|before| *before != next) {
            self.tell_lost(id, before);
        }
        self.deadlines.set(Timer::Allocation(id), now + lifetime);
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        allocation.expires = now + lifetime;
        if !allocation.connected {
            self.offer(now, id, Some(next));
        }
    }

    /// Gives the allocation to the client's new five-tuple.
    fn wanted(&mut self, id: AllocationId, next: Next) {
        if self.mobility(id).is_none_or(|mobility| mobility.next != Some(next)) {
            self.tell_lost(id, next);
            return;
        }
        let home = (self.moves.shard, id);
        let Next { shard, five_tuple } = next;
        let relays = self.allocations.get_mut(id).map(|allocation| allocation.relays.bound());
        let relays = relays.into_iter().flatten().map(|(family, _)| RelayId { allocation: id, family });
        let relays: Vec<_> = relays.collect();
        if self.config.fast_path {
            self.actions.extend(relays.iter().map(|relay| Action::RemoveFastPath { relay: *relay }));
        }
        if shard == self.moves.shard {
            let guest = self.moves.forget_guest(home, &five_tuple);
            self.allocations.rekey(id, five_tuple);
            self.settle(id, guest);
        } else if let Some(allocation) = self.allocations.remove(id) {
            self.deadlines.cancel(Timer::Allocation(id));
            let content = Content::Moved { home, five_tuple, allocation: Box::new(allocation) };
            self.moves.notices.push_back(OutgoingNotice { shard, relays, notice: Notice(content) });
        }
    }

    /// An allocation came from another shard. Returned are its relays.
    fn install(
        &mut self,
        home: (usize, AllocationId),
        five_tuple: FiveTuple,
        allocation: Allocation,
    ) -> Vec<RelayId> {
        let mut guest = self.moves.forget_guest(home, &five_tuple);
        let expires = allocation.expires;
        let relays = allocation.relays;
        // If the new connection is closed by now, it waits for the next.
        let connected = guest.is_some() && self.allocations.find(&five_tuple).is_none();
        let id = self.allocations.insert_detached(allocation);
        if connected {
            self.allocations.rekey(id, five_tuple);
        } else {
            self.allocations.detach(id);
        }
        self.deadlines.set(Timer::Allocation(id), expires);
        let waiting = guest.as_mut().map(|guest| std::mem::take(&mut guest.waiting));
        self.settle(id, guest);
        self.moves.arrived.extend(waiting.into_iter().flatten().map(|datagram| (five_tuple, datagram)));
        relays.bound().map(|(family, _)| RelayId { allocation: id, family }).collect()
    }

    /// The move is over: what was good for the old place is good no more.
    fn settle(&mut self, id: AllocationId, guest: Option<Guest>) {
        let Some(mobility) = self.mobility(id) else { return };
        mobility.next = None;
        mobility.moved = guest.map(|guest| (guest.transaction, guest.success));
        if let Some(previous) = mobility.previous.take() {
            self.shared.tickets.remove(previous);
        }
        self.issue_ticket(id);
        self.counters.allocations_moved += 1;
        if let Some(allocation) = self.allocations.get_mut(id) {
            let (five_tuple, username) = (allocation.five_tuple, allocation.username().clone());
            let relayed = allocation.relays.addresses();
            Event::AllocationMoved { id, five_tuple, username, relayed }
                .queue(&mut self.events, &mut self.counters.dropped);
        }
    }

    /// An allocation is no more: nor are its tickets, nor whoever waits for it.
    pub(super) fn forget_mobility(&mut self, id: AllocationId, mobility: &Mobility) {
        mobility.tickets().for_each(|ticket| self.shared.tickets.remove(ticket));
        if let Some(next) = mobility.next {
            self.tell_lost(id, next);
        }
    }
}
