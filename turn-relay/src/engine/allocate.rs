//! Allocate: a relayed transport address for a client (RFC 8656, section 7).

use std::sync::Arc;
use std::time::Instant;

use rand::RngCore;
use thirl_common::net::RelayedAddr;
use thirl_common::wire::{
    AdditionalAddressFamily, AddressFamily, AttributeType, DontFragment, EvenPort, Lifetime, Message,
    MobilityTicket, RequestedAddressFamily, RequestedTransport, ReservationToken,
    SsodaAdditionalAddressFamily,
};

use super::allocation::{AllocateRequest, Allocation, Owner, Relay, Relays};
use super::authenticate::{Authenticated, Maker};
use super::icmp::IcmpWindow;
use super::mobility::Mobility;
use super::output::{Action, BindError, Event, PortWish, RelayId};
use super::realm::realm_of;
use super::refusal::Refusal;
use super::request::{Request, Success};
use super::reservation::RESERVATION_LIFETIME;
use super::shared::{Quotas, Reservation, Seat};
use super::{Engine, EngineConfig, Timer};

/// Comprehension-required attributes of an Allocate's own. With DONT-FRAGMENT the client asks whether Send indications may
/// have it, and nothing else: that it is no reason for a 420 is the answer (RFC 8656, section 7.2).
const KNOWN: [AttributeType; 6] = [
    AttributeType::REQUESTED_TRANSPORT,
    AttributeType::LIFETIME,
    AttributeType::REQUESTED_ADDRESS_FAMILY,
    AttributeType::EVEN_PORT,
    AttributeType::RESERVATION_TOKEN,
    AttributeType::DONT_FRAGMENT,
];

/// What an Allocate asks for.
struct Wish {
    /// Whether TCP is to be relayed.
    tcp: bool,
    lifetime: Option<u32>,
    /// Whether the client may want to move.
    mobile: bool,
    place: Place,
}

enum Place {
    /// A port of the server's choice in this family.
    New { family: AddressFamily, even: Option<EvenPort> },
    /// One in each family, or in one if the other is not to be had.
    Both { even: bool },
    /// The port that was set aside.
    Reserved { token: u64 },
}

impl Wish {
    /// The checks of RFC 8656, section 7.2, in its order, as far as they concern the request alone.
    fn read(request: &Request<'_>, config: &EngineConfig) -> Result<Wish, Refusal> {
        let message = &request.message;
        let tcp = match message.require::<RequestedTransport>()? {
            RequestedTransport::UDP => false,
            RequestedTransport::TCP if config.tcp_relay => true,
            _ => return Err(Refusal::UnsupportedTransport),
        };
        request.check_known(&KNOWN)?;
        if tcp {
            check_tcp(request)?;
        }
        let lifetime = message.get::<Lifetime>()?.map(|Lifetime(seconds)| seconds);
        let mobile = wants_ticket(message, config)?;
        let even = message.get::<EvenPort>()?;
        let family = message.get::<RequestedAddressFamily>()?;
        let additional = match message.get::<AdditionalAddressFamily>()? {
            Some(AdditionalAddressFamily(family)) => Some(family),
            None => message.get()?.map(|SsodaAdditionalAddressFamily(family)| family),
        };
        if let Some(ReservationToken(token)) = message.get()? {
            let alone = even.is_none() && family.is_none() && additional.is_none();
            return if alone {
                Ok(Wish { tcp, lifetime, mobile, place: Place::Reserved { token } })
            } else {
                Err(Refusal::Conflicting("RESERVATION-TOKEN and EVEN-PORT or an address family"))
            };
        }
        if let Some(additional) = additional {
            // The first is IPv4, whether or not it is to be had: "ADDITIONAL-ADDRESS-FAMILY ... MUST be 0x02".
            let conflict = match (additional, family, even) {
                (Some(AddressFamily::Ipv6), None, None | Some(EvenPort { reserve: false })) => None,
                (Some(AddressFamily::Ipv6), None, _) => {
                    Some("ADDITIONAL-ADDRESS-FAMILY and EVEN-PORT with R")
                }
                (Some(AddressFamily::Ipv6), Some(_), _) => Some("two attributes for an address family"),
                _ => Some("ADDITIONAL-ADDRESS-FAMILY and a family other than IPv6"),
            };
            return match conflict {
                None => Ok(Wish { tcp, lifetime, mobile, place: Place::Both { even: even.is_some() } }),
                Some(conflict) => Err(Refusal::Conflicting(conflict)),
            };
        }
        // "If ... absent, the server allocates an IPv4 relayed transport address."
        let family = match family {
            None => Some(AddressFamily::Ipv4),
            Some(RequestedAddressFamily(family)) => family,
        };
        let family =
            family.filter(|family| config.families.contains(family)).ok_or(Refusal::UnsupportedFamily)?;
        Ok(Wish { tcp, lifetime, mobile, place: Place::New { family, even } })
    }
}

/// Whether the client asks for a ticket (RFC 8016, section 3.1). One that relays TCP could not move: its connections to peers
/// are tied to connections of the client's (RFC 6062).
fn wants_ticket(message: &Message<'_>, config: &EngineConfig) -> Result<bool, Refusal> {
    let may_move = config.mobility && message.require::<RequestedTransport>()? == RequestedTransport::UDP;
    match message.get::<MobilityTicket<'_>>()? {
        None => Ok(false),
        Some(MobilityTicket([])) if may_move => Ok(true),
        Some(MobilityTicket([])) => Err(Refusal::MobilityForbidden),
        Some(_) => Err(Refusal::InvalidTicket),
    }
}

/// The checks of RFC 6062, section 5.1.
fn check_tcp(request: &Request<'_>) -> Result<(), Refusal> {
    if !request.five_tuple.transport.is_reliable() {
        return Err(Refusal::NotOverStream);
    }
    let message = &request.message;
    let of_udp = message.get::<EvenPort>()?.is_some()
        || message.get::<ReservationToken>()?.is_some()
        || message.get::<DontFragment>()?.is_some();
    if of_udp { Err(Refusal::Conflicting("TCP and an attribute for UDP")) } else { Ok(()) }
}

/// The seats and the ports for a wish that is granted.
struct Grant {
    seat: Seat,
    reserving: Option<Box<Seat>>,
    relays: Relays,
    port: PortWish,
}

impl Engine {
    /// `None`: the response comes when the relay is bound.
    pub(super) fn handle_allocate(
        &mut self,
        request: &Request<'_>,
        user: Authenticated,
    ) -> Result<Option<Success>, Refusal> {
        if let Some((_, existing)) = self.allocations.find(&request.five_tuple) {
            let retransmitted = existing.owner.request.transaction == request.message.transaction_id()
                && existing.is_of(&user);
            return match retransmitted {
                true if existing.relays.complete() => Ok(Some(existing.allocate_success(request.now))),
                true => Ok(None),
                false => Err(Refusal::AllocationExists),
            };
        }
        let wish = Wish::read(request, &self.config)?;
        let lifetime = user.limit(self.config.lifetime(wish.lifetime), request.unix_seconds);
        let Grant { seat, reserving, relays, port } = self
            .grant(&wish.place, request, &user.account)
            .map_err(|refusal| self.or_elsewhere(refusal, &request.five_tuple))?;
        let account = seat.account().clone();
        // One text for both, and for all allocations of a user.
        let username = if *user.username == *account { account.clone() } else { user.username };
        let mobility = wish.mobile.then(|| Box::new(Mobility::new(self.new_ticket())));
        let id = self.allocations.insert(Allocation {
            five_tuple: request.five_tuple,
            connected: true,
            expires: request.now,
            relays,
            permissions: Default::default(),
            channels: Default::default(),
            tcp: wish.tcp.then(Box::default),
            traffic: Default::default(),
            meters: self.shared.meters(&seat, &self.config, request.now),
            owner: Box::new(Owner {
                maker: Arc::new(Maker {
                    username,
                    realm: user.realm,
                    account,
                    expires: user.expires,
                    key: user.signing.key,
                    key_of: user.key_of,
                }),
                seat,
                request: AllocateRequest {
                    transaction: request.message.transaction_id(),
                    fingerprint: request.fingerprint,
                    algorithm: user.signing.algorithm,
                    lifetime,
                    reservation_token: match port {
                        PortWish::EvenAndReserveNext { token } => Some(token),
                        _ => None,
                    },
                },
                reserving,
                icmp: IcmpWindow::new(request.now),
                mobility,
            }),
        });
        for family in relays.binding() {
            let relay = RelayId { allocation: id, family };
            let five_tuple = request.five_tuple;
            self.actions.push_back(match wish.tcp {
                true => Action::ListenRelay { relay, family, five_tuple },
                false => Action::BindRelay { relay, family, five_tuple, port },
            });
        }
        Ok(None)
    }

    fn grant(&mut self, place: &Place, request: &Request<'_>, account: &Arc<str>) -> Result<Grant, Refusal> {
        if !matches!(place, Place::Reserved { .. }) {
            self.check_turn(&request.five_tuple)?;
        }
        let (family, even) = match *place {
            Place::Reserved { token } => {
                let claimed = self.shared.claim_reservation(token, account);
                // Its seat is the allocation's from now on.
                let Reservation { seat, family } = claimed.ok_or(BindError::NotReserved)?;
                // Another engine's, if it made the reservation, will find nothing to end.
                self.deadlines.cancel(Timer::Reservation(token));
                let relays = Relays::of(family, Relay::Binding);
                return Ok(Grant { seat, reserving: None, relays, port: PortWish::Reserved { token } });
            }
            Place::Both { even } => {
                let seat = self.admit(request, account)?;
                let port = if even { PortWish::Even } else { PortWish::Any };
                return Ok(Grant { seat, reserving: None, relays: self.both_families()?, port });
            }
            Place::New { family, even } => (family, even),
        };
        let seat = self.admit(request, account)?;
        let (reserving, port) = match even {
            None => (None, PortWish::Any),
            Some(EvenPort { reserve: false }) => (None, PortWish::Even),
            Some(EvenPort { reserve: true }) => {
                let token = self.rng.next_u64();
                (Some(Box::new(self.admit(request, account)?)), PortWish::EvenAndReserveNext { token })
            }
        };
        Ok(Grant { seat, reserving, relays: Relays::of(family, Relay::Binding), port })
    }

    /// "The server ... attempts to allocate both", and one that it does not relay is refused by itself (RFC 8656,
    /// section 7.2).
    fn both_families(&self) -> Result<Relays, Refusal> {
        let mut relays = Relays::default();
        for family in [AddressFamily::Ipv4, AddressFamily::Ipv6] {
            relays.set(
                family,
                match self.config.families.contains(&family) {
                    true => Relay::Binding,
                    false => Relay::Refused(Refusal::UnsupportedFamily.error_code().code),
                },
            );
        }
        if relays.binding().next().is_none() { Err(Refusal::UnsupportedFamily) } else { Ok(relays) }
    }

    fn admit(&self, request: &Request<'_>, account: &Arc<str>) -> Result<Seat, Refusal> {
        let limits = self.config.limits_of(realm_of(account));
        let quotas = Quotas {
            account: limits.user_quota,
            realm: limits.total_quota,
            address: self.config.address_quota,
            total: self.config.total_quota,
        };
        Ok(self.shared.admit(account, request.five_tuple.client.ip(), &quotas)?)
    }

    /// The second half of an Allocate: the socket is there, or is not.
    pub(super) fn finish_allocate(
        &mut self,
        relay: RelayId,
        result: Result<RelayedAddr, BindError>,
        now: Instant,
    ) {
        let waiting = self
            .allocations
            .get_mut(relay.allocation)
            .filter(|allocation| allocation.relays.get(relay.family) == Relay::Binding);
        let Some(allocation) = waiting else {
            // The client went while the socket was bound.
            if result.is_ok() {
                self.actions.push_back(Action::ReleaseRelay { relay });
            }
            return;
        };
        allocation.relays.set(
            relay.family,
            match &result {
                Ok(relayed) => Relay::Bound(*relayed),
                Err(error) => Relay::Refused(Refusal::from(error.clone()).error_code().code),
            },
        );
        if !allocation.relays.complete() {
            return;
        }
        if let (Err(error), None) = (result, allocation.relays.bound().next()) {
            let envelope = allocation.allocate_envelope();
            self.allocations.remove(relay.allocation);
            let refusal = self.or_elsewhere(Refusal::NotBound(error), &envelope.five_tuple);
            self.refuse(&envelope, refusal, None);
            return;
        }
        let lifetime = allocation.owner.request.lifetime;
        allocation.expires = now + lifetime;
        let created = Event::AllocationCreated {
            id: relay.allocation,
            five_tuple: allocation.five_tuple,
            username: allocation.username().clone(),
            realm: allocation.owner.maker.realm.clone(),
            relayed: allocation.relays.addresses(),
            lifetime,
        };
        let (envelope, success) = (allocation.allocate_envelope(), allocation.allocate_success(now));
        let reserving = allocation.owner.reserving.take().zip(allocation.owner.request.reservation_token);
        self.deadlines.set(Timer::Allocation(relay.allocation), now + lifetime);
        if let Some((seat, token)) = reserving {
            self.shared.reserve(token, Reservation { seat: *seat, family: relay.family });
            self.deadlines.set(Timer::Reservation(token), now + RESERVATION_LIFETIME);
        }
        self.issue_ticket(relay.allocation);
        self.counters.allocations_created += 1;
        created.queue(&mut self.events, &mut self.counters.dropped);
        self.succeed(&envelope, &success);
    }
}
