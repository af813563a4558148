//! One UDP port for many agents.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::task::AbortHandle;

use super::builder::{StartError, TcpPolicy};
use super::interfaces::LocalAddress;
use super::shared::{Core, Shared};
use super::socket::Socket;
use super::{now, task};
use crate::agent::SocketId;
use crate::mux::{Mux, MuxId, UfragTaken};

/// A socket that fails so often in a row is given up.
const MAX_ERRORS: u32 = 64;

/// A UDP port, on one address or several, that any number of agents share: see [`Builder::mux`](super::Builder::mux).
/// [`crate::mux`] says how their datagrams are told apart. The port is open as long as there is a handle or an agent on it.
///
/// ```no_run
/// use thirl_ice_agent::driver::{IceAgent, LocalAddress, UdpMux};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let address = LocalAddress { address: "192.0.2.1:40000".parse()?, preference: 255 };
/// let mux = UdpMux::bind([address])?;
/// let one = IceAgent::builder().mux(&mux).gather().await?;
/// let another = IceAgent::builder().mux(&mux).gather().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct UdpMux(Arc<[Arc<SharedPort>]>);

impl UdpMux {
    /// Binds a socket on each address, none of which may be unspecified: candidates are addresses that the peer can send
    /// to. Must be called within a tokio runtime, in which the port is served.
    pub fn bind(addresses: impl IntoIterator<Item = LocalAddress>) -> io::Result<UdpMux> {
        let ports = addresses.into_iter().map(SharedPort::bind).collect::<io::Result<Arc<[_]>>>()?;
        if ports.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no address to bind a socket on"));
        }
        Ok(UdpMux(ports))
    }

    /// Where the sockets are bound.
    pub fn local_addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().map(|port| port.local)
    }

    /// How many agents there are.
    pub fn agents(&self) -> usize {
        self.0.iter().map(|port| port.routes().mux.len()).max().unwrap_or(0)
    }

    /// Datagrams that were for none of the agents.
    pub fn dropped(&self) -> u64 {
        self.0.iter().map(|port| port.routes().dropped).sum()
    }

    /// Adds an agent, before it gathers.
    pub(super) fn join(&self, shared: &Arc<Shared>) -> Result<(), StartError> {
        let mut core = shared.lock();
        for port in &*self.0 {
            core.publish(port.local.ip()).map_err(StartError::Bind)?;
            let id = core.agent.add_shared_socket(now(), port.local, port.preference);
            let member = Member::new(port, &core, shared, id)?;
            core.members.insert(id, member);
            core.listen(port.local, port.preference).map_err(StartError::Bind)?;
        }
        // Sockets of the agent's own are for TURN servers.
        core.tcp = TcpPolicy::Off;
        Ok(())
    }

    /// One address on each of the sockets' for sockets of an agent's own.
    pub(super) fn own_addresses(&self) -> impl Iterator<Item = LocalAddress> {
        let own = |port: &Arc<SharedPort>| {
            let mut address = port.local;
            address.set_port(0);
            LocalAddress { address, preference: port.preference }
        };
        self.0.iter().map(own)
    }
}

/// One of the sockets.
#[derive(Debug)]
struct SharedPort {
    socket: Arc<Socket>,
    local: SocketAddr,
    preference: u8,
    routes: Mutex<Routes>,
    receiving: OnceLock<AbortHandle>,
}

/// Where datagrams go.
#[derive(Debug, Default)]
struct Routes {
    mux: Mux,
    agents: HashMap<MuxId, (Weak<Shared>, SocketId)>,
    dropped: u64,
}

/// A datagram that has found its agent.
struct Routed<'a> {
    shared: Arc<Shared>,
    socket: SocketId,
    from: SocketAddr,
    datagram: &'a [u8],
}

impl SharedPort {
    fn bind(wanted: LocalAddress) -> io::Result<Arc<SharedPort>> {
        if wanted.address.ip().is_unspecified() {
            let reason = "candidates need addresses: bind each of this host's, not the unspecified one";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let socket = Arc::new(Socket::bind(wanted.address)?);
        let local = socket.local_addr()?;
        let port = Arc::new(SharedPort {
            socket: Arc::clone(&socket),
            local,
            preference: wanted.preference,
            routes: Mutex::default(),
            receiving: OnceLock::new(),
        });
        let receiving = tokio::spawn(receive(socket, Arc::downgrade(&port)));
        port.receiving.get_or_init(|| receiving.abort_handle());
        Ok(port)
    }

    /// Gives each agent its datagrams. Agents look up their routes while they are locked: so the routes are not, while an
    /// agent is.
    fn hand_out(&self, datagrams: &mut dyn Iterator<Item = (SocketAddr, &[u8])>) {
        let mut routed = Vec::new();
        {
            let mut routes = self.routes();
            for (from, datagram) in datagrams {
                match routes.route(from, datagram) {
                    Some((shared, socket)) => routed.push(Routed { shared, socket, from, datagram }),
                    None => routes.dropped += 1,
                }
            }
        }
        for of_one in routed.chunk_by(|one, other| Arc::ptr_eq(&one.shared, &other.shared)) {
            let Routed { shared, socket, .. } = &of_one[0];
            let mut datagrams = of_one.iter().map(|routed| (routed.from, routed.datagram));
            if task::take(shared, *socket, &mut datagrams) {
                shared.wake.notify_one();
            }
        }
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        // No panic leaves the routes half-changed.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The socket is gone: to all agents on it.
    fn give_up(&self) {
        let mut agents: Vec<_> = std::mem::take(&mut self.routes().agents).into_iter().collect();
        agents.sort_unstable_by_key(|(id, _)| *id);
        for (_, (shared, socket)) in agents {
            if let Some(shared) = shared.upgrade() {
                shared.with_agent(|agent| agent.local_socket_lost(now(), socket));
            }
        }
    }
}

impl Drop for SharedPort {
    fn drop(&mut self) {
        if let Some(receiving) = self.receiving.get() {
            receiving.abort();
        }
    }
}

impl Routes {
    fn route(&mut self, from: SocketAddr, datagram: &[u8]) -> Option<(Arc<Shared>, SocketId)> {
        let id = self.mux.route(from, datagram)?;
        let (shared, socket) = self.agents.get(&id)?;
        Some((shared.upgrade()?, *socket))
    }
}

async fn receive(socket: Arc<Socket>, port: Weak<SharedPort>) {
    let mut errors = 0;
    while errors < MAX_ERRORS {
        let hand_out = |datagrams: &mut dyn Iterator<Item = (SocketAddr, &[u8])>| {
            if let Some(port) = port.upgrade() {
                port.hand_out(datagrams);
            }
        };
        match poll_fn(|cx| socket.poll_recv(cx, hand_out)).await {
            Ok(()) => errors = 0,
            Err(_) => errors += 1,
        }
    }
    if let Some(port) = port.upgrade() {
        port.give_up();
    }
}

/// An agent's place on a shared port, which it leaves when this is dropped.
#[derive(Debug)]
pub(super) struct Member {
    port: Arc<SharedPort>,
    id: MuxId,
    ufrag: String,
}

impl Member {
    fn new(
        port: &Arc<SharedPort>,
        core: &Core,
        shared: &Arc<Shared>,
        socket: SocketId,
    ) -> Result<Member, UfragTaken> {
        let ufrag = core.agent.local_credentials().ufrag.clone();
        let mut routes = port.routes();
        let id = routes.mux.add(&ufrag)?;
        routes.agents.insert(id, (Arc::downgrade(shared), socket));
        drop(routes);
        Ok(Member { port: Arc::clone(port), id, ufrag })
    }

    pub(super) fn socket(&self) -> &Arc<Socket> {
        &self.port.socket
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.port.local
    }

    /// Notes what is sent, datagrams of one length: answers to requests come back here.
    pub(super) fn note_sent(&self, to: SocketAddr, bytes: &[u8], segment: usize) {
        // Most of it is data, for which nothing need be locked: STUN begins with two zero bits (RFC 8489, section 5).
        for datagram in bytes.chunks(segment.max(1)).filter(|datagram| datagram[0] < 0x40) {
            self.port.routes().mux.note_sent(self.id, to, datagram);
        }
    }

    /// The agent may have been restarted (RFC 8445, section 9).
    pub(super) fn follow(&mut self, ufrag: &str) {
        if self.ufrag != ufrag {
            // Its own ones are random: no other agent has it.
            self.port.routes().mux.add_ufrag(self.id, ufrag).ok();
            ufrag.clone_into(&mut self.ufrag);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut routes = self.port.routes();
        routes.mux.remove(self.id);
        routes.agents.remove(&self.id);
    }
}
