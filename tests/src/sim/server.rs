//! A server in the simulated network: a Binding responder and the TURN engine.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use thirl_common::auth::StaticUsers;
use thirl_common::net::{ClientAddr, FiveTuple, PeerAddr, RelayedAddr, ServerAddr, Transport};
use thirl_common::wire::{AddressFamily, Class, Message, MessageWriter, Method, XorMappedAddress};
use thirl_turn_relay::engine::{Action, BindError, Engine, EngineConfig, Forward, RelayId};

use super::network::{Arrival, HostId, Network};
use super::packet::Packet;
use super::tcp::{ConnectionId, StreamEvent};

/// STUN and TURN on port 3478 of a host, over TCP on 443 too.
#[derive(Debug)]
pub struct Server {
    host: HostId,
    ips: [IpAddr; 2],
    engine: Engine,
    config: EngineConfig,
    relays: BTreeMap<u16, RelayId>,
    /// Who is connected, by TCP or TLS.
    clients: BTreeMap<FiveTuple, ConnectionId>,
    next_port: u16,
    /// Whether it answers at all.
    pub down: bool,
    /// Whether UDP to it is dropped.
    pub udp_blocked: bool,
    /// Whether it relays from an IPv6 address too.
    pub relays_ipv6: bool,
}

/// Where it listens.
const PORT: u16 = 3478;
/// Where it listens for TCP and TLS as well: what strict firewalls let out.
const HTTPS: u16 = 443;

impl Server {
    /// A server at these addresses of its host, an IPv4 and an IPv6 one, that serves one user.
    pub fn new(
        network: &mut Network,
        host: HostId,
        ips: [IpAddr; 2],
        (username, password): (&str, &str),
    ) -> Server {
        for (ip, port) in ips.into_iter().flat_map(|ip| [(ip, PORT), (ip, HTTPS)]) {
            network.listen(host, SocketAddr::new(ip, port), true);
        }
        let mut users = StaticUsers::default();
        users.insert(username, password);
        let config = EngineConfig { credentials: Arc::new(users), ..EngineConfig::default() };
        Server {
            host,
            ips,
            engine: Engine::new(config.clone(), [9; 32]),
            relays: BTreeMap::new(),
            clients: BTreeMap::new(),
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
        self.clients.clear();
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
        SocketAddr::new(self.ips[0], PORT)
    }

    /// The same, for both families.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        self.ips.into_iter().map(|ip| SocketAddr::new(ip, PORT))
    }

    /// How many allocations it has.
    pub fn allocations(&self) -> usize {
        self.engine.allocations()
    }

    /// Takes what has come to the host.
    pub fn handle(&mut self, network: &mut Network, arrival: Arrival) {
        match arrival {
            _ if self.down => {}
            Arrival::Datagram(packet) => self.handle_datagram(network, &packet),
            Arrival::Stream(connection, event) => self.handle_stream(network, connection, event),
        }
        self.drain(network);
    }

    fn handle_datagram(&mut self, network: &mut Network, packet: &Packet) {
        let listens = packet.to.port() == PORT && self.has(packet.to.ip());
        if listens && self.udp_blocked && packet.transport == Transport::Udp {
            return;
        }
        if listens {
            self.handle_request(network, packet);
        } else if let Some(relay) = self.relays.get(&packet.to.port()) {
            let from = PeerAddr(packet.from);
            let forward = self.engine.handle_peer_datagram(network.now(), *relay, from, packet.payload.len());
            self.forward(network, forward, &packet.payload);
        }
    }

    fn handle_stream(&mut self, network: &mut Network, connection: ConnectionId, event: StreamEvent) {
        let ends = network.ends(connection);
        let five_tuple = ends.map(|(server, client, transport)| FiveTuple {
            transport,
            client: ClientAddr(client),
            server: ServerAddr(server),
        });
        match (event, five_tuple) {
            (StreamEvent::Accepted, Some(five_tuple)) => _ = self.clients.insert(five_tuple, connection),
            (StreamEvent::Frame(payload), Some(five_tuple)) if self.clients.contains_key(&five_tuple) => {
                let FiveTuple { transport, client, server } = five_tuple;
                let (from, to) = (client.0, server.0);
                self.handle_request(network, &Packet { from, to, transport, segment: None, payload });
            }
            // What was connected to it before it was killed is reset by its kernel.
            (StreamEvent::Frame(_), _) => network.abort(connection),
            (StreamEvent::Closed(_), _) => {
                let client = self.clients.iter().find(|(_, known)| **known == connection);
                if let Some(five_tuple) = client.map(|(five_tuple, _)| *five_tuple) {
                    self.clients.remove(&five_tuple);
                    self.engine.handle_client_gone(network.now(), five_tuple);
                }
            }
            _ => {}
        }
    }

    /// Takes a datagram, or a frame of a stream, at an address where it listens.
    fn handle_request(&mut self, network: &mut Network, packet: &Packet) {
        let Packet { from, to, transport, .. } = *packet;
        if let Some(payload) = answer_binding(packet) {
            return self.send(network, Packet { from: to, to: from, transport, segment: None, payload });
        }
        let five_tuple = FiveTuple { transport, client: ClientAddr(from), server: ServerAddr(to) };
        let forward = self.engine.handle_datagram(network.now(), 0, five_tuple, &packet.payload);
        self.forward(network, forward, &packet.payload);
    }

    /// Sends a datagram, or a frame over the stream that it names.
    fn send(&self, network: &mut Network, packet: Packet) {
        let Packet { from, to, transport, .. } = packet;
        if !transport.is_reliable() {
            return network.send(self.host, packet);
        }
        let five_tuple = FiveTuple { transport, client: ClientAddr(to), server: ServerAddr(from) };
        if let Some(connection) = self.clients.get(&five_tuple) {
            network.write(*connection, packet.payload);
        }
    }

    fn has(&self, ip: IpAddr) -> bool {
        self.ips.contains(&ip)
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
                let from = SocketAddr::new(self.ips[usize::from(to.0.is_ipv6())], port);
                Packet::udp(from, to.0, bytes[range].to_vec())
            }
            Some(Forward::ToClient { five_tuple, prefix, range, padding }) => {
                let mut payload = prefix.to_vec();
                payload.extend_from_slice(&bytes[range]);
                payload.resize(payload.len() + padding, 0);
                let (from, to) = (five_tuple.server.0, five_tuple.client.0);
                Packet { from, to, transport: five_tuple.transport, segment: None, payload }
            }
            _ => return,
        };
        self.send(network, packet);
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
                    let ip = self.ips[usize::from(family == AddressFamily::Ipv6)];
                    let bound = RelayedAddr(SocketAddr::new(ip, port));
                    self.engine.relay_bound(relay, Ok(bound), network.now());
                }
                Action::ReleaseRelay { relay } => self.relays.retain(|_, known| *known != relay),
                _ => {}
            }
        }
        while let Some(transmit) = self.engine.poll_transmit() {
            let thirl_common::net::Transmit { transport, from, to, payload } = transmit;
            self.send(network, Packet { from, to, transport, segment: None, payload });
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
