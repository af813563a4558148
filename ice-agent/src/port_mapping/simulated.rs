//! A gateway for tests: PCP, NAT-PMP and UPnP as its settings say, in virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use thirl_common::net::Transport;

use super::error::{ResultCode, UpnpError};
use super::event::{Action, Event, UpnpMap};
use super::mapper::PortMapper;
use super::wire::{Map, Nonce, Request, Response, SERVER_PORT, Version};

pub(crate) const EXTERNAL: IpAddr = IpAddr::V4(Ipv4Addr::new(11, 0, 0, 10));
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);

/// Who answers a protocol, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Speaks {
    Well,
    /// Grants nothing.
    Refusing(ResultCode),
    /// The other version is spoken instead.
    OtherVersion,
    /// Drops everything.
    Nothing,
}

/// A mapping as the gateway keeps it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Kept {
    pub(crate) internal_port: u16,
    pub(crate) until: Instant,
    nonce: Option<Nonce>,
}

pub(crate) struct Gateway {
    pub(crate) pcp: Speaks,
    pub(crate) nat_pmp: Speaks,
    /// What AddPortMapping says; `None` if there is no UPnP.
    pub(crate) upnp: Option<Result<(), UpnpError>>,
    pub(crate) external: IpAddr,
    /// Even in a refusal, as miniupnpd does.
    pub(crate) names_it_always: bool,
    /// An upper bound for what it grants.
    pub(crate) max_lifetime: Duration,
    /// Ports that others have.
    pub(crate) taken: Vec<u16>,
    /// Takes every n-th datagram away; 0 none.
    pub(crate) loses_every: u32,
    pub(crate) mappings: BTreeMap<(bool, u16), Kept>,
    pub(crate) received: Vec<Request>,
    booted: Instant,
    datagrams: u32,
}

impl Gateway {
    pub(crate) fn new(now: Instant) -> Gateway {
        Gateway {
            pcp: Speaks::Well,
            nat_pmp: Speaks::Well,
            upnp: Some(Ok(())),
            external: EXTERNAL,
            names_it_always: false,
            max_lifetime: Duration::from_secs(7200),
            taken: Vec::new(),
            loses_every: 0,
            mappings: BTreeMap::new(),
            received: Vec::new(),
            booted: now,
            datagrams: 0,
        }
    }

    pub(crate) fn reboot(&mut self, now: Instant) {
        self.booted = now;
        self.mappings.clear();
    }

    fn answer(&mut self, now: Instant, bytes: &[u8]) -> Option<Response> {
        self.datagrams += 1;
        if self.loses_every > 0 && self.datagrams.is_multiple_of(self.loses_every) {
            return None;
        }
        let request = Request::parse(bytes).expect("our requests are well formed");
        self.received.push(request);
        let epoch = u32::try_from(now.saturating_duration_since(self.booted).as_secs()).unwrap();
        match request {
            Request::Announce { .. } | Request::Map { .. } => self.pcp(now, epoch, request),
            Request::ExternalAddress | Request::NatPmpMap { .. } => self.nat_pmp(now, epoch, request),
        }
    }

    fn pcp(&mut self, now: Instant, epoch: u32, request: Request) -> Option<Response> {
        let map = match request {
            Request::Map { map, .. } if self.names_it_always => {
                Some(Map { external_ip: self.external, ..map })
            }
            Request::Map { map, .. } => Some(map),
            _ => None,
        };
        let refused = |result| Some(Response::Pcp { result, lifetime: 30, epoch, map });
        match (self.pcp, request) {
            (Speaks::Nothing, _) => None,
            (Speaks::OtherVersion, _) => Some(Response::UnsupportedVersion { speaks: Version::NatPmp }),
            (Speaks::Refusing(result), Request::Map { .. }) => refused(result),
            (_, Request::Map { lifetime, map, .. }) => {
                let kept = Some(map.nonce);
                let (external_port, lifetime) =
                    self.keep(now, map.transport, (map.internal_port, map.external_port), lifetime, kept);
                let external_ip = self.external;
                let map = Some(Map { external_port, external_ip, ..map });
                Some(Response::Pcp { result: ResultCode::Success, lifetime, epoch, map })
            }
            _ => Some(Response::Pcp { result: ResultCode::Success, lifetime: 0, epoch, map: None }),
        }
    }

    fn nat_pmp(&mut self, now: Instant, epoch: u32, request: Request) -> Option<Response> {
        match (self.nat_pmp, request) {
            (Speaks::Nothing, _) => None,
            (Speaks::OtherVersion, _) => Some(Response::UnsupportedVersion { speaks: Version::Pcp }),
            (
                Speaks::Refusing(result),
                Request::NatPmpMap { transport, internal_port, external_port, .. },
            ) => {
                let internal_port = Some(internal_port);
                Some(Response::NatPmpMap {
                    epoch,
                    result,
                    transport,
                    internal_port,
                    external_port,
                    lifetime: 0,
                })
            }
            (_, Request::NatPmpMap { transport, internal_port, external_port, lifetime }) => {
                let (external_port, lifetime) =
                    self.keep(now, transport, (internal_port, external_port), lifetime, None);
                Some(Response::NatPmpMap {
                    epoch,
                    result: ResultCode::Success,
                    transport,
                    internal_port: Some(internal_port),
                    external_port,
                    lifetime,
                })
            }
            _ => match self.external {
                IpAddr::V4(external) => Some(Response::ExternalAddress { epoch, external: Ok(external) }),
                IpAddr::V6(_) => None,
            },
        }
    }

    /// Makes, renews or deletes a mapping; the external port and the seconds that were granted.
    fn keep(
        &mut self,
        now: Instant,
        transport: Transport,
        (internal_port, suggested): (u16, u16),
        lifetime: u32,
        nonce: Option<Nonce>,
    ) -> (u16, u32) {
        let stream = transport.is_reliable();
        if lifetime == 0 {
            self.mappings.retain(|_, kept| kept.internal_port != internal_port);
            return (0, 0);
        }
        let mut port = suggested;
        while self.taken.contains(&port)
            || self.mappings.get(&(stream, port)).is_some_and(|kept| kept.internal_port != internal_port)
        {
            port += 1;
        }
        let lifetime = lifetime.min(u32::try_from(self.max_lifetime.as_secs()).unwrap());
        let until = now + Duration::from_secs(lifetime.into());
        self.mappings.insert((stream, port), Kept { internal_port, until, nonce });
        (port, lifetime)
    }

    fn add_by_upnp(&mut self, now: Instant, map: &UpnpMap) -> Result<IpAddr, UpnpError> {
        match self.upnp.clone().ok_or(UpnpError::NotFound)? {
            Err(UpnpError::OnlyPermanent) if map.lease.is_zero() => {}
            Err(UpnpError::SamePortRequired) if map.external_port == map.internal.port() => {}
            verdict => verdict?,
        }
        if self.taken.contains(&map.external_port) {
            return Err(UpnpError::Conflict);
        }
        let until = now + map.lease;
        let kept = Kept { internal_port: map.internal.port(), until, nonce: None };
        self.mappings.insert((map.transport.is_reliable(), map.external_port), kept);
        Ok(self.external)
    }
}

/// A mapper and its gateway.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) mapper: PortMapper,
    pub(crate) gateway: Gateway,
    inbox: VecDeque<Vec<u8>>,
}

impl World {
    pub(crate) fn new(settings: impl FnOnce(&mut Gateway)) -> World {
        #[expect(clippy::disallowed_methods, reason = "any origin will do")]
        let now = Instant::now();
        let mut gateway = Gateway::new(now);
        settings(&mut gateway);
        let gateway_address = SocketAddr::new(GATEWAY.into(), 0);
        let mapper = PortMapper::new(gateway_address, SocketAddr::new(LOCAL.into(), 40_000), [3; 32]);
        World { now, mapper, gateway, inbox: VecDeque::new() }
    }

    /// Runs until `choose` has an answer about an event, or for so long.
    pub(crate) fn run<T>(
        &mut self,
        limit: Duration,
        mut choose: impl FnMut(&Event) -> Option<T>,
    ) -> Option<T> {
        let end = self.now + limit;
        loop {
            self.exchange();
            while let Some(event) = self.mapper.poll_event() {
                if let Some(answer) = choose(&event) {
                    return Some(answer);
                }
            }
            let next = self.mapper.poll_timeout().filter(|next| *next <= end);
            let Some(next) = next else {
                self.now = end;
                return None;
            };
            self.now = self.now.max(next);
            self.mapper.handle_timeout(self.now);
        }
    }

    /// What comes first of the events that `run` would skip.
    pub(crate) fn events(&mut self, limit: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        self.run::<()>(limit, |event| {
            events.push(event.clone());
            None
        });
        events
    }

    fn exchange(&mut self) {
        loop {
            while let Some(sent) = self.mapper.poll_transmit() {
                assert_eq!(sent.to, SocketAddr::new(GATEWAY.into(), SERVER_PORT));
                self.inbox.extend(self.gateway.answer(self.now, &sent.payload).map(|answer| answer.encode()));
            }
            while let Some(action) = self.mapper.poll_action() {
                self.act(&action);
            }
            let Some(answer) = self.inbox.pop_front() else { return };
            self.mapper.handle_datagram(self.now, SocketAddr::new(GATEWAY.into(), SERVER_PORT), &answer);
        }
    }

    fn act(&mut self, action: &Action) {
        let now = self.now;
        match action {
            Action::FindUpnp => {
                let found = match self.gateway.upnp {
                    Some(_) => Ok(Some(self.gateway.external)),
                    None => Err(UpnpError::NotFound),
                };
                self.mapper.upnp_found(now, found);
            }
            Action::MapUpnp(map) => {
                let mapped = self.gateway.add_by_upnp(now, map);
                self.mapper.upnp_mapped(now, *map, mapped);
            }
            Action::RemoveUpnp(map) => {
                self.gateway.mappings.remove(&(map.transport.is_reliable(), map.external_port));
                self.mapper.upnp_removed(*map, Ok(()));
            }
        }
    }
}
