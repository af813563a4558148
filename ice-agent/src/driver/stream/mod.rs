//! Connections to TURN servers beside the agent's own sockets: over TCP and TLS, on demand through a proxy, and over UDP and
//! DTLS from a socket of its own. Frames in, bytes out.
//!
//! 1. [`Streams`]: those of one agent. [`Outward`]: what all of them are made with.
//! 2. `framed`: a connection that carries a stream. `proxy`, `tls`: how it comes to be.
//! 3. `direct`: a connection between the peers, or from one of this side's TCP ports to a STUN server.
//! 4. `datagrams`: one that carries datagrams. `dtls`: what wraps them.

mod datagrams;
mod direct;
mod dtls;
mod framed;
mod proxy;
mod tls;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use thirl_common::net::{Nat64Prefix, Transport};
use thirl_common::uri::Host;
use thirl_common::wire::{Message, PACKET_HEADER_LEN};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::nat64;
use super::queue::Queue;
use super::trust::Trust;
use crate::agent::{Framing, ListenerId, StreamId};

pub(super) use direct::listen;
pub use framed::Connection;
pub use proxy::{HttpProxy, HttpProxyError};

/// A server that takes longer to accept is as good as none.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Frames of all streams that wait for the task; the streams wait when it is full.
const EVENTS: usize = 64;
/// Of data that is to go over a connection to the peer so many bytes wait here: what is asked meanwhile stands behind them.
pub(super) const ROOM: usize = 64 * 1024;
/// With so many bytes waiting the other end takes nothing any more.
const MOST: usize = 256 * 1024;

/// How streams leave this host.
#[derive(Clone, Debug, Default)]
pub struct Outward {
    /// Whose word is taken for who a server is, and a proxy that is reached over TLS.
    pub trust: Trust,
    /// Through what they go.
    pub proxy: Option<HttpProxy>,
}

impl Outward {
    /// A stream to this port of a host by the proxy, as any TCP connection; `None` if none is used for that host.
    pub async fn by_proxy(&self, host: &Host, port: u16) -> Option<io::Result<Box<dyn Connection>>> {
        let proxy = self.proxy_for(host)?;
        let opened = proxy.connect(host, port, &self.trust).await;
        let stream = opened.map(|(_, stream)| Box::new(stream) as Box<dyn Connection>);
        Some(stream.map_err(|error| io::Error::other(format!("through the proxy {proxy}: {error}"))))
    }

    /// The proxy, if it is used for that host.
    pub(super) fn proxy_for(&self, host: &Host) -> Option<&HttpProxy> {
        self.proxy.as_ref().filter(|proxy| proxy.serves(host))
    }
}

/// Where a connection leads to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) server: SocketAddr,
    /// What its certificate has to bear.
    pub(super) host: Host,
    /// Whether a proxy is asked for the host, and not for the address.
    pub(super) by_name: bool,
    pub(super) transport: Transport,
    /// Under what IPv4 is reached, if that is known and needed.
    pub(super) nat64: Option<Nat64Prefix>,
}

impl Target {
    /// Where to send what is for an address.
    async fn way_to(&self, address: SocketAddr) -> SocketAddr {
        nat64::through(address, self.nat64).await
    }
}

/// What a connection tells the agent's task.
pub(super) enum StreamEvent {
    /// With the local address, or why there is none.
    Connected(Result<SocketAddr, String>),
    Frame(Vec<u8>),
    Closed,
}

/// What happens on an agent's connections and ports.
pub(super) enum Happened {
    On(StreamId, StreamEvent),
    Accepted(ListenerId, TcpStream, SocketAddr),
}

/// The other end of an agent's connections, for its task.
pub(super) type StreamEvents = mpsc::Receiver<Happened>;

/// Where what was to be sent over a stream is.
pub(super) enum Sent {
    /// On its way, or lost, as any datagram may be.
    Gone,
    /// Too much waits already. It may be sent once the queue has [room](ROOM).
    Full(Arc<Queue>, Vec<u8>),
}

/// One of an agent's connections.
#[derive(Debug)]
struct Open {
    queue: Arc<Queue>,
    framing: Framing,
}

/// An agent's connections.
#[derive(Debug)]
pub(super) struct Streams {
    runtime: Handle,
    outward: Arc<Outward>,
    open: BTreeMap<StreamId, Open>,
    events: mpsc::Sender<Happened>,
}

impl Streams {
    /// None yet. Must be called within a tokio runtime.
    pub(super) fn new(outward: Outward) -> (Streams, StreamEvents) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let (runtime, outward) = (Handle::current(), Arc::new(outward));
        (Streams { runtime, outward, open: BTreeMap::new(), events }, receiver)
    }

    /// Begins a connection, which answers with [`StreamEvent::Connected`].
    pub(super) fn connect(&mut self, id: StreamId, target: Target) {
        let outward = Arc::clone(&self.outward);
        self.begin(id, Framing::Stun, |queue, reporter| run(target, outward, queue, reporter));
    }

    /// Begins a connection from a TCP port of this host's, or from any of an address, which answers as well.
    pub(super) fn connect_from(&mut self, id: StreamId, local: SocketAddr, to: SocketAddr, framing: Framing) {
        self.begin(id, framing, |queue, reporter| direct::connect(local, to, framing, queue, reporter));
    }

    /// Takes a connection that somebody has made to a TCP port of this host's.
    pub(super) fn take(&mut self, id: StreamId, stream: TcpStream) {
        self.begin(id, Framing::Packets, |queue, reporter| direct::take(stream, queue, reporter));
    }

    /// Listens until the handle is dropped.
    pub(super) fn listen(&self, id: ListenerId, listener: TcpListener) -> Listening {
        Listening(self.runtime.spawn(direct::accept(listener, id, self.events.clone())).abort_handle())
    }

    fn begin<F>(&mut self, id: StreamId, framing: Framing, task: impl FnOnce(Arc<Queue>, Reporter) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let queue = Arc::new(Queue::default());
        let reporter = Reporter { id, events: self.events.clone() };
        self.runtime.spawn(task(Arc::clone(&queue), reporter));
        self.open.insert(id, Open { queue, framing });
    }

    /// Bytes to append to a stream, or a datagram.
    pub(super) fn send(&mut self, id: StreamId, bytes: Vec<u8>) -> Sent {
        let Some(Open { queue, framing }) = self.open.get(&id) else { return Sent::Gone };
        if *framing == Framing::Stun {
            queue.push_to_stream(bytes);
            return Sent::Gone;
        }
        let is_stun = bytes.get(PACKET_HEADER_LEN..).is_some_and(|packet| Message::parse(packet).is_ok());
        match queue.waiting() {
            // Who asks and takes no answer gets none.
            MOST.. if is_stun => {}
            ROOM.. if !is_stun => return Sent::Full(Arc::clone(queue), bytes),
            _ => queue.push([bytes.into()]),
        }
        Sent::Gone
    }

    /// Closes it once what waits is sent.
    pub(super) fn close(&mut self, id: StreamId) {
        if let Some(open) = self.open.remove(&id) {
            open.queue.close();
        }
    }
}

/// A TCP port that is listened on.
#[derive(Debug)]
pub(super) struct Listening(AbortHandle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection's way to the task. The bounded channel holds up the server when the task is behind.
struct Reporter {
    id: StreamId,
    events: mpsc::Sender<Happened>,
}

impl Reporter {
    /// `false` once nobody listens any more.
    async fn tell(&self, event: StreamEvent) -> bool {
        self.events.send(Happened::On(self.id, event)).await.is_ok()
    }

    async fn connected(&self, result: Result<SocketAddr, String>) -> bool {
        self.tell(StreamEvent::Connected(result)).await
    }
}

/// Runs a connection until either side closes it.
async fn run(target: Target, outward: Arc<Outward>, outgoing: Arc<Queue>, reporter: Reporter) {
    let ended = match target.transport {
        Transport::Tcp | Transport::Tls => framed::run(&target, &outward, &outgoing, &reporter).await,
        Transport::Udp => datagrams::run(&target, &outgoing, &reporter).await,
        Transport::Dtls => dtls::run(&target, &outward, &outgoing, &reporter).await,
    };
    match ended {
        Ok(()) => reporter.tell(StreamEvent::Closed).await,
        Err(reason) => {
            let Target { host, server, transport, .. } = target;
            let server = match host {
                Host::Ip(_) => server.to_string(),
                Host::Name(name) => format!("{name}:{}", server.port()),
            };
            reporter.connected(Err(format!("no {transport} connection to {server}: {reason}"))).await
        }
    };
}

/// The name that a certificate has to bear.
fn server_name(host: &Host) -> Result<ServerName<'static>, String> {
    match host {
        Host::Ip(ip) => Ok(ServerName::IpAddress((*ip).into())),
        Host::Name(name) => ServerName::try_from(name.clone())
            .map_err(|_| format!("{name} is no name that a certificate can have")),
    }
}
