//! The engine, with made-up sockets, and clients that sign their requests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thirl_common::auth::Credentials;
use thirl_common::net::{ClientAddr, FiveTuple, PeerAddr, RelayedAddr, ServerAddr, Transport};
use thirl_common::wire::{
    AdditionalAddressFamily, AddressFamily, ChannelData, ChannelNumber, EvenPort, Lifetime, Message,
    MessageWriter, Method, Nonce, Realm, RequestedAddressFamily, RequestedTransport, ReservationToken,
    XorPeerAddress,
};
use thirl_turn_relay::engine::{
    Action, BindError, Engine, EngineConfig, Event, Forward, PortWish, RelayId, Shared,
};

use super::model::{MAX_CHANNELS, MAX_PERMISSIONS, USER_QUOTA};
use super::step::{Operation, PEERS, Step, USERS, Wish, family_of};
use crate::harness::turn::{Login, code, stranger};

const PASSWORD: &str = "secret";
const UNIX: u64 = 1_800_000_000;

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
    /// The relays that a client was ever given.
    relays: BTreeMap<u8, BTreeMap<RelayId, AddressFamily>>,
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
            relays: BTreeMap::new(),
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
            Step::Pass { seconds } => {
                self.now += Duration::from_secs(seconds);
                self.engine.handle_timeout(self.now);
                self.settle(0);
                None
            }
        }
    }

    /// What comes of a packet to any relay that the client ever had, by its channel if it has one.
    pub(super) fn heard_from(&mut self, client: u8, peer: u8) -> Option<Option<u16>> {
        let relays = self.relays.get(&client)?.iter().filter(|(_, family)| **family == family_of(peer));
        let mut got = relays.filter_map(|(relay, _)| {
            self.engine.handle_peer_datagram(self.now, *relay, PeerAddr(address(peer)), 5)
        });
        let forward = got.next()?;
        assert_eq!(got.next(), None, "only one relay is the client's now");
        let Forward::ToClient { five_tuple: to, prefix, range, .. } = forward else {
            panic!("the wrong way")
        };
        assert_eq!((to, range), (five_tuple(client), 0..5));
        Some((prefix.len() == 4).then(|| u16::from_be_bytes([prefix[0], prefix[1]]) - 0x4000))
    }

    pub(super) fn heard_by(&mut self, client: u8, channel: u16) -> Option<u8> {
        let datagram = ChannelData::header(channel_number(channel), 0).unwrap();
        let forward = self.engine.handle_datagram(self.now, UNIX, five_tuple(client), &datagram)?;
        let Forward::ToPeer { relay, to, .. } = forward else { panic!("the wrong way") };
        assert!(self.relays[&client].contains_key(&relay) && self.sockets.contains_key(&relay));
        (0..PEERS).find(|peer| address(*peer) == to.0)
    }

    pub(super) fn held(&self) -> [usize; 4] {
        let counters = self.engine.counters();
        assert_eq!(counters.allocations_created, self.created);
        assert_eq!(counters.allocations_ended.total(), self.ended);
        assert_eq!(self.created - self.ended, self.engine.allocations() as u64);
        [self.engine.allocations(), self.sockets.len(), self.reserved.len(), self.shared.seats()]
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.engine.poll_timeout().map(|at| (at - self.now).as_secs())
    }

    fn sign(&mut self, client: u8, username: &str, password: &str, operation: Operation) -> Vec<u8> {
        let challenge = self.deliver(client, &stranger(Method::REFRESH, |_| {})).unwrap();
        let challenge = Message::parse(&challenge).unwrap();
        let login = Login {
            username: username.to_owned(),
            password: password.to_owned(),
            realm: challenge.require::<Realm<'_>>().unwrap().0.to_owned(),
            nonce: challenge.require::<Nonce<'_>>().unwrap().0.to_owned(),
        };
        let tokens = self.tokens.clone();
        login.sign(method(operation), |writer| write(writer, operation, &tokens))
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
        Some(code(&answer))
    }

    fn deliver(&mut self, client: u8, datagram: &[u8]) -> Option<Vec<u8>> {
        let forward = self.engine.handle_datagram(self.now, self.unix(), five_tuple(client), datagram);
        assert_eq!(forward, None, "a request is no data");
        self.settle(client)
    }

    /// Polls everything, as a driver would, and returns what was sent.
    fn settle(&mut self, client: u8) -> Option<Vec<u8>> {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::BindRelay { relay, family, port, .. } => {
                    let bound = self.bind(client, relay, family, port);
                    self.engine.relay_bound(relay, bound, self.now);
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
        let answer = self.engine.poll_transmit();
        assert!(self.engine.poll_transmit().is_none(), "one answer at the most");
        answer.map(|transmit| transmit.payload)
    }

    fn bind(
        &mut self,
        client: u8,
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
        self.relays.entry(client).or_default().insert(relay, family);
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
        Operation::Refresh { .. } => Method::REFRESH,
        Operation::Permit { .. } => Method::CREATE_PERMISSION,
        Operation::Bind { .. } => Method::CHANNEL_BIND,
    }
}

fn write(writer: &mut MessageWriter<'_>, operation: Operation, tokens: &[ReservationToken]) {
    match operation {
        Operation::Allocate(wish) => {
            writer.attribute(&RequestedTransport::UDP).unwrap();
            match wish {
                Wish::None => writer,
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
        transport: Transport::Udp,
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
