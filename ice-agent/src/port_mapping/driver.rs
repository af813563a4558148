//! The machine on a socket, with the clock; UPnP beside it.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Instant;

use rand::TryRngCore;
use tokio::net::UdpSocket;

use super::event::{Event, MappingId, MappingRequest};
use super::mapper::PortMapper;
use super::routes::{DefaultRoute, ipv4_default, ipv6_default};
use super::upnp::Upnp;
use super::wire::{MAX_LEN, SERVER_PORT};
use crate::driver::{now, sleep_until};

/// The mappings of one local address on one gateway.
///
/// They are renewed while somebody waits for [`next_event`](Self::next_event). Dropped with mappings standing, it leaves
/// them until they expire, and permanent ones of UPnP for good: [`remove`](Self::remove) them first.
#[derive(Debug)]
pub struct PortMappings {
    mapper: PortMapper,
    gateway: SocketAddr,
    socket: UdpSocket,
    upnp: Upnp,
    buffer: Box<[u8]>,
}

impl PortMappings {
    /// Binds a socket on `local` that speaks with `gateway` alone; its port 0 means 5351. See [`default_gateway`].
    pub fn bind(mut gateway: SocketAddr, local: IpAddr) -> io::Result<PortMappings> {
        if gateway.port() == 0 {
            gateway.set_port(SERVER_PORT);
        }
        let mut seed = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut seed).map_err(io::Error::other)?;
        let socket = std::net::UdpSocket::bind((local, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(gateway)?;
        let socket = UdpSocket::from_std(socket)?;
        let mapper = PortMapper::new(gateway, socket.local_addr()?, seed);
        // One more than is taken, so that what is longer is not cut to fit.
        let buffer = vec![0; MAX_LEN + 1].into_boxed_slice();
        Ok(PortMappings { mapper, gateway, socket, upnp: Upnp::new(gateway.ip(), local), buffer })
    }

    /// See [`PortMapper::discover`].
    pub fn discover(&mut self) {
        self.mapper.discover(now());
    }

    /// See [`PortMapper::map`].
    pub fn map(&mut self, request: MappingRequest) -> MappingId {
        self.mapper.map(now(), request)
    }

    /// See [`PortMapper::remove`].
    pub fn remove(&mut self, mapping: MappingId) {
        self.mapper.remove(now(), mapping);
    }

    /// See [`PortMapper::check`].
    pub fn check(&mut self) {
        self.mapper.check(now());
    }

    /// The machine, and the time to call it with.
    pub fn mapper(&mut self) -> (&mut PortMapper, Instant) {
        (&mut self.mapper, now())
    }

    /// Waits for what happens next. May be dropped at any time and called again.
    pub async fn next_event(&mut self) -> Event {
        loop {
            while let Some(transmit) = self.mapper.poll_transmit() {
                // What cannot be sent now is sent again, as if it were lost.
                self.handle(self.socket.try_send(&transmit.payload).err());
            }
            while let Some(action) = self.mapper.poll_action() {
                self.upnp.begin(action);
            }
            if let Some(event) = self.mapper.poll_event() {
                return event;
            }
            let deadline = self.mapper.poll_timeout();
            let timeout = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                received = self.socket.recv(&mut self.buffer) => match received {
                    Ok(len) => self.mapper.handle_datagram(now(), self.gateway, &self.buffer[..len]),
                    Err(error) => self.handle(Some(error)),
                },
                answer = self.upnp.answer() => answer.give(now(), &mut self.mapper),
                () = timeout => self.mapper.handle_timeout(now()),
            }
        }
    }

    /// The error of a connected socket is an ICMP error of the gateway.
    fn handle(&mut self, error: Option<io::Error>) {
        if error.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            self.mapper.gateway_closed(now());
        }
    }
}

/// The router that this host's packets go to, as Linux knows it; `None` if there is none, or on another system. Its port
/// is 0.
pub fn default_gateway(ipv4: bool) -> Option<SocketAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let route = match ipv4 {
        true => ipv4_default(&read("/proc/net/route")),
        false => ipv6_default(&read("/proc/net/ipv6_route")),
    };
    route.map(|DefaultRoute { gateway, interface }| match gateway {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            SocketAddrV6::new(ip, 0, 0, interface_index(&interface)).into()
        }
        ip => SocketAddr::new(ip, 0),
    })
}

fn interface_index(name: &str) -> u32 {
    let listed = if_addrs::get_if_addrs().unwrap_or_default();
    listed.iter().find(|interface| interface.name == name).and_then(|found| found.index).unwrap_or(0)
}
