//! The machine for one gateway: what is asked, and when. What comes of it: `answers`.

mod answers;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use thirl_common::net::{Transmit, canonical};
use thirl_common::time::Deadlines;

use super::epoch::Epoch;
use super::error::{MappingError, Protocol, ResultCode, UpnpError};
use super::event::{Action, Event, MappingId, MappingRequest, UpnpMap};
use super::mapping::{Choice, Mapping, Stage};
use super::requests::{Asked, Pace, Requests};
use super::wire::{Nonce, Request, Response, SERVER_PORT, Version};

/// How long a preferred protocol is waited for when another has answered.
const HEAD_START: Duration = Duration::from_millis(500);

/// Renewals are no closer together (RFC 6887, section 11.2.1).
const MIN_RENEWAL: Duration = Duration::from_secs(4);

/// No grant is believed to last longer (RFC 6887, section 15: a maximum of 24 hours).
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// So many external ports are tried where UPnP says that they are taken.
const UPNP_PORTS: u8 = 4;

/// One gateway, seen from one address of this host.
///
/// - in: [`discover`](Self::discover), [`map`](Self::map), [`remove`](Self::remove), [`check`](Self::check),
///   [`handle_datagram`](Self::handle_datagram), [`gateway_closed`](Self::gateway_closed),
///   [`handle_timeout`](Self::handle_timeout), and the answers to actions: [`upnp_found`](Self::upnp_found),
///   [`upnp_mapped`](Self::upnp_mapped), [`upnp_removed`](Self::upnp_removed);
/// - out, after each of them, until each returns `None`: [`poll_transmit`](Self::poll_transmit),
///   [`poll_action`](Self::poll_action), [`poll_event`](Self::poll_event); then wait until
///   [`poll_timeout`](Self::poll_timeout).
///
/// NAT-PMP has no transaction ids: whoever can forge the gateway's address on the local network can forge its answers.
/// PCP's nonce prevents that unless they can also listen.
///
/// ```
/// use std::time::Instant;
/// use thirl_common::net::Transport;
/// use thirl_ice_agent::port_mapping::{Event, MappingRequest, PortMapper, ResultCode, wire};
///
/// # #[expect(clippy::disallowed_methods, reason = "an example's clock")]
/// let now = Instant::now();
/// let (gateway, local) = ("192.168.1.1:0".parse().unwrap(), "192.168.1.2:40000".parse().unwrap());
/// let mut mapper = PortMapper::new(gateway, local, [7; 32]);
/// mapper.map(now, MappingRequest::new(Transport::Udp, 5000));
/// let announce = mapper.poll_transmit().unwrap();
/// assert_eq!(announce.to, "192.168.1.1:5351".parse().unwrap());
/// let answer = wire::Response::Pcp { result: ResultCode::Success, lifetime: 0, epoch: 9, map: None };
/// mapper.handle_datagram(now, announce.to, &answer.encode());
/// assert!(matches!(mapper.poll_event(), Some(Event::Found { .. })));
/// ```
#[derive(Debug)]
pub struct PortMapper {
    gateway: SocketAddr,
    local: SocketAddr,
    rng: StdRng,
    services: BTreeMap<Protocol, Service>,
    mappings: BTreeMap<MappingId, Mapping>,
    requests: Requests,
    timers: Deadlines<Timer>,
    head_start_over: bool,
    next: u32,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
}

/// A protocol of the gateway.
#[derive(Debug, Default)]
struct Service {
    offer: Offer,
    epoch: Epoch,
    external: Option<IpAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Offer {
    #[default]
    Unknown,
    Asking,
    Found,
    Missing(MappingError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Timer {
    HeadStart,
    Renew(MappingId),
    Expire(MappingId),
}

impl PortMapper {
    /// For the gateway `gateway` (a port other than 0 is taken as it is, else it is 5351), asked from `local`: a UDP
    /// socket's address, of which mappings are made.
    pub fn new(gateway: SocketAddr, local: SocketAddr, seed: [u8; 32]) -> PortMapper {
        let mut gateway = canonical(gateway);
        if gateway.port() == 0 {
            gateway.set_port(SERVER_PORT);
        }
        let local = canonical(local);
        PortMapper {
            gateway,
            local,
            rng: StdRng::from_seed(seed),
            services: Protocol::ALL.map(|protocol| (protocol, Service::default())).into(),
            mappings: BTreeMap::new(),
            requests: Requests::new(local, gateway),
            timers: Deadlines::default(),
            head_start_over: false,
            next: 0,
            actions: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The gateway.
    pub fn gateway(&self) -> IpAddr {
        self.gateway.ip()
    }

    /// Asks which protocols the gateway speaks; each is answered by an event within some three seconds.
    pub fn discover(&mut self, now: Instant) {
        self.head_start_over = false;
        self.timers.set(Timer::HeadStart, now + HEAD_START);
        for protocol in Protocol::ALL {
            if protocol != Protocol::Pcp && !self.local.is_ipv4() {
                self.missing(now, protocol, MappingError::Ipv4Only);
            } else if self.offer(protocol) != Offer::Asking {
                self.set_offer(protocol, Offer::Asking);
                self.ask_service(now, protocol);
            }
        }
    }

    /// Wants a mapping; an event tells what comes of it.
    pub fn map(&mut self, now: Instant, request: MappingRequest) -> MappingId {
        self.next += 1;
        let id = MappingId(self.next);
        let mut nonce = Nonce([0; 12]);
        self.rng.fill_bytes(&mut nonce.0);
        self.mappings.insert(id, Mapping::new(request, nonce));
        if self.services.values().all(|service| service.offer == Offer::Unknown) {
            self.discover(now);
        }
        self.choose(now, id);
        id
    }

    /// Gives a mapping up. [`Event::Removed`] says when it is gone.
    pub fn remove(&mut self, now: Instant, id: MappingId) {
        let Some(mapping) = self.mappings.get_mut(&id) else { return };
        let stage = std::mem::replace(&mut mapping.stage, Stage::Choosing);
        self.timers.cancel(Timer::Renew(id));
        self.timers.cancel(Timer::Expire(id));
        match stage {
            Stage::Choosing => self.removed(id, Ok(())),
            Stage::Asking(protocol) | Stage::Mapped(protocol) | Stage::Removing(protocol) => {
                mapping.stage = Stage::Removing(protocol);
                match protocol {
                    // Once it is made it is removed.
                    Protocol::Upnp if mapping.upnp_busy => {}
                    Protocol::Upnp => self.upnp(id, Action::RemoveUpnp),
                    Protocol::Pcp | Protocol::NatPmp => {
                        self.requests.finish(Asked::Map(protocol, id));
                        self.ask_mapping(now, protocol, id, Pace::Quick);
                    }
                }
            }
        }
    }

    /// Asks whether the gateway still has its mappings: for when something is wrong with a path.
    pub fn check(&mut self, now: Instant) {
        for (id, protocol) in self.mapped() {
            match protocol {
                Protocol::Upnp => self.renew(now, id),
                Protocol::Pcp | Protocol::NatPmp => self.ask_service(now, protocol),
            }
        }
    }

    /// Takes what came to the socket.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let from = canonical(from);
        if (from.ip(), from.port()) != (self.gateway.ip(), self.gateway.port()) {
            return;
        }
        match Response::parse(bytes) {
            Some(Response::Pcp { result, lifetime, epoch, map }) => {
                self.handle_pcp(now, result, lifetime, epoch, map);
            }
            Some(Response::ExternalAddress { epoch, external }) => {
                self.handle_external_address(now, epoch, external.map(IpAddr::V4));
            }
            Some(Response::NatPmpMap {
                epoch,
                result,
                transport,
                internal_port,
                external_port,
                lifetime,
            }) => {
                let granted = (external_port, lifetime);
                self.handle_nat_pmp_map(now, epoch, result, (transport, internal_port), granted);
            }
            Some(Response::UnsupportedVersion { speaks }) => {
                let unknown = if speaks == Version::Pcp { Protocol::NatPmp } else { Protocol::Pcp };
                self.refuse_all(now, unknown, &MappingError::Refused(ResultCode::UnsupportedVersion));
            }
            None => {}
        }
    }

    /// The gateway says that its port is closed: the socket got an ICMP error.
    pub fn gateway_closed(&mut self, now: Instant) {
        // A mapping that exists is asked for further: the gateway's server may be starting.
        for asked in [Asked::Announce, Asked::ExternalAddress] {
            if self.offer(asked.protocol()) == Offer::Asking && self.requests.finish(asked) {
                self.not_done(now, asked, MappingError::Closed);
            }
        }
    }

    /// The answer to [`Action::FindUpnp`]: the external address, if the gateway has one.
    pub fn upnp_found(&mut self, now: Instant, found: Result<Option<IpAddr>, UpnpError>) {
        match found {
            Ok(external) => {
                self.found(now, Protocol::Upnp, external.filter(|external| !external.is_unspecified()));
            }
            Err(error) => self.missing(now, Protocol::Upnp, MappingError::Upnp(error)),
        }
    }

    /// The answer to [`Action::MapUpnp`]: the external address.
    pub fn upnp_mapped(&mut self, now: Instant, map: UpnpMap, mapped: Result<IpAddr, UpnpError>) {
        let id = map.mapping;
        let Some(mapping) = self.mappings.get_mut(&id) else { return };
        mapping.upnp_busy = false;
        if mapping.stage == Stage::Removing(Protocol::Upnp) {
            return self.upnp(id, Action::RemoveUpnp);
        }
        let error = match mapped {
            Ok(ip) => {
                let external = SocketAddr::new(ip, map.external_port);
                let lifetime = mapping.request.lifetime;
                return self.granted(now, id, Protocol::Upnp, external, lifetime);
            }
            Err(error) => error,
        };
        mapping.upnp_tries += 1;
        let untried = mapping.upnp_tries < UPNP_PORTS;
        match error {
            UpnpError::OnlyPermanent if mapping.request.permanent && !mapping.permanent => {
                mapping.permanent = true;
            }
            UpnpError::SamePortRequired if map.external_port != mapping.request.internal_port => {
                mapping.suggested = mapping.request.internal_port;
            }
            UpnpError::Conflict if untried => mapping.suggested = self.rng.random_range(1024..=u16::MAX),
            UpnpError::Broken(_) | UpnpError::NotFound if mapping.external.is_some() => {
                return self.renew_later(now, id, None);
            }
            error => return self.refused(now, id, Protocol::Upnp, MappingError::Upnp(error)),
        }
        self.upnp(id, Action::MapUpnp);
    }

    /// The answer to [`Action::RemoveUpnp`].
    pub fn upnp_removed(&mut self, map: UpnpMap, removed: Result<(), UpnpError>) {
        self.removed(map.mapping, removed.map_err(MappingError::Upnp));
    }

    /// Sends requests again, gives them up, renews mappings and lets them expire.
    pub fn handle_timeout(&mut self, now: Instant) {
        for asked in self.requests.handle_timeout(now) {
            match asked {
                Asked::Map(protocol, id) if self.is_mapped(id, protocol) => self.renew_later(now, id, None),
                asked => self.not_done(now, asked, MappingError::Silent),
            }
        }
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::HeadStart => {
                    self.head_start_over = true;
                    self.choose_all(now);
                }
                Timer::Renew(id) => self.renew(now, id),
                Timer::Expire(id) => self.lose(now, id),
            }
        }
    }

    /// A datagram to send to the gateway.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.requests.poll_transmit()
    }

    /// Something to do by UPnP.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`PortMapper::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.requests.poll_timeout(), self.timers.next()].into_iter().flatten().min()
    }
}

/// What is asked.
impl PortMapper {
    fn ask_service(&mut self, now: Instant, protocol: Protocol) {
        match protocol {
            Protocol::Pcp => {
                let request = Request::Announce { client: self.local.ip() };
                self.requests.ask(now, Asked::Announce, request, Pace::Quick);
            }
            Protocol::NatPmp => {
                self.requests.ask(now, Asked::ExternalAddress, Request::ExternalAddress, Pace::Quick);
            }
            Protocol::Upnp => self.actions.push_back(Action::FindUpnp),
        }
    }

    /// Takes the best protocol that there is for a mapping, once that is known.
    fn choose(&mut self, now: Instant, id: MappingId) {
        let Some(mapping) = self.mappings.get_mut(&id).filter(|mapping| mapping.stage == Stage::Choosing)
        else {
            return;
        };
        let offers = self.services.iter().map(|(protocol, service)| (*protocol, &service.offer));
        match mapping.choose(offers, self.head_start_over) {
            Choice::Wait => {}
            Choice::Take(protocol) => {
                mapping.stage = Stage::Asking(protocol);
                match protocol {
                    Protocol::Upnp => self.upnp(id, Action::MapUpnp),
                    Protocol::Pcp | Protocol::NatPmp => self.ask_mapping(now, protocol, id, Pace::Quick),
                }
            }
            Choice::Nothing(reasons) => {
                self.mappings.remove(&id);
                self.events.push_back(Event::Failed { mapping: id, reasons });
            }
        }
    }

    fn choose_all(&mut self, now: Instant) {
        let ids: Vec<_> = self.mappings.keys().copied().collect();
        ids.into_iter().for_each(|id| self.choose(now, id));
    }

    /// Makes or renews a mapping, or deletes one that is being removed.
    fn ask_mapping(&mut self, now: Instant, protocol: Protocol, id: MappingId, pace: Pace) {
        let Some(mapping) = self.mappings.get(&id) else { return };
        let removing = matches!(mapping.stage, Stage::Removing(_));
        let asked = if removing { Asked::Remove(protocol, id) } else { Asked::Map(protocol, id) };
        let request = mapping.request_by(protocol, self.local.ip());
        self.requests.ask(now, asked, request, pace);
        if protocol == Protocol::NatPmp && !removing {
            // Its answers do not tell the address.
            self.ask_service(now, protocol);
        }
    }

    fn upnp(&mut self, id: MappingId, action: fn(UpnpMap) -> Action) {
        let Some(mapping) = self.mappings.get_mut(&id) else { return };
        mapping.upnp_busy = true;
        let map = mapping.upnp_map(id, self.local.ip());
        self.actions.push_back(action(map));
    }

    fn renew(&mut self, now: Instant, id: MappingId) {
        match self.mappings.get(&id).map(|mapping| (mapping.stage, mapping.upnp_busy)) {
            Some((Stage::Mapped(Protocol::Upnp), false)) => self.upnp(id, Action::MapUpnp),
            Some((Stage::Mapped(protocol @ (Protocol::Pcp | Protocol::NatPmp)), _)) => {
                self.ask_mapping(now, protocol, id, Pace::Patient);
            }
            _ => {}
        }
    }

    /// After a failed attempt: when half of what is left has passed, or the gateway says that it may work again.
    fn renew_later(&mut self, now: Instant, id: MappingId, after: Option<Duration>) {
        let Some(until) = self.timers.get(Timer::Expire(id)) else { return };
        let half = until.saturating_duration_since(now) / 2;
        let wait = after.map_or(half, |after| half.min(after)).max(MIN_RENEWAL);
        self.timers.set(Timer::Renew(id), now + wait);
    }
}

/// What is known.
impl PortMapper {
    fn offer(&self, protocol: Protocol) -> Offer {
        self.services.get(&protocol).map_or(Offer::Unknown, |service| service.offer.clone())
    }

    /// What it was before.
    fn set_offer(&mut self, protocol: Protocol, offer: Offer) -> Offer {
        let service = self.services.entry(protocol).or_default();
        std::mem::replace(&mut service.offer, offer)
    }

    fn is_mapped(&self, id: MappingId, protocol: Protocol) -> bool {
        self.mappings.get(&id).is_some_and(|mapping| mapping.stage == Stage::Mapped(protocol))
    }

    fn mapped(&self) -> Vec<(MappingId, Protocol)> {
        let mapped = self.mappings.iter().filter_map(|(id, mapping)| match mapping.stage {
            Stage::Mapped(protocol) => Some((*id, protocol)),
            _ => None,
        });
        mapped.collect()
    }
}
