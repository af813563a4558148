//! An agent's port mappings: what the driver does with `PortMapper`, in the simulated network.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::Rng;
use thirl_common::net::Transport;
use thirl_ice_agent::agent::{Agent, ListenerId, SocketId};
use thirl_ice_agent::port_mapping::{Action, Event, MappingId, MappingRequest, PortMapper, UpnpError};

use super::network::{HostId, Network};
use super::packet::Packet;

/// The port that the gateway is asked from.
const PORT: u16 = 29_999;

/// One gateway, and what it maps.
#[derive(Debug)]
pub(super) struct Mapper {
    machine: PortMapper,
    local: SocketAddr,
    mappings: BTreeMap<MappingId, Port>,
}

/// What is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Udp(SocketId),
    Tcp(ListenerId),
}

impl Mapper {
    /// `None` if the host has no address of the gateway's family.
    pub(super) fn new(network: &mut Network, gateway: IpAddr, own: &[IpAddr]) -> Option<Mapper> {
        let ip = own.iter().find(|ip| ip.is_ipv4() == gateway.is_ipv4())?;
        let (local, seed) = (SocketAddr::new(*ip, PORT), network.rng().random());
        let machine = PortMapper::new(SocketAddr::new(gateway, 0), local, seed);
        Some(Mapper { machine, local, mappings: BTreeMap::new() })
    }

    pub(super) fn is_for(&self, packet: &Packet) -> bool {
        packet.to == self.local
    }

    pub(super) fn take(&mut self, now: Instant, packet: &Packet) {
        self.machine.handle_datagram(now, packet.from, &packet.payload);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.machine.handle_timeout(now);
    }

    /// Has each socket and TCP port mapped, and tells the agent what came of it.
    pub(super) fn drain<'a>(
        &mut self,
        network: &mut Network,
        host: HostId,
        sockets: impl Iterator<Item = (&'a SocketId, &'a SocketAddr)>,
        listeners: &BTreeMap<SocketAddr, ListenerId>,
        agent: &mut Agent,
    ) {
        let now = network.now();
        let sockets = sockets.map(|(id, local)| (Port::Udp(*id), Transport::Udp, *local));
        let listeners = listeners.iter().map(|(local, id)| (Port::Tcp(*id), Transport::Tcp, *local));
        for (port, transport, local) in sockets.chain(listeners) {
            if local.ip() == self.local.ip() && self.mappings.values().all(|known| *known != port) {
                let request = MappingRequest::new(transport, local.port());
                let mapping = self.machine.map(now, MappingRequest { permanent: false, ..request });
                self.mappings.insert(mapping, port);
            }
        }
        while let Some(action) = self.machine.poll_action() {
            // There is no UPnP here.
            if action == Action::FindUpnp {
                self.machine.upnp_found(now, Err(UpnpError::NotFound));
            }
        }
        while let Some(event) = self.machine.poll_event() {
            let Event::Mapped { mapping, external, .. } = event else { continue };
            match self.mappings.get(&mapping) {
                Some(Port::Udp(socket)) => agent.add_mapped_address(now, *socket, external),
                Some(Port::Tcp(listener)) => agent.add_mapped_tcp_address(now, *listener, external),
                None => {}
            }
        }
        while let Some(transmit) = self.machine.poll_transmit() {
            network.send(host, Packet::udp(self.local, transmit.to, transmit.payload));
        }
    }
}
