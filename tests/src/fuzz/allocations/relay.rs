//! The engine, with made-up sockets, and clients that sign their requests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thirl_common::auth::Credentials;
use thirl_common::net::{ClientAddr, FiveTuple, PeerAddr, RelayedAddr, ServerAddr, Transport};
use thirl_common::wire::{
    AdditionalAddressFamily, AddressFamily, ChannelData, ChannelNumber, ConnectionId, EvenPort, Lifetime,
    Message, MessageWriter, Method, MobilityTicket, Nonce, Realm, RequestedAddressFamily, RequestedTransport,
    ReservationToken, XorPeerAddress,
};
use thirl_turn_relay::engine::{
    Action, BindError, Engine, EngineConfig, Event, Forward, Held, PortWish, RelayId, Shared,
};

use super::model::{MAX_CHANNELS, MAX_PEER_CONNECTIONS, MAX_PERMISSIONS, USER_QUOTA};
use super::step::{Operation, PEERS, STREAM_CLIENT, Step, USERS, Wish, family_of};
use crate::harness::turn::{Login, code, stranger};

const PASSWORD: &str = "secret";
const UNIX: u64 = 1_800_000_000;
/// Beyond so many, relays that are gone are forgotten.
const RELAYS: usize = 6;
/// Where ConnectionBinds come from.
const DATA_CONNECTION: u8 = 9;

pub(super) struct Relay {
    engine: Engine,
    shared: Shared,
    start: Instant,
    now: Instant,
    next_port: u16,
    /// Families of which the system has no port for now.
    failing: BTreeSet<AddressFamily>,
    sockets: BTreeMap<RelayId, u16>,
    reserved: BTreeMap<u64, u16>,
    /// Reservation tokens as they were told.
    tokens: Vec<ReservationToken>,
    /// Mobility tickets as they were told.
    tickets: Vec<Vec<u8>>,
    /// The relays of UDP that there are, and some that there were.
    relays: Vec<(RelayId, AddressFamily)>,
    /// The relay of TCP that a client was given last.
    listening: BTreeMap<u8, RelayId>,
    /// Connections to peers in the order in which they began, and those that there are.
    begun: Vec<ConnectionId>,
    connections: BTreeSet<ConnectionId>,
    /// Those that are not there yet.
    connecting: BTreeSet<ConnectionId>,
    last: BTreeMap<u8, (Vec<u8>, Operation)>,
    created: u64,
    ended: u64,
}

impl Relay {
    pub(super) fn new() -> Relay {
        let mut credentials = Credentials::default();
        USERS.iter().for_each(|name| credentials.users.insert(*name, PASSWORD));
        let config = EngineConfig {
            credentials: Arc::new(credentials),
            // No nonce goes stale, so that a request repeated is the same request.
            nonce_lifetime: Duration::from_secs(1 << 30),
            max_permissions: MAX_PERMISSIONS,
            max_channels: MAX_CHANNELS,
            max_peer_connections: MAX_PEER_CONNECTIONS,
            user_quota: Some(USER_QUOTA),
            ..EngineConfig::default()
        };
        let shared = Shared::default();
        let start = origin();
        Relay {
            engine: Engine::with_shared(config, shared.clone(), [3; 32]),
            shared,
            start,
            now: start,
            next_port: 50000,
            failing: BTreeSet::new(),
            sockets: BTreeMap::new(),
            reserved: BTreeMap::new(),
            tokens: Vec::new(),
            tickets: Vec::new(),
            relays: Vec::new(),
            listening: BTreeMap::new(),
            begun: Vec::new(),
            connections: BTreeSet::new(),
            connecting: BTreeSet::new(),
            last: BTreeMap::new(),
            created: 0,
            ended: 0,
        }
    }

    pub(super) fn carry_out(&mut self, step: &Step) -> Option<u16> {
        match *step {
            Step::Request { client, user, operation } => {
                let request = self.sign(client, USERS[user], PASSWORD, operation);
                self.last.insert(client, (request.clone(), operation));
                self.ask(client, &request, operation)
            }
            Step::Repeat { client } => {
                let (request, operation) = self.last.get(&client)?.clone();
                self.ask(client, &request, operation)
            }
            Step::Forge { client } => {
                let end = Operation::Refresh { lifetime: 0, family: None };
                let request = self.sign(client, USERS[0], "guessed", end);
                self.ask(client, &request, end)
            }
            Step::Noise { client, bytes } => {
                let noise = bytes.repeat(usize::from(bytes[1]));
                self.engine.handle_datagram(self.now, self.unix(), five_tuple(client), &noise);
                self.settle(client);
                None
            }
            Step::Gone { client } => {
                self.engine.handle_client_gone(self.now, five_tuple(client));
                self.settle(client);
                None
            }
            Step::Speak { client } => {
                let datagram = ChannelData::header(channel_number(0), 0).unwrap();
                // Where it goes is seen by what comes after.
                let _ = self.engine.handle_datagram(self.now, self.unix(), five_tuple(client), &datagram);
                self.settle(client);
                None
            }
            Step::PeerConnects { client, peer } => self.peer_connects(client, peer),
            Step::Connected { nth, success } => {
                let connection = *self.begun.get(nth)?;
                if !self.connecting.remove(&connection) {
                    return None;
                }
                if !success {
                    self.connections.remove(&connection);
                }
                self.engine.peer_connected(connection, success, self.now);
                self.settle(0).map(|answer| code(&answer))
            }
            Step::Closed { nth } => {
                let connection = *self.begun.get(nth)?;
                if !self.connecting.contains(&connection) && self.connections.remove(&connection) {
                    self.engine.handle_connection_closed(connection);
                }
                self.settle(0);
                None
            }
            Step::BindConnection { nth, user } => Some(self.bind_connection(nth, user)),
            Step::Pass { seconds } => {
                self.now += Duration::from_secs(seconds);
                self.engine.handle_timeout(self.now);
                // Connections that come to nothing are answered, several at a time.
                self.settle_all(0);
                None
            }
        }
    }

    /// What a client hears of a packet to any relay that there was, by its channel if it has one.
    pub(super) fn heard_from(&mut self, client: u8, peer: u8) -> Option<Option<u16>> {
        let relays = self.relays.iter().filter(|(_, family)| *family == family_of(peer));
        let mut got = relays.filter_map(|(relay, _)| {
            let forward = self.engine.handle_peer_datagram(self.now, *relay, PeerAddr(address(peer)), 5)?;
            let Forward::ToClient { five_tuple: to, prefix, range, .. } = forward else {
                panic!("the wrong way")
            };
            assert_eq!(range, 0..5);
            (to == five_tuple(client)).then_some(prefix)
        });
        let prefix = got.next()?;
        assert!(got.next().is_none(), "only one relay is the client's now");
        Some((prefix.len() == 4).then(|| u16::from_be_bytes([prefix[0], prefix[1]]) - 0x4000))
    }

    pub(super) fn heard_by(&mut self, client: u8, channel: u16) -> Option<u8> {
        let datagram = ChannelData::header(channel_number(channel), 0).unwrap();
        let forward = self.engine.handle_datagram(self.now, UNIX, five_tuple(client), &datagram)?;
        let Forward::ToPeer { relay, to, .. } = forward else { panic!("the wrong way") };
        assert!(self.sockets.contains_key(&relay));
        (0..PEERS).find(|peer| address(*peer) == to.0)
    }

    fn peer_connects(&mut self, client: u8, peer: u8) -> Option<u16> {
        let relay = *self.listening.get(&client)?;
        let from = PeerAddr(address(peer));
        let connection = self.engine.handle_peer_connection(self.now, relay, from)?;
        self.begin(connection);
        let attempt = self.settle(client).unwrap();
        let attempt = Message::parse(&attempt).unwrap();
        assert_eq!(attempt.require::<ConnectionId>().unwrap(), connection);
        Some(0)
    }

    fn begin(&mut self, connection: ConnectionId) {
        assert!(self.connections.insert(connection), "a name of its own");
        self.begun.push(connection);
    }

    fn bind_connection(&mut self, nth: usize, user: usize) -> u16 {
        let login = self.login(DATA_CONNECTION, USERS[user], PASSWORD);
        let connection = self.begun.get(nth).copied().unwrap_or(ConnectionId(u32::MAX));
        let request =
            login.sign(Method::CONNECTION_BIND, |writer| _ = writer.attribute(&connection).unwrap());
        let from = five_tuple(DATA_CONNECTION);
        let held = self.engine.handle_datagram(self.now, self.unix(), from, &request);
        assert_eq!(held, Some(Forward::Hold));
        let Some(Held::Bind(bind)) = self.engine.poll_held() else { panic!("who signed it is known") };
        let answer = self.engine.bind_connection(&bind).unwrap_or_else(|refused| refused);
        assert!(self.settle(DATA_CONNECTION).is_none());
        code(&answer.payload)
    }

    pub(super) fn held(&self) -> [usize; 5] {
        let counters = self.engine.counters();
        assert_eq!(counters.allocations_created, self.created);
        assert_eq!(counters.allocations_ended.total(), self.ended);
        assert_eq!(self.created - self.ended, self.engine.allocations() as u64);
        let (sockets, reserved) = (self.sockets.len(), self.reserved.len());
        [self.engine.allocations(), sockets, reserved, self.shared.seats(), self.connections.len()]
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.engine.poll_timeout().map(|at| (at - self.now).as_secs())
    }

    fn sign(&mut self, client: u8, username: &str, password: &str, operation: Operation) -> Vec<u8> {
        let login = self.login(client, username, password);
        let (tokens, tickets) = (self.tokens.clone(), self.tickets.clone());
        login.sign(method(operation), |writer| write(writer, operation, &tokens, &tickets))
    }

    fn login(&mut self, client: u8, username: &str, password: &str) -> Login {
        let challenge = self.deliver(client, &stranger(Method::REFRESH, |_| {})).unwrap();
        let challenge = Message::parse(&challenge).unwrap();
        Login {
            username: username.to_owned(),
            password: password.to_owned(),
            realm: challenge.require::<Realm<'_>>().unwrap().0.to_owned(),
            nonce: challenge.require::<Nonce<'_>>().unwrap().0.to_owned(),
        }
    }

    fn ask(&mut self, client: u8, request: &[u8], operation: Operation) -> Option<u16> {
        self.failing = match operation {
            Operation::Allocate(Wish::None) => [AddressFamily::Ipv4].into(),
            Operation::Allocate(Wish::BothWithoutIpv6) => [AddressFamily::Ipv6].into(),
            _ => BTreeSet::new(),
        };
        let answer = self.deliver(client, request)?;
        let message = Message::parse(&answer).unwrap();
        if let Some(token) = message.get::<ReservationToken>().unwrap()
            && !self.tokens.contains(&token)
        {
            self.tokens.push(token);
        }
        if let Some(MobilityTicket(ticket)) = message.get().unwrap()
            && !self.tickets.iter().any(|told| told == ticket)
        {
            self.tickets.push(ticket.to_vec());
        }
        Some(code(&answer))
    }

    fn deliver(&mut self, client: u8, datagram: &[u8]) -> Option<Vec<u8>> {
        let forward = self.engine.handle_datagram(self.now, self.unix(), five_tuple(client), datagram);
        assert_eq!(forward, None, "a request is no data");
        self.settle(client)
    }

    /// Polls everything, as a driver would, and returns the only answer, if there is one.
    fn settle(&mut self, client: u8) -> Option<Vec<u8>> {
        let mut answers = self.settle_all(client);
        assert!(answers.len() <= 1, "one answer at the most");
        answers.pop()
    }

    fn settle_all(&mut self, client: u8) -> Vec<Vec<u8>> {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::BindRelay { relay, family, port, .. } => {
                    let bound = self.bind(relay, family, port);
                    self.remember((relay, family));
                    self.engine.relay_bound(relay, bound, self.now);
                }
                Action::ListenRelay { relay, family, .. } => {
                    let bound = self.bind(relay, family, PortWish::Any);
                    self.listening.insert(client, relay);
                    self.engine.relay_bound(relay, bound, self.now);
                }
                Action::Connect { connection, relay, .. } => {
                    assert!(self.sockets.contains_key(&relay));
                    self.begin(connection);
                    self.connecting.insert(connection);
                }
                Action::CloseConnection { connection } => {
                    assert!(self.connections.remove(&connection), "closed once");
                    self.connecting.remove(&connection);
                }
                Action::ReleaseRelay { relay } => assert!(self.sockets.remove(&relay).is_some()),
                Action::ReleaseReserved { token } => assert!(self.reserved.remove(&token).is_some()),
                other => panic!("not asked for: {other:?}"),
            }
        }
        while let Some(event) = self.engine.poll_event() {
            match event {
                Event::AllocationCreated { .. } => self.created += 1,
                Event::AllocationEnded { .. } => self.ended += 1,
                _ => {}
            }
        }
        assert!(self.engine.poll_notice().is_none() && self.engine.poll_arrived().is_none(), "it is alone");
        std::iter::from_fn(|| self.engine.poll_transmit()).map(|transmit| transmit.payload).collect()
    }

    /// Those that are gone are forgotten, the first of them first.
    fn remember(&mut self, relay: (RelayId, AddressFamily)) {
        self.relays.push(relay);
        let gone = self.relays.iter().position(|(relay, _)| !self.sockets.contains_key(relay));
        if let Some(gone) = gone.filter(|_| self.relays.len() > RELAYS) {
            self.relays.remove(gone);
        }
    }

    fn bind(
        &mut self,
        relay: RelayId,
        family: AddressFamily,
        wish: PortWish,
    ) -> Result<RelayedAddr, BindError> {
        if self.failing.contains(&family) {
            return Err(BindError::PortsExhausted);
        }
        self.next_port = self.next_port.checked_add(2).unwrap_or(50000);
        let port = match wish {
            PortWish::Reserved { token } => self.reserved.remove(&token).ok_or(BindError::NotReserved)?,
            PortWish::EvenAndReserveNext { token } => {
                assert!(self.reserved.insert(token, self.next_port + 1).is_none());
                self.next_port
            }
            _ => self.next_port,
        };
        assert!(self.sockets.insert(relay, port).is_none(), "bound once");
        let ip = match family {
            AddressFamily::Ipv4 => IpAddr::from([203, 0, 113, 10]),
            AddressFamily::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10).into(),
        };
        Ok(RelayedAddr(SocketAddr::new(ip, port)))
    }

    fn unix(&self) -> u64 {
        UNIX + (self.now - self.start).as_secs()
    }
}

fn method(operation: Operation) -> Method {
    match operation {
        Operation::Allocate(_) => Method::ALLOCATE,
        Operation::Refresh { .. } | Operation::Claim { .. } => Method::REFRESH,
        Operation::Connect { .. } => Method::CONNECT,
        Operation::Permit { .. } => Method::CREATE_PERMISSION,
        Operation::Bind { .. } => Method::CHANNEL_BIND,
    }
}

fn write(
    writer: &mut MessageWriter<'_>,
    operation: Operation,
    tokens: &[ReservationToken],
    tickets: &[Vec<u8>],
) {
    match operation {
        Operation::Allocate(wish) => {
            let transport = match wish {
                Wish::Tcp => RequestedTransport::TCP,
                _ => RequestedTransport::UDP,
            };
            writer.attribute(&transport).unwrap();
            match wish {
                Wish::None | Wish::Tcp => writer,
                Wish::Mobile => writer.attribute(&MobilityTicket(&[])).unwrap(),
                Wish::One(family) => writer.attribute(&RequestedAddressFamily(Some(family))).unwrap(),
                Wish::Both | Wish::BothWithoutIpv6 => {
                    writer.attribute(&AdditionalAddressFamily(Some(AddressFamily::Ipv6))).unwrap()
                }
                Wish::EvenAndNext => writer.attribute(&EvenPort { reserve: true }).unwrap(),
                Wish::Reserved(nth) => {
                    writer.attribute(tokens.get(nth).unwrap_or(&ReservationToken(u64::MAX))).unwrap()
                }
            };
        }
        Operation::Refresh { lifetime, family } => {
            writer.attribute(&Lifetime(lifetime)).unwrap();
            if family.is_some() {
                writer.attribute(&RequestedAddressFamily(family)).unwrap();
            }
        }
        Operation::Claim { nth, lifetime } => {
            let ticket = tickets.get(nth).map_or(&b"no ticket of this server"[..], Vec::as_slice);
            writer.attribute(&Lifetime(lifetime)).unwrap().attribute(&MobilityTicket(ticket)).unwrap();
        }
        Operation::Connect { peer } => {
            writer.attribute(&XorPeerAddress(address(peer))).unwrap();
        }
        Operation::Permit { peers } => {
            peers.iter().for_each(|peer| _ = writer.attribute(&XorPeerAddress(address(*peer))).unwrap());
        }
        Operation::Bind { channel, peer } => {
            writer.attribute(&channel_number(channel)).unwrap();
            writer.attribute(&XorPeerAddress(address(peer))).unwrap();
        }
    }
}

fn five_tuple(client: u8) -> FiveTuple {
    FiveTuple {
        transport: match client {
            STREAM_CLIENT | DATA_CONNECTION => Transport::Tcp,
            _ => Transport::Udp,
        },
        client: ClientAddr(([192, 0, 2, 1], 1000 + u16::from(client)).into()),
        server: ServerAddr(([203, 0, 113, 10], 3478).into()),
    }
}

fn address(peer: u8) -> SocketAddr {
    let ip = match family_of(peer) {
        AddressFamily::Ipv4 => IpAddr::from([198, 51, 100, peer]),
        AddressFamily::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, peer.into()).into(),
    };
    SocketAddr::new(ip, 1000)
}

fn channel_number(channel: u16) -> ChannelNumber {
    ChannelNumber::new(0x4000 + channel).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "any origin will do")]
fn origin() -> Instant {
    Instant::now()
}
