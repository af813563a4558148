//! What a TURN server does, in the simplest words (RFC 8656).
//!
//! Times are seconds since the start; what has expired is taken out whenever the time changes.

use std::collections::BTreeMap;

use thirl_common::wire::AddressFamily;

use super::step::{Operation, Step, Wish, family_of};

pub(super) const MAX_PERMISSIONS: usize = 3;
pub(super) const MAX_CHANNELS: usize = 2;
pub(super) const USER_QUOTA: usize = 3;

#[derive(Default)]
pub(super) struct Model {
    now: u64,
    /// How many requests were sent, those repeated aside.
    requests: u64,
    allocations: BTreeMap<u8, Allocation>,
    /// By the order in which their tokens were told: whose, and until when.
    reservations: BTreeMap<usize, (usize, u64)>,
    tokens: usize,
    /// The last request of each client: its number, its user and what it asked for.
    last: BTreeMap<u8, (u64, usize, Operation)>,
}

struct Allocation {
    user: usize,
    /// The number of the request that made it.
    made_by: u64,
    families: Vec<AddressFamily>,
    expires: u64,
    permissions: BTreeMap<u8, u64>,
    channels: BTreeMap<u16, (u8, u64)>,
}

impl Model {
    /// The error code of the answer; 0 for a success; `None` where there is no answer that the model knows of.
    pub(super) fn carry_out(&mut self, step: &Step) -> Option<u16> {
        match *step {
            Step::Request { client, user, operation } => {
                self.requests += 1;
                self.last.insert(client, (self.requests, user, operation));
                Some(self.request(client, self.requests, user, operation))
            }
            Step::Repeat { client } => {
                let (number, user, operation) = *self.last.get(&client)?;
                Some(self.request(client, number, user, operation))
            }
            Step::Forge { .. } => Some(401),
            Step::Noise { .. } => None,
            Step::Gone { client } => {
                self.allocations.remove(&client);
                None
            }
            Step::Pass { seconds } => {
                self.pass(seconds);
                None
            }
        }
    }

    fn request(&mut self, client: u8, number: u64, user: usize, operation: Operation) -> u16 {
        let outcome = match operation {
            Operation::Allocate(wish) => self.allocate(client, number, user, wish),
            Operation::Refresh { lifetime, family } => self.refresh(client, user, lifetime, family),
            Operation::Permit { peers } => self.permit(client, user, &peers),
            Operation::Bind { channel, peer } => self.bind(client, user, channel, peer),
        };
        outcome.err().unwrap_or(0)
    }

    fn allocate(&mut self, client: u8, number: u64, user: usize, wish: Wish) -> Result<(), u16> {
        if let Some(existing) = self.allocations.get(&client) {
            let repeated = existing.made_by == number && existing.user == user;
            return if repeated { Ok(()) } else { Err(437) };
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
            Wish::BothWithoutIpv6 | Wish::EvenAndNext => vec![AddressFamily::Ipv4],
        };
        if let Wish::EvenAndNext = wish {
            self.reservations.insert(self.tokens, (user, self.now + 30));
            self.tokens += 1;
        }
        let (permissions, channels) = Default::default();
        let expires = self.now + 600;
        let allocation = Allocation { user, made_by: number, families, expires, permissions, channels };
        self.allocations.insert(client, allocation);
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
            (0, _) => drop(self.allocations.remove(&client)),
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

    fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        let now = self.now;
        self.allocations.retain(|_, allocation| allocation.expires > now);
        self.reservations.retain(|_, (_, expires)| *expires > now);
        for allocation in self.allocations.values_mut() {
            allocation.permissions.retain(|_, expires| *expires > now);
            allocation.channels.retain(|_, (_, expires)| *expires > now);
        }
    }

    /// What a client gets of a peer's packet: `None` if nothing, otherwise the channel that it comes by, if any.
    pub(super) fn heard_from(&self, client: u8, peer: u8) -> Option<Option<u16>> {
        let allocation = self.allocations.get(&client)?;
        allocation.permissions.get(&peer)?;
        Some(allocation.channels.iter().find(|(_, (bound, _))| *bound == peer).map(|(channel, _)| *channel))
    }

    /// Which peer gets what a client sends by a channel.
    pub(super) fn heard_by(&self, client: u8, channel: u16) -> Option<u8> {
        self.allocations.get(&client)?.channels.get(&channel).map(|(peer, _)| *peer)
    }

    /// Allocations, sockets of relays, reserved ports, and what counts for quotas.
    pub(super) fn held(&self) -> [usize; 4] {
        let sockets = self.allocations.values().map(|allocation| allocation.families.len()).sum();
        let (allocations, reserved) = (self.allocations.len(), self.reservations.len());
        [allocations, sockets, reserved, allocations + reserved]
    }

    /// In how many seconds something ends.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        let allocations = self.allocations.values().map(|allocation| allocation.expires);
        let reservations = self.reservations.values().map(|(_, expires)| *expires);
        allocations.chain(reservations).min().map(|at| at - self.now)
    }

    fn allocation(&mut self, client: u8, user: usize) -> Result<&mut Allocation, u16> {
        let allocation = self.allocations.get_mut(&client).ok_or(437_u16)?;
        if allocation.user == user { Ok(allocation) } else { Err(441) }
    }

    fn seats_of(&self, user: usize) -> usize {
        let allocations = self.allocations.values().filter(|allocation| allocation.user == user).count();
        allocations + self.reservations.values().filter(|(owner, _)| *owner == user).count()
    }
}
