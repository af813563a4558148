//! The client's machine.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use thirl_common::net::{Transport, canonical};
use thirl_common::time::Deadlines;
use thirl_common::wire::{
    AddressFamily, CHANNEL_HEADER_LEN, ChannelData, ChannelNumber, Class, Data, Lifetime, Message,
    MessageWriter, Method, Protocol, TransactionId, XorMappedAddress, XorPeerAddress, XorRelayedAddress,
    classify, padded,
};

use super::error::{SendError, TurnError};
use super::exchange::{Asked, Exchange, Outcome};
use super::peers::{Peers, PermissionState};

/// A permission lasts for 300 s (RFC 8656, section 9); this is how long after its installation it is refreshed.
const PERMISSION_REFRESH: Duration = Duration::from_secs(240);

/// A channel lasts for 600 s (RFC 8656, section 12); refreshed with the same margin.
const CHANNEL_REFRESH: Duration = Duration::from_secs(540);

/// An allocation is refreshed so long before its end: more than the 39.5 s that a refresh may take to fail.
const ALLOCATION_MARGIN: Duration = Duration::from_secs(60);

/// Room for an indication's header and attributes around the data.
const INDICATION_OVERHEAD: usize = 64;

/// The largest UDP payload over IPv4.
const MAX_DATAGRAM: usize = 65_507;

/// Where to allocate, and as whom.
#[derive(Clone)]
pub struct TurnClientConfig {
    /// The server.
    pub server: SocketAddr,
    /// UDP or TCP to the server; for TLS and DTLS what is inside.
    pub transport: Transport,
    /// The local address of the socket or stream.
    pub local: SocketAddr,
    /// The user.
    pub username: String,
    /// The user's password, as a person wrote it: it is prepared here (OpaqueString; RFC 8265, section 4.2).
    pub password: String,
    /// The family of the relayed transport address; `None` leaves it to the server, which takes IPv4.
    pub family: Option<AddressFamily>,
}

impl std::fmt::Debug for TurnClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "TurnClientConfig({} over {}, user {}, password redacted)",
            self.server, self.transport, self.username
        )
    }
}

/// Data that a peer sent through the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Who sent it.
    pub peer: SocketAddr,
    /// What was sent.
    pub data: &'a [u8],
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TurnEvent {
    /// The allocation stands.
    Allocated {
        /// The relayed transport address: what peers send to.
        relayed: SocketAddr,
        /// The client's reflexive transport address, as the server sees it.
        mapped: SocketAddr,
        /// How long it lasts without a refresh. The client refreshes it by itself.
        lifetime: Duration,
    },
    /// There will be no allocation.
    Failed {
        /// Why.
        reason: TurnError,
    },
    /// There was an allocation, and is no more.
    Lost {
        /// Why.
        reason: TurnError,
    },
    /// The server will not relay to and from this peer.
    PermissionFailed {
        /// Which peer.
        peer: IpAddr,
        /// Why.
        reason: TurnError,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Allocating,
    Allocated,
    /// A Refresh with lifetime 0 is under way.
    Closing,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Timer {
    Request(TransactionId),
    RefreshAllocation,
    RefreshPermission(IpAddr),
    RefreshChannel(SocketAddr),
}

/// One allocation on one server over one five-tuple.
///
/// - in: [`start`](Self::start), [`handle_input`](Self::handle_input), [`handle_timeout`](Self::handle_timeout), and
///   what the owner wants: [`allow`](Self::allow), [`bind_channel`](Self::bind_channel), [`send`](Self::send),
///   [`close`](Self::close);
/// - out, after each of them, until each returns `None`: [`poll_transmit`](Self::poll_transmit),
///   [`poll_event`](Self::poll_event); then wait until [`poll_timeout`](Self::poll_timeout).
///
/// Allocation, permissions and channels are refreshed for as long as the client lives.
///
/// ```
/// use std::time::Instant;
/// use thirl_common::net::Transport;
/// use thirl_common::wire::{Message, Method};
/// use thirl_ice_agent::turn::{TurnClient, TurnClientConfig};
///
/// # #[expect(clippy::disallowed_methods, reason = "an example's clock")]
/// let now = Instant::now();
/// let config = TurnClientConfig {
///     server: "203.0.113.10:3478".parse().unwrap(),
///     transport: Transport::Udp,
///     local: "192.0.2.1:40000".parse().unwrap(),
///     username: "alice".into(),
///     password: "secret".into(),
///     family: None,
/// };
/// let mut client = TurnClient::new(config, [7; 32]);
/// client.start(now);
/// let request = client.poll_transmit().unwrap();
/// assert_eq!(Message::parse(&request).unwrap().method(), Method::ALLOCATE);
/// assert!(client.poll_timeout().is_some());
/// ```
#[derive(Debug)]
pub struct TurnClient {
    config: TurnClientConfig,
    exchange: Exchange,
    peers: Peers,
    phase: Phase,
    /// Whether an older allocation on this five-tuple has been deleted once already (437).
    cleared: bool,
    timers: Deadlines<Timer>,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<TurnEvent>,
}

impl TurnClient {
    /// A client that has not sent anything yet.
    pub fn new(config: TurnClientConfig, seed: [u8; 32]) -> TurnClient {
        let exchange = Exchange::new(config.transport, &config.username, &config.password, seed);
        TurnClient {
            config,
            exchange,
            peers: Peers::default(),
            phase: Phase::Idle,
            cleared: false,
            timers: Deadlines::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// What it was made with.
    pub fn config(&self) -> &TurnClientConfig {
        &self.config
    }

    /// Whether the allocation stands.
    pub fn is_allocated(&self) -> bool {
        self.phase == Phase::Allocated
    }

    /// Whether nothing more will come of this client: it failed, lost its allocation or has closed it.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Asks for the allocation. Over a stream, call it once that is open.
    pub fn start(&mut self, now: Instant) {
        if self.phase == Phase::Idle {
            self.phase = Phase::Allocating;
            self.ask(now, Asked::Allocate { family: self.config.family });
        }
    }

    /// Takes one datagram, or one whole frame of the stream, that came from the server. What is none of this client's
    /// is ignored.
    pub fn handle_input<'a>(&mut self, now: Instant, bytes: &'a [u8]) -> Option<Received<'a>> {
        match classify(bytes) {
            Protocol::ChannelData => {
                let frame = ChannelData::parse(bytes).ok()?;
                self.peers.peer_of(frame.channel).map(|peer| Received { peer, data: frame.data })
            }
            Protocol::Stun => {
                let message = Message::parse(bytes).ok()?;
                match message.class() {
                    Class::Indication => self.handle_indication(&message),
                    Class::Success | Class::Error => {
                        self.handle_response(now, &message);
                        None
                    }
                    Class::Request => None,
                }
            }
            _ => None,
        }
    }

    /// Repeats and refreshes what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Request(id) => self.handle_request_timeout(now, id),
                Timer::RefreshAllocation => self.ask(now, Asked::Refresh { lifetime: None }),
                Timer::RefreshPermission(peer) => self.ask(now, Asked::Permission { peer }),
                Timer::RefreshChannel(peer) => {
                    if let Some(number) = self.peers.channel(peer) {
                        self.ask(now, Asked::Channel { peer, number });
                    }
                }
            }
        }
    }

    /// The stream to the server is gone.
    pub fn handle_disconnect(&mut self) {
        self.end(TurnError::Disconnected);
    }

    /// Asks whether the server still has the allocation, as it should: for when something is wrong with a path. If it has
    /// not, [`TurnEvent::Lost`] follows.
    pub fn check(&mut self, now: Instant) {
        if self.phase == Phase::Allocated {
            self.ask(now, Asked::Refresh { lifetime: None });
        }
    }

    /// Lets a peer's packets through, whatever its port, until the client is closed.
    pub fn allow(&mut self, now: Instant, peer: IpAddr) {
        if self.phase == Phase::Allocated && self.peers.want_permission(peer) {
            self.ask(now, Asked::Permission { peer });
        }
    }

    /// Whether the server has installed a permission for this peer.
    pub fn is_allowed(&self, peer: IpAddr) -> bool {
        self.peers.permission(peer) == Some(PermissionState::Installed)
    }

    /// Binds a channel to a peer, which makes each packet some 36 bytes shorter.
    pub fn bind_channel(&mut self, now: Instant, peer: SocketAddr) {
        if self.phase == Phase::Allocated
            && let Some(number) = self.peers.want_channel(peer)
        {
            self.ask(now, Asked::Channel { peer, number });
        }
    }

    /// The channel to a peer, whether or not the server has confirmed it.
    pub fn channel(&self, peer: SocketAddr) -> Option<ChannelNumber> {
        self.peers.channel(peer)
    }

    /// Whether the server has confirmed a channel to this peer.
    pub fn has_channel(&self, peer: SocketAddr) -> bool {
        self.peers.bound_channel(peer).is_some()
    }

    /// Sends data to a peer: over its channel if it has one, else in a Send indication.
    ///
    /// The server drops what is sent to a peer without a permission.
    pub fn send(&mut self, _now: Instant, peer: SocketAddr, data: &[u8]) -> Result<(), SendError> {
        if self.phase != Phase::Allocated {
            return Err(SendError::NoAllocation);
        }
        let message = match self.peers.bound_channel(peer) {
            Some(number) => {
                let header = ChannelData::header(number, data.len()).ok_or(SendError::TooLarge)?;
                self.channel_data(header, data)
            }
            None => self.send_indication(peer, data)?,
        };
        self.transmits.push_back(message);
        Ok(())
    }

    /// Gives the allocation back.
    pub fn close(&mut self, now: Instant) {
        match self.phase {
            Phase::Allocated | Phase::Allocating => {
                self.exchange.forget_all();
                self.timers = Deadlines::default();
                self.phase = Phase::Closing;
                self.ask(now, Asked::Refresh { lifetime: Some(0) });
            }
            Phase::Idle => self.phase = Phase::Over,
            Phase::Closing | Phase::Over => {}
        }
    }

    /// Bytes to send to the server: a datagram, or what to append to the stream.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<TurnEvent> {
        self.events.pop_front()
    }

    /// When [`TurnClient::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn ask(&mut self, now: Instant, asked: Asked) {
        let (id, bytes) = self.exchange.ask(now, asked);
        self.sent(id, bytes);
    }

    fn sent(&mut self, id: TransactionId, bytes: Vec<u8>) {
        self.transmits.push_back(bytes);
        if let Some(deadline) = self.exchange.deadline(id) {
            self.timers.set(Timer::Request(id), deadline);
        }
    }

    fn handle_request_timeout(&mut self, now: Instant, id: TransactionId) {
        match self.exchange.handle_timeout(now, id) {
            Some(Ok(bytes)) => self.sent(id, bytes),
            Some(Err(asked)) => {
                let error = TurnError::TimedOut { transport: self.config.transport };
                self.failed(now, asked, error);
            }
            None => {}
        }
    }

    fn handle_response(&mut self, now: Instant, message: &Message<'_>) {
        match self.exchange.handle_response(now, message) {
            None => {}
            Some(Err((id, bytes))) => {
                self.timers.cancel(Timer::Request(message.transaction_id()));
                self.sent(id, bytes);
            }
            Some(Ok((asked, outcome))) => {
                self.timers.cancel(Timer::Request(message.transaction_id()));
                match outcome {
                    Outcome::Success(message) => self.succeeded(now, asked, &message),
                    Outcome::Failure(error) => self.failed(now, asked, error),
                }
            }
        }
    }

    fn succeeded(&mut self, now: Instant, asked: Asked, message: &Message<'_>) {
        match asked {
            Asked::Allocate { .. } => self.allocated(now, message),
            Asked::Refresh { lifetime: Some(0) } if self.phase == Phase::Closing => self.phase = Phase::Over,
            // An older allocation on this five-tuple is gone now.
            Asked::Refresh { lifetime: Some(0) } => {
                self.ask(now, Asked::Allocate { family: self.config.family });
            }
            Asked::Refresh { .. } => {
                self.schedule_refresh(now, message);
            }
            Asked::Permission { peer } => {
                self.peers.set_permission(peer, PermissionState::Installed);
                self.timers.set(Timer::RefreshPermission(peer), now + PERMISSION_REFRESH);
            }
            Asked::Channel { peer, .. } => {
                self.peers.set_bound(peer, true);
                self.timers.set(Timer::RefreshChannel(peer), now + CHANNEL_REFRESH);
            }
        }
    }

    fn allocated(&mut self, now: Instant, message: &Message<'_>) {
        let (Ok(relayed), Ok(mapped)) =
            (message.require::<XorRelayedAddress>(), message.require::<XorMappedAddress>())
        else {
            self.end(TurnError::ServerMisbehaved { what: "an allocation without its addresses" });
            return;
        };
        self.phase = Phase::Allocated;
        let lifetime = self.schedule_refresh(now, message);
        let (relayed, mapped) = (canonical(relayed.0), canonical(mapped.0));
        self.events.push_back(TurnEvent::Allocated { relayed, mapped, lifetime });
    }

    /// Reads LIFETIME and sets the timer so that a refresh that fails is known before the allocation ends.
    fn schedule_refresh(&mut self, now: Instant, message: &Message<'_>) -> Duration {
        /// "The default ... 10 minutes" (RFC 8656, section 3.2).
        const DEFAULT_LIFETIME: u32 = 600;
        let lifetime =
            message.get::<Lifetime>().ok().flatten().map_or(DEFAULT_LIFETIME, |lifetime| lifetime.0);
        let lifetime = Duration::from_secs(u64::from(lifetime));
        let margin = ALLOCATION_MARGIN.min(lifetime / 2);
        // A server that grants next to nothing does not make us ask without pause.
        let wait = (lifetime - margin).max(Duration::from_secs(1));
        self.timers.set(Timer::RefreshAllocation, now + wait);
        lifetime
    }

    fn failed(&mut self, now: Instant, asked: Asked, error: TurnError) {
        match asked {
            Asked::Allocate { .. } if error == TurnError::AllocationMismatch && !self.cleared => {
                self.cleared = true;
                self.ask(now, Asked::Refresh { lifetime: Some(0) });
            }
            Asked::Refresh { lifetime: Some(0) } if self.phase == Phase::Closing => self.phase = Phase::Over,
            // The older allocation expired in between.
            Asked::Refresh { lifetime: Some(0) } if error == TurnError::AllocationMismatch => {
                self.ask(now, Asked::Allocate { family: self.config.family });
            }
            Asked::Allocate { .. } | Asked::Refresh { .. } => self.end(error),
            // A permission cannot be had without its allocation: the server has restarted.
            Asked::Permission { .. } | Asked::Channel { .. } if error == TurnError::AllocationMismatch => {
                self.end(error);
            }
            Asked::Permission { peer } => {
                self.peers.set_permission(peer, PermissionState::Refused);
                self.events.push_back(TurnEvent::PermissionFailed { peer, reason: error });
            }
            // Send indications do as well.
            Asked::Channel { peer, .. } => self.peers.set_bound(peer, false),
        }
    }

    fn end(&mut self, reason: TurnError) {
        let event = match self.phase {
            Phase::Idle | Phase::Allocating => Some(TurnEvent::Failed { reason }),
            Phase::Allocated => Some(TurnEvent::Lost { reason }),
            Phase::Closing | Phase::Over => None,
        };
        self.events.extend(event);
        self.phase = Phase::Over;
        self.timers = Deadlines::default();
        self.exchange.forget_all();
    }

    fn handle_indication<'a>(&self, message: &Message<'a>) -> Option<Received<'a>> {
        if message.method() != Method::DATA || self.phase != Phase::Allocated {
            return None;
        }
        let peer = message.require::<XorPeerAddress>().ok()?;
        let data = message.require::<Data<'_>>().ok()?;
        Some(Received { peer: canonical(peer.0), data: data.0 })
    }

    /// "Over TCP and TLS-over-TCP, the ChannelData message MUST be padded to a multiple of four bytes" (RFC 8656,
    /// section 12.5).
    fn channel_data(&self, header: [u8; CHANNEL_HEADER_LEN], data: &[u8]) -> Vec<u8> {
        let len = CHANNEL_HEADER_LEN + data.len();
        let len = if self.config.transport.is_reliable() { padded(len) } else { len };
        let mut message = Vec::with_capacity(len);
        message.extend_from_slice(&header);
        message.extend_from_slice(data);
        message.resize(len, 0);
        message
    }

    fn send_indication(&mut self, peer: SocketAddr, data: &[u8]) -> Result<Vec<u8>, SendError> {
        if data.len() > MAX_DATAGRAM {
            return Err(SendError::TooLarge);
        }
        let id = self.exchange.transaction_id();
        let mut message = vec![0; data.len() + INDICATION_OVERHEAD];
        let write = |buffer: &mut [u8]| -> Result<usize, thirl_common::wire::BufferTooSmall> {
            let mut writer = MessageWriter::new(buffer, Class::Indication, Method::SEND, id)?;
            writer.attribute(&XorPeerAddress(peer))?.attribute(&Data(data))?;
            Ok(writer.len())
        };
        let len = write(&mut message).map_err(|_| SendError::TooLarge)?;
        message.truncate(len);
        Ok(message)
    }
}

#[cfg(test)]
mod tests;
