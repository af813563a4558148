//! Sockets and Binding requests: the part that all tests share.
//!
//! An answer counts if it carries a transaction id of ours, came in on the socket it was meant for and from where it
//! had to come. An ICMP error counts if it quotes a transaction id of ours, or quotes too little to have one; the kernel
//! has checked addresses and ports then. Each transmission has a transaction id of its own: so an answer tells which one it answers, how long
//! that took, and how many were lost.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use thirl_common::net::{Obstacle, Transmit, Transport, Undelivered, canonical};
use thirl_common::request::{Due, Retransmission, Transaction};
use thirl_common::time::Deadlines;
use thirl_common::wire::{
    AttributeType, BufferTooSmall, ChangeRequest, Class, ErrorCode, MappedAddress, Message, MessageWriter,
    Method, OtherAddress, ResponseOrigin, ResponsePort, TransactionId, XorMappedAddress,
};

/// Some two seconds. The pace does not slow down as that of RFC 8489 does: with one packet in ten lost each way, seven
/// requests all go unanswered once in 100,000 times, so that silence tells of a filter and not of loss.
pub(super) const UDP: Retransmission = Retransmission {
    rto: Duration::from_millis(250),
    transmissions: TRANSMISSIONS,
    last_wait: 3,
    max_interval: Duration::from_millis(250),
};

/// How often a request is sent that nobody answers.
pub(super) const TRANSMISSIONS: u32 = 7;

/// Silence that chance explains more often than this tells nothing.
pub(super) const TOLERATED_ERROR: f64 = 1e-5;

/// To connect and be answered; there is nothing to retransmit, but the system repeats its SYN, after one, three and seven
/// seconds at the latest: four of them tell of a firewall and not of loss.
pub(super) const STREAM: Retransmission = Retransmission {
    rto: Duration::from_secs(1),
    transmissions: 1,
    last_wait: 8,
    max_interval: Duration::from_secs(1),
};

/// A socket of the diagnosis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(u32);

/// What the driver is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Bind a fresh socket to any free port, and answer with `socket_bound`. For TCP: reserve a port from which several
    /// connections are made, one for each destination that something is to be transmitted to.
    Bind {
        /// What the socket is called from now on.
        socket: SocketId,
        /// UDP or TCP.
        transport: Transport,
    },
    /// Send from the UDP socket in this manner from now on, and hand over the errors that its datagrams meet with
    /// (`handle_undelivered`).
    Travel {
        /// The socket.
        socket: SocketId,
        /// How.
        travel: Travel,
    },
    /// Close the socket and its connections: nothing will be sent from it any more.
    Close {
        /// The socket.
        socket: SocketId,
    },
}

/// How a socket's datagrams travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Travel {
    /// Through so many routers less one: the last of these drops them (TTL, hop limit).
    Hops(u8),
    /// As far as others, again.
    AnyDistance,
    /// In one piece or not at all (DF), whatever the system believes of the path's MTU.
    Whole,
    /// In fragments, if they are larger than a link on the way takes. Over IPv6, where no router can do it, if they are
    /// larger than what the interface takes: into packets that every link takes.
    InFragments,
}

/// One question, however often it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ProbeId(u32);

/// What to ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) to: SocketAddr,
    /// Where the answer has to come from.
    pub(super) answer_from: SocketAddr,
    /// The socket that the answer comes to, if it is another one.
    pub(super) answer_at: Option<SocketId>,
    pub(super) change: ChangeRequest,
    pub(super) response_port: Option<u16>,
    /// How often it is sent over UDP, if nobody answers.
    pub(super) transmissions: u32,
    /// Bytes of the datagram's payload, if the request is to be larger than it has to be.
    pub(super) len: Option<usize>,
}

impl Question {
    /// "What do you see?"
    pub(super) fn plain(to: SocketAddr) -> Question {
        let change = ChangeRequest::default();
        Question {
            to,
            answer_from: to,
            answer_at: None,
            change,
            response_port: None,
            transmissions: TRANSMISSIONS,
            len: None,
        }
    }

    /// "Answer to that port", which is `socket`'s on the outside.
    pub(super) fn answered_at(to: SocketAddr, socket: SocketId, port: u16) -> Question {
        Question { answer_at: Some(socket), response_port: Some(port), ..Question::plain(to) }
    }
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    Answered(Response),
    /// With this error code.
    Refused(u16),
    /// The request itself came in at the socket that the answer was to come to, from this address.
    CameBack(SocketAddr),
    /// An answer came, but from here.
    WrongSource(SocketAddr),
    /// It went only as far as this router.
    Expired(IpAddr),
    /// It does not go through in one piece: to a link with this MTU, if that is told. `None`: the interface's own.
    TooBig {
        by: Option<IpAddr>,
        mtu: u32,
    },
    /// No answer; whether there was a connection at least.
    Silent {
        connected: bool,
    },
    /// It could not be sent, and why.
    Failed(String),
}

/// A success response.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Response {
    pub(super) from: SocketAddr,
    pub(super) reflexive: SocketAddr,
    pub(super) origin: Option<SocketAddr>,
    pub(super) other: Option<SocketAddr>,
    pub(super) rtt: Duration,
    /// Which transmission it answers: 1 if none was lost.
    pub(super) transmission: u32,
}

#[derive(Debug)]
struct Socket {
    transport: Transport,
    local: Option<SocketAddr>,
    /// Asked before there was a socket to ask from.
    waiting: Vec<(ProbeId, Question)>,
}

#[derive(Debug)]
struct Pending {
    socket: SocketId,
    question: Question,
    transaction: Transaction,
    ids: Vec<(TransactionId, Instant)>,
    wrong_source: Option<SocketAddr>,
    connected: bool,
}

impl Pending {
    /// Whether an obstacle may be that of this request by its size.
    fn exceeds(&self, obstacle: Obstacle) -> bool {
        let Obstacle::TooBig { mtu } = obstacle else { return true };
        let packet = self.question.len.map(|len| packet_len(self.question.to, len));
        packet.is_some_and(|packet| packet > usize::try_from(mtu).unwrap_or(usize::MAX))
    }
}

/// Bytes of the packet in which so many bytes of UDP payload go to this address.
pub(super) fn packet_len(to: SocketAddr, payload: usize) -> usize {
    const UDP_HEADER: usize = 8;
    payload + UDP_HEADER + if to.is_ipv4() { 20 } else { 40 }
}

/// How many requests were answered, and how many transmissions that took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Loss {
    answered: u32,
    transmitted: u32,
}

impl Loss {
    /// The probability that `transmissions` all go unanswered although nothing but chance is in the way.
    pub(super) fn all_lost(self, transmissions: u32) -> f64 {
        let lost = self.transmitted.saturating_sub(self.answered);
        // Laplace's rule of succession: no loss in a few packets is no proof of none. Beyond what was seen, half a packet.
        let rate = (f64::from(lost) + 0.5) / (f64::from(self.transmitted) + 1.0);
        (0..transmissions).fold(1.0, |chance, _| chance * rate)
    }

    pub(super) fn seen(self) -> bool {
        self.transmitted > self.answered
    }
}

/// Sends questions and matches answers.
#[derive(Debug)]
pub(super) struct Prober {
    rng: StdRng,
    sockets: BTreeMap<SocketId, Socket>,
    by_local: BTreeMap<(Transport, SocketAddr), SocketId>,
    pending: BTreeMap<ProbeId, Pending>,
    ids: BTreeMap<TransactionId, ProbeId>,
    timers: Deadlines<ProbeId>,
    next: u32,
    actions: VecDeque<Action>,
    transmits: VecDeque<Transmit>,
    outcomes: VecDeque<(ProbeId, Outcome)>,
    loss: Loss,
}

impl Prober {
    pub(super) fn new(seed: [u8; 32]) -> Prober {
        Prober {
            rng: StdRng::from_seed(seed),
            sockets: BTreeMap::new(),
            by_local: BTreeMap::new(),
            pending: BTreeMap::new(),
            ids: BTreeMap::new(),
            timers: Deadlines::default(),
            next: 0,
            actions: VecDeque::new(),
            transmits: VecDeque::new(),
            outcomes: VecDeque::new(),
            loss: Loss::default(),
        }
    }

    pub(super) fn open(&mut self, transport: Transport) -> SocketId {
        let socket = SocketId(self.number());
        self.sockets.insert(socket, Socket { transport, local: None, waiting: Vec::new() });
        self.actions.push_back(Action::Bind { socket, transport });
        socket
    }

    pub(super) fn travel(&mut self, socket: SocketId, travel: Travel) {
        self.actions.push_back(Action::Travel { socket, travel });
    }

    pub(super) fn close(&mut self, socket: SocketId) {
        let Some(closed) = self.sockets.remove(&socket) else { return };
        if let Some(local) = closed.local {
            self.by_local.remove(&(closed.transport, local));
        }
        self.actions.push_back(Action::Close { socket });
    }

    pub(super) fn local(&self, socket: SocketId) -> Option<SocketAddr> {
        self.sockets.get(&socket)?.local
    }

    /// Asks from `socket`, at once or as soon as it is bound.
    pub(super) fn ask(&mut self, now: Instant, socket: SocketId, question: Question) -> ProbeId {
        let probe = ProbeId(self.number());
        match self.sockets.get_mut(&socket) {
            Some(Socket { local: Some(_), .. }) => self.begin(now, probe, socket, question),
            Some(Socket { waiting, .. }) => waiting.push((probe, question)),
            None => self.outcomes.push_back((probe, Outcome::Failed("the socket is closed".to_owned()))),
        }
        probe
    }

    /// Sends a Binding indication, which nobody answers.
    pub(super) fn indicate(&mut self, socket: SocketId, to: SocketAddr) {
        let mut id = TransactionId([0; 12]);
        self.rng.fill_bytes(&mut id.0);
        let Some(from) = self.local(socket) else { return };
        let Ok(payload) = message(Class::Indication, id, &Question::plain(to)) else { return };
        self.transmits.push_back(Transmit { transport: Transport::Udp, from, to, payload });
    }

    pub(super) fn socket_bound(&mut self, now: Instant, socket: SocketId, bound: Result<SocketAddr, String>) {
        let Some(known) = self.sockets.get_mut(&socket) else { return };
        let waiting = std::mem::take(&mut known.waiting);
        match bound {
            Ok(local) => {
                known.local = Some(canonical(local));
                self.by_local.insert((known.transport, canonical(local)), socket);
                waiting.into_iter().for_each(|(probe, question)| self.begin(now, probe, socket, question));
            }
            Err(reason) => {
                let failed = |(probe, _)| (probe, Outcome::Failed(reason.clone()));
                self.outcomes.extend(waiting.into_iter().map(failed));
            }
        }
    }

    pub(super) fn handle_datagram(
        &mut self,
        now: Instant,
        transport: Transport,
        local: SocketAddr,
        from: SocketAddr,
        bytes: &[u8],
    ) {
        let from = canonical(from);
        let Some(socket) = self.by_local.get(&(transport, canonical(local))).copied() else { return };
        let Ok(message) = Message::parse(bytes) else { return };
        if message.method() != Method::BINDING || message.check_fingerprint().is_err() {
            return;
        }
        let id = message.transaction_id();
        let Some(probe) = self.ids.get(&id).copied() else { return };
        let Some(pending) = self.pending.get_mut(&probe) else { return };
        if socket != pending.question.answer_at.unwrap_or(pending.socket) {
            return;
        }
        let outcome = match message.class() {
            Class::Request => Outcome::CameBack(from),
            Class::Indication => return,
            // A refusal comes from where the request went; the right answer may still come.
            class
                if from != pending.question.answer_from
                    && (class == Class::Success || from != pending.question.to) =>
            {
                pending.wrong_source = Some(from);
                return;
            }
            Class::Error => {
                Outcome::Refused(message.get::<ErrorCode<'_>>().ok().flatten().map_or(0, |e| e.code))
            }
            Class::Success => match response(&message, from, pending, now) {
                Some(response) => Outcome::Answered(response),
                None => Outcome::Refused(0),
            },
        };
        if let Outcome::Answered(response) = &outcome {
            self.loss.answered += 1;
            self.loss.transmitted += response.transmission;
        }
        self.finish(probe, outcome);
    }

    /// An ICMP error, or a refusal of this host, came for a datagram that the UDP socket `local` sent.
    pub(super) fn handle_undelivered(&mut self, local: SocketAddr, error: &Undelivered) {
        let Some(socket) = self.by_local.get(&(Transport::Udp, canonical(local))).copied() else { return };
        for probe in self.quoted(socket, error) {
            match (error.obstacle, error.reporter) {
                (Obstacle::HopLimit, Some(router)) => self.finish(probe, Outcome::Expired(router)),
                (Obstacle::TooBig { mtu }, by) => self.finish(probe, Outcome::TooBig { by, mtu }),
                _ => {}
            }
        }
    }

    /// The requests that an error is about. What is quoted may end before the transaction id.
    fn quoted(&self, socket: SocketId, error: &Undelivered) -> Vec<ProbeId> {
        const ID: std::ops::Range<usize> = 8..20;
        let named = error.quoted.get(ID).and_then(|id| self.ids.get(&TransactionId(id.try_into().ok()?)));
        let about = |(probe, pending): &(&ProbeId, &Pending)| {
            let to = pending.question.to;
            let there = if error.reporter.is_some() { to == error.to } else { to.ip() == error.to.ip() };
            pending.socket == socket
                && there
                && if error.quoted.len() < ID.end {
                    pending.exceeds(error.obstacle)
                } else {
                    Some(*probe) == named
                }
        };
        self.pending.iter().filter(about).map(|(probe, _)| *probe).collect()
    }

    /// A TCP connection was accepted.
    pub(super) fn stream_connected(&mut self, local: SocketAddr, to: SocketAddr) {
        for pending in self.on_stream(local, to) {
            pending.connected = true;
        }
    }

    /// A TCP connection was refused, or broke.
    pub(super) fn stream_failed(&mut self, local: SocketAddr, to: SocketAddr, reason: &str) {
        let Some(socket) = self.by_local.get(&(Transport::Tcp, canonical(local))).copied() else { return };
        let on_it = |pending: &Pending| pending.socket == socket && pending.question.to == canonical(to);
        let failed: Vec<_> = self
            .pending
            .iter()
            .filter(|(_, pending)| on_it(pending))
            .map(|(id, p)| (*id, p.connected))
            .collect();
        for (probe, connected) in failed {
            let silent = Outcome::Silent { connected };
            self.finish(probe, if connected { silent } else { Outcome::Failed(reason.to_owned()) });
        }
    }

    fn on_stream(&mut self, local: SocketAddr, to: SocketAddr) -> impl Iterator<Item = &mut Pending> {
        let socket = self.by_local.get(&(Transport::Tcp, canonical(local))).copied();
        let to = canonical(to);
        self.pending.values_mut().filter(move |p| Some(p.socket) == socket && p.question.to == to)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(probe) = self.timers.pop_due(now) {
            let Some(pending) = self.pending.get_mut(&probe) else { continue };
            match pending.transaction.handle_timeout(now) {
                Due::Nothing => self.timers.set(probe, pending.transaction.deadline()),
                Due::Retransmit => {
                    self.timers.set(probe, pending.transaction.deadline());
                    self.transmit(now, probe);
                }
                Due::TimedOut => {
                    let silent = Outcome::Silent { connected: pending.connected };
                    let outcome = pending.wrong_source.map_or(silent, Outcome::WrongSource);
                    self.finish(probe, outcome);
                }
            }
        }
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(super) fn poll_outcome(&mut self) -> Option<(ProbeId, Outcome)> {
        self.outcomes.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(super) fn loss(&self) -> Loss {
        self.loss
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn begin(&mut self, now: Instant, probe: ProbeId, socket: SocketId, question: Question) {
        let transport = self.sockets.get(&socket).map_or(Transport::Udp, |socket| socket.transport);
        let schedule = match transport.is_reliable() {
            true => STREAM,
            false => Retransmission { transmissions: question.transmissions, ..UDP },
        };
        // As if over UDP: the 39.5 s that RFC 8489 gives a stream are more than a person waits.
        let transaction = Transaction::start(schedule, Transport::Udp, now);
        self.timers.set(probe, transaction.deadline());
        let pending =
            Pending { socket, question, transaction, ids: Vec::new(), wrong_source: None, connected: false };
        self.pending.insert(probe, pending);
        self.transmit(now, probe);
    }

    fn transmit(&mut self, now: Instant, probe: ProbeId) {
        let mut id = TransactionId([0; 12]);
        self.rng.fill_bytes(&mut id.0);
        let Some(pending) = self.pending.get_mut(&probe) else { return };
        let Some(socket) = self.sockets.get(&pending.socket) else { return };
        let (Some(from), Ok(payload)) = (socket.local, message(Class::Request, id, &pending.question)) else {
            return;
        };
        pending.ids.push((id, now));
        self.ids.insert(id, probe);
        let (transport, to) = (socket.transport, pending.question.to);
        self.transmits.push_back(Transmit { transport, from, to, payload });
    }

    /// Asks no more, and does not listen to the answer.
    pub(super) fn forget(&mut self, probe: ProbeId) {
        self.timers.cancel(probe);
        for (id, _) in self.pending.remove(&probe).into_iter().flat_map(|pending| pending.ids) {
            self.ids.remove(&id);
        }
    }

    fn finish(&mut self, probe: ProbeId, outcome: Outcome) {
        self.forget(probe);
        self.outcomes.push_back((probe, outcome));
    }
}

/// A Binding request, for who asks in another way than by a [`Prober`].
#[cfg(feature = "driver")]
pub(super) fn plain_request(id: TransactionId, to: SocketAddr) -> Vec<u8> {
    message(Class::Request, id, &Question::plain(to)).unwrap_or_default()
}

/// Whether this answers it.
#[cfg(feature = "driver")]
pub(super) fn is_response(bytes: &[u8], id: TransactionId) -> bool {
    Message::parse(bytes).is_ok_and(|message| {
        let answers = matches!(message.class(), Class::Success | Class::Error);
        answers && message.method() == Method::BINDING && message.transaction_id() == id
    })
}

/// Servers ignore it: it is comprehension-optional and nobody's (RFC 8489, section 18.3). PADDING (RFC 5780) would be
/// refused by servers that do not know it, and sent back by those that do.
const IGNORED: AttributeType = AttributeType(0xBFFF);

fn message(class: Class, id: TransactionId, question: &Question) -> Result<Vec<u8>, BufferTooSmall> {
    const ATTRIBUTE_HEADER: usize = 4;
    const FINGERPRINT: usize = 8;
    let mut buffer = vec![0; question.len.unwrap_or(0).max(44)];
    let mut writer = MessageWriter::new(&mut buffer, class, Method::BINDING, id)?;
    if question.change != ChangeRequest::default() {
        writer.attribute(&question.change)?;
    }
    if let Some(port) = question.response_port {
        writer.attribute(&ResponsePort(port))?;
    }
    let needed = writer.len() + ATTRIBUTE_HEADER + FINGERPRINT;
    if let Some(padding) = question.len.and_then(|len| len.checked_sub(needed)) {
        writer.raw(IGNORED, &vec![0; padding])?;
    }
    writer.fingerprint()?;
    Ok(writer.finish().to_vec())
}

fn response(message: &Message<'_>, from: SocketAddr, pending: &Pending, now: Instant) -> Option<Response> {
    let place = pending.ids.iter().position(|(id, _)| *id == message.transaction_id())?;
    let (_, sent) = pending.ids.get(place)?;
    Some(Response {
        from,
        reflexive: reflexive_address(message)?,
        origin: message.get::<ResponseOrigin>().ok().flatten().map(|origin| canonical(origin.0)),
        other: message.get::<OtherAddress>().ok().flatten().map(|other| canonical(other.0)),
        rtt: now.saturating_duration_since(*sent),
        transmission: u32::try_from(place + 1).unwrap_or(u32::MAX),
    })
}

/// XOR-MAPPED-ADDRESS, or what servers of RFC 3489 send instead.
fn reflexive_address(message: &Message<'_>) -> Option<SocketAddr> {
    let xored = message.get::<XorMappedAddress>().ok()?.map(|mapped| mapped.0);
    let plain = || message.get::<MappedAddress>().ok().flatten().map(|mapped| mapped.0);
    xored.or_else(plain).map(canonical)
}
