//! The signalling server's sockets and tasks: HTTP with a WebSocket, around one [`Switchboard`].
//!
//! [`Hub`] is the switchboard behind a lock, with one outbox per connection. [`serve`] accepts connections; each is one
//! task from its first byte to its last: [`accept`] → [`http`] → [`upgrade`] → [`converse`]. The lock is held for one
//! call of the switchboard at a time; the longest verifies a signature.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Extension, State};
use axum::response::Response;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at, sleep, sleep_until, timeout};

use super::protocol::{ErrorReason, Frame, MAX_FRAME, PATH, ServerMessage};
use super::switchboard::{
    Action, Config, ConnId, Event, IceServers, PrefixCounts, Refused, SourcePrefix, Stats, Switchboard,
};

/// How long an HTTP request may take from its first byte until it is answered or upgraded.
const HTTP_DEADLINE: Duration = Duration::from_secs(10);

/// Most bytes of an HTTP request's head.
const HTTP_BUFFER: usize = 16 * 1024;

/// Most connections that are not upgraded yet, in total and of one source prefix.
const MAX_HTTP: usize = 1024;
const MAX_HTTP_PER_PREFIX: u32 = 64;

/// How long one frame may take to be written.
const WRITE_DEADLINE: Duration = Duration::from_secs(15);

/// How long a closed connection is read on, for the node to close it too.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// How long a shutdown waits for connections to be closed properly.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(3);

/// When silent connections are asked for a sign of life, and when they are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// How often a ping is sent (RFC 6455, section 5.5.2). Shorter than what NATs and proxies grant to idle TCP.
    pub ping_every: Duration,
    /// How long a connection may be silent.
    pub close_after: Duration,
}

impl Default for Keepalive {
    fn default() -> Keepalive {
        Keepalive { ping_every: Duration::from_secs(25), close_after: Duration::from_secs(60) }
    }
}

/// A running [`Switchboard`]; clones are the same one.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

impl Hub {
    /// Starts a switchboard. To be called within a tokio runtime, for its timer.
    pub fn start(config: Config, keepalive: Keepalive, ice_servers: Box<dyn IceServers>) -> Hub {
        let mut seed = [0; 32];
        StdRng::from_os_rng().fill_bytes(&mut seed);
        let switchboard = Switchboard::new(config, ice_servers, seed);
        let hub = Hub(Arc::new(Shared {
            state: Mutex::new(Switched { switchboard, outboxes: BTreeMap::new() }),
            keepalive,
            timeout_changed: Arc::new(Notify::new()),
            conversations: watch::Sender::new(0),
        }));
        tokio::spawn(run_timer(Arc::downgrade(&hub.0), Arc::clone(&hub.0.timeout_changed)));
        hub
    }

    /// The routes, for a server of one's own: the WebSocket at [`PATH`], `/healthz`, and a line of text at `/`.
    ///
    /// Such a server has to bound its connections and their time itself, and to serve the router with
    /// `into_make_service_with_connect_info::<SocketAddr>()`.
    pub fn router(&self) -> Router {
        Router::new()
            .route(
                "/",
                get(async || "This is a Thirl signalling server: `thirl listen --server HOST` uses it.\n"),
            )
            .route("/healthz", get(async || "ok\n"))
            .route(PATH, get(upgrade))
            .with_state(self.clone())
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        self.lock().switchboard.stats()
    }

    /// Tells every node that the server ends and waits, for a few seconds at most, until they are gone.
    pub async fn shutdown(&self) {
        self.act(|state, _| state.switchboard.handle_shutdown());
        let mut conversations = self.0.conversations.subscribe();
        if timeout(SHUTDOWN_DEADLINE, conversations.wait_for(|count| *count == 0)).await.is_err() {
            tracing::info!("some signalling connections did not close in time and are dropped");
        }
    }

    fn open(&self, source: IpAddr) -> Result<Conversation, Refused> {
        let (conn, outbox) = self.act(|state, now| {
            let conn = state.switchboard.handle_open(now, source)?;
            // What the switchboard lets wait is bounded, and so is this.
            let (sender, outbox) = mpsc::unbounded_channel();
            state.outboxes.insert(conn, sender);
            Ok((conn, outbox))
        })?;
        self.0.conversations.send_modify(|count| *count += 1);
        Ok(Conversation { hub: self.clone(), conn, outbox })
    }

    /// Calls the switchboard and hands on what comes out of it.
    fn act<R>(&self, call: impl FnOnce(&mut Switched, Instant) -> R) -> R {
        let mut state = self.lock();
        let timeout_before = state.switchboard.poll_timeout();
        let result = call(&mut state, now());
        state.hand_on();
        if state.switchboard.poll_timeout() != timeout_before {
            self.0.timeout_changed.notify_one();
        }
        result
    }

    /// No call leaves the switchboard half changed, so one that panicked is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Switched> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Hub").field(&self.stats()).finish()
    }
}

/// Serves signalling on `listeners` until `shutdown` is done, then tells all nodes and closes their connections.
///
/// ```no_run
/// use thirl_overlay::signalling::{Hub, Keepalive, serve, switchboard::{Config, IceServers}};
/// # async fn run(ice_servers: Box<dyn IceServers>) -> std::io::Result<()> {
/// let listener = tokio::net::TcpListener::bind("[::]:3480").await?;
/// let hub = Hub::start(Config::default(), Keepalive::default(), ice_servers);
/// serve(vec![listener], hub, std::future::pending()).await;
/// # Ok(())
/// # }
/// ```
pub async fn serve(listeners: Vec<TcpListener>, hub: Hub, shutdown: impl Future<Output = ()>) {
    let waiting = Arc::new(Mutex::new(Waiting::default()));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, hub.router(), Arc::clone(&waiting)));
    }
    shutdown.await;
    accepting.shutdown().await;
    hub.shutdown().await;
}

async fn accept(listener: TcpListener, router: Router, waiting: Arc<Mutex<Waiting>>) {
    loop {
        match listener.accept().await {
            Ok((stream, source)) => {
                // Over the limit: closed without a word, which costs least.
                if let Some(place) = Place::take(&waiting, source.ip()) {
                    tokio::spawn(http(stream, source, router.clone(), place));
                }
            }
            Err(error) => {
                // Out of file descriptors, or the peer left early: the next attempt may work.
                tracing::warn!(%error, "cannot accept a signalling connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers requests for [`HTTP_DEADLINE`] at most. An upgraded connection goes on in [`upgrade`].
async fn http(stream: TcpStream, source: SocketAddr, router: Router, place: Place) {
    // Small frames matter more than few packets; a socket that refuses still works.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router.layer(Extension(ConnectInfo(source))));
    let request = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP_DEADLINE)
        .max_buf_size(HTTP_BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    match timeout(HTTP_DEADLINE, request).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%source, %error, "HTTP request failed"),
        Err(_) => tracing::debug!(%source, "HTTP request took too long"),
    }
    drop(place);
}

async fn upgrade(
    upgrade: WebSocketUpgrade,
    ConnectInfo(source): ConnectInfo<SocketAddr>,
    State(hub): State<Hub>,
) -> Response {
    upgrade
        // Twice the limit, so that the switchboard can say what is wrong with a frame that is somewhat too large.
        .max_message_size(2 * MAX_FRAME)
        .max_frame_size(2 * MAX_FRAME)
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * MAX_FRAME)
        .on_upgrade(move |socket| converse(socket, source.ip().to_canonical(), hub))
}

/// One connection, from its challenge to its end.
async fn converse(mut socket: WebSocket, source: IpAddr, hub: Hub) {
    match hub.open(source) {
        Ok(mut conversation) => {
            let why = conversation.run(&mut socket).await;
            tracing::debug!(%source, conn = ?conversation.conn, why, "signalling connection closed");
        }
        Err(refused) => {
            tracing::debug!(%source, %refused, "signalling connection refused");
            let error = ServerMessage::Error { reason: ErrorReason::Full, detail: refused.to_string() };
            let _ = write(&mut socket, Message::text(error.to_frame().into_string())).await;
            close(&mut socket, ErrorReason::Full).await;
        }
    }
}

/// A connection that the switchboard knows. Dropping it closes it there, however its task ends.
struct Conversation {
    hub: Hub,
    conn: ConnId,
    outbox: mpsc::UnboundedReceiver<Outgoing>,
}

impl Conversation {
    async fn run(&mut self, socket: &mut WebSocket) -> &'static str {
        let Keepalive { ping_every, close_after } = self.hub.0.keepalive;
        let mut heard = tokio::time::Instant::now();
        let mut ping = interval_at(heard + ping_every, ping_every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = socket.recv() => {
                    heard = tokio::time::Instant::now();
                    match message {
                        Some(Ok(Message::Text(text))) => self.handle(&text),
                        // Not of this protocol: answered like any other text that makes no sense.
                        Some(Ok(Message::Binary(_))) => self.handle(""),
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                        Some(Ok(Message::Close(_))) | None => return "by the node",
                        Some(Err(_)) => return "connection lost",
                    }
                }
                outgoing = self.outbox.recv() => match outgoing {
                    Some(Outgoing::Frame(frame)) => {
                        let size = frame.as_str().len();
                        if write(socket, Message::text(frame.into_string())).await.is_err() {
                            return "not writable";
                        }
                        self.hub.act(|state, now| state.switchboard.handle_sent(now, self.conn, size));
                    }
                    Some(Outgoing::Close(reason)) => {
                        close(socket, reason).await;
                        return "by the server";
                    }
                    None => return "by the server",
                },
                _ = ping.tick() => {
                    if heard.elapsed() >= close_after {
                        return "silent for too long";
                    }
                    if write(socket, Message::Ping(Default::default())).await.is_err() {
                        return "not writable";
                    }
                }
            }
        }
    }

    fn handle(&self, text: &str) {
        let unix = unix_now();
        self.hub.act(|state, now| state.switchboard.handle_frame(now, unix, self.conn, text));
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.hub.act(|state, _| {
            state.switchboard.handle_close(self.conn);
            state.outboxes.remove(&self.conn);
        });
        self.hub.0.conversations.send_modify(|count| *count -= 1);
    }
}

struct Shared {
    state: Mutex<Switched>,
    keepalive: Keepalive,
    timeout_changed: Arc<Notify>,
    /// How many connections have a task.
    conversations: watch::Sender<usize>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.timeout_changed.notify_one();
    }
}

struct Switched {
    switchboard: Switchboard,
    outboxes: BTreeMap<ConnId, mpsc::UnboundedSender<Outgoing>>,
}

enum Outgoing {
    Frame(Frame),
    Close(ErrorReason),
}

impl Switched {
    fn hand_on(&mut self) {
        while let Some((conn, frame)) = self.switchboard.poll_transmit() {
            if let Some(outbox) = self.outboxes.get(&conn) {
                // Its task may just have ended; then the switchboard is about to learn it.
                let _ = outbox.send(Outgoing::Frame(frame));
            }
        }
        while let Some(Action::Close { conn, reason }) = self.switchboard.poll_action() {
            tracing::debug!(?conn, ?reason, "closing a signalling connection");
            if let Some(outbox) = self.outboxes.remove(&conn) {
                let _ = outbox.send(Outgoing::Close(reason));
            }
        }
        while let Some(event) = self.switchboard.poll_event() {
            match event {
                Event::Joined { conn, node } => tracing::info!(?conn, node = node.short(), "node online"),
                Event::Left { conn, node } => tracing::info!(?conn, node = node.short(), "node offline"),
            }
        }
    }
}

/// Calls `handle_timeout` when it is due, as long as the hub exists.
async fn run_timer(hub: Weak<Shared>, changed: Arc<Notify>) {
    loop {
        let Some(timeout) = hub.upgrade().map(|shared| Hub(shared).lock().switchboard.poll_timeout()) else {
            return;
        };
        let due = async {
            match timeout {
                Some(timeout) => sleep_until(timeout.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed.notified() => {}
            () = due => {
                let Some(shared) = hub.upgrade() else { return };
                Hub(shared).act(|state, now| state.switchboard.handle_timeout(now));
            }
        }
    }
}

/// Connections that are not upgraded yet.
#[derive(Default)]
struct Waiting {
    total: usize,
    by_prefix: PrefixCounts,
}

/// A place among them, given back when dropped.
struct Place {
    waiting: Arc<Mutex<Waiting>>,
    prefix: SourcePrefix,
}

impl Place {
    fn take(waiting: &Arc<Mutex<Waiting>>, source: IpAddr) -> Option<Place> {
        let prefix = SourcePrefix::of(source);
        let mut counts = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= MAX_HTTP || counts.by_prefix.get(prefix) >= MAX_HTTP_PER_PREFIX {
            return None;
        }
        counts.total += 1;
        counts.by_prefix.add(prefix);
        Some(Place { waiting: Arc::clone(waiting), prefix })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        counts.by_prefix.remove(self.prefix);
    }
}

async fn write(socket: &mut WebSocket, message: Message) -> Result<(), ()> {
    timeout(WRITE_DEADLINE, socket.send(message)).await.map_err(|_| ())?.map_err(|_| ())
}

/// Closes, and reads on for a moment: a socket that is closed with bytes unread resets the connection, and the node
/// would not learn why.
async fn close(socket: &mut WebSocket, reason: ErrorReason) {
    let code = match reason {
        ErrorReason::ShuttingDown => close_code::RESTART,
        ErrorReason::Full => close_code::AGAIN,
        ErrorReason::TooLarge => close_code::SIZE,
        _ => close_code::POLICY,
    };
    if write(socket, Message::Close(Some(CloseFrame { code, reason: Default::default() }))).await.is_ok() {
        let _ = timeout(CLOSE_DEADLINE, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the driver reads the clock")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the driver reads the clock")]
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
