//! Our TURN client against our engine, with every combination of what the server offers, where it has its users from, and
//! who interferes between them. In virtual time.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use thirl_common::auth::{
    CredentialStore, Credentials, KeyAlgorithm, LongTermKey, RemoteIdentity, RemoteLimits, RemoteUser,
    RemoteUsers, RestSecrets, SecurityFeatures, UserSecret, userhash,
};
use thirl_common::net::{ClientAddr, FiveTuple, PeerAddr, RelayedAddr, ServerAddr, Transport};
use thirl_common::wire::{
    AttributeType, Class, ErrorCode, Message, MessageWriter, Nonce, PasswordAlgorithms, Realm,
};
use thirl_ice_agent::turn::{Families, TurnClient, TurnClientConfig, TurnCredentials, TurnError, TurnEvent};
use thirl_turn_relay::engine::{Action, Engine, EngineConfig, Forward, RelayId};

const UNIX: u64 = 1_800_000_000;
const REALM: &str = "thirl";

/// As a person writes them, and as they are prepared.
const USERNAME: [&str; 2] = ["ali\u{3000}ce", "ali ce"];
const PASSWORD: [&str; 2] = ["se\u{301}same", "s\u{E9}same"];

/// How long a look-up takes.
const LOOKUP: Duration = Duration::from_secs(2);

/// Where the server has its users from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Password,
    Key(KeyAlgorithm),
    Rest,
    Later,
}

/// What somebody does to challenges on their way to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tampering {
    None,
    /// Takes PASSWORD-ALGORITHMS out.
    DropsOffer,
    /// Takes it out, and what the nonce says of it.
    DropsOfferAndFeatures,
    /// Leaves MD5 alone.
    OffersLess,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    features: SecurityFeatures,
    store: Store,
    tampering: Tampering,
    transport: Transport,
    wrong_password: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let store = prop_oneof![
        Just(Store::Password),
        Just(Store::Key(KeyAlgorithm::Md5)),
        Just(Store::Key(KeyAlgorithm::Sha256)),
        Just(Store::Rest),
        Just(Store::Later),
    ];
    let tampering = prop_oneof![
        3 => Just(Tampering::None),
        1 => Just(Tampering::DropsOffer),
        1 => Just(Tampering::DropsOfferAndFeatures),
        1 => Just(Tampering::OffersLess),
    ];
    let transport = prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)];
    let wrong_password = prop::bool::weighted(0.2);
    (any::<[bool; 2]>(), store, tampering, transport, wrong_password).prop_map(
        |([password_algorithms, username_anonymity], store, tampering, transport, wrong_password)| Case {
            features: SecurityFeatures { password_algorithms, username_anonymity },
            store,
            tampering,
            transport,
            wrong_password,
        },
    )
}

impl Case {
    /// Why the client is to get no allocation, if it is not.
    fn failure(&self) -> Option<TurnError> {
        let offered = self.features.password_algorithms;
        let tampering = if offered { self.tampering } else { Tampering::None };
        let algorithm = if offered { KeyAlgorithm::Sha256 } else { KeyAlgorithm::Md5 };
        let known = match self.store {
            Store::Password | Store::Later => true,
            Store::Key(of) => of == algorithm,
            Store::Rest => !self.features.username_anonymity,
        };
        match tampering {
            Tampering::DropsOffer => Some(TurnError::BidDown),
            Tampering::OffersLess => Some(TurnError::Refused { code: 400, reason: String::new() }),
            // The server does not know the nonce.
            Tampering::DropsOfferAndFeatures => Some(TurnError::CredentialsRefused),
            Tampering::None if self.wrong_password || !known => Some(TurnError::CredentialsRefused),
            Tampering::None => None,
        }
    }
}

/// A client, a server, and the way between them.
struct Pair {
    case: Case,
    client: TurnClient,
    engine: Engine,
    remote: Arc<RemoteUsers>,
    five_tuple: FiveTuple,
    start: Instant,
    now: Instant,
    lookup_due: Option<Instant>,
    relay: Option<RelayId>,
    events: Vec<TurnEvent>,
    at_peer: Vec<(SocketAddr, Vec<u8>)>,
}

impl Pair {
    fn new(case: Case) -> Pair {
        let remote = Arc::new(RemoteUsers::new(RemoteLimits::default()));
        let mut username = USERNAME[0].to_owned();
        let mut password = PASSWORD[0].to_owned();
        let mut credentials = Credentials::default();
        match case.store {
            Store::Password => credentials.users.insert(USERNAME[0], PASSWORD[0]),
            Store::Key(algorithm) => {
                let key = LongTermKey::with_algorithm(algorithm, USERNAME[1], REALM, PASSWORD[1]);
                credentials.users.insert_secret(USERNAME[0], UserSecret::Key(key));
            }
            Store::Rest => {
                credentials.rest = RestSecrets::new(vec!["new".into(), "old".into()]);
                // Over before the test is: what was begun goes on.
                let minted = RestSecrets::new(vec!["old".into()]).mint("alice", UNIX + 900).unwrap();
                (username, password) = (minted.username, minted.password);
            }
            Store::Later => {}
        }
        credentials.users.index_userhashes(REALM);
        let credentials: Arc<dyn CredentialStore + Send + Sync> = match case.store {
            Store::Later => remote.clone(),
            _ => Arc::new(credentials),
        };
        if case.wrong_password {
            password.push('x');
        }
        let config = EngineConfig { credentials, features: case.features, ..EngineConfig::default() };
        let five_tuple = FiveTuple {
            transport: case.transport,
            client: ClientAddr("192.0.2.1:40000".parse().unwrap()),
            server: ServerAddr("203.0.113.10:3478".parse().unwrap()),
        };
        let client = TurnClientConfig {
            server: five_tuple.server.0,
            transport: case.transport,
            local: five_tuple.client.0,
            credentials: TurnCredentials::password(username, password),
            families: Families::Ipv4,
            mobile: false,
        };
        #[expect(clippy::disallowed_methods, reason = "any origin will do")]
        let start = Instant::now();
        Pair {
            case,
            client: TurnClient::new(client, [1; 32]),
            engine: Engine::new(config, [2; 32]),
            remote,
            five_tuple,
            start,
            now: start,
            lookup_due: None,
            relay: None,
            events: Vec::new(),
            at_peer: Vec::new(),
        }
    }

    fn unix(&self) -> u64 {
        UNIX + (self.now - self.start).as_secs()
    }

    /// Lets time pass, and everything happen that happens then.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        loop {
            let next = [self.client.poll_timeout(), self.engine.poll_timeout(), self.lookup_due];
            let Some(next) = next.into_iter().flatten().min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            self.client.handle_timeout(self.now);
            self.engine.handle_timeout(self.now);
            if self.lookup_due.is_some_and(|due| due <= self.now) {
                self.lookup_due = None;
                self.look_up();
            }
            self.settle();
        }
        self.now = end;
    }

    fn look_up(&mut self) {
        while let Some(lookup) = self.remote.poll_lookup() {
            let known = match &lookup.user {
                RemoteIdentity::Username(username) => username == USERNAME[1],
                RemoteIdentity::UserHash(hash) => *hash == userhash(USERNAME[1], REALM),
            };
            let key = LongTermKey::with_algorithm(lookup.algorithm, USERNAME[1], REALM, PASSWORD[1]);
            let user = RemoteUser { username: USERNAME[1].to_owned(), keys: vec![key] };
            self.remote.answer(lookup.id, known.then_some(user), self.unix());
            self.engine.credentials_ready(lookup.id, self.now, self.unix());
        }
    }

    fn settle(&mut self) {
        loop {
            let sent: Vec<_> = std::iter::from_fn(|| self.client.poll_transmit()).collect();
            for bytes in &sent {
                let unix = self.unix();
                let forward = self.engine.handle_datagram(self.now, unix, self.five_tuple, bytes);
                if let Some(Forward::ToPeer { to, range, .. }) = forward {
                    self.at_peer.push((to.0, bytes[range].to_vec()));
                }
            }
            while let Some(action) = self.engine.poll_action() {
                self.carry_out(action);
            }
            let answers: Vec<_> = std::iter::from_fn(|| self.engine.poll_transmit()).collect();
            for answer in &answers {
                let answer = tampered(&answer.payload, self.case.tampering);
                self.client.handle_input(self.now, &answer);
            }
            self.events.extend(std::iter::from_fn(|| self.client.poll_event()));
            if sent.is_empty() && answers.is_empty() {
                return;
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::BindRelay { relay, .. } => {
                let addr = RelayedAddr("203.0.113.10:50000".parse().unwrap());
                self.relay = Some(relay);
                self.engine.relay_bound(relay, Ok(addr), self.now);
            }
            Action::AwaitCredentials { .. } => self.lookup_due = Some(self.now + LOOKUP),
            _ => {}
        }
    }
}

/// What the client gets to see of a challenge.
fn tampered(message: &[u8], tampering: Tampering) -> Vec<u8> {
    let read = Message::parse(message).unwrap();
    let offered = read.get::<PasswordAlgorithms<'_>>().unwrap();
    let (Class::Error, Some(_), true) = (read.class(), offered, tampering != Tampering::None) else {
        return message.to_vec();
    };
    let mut buffer = [0; 512];
    let mut writer =
        MessageWriter::new(&mut buffer, read.class(), read.method(), read.transaction_id()).unwrap();
    let Nonce(nonce) = read.require().unwrap();
    let nonce = match tampering {
        Tampering::DropsOfferAndFeatures => nonce.get(13..).unwrap(),
        _ => nonce,
    };
    writer.attribute(&read.require::<ErrorCode<'_>>().unwrap()).unwrap();
    writer.attribute(&read.require::<Realm<'_>>().unwrap()).unwrap().attribute(&Nonce(nonce)).unwrap();
    if tampering == Tampering::OffersLess {
        writer.raw(AttributeType::PASSWORD_ALGORITHMS, &[0, 1, 0, 0]).unwrap();
    }
    writer.finish().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_client_gets_its_allocation_or_is_told_why_not(case in case()) {
        let mut pair = Pair::new(case);
        pair.client.start(pair.now);
        pair.pass(Duration::from_secs(60));
        if let Some(reason) = case.failure() {
            prop_assert_eq!(pair.events, [TurnEvent::Failed { reason }]);
            prop_assert_eq!(pair.engine.allocations(), 0);
            return Ok(());
        }
        prop_assert!(matches!(pair.events[..], [TurnEvent::Allocated { .. }]), "{:?}", pair.events);

        let peer: SocketAddr = "198.51.100.1:4000".parse().unwrap();
        pair.client.allow(pair.now, peer.ip());
        pair.client.bind_channel(pair.now, peer);
        // Long enough for the nonce to grow stale, and for every kind of refresh.
        pair.pass(Duration::from_secs(1300));
        prop_assert!(pair.client.is_allowed(peer.ip()) && pair.client.has_channel(peer));
        pair.client.send(pair.now, peer, b"there").unwrap();
        pair.settle();
        prop_assert_eq!(&pair.at_peer, &[(peer, b"there".to_vec())]);
        let back = pair.engine.handle_peer_datagram(pair.now, pair.relay.unwrap(), PeerAddr(peer), 4);
        let Some(Forward::ToClient { prefix, padding, .. }) = back else { panic!("{back:?}") };
        let frame = [prefix.as_ref(), b"back", &vec![0; padding]].concat();
        let received = pair.client.handle_input(pair.now, &frame).unwrap();
        prop_assert_eq!((received.peer, received.data), (peer, &b"back"[..]));

        pair.client.close(pair.now);
        pair.pass(Duration::from_secs(60));
        prop_assert!(pair.client.is_over());
        prop_assert_eq!(pair.engine.allocations(), 0);
    }
}
