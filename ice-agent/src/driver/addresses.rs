//! The agent's sockets and TCP ports follow this host's addresses: one on each that is worth it, for as long as the host has it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::builder::TcpPolicy;
use super::interfaces::{LocalAddress, MAX_ADDRESSES};
use super::nat64;
use super::now;
use super::shared::{Core, Shared};
use super::socket::Socket;
use super::stream::{Listening, listen};
use super::watch::HostAddresses;
use crate::agent::{ListenerId, SocketId};

/// Addresses come and go: with those that are only kept for what began on them, no more sockets than this.
const MAX_SOCKETS: usize = 2 * MAX_ADDRESSES;

/// A TCP port of the agent's, until it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    local: SocketAddr,
    /// None where connections only go out.
    _listening: Option<Listening>,
}

impl Shared {
    /// This host's addresses are others now.
    pub(super) fn set_addresses(self: &Arc<Self>, addresses: &HostAddresses) {
        let nat64_needed = nat64::is_needed();
        let nat64_wanted = {
            let mut core = self.lock();
            if core.asks_nat64 && !nat64_needed {
                core.agent.set_nat64(now(), None);
            }
            // Where nothing can be bound, the agent waits for the next change.
            core.follow(addresses).ok();
            core.agent.network_changed(now());
            self.flush(&mut core);
            core.asks_nat64 && nat64_needed
        };
        if nat64_wanted {
            self.find_nat64();
        }
        self.wake.notify_one();
        self.addresses_changed.notify_one();
    }
}

impl Core {
    /// Binds a socket on each address that is new, and gives up those whose address is gone. An error if there are none
    /// after that.
    pub(super) fn follow(&mut self, addresses: &HostAddresses) -> io::Result<()> {
        let mut last_error = io::Error::new(io::ErrorKind::AddrNotAvailable, "this host has no address");
        // The new before the old goes: there is a way out at any time.
        for wanted in &addresses.chosen {
            if let Err(error) = self.bind(wanted) {
                self.agent.note(format!("no socket on {}: {error}", wanted.address.ip()));
                last_error = error;
            }
        }
        let gone = |local: SocketAddr| !addresses.present.contains(&local.ip());
        for (id, _) in self.locals().into_iter().filter(|(_, local)| gone(*local)) {
            self.sockets.remove(&id);
            self.agent.local_socket_lost(now(), id);
        }
        for id in self.opened.close_where(gone) {
            self.agent.local_socket_lost(now(), id);
        }
        let listeners = self.listeners.iter().filter(|(_, listener)| gone(listener.local));
        for id in listeners.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.listeners.remove(&id);
            self.agent.tcp_listener_lost(now(), id);
        }
        if let Some(published) = &mut self.published {
            let shared = |ip| self.members.values().any(|port| port.local().ip() == ip);
            published.retract(|ip| !addresses.present.contains(&ip) && !shared(ip));
        }
        if self.sockets.is_empty() { Err(last_error) } else { Ok(()) }
    }

    /// The sockets and where they are bound.
    pub(super) fn locals(&self) -> Vec<(SocketId, SocketAddr)> {
        self.sockets.iter().filter_map(|(id, socket)| Some((*id, socket.local_addr().ok()?))).collect()
    }

    /// The TCP ports at which it listens.
    pub(super) fn ports(&self) -> Vec<(ListenerId, SocketAddr)> {
        let ports = self.listeners.iter().map(|(id, listener)| (*id, listener.local));
        ports.filter(|(_, local)| local.port() != 0).collect()
    }

    fn bind(&mut self, wanted: &LocalAddress) -> io::Result<()> {
        let same = |local: SocketAddr| local.ip() == wanted.address.ip();
        let bound = self.sockets.values().any(|socket| socket.local_addr().is_ok_and(same));
        if bound || self.sockets.len() >= MAX_SOCKETS {
            return Ok(());
        }
        let socket = Socket::bind(wanted.address)?;
        self.publish(wanted.address.ip())?;
        let id = self.agent.add_local_socket(now(), socket.local_addr()?, wanted.preference);
        let local = socket.local_addr()?;
        self.sockets.insert(id, Arc::new(socket));
        if let Err(error) = self.listen(local, wanted.preference) {
            self.agent.note(format!("no TCP port on {}: {error}", local.ip()));
        }
        Ok(())
    }

    /// Gives the agent a TCP port beside a UDP socket's, with the same number if that is free.
    pub(super) fn listen(&mut self, local: SocketAddr, preference: u8) -> io::Result<()> {
        let (mut local, listener) = match self.tcp {
            TcpPolicy::Off => return Ok(()),
            TcpPolicy::Outgoing => (local, None),
            TcpPolicy::Both => {
                let listener = listen(local)?;
                (listener.local_addr()?, Some(listener))
            }
        };
        if listener.is_none() {
            local.set_port(0);
        }
        let id = self.agent.add_tcp_listener(now(), local, preference);
        let listening = listener.map(|listener| self.streams.listen(id, listener));
        self.listeners.insert(id, Listener { local, _listening: listening });
        Ok(())
    }

    /// The peer is told a name in place of the address, if that is wanted.
    pub(super) fn publish(&mut self, ip: IpAddr) -> io::Result<()> {
        if let Some(published) = self.published.as_mut().filter(|_| !ip.is_loopback()) {
            self.agent.name_address(ip, published.name(ip).map_err(io::Error::other)?);
        }
        Ok(())
    }
}
