//! The client's machine.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use thirl_common::net::{Transport, canonical};
use thirl_common::time::Deadlines;
use thirl_common::wire::{
    CHANNEL_HEADER_LEN, ChannelData, ChannelNumber, Class, Data, Lifetime, Message, MessageWriter, Method,
    Protocol, TransactionId, XorMappedAddress, XorPeerAddress, XorRelayedAddress, classify, padded,
};

use super::credentials::TurnCredentials;
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
    /// As whom.
    pub credentials: TurnCredentials,
    /// The families of the relayed transport addresses.
    pub families: Families,
    /// Whether to ask for a ticket by which the allocation can be moved (RFC 8016). A server that forbids it costs a round
    /// trip.
    pub mobile: bool,
}

/// Of which families relayed transport addresses are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Families {
    /// IPv4, which every server relays.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Both in one allocation, or the one that there is (RFC 8656, section 7.1).
    Both,
}

impl std::fmt::Debug for TurnClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TurnClientConfig({} over {}, {:?})", self.server, self.transport, self.credentials)
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
        /// That of the other family, if both were asked for and granted.
        additional: Option<SocketAddr>,
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
    /// The allocation is the client's on its new five-tuple; after [`TurnClient::move_to`].
    Moved {
        /// The client's reflexive transport address there, if the server says it.
        mapped: Option<SocketAddr>,
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
///   [`refresh`](Self::refresh), [`move_to`](Self::move_to), [`close`](Self::close);
/// - out, after each of them, until each returns `None`: [`poll_transmit`](Self::poll_transmit),
///   [`poll_event`](Self::poll_event); then wait until [`poll_timeout`](Self::poll_timeout).
///
/// Allocation, permissions and channels are refreshed for as long as the client lives.
///
/// ```
/// use std::time::Instant;
/// use thirl_common::net::Transport;
/// use thirl_common::wire::{Message, Method};
/// use thirl_ice_agent::turn::{Families, TurnClient, TurnClientConfig, TurnCredentials};
///
/// # #[expect(clippy::disallowed_methods, reason = "an example's clock")]
/// let now = Instant::now();
/// let config = TurnClientConfig {
///     server: "203.0.113.10:3478".parse().unwrap(),
///     transport: Transport::Udp,
///     local: "192.0.2.1:40000".parse().unwrap(),
///     credentials: TurnCredentials::password("alice", "secret"),
///     families: Families::Ipv4,
///     mobile: false,
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
    /// What the next Allocate request asks for: less than was wanted, once the server has refused that.
    families: Families,
    mobile: bool,
    /// Whether an older allocation on this five-tuple has been deleted once already (437).
    cleared: bool,
    timers: Deadlines<Timer>,
    transmits: VecDeque<Vec<u8>>,
    events: VecDeque<TurnEvent>,
}

impl TurnClient {
    /// A client that has not sent anything yet.
    pub fn new(config: TurnClientConfig, seed: [u8; 32]) -> TurnClient {
        let exchange = Exchange::new(config.transport, &config.credentials, seed);
        TurnClient {
            families: config.families,
            mobile: config.mobile,
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
            self.allocate(now);
        }
    }

    /// Asks whether the allocation still stands, such as when nothing comes through it any more. A server that has
    /// restarted says that it does not.
    pub fn refresh(&mut self, now: Instant) {
        let asked = Asked::Refresh { lifetime: None };
        if self.phase == Phase::Allocated && !self.exchange.is_asking(asked) {
            self.ask(now, asked);
        }
    }

    /// Whether the allocation can be moved to another five-tuple.
    pub fn is_mobile(&self) -> bool {
        self.phase == Phase::Allocated && self.exchange.has_ticket()
    }

    /// Moves the allocation to another five-tuple, because the old one is gone (RFC 8016): from now on everything goes by
    /// that one. `false` if it cannot be moved.
    pub fn move_to(&mut self, now: Instant, local: SocketAddr, transport: Transport) -> bool {
        if !self.is_mobile() {
            return false;
        }
        (self.config.local, self.config.transport) = (local, transport);
        self.exchange.set_transport(transport);
        if !self.exchange.is_asking(Asked::Move) {
            self.ask(now, Asked::Move);
        }
        true
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
                Timer::RefreshAllocation => self.refresh(now),
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

    /// Sends data to a peer: over its channel if it has one, else in a Send indication. Application data, which is
    /// everything but STUN, makes the client bind a channel.
    ///
    /// The server drops what is sent to a peer without a permission.
    pub fn send(&mut self, now: Instant, peer: SocketAddr, data: &[u8]) -> Result<(), SendError> {
        if self.phase != Phase::Allocated {
            return Err(SendError::NoAllocation);
        }
        if classify(data) != Protocol::Stun {
            self.bind_channel(now, peer);
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

    fn allocate(&mut self, now: Instant) {
        self.ask(now, Asked::Allocate { families: self.families, mobile: self.mobile });
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
            Asked::Refresh { lifetime: Some(0) } => self.allocate(now),
            Asked::Refresh { .. } => {
                self.schedule_refresh(now, message);
            }
            Asked::Move => {
                self.schedule_refresh(now, message);
                let mapped = message.get::<XorMappedAddress>().ok().flatten();
                self.events.push_back(TurnEvent::Moved { mapped: mapped.map(|mapped| canonical(mapped.0)) });
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
        let mut relayed =
            message.get_all::<XorRelayedAddress>().flatten().map(|relayed| canonical(relayed.0));
        let (Some(first), Ok(mapped)) = (relayed.next(), message.require::<XorMappedAddress>()) else {
            self.end(TurnError::ServerMisbehaved { what: "an allocation without its addresses" });
            return;
        };
        let additional = relayed.find(|other| other.is_ipv4() != first.is_ipv4());
        self.phase = Phase::Allocated;
        let lifetime = self.schedule_refresh(now, message);
        let mapped = canonical(mapped.0);
        self.events.push_back(TurnEvent::Allocated { relayed: first, additional, mapped, lifetime });
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
            Asked::Allocate { .. } if self.lower_demands(&error) => self.allocate(now),
            Asked::Refresh { lifetime: Some(0) } if self.phase == Phase::Closing => self.phase = Phase::Over,
            // The older allocation expired in between.
            Asked::Refresh { lifetime: Some(0) } if error == TurnError::AllocationMismatch => {
                self.allocate(now);
            }
            // The older allocation is another user's: it is in the way until it expires.
            Asked::Refresh { lifetime: Some(0) } if error == TurnError::WrongCredentials => {
                self.end(TurnError::AllocationMismatch);
            }
            // To the server this may be another five-tuple than before: a NAT on the way has changed its mapping.
            Asked::Refresh { lifetime: None }
                if error == TurnError::AllocationMismatch && self.is_mobile() =>
            {
                self.ask(now, Asked::Move);
            }
            // The server does not know the ticket: it has restarted.
            Asked::Move if matches!(error, TurnError::Refused { .. }) => {
                self.end(TurnError::AllocationMismatch);
            }
            Asked::Allocate { .. } | Asked::Refresh { .. } | Asked::Move => self.end(error),
            // A permission cannot be had without its allocation: the server has restarted, or is gone.
            Asked::Permission { .. } | Asked::Channel { .. } if ends_allocation(&error) => self.end(error),
            Asked::Permission { peer } => {
                self.peers.set_permission(peer, PermissionState::Refused);
                self.events.push_back(TurnEvent::PermissionFailed { peer, reason: error });
            }
            // Send indications do as well.
            Asked::Channel { peer, .. } => self.peers.set_bound(peer, false),
        }
    }

    /// Asks for less where the server refuses what not every server has. `false` if that is not why it refuses.
    fn lower_demands(&mut self, error: &TurnError) -> bool {
        let lower = match (error, self.families) {
            (TurnError::Refused { code: 405, .. }, _) if self.mobile => {
                self.mobile = false;
                return true;
            }
            (TurnError::FamilyNotSupported | TurnError::Refused { code: 442, .. }, Families::Both) => {
                Families::Ipv4
            }
            // Both were wanted, and there is no IPv4.
            (TurnError::FamilyNotSupported, Families::Ipv4) if self.config.families == Families::Both => {
                Families::Ipv6
            }
            _ => return false,
        };
        self.families = lower;
        true
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

/// Whether a refusal says that there is no allocation, or nobody to ask for one.
fn ends_allocation(error: &TurnError) -> bool {
    matches!(error, TurnError::AllocationMismatch | TurnError::WrongCredentials | TurnError::TimedOut { .. })
}

#[cfg(test)]
mod tests;
