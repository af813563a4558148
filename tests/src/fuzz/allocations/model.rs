//! What a TURN server does, in the simplest words (RFC 8656, RFC 8016, RFC 6062).
//!
//! Times are seconds since the start; what has expired is taken out whenever the time changes.

use std::collections::BTreeMap;

use thirl_common::wire::AddressFamily;

use super::step::{Operation, STREAM_CLIENT, Step, Wish, family_of};

pub(super) const MAX_PERMISSIONS: usize = 3;
pub(super) const MAX_CHANNELS: usize = 2;
pub(super) const USER_QUOTA: usize = 3;
pub(super) const MAX_PEER_CONNECTIONS: usize = 2;

#[derive(Default)]
pub(super) struct Model {
    now: u64,
    /// How many requests were sent, those repeated aside.
    requests: u64,
    allocations: Vec<Allocation>,
    /// Mobility tickets that were told.
    tickets: usize,
    /// By the order in which they began.
    connections: BTreeMap<usize, Connection>,
    begun: usize,
    /// By the order in which their tokens were told: whose, and until when.
    reservations: BTreeMap<usize, (usize, u64)>,
    tokens: usize,
    /// The last request of each client: its number, its user and what it asked for.
    last: BTreeMap<u8, (u64, usize, Operation)>,
}

#[derive(Clone)]
struct Allocation {
    /// `None` while its client is away.
    client: Option<u8>,
    user: usize,
    is_tcp: bool,
    mobility: Option<Mobility>,
    /// The number of the request that made it.
    made_by: u64,
    families: Vec<AddressFamily>,
    expires: u64,
    permissions: BTreeMap<u8, u64>,
    channels: BTreeMap<u16, (u8, u64)>,
}

/// What an allocation that may move knows.
#[derive(Clone)]
struct Mobility {
    /// Those that are good for it.
    tickets: Vec<usize>,
    /// Who may come, and by which request.
    next: Option<(u8, u64)>,
    /// The request by which its client came.
    came_by: Option<u64>,
}

struct Connection {
    /// The request that made the allocation.
    of: u64,
    peer: u8,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Connecting { until: u64 },
    Waiting { until: u64 },
    Bound,
}

impl Model {
    /// The error code of the answer; 0 for a success; `None` where there is no answer that the model knows of.
    pub(super) fn carry_out(&mut self, step: &Step) -> Option<u16> {
        match *step {
            Step::Request { client, user, operation } => {
                let operation = self.as_sent(operation);
                self.requests += 1;
                self.last.insert(client, (self.requests, user, operation));
                self.request(client, self.requests, user, operation)
            }
            Step::Repeat { client } => {
                let (number, user, operation) = *self.last.get(&client)?;
                self.request(client, number, user, operation)
            }
            Step::Forge { .. } => Some(401),
            Step::Noise { .. } => None,
            Step::Gone { client } => {
                self.gone(client);
                None
            }
            Step::Speak { client } => {
                self.arrive(client);
                None
            }
            Step::PeerConnects { client, peer } => self.peer_connects(client, peer).then_some(0),
            Step::Connected { nth, success } => self.connected(nth, success),
            Step::Closed { nth } => {
                let connecting = |it: &Connection| matches!(it.state, State::Connecting { .. });
                if self.connections.get(&nth).is_some_and(|it| !connecting(it)) {
                    self.connections.remove(&nth);
                }
                None
            }
            Step::BindConnection { nth, user } => Some(self.bind_connection(nth, user).err().unwrap_or(0)),
            Step::Pass { seconds } => {
                self.pass(seconds);
                None
            }
        }
    }

    /// What was not told yet cannot be meant, nor is it when the request is repeated.
    fn as_sent(&self, operation: Operation) -> Operation {
        match operation {
            Operation::Claim { nth, lifetime } if nth >= self.tickets => {
                Operation::Claim { nth: usize::MAX, lifetime }
            }
            Operation::Allocate(Wish::Reserved(nth)) if nth >= self.tokens => {
                Operation::Allocate(Wish::Reserved(usize::MAX))
            }
            operation => operation,
        }
    }

    /// `None`: no answer, or not yet.
    fn request(&mut self, client: u8, number: u64, user: usize, operation: Operation) -> Option<u16> {
        if let Operation::Connect { .. } = operation
            && client != STREAM_CLIENT
        {
            return None;
        }
        if !matches!(operation, Operation::Claim { .. }) {
            self.arrive(client);
        }
        let outcome = match operation {
            Operation::Allocate(wish) => self.allocate(client, number, user, wish),
            Operation::Refresh { lifetime, family } => self.refresh(client, user, lifetime, family),
            Operation::Permit { peers } => self.permit(client, user, &peers),
            Operation::Bind { channel, peer } => self.bind(client, user, channel, peer),
            Operation::Claim { nth, lifetime } => self.claim(client, number, user, nth, lifetime),
            Operation::Connect { peer } => match self.connect(client, user, peer) {
                Ok(()) => return None,
                Err(code) => Err(code),
            },
        };
        Some(outcome.err().unwrap_or(0))
    }

    fn allocate(&mut self, client: u8, number: u64, user: usize, wish: Wish) -> Result<(), u16> {
        if let Some(existing) = self.at(client) {
            let repeated = existing.made_by == number && existing.user == user;
            return if repeated { Ok(()) } else { Err(437) };
        }
        if matches!(wish, Wish::Tcp) && client != STREAM_CLIENT {
            return Err(400);
        }
        let seats = if matches!(wish, Wish::EvenAndNext) { 2 } else { 1 };
        let families = match wish {
            Wish::Reserved(token) => {
                self.reservations.get(&token).filter(|(owner, _)| *owner == user).ok_or(508_u16)?;
                self.reservations.remove(&token);
                vec![AddressFamily::Ipv4]
            }
            _ if self.seats_of(user) + seats > USER_QUOTA => return Err(486),
            Wish::None => return Err(508),
            Wish::One(family) => vec![family],
            Wish::Both => vec![AddressFamily::Ipv4, AddressFamily::Ipv6],
            Wish::BothWithoutIpv6 | Wish::EvenAndNext | Wish::Mobile | Wish::Tcp => vec![AddressFamily::Ipv4],
        };
        if let Wish::EvenAndNext = wish {
            self.reservations.insert(self.tokens, (user, self.now + 30));
            self.tokens += 1;
        }
        let mobility = matches!(wish, Wish::Mobile).then(|| Mobility {
            tickets: vec![self.new_ticket()],
            next: None,
            came_by: None,
        });
        self.allocations.push(Allocation {
            client: Some(client),
            user,
            is_tcp: matches!(wish, Wish::Tcp),
            mobility,
            made_by: number,
            families,
            expires: self.now + 600,
            permissions: BTreeMap::new(),
            channels: BTreeMap::new(),
        });
        Ok(())
    }

    fn refresh(
        &mut self,
        client: u8,
        user: usize,
        lifetime: u32,
        family: Option<AddressFamily>,
    ) -> Result<(), u16> {
        let now = self.now;
        let allocation = self.allocation(client, user)?;
        if family.is_some_and(|family| !allocation.families.contains(&family)) {
            return Err(443);
        }
        match (lifetime, family) {
            (0, Some(family)) if allocation.families.len() > 1 => {
                allocation.families.retain(|other| *other != family);
                allocation.permissions.retain(|peer, _| family_of(*peer) != family);
                allocation.channels.retain(|_, (peer, _)| family_of(*peer) != family);
            }
            (0, _) => self.end(|allocation| allocation.client == Some(client)),
            _ => allocation.expires = now + u64::from(lifetime.clamp(600, 3600)),
        }
        Ok(())
    }

    fn permit(&mut self, client: u8, user: usize, peers: &[u8]) -> Result<(), u16> {
        let now = self.now;
        let allocation = self.allocation(client, user)?;
        if peers.iter().any(|peer| !allocation.families.contains(&family_of(*peer))) {
            return Err(443);
        }
        let mut all = allocation.permissions.clone();
        all.extend(peers.iter().map(|peer| (*peer, now + 300)));
        if all.len() > MAX_PERMISSIONS {
            return Err(508);
        }
        allocation.permissions = all;
        Ok(())
    }

    fn bind(&mut self, client: u8, user: usize, channel: u16, peer: u8) -> Result<(), u16> {
        let now = self.now;
        let allocation = self.allocation(client, user)?;
        if allocation.is_tcp {
            return Err(403);
        }
        if !allocation.families.contains(&family_of(peer)) {
            return Err(443);
        }
        let clash = |(&number, &(bound, _)): (&u16, &(u8, u64))| (number == channel) != (bound == peer);
        if allocation.channels.iter().any(clash) {
            return Err(400);
        }
        // The permission is installed first, and stays where there is no room for the channel.
        self.permit(client, user, &[peer])?;
        let allocation = self.allocation(client, user)?;
        if !allocation.channels.contains_key(&channel) && allocation.channels.len() >= MAX_CHANNELS {
            return Err(508);
        }
        allocation.channels.insert(channel, (peer, now + 600));
        Ok(())
    }

    /// A client shows a ticket: it may come from there, and the old place is good until it does.
    fn claim(
        &mut self,
        client: u8,
        number: u64,
        user: usize,
        ticket: usize,
        lifetime: u32,
    ) -> Result<(), u16> {
        let answered = |allocation: &Allocation| {
            allocation.user == user
                && allocation.mobility.as_ref().is_some_and(|mobility| {
                    mobility.next == Some((client, number))
                        || allocation.client == Some(client) && mobility.came_by == Some(number)
                })
        };
        if self.allocations.iter().any(answered) {
            return Ok(());
        }
        let shown = |allocation: &Allocation| {
            allocation.mobility.as_ref().is_some_and(|mobility| mobility.tickets.contains(&ticket))
        };
        let found = self.allocations.iter().position(shown).ok_or(400_u16)?;
        if self.allocations[found].user != user {
            return Err(441);
        }
        if self.at(client).is_some() {
            return Err(if self.allocations[found].client == Some(client) { 400 } else { 437 });
        }
        self.expect_no_more(client);
        if lifetime == 0 {
            self.end(shown);
            return Ok(());
        }
        let (new, expires) = (self.new_ticket(), self.now + u64::from(lifetime));
        let allocation = &mut self.allocations[found];
        allocation.expires = expires;
        if let Some(mobility) = &mut allocation.mobility {
            mobility.tickets = vec![ticket, new];
            mobility.next = Some((client, number));
        }
        if allocation.client.is_none() {
            self.arrive(client);
        }
        Ok(())
    }

    /// Something comes from a client: if an allocation may come there, it does.
    fn arrive(&mut self, client: u8) {
        for allocation in &mut self.allocations {
            if let Some(mobility) = &mut allocation.mobility
                && let Some((_, number)) = mobility.next.take_if(|(next, _)| *next == client)
            {
                allocation.client = Some(client);
                mobility.came_by = Some(number);
                mobility.tickets.drain(..1);
            }
        }
    }

    fn expect_no_more(&mut self, client: u8) {
        for mobility in self.allocations.iter_mut().filter_map(|allocation| allocation.mobility.as_mut()) {
            mobility.next.take_if(|(next, _)| *next == client);
        }
    }

    fn gone(&mut self, client: u8) {
        self.expect_no_more(client);
        self.end(|allocation| allocation.client == Some(client) && allocation.mobility.is_none());
        let away = self.allocations.iter_mut().find(|allocation| allocation.client == Some(client));
        let Some(Allocation { client, mobility, .. }) = away else { return };
        *client = None;
        if let Some((next, _)) = mobility.as_ref().and_then(|mobility| mobility.next) {
            self.arrive(next);
        }
    }

    fn connect(&mut self, client: u8, user: usize, peer: u8) -> Result<(), u16> {
        let until = self.now + 30;
        let allocation = self.allocation(client, user)?;
        if !allocation.is_tcp {
            return Err(403);
        }
        if !allocation.families.contains(&family_of(peer)) {
            return Err(443);
        }
        let of = allocation.made_by;
        if self.connections.values().any(|other| other.of == of && other.peer == peer) {
            return Err(446);
        }
        self.begin(of, peer, State::Connecting { until }).then_some(()).ok_or(508)
    }

    fn peer_connects(&mut self, client: u8, peer: u8) -> bool {
        let Some(allocation) = self.at(client).filter(|it| it.is_tcp) else { return false };
        let (of, permitted) = (allocation.made_by, allocation.permissions.contains_key(&peer));
        permitted && self.begin(of, peer, State::Waiting { until: self.now + 30 })
    }

    fn begin(&mut self, of: u64, peer: u8, state: State) -> bool {
        let room = self.connections.values().filter(|other| other.of == of).count() < MAX_PEER_CONNECTIONS;
        if room {
            self.connections.insert(self.begun, Connection { of, peer, state });
            self.begun += 1;
        }
        room
    }

    fn connected(&mut self, nth: usize, success: bool) -> Option<u16> {
        let until = self.now + 30;
        let connection = self.connections.get_mut(&nth)?;
        if !matches!(connection.state, State::Connecting { .. }) {
            return None;
        }
        if !success {
            self.connections.remove(&nth);
            return Some(447);
        }
        connection.state = State::Waiting { until };
        Some(0)
    }

    fn bind_connection(&mut self, nth: usize, user: usize) -> Result<(), u16> {
        let connection = self.connections.get_mut(&nth).ok_or(400_u16)?;
        let mut allocations = self.allocations.iter();
        let owner = allocations.find(|allocation| allocation.made_by == connection.of).map(|it| it.user);
        if owner != Some(user) {
            return Err(441);
        }
        if !matches!(connection.state, State::Waiting { .. }) {
            return Err(400);
        }
        connection.state = State::Bound;
        Ok(())
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        let now = self.now;
        self.end(|allocation| allocation.expires <= now);
        self.reservations.retain(|_, (_, expires)| *expires > now);
        for allocation in &mut self.allocations {
            allocation.permissions.retain(|_, expires| *expires > now);
            allocation.channels.retain(|_, (_, expires)| *expires > now);
        }
        self.connections.retain(|_, connection| connection.ends().is_none_or(|at| at > now));
    }

    /// Ends allocations, and their connections with them.
    fn end(&mut self, which: impl Fn(&Allocation) -> bool) {
        let ended = self.allocations.extract_if(.., |allocation| which(allocation));
        let ended: Vec<_> = ended.map(|allocation| allocation.made_by).collect();
        self.connections.retain(|_, connection| !ended.contains(&connection.of));
    }

    fn new_ticket(&mut self) -> usize {
        self.tickets += 1;
        self.tickets - 1
    }

    fn at(&self, client: u8) -> Option<&Allocation> {
        self.allocations.iter().find(|allocation| allocation.client == Some(client))
    }

    /// Whether an allocation may come to a client.
    pub(super) fn expects(&self, client: u8) -> bool {
        let next = |allocation: &Allocation| allocation.mobility.as_ref()?.next;
        self.allocations.iter().filter_map(next).any(|(next, _)| next == client)
    }

    /// What a client gets of a peer's packet: `None` if nothing, otherwise the channel that it comes by, if any.
    pub(super) fn heard_from(&self, client: u8, peer: u8) -> Option<Option<u16>> {
        let allocation = self.at(client).filter(|allocation| !allocation.is_tcp)?;
        allocation.permissions.get(&peer)?;
        Some(allocation.channels.iter().find(|(_, (bound, _))| *bound == peer).map(|(channel, _)| *channel))
    }

    /// Which peer gets what a client sends by a channel.
    pub(super) fn heard_by(&self, client: u8, channel: u16) -> Option<u8> {
        self.at(client)?.channels.get(&channel).map(|(peer, _)| *peer)
    }

    /// Allocations, sockets of relays, reserved ports, what counts for quotas, and connections.
    pub(super) fn held(&self) -> [usize; 5] {
        let sockets = self.allocations.iter().map(|allocation| allocation.families.len()).sum();
        let (allocations, reserved) = (self.allocations.len(), self.reservations.len());
        [allocations, sockets, reserved, allocations + reserved, self.connections.len()]
    }

    /// In how many seconds something ends.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let allocations = self.allocations.iter().map(|allocation| allocation.expires);
        let reservations = self.reservations.values().map(|(_, expires)| *expires);
        let connections = self.connections.values().filter_map(Connection::ends);
        allocations.chain(reservations).chain(connections).min().map(|at| at - self.now)
    }

    fn allocation(&mut self, client: u8, user: usize) -> Result<&mut Allocation, u16> {
        let mut allocations = self.allocations.iter_mut();
        let allocation = allocations.find(|it| it.client == Some(client)).ok_or(437_u16)?;
        if allocation.user == user { Ok(allocation) } else { Err(441) }
    }

    fn seats_of(&self, user: usize) -> usize {
        let allocations = self.allocations.iter().filter(|allocation| allocation.user == user).count();
        allocations + self.reservations.values().filter(|(owner, _)| *owner == user).count()
    }
}

impl Connection {
    fn ends(&self) -> Option<u64> {
        match self.state {
            State::Connecting { until } | State::Waiting { until } => Some(until),
            State::Bound => None,
        }
    }
}
