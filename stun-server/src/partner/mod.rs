//! RFC 5780 across two machines: a partner answers from the second address.
//!
//! Two servers with one address each know each other's, listen on the same two ports, and share a secret. A request with
//! CHANGE-REQUEST for another IP address goes over a [`Link`] to the partner, which handles it as if it were the first
//! server, and sends what is to leave from its own address. The link is datagrams between the servers' first ports: no
//! other port is opened, and it goes the very way that clients use.
//!
//! What is not from the partner, or not meant for this server now, does nothing:
//!
//! - **Signed**: HMAC-SHA256 over all of a message, the sender's and the receiver's address (`message`).
//! - **Fresh**: a message echoes the receiver's challenge, which is random and changes with every run of the partner that
//!   is met, and has a sequence number that is taken once (`window`). No clock is compared: a wrong one, a restart of
//!   either side and a record of all that was ever sent change nothing.
//! - **Bounded**: nothing is kept of a client, and of the partner its run and one window. Requests are passed on at
//!   [`MAX_PER_SECOND`] at the most, no heartbeat is answered by more than one, and answers go to the partner only.
//!
//! A partner of which nothing fresh is heard for [`SILENCE`] is down: then this server is one with a single address.

#[cfg(feature = "driver")]
mod links;
mod message;
mod window;

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use sha2::Sha256;
use thirl_common::net::{Transmit, Transport};

#[cfg(feature = "driver")]
pub(crate) use links::Links;
pub(crate) use message::MAX_REQUEST_LEN;
pub use message::{MAX_PARTNER_MESSAGE_LEN, PassedOn};

use message::{Content, Direction, HEARTBEAT_LEN, MAGIC, PartnerMessage, is_signed};
use window::Window;

/// How often a server tells its partner that it is there.
pub const HEARTBEAT: Duration = Duration::from_secs(1);

/// After so long without a fresh heartbeat a partner is down.
pub const SILENCE: Duration = Duration::from_secs(5);

/// How many requests are passed on in a second, of all clients together, and as many at once: 2 Mbit/s of usual ones.
pub const MAX_PER_SECOND: u32 = 2000;

/// How many heartbeats that are not fresh are answered until the next is due.
const REPLIES: u8 = 4;

/// What partners share. The first signs, all are taken, so that a secret can be changed on one side after the other.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PartnerSecrets(pub Vec<String>);

impl fmt::Debug for PartnerSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PartnerSecrets(redacted)")
    }
}

/// The two ends of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkAddrs {
    /// The socket here: address and first port.
    pub local: SocketAddr,
    /// What that is outside, which is what the partner calls this server.
    pub public: SocketAddr,
    /// The partner: its address outside and first port.
    pub partner: SocketAddr,
    /// The second port of both.
    pub second_port: u16,
}

/// One side of a link.
///
/// - **In**: [`Link::handle_datagram`] with what came from the partner's address, [`Link::pass_on`] with what it is to
///   answer, [`Link::handle_timeout`] when [`Link::poll_timeout`] has come.
/// - **Out**, after each of these: [`Link::poll_transmit`], [`Link::poll_event`], each until `None`.
#[derive(Debug)]
pub struct Link {
    addrs: LinkAddrs,
    keys: Vec<Hmac<Sha256>>,
    random: Random,
    run: u64,
    sequence: u64,
    /// What the partner has to echo.
    challenge: u64,
    /// What the partner wants echoed, and nothing before it was heard.
    echo: Option<u64>,
    peer: Option<Peer>,
    state: State,
    /// What came since the last fresh heartbeat, if anything.
    suspicion: Option<DownReason>,
    replies: u8,
    next_heartbeat: Instant,
    /// When what was passed on will have drained at the allowed rate (GCRA, ITU-T I.371).
    drained: Instant,
    /// What to echo in the heartbeat that is to be sent.
    due: Option<u64>,
    events: VecDeque<LinkEvent>,
}

/// A run of the partner.
#[derive(Debug)]
struct Peer {
    run: u64,
    window: Window,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Starting { since: Instant },
    Up { heard: Instant },
    Down,
}

/// What became of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The partner is there.
    Up,
    /// It is not.
    Down(DownReason),
}

/// Why a partner is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DownReason {
    /// Nothing comes.
    Silent,
    /// What comes is not signed as it should be.
    WrongSignature,
    /// It listens on other ports.
    OtherPorts {
        /// Its ports.
        partner: [u16; 2],
        /// Those of this server.
        own: [u16; 2],
    },
    /// It is there, but does not hear this server.
    Deaf,
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DownReason::Silent => f.write_str(
                "nothing comes from it: it does not run, has another server as its partner, or a firewall between the \
                 two drops UDP from listening-port to listening-port",
            ),
            DownReason::WrongSignature => f.write_str(
                "what comes from it is not signed for this server: partner-secret differs, or partner, listening-ip and \
                 external-ip of the two do not say the same",
            ),
            DownReason::OtherPorts { partner: [a, b], own: [c, d] } => write!(
                f,
                "it listens on {a} and {b}, this server on {c} and {d}; give both the same listening-port and \
                 alt-listening-port",
            ),
            DownReason::Deaf => f.write_str(
                "it is heard, but does not hear this server: a firewall before it drops UDP from here to its \
                 listening-port",
            ),
        }
    }
}

impl Link {
    /// A link that has heard nothing yet. `seed`: random bytes, never the same again.
    pub fn new(addrs: LinkAddrs, secrets: &PartnerSecrets, seed: [u8; 32], now: Instant) -> Link {
        let mut random = Random { seed: keyed(&seed), count: 0 };
        Link {
            addrs,
            keys: secrets.0.iter().map(|secret| keyed(secret.as_bytes())).collect(),
            run: random.next(),
            sequence: 0,
            challenge: random.next(),
            random,
            echo: None,
            peer: None,
            state: State::Starting { since: now },
            suspicion: None,
            replies: REPLIES,
            next_heartbeat: now,
            drained: now,
            due: None,
            events: VecDeque::new(),
        }
    }

    /// Whether a datagram that came to a STUN server is a partner's, by its first bytes.
    #[inline]
    pub fn concerns(datagram: &[u8]) -> bool {
        datagram.starts_with(&MAGIC)
    }

    /// Its ends.
    pub fn addrs(&self) -> &LinkAddrs {
        &self.addrs
    }

    /// Whether the partner answers.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// A datagram that came from the partner's address to the local one. What is returned is to be answered, as far as it
    /// is for this server to answer.
    pub fn handle_datagram<'d>(&mut self, now: Instant, datagram: &'d [u8]) -> Option<PassedOn<'d>> {
        let message = PartnerMessage::parse(datagram)?;
        // What cannot be fresh is not worth a look at its signature.
        let is_current = message.echo == self.challenge;
        let is_request = matches!(message.content, Content::Request(_));
        if is_request && !(is_current && self.is_up() && self.is_known(message.run)) {
            return None;
        }
        if !is_signed(datagram, self.inward(), &self.keys) {
            self.suspicion.get_or_insert(DownReason::WrongSignature);
            return None;
        }
        match message.content {
            Content::Request(passed_on) => self
                .peer
                .as_mut()
                .is_some_and(|peer| peer.window.admit(message.sequence))
                .then_some(passed_on),
            Content::Heartbeat { challenge, ports } if is_current => {
                self.handle_fresh_heartbeat(now, message.run, message.sequence, challenge, ports);
                None
            }
            // The partner does not know the challenge, or knew it once: it is told, and nothing is believed.
            Content::Heartbeat { challenge, .. } => {
                self.suspicion = Some(DownReason::Deaf);
                if let Some(left) = self.replies.checked_sub(1) {
                    self.replies = left;
                    self.due = Some(challenge);
                }
                None
            }
        }
    }

    /// Signs a request for the partner, into `out`, which holds [`MAX_PARTNER_MESSAGE_LEN`] bytes. `None` if the partner
    /// is down, has enough to do, or the request is too long.
    pub fn pass_on<'b>(
        &mut self,
        now: Instant,
        request: PassedOn<'_>,
        out: &'b mut [u8],
    ) -> Option<&'b [u8]> {
        if !self.is_up() {
            return None;
        }
        let drained = self.drained.max(now) + Duration::from_secs(1) / MAX_PER_SECOND;
        if drained > now + Duration::from_secs(1) {
            return None;
        }
        self.drained = drained;
        self.write(self.echo?, Content::Request(request), out)
    }

    /// Sends a heartbeat when it is due, and finds the partner down that is silent.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.next_heartbeat {
            return;
        }
        self.next_heartbeat = now + HEARTBEAT;
        self.replies = REPLIES;
        self.due = Some(self.echo.unwrap_or_default());
        match self.state {
            State::Starting { since: heard } | State::Up { heard } if now >= heard + SILENCE => {
                self.state = State::Down;
                let reason = self.suspicion.take().unwrap_or(DownReason::Silent);
                self.events.push_back(LinkEvent::Down(reason));
            }
            _ => {}
        }
    }

    /// When [`Link::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        Some(self.next_heartbeat)
    }

    /// A heartbeat for the partner.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let echo = self.due.take()?;
        let LinkAddrs { local, public, partner, second_port } = self.addrs;
        let content = Content::Heartbeat { challenge: self.challenge, ports: [public.port(), second_port] };
        let mut out = [0; HEARTBEAT_LEN];
        let payload = self.write(echo, content, &mut out)?.to_vec();
        Some(Transmit { transport: Transport::Udp, from: local, to: partner, payload })
    }

    /// What became of it.
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    fn handle_fresh_heartbeat(
        &mut self,
        now: Instant,
        run: u64,
        sequence: u64,
        challenge: u64,
        ports: [u16; 2],
    ) {
        match &mut self.peer {
            Some(peer) if peer.run == run => {
                if !peer.window.admit(sequence) {
                    return;
                }
            }
            // Only who is there now knows this challenge and is no run that was met before: with a new challenge, whatever
            // was sent until now is worth nothing.
            _ => {
                self.peer = Some(Peer { run, window: Window::new(sequence) });
                self.challenge = self.random.next();
                self.due = Some(challenge);
            }
        }
        self.echo = Some(challenge);
        let own = [self.addrs.public.port(), self.addrs.second_port];
        if ports != own {
            self.suspicion = Some(DownReason::OtherPorts { partner: ports, own });
            return;
        }
        self.suspicion = None;
        if !self.is_up() {
            self.events.push_back(LinkEvent::Up);
        }
        self.state = State::Up { heard: now };
    }

    fn is_known(&self, run: u64) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.run == run)
    }

    fn inward(&self) -> Direction {
        Direction { from: self.addrs.partner, to: self.addrs.public }
    }

    fn write<'b>(&mut self, echo: u64, content: Content<'_>, out: &'b mut [u8]) -> Option<&'b [u8]> {
        self.sequence += 1;
        let message = PartnerMessage { run: self.run, echo, sequence: self.sequence, content };
        let outward = Direction { from: self.addrs.public, to: self.addrs.partner };
        message.write(outward, self.keys.first()?, out)
    }
}

/// Numbers that nobody can foretell without the seed.
struct Random {
    seed: Hmac<Sha256>,
    count: u64,
}

impl Random {
    fn next(&mut self) -> u64 {
        self.count += 1;
        let hash = self.seed.clone().chain_update(self.count.to_be_bytes()).finalize().into_bytes();
        u64::from_be_bytes(std::array::from_fn(|at| hash[at]))
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
    <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests;
