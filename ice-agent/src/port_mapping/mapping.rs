//! One mapping: what is wanted, and how far that is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use thirl_common::net::Transport;

use super::error::{MappingError, Protocol};
use super::event::{MappingId, MappingRequest, UpnpMap};
use super::mapper::Offer;
use super::wire::{Map, Nonce, Request};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is not known yet who makes it.
    Choosing,
    Asking(Protocol),
    /// It exists; it may be asked for again.
    Mapped(Protocol),
    Removing(Protocol),
}

#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) request: MappingRequest,
    nonce: Nonce,
    pub(super) stage: Stage,
    /// Who did not make it, and why.
    pub(super) refused: Vec<(Protocol, MappingError)>,
    /// The external port to ask for; what it was is the best suggestion when the gateway has forgotten it.
    pub(super) suggested: u16,
    pub(super) external: Option<SocketAddr>,
    /// UPnP: an action is under way; how many failed; whether the gateway makes only permanent ones.
    pub(super) upnp_busy: bool,
    pub(super) upnp_tries: u8,
    pub(super) permanent: bool,
}

pub(super) enum Choice {
    Take(Protocol),
    Wait,
    Nothing(Vec<(Protocol, MappingError)>),
}

impl Mapping {
    pub(super) fn new(request: MappingRequest, nonce: Nonce) -> Mapping {
        Mapping {
            request,
            nonce,
            stage: Stage::Choosing,
            refused: Vec::new(),
            suggested: request.internal_port,
            external: None,
            upnp_busy: false,
            upnp_tries: 0,
            permanent: false,
        }
    }

    /// The first protocol that is offered and has not refused; a better one is waited for until its head start is over.
    pub(super) fn choose<'a>(
        &self,
        offers: impl Iterator<Item = (Protocol, &'a Offer)>,
        head_start_over: bool,
    ) -> Choice {
        let (mut reasons, mut waiting) = (self.refused.clone(), false);
        for (protocol, offer) in offers {
            let wanted = self.request.protocol.is_none_or(|only| only == protocol);
            if !wanted || self.refused.iter().any(|(refused, _)| *refused == protocol) {
                continue;
            }
            match offer {
                Offer::Found => return Choice::Take(protocol),
                Offer::Missing(reason) => reasons.push((protocol, reason.clone())),
                Offer::Unknown | Offer::Asking if head_start_over => waiting = true,
                Offer::Unknown | Offer::Asking => return Choice::Wait,
            }
        }
        if waiting { Choice::Wait } else { Choice::Nothing(reasons) }
    }

    /// Makes it, renews it, or deletes it if it is being removed.
    pub(super) fn request_by(&self, protocol: Protocol, client: IpAddr) -> Request {
        let removing = matches!(self.stage, Stage::Removing(_));
        let lifetime = if removing { 0 } else { self.lifetime_s() };
        let external_port = if removing { 0 } else { self.suggested };
        let (transport, internal_port) = (self.request.transport, self.request.internal_port);
        if protocol == Protocol::NatPmp {
            return Request::NatPmpMap { transport, internal_port, external_port, lifetime };
        }
        let any = match client {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let external_ip = self.external.filter(|_| !removing).map_or(any, |external| external.ip());
        let map = Map { nonce: self.nonce, transport, internal_port, external_port, external_ip };
        Request::Map { client, lifetime, map }
    }

    pub(super) fn upnp_map(&self, mapping: MappingId, local: IpAddr) -> UpnpMap {
        UpnpMap {
            mapping,
            transport: self.request.transport,
            internal: SocketAddr::new(local, self.request.internal_port),
            external_port: self.suggested,
            lease: if self.permanent { Duration::ZERO } else { self.request.lifetime },
        }
    }

    /// Whether a PCP answer is about it (RFC 6887, section 11.4).
    pub(super) fn is_meant_by(&self, map: &Map) -> bool {
        map.nonce == self.nonce && self.is_of(map.transport, Some(map.internal_port))
    }

    pub(super) fn is_of(&self, transport: Transport, internal_port: Option<u16>) -> bool {
        self.request.transport.is_reliable() == transport.is_reliable()
            && internal_port.is_none_or(|port| port == self.request.internal_port)
    }

    pub(super) fn granted(&mut self, external_port: u16) {
        self.suggested = external_port;
        self.upnp_tries = 0;
    }

    /// It is gone, and everybody may be asked again.
    pub(super) fn lost(&mut self) {
        self.stage = Stage::Choosing;
        self.external = None;
        self.refused.clear();
    }

    fn lifetime_s(&self) -> u32 {
        u32::try_from(self.request.lifetime.as_secs()).unwrap_or(u32::MAX).max(1)
    }
}
