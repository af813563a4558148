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
//! The engine that has the allocation, and no other, decides who may have it next, and a Refresh with a ticket is answered
//! when it has. So of two at one instant none is told what does not hold. The table of tickets says which engine that is, and
//! where the allocation is on its way to: there a claim that came too early waits for it.
//!
//! An allocation with a ticket outlives its client's connection until it expires: that the connection breaks is what mobility
//! is for. It keeps its seat, and counts against the quota of the address that made it wherever it goes, so that to move
//! does not evade a quota.

mod ticket;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thirl_common::net::FiveTuple;
use thirl_common::wire::{Lifetime, Message, Method, MobilityTicket, RequestedAddressFamily, TransactionId};

pub(super) use ticket::{Home, Ticket, Tickets};

use super::allocation::Allocation;
use super::authenticate::{Authenticated, Maker};
use super::output::{Action, AllocationId, EndReason, Event, RelayId};
use super::refusal::Refusal;
use super::request::{Envelope, Request, Success};
use super::table::Hashing;
use super::{Engine, Timer};

/// So many bytes of one client wait at most while its allocation is on its way: what a socket's buffer would hold.
const MAX_WAITING_LEN: usize = 64 << 10;

/// What an allocation that may move knows of that.
#[derive(Debug)]
pub(super) struct Mobility {
    /// The ticket that the client was given last: where `next` is, that of `next`.
    pub(super) ticket: Ticket,
    /// The one before, as long as the client has not come from where it was given the last.
    previous: Option<Ticket>,
    /// From where the client may come.
    next: Option<Next>,
    /// The Refresh by which it came to where it is, and its answer, in case it is retransmitted.
    moved: Option<(TransactionId, Success)>,
}

/// From where a client may come, and the ticket that it is given for that, as no other is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Next {
    shard: usize,
    five_tuple: FiveTuple,
    ticket: Ticket,
}

/// Where an allocation is: the number of its engine's shard, and its name there.
type Place = (usize, AllocationId);

/// A five-tuple of this shard's that an allocation may move to, which is here or on another shard.
#[derive(Debug)]
struct Guest {
    ticket: Ticket,
    maker: Arc<Maker>,
    transaction: TransactionId,
    success: Success,
    stage: Stage,
    waiting: Vec<Box<[u8]>>,
    waiting_len: usize,
}

#[derive(Debug)]
enum Stage {
    /// The Refresh is answered when the allocation's engine has.
    Claiming(Box<Envelope>),
    /// The client may come.
    Expected(Place),
    /// It has come, and the allocation is on its way.
    Called,
}

/// What an engine knows of allocations that move.
#[derive(Debug)]
pub(super) struct Moves {
    /// The number of the engine's shard.
    pub(super) shard: usize,
    guests: HashMap<FiveTuple, Guest, Hashing>,
    /// Claims to allocations that are on their way here.
    early: Vec<Claim>,
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
    /// To the home: a client with a ticket for its allocation wants to come from there.
    Claimed(Claim),
    /// To the guest's: it may.
    Granted { home: Place, next: Next },
    /// To the guest's: the ticket is good for no allocation any more.
    Denied { next: Next },
    /// To the home: the client came from there, so the allocation is wanted.
    Wanted { allocation: AllocationId, next: Next },
    /// To the home: the client's new connection is closed.
    Gone { allocation: AllocationId, next: Next },
    /// To the guest's: the old connection is closed, so the allocation may be had.
    Free { next: Next },
    /// To the guest's: here it is.
    Moved { next: Next, allocation: Box<Allocation> },
    /// To the guest's: there is no such allocation any more, or it goes elsewhere.
    Lost { next: Next },
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    used: Ticket,
    next: Next,
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
            early: Vec::new(),
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
        self.guests.get(five_tuple).map(|guest| &*guest.maker)
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

    fn guest(&mut self, next: &Next) -> Option<&mut Guest> {
        self.guests.get_mut(&next.five_tuple).filter(|guest| guest.ticket == next.ticket)
    }

    fn forget_guest(&mut self, next: &Next) -> Option<Guest> {
        self.guest(next)?;
        self.guests.remove(&next.five_tuple)
    }

    /// Whether an allocation is on its way there.
    fn is_called(&self, five_tuple: &FiveTuple) -> bool {
        self.guests.get(five_tuple).is_some_and(|guest| matches!(guest.stage, Stage::Called))
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
        if let Some(allocation) = self.allocations.get(id) {
            self.set_tickets(allocation, self.moves.shard, Some(id));
        }
    }

    fn set_tickets(&self, allocation: &Allocation, shard: usize, id: Option<AllocationId>) {
        let Some(mobility) = &allocation.owner.mobility else { return };
        let home = Home {
            shard,
            allocation: id,
            maker: allocation.owner.maker.clone(),
            relayed: allocation.relays.addresses(),
        };
        mobility.tickets().for_each(|ticket| self.shared.tickets.set(ticket, home.clone()));
    }

    /// A Refresh with MOBILITY-TICKET (RFC 8016, section 3.2.2). `None`: the response comes when the engine that has the
    /// allocation has answered.
    pub(super) fn handle_claim(
        &mut self,
        request: &Request<'_>,
        user: &Authenticated,
        value: &[u8],
    ) -> Result<Option<Success>, Refusal> {
        if !self.config.mobility {
            return Err(Refusal::MobilityForbidden);
        }
        if let Some(answer) = self.repeated_claim(request, user) {
            return Ok(answer);
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
        let next = Next { shard: self.moves.shard, five_tuple: request.five_tuple, ticket };
        self.add_guest(
            Guest {
                ticket,
                maker: home.maker,
                transaction: request.message.transaction_id(),
                success: Success {
                    lifetime: Some(lifetime),
                    ticket: (!lifetime.is_zero()).then_some(ticket),
                    ..Success::default()
                },
                stage: Stage::Claiming(Box::new(request.envelope(Some(user.signing.clone())))),
                waiting: Vec::new(),
                waiting_len: 0,
            },
            request,
        );
        self.tell(request.now, home.shard, Content::Claimed(Claim { used, next, lifetime }));
        Ok(None)
    }

    /// The answer that a retransmitted Refresh had, or `None` in it if it is still to come.
    fn repeated_claim(&self, request: &Request<'_>, user: &Authenticated) -> Option<Option<Success>> {
        let (transaction, answer, maker) = match self.allocations.find(&request.five_tuple) {
            Some((_, allocation)) => {
                let (transaction, success) = allocation.owner.mobility.as_ref()?.moved?;
                (transaction, Some(success), &allocation.owner.maker)
            }
            None => {
                let guest = self.moves.guests.get(&request.five_tuple)?;
                let answered = !matches!(guest.stage, Stage::Claiming(_));
                (guest.transaction, answered.then_some(guest.success), &guest.maker)
            }
        };
        (transaction == request.message.transaction_id() && maker.is(user)).then_some(answer)
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

    fn add_guest(&mut self, guest: Guest, request: &Request<'_>) {
        if let Some(before) = self.moves.guests.insert(request.five_tuple, guest) {
            self.tell_gone(request.now, &before, request.five_tuple);
        }
    }

    /// What a client sends that is to be handled where its allocation will be, a five-tuple without one by now. True: it is
    /// there, since the client was expected to come from there. If that is on its way from another shard, what came waits
    /// for it; if there is none, it is counted.
    #[cold]
    pub(super) fn arrives(&mut self, now: Instant, five_tuple: FiveTuple, datagram: &[u8]) -> bool {
        let Some(guest) = self.moves.guests.get_mut(&five_tuple) else {
            self.counters.dropped.no_allocation += 1;
            return false;
        };
        let is_here = matches!(guest.stage, Stage::Expected((shard, _)) if shard == self.moves.shard);
        if !is_here {
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

    /// Whether a request from there is to wait for an allocation: any where one is on its way, and any but a claim, which says
    /// for which one it is, where one may be had.
    pub(super) fn precedes(&self, five_tuple: &FiveTuple, message: &Message<'_>) -> bool {
        self.moves.is_guest(five_tuple) && (shown(message).is_none() || self.moves.is_called(five_tuple))
    }

    /// Asks for the allocation of a guest, once it may have it.
    fn call(&mut self, now: Instant, five_tuple: FiveTuple) {
        let Some(guest) = self.moves.guests.get_mut(&five_tuple) else { return };
        let Stage::Expected((shard, allocation)) = guest.stage else { return };
        guest.stage = Stage::Called;
        let next = Next { shard: self.moves.shard, five_tuple, ticket: guest.ticket };
        self.tell(now, shard, Content::Wanted { allocation, next });
    }

    /// A client's connection is closed.
    pub(super) fn connection_closed(&mut self, now: Instant, five_tuple: FiveTuple) {
        if let Some(guest) = self.moves.guests.remove(&five_tuple) {
            self.tell_gone(now, &guest, five_tuple);
        }
        let Some((id, allocation)) = self.allocations.find_mut(&five_tuple) else { return };
        let told = allocation.relays.complete();
        let Some(mobility) = allocation.owner.mobility.as_ref().filter(|_| told) else {
            self.end_allocation(id, EndReason::ClientGone);
            return;
        };
        let next = mobility.next;
        self.allocations.detach(id);
        self.offer(now, next);
    }

    /// Nobody has the allocation now: whoever is to have it next may.
    fn offer(&mut self, now: Instant, next: Option<Next>) {
        if let Some(next) = next {
            self.tell(now, next.shard, Content::Free { next });
        }
    }

    /// A guest is no more. Where its claim is not answered yet, the home is told when it is.
    fn tell_gone(&mut self, now: Instant, guest: &Guest, five_tuple: FiveTuple) {
        self.counters.dropped.no_allocation += guest.waiting.len() as u64;
        if let Stage::Expected((shard, allocation)) = guest.stage {
            let next = Next { shard: self.moves.shard, five_tuple, ticket: guest.ticket };
            self.tell(now, shard, Content::Gone { allocation, next });
        }
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

    pub(super) fn take(&mut self, now: Instant, Notice(content): Notice) -> Vec<RelayId> {
        match content {
            Content::Moved { next, allocation } => self.install(now, next, *allocation),
            other => {
                self.take_notice(now, other);
                Vec::new()
            }
        }
    }

    fn take_notice(&mut self, now: Instant, content: Content) {
        match content {
            Content::Claimed(claim) => self.claimed(now, claim),
            Content::Granted { home, next } => self.granted(now, home, next),
            Content::Denied { next } => {
                if let Some(Stage::Claiming(envelope)) = self.lose(&next) {
                    self.refuse(&envelope, Refusal::InvalidTicket, None);
                }
            }
            Content::Wanted { allocation, next } => self.wanted(now, allocation, next),
            Content::Gone { allocation, next } => {
                if let Some(mobility) = self.mobility(allocation)
                    && mobility.next == Some(next)
                {
                    mobility.next = None;
                }
            }
            Content::Free { next } => {
                if self.moves.guest(&next).is_some() {
                    self.call(now, next.five_tuple);
                }
            }
            Content::Lost { next } => drop(self.lose(&next)),
            Content::Moved { next, allocation } => drop(self.install(now, next, *allocation)),
        }
    }

    /// The guest will have no allocation: what waited is as what comes from any five-tuple without one.
    fn lose(&mut self, next: &Next) -> Option<Stage> {
        let Guest { stage, waiting, .. } = self.moves.forget_guest(next)?;
        self.moves.arrived.extend(waiting.into_iter().map(|datagram| (next.five_tuple, datagram)));
        Some(stage)
    }

    fn mobility(&mut self, id: AllocationId) -> Option<&mut Mobility> {
        self.allocations.get_mut(id)?.owner.mobility.as_deref_mut()
    }

    /// To whoever has the allocation now, or will have it in a moment: only there is known who else wants it.
    fn claimed(&mut self, now: Instant, claim: Claim) {
        match self.shared.tickets.home(claim.used) {
            Some(Home { shard, .. }) if shard != self.moves.shard => {
                self.tell(now, shard, Content::Claimed(claim));
            }
            Some(Home { allocation: None, .. }) => self.moves.early.push(claim),
            Some(Home { allocation: Some(id), .. }) => self.grant_claim(now, id, claim),
            None => self.tell(now, claim.next.shard, Content::Denied { next: claim.next }),
        }
    }

    fn grant_claim(&mut self, now: Instant, id: AllocationId, Claim { used, next, lifetime }: Claim) {
        let granted = Content::Granted { home: (self.moves.shard, id), next };
        if lifetime.is_zero() {
            self.end_allocation(id, EndReason::Deleted);
            self.tell(now, next.shard, granted);
            return;
        }
        let Some(mobility) = self.mobility(id) else { return };
        let tickets = mobility.tickets();
        (mobility.ticket, mobility.previous) = (next.ticket, Some(used));
        let before = mobility.next.replace(next);
        tickets.filter(|ticket| *ticket != used).for_each(|ticket| self.shared.tickets.remove(ticket));
        self.issue_ticket(id);
        if let Some(before) = before {
            self.tell(now, before.shard, Content::Lost { next: before });
        }
        self.tell(now, next.shard, granted);
        self.deadlines.set(Timer::Allocation(id), now + lifetime);
        let Some(allocation) = self.allocations.get_mut(id) else { return };
        allocation.expires = now + lifetime;
        if !allocation.connected {
            self.offer(now, Some(next));
        }
    }

    /// The claim holds, and its Refresh is answered.
    fn granted(&mut self, now: Instant, home: Place, next: Next) {
        let Some(guest) = self.moves.guest(&next) else {
            // The client is gone.
            let (shard, allocation) = home;
            self.tell(now, shard, Content::Gone { allocation, next });
            return;
        };
        let Stage::Claiming(envelope) = std::mem::replace(&mut guest.stage, Stage::Expected(home)) else {
            return;
        };
        let (success, waits) = (guest.success, !guest.waiting.is_empty());
        self.succeed(&envelope, &success);
        if success.ticket.is_none() {
            // The allocation has ended.
            drop(self.lose(&next));
        } else if waits {
            self.call(now, next.five_tuple);
        }
    }

    /// Gives the allocation to the client's new five-tuple.
    fn wanted(&mut self, now: Instant, id: AllocationId, next: Next) {
        if self.mobility(id).is_none_or(|mobility| mobility.next != Some(next)) {
            self.tell(now, next.shard, Content::Lost { next });
            return;
        }
        let relays = self.allocations.get_mut(id).map(|allocation| allocation.relays.bound());
        let relays = relays.into_iter().flatten().map(|(family, _)| RelayId { allocation: id, family });
        let relays: Vec<_> = relays.collect();
        if self.config.fast_path {
            self.actions.extend(relays.iter().map(|relay| Action::RemoveFastPath { relay: *relay }));
        }
        if next.shard == self.moves.shard {
            let guest = self.moves.forget_guest(&next);
            self.allocations.rekey(id, next.five_tuple);
            self.settle(id, guest);
        } else if let Some(allocation) = self.allocations.remove(id) {
            self.deadlines.cancel(Timer::Allocation(id));
            self.set_tickets(&allocation, next.shard, None);
            let content = Content::Moved { next, allocation: Box::new(allocation) };
            self.moves.notices.push_back(OutgoingNotice {
                shard: next.shard,
                relays,
                notice: Notice(content),
            });
        }
    }

    /// An allocation came from another shard. Returned are its relays.
    fn install(&mut self, now: Instant, next: Next, allocation: Allocation) -> Vec<RelayId> {
        let five_tuple = next.five_tuple;
        let mut guest = self.moves.forget_guest(&next);
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
        for claim in std::mem::take(&mut self.moves.early) {
            self.claimed(now, claim);
        }
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
    pub(super) fn forget_mobility(&mut self, mobility: &Mobility) {
        mobility.tickets().for_each(|ticket| self.shared.tickets.remove(ticket));
        match mobility.next {
            Some(next) if next.shard == self.moves.shard => drop(self.lose(&next)),
            Some(next) => self.moves.send(next.shard, Content::Lost { next }),
            None => {}
        }
    }
}
