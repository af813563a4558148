//! Connections to TURN servers beside the agent's own sockets: over TCP and TLS, on demand through a proxy, and over UDP and
//! DTLS from a socket of its own. Frames in, bytes out.
//!
//! 1. [`Streams`]: those of one agent. [`Settings`]: what all of them are made with.
//! 2. `framed`: a connection that carries a stream. `proxy`, `tls`: how it comes to be.
//! 3. `datagrams`: one that carries datagrams. `dtls`: what wraps them.

mod datagrams;
mod dtls;
mod framed;
mod proxy;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use thirl_common::net::{Nat64Prefix, Transport};
use thirl_common::uri::Host;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::nat64;
use super::queue::Queue;
use super::trust::Trust;
use crate::agent::StreamId;

pub use proxy::{HttpProxy, HttpProxyError};

/// A server that takes longer to accept is as good as none.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Frames of all streams that wait for the task; the streams wait when it is full.
const EVENTS: usize = 64;

/// What connections are made with.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// Whose word is taken for who a server is.
    pub(super) trust: Trust,
    /// Through what streams go.
    pub(super) proxy: Option<HttpProxy>,
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

/// The other end of an agent's connections, for its task.
pub(super) type StreamEvents = mpsc::Receiver<(StreamId, StreamEvent)>;

/// An agent's connections.
#[derive(Debug)]
pub(super) struct Streams {
    runtime: Handle,
    settings: Arc<Settings>,
    queues: BTreeMap<StreamId, Arc<Queue>>,
    events: mpsc::Sender<(StreamId, StreamEvent)>,
}

impl Streams {
    /// None yet. Must be called within a tokio runtime.
    pub(super) fn new(settings: Settings) -> (Streams, StreamEvents) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let (runtime, settings) = (Handle::current(), Arc::new(settings));
        (Streams { runtime, settings, queues: BTreeMap::new(), events }, receiver)
    }

    /// Begins a connection, which answers with [`StreamEvent::Connected`].
    pub(super) fn connect(&mut self, id: StreamId, target: Target) {
        let queue = Arc::new(Queue::default());
        self.queues.insert(id, Arc::clone(&queue));
        let reporter = Reporter { id, events: self.events.clone() };
        self.runtime.spawn(run(target, Arc::clone(&self.settings), queue, reporter));
    }

    /// Bytes to append to a stream, or a datagram.
    pub(super) fn send(&self, id: StreamId, bytes: Vec<u8>) {
        if let Some(queue) = self.queues.get(&id) {
            queue.push_to_stream(bytes);
        }
    }

    /// Closes it once what waits is sent.
    pub(super) fn close(&mut self, id: StreamId) {
        if let Some(queue) = self.queues.remove(&id) {
            queue.close();
        }
    }
}

/// A connection's way to the task. The bounded channel holds up the server when the task is behind.
struct Reporter {
    id: StreamId,
    events: mpsc::Sender<(StreamId, StreamEvent)>,
}

impl Reporter {
    /// `false` once nobody listens any more.
    async fn tell(&self, event: StreamEvent) -> bool {
        self.events.send((self.id, event)).await.is_ok()
    }

    async fn connected(&self, result: Result<SocketAddr, String>) -> bool {
        self.tell(StreamEvent::Connected(result)).await
    }
}

/// Runs a connection until either side closes it.
async fn run(target: Target, settings: Arc<Settings>, outgoing: Arc<Queue>, reporter: Reporter) {
    let ended = match target.transport {
        Transport::Tcp | Transport::Tls => framed::run(&target, &settings, &outgoing, &reporter).await,
        Transport::Udp => datagrams::run(&target, &outgoing, &reporter).await,
        Transport::Dtls => dtls::run(&target, &settings, &outgoing, &reporter).await,
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
