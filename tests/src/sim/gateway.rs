//! A server for port mappings on a NAT: PCP (RFC 6887) and NAT-PMP (RFC 6886).

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use thirl_common::net::Transport;
use thirl_ice_agent::port_mapping::ResultCode;
use thirl_ice_agent::port_mapping::wire::{Map, Request, Response, SERVER_PORT, Version};

use super::packet::Packet;

/// Which protocols are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// PCP, and to others that this is what is spoken.
    Pcp,
    /// NAT-PMP, the same.
    NatPmp,
}

/// Makes a mapping for an internal endpoint, of this external port if that can be, for so long (not at all if that is zero), and
/// says which port it is.
pub(super) type Keep<'a> = dyn FnMut(Transport, SocketAddr, u16, Duration) -> Option<u16> + 'a;

/// The server.
#[derive(Debug)]
pub struct Gateway {
    inside: IpAddr,
    speaks: Speaks,
    max_lifetime: Duration,
    /// When it began to count; `None` until it is next asked.
    epoch: Option<Instant>,
}

impl Gateway {
    /// A server at this address of the network behind the NAT, which maps for two hours at most.
    pub fn new(inside: IpAddr, speaks: Speaks) -> Gateway {
        Gateway { inside, speaks, max_lifetime: Duration::from_secs(7200), epoch: None }
    }

    /// Begins anew.
    pub(super) fn reboot(&mut self) {
        self.epoch = None;
    }

    pub(super) fn is_asked(&self, packet: &Packet) -> bool {
        packet.to == SocketAddr::new(self.inside, SERVER_PORT) && !packet.is_tcp()
    }

    pub(super) fn answer(
        &mut self,
        now: Instant,
        external: IpAddr,
        packet: &Packet,
        keep: &mut Keep<'_>,
    ) -> Option<Packet> {
        let request = Request::parse(&packet.payload)?;
        let began = *self.epoch.get_or_insert(now);
        let epoch = u32::try_from((now - began).as_secs()).ok()?;
        let response = match (self.speaks, request) {
            (Speaks::Pcp, Request::Announce { .. }) => {
                Response::Pcp { result: ResultCode::Success, lifetime: 0, epoch, map: None }
            }
            (Speaks::Pcp, Request::Map { lifetime, map, .. }) => {
                let mapped =
                    self.map(packet, map.transport, (map.internal_port, map.external_port), lifetime, keep);
                let (result, lifetime) = outcome(mapped);
                let external_port = mapped.map_or(0, |(port, _)| port);
                let map = Some(Map { external_port, external_ip: external, ..map });
                Response::Pcp { result, lifetime, epoch, map }
            }
            (Speaks::Pcp, _) => Response::UnsupportedVersion { speaks: Version::Pcp },
            (Speaks::NatPmp, Request::ExternalAddress) => {
                let IpAddr::V4(external) = external else { return None };
                Response::ExternalAddress { epoch, external: Ok(external) }
            }
            (Speaks::NatPmp, Request::NatPmpMap { transport, internal_port, external_port, lifetime }) => {
                let mapped = self.map(packet, transport, (internal_port, external_port), lifetime, keep);
                let (result, lifetime) = outcome(mapped);
                let external_port = mapped.map_or(0, |(port, _)| port);
                let internal_port = Some(internal_port);
                Response::NatPmpMap { epoch, result, transport, internal_port, external_port, lifetime }
            }
            (Speaks::NatPmp, _) => Response::UnsupportedVersion { speaks: Version::NatPmp },
        };
        Some(Packet::udp(packet.to, packet.from, response.encode()))
    }

    /// The external port and for how many seconds; zeros for what was removed, `None` if nothing is free.
    fn map(
        &self,
        packet: &Packet,
        transport: Transport,
        (internal_port, wanted): (u16, u16),
        lifetime: u32,
        keep: &mut Keep<'_>,
    ) -> Option<(u16, u32)> {
        let internal = SocketAddr::new(packet.from.ip(), internal_port);
        let granted = Duration::from_secs(lifetime.into()).min(self.max_lifetime);
        let port = keep(transport, internal, wanted, granted)?;
        let seconds = u32::try_from(granted.as_secs()).ok()?;
        Some(if granted.is_zero() { (0, 0) } else { (port, seconds) })
    }
}

fn outcome(mapped: Option<(u16, u32)>) -> (ResultCode, u32) {
    mapped.map_or((ResultCode::NoResources, 30), |(_, lifetime)| (ResultCode::Success, lifetime))
}
