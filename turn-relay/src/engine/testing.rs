//! What tests of the engine share: a server with made-up sockets, and clients that sign their requests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thirl_common::auth::{Credentials, LongTermKey};
use thirl_common::net::{ClientAddr, FiveTuple, PeerAddr, RelayedAddr, ServerAddr, Transport};
use thirl_common::wire::{
    AddressFamily, Class, Data, ErrorCode, IntegrityAlgorithm, IntegrityKey, Lifetime, Message,
    MessageWriter, Method, Nonce, Realm, RequestedTransport, TransactionId, Username, XorPeerAddress,
    XorRelayedAddress,
};

use super::*;

pub(super) const UNIX: u64 = 1_800_000_000;
pub(super) const PASSWORD: &str = "secret";

#[expect(clippy::disallowed_methods, reason = "any origin will do")]
pub(super) fn origin() -> Instant {
    Instant::now()
}

/// An engine, its clock and its sockets. Users are alice and bob.
pub(super) struct Server {
    pub(super) engine: Engine,
    pub(super) now: Instant,
    start: Instant,
    transactions: u64,
    next_port: u16,
    /// What binding a relay fails with.
    pub(super) bind_error: Option<BindError>,
    /// What binding a relay of one family fails with.
    pub(super) failing_family: Option<(AddressFamily, BindError)>,
    /// Whether actions wait for [`Server::carry_out`].
    pub(super) slow: bool,
    pub(super) waiting: VecDeque<Action>,
    pub(super) sockets: BTreeMap<RelayId, RelayedAddr>,
    pub(super) reserved: BTreeMap<u64, u16>,
    pub(super) fast_paths: BTreeSet<RelayId>,
    /// Those to peers: where the engine asked to connect, or none if the peer did.
    pub(super) connections: BTreeMap<ConnectionId, Option<PeerAddr>>,
    pub(super) events: Vec<Event>,
    /// What requests wait for.
    pub(super) awaited: Vec<LookupId>,
}

/// A response, or another message of the server's.
pub(super) struct Reply(pub(super) Vec<u8>);

impl Reply {
    pub(super) fn message(&self) -> Message<'_> {
        Message::parse(&self.0).unwrap()
    }

    /// 0 for a success.
    pub(super) fn code(&self) -> u16 {
        match self.message().class() {
            Class::Success => 0,
            _ => self.message().require::<ErrorCode<'_>>().unwrap().code,
        }
    }

    pub(super) fn relayed(&self) -> RelayedAddr {
        RelayedAddr(self.message().require::<XorRelayedAddress>().unwrap().0)
    }

    pub(super) fn lifetime(&self) -> u32 {
        self.message().require::<Lifetime>().unwrap().0
    }
}

pub(super) fn key(username: &str) -> IntegrityKey {
    LongTermKey::new(username, "thirl", PASSWORD).integrity_key()
}

pub(super) fn client(port: u16) -> FiveTuple {
    FiveTuple {
        transport: Transport::Udp,
        client: ClientAddr(SocketAddr::from(([192, 0, 2, 1], port))),
        server: ServerAddr("203.0.113.10:3478".parse().unwrap()),
    }
}

/// The same at another address.
pub(super) fn client_at(last: u8, port: u16) -> FiveTuple {
    let mut five_tuple = client(port);
    five_tuple.client.0.set_ip([192, 0, 2, last].into());
    five_tuple
}

pub(super) fn peer(last: u8, port: u16) -> PeerAddr {
    PeerAddr(SocketAddr::from(([198, 51, 100, last], port)))
}

impl Server {
    pub(super) fn new(configure: impl FnOnce(&mut EngineConfig)) -> Server {
        let mut credentials = Credentials::default();
        credentials.users.insert("alice", PASSWORD);
        credentials.users.insert("bob", PASSWORD);
        let mut config = EngineConfig { credentials: Arc::new(credentials), ..EngineConfig::default() };
        configure(&mut config);
        Server::around(Engine::new(config, [3; 32]))
    }

    pub(super) fn around(engine: Engine) -> Server {
        let start = origin();
        Server {
            engine,
            now: start,
            start,
            transactions: 0,
            next_port: 50000,
            bind_error: None,
            failing_family: None,
            slow: false,
            waiting: VecDeque::new(),
            sockets: BTreeMap::new(),
            reserved: BTreeMap::new(),
            fast_paths: BTreeSet::new(),
            connections: BTreeMap::new(),
            events: Vec::new(),
            awaited: Vec::new(),
        }
    }

    pub(super) fn unix(&self) -> u64 {
        UNIX + (self.now - self.start).as_secs()
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.engine.handle_timeout(self.now);
        self.settle();
    }

    /// Polls everything, as a driver would, and returns what was sent.
    pub(super) fn settle(&mut self) -> Vec<Transmit> {
        while let Some(action) = self.engine.poll_action() {
            self.waiting.push_back(action);
            if !self.slow {
                self.carry_out();
            }
        }
        let mut sent = Vec::new();
        while let Some(transmit) = self.engine.poll_transmit() {
            sent.push(transmit);
        }
        while let Some(event) = self.engine.poll_event() {
            self.events.push(event);
        }
        sent
    }

    /// Does what the engine asked for.
    pub(super) fn carry_out(&mut self) {
        while let Some(action) = self.waiting.pop_front() {
            match action {
                Action::BindRelay { relay, family, five_tuple, port } => {
                    let result = self.bind(relay, family, five_tuple, port);
                    self.engine.relay_bound(relay, result, self.now);
                }
                Action::ListenRelay { relay, family, five_tuple } => {
                    let result = self.bind(relay, family, five_tuple, PortWish::Any);
                    self.engine.relay_bound(relay, result, self.now);
                }
                Action::Connect { connection, peer, .. } => {
                    assert_eq!(self.connections.insert(connection, Some(peer)), None, "connected once");
                }
                Action::CloseConnection { connection } => {
                    assert!(self.connections.remove(&connection).is_some(), "closed once");
                }
                Action::AwaitCredentials { lookup } => self.awaited.push(lookup),
                Action::ReleaseRelay { relay } => {
                    assert!(self.sockets.remove(&relay).is_some(), "released once");
                }
                Action::ReleaseReserved { token } => {
                    assert!(self.reserved.remove(&token).is_some(), "released once");
                }
                Action::InstallFastPath { relay, .. } => {
                    self.fast_paths.insert(relay);
                }
                Action::RemoveFastPath { relay } => {
                    self.fast_paths.remove(&relay);
                }
            }
        }
    }

    fn bind(
        &mut self,
        relay: RelayId,
        family: AddressFamily,
        five_tuple: FiveTuple,
        wish: PortWish,
    ) -> Result<RelayedAddr, BindError> {
        if let Some(error) = &self.bind_error {
            return Err(error.clone());
        }
        if let Some((failing, error)) = &self.failing_family
            && *failing == family
        {
            return Err(error.clone());
        }
        let port = match wish {
            PortWish::Any => self.next_port,
            PortWish::Even | PortWish::EvenAndReserveNext { .. } => self.next_port.next_multiple_of(2),
            PortWish::Reserved { token } => self.reserved.remove(&token).ok_or(BindError::NotReserved)?,
        };
        if let PortWish::EvenAndReserveNext { token } = wish {
            self.reserved.insert(token, port + 1);
        }
        self.next_port = self.next_port.max(port + 2);
        let ip = match family {
            AddressFamily::Ipv4 => five_tuple.server.ip(),
            AddressFamily::Ipv6 => "2001:db8::10".parse().unwrap(),
        };
        let addr = RelayedAddr(SocketAddr::new(ip, port));
        assert!(self.sockets.insert(relay, addr).is_none(), "bound once");
        Ok(addr)
    }

    /// Hands in a datagram and returns the only response to it, or none.
    pub(super) fn deliver(&mut self, from: FiveTuple, datagram: &[u8]) -> Option<Reply> {
        assert_eq!(self.engine.handle_datagram(self.now, self.unix(), from, datagram), None);
        let mut sent = self.settle();
        assert!(sent.len() <= 1);
        let transmit = sent.pop()?;
        assert_eq!((transmit.to, transmit.from), (from.client.0, from.server.0));
        Some(Reply(transmit.payload))
    }

    pub(super) fn transaction(&mut self) -> TransactionId {
        self.transactions += 1;
        let mut id = [0; 12];
        id[4..].copy_from_slice(&self.transactions.to_be_bytes());
        TransactionId(id)
    }

    pub(super) fn nonce(&mut self, from: FiveTuple) -> String {
        let mut buffer = [0; 32];
        let id = self.transaction();
        let request = MessageWriter::new(&mut buffer, Class::Request, Method::REFRESH, id).unwrap().finish();
        let reply = self.deliver(from, request).unwrap();
        assert_eq!(reply.code(), 401);
        reply.message().require::<Nonce<'_>>().unwrap().0.to_owned()
    }

    /// A signed request.
    pub(super) fn signed(
        &mut self,
        from: FiveTuple,
        username: &str,
        method: Method,
        write: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Vec<u8> {
        let nonce = self.nonce(from);
        let id = self.transaction();
        sign(id, &nonce, username, method, IntegrityAlgorithm::Sha1, write)
    }

    /// Sends a signed request and checks that its response is signed.
    pub(super) fn request(
        &mut self,
        from: FiveTuple,
        username: &str,
        method: Method,
        write: impl FnOnce(&mut MessageWriter<'_>),
    ) -> Reply {
        let request = self.signed(from, username, method, write);
        let reply = self.deliver(from, &request).unwrap();
        let sent = Message::parse(&request).unwrap();
        assert_eq!(reply.message().transaction_id(), sent.transaction_id());
        assert_eq!(reply.message().method(), method);
        assert_eq!(reply.message().verify_integrity(&key(username)), Ok(IntegrityAlgorithm::Sha1));
        reply
    }

    pub(super) fn allocate(&mut self, from: FiveTuple, write: impl FnOnce(&mut MessageWriter<'_>)) -> Reply {
        self.request(from, "alice", Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP).unwrap();
            write(writer);
        })
    }

    /// An allocation for alice, and its relay.
    pub(super) fn allocated(&mut self, from: FiveTuple) -> RelayId {
        assert_eq!(self.allocate(from, |_| {}).code(), 0);
        let (id, _) = self.engine.allocations.find(&from).unwrap();
        RelayId { allocation: id, family: AddressFamily::Ipv4 }
    }
}

pub(super) fn sign(
    id: TransactionId,
    nonce: &str,
    username: &str,
    method: Method,
    algorithm: IntegrityAlgorithm,
    write: impl FnOnce(&mut MessageWriter<'_>),
) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, id).unwrap();
    write(&mut writer);
    writer.attribute(&Username(username)).unwrap().attribute(&Realm("thirl")).unwrap();
    writer.attribute(&Nonce(nonce)).unwrap().integrity(algorithm, &key(username)).unwrap();
    writer.finish().to_vec()
}

/// A Send indication (RFC 8656, section 11), and what is to stand in it beside the peer and the data.
pub(super) fn send_indication(
    to: PeerAddr,
    data: Option<&[u8]>,
    extra: impl FnOnce(&mut MessageWriter<'_>),
) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let id = TransactionId([5; 12]);
    let mut writer = MessageWriter::new(&mut buffer, Class::Indication, Method::SEND, id).unwrap();
    writer.attribute(&XorPeerAddress(to.0)).unwrap();
    if let Some(data) = data {
        writer.attribute(&Data(data)).unwrap();
    }
    extra(&mut writer);
    writer.finish().to_vec()
}
