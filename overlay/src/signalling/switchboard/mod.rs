//! The hub of a signalling server: who is connected, who proved which key, and what goes where. Sans-IO.
//!
//! [`Switchboard`] is the state machine; the limits that it keeps are in [`Config`].

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::protocol::{
    ClientMessage, ErrorReason, Frame, FrameError, IceServer, MAX_FRAME, Nonce, Proof, ServerMessage,
    UndeliverableReason, VERSION,
};
use super::server_url::ServerName;
use crate::identity::NodeId;

mod limits;
#[cfg(test)]
mod tests;

#[cfg(feature = "driver")]
pub(crate) use limits::PrefixCounts;
#[cfg(not(feature = "driver"))]
use limits::PrefixCounts;
use limits::TokenBucket;
pub use limits::{Rate, SourcePrefix};

/// Gives nodes their STUN and TURN servers, with credentials made for them.
pub trait IceServers: Send {
    /// The servers for `node`, which has proved its key. `dialled` is the `host:port` by which it reached this server: a
    /// server that does not know what it is called outside can name itself so. `now_unix` is the wall clock in seconds
    /// since 1970.
    fn for_node(&self, node: NodeId, dialled: &str, now_unix: u64) -> Vec<IceServer>;
}

/// What a switchboard allows. The defaults suit a public server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The names under which the server is reached. A proof for any other is refused, which is what keeps a dishonest
    /// server from using here what was proved there. Empty: not known, every name is taken.
    pub names: Vec<ServerName>,
    /// Most connections.
    pub max_connections: usize,
    /// Most connections of one [`SourcePrefix`].
    pub max_per_prefix: u32,
    /// Most connections of one [`SourcePrefix`] that have not proved a key.
    pub max_unproven_per_prefix: u32,
    /// How long a connection may take to prove its key.
    pub proof_deadline: Duration,
    /// What a connection may send. Frames beyond it are dropped.
    pub rate: Rate,
    /// Most bytes that may wait for one connection.
    pub max_queued: usize,
    /// Most bytes that may wait for all connections.
    pub max_queued_total: usize,
    /// How long a connection may read nothing of what waits for it once that is the most it may be.
    pub max_stall: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            names: Vec::new(),
            max_connections: 16_384,
            max_per_prefix: 512,
            max_unproven_per_prefix: 32,
            proof_deadline: Duration::from_secs(10),
            rate: Rate { per_second: 50, burst: 400 },
            max_queued: 256 * 1024,
            max_queued_total: 64 * 1024 * 1024,
            max_stall: Duration::from_secs(15),
        }
    }
}

/// Names a connection. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

/// What the driver is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Send what was polled for the connection before, then close it. The switchboard has forgotten it.
    Close {
        /// Which.
        conn: ConnId,
        /// Why. The node has been told.
        reason: ErrorReason,
    },
}

/// What happened, for logs: no payload, no credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A node proved its key.
    Joined {
        /// On which connection.
        conn: ConnId,
        /// Who it is.
        node: NodeId,
    },
    /// A node is gone.
    Left {
        /// On which connection it was.
        conn: ConnId,
        /// Who it is.
        node: NodeId,
    },
}

/// Figures since the start, and of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections now.
    pub connections: usize,
    /// Nodes now.
    pub nodes: usize,
    /// Connections refused because the server or their prefix was full.
    pub refused: u64,
    /// Proofs that did not hold.
    pub bad_proofs: u64,
    /// Messages carried.
    pub delivered: u64,
    /// Messages whose node was offline or busy.
    pub undeliverable: u64,
    /// Frames dropped for coming too quickly.
    pub rate_limited: u64,
}

/// Connections of nodes, and the messages between them.
///
/// In: [`handle_open`](Self::handle_open), [`handle_frame`](Self::handle_frame), [`handle_sent`](Self::handle_sent),
/// [`handle_close`](Self::handle_close), [`handle_timeout`](Self::handle_timeout),
/// [`handle_shutdown`](Self::handle_shutdown). Out, after each of them and in this order:
/// [`poll_transmit`](Self::poll_transmit), [`poll_action`](Self::poll_action) and [`poll_event`](Self::poll_event)
/// until they give nothing, then [`poll_timeout`](Self::poll_timeout).
///
/// ```
/// use thirl_overlay::signalling::protocol::{ClientMessage, Proof, ServerMessage};
/// use thirl_overlay::signalling::switchboard::{Config, IceServers, Switchboard};
/// use thirl_overlay::{NodeId, NodeKey, signalling::IceServer};
///
/// struct None;
/// impl IceServers for None {
///     fn for_node(&self, _: NodeId, _: &str, _: u64) -> Vec<IceServer> {
///         Vec::new()
///     }
/// }
///
/// # let now = std::time::Instant::now();
/// let mut switchboard = Switchboard::new(Config::default(), Box::new(None), [7; 32]);
/// let conn = switchboard.handle_open(now, "192.0.2.1".parse()?)?;
/// let (_, challenge) = switchboard.poll_transmit().unwrap();
/// let ServerMessage::Challenge { nonce, .. } = ServerMessage::from_frame(challenge.as_str())? else { panic!() };
///
/// let proof = Proof::new(&NodeKey::from_seed(&[1; 32]), &nonce, "example.org:3480");
/// switchboard.handle_frame(now, 1_800_000_000, conn, ClientMessage::Prove(proof).to_frame().as_str());
/// let (_, welcome) = switchboard.poll_transmit().unwrap();
/// assert_eq!(ServerMessage::from_frame(welcome.as_str())?, ServerMessage::Welcome { ice_servers: vec![] });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Switchboard {
    config: Config,
    ice_servers: Box<dyn IceServers>,
    rng: StdRng,
    next_conn: u64,
    conns: BTreeMap<ConnId, Conn>,
    nodes: HashMap<NodeId, ConnId>,
    by_prefix: PrefixCounts,
    unproven_by_prefix: PrefixCounts,
    proof_deadlines: BTreeSet<(Instant, ConnId)>,
    queued_total: usize,
    stats: Stats,
    transmits: VecDeque<(ConnId, Frame)>,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
}

impl Switchboard {
    /// A switchboard without connections. `seed` is 32 bytes of the system's random generator: it makes the nonces.
    pub fn new(config: Config, ice_servers: Box<dyn IceServers>, seed: [u8; 32]) -> Switchboard {
        Switchboard {
            config,
            ice_servers,
            rng: StdRng::from_seed(seed),
            next_conn: 0,
            conns: BTreeMap::new(),
            nodes: HashMap::new(),
            by_prefix: PrefixCounts::default(),
            unproven_by_prefix: PrefixCounts::default(),
            proof_deadlines: BTreeSet::new(),
            queued_total: 0,
            stats: Stats::default(),
            transmits: VecDeque::new(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// A connection was opened by `source`. Gives it a name and challenges it, or refuses it.
    pub fn handle_open(&mut self, now: Instant, source: IpAddr) -> Result<ConnId, Refused> {
        let prefix = SourcePrefix::of(source);
        let refused = if self.conns.len() >= self.config.max_connections {
            Some(Refused::Full)
        } else if self.by_prefix.get(prefix) >= self.config.max_per_prefix
            || self.unproven_by_prefix.get(prefix) >= self.config.max_unproven_per_prefix
        {
            Some(Refused::PrefixFull)
        } else {
            None
        };
        if let Some(refused) = refused {
            self.stats.refused += 1;
            return Err(refused);
        }
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        let mut nonce = Nonce([0; 32]);
        self.rng.fill_bytes(&mut nonce.0);
        let deadline = now + self.config.proof_deadline;
        self.by_prefix.add(prefix);
        self.unproven_by_prefix.add(prefix);
        self.proof_deadlines.insert((deadline, id));
        let bucket = TokenBucket::new(self.config.rate, now);
        let state = State::Unproven { nonce, deadline };
        self.conns
            .insert(id, Conn { prefix, state, bucket, told_rate_limited: false, queued: 0, moved_at: now });
        self.queue(id, &ServerMessage::Challenge { version: VERSION, nonce });
        Ok(id)
    }

    /// A text frame arrived. `now_unix` is the wall clock in seconds since 1970, for credentials.
    ///
    /// A connection that was closed in the meantime is ignored, here and below.
    pub fn handle_frame(&mut self, now: Instant, now_unix: u64, conn: ConnId, text: &str) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        if !state.bucket.take(now, text.len()) {
            self.stats.rate_limited += 1;
            if !std::mem::replace(&mut state.told_rate_limited, true) {
                self.error(
                    conn,
                    ErrorReason::RateLimited,
                    "too many messages: those over the rate are dropped",
                );
            }
            return;
        }
        state.told_rate_limited = false;
        match (ClientMessage::from_frame(text), &state.state) {
            (Err(error @ FrameError::TooLarge { .. }), _) => {
                self.close(conn, ErrorReason::TooLarge, &error.to_string());
            }
            (Ok(ClientMessage::Prove(proof)), State::Unproven { nonce, .. }) => {
                let nonce = *nonce;
                self.handle_proof(now_unix, conn, &nonce, &proof);
            }
            (_, State::Unproven { .. }) => {
                self.close(conn, ErrorReason::ProofExpected, "the first message is `prove`");
            }
            (Err(error), _) => self.error(conn, ErrorReason::Malformed, &error.to_string()),
            (Ok(ClientMessage::Send { to, payload }), State::Proven { node, .. }) => {
                let deliver = ServerMessage::Deliver { from: *node, payload };
                self.deliver(now, conn, to, &deliver);
            }
            (Ok(ClientMessage::Refresh), State::Proven { node, dialled }) => {
                let ice_servers = self.ice_servers.for_node(*node, dialled, now_unix);
                self.answer(conn, &ServerMessage::IceServers { ice_servers });
            }
            (Ok(ClientMessage::Prove(_) | ClientMessage::Unknown), State::Proven { .. }) => {
                self.error(
                    conn,
                    ErrorReason::Unsupported,
                    "this server does not know such a message, or not now",
                );
            }
        }
    }

    /// The driver wrote a frame of `size` bytes to the connection's socket.
    pub fn handle_sent(&mut self, now: Instant, conn: ConnId, size: usize) {
        if let Some(state) = self.conns.get_mut(&conn) {
            let size = size.min(state.queued);
            state.queued -= size;
            state.moved_at = now;
            self.queued_total -= size;
        }
    }

    /// The connection is gone.
    pub fn handle_close(&mut self, conn: ConnId) {
        self.forget(conn);
    }

    /// Time has come to what [`poll_timeout`](Self::poll_timeout) gave: closes connections that proved nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(_, conn)) = self.proof_deadlines.first().filter(|(deadline, _)| *deadline <= now) {
            self.close(conn, ErrorReason::TimedOut, "no proof came in time");
        }
    }

    /// The server ends: tells every node, so that each looks for it anew at once, and closes its connection.
    pub fn handle_shutdown(&mut self) {
        let conns: Vec<ConnId> = self.conns.keys().copied().collect();
        for conn in conns {
            self.close(conn, ErrorReason::ShuttingDown, "the server ends: connect again");
        }
    }

    /// The next frame to send, and to whom. Each is to be reported with [`handle_sent`](Self::handle_sent).
    pub fn poll_transmit(&mut self) -> Option<(ConnId, Frame)> {
        self.transmits.pop_front()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next thing to log.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.proof_deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        Stats { connections: self.conns.len(), nodes: self.nodes.len(), ..self.stats }
    }

    /// The nonce is spent whether the proof holds or not.
    fn handle_proof(&mut self, now_unix: u64, conn: ConnId, nonce: &Nonce, proof: &Proof) {
        let refused = if proof.version != VERSION {
            Some((
                ErrorReason::Version,
                format!("this server speaks version {VERSION}: update the older side"),
            ))
        } else if !self.is_for_us(proof) {
            let detail =
                "the proof is for another server: dial this one by the name that its operator gave it";
            Some((ErrorReason::WrongServer, detail.to_owned()))
        } else if let Err(error) = proof.verify(nonce) {
            Some((ErrorReason::BadProof, error.to_string()))
        } else {
            None
        };
        if let Some((reason, detail)) = refused {
            self.stats.bad_proofs += 1;
            return self.close(conn, reason, &detail);
        }
        self.join(conn, proof);
        let ice_servers = self.ice_servers.for_node(proof.node, &proof.server, now_unix);
        self.answer(conn, &ServerMessage::Welcome { ice_servers });
    }

    fn is_for_us(&self, proof: &Proof) -> bool {
        self.config.names.is_empty() || self.config.names.iter().any(|name| name.covers(&proof.server))
    }

    /// The newer connection of a node is the one that works: the older may be of a network that it has left.
    fn join(&mut self, conn: ConnId, proof: &Proof) {
        let node = proof.node;
        if let Some(&older) = self.nodes.get(&node) {
            self.close(
                older,
                ErrorReason::Replaced,
                "this node has connected again, here or on another machine",
            );
        }
        let Some(state) = self.conns.get_mut(&conn) else { return };
        if let State::Unproven { deadline, .. } =
            std::mem::replace(&mut state.state, State::Proven { node, dialled: proof.server.clone() })
        {
            self.proof_deadlines.remove(&(deadline, conn));
            self.unproven_by_prefix.remove(state.prefix);
        }
        self.nodes.insert(node, conn);
        self.events.push_back(Event::Joined { conn, node });
    }

    /// A full queue is no reason to close the recipient's connection, or a stranger could have it closed by filling it:
    /// the sender is told. Only a recipient that reads nothing for long is closed.
    fn deliver(&mut self, now: Instant, from: ConnId, to: NodeId, deliver: &ServerMessage) {
        let frame = deliver.to_frame();
        let size = frame.as_str().len();
        let reason = match self.nodes.get(&to).and_then(|conn| Some((*conn, self.conns.get(conn)?))) {
            None => UndeliverableReason::Offline,
            Some((conn, state)) if state.queued + size > self.config.max_queued => {
                if now.saturating_duration_since(state.moved_at) > self.config.max_stall {
                    self.close(conn, ErrorReason::SlowReader, "what was sent to you was not read");
                }
                UndeliverableReason::Busy
            }
            Some(_) if self.queued_total + size > self.config.max_queued_total => UndeliverableReason::Busy,
            Some((conn, _)) => {
                self.stats.delivered += 1;
                return self.queue_frame(conn, frame);
            }
        };
        self.stats.undeliverable += 1;
        self.answer(from, &ServerMessage::Undeliverable { to, reason });
    }

    fn error(&mut self, conn: ConnId, reason: ErrorReason, detail: &str) {
        self.answer(conn, &ServerMessage::Error { reason, detail: detail.to_owned() });
    }

    /// Answers what a connection sent. One that sends without reading the answers is closed: these may exceed what
    /// others could fill by one frame's length.
    fn answer(&mut self, conn: ConnId, message: &ServerMessage) {
        let queued = self.conns.get(&conn).map_or(0, |state| state.queued);
        if queued > self.config.max_queued + MAX_FRAME {
            return self.close(conn, ErrorReason::SlowReader, "the answers to what you sent were not read");
        }
        self.queue(conn, message);
    }

    fn close(&mut self, conn: ConnId, reason: ErrorReason, detail: &str) {
        self.queue(conn, &ServerMessage::Error { reason, detail: detail.to_owned() });
        if self.forget(conn) {
            self.actions.push_back(Action::Close { conn, reason });
        }
    }

    fn queue(&mut self, conn: ConnId, message: &ServerMessage) {
        self.queue_frame(conn, message.to_frame());
    }

    fn queue_frame(&mut self, conn: ConnId, frame: Frame) {
        if let Some(state) = self.conns.get_mut(&conn) {
            state.queued += frame.as_str().len();
            self.queued_total += frame.as_str().len();
            self.transmits.push_back((conn, frame));
        }
    }

    fn forget(&mut self, conn: ConnId) -> bool {
        let Some(state) = self.conns.remove(&conn) else { return false };
        self.queued_total -= state.queued;
        self.by_prefix.remove(state.prefix);
        match state.state {
            State::Unproven { deadline, .. } => {
                self.proof_deadlines.remove(&(deadline, conn));
                self.unproven_by_prefix.remove(state.prefix);
            }
            State::Proven { node, .. } => {
                self.nodes.remove(&node);
                self.events.push_back(Event::Left { conn, node });
            }
        }
        true
    }
}

/// Why a connection was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The server is full.
    #[error("the server is full: try again later, or at another server")]
    Full,
    /// There are too many connections from the same part of the network.
    #[error("too many connections from your network: try again later")]
    PrefixFull,
}

struct Conn {
    prefix: SourcePrefix,
    state: State,
    bucket: TokenBucket,
    told_rate_limited: bool,
    /// Bytes polled or to be polled, and not yet sent.
    queued: usize,
    /// When something was last sent.
    moved_at: Instant,
}

enum State {
    Unproven { nonce: Nonce, deadline: Instant },
    Proven { node: NodeId, dialled: String },
}
