//! Signalling through a server over WebSocket, from the node's side. It stays connected by itself.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt, StreamExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thirl_common::uri::Host;
use thirl_ice_agent::driver::{Connection, Outward, through_nat64};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::protocol::{
    ClientMessage, ErrorReason, IceServer, MAX_FRAME, Payload, Proof, ServerMessage, VERSION,
};
use super::server_url::ServerUrl;
use super::{SendError, SignalEvent, Signalling};
use crate::identity::{NodeId, NodeKey};

/// How long a connection may take until the server welcomes the node.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);

/// Between attempts at a server's addresses (RFC 8305, section 5, "Connection Attempt Delay").
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Most addresses of a server that are tried.
const MAX_ADDRESSES: usize = 16;

/// How long a frame may take to be written.
const WRITE_DEADLINE: Duration = Duration::from_secs(15);

/// How long closing may take.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// How long the server may be silent: it pings every 25 s.
const SILENCE: Duration = Duration::from_secs(60);

/// How long an answer to `refresh` may take, and the least time between two.
const REFRESH_RETRY: Duration = Duration::from_secs(30);

/// Messages that wait for the server, and events that wait for the user.
const QUEUE: usize = 64;

/// A connection to a signalling server that comes back by itself when it is lost.
///
/// ```no_run
/// use thirl_overlay::signalling::{SignalEvent, Signalling, WebSocketSignalling};
/// # async fn run(key: &thirl_overlay::NodeKey) -> Result<(), Box<dyn std::error::Error>> {
/// let mut signalling = WebSocketSignalling::connect("example.org".parse()?, key).await?;
/// while let Some(event) = signalling.recv().await {
///     if let SignalEvent::Message { from, payload } = event {
///         signalling.send(from, payload)?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct WebSocketSignalling {
    node: NodeId,
    server: ServerUrl,
    outbox: mpsc::Sender<ClientMessage>,
    events: mpsc::Receiver<SignalEvent>,
    minted: watch::Receiver<Minted>,
    task: JoinHandle<()>,
}

impl WebSocketSignalling {
    /// Connects to `server` as the node that `key` belongs to. To be called within a tokio runtime.
    ///
    /// The first connection succeeds or fails here, for a mistake in the address should be seen at once. Later ones are
    /// reported by [`recv`](Signalling::recv).
    pub async fn connect(server: ServerUrl, key: &NodeKey) -> Result<WebSocketSignalling, ConnectError> {
        WebSocketSignalling::connect_by(server, key, Outward::default()).await
    }

    /// The same by a proxy, if one is used for that server, now and later.
    pub async fn connect_by(
        server: ServerUrl,
        key: &NodeKey,
        outward: Outward,
    ) -> Result<WebSocketSignalling, ConnectError> {
        let (socket, ice_servers) = dial(&server, key, &outward).await?;
        let (outbox, to_send) = mpsc::channel(QUEUE);
        let (happened, events) = mpsc::channel(QUEUE);
        let (mint, minted) = watch::channel(Minted::now(ice_servers));
        let link = Link {
            server: server.clone(),
            key: key.clone(),
            outward,
            outbox: to_send,
            unsent: None,
            events: happened,
            minted: mint,
            told: None,
        };
        let task = tokio::spawn(link.run(socket));
        Ok(WebSocketSignalling { node: key.id(), server, outbox, events, minted, task })
    }

    /// As whom it is connected.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where it is connected to.
    pub fn server(&self) -> &ServerUrl {
        &self.server
    }

    /// Sends what waits and closes the connection. Dropping does the same without waiting for it.
    pub async fn close(self) {
        let WebSocketSignalling { outbox, events, task, .. } = self;
        drop((outbox, events));
        // It ends by itself within the deadlines of writing.
        let _ = task.await;
    }
}

impl Signalling for WebSocketSignalling {
    fn send(&mut self, to: NodeId, payload: Vec<u8>) -> Result<(), SendError> {
        let payload = Payload::new(payload).map_err(|size| SendError::TooLarge { size })?;
        self.outbox.try_send(ClientMessage::Send { to, payload }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Full,
            mpsc::error::TrySendError::Closed(_) => SendError::Closed,
        })
    }

    async fn recv(&mut self) -> Option<SignalEvent> {
        self.events.recv().await
    }

    fn ice_servers(&self) -> Vec<IceServer> {
        self.minted.borrow().valid()
    }
}

/// Why the first connection failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No TCP connection.
    #[error(
        "cannot reach {server}: {error}; check the name, and that `thirl serve` runs there with its port open"
    )]
    Unreachable {
        /// Which server.
        server: ServerUrl,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// No answer.
    #[error("{server} did not answer within {} s: a firewall on the way may drop the packets", DIAL_DEADLINE.as_secs())]
    TimedOut {
        /// Which server.
        server: ServerUrl,
    },
    /// Something else answers there.
    #[error("{server} is not a Thirl signalling server ({detail}): check host and port")]
    NotSignalling {
        /// Which server.
        server: ServerUrl,
        /// What it said.
        detail: String,
    },
    /// It speaks another version.
    #[error(
        "{server} speaks version {found} of the signalling protocol, this build {VERSION}: update the older one"
    )]
    Version {
        /// Which server.
        server: ServerUrl,
        /// Its version.
        found: u32,
    },
    /// It refused the node.
    #[error("{server} refused: {detail}")]
    Refused {
        /// Which server.
        server: ServerUrl,
        /// Why, for programs.
        reason: ErrorReason,
        /// Why, for people.
        detail: String,
    },
    /// `wss` needs TLS, which this build has not.
    #[error(
        "{server} needs TLS, which this build cannot do: give a ws:// address; messages are sealed end to end"
    )]
    TlsUnsupported {
        /// Which server.
        server: ServerUrl,
    },
}

type Socket = WebSocketStream<Box<dyn Connection>>;

/// ICE servers, and when they came.
#[derive(Debug)]
struct Minted {
    servers: Vec<IceServer>,
    at: Instant,
}

impl Minted {
    fn now(servers: Vec<IceServer>) -> Minted {
        Minted { servers, at: Instant::now() }
    }

    fn valid(&self) -> Vec<IceServer> {
        let age = self.at.elapsed();
        let valid =
            |server: &&IceServer| server.ttl_seconds.is_none_or(|ttl| age < Duration::from_secs(ttl.into()));
        self.servers.iter().filter(valid).cloned().collect()
    }

    /// Half way through the shortest life; never, if none ends.
    fn refresh_at(&self) -> Option<Instant> {
        let shortest = self.servers.iter().filter_map(|server| server.ttl_seconds).min()?;
        Some(self.at + (Duration::from_secs(shortest.into()) / 2).max(Duration::from_secs(1)))
    }
}

/// The task behind a [`WebSocketSignalling`].
struct Link {
    server: ServerUrl,
    key: NodeKey,
    outward: Outward,
    outbox: mpsc::Receiver<ClientMessage>,
    /// Taken from the outbox when the connection was lost.
    unsent: Option<ClientMessage>,
    events: mpsc::Sender<SignalEvent>,
    minted: watch::Sender<Minted>,
    /// The error that the server reported last on this connection: why it closed it.
    told: Option<(ErrorReason, String)>,
}

/// Why an exchange ended: the user is gone, or the connection for the reason given.
enum End {
    Dropped,
    Lost(String),
}

impl Link {
    async fn run(mut self, mut socket: Socket) {
        let mut backoff = Backoff::new();
        loop {
            let since = Instant::now();
            let End::Lost(reason) = self.exchange(&mut socket).await else {
                return self.finish(&mut socket).await;
            };
            let replaced = matches!(self.told.take(), Some((ErrorReason::Replaced, _)));
            backoff.connection_ended(since.elapsed(), replaced);
            drop(socket);
            match self.reconnect(&mut backoff, reason).await {
                Some(anew) => socket = anew,
                None => return,
            }
        }
    }

    /// The user is gone: sends what it left and closes the connection, waiting for the server's close so that nothing
    /// is cut off.
    async fn finish(&mut self, socket: &mut Socket) {
        while let Ok(message) = self.outbox.try_recv() {
            if write(socket, &message).await.is_err() {
                return;
            }
        }
        let closed = async {
            if socket.close(None).await.is_ok() {
                while let Some(Ok(_)) = socket.next().await {}
            }
        };
        let _ = timeout(CLOSE_DEADLINE, closed).await;
    }

    /// Tries until it succeeds; `None` when the user is gone.
    async fn reconnect(&mut self, backoff: &mut Backoff, mut reason: String) -> Option<Socket> {
        loop {
            let retry_in = backoff.next();
            tracing::info!(server = %self.server, reason, ?retry_in, "signalling offline");
            self.events.send(SignalEvent::Offline { reason, retry_in }).await.ok()?;
            tokio::select! {
                () = self.events.closed() => return None,
                () = sleep(retry_in) => {}
            }
            let dialled = tokio::select! {
                () = self.events.closed() => return None,
                dialled = dial(&self.server, &self.key, &self.outward) => dialled,
            };
            match dialled {
                Ok((socket, ice_servers)) => {
                    tracing::info!(server = %self.server, "signalling online");
                    self.minted.send_replace(Minted::now(ice_servers));
                    self.events.send(SignalEvent::Online).await.ok()?;
                    return Some(socket);
                }
                Err(error) => reason = error.to_string(),
            }
        }
    }

    /// Carries messages both ways until one side ends.
    async fn exchange(&mut self, socket: &mut Socket) -> End {
        if let Some(message) = self.unsent.take()
            && let Err(end) = self.transmit(socket, message).await
        {
            return end;
        }
        let mut heard = Instant::now();
        let mut asked: Option<Instant> = None;
        loop {
            let refresh_at = self
                .minted
                .borrow()
                .refresh_at()
                .map(|at| asked.map_or(at, |asked| at.max(asked + REFRESH_RETRY)));
            let step = tokio::select! {
                message = socket.next() => {
                    heard = Instant::now();
                    self.handle(message).await
                }
                message = self.outbox.recv() => match message {
                    Some(message) => self.transmit(socket, message).await,
                    None => Err(End::Dropped),
                },
                () = sleep_until(refresh_at.unwrap_or(heard)), if refresh_at.is_some() => {
                    asked = Some(Instant::now());
                    write(socket, &ClientMessage::Refresh).await
                }
                () = sleep_until(heard + SILENCE) => {
                    Err(End::Lost(format!("the server was silent for {} s", SILENCE.as_secs())))
                }
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    /// A message that could not be written is kept for the next connection.
    async fn transmit(&mut self, socket: &mut Socket, message: ClientMessage) -> Result<(), End> {
        let written = write(socket, &message).await;
        if written.is_err() {
            self.unsent = Some(message);
        }
        written
    }

    async fn handle(&mut self, message: Option<Result<Message, WebSocketError>>) -> Result<(), End> {
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(_)) | Err(WebSocketError::ConnectionClosed)) | None => {
                let told = self.told.as_ref().map(|(_, detail)| detail.clone());
                return Err(End::Lost(told.unwrap_or_else(|| "the server closed the connection".to_owned())));
            }
            Some(Err(error)) => return Err(End::Lost(format!("the connection was lost: {error}"))),
            Some(Ok(_)) => return Ok(()),
        };
        let event = match ServerMessage::from_frame(&text) {
            Ok(ServerMessage::Deliver { from, payload }) => {
                SignalEvent::Message { from, payload: payload.into_bytes() }
            }
            Ok(ServerMessage::Undeliverable { to, reason }) => SignalEvent::Undeliverable { to, reason },
            Ok(ServerMessage::IceServers { ice_servers }) => {
                self.minted.send_replace(Minted::now(ice_servers));
                return Ok(());
            }
            Ok(ServerMessage::Error { reason, detail }) => {
                tracing::warn!(server = %self.server, ?reason, detail, "the signalling server reports an error");
                self.told = Some((reason, detail));
                return Ok(());
            }
            Ok(ServerMessage::Challenge { .. } | ServerMessage::Welcome { .. } | ServerMessage::Unknown) => {
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(server = %self.server, %error, "the signalling server misbehaves");
                return Ok(());
            }
        };
        self.events.send(event).await.map_err(|_| End::Dropped)
    }
}

/// How long to wait before the next attempt: doubling, and never the same for two nodes, so that those that lost one
/// server do not come back all at once.
struct Backoff {
    rng: StdRng,
    ceiling: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(500);
    const LAST: Duration = Duration::from_secs(30);

    fn new() -> Backoff {
        Backoff { rng: StdRng::from_os_rng(), ceiling: Self::FIRST }
    }

    /// A connection that lasted was sound. One that another replaced was lost to a program with the same key: two of
    /// them must not fight.
    fn connection_ended(&mut self, lasted: Duration, replaced: bool) {
        if replaced {
            self.ceiling = Self::LAST;
        } else if lasted >= Duration::from_secs(10) {
            self.ceiling = Self::FIRST;
        }
    }

    fn next(&mut self) -> Duration {
        let wait = self.ceiling.mul_f64(self.rng.random_range(0.5..1.0));
        self.ceiling = (self.ceiling * 2).min(Self::LAST);
        wait
    }
}

async fn dial(
    server: &ServerUrl,
    key: &NodeKey,
    outward: &Outward,
) -> Result<(Socket, Vec<IceServer>), ConnectError> {
    if server.is_secure() {
        return Err(ConnectError::TlsUnsupported { server: server.clone() });
    }
    let dialled = async {
        let stream = connect(server, outward)
            .await
            .map_err(|error| ConnectError::Unreachable { server: server.clone(), error })?;
        let config = WebSocketConfig::default()
            .read_buffer_size(4 * 1024)
            .write_buffer_size(0)
            .max_write_buffer_size(4 * MAX_FRAME)
            .max_message_size(Some(2 * MAX_FRAME))
            .max_frame_size(Some(2 * MAX_FRAME));
        let (mut socket, _) = client_async_with_config(server.to_string(), stream, Some(config))
            .await
            .map_err(|error| not_signalling(server, &error.to_string()))?;
        let ice_servers = prove(&mut socket, server, key).await?;
        Ok((socket, ice_servers))
    };
    timeout(DIAL_DEADLINE, dialled)
        .await
        .unwrap_or_else(|_| Err(ConnectError::TimedOut { server: server.clone() }))
}

/// Answers the challenge and waits to be welcomed.
async fn prove(
    socket: &mut Socket,
    server: &ServerUrl,
    key: &NodeKey,
) -> Result<Vec<IceServer>, ConnectError> {
    while let Some(message) = socket.next().await {
        let message = message.map_err(|error| not_signalling(server, &error.to_string()))?;
        let Message::Text(text) = message else { continue };
        match ServerMessage::from_frame(&text) {
            Ok(ServerMessage::Challenge { version: VERSION, nonce }) => {
                let proof = Proof::new(key, &nonce, &server.authority());
                let frame = ClientMessage::Prove(proof).to_frame().into_string();
                let sent = socket.send(Message::text(frame)).await;
                sent.map_err(|error| not_signalling(server, &error.to_string()))?;
            }
            Ok(ServerMessage::Challenge { version: found, .. }) => {
                return Err(ConnectError::Version { server: server.clone(), found });
            }
            Ok(ServerMessage::Welcome { ice_servers }) => return Ok(ice_servers),
            Ok(ServerMessage::Error { reason, detail }) => {
                return Err(ConnectError::Refused { server: server.clone(), reason, detail });
            }
            Ok(_) => {}
            Err(error) => return Err(not_signalling(server, &error.to_string())),
        }
    }
    Err(not_signalling(server, "it closed the connection"))
}

fn not_signalling(server: &ServerUrl, detail: &str) -> ConnectError {
    ConnectError::NotSignalling { server: server.clone(), detail: detail.to_owned() }
}

async fn connect(server: &ServerUrl, outward: &Outward) -> io::Result<Box<dyn Connection>> {
    let name = server.host();
    let host = name.parse().map_or_else(|_| Host::Name(name.to_string()), Host::Ip);
    if let Some(opened) = outward.by_proxy(&host, server.port()).await {
        return opened;
    }
    let stream = connect_tcp(server).await?;
    // Small frames matter more than few packets; a socket that refuses still works.
    let _ = stream.set_nodelay(true);
    Ok(Box::new(stream))
}

/// Tries the server's addresses, families in turn, the next when one fails or takes long (RFC 8305): one that leads
/// nowhere must not hide one that works.
async fn connect_tcp(server: &ServerUrl) -> io::Result<TcpStream> {
    let found = lookup_host((server.host().as_str(), server.port())).await?.collect();
    let mut addresses = interleave(found).into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        match addresses.next() {
            Some(address) => attempts.push(connect_address(address)),
            None if attempts.is_empty() => return Err(failed),
            None => {}
        }
        tokio::select! {
            Some(attempt) = attempts.next() => match attempt {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            },
            () = sleep(ATTEMPT_DELAY) => {}
        }
    }
}

async fn connect_address(address: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect(through_nat64(address).await).await
}

/// The resolver's order within a family, the families in turn.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut mixed: Vec<SocketAddr> =
        first.into_iter().flat_map(|address| [Some(address), second.next()]).flatten().collect();
    mixed.extend(second);
    mixed.truncate(MAX_ADDRESSES);
    mixed
}

async fn write(socket: &mut Socket, message: &ClientMessage) -> Result<(), End> {
    let frame = Message::text(message.to_frame().into_string());
    match timeout(WRITE_DEADLINE, socket.send(frame)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(End::Lost(format!("the connection was lost: {error}"))),
        Err(_) => Err(End::Lost("the server does not read".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let parse =
            |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let found = parse(&["[::1]:1", "[::2]:1", "[::3]:1", "192.0.2.1:1"]);
        assert_eq!(interleave(found), parse(&["[::1]:1", "192.0.2.1:1", "[::2]:1", "[::3]:1"]));
        let found = parse(&["192.0.2.1:1", "[::1]:1", "[::2]:1"]);
        assert_eq!(interleave(found), parse(&["192.0.2.1:1", "[::1]:1", "[::2]:1"]));
        assert!(interleave(vec![]).is_empty());
        assert_eq!(interleave(parse(&["192.0.2.1:1"; 40])).len(), MAX_ADDRESSES);
    }

    #[test]
    fn waits_double_up_to_half_a_minute_and_differ() {
        let mut backoff = Backoff::new();
        let waits: Vec<Duration> = (0..10).map(|_| backoff.next()).collect();
        assert!(waits[0] < Backoff::FIRST && waits[0] >= Backoff::FIRST / 2);
        assert!(waits[9] < Backoff::LAST && waits[9] >= Backoff::LAST / 2);
        backoff.connection_ended(Duration::from_secs(1), false);
        assert!(backoff.next() >= Backoff::LAST / 2, "a connection that was lost at once proves nothing");
        backoff.connection_ended(Duration::from_secs(10), false);
        assert!(backoff.next() < Backoff::FIRST);
        backoff.connection_ended(Duration::from_secs(100), true);
        assert!(backoff.next() >= Backoff::LAST / 2, "two programs with one key");
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_are_renewed_half_way_and_not_shown_when_expired() {
        let server = |ttl_seconds| IceServer { urls: vec![], username: None, credential: None, ttl_seconds };
        let minted = Minted::now(vec![server(Some(100)), server(None)]);
        assert_eq!(minted.refresh_at(), Some(minted.at + Duration::from_secs(50)));
        assert_eq!(minted.valid().len(), 2);
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(minted.valid(), [server(None)]);
        assert_eq!(Minted::now(vec![server(None)]).refresh_at(), None);
    }
}
