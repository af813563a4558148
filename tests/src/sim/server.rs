//! A server in the simulated network: a Binding responder and the TURN engine.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use thirl_common::auth::StaticUsers;
use thirl_common::net::{ClientAddr, FiveTuple, PeerAddr, RelayedAddr, ServerAddr, Transport};
use thirl_common::wire::{AddressFamily, Class, Message, MessageWriter, Method, XorMappedAddress};
use thirl_turn_relay::engine::{Action, BindError, Engine, EngineConfig, Forward, RelayId};

use super::network::{HostId, Network, Packet};

/// STUN and TURN on port 3478 of a host.
#[derive(Debug)]
pub struct Server {
    host: HostId,
    address: SocketAddr,
    engine: Engine,
    config: EngineConfig,
    relays: BTreeMap<u16, RelayId>,
    next_port: u16,
    /// Whether it answers at all.
    pub down: bool,
    /// Whether UDP to it is dropped.
    pub udp_blocked: bool,
    /// Whether it relays from an IPv6 address too.
    pub relays_ipv6: bool,
}

/// The IPv6 address that servers relay from.
pub(super) const IPV6: Ipv6Addr = Ipv6Addr::new(0x2a00, 0, 0, 0, 0, 0, 0, 0x10);

impl Server {
    /// A server that serves one user.
    pub fn new(host: HostId, ip: IpAddr, username: &str, password: &str) -> Server {
        let mut users = StaticUsers::default();
        users.insert(username, password);
        let config = EngineConfig { credentials: Arc::new(users), ..EngineConfig::default() };
        Server {
            host,
            address: SocketAddr::new(ip, 3478),
            engine: Engine::new(config.clone(), [9; 32]),
            relays: BTreeMap::new(),
            next_port: 49_152,
            down: false,
            udp_blocked: false,
            relays_ipv6: false,
            config,
        }
    }

    /// Kills it and starts it again: it knows nothing of what was before, and gives other ports.
    pub fn restart(&mut self) {
        self.engine = Engine::new(self.config.clone(), [10; 32]);
        self.relays.clear();
    }

    /// The same, with these users.
    pub fn restart_with(&mut self, users: &[(&str, &str)]) {
        let mut all = StaticUsers::default();
        for (username, password) in users {
            all.insert(*username, *password);
        }
        self.config.credentials = Arc::new(all);
        self.restart();
    }

    /// The host that it runs on.
    pub fn host(&self) -> HostId {
        self.host
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many allocations it has.
    pub fn allocations(&self) -> usize {
        self.engine.allocations()
    }

    /// Takes a packet for the host.
    pub fn handle(&mut self, network: &mut Network, packet: &Packet) {
        if self.down || (self.udp_blocked && packet.to == self.address && packet.transport == Transport::Udp)
        {
            return;
        }
        let now = network.now();
        if packet.to == self.address {
            let binding = answer_binding(packet).filter(|_| packet.transport == Transport::Udp);
            if let Some(payload) = binding {
                network.send(self.host, Packet::udp(packet.to, packet.from, payload));
                return;
            }
            let five_tuple = FiveTuple {
                transport: packet.transport,
                client: ClientAddr(packet.from),
                server: ServerAddr(self.address),
            };
            let forward = self.engine.handle_datagram(now, 0, five_tuple, &packet.payload);
            self.forward(network, forward, &packet.payload);
        } else if let Some(relay) = self.relays.get(&packet.to.port()) {
            let from = PeerAddr(packet.from);
            let forward = self.engine.handle_peer_datagram(now, *relay, from, packet.payload.len());
            self.forward(network, forward, &packet.payload);
        }
        self.drain(network);
    }

    /// When it has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.engine.poll_timeout()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, network: &mut Network) {
        self.engine.handle_timeout(network.now());
        self.drain(network);
    }

    fn forward(&mut self, network: &mut Network, forward: Option<Forward>, bytes: &[u8]) {
        let packet = match forward {
            Some(Forward::ToPeer { relay, to, range, .. }) => {
                let port = self.relays.iter().find(|(_, known)| **known == relay).map(|(port, _)| *port);
                let Some(port) = port else { return };
                let from =
                    SocketAddr::new(if to.0.is_ipv6() { IPV6.into() } else { self.address.ip() }, port);
                Packet::udp(from, to.0, bytes[range].to_vec())
            }
            Some(Forward::ToClient { five_tuple, prefix, range, padding }) => {
                let mut payload = prefix.to_vec();
                payload.extend_from_slice(&bytes[range]);
                payload.resize(payload.len() + padding, 0);
                let (from, to) = (five_tuple.server.0, five_tuple.client.0);
                Packet { from, to, transport: five_tuple.transport, payload }
            }
            _ => return,
        };
        network.send(self.host, packet);
    }

    fn drain(&mut self, network: &mut Network) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::BindRelay { relay, family, .. }
                    if !self.relays_ipv6 && family == AddressFamily::Ipv6 =>
                {
                    self.engine.relay_bound(relay, Err(BindError::NoAddress), network.now());
                }
                Action::BindRelay { relay, family, .. } => {
                    let port = self.next_port;
                    self.next_port += 1;
                    self.relays.insert(port, relay);
                    let ip = if family == AddressFamily::Ipv6 { IPV6.into() } else { self.address.ip() };
                    let bound = RelayedAddr(SocketAddr::new(ip, port));
                    self.engine.relay_bound(relay, Ok(bound), network.now());
                }
                Action::ReleaseRelay { relay } => self.relays.retain(|_, known| *known != relay),
                _ => {}
            }
        }
        while let Some(transmit) = self.engine.poll_transmit() {
            let thirl_common::net::Transmit { transport, from, to, payload } = transmit;
            network.send(self.host, Packet { from, to, transport, payload });
        }
        while self.engine.poll_event().is_some() {}
    }
}

fn answer_binding(packet: &Packet) -> Option<Vec<u8>> {
    let message = Message::parse(&packet.payload).ok()?;
    if (message.class(), message.method()) != (Class::Request, Method::BINDING) {
        return None;
    }
    let mut buffer = [0; 64];
    let mut writer =
        MessageWriter::new(&mut buffer, Class::Success, Method::BINDING, message.transaction_id()).ok()?;
    writer.attribute(&XorMappedAddress(packet.from)).ok()?;
    Some(writer.finish().to_vec())
}
