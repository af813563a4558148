//! TCP at the hosts (RFC 9293): handshakes, also the simultaneous one, retransmission, order, and resets.
//!
//! The unit is a frame in place of a byte, and windows are endless: there is neither flow nor congestion control.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::net::Transport;

use super::network::HostId;
use super::packet::{Packet, Segment};

/// An end of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// What happened to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// It was asked for, and is there.
    Connected,
    /// It came to a listener.
    Accepted,
    /// A frame.
    Frame(Vec<u8>),
    /// It is gone, or never came to be; why, in words.
    Closed(&'static str),
}

/// The first retransmission timeout (RFC 6298, section 2.1).
const INITIAL_RTO: Duration = Duration::from_secs(1);
/// The shortest one, as Linux has it.
const MIN_RTO: Duration = Duration::from_millis(200);
/// The longest one, as Linux has it.
const MAX_RTO: Duration = Duration::from_secs(120);
/// How often a SYN or its answer is sent again, as Linux does.
const SYN_RETRIES: u32 = 6;
/// How often a frame is.
const RETRIES: u32 = 15;
/// How many frames are sent again at once.
const BURST: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SynSent,
    SynReceived,
    Established,
}

#[derive(Clone, Debug)]
enum Item {
    Frame(Vec<u8>),
    Fin,
}

#[derive(Debug)]
struct Connection {
    host: HostId,
    local: SocketAddr,
    remote: SocketAddr,
    transport: Transport,
    state: State,
    /// Whether it came to a listener.
    passive: bool,
    /// Whether its owner has let go of it.
    closing: bool,
    began: Instant,
    /// What it is after something was acknowledged.
    base_rto: Duration,
    rto: Duration,
    tries: u32,
    due: Option<Instant>,
    /// The number of the next item to be sent.
    next: u32,
    unacknowledged: VecDeque<(u32, Item)>,
    expected: u32,
    /// What came before its turn.
    early: BTreeMap<u32, Item>,
}

impl Connection {
    fn packet(&self, segment: Segment, payload: Vec<u8>) -> Packet {
        let Connection { local, remote, transport, .. } = *self;
        Packet { from: local, to: remote, transport, segment: Some(segment), payload }
    }
}

/// The TCP of all hosts.
#[derive(Debug, Default)]
pub(super) struct Tcp {
    connections: BTreeMap<ConnectionId, Connection>,
    by_ends: BTreeMap<(HostId, SocketAddr, SocketAddr), ConnectionId>,
    listeners: BTreeSet<(HostId, SocketAddr)>,
    timers: BTreeSet<(Instant, ConnectionId)>,
    made: u64,
    /// What is to be sent, and by whom.
    pub(super) outgoing: Vec<(HostId, Packet)>,
    /// What is to be told, and to whom.
    pub(super) events: VecDeque<(HostId, ConnectionId, StreamEvent)>,
}

impl Tcp {
    pub(super) fn listen(&mut self, host: HostId, local: SocketAddr, listens: bool) {
        match listens {
            true => self.listeners.insert((host, local)),
            false => self.listeners.remove(&(host, local)),
        };
    }

    /// `None` if there is a connection between these ends.
    pub(super) fn connect(
        &mut self,
        now: Instant,
        host: HostId,
        (local, remote): (SocketAddr, SocketAddr),
        transport: Transport,
    ) -> Option<ConnectionId> {
        if self.by_ends.contains_key(&(host, local, remote)) {
            return None;
        }
        let id = self.insert(now, host, (local, remote), transport, State::SynSent);
        self.say(id, Segment::Syn);
        Some(id)
    }

    pub(super) fn write(&mut self, now: Instant, id: ConnectionId, frame: Vec<u8>) {
        self.append(now, id, Item::Frame(frame));
    }

    /// Closes a connection once everything is sent; nothing more is told of it.
    pub(super) fn close(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.closing = true;
        match connection.state {
            State::Established => self.append(now, id, Item::Fin),
            // As Linux does with a socket that is closed while it connects.
            _ => self.remove(id),
        }
    }

    /// Ends a connection as a kernel does whose program is gone; nothing more is told of it.
    pub(super) fn abort(&mut self, id: ConnectionId) {
        self.say(id, Segment::Rst);
        self.remove(id);
    }

    pub(super) fn abort_all(&mut self, host: HostId) {
        let of_it = self.connections.iter().filter(|(_, connection)| connection.host == host);
        let ids: Vec<_> = of_it.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.abort(id));
    }

    /// Whose end it is.
    pub(super) fn host(&self, id: ConnectionId) -> Option<HostId> {
        self.connections.get(&id).map(|connection| connection.host)
    }

    /// The local and the far end of a connection, and what it is called.
    pub(super) fn ends(&self, id: ConnectionId) -> Option<(SocketAddr, SocketAddr, Transport)> {
        let connection = self.connections.get(&id)?;
        Some((connection.local, connection.remote, connection.transport))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.timers.first().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, id));
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.due = None;
            connection.tries += 1;
            connection.rto = (connection.rto * 2).min(MAX_RTO);
            let limit = if connection.state == State::Established { RETRIES } else { SYN_RETRIES };
            if connection.tries > limit {
                self.fail(id, "timed out");
                continue;
            }
            match connection.state {
                State::SynSent => self.say(id, Segment::Syn),
                State::SynReceived => self.say(id, Segment::SynAck),
                State::Established => self.repeat(id),
            }
            self.arm(now, id);
        }
    }

    /// Takes a segment that has come to a host.
    pub(super) fn handle(&mut self, now: Instant, host: HostId, packet: Packet) {
        let Some(segment) = packet.segment else { return };
        let Some(&id) = self.by_ends.get(&(host, packet.to, packet.from)) else {
            return self.handle_stranger(now, host, &packet, segment);
        };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match (segment, connection.state) {
            (Segment::Rst, State::SynSent) => self.fail(id, "refused"),
            (Segment::Rst, _) => self.fail(id, "reset"),
            // Both sides have begun at once (RFC 9293, section 3.5).
            (Segment::Syn, State::SynSent) => {
                connection.state = State::SynReceived;
                self.say(id, Segment::SynAck);
            }
            (Segment::Syn, State::SynReceived) => self.say(id, Segment::SynAck),
            (Segment::SynAck, State::SynSent | State::SynReceived) => {
                self.establish(now, id);
                self.acknowledge(id);
            }
            (Segment::Syn | Segment::SynAck, State::Established) => self.acknowledge(id),
            (_, State::SynSent) => self.outgoing.push((host, reset(&packet))),
            (segment, state) => {
                if state == State::SynReceived {
                    self.establish(now, id);
                }
                self.take(now, id, segment, packet.payload);
            }
        }
    }

    fn handle_stranger(&mut self, now: Instant, host: HostId, packet: &Packet, segment: Segment) {
        match segment {
            Segment::Syn if self.listeners.contains(&(host, packet.to)) => {
                let ends = (packet.to, packet.from);
                let id = self.insert(now, host, ends, packet.transport, State::SynReceived);
                self.say(id, Segment::SynAck);
            }
            Segment::Rst => {}
            _ => self.outgoing.push((host, reset(packet))),
        }
    }

    fn insert(
        &mut self,
        now: Instant,
        host: HostId,
        (local, remote): (SocketAddr, SocketAddr),
        transport: Transport,
        state: State,
    ) -> ConnectionId {
        self.made += 1;
        let id = ConnectionId(self.made);
        let connection = Connection {
            host,
            local,
            remote,
            transport,
            state,
            passive: state == State::SynReceived,
            closing: false,
            began: now,
            base_rto: INITIAL_RTO,
            rto: INITIAL_RTO,
            tries: 0,
            due: None,
            next: 0,
            unacknowledged: VecDeque::new(),
            expected: 0,
            early: BTreeMap::new(),
        };
        self.connections.insert(id, connection);
        self.by_ends.insert((host, local, remote), id);
        self.arm(now, id);
        id
    }

    fn establish(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.state = State::Established;
        connection.base_rto = (2 * (now - connection.began)).clamp(MIN_RTO, INITIAL_RTO);
        connection.rto = connection.base_rto;
        connection.tries = 0;
        let event = if connection.passive { StreamEvent::Accepted } else { StreamEvent::Connected };
        self.events.push_back((connection.host, id, event));
        match connection.unacknowledged.is_empty() {
            true => self.disarm(id),
            false => {
                self.repeat(id);
                self.arm(now, id);
            }
        }
    }

    fn append(&mut self, now: Instant, id: ConnectionId, item: Item) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let number = connection.next;
        connection.next += 1;
        connection.unacknowledged.push_back((number, item.clone()));
        // Until the handshake is over it waits, and is repeated then.
        if connection.state == State::Established {
            self.say_item(id, (number, item));
        }
        if self.connections.get(&id).is_some_and(|connection| connection.due.is_none()) {
            self.arm(now, id);
        }
    }

    /// Takes an acknowledgement, a frame or the end.
    fn take(&mut self, now: Instant, id: ConnectionId, segment: Segment, payload: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (number, item) = match segment {
            Segment::Ack(next) => return self.take_acknowledgement(now, id, next),
            Segment::Frame(number) => (number, Item::Frame(payload)),
            Segment::Fin(number) => (number, Item::Fin),
            _ => return,
        };
        if number >= connection.expected {
            connection.early.insert(number, item);
        }
        let mut ended = false;
        while let Some(item) = connection.early.remove(&connection.expected) {
            connection.expected += 1;
            ended |= matches!(item, Item::Fin);
            if let (Item::Frame(frame), false) = (item, connection.closing) {
                self.events.push_back((connection.host, id, StreamEvent::Frame(frame)));
            }
        }
        self.acknowledge(id);
        if ended {
            self.fail(id, "closed by the other side");
        }
    }

    fn take_acknowledgement(&mut self, now: Instant, id: ConnectionId, next: u32) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let before = connection.unacknowledged.len();
        connection.unacknowledged.retain(|(number, _)| *number >= next);
        if connection.unacknowledged.len() == before {
            return;
        }
        (connection.tries, connection.rto) = (0, connection.base_rto);
        let (closed, more) = (connection.closing, !connection.unacknowledged.is_empty());
        match (closed, more) {
            (_, true) => self.arm(now, id),
            (false, false) => self.disarm(id),
            (true, false) => self.remove(id),
        }
    }

    fn say(&mut self, id: ConnectionId, segment: Segment) {
        let Some(connection) = self.connections.get(&id) else { return };
        self.outgoing.push((connection.host, connection.packet(segment, Vec::new())));
    }

    fn say_item(&mut self, id: ConnectionId, (number, item): (u32, Item)) {
        let Some(connection) = self.connections.get(&id) else { return };
        let packet = match item {
            Item::Frame(frame) => connection.packet(Segment::Frame(number), frame),
            Item::Fin => connection.packet(Segment::Fin(number), Vec::new()),
        };
        self.outgoing.push((connection.host, packet));
    }

    fn acknowledge(&mut self, id: ConnectionId) {
        let expected = self.connections.get(&id).map_or(0, |connection| connection.expected);
        self.say(id, Segment::Ack(expected));
    }

    fn repeat(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        let items: Vec<_> = connection.unacknowledged.iter().take(BURST).cloned().collect();
        items.into_iter().for_each(|item| self.say_item(id, item));
    }

    fn arm(&mut self, now: Instant, id: ConnectionId) {
        self.disarm(id);
        if let Some(connection) = self.connections.get_mut(&id) {
            let due = now + connection.rto;
            connection.due = Some(due);
            self.timers.insert((due, id));
        }
    }

    fn disarm(&mut self, id: ConnectionId) {
        let due = self.connections.get_mut(&id).and_then(|connection| connection.due.take());
        if let Some(due) = due {
            self.timers.remove(&(due, id));
        }
    }

    fn fail(&mut self, id: ConnectionId, why: &'static str) {
        let Some(connection) = self.connections.get(&id) else { return };
        // Who listens hears only of connections that came to be.
        let known = !connection.passive || connection.state == State::Established;
        if known && !connection.closing {
            self.events.push_back((connection.host, id, StreamEvent::Closed(why)));
        }
        self.remove(id);
    }

    fn remove(&mut self, id: ConnectionId) {
        self.disarm(id);
        if let Some(connection) = self.connections.remove(&id) {
            self.by_ends.remove(&(connection.host, connection.local, connection.remote));
        }
    }
}

/// The answer to a segment of a connection that there is not.
pub(super) fn reset(packet: &Packet) -> Packet {
    let Packet { from, to, transport, .. } = *packet;
    Packet { from: to, to: from, transport, segment: Some(Segment::Rst), payload: Vec::new() }
}
