//! What RFC 8489 and RFC 7635 add to the password: SHA-256, USERHASH, access tokens, and stores that answer later.

use std::sync::Arc;
use std::time::Duration;

use thirl_common::auth::*;
use thirl_common::net::{FiveTuple, Transport};
use thirl_common::wire::*;

use crate::engine::testing::*;
use crate::engine::*;

const BOTH: SecurityFeatures = SecurityFeatures { password_algorithms: true, username_anonymity: true };
const NONE: SecurityFeatures = SecurityFeatures { password_algorithms: false, username_anonymity: false };

fn server(features: SecurityFeatures) -> Server {
    Server::new(|config| {
        let mut credentials = Credentials::default();
        credentials.users.insert("alice", PASSWORD);
        credentials.users.index_userhashes("thirl");
        config.credentials = Arc::new(credentials);
        config.features = features;
    })
}

fn request(server: &mut Server, method: Method, write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut buffer = [0; 4096];
    let id = server.transaction();
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, id).unwrap();
    if method == Method::ALLOCATE {
        writer.attribute(&RequestedTransport::UDP).unwrap();
    }
    write(&mut writer);
    writer.finish().to_vec()
}

/// What a client is told that says nothing of itself.
fn challenge(server: &mut Server) -> Reply {
    let request = request(server, Method::ALLOCATE, |_| {});
    server.deliver(client(1), &request).unwrap()
}

fn key_by(algorithm: KeyAlgorithm) -> IntegrityKey {
    LongTermKey::with_algorithm(algorithm, "alice", "thirl", PASSWORD).integrity_key()
}

/// A request that answers a challenge as the RFC says.
fn answer(server: &mut Server, challenge: &Challenge, method: Method) -> Vec<u8> {
    request(server, method, |writer| {
        challenge.answer(writer, "alice").unwrap();
        writer.integrity(challenge.integrity(), &key_by(challenge.algorithm)).unwrap();
    })
}

/// A request with these attributes of password algorithms, signed by the key of `algorithm`.
fn request_with(
    server: &mut Server,
    nonce: &str,
    list: Option<&[u8]>,
    choice: Option<u16>,
    algorithm: KeyAlgorithm,
) -> Vec<u8> {
    request(server, Method::ALLOCATE, |writer| {
        writer.attribute(&Username("alice")).unwrap().attribute(&Realm("thirl")).unwrap();
        writer.attribute(&Nonce(nonce)).unwrap();
        if let Some(list) = list {
            writer.raw(AttributeType::PASSWORD_ALGORITHMS, list).unwrap();
        }
        if let Some(number) = choice {
            writer.attribute(&PasswordAlgorithm { number, parameters: &[] }).unwrap();
        }
        writer.integrity(IntegrityAlgorithm::Sha256, &key_by(algorithm)).unwrap();
    })
}

#[test]
fn what_is_offered_is_taken_and_answered_alike() {
    for features in [
        NONE,
        SecurityFeatures { username_anonymity: true, ..NONE },
        SecurityFeatures { password_algorithms: true, ..NONE },
        BOTH,
    ] {
        let mut server = server(features);
        let told = challenge(&mut server);
        let challenge = Challenge::read(&told.message()).unwrap();
        assert_eq!(SecurityFeatures::of(&challenge.nonce), features);
        let (algorithm, integrity) = match features.password_algorithms {
            true => (KeyAlgorithm::Sha256, IntegrityAlgorithm::Sha256),
            false => (KeyAlgorithm::Md5, IntegrityAlgorithm::Sha1),
        };
        assert_eq!((challenge.algorithm, challenge.integrity()), (algorithm, integrity));
        assert_eq!(challenge.username_anonymity, features.username_anonymity);
        for method in [Method::ALLOCATE, Method::REFRESH] {
            let request = answer(&mut server, &challenge, method);
            assert_eq!(
                Message::parse(&request).unwrap().has(AttributeType::USERNAME),
                !features.username_anonymity
            );
            let reply = server.deliver(client(1), &request).unwrap();
            assert_eq!(reply.code(), 0, "{features:?} {method:?}");
            assert_eq!(reply.message().verify_integrity_as(integrity, &key_by(algorithm)), Ok(()));
            assert_eq!(reply.message().integrity_algorithm(), Some(integrity));
        }
        let named = |event: &Event| matches!(event, Event::AllocationCreated { username, .. } if **username == *"alice");
        assert!(server.events.iter().any(named), "{:?}", server.events);
        // A client of RFC 5389 beside it.
        let request = sign(
            server.transaction(),
            &challenge.nonce,
            "alice",
            Method::ALLOCATE,
            IntegrityAlgorithm::Sha1,
            |writer| {
                writer.attribute(&RequestedTransport::UDP).unwrap();
            },
        );
        assert_eq!(server.deliver(client(2), &request).unwrap().code(), 0);
        server.pass(Duration::from_secs(700));
        let stale = answer(&mut server, &challenge, Method::ALLOCATE);
        let told = server.deliver(client(3), &stale).unwrap();
        assert_eq!(told.code(), 438);
        let again = Challenge::read(&told.message()).unwrap();
        assert_eq!((again.algorithm, again.username_anonymity), (algorithm, features.username_anonymity));
    }
}

#[test]
fn an_offer_costs_the_bytes_that_the_config_says() {
    assert_eq!(challenge(&mut server(NONE)).0.len() + 28, challenge(&mut server(BOTH)).0.len());
}

#[test]
fn who_changes_the_offer_on_its_way_is_noticed() {
    let mut server = server(BOTH);
    let told = challenge(&mut server);
    let nonce = told.message().require::<Nonce<'_>>().unwrap().0.to_owned();
    let (md5, sha256) = (KeyAlgorithm::Md5, KeyAlgorithm::Sha256);
    let both = PasswordAlgorithms::SHA256_AND_MD5.as_bytes();
    for (list, choice, algorithm, expected) in [
        (Some(both), Some(1), md5, 0),
        (None, None, md5, 0),
        (Some(&[0, 1, 0, 0][..]), Some(1), md5, 400),
        (Some(&[0, 1, 0, 0, 0, 2, 0, 0]), Some(1), md5, 400),
        (Some(both), None, md5, 400),
        (None, Some(2), sha256, 400),
        (Some(both), Some(9), md5, 400),
        (Some(both), Some(2), md5, 401),
        (Some(both), Some(1), sha256, 401),
    ] {
        let request = request_with(&mut server, &nonce, list, choice, algorithm);
        let reply = server.deliver(client(1), &request).unwrap();
        assert_eq!(reply.code(), expected, "{list:?} {choice:?} {algorithm:?}");
        assert!(expected != 400 || !reply.message().has(AttributeType::NONCE));
        server.engine.handle_client_gone(server.now, client(1));
        server.settle();
    }
    // A nonce that says that nothing was offered is none of ours, however little of it was changed.
    for forged in [
        nonce.split_at(13).1.to_owned(),
        nonce.replacen("AAAD", "AAAC", 1),
        nonce.replacen("AAAD", "AAAA", 1),
    ] {
        let request = request_with(&mut server, &forged, None, None, md5);
        assert_eq!(server.deliver(client(1), &request).unwrap().code(), 438, "{forged}");
    }
    // The other way round, the client notices.
    let bare = request(&mut server, Method::ALLOCATE, |writer| {
        writer.attribute(&Realm("thirl")).unwrap().attribute(&Nonce(&nonce)).unwrap();
    });
    assert_eq!(Challenge::read(&Message::parse(&bare).unwrap()), Err(ChallengeError::BidDown));
}

#[test]
fn an_algorithm_may_be_named_where_none_was_offered() {
    let mut server = server(NONE);
    let nonce = server.nonce(client(1));
    for (choice, algorithm, expected) in [
        (2, KeyAlgorithm::Sha256, 0),
        (1, KeyAlgorithm::Md5, 0),
        (2, KeyAlgorithm::Md5, 401),
        (9, KeyAlgorithm::Md5, 400),
    ] {
        let request = request_with(&mut server, &nonce, None, Some(choice), algorithm);
        assert_eq!(server.deliver(client(1), &request).unwrap().code(), expected, "{choice} {algorithm:?}");
        server.engine.handle_client_gone(server.now, client(1));
        server.settle();
    }
}

#[test]
fn the_key_of_an_allocation_serves_by_its_algorithm_only() {
    let mut server = server(NONE);
    let nonce = server.nonce(client(1));
    let request = request_with(&mut server, &nonce, None, Some(2), KeyAlgorithm::Sha256);
    assert_eq!(server.deliver(client(1), &request).unwrap().code(), 0);
    for (choice, algorithm, expected) in [
        (Some(2), KeyAlgorithm::Sha256, 437),
        (None, KeyAlgorithm::Sha256, 401),
        (Some(1), KeyAlgorithm::Sha256, 401),
        (None, KeyAlgorithm::Md5, 437),
    ] {
        let request = request_with(&mut server, &nonce, None, choice, algorithm);
        assert_eq!(server.deliver(client(1), &request).unwrap().code(), expected, "{choice:?} {algorithm:?}");
    }
}

const SERVER_NAME: &str = "turn.example";

/// An access token that holds `mac_key` for 400 s from `made` on.
fn token(mac_key: &[u8], made: u64, seal: [u8; 12]) -> Vec<u8> {
    let content = AccessTokenContent { mac_key: mac_key.to_vec(), timestamp: made, lifetime: 400 };
    TokenKey::new(&[7; 32]).unwrap().seal(&content, SERVER_NAME, seal).unwrap()
}

fn token_request(
    server: &mut Server,
    method: Method,
    token: Option<&[u8]>,
    mac_key: &[u8],
) -> (u16, Option<u32>) {
    let nonce = server.nonce(client(1));
    let bytes = request(server, method, |writer| {
        writer.attribute(&Lifetime(3000)).unwrap();
        writer.attribute(&Username("kid")).unwrap().attribute(&Realm("thirl")).unwrap();
        writer.attribute(&Nonce(&nonce)).unwrap();
        if let Some(token) = token {
            writer.attribute(&AccessToken(token)).unwrap();
        }
        writer.integrity(IntegrityAlgorithm::Sha1, &IntegrityKey::new(mac_key)).unwrap();
    });
    let reply = server.deliver(client(1), &bytes).unwrap();
    if reply.code() == 0 {
        assert!(reply.message().verify_integrity(&IntegrityKey::new(mac_key)).is_ok());
    }
    (reply.code(), (reply.code() == 0).then(|| reply.lifetime()))
}

#[test]
fn a_token_opens_an_allocation_that_does_not_outlive_it() {
    let mut server = Server::new(|config| {
        let mut tokens = AccessTokens::new(SERVER_NAME);
        tokens.insert("kid", TokenKey::new(&[7; 32]).unwrap());
        let mut chain = Chain::default();
        chain.push(config.credentials.clone());
        chain.push(Arc::new(tokens));
        config.credentials = Arc::new(chain);
        config.token_server = Some(SERVER_NAME.to_owned());
    });
    let told = challenge(&mut server);
    assert_eq!(Challenge::read(&told.message()).unwrap().token_server.as_deref(), Some(SERVER_NAME));
    let (a, b) = ([1; 20], [2; 32]);
    let first = token(&a, UNIX, [1; 12]);
    assert_eq!(token_request(&mut server, Method::ALLOCATE, None, &a), (401, None));
    assert_eq!(token_request(&mut server, Method::ALLOCATE, Some(&first), &b), (401, None));
    assert_eq!(token_request(&mut server, Method::ALLOCATE, Some(&first[1..]), &a), (401, None));
    assert_eq!(token_request(&mut server, Method::ALLOCATE, Some(&first), &a), (0, Some(400)));
    server.pass(Duration::from_secs(100));
    assert_eq!(token_request(&mut server, Method::REFRESH, Some(&first), &a), (0, Some(300)));
    assert_eq!(
        token_request(&mut server, Method::REFRESH, None, &a),
        (401, None),
        "it comes with every request"
    );
    let second = token(&b, UNIX + 100, [2; 12]);
    assert_eq!(token_request(&mut server, Method::REFRESH, Some(&second), &b), (0, Some(400)));
    server.pass(Duration::from_secs(305));
    assert_eq!(token_request(&mut server, Method::REFRESH, Some(&first), &a), (401, None), "it has ended");
    assert_eq!((token_request(&mut server, Method::REFRESH, Some(&second), &b)), (0, Some(95)));
    assert_eq!(server.engine.allocations(), 1);
    server.pass(Duration::from_secs(95));
    assert_eq!(server.engine.allocations(), 0);
    // Within what the clocks may differ, and no more.
    assert_eq!(token_request(&mut server, Method::ALLOCATE, Some(&second), &b), (0, Some(1)));
    server.pass(Duration::from_secs(5));
    assert_eq!(token_request(&mut server, Method::ALLOCATE, Some(&second), &b), (401, None));
    // The others are served beside them.
    server.allocated(client(2));
}

fn remote(limits: RemoteLimits) -> (Server, Arc<RemoteUsers>) {
    let users = Arc::new(RemoteUsers::new(limits));
    let server = Server::new(|config| config.credentials = users.clone());
    (server, users)
}

/// Does the next look-up: alice is the only one there is.
fn look_up(server: &mut Server, users: &RemoteUsers) -> LookupId {
    let lookup = users.poll_lookup().unwrap();
    let keys = vec![LongTermKey::with_algorithm(lookup.algorithm, "alice", &lookup.realm, PASSWORD)];
    let alice = RemoteUser { username: "alice".into(), keys };
    let known = lookup.user == RemoteIdentity::Username("alice".into());
    users.answer(lookup.id, known.then_some(alice), server.unix());
    lookup.id
}

fn ready(server: &mut Server, lookup: LookupId) -> Vec<u16> {
    server.engine.credentials_ready(lookup, server.now, server.unix());
    server.settle().into_iter().map(|transmit| Reply(transmit.payload).code()).collect()
}

#[test]
fn a_request_waits_for_a_store_that_answers_later() {
    let (mut server, users) = remote(RemoteLimits::default());
    let (from, nonce) = (client(1), server.nonce(client(1)));
    let write = |writer: &mut MessageWriter<'_>| {
        writer.attribute(&RequestedTransport::UDP).unwrap();
    };
    let id = server.transaction();
    let alices = sign(id, &nonce, "alice", Method::ALLOCATE, IntegrityAlgorithm::Sha1, write);
    for _ in 0..2 {
        assert!(server.deliver(from, &alices).is_none());
    }
    let id = server.transaction();
    let eves = sign(id, &nonce, "eve", Method::ALLOCATE, IntegrityAlgorithm::Sha1, write);
    assert!(server.deliver(client(2), &eves).is_none());
    assert_eq!(
        (server.engine.allocations(), server.engine.poll_timeout()),
        (0, None),
        "nothing is kept but bytes"
    );

    server.pass(Duration::from_secs(2));
    let (alice, eve) = (look_up(&mut server, &users), look_up(&mut server, &users));
    assert_eq!(server.awaited, [alice, alice, eve]);
    assert_eq!(ready(&mut server, eve), [401]);
    assert_eq!(ready(&mut server, alice), [0], "the same request twice is one");
    assert_eq!(server.engine.allocations(), 1);
    assert!(ready(&mut server, alice).is_empty(), "once");
    // It is remembered, and then the key of the allocation is.
    server.pass(Duration::from_secs(100));
    assert_eq!(server.request(from, "alice", Method::REFRESH, |_| {}).code(), 0);
}

#[test]
fn what_waits_is_bounded_and_who_is_gone_is_forgotten() {
    let (mut server, users) = remote(RemoteLimits { lookups: 2, ..RemoteLimits::default() });
    let ask = |server: &mut Server, from: FiveTuple, username: &str, padding: usize| {
        let nonce = server.nonce(from);
        let id = server.transaction();
        let request = sign(id, &nonce, username, Method::ALLOCATE, IntegrityAlgorithm::Sha1, |writer| {
            writer
                .attribute(&RequestedTransport::UDP)
                .unwrap()
                .raw(AttributeType(0xFFFF), &vec![0; padding])
                .unwrap();
        });
        assert!(server.deliver(from, &request).is_none());
        server.engine.counters().dropped.overloaded
    };
    assert_eq!(ask(&mut server, client(1), "alice", 0), 0);
    assert_eq!(ask(&mut server, client(1), "alice", 1900), 1, "too long to be kept");
    let mut stream = client(2);
    stream.transport = Transport::Tcp;
    assert_eq!(ask(&mut server, stream, "alice", 0), 1);
    assert_eq!(ask(&mut server, client(3), "bob", 0), 1);
    assert_eq!(ask(&mut server, client(4), "carol", 0), 2, "the store has no more room");
    server.engine.handle_client_gone(server.now, stream);
    for n in 0..254 {
        // 14 more of the first source, then 16 of each.
        let (source, port) = ((n + 2) / 16 + 1, (n + 2) % 16);
        assert_eq!(ask(&mut server, client_at(source, 10 + u16::from(port)), "alice", 0), 2, "{n}");
    }
    assert_eq!(ask(&mut server, client_at(99, 9), "alice", 0), 3, "the engine has no more room");
    let alice = look_up(&mut server, &users);
    assert_eq!(ready(&mut server, alice), [0; 255]);
    assert!(server.engine.allocations.find(&stream).is_none());
    let bob = look_up(&mut server, &users);
    assert_eq!(ready(&mut server, bob), [401]);
}

#[test]
fn one_source_does_not_keep_out_the_others() {
    let (mut server, users) = remote(RemoteLimits::default());
    let ask = |server: &mut Server, from: FiveTuple, username: &str| {
        let nonce = server.nonce(from);
        let id = server.transaction();
        let request = sign(id, &nonce, username, Method::ALLOCATE, IntegrityAlgorithm::Sha1, |writer| {
            writer.attribute(&RequestedTransport::UDP).unwrap();
        });
        assert!(server.deliver(from, &request).is_none());
    };
    for n in 0..300 {
        ask(&mut server, client(1000 + n), &format!("guess {n}"));
    }
    assert_eq!(server.engine.counters().dropped.overloaded, 300 - 16);
    ask(&mut server, client_at(2, 1), "alice");
    let lookups: Vec<_> = std::iter::from_fn(|| users.poll_lookup()).collect();
    assert_eq!(lookups.len(), 17, "nor are they looked up");
    for lookup in &lookups[..16] {
        users.answer(lookup.id, None, server.unix());
        assert_eq!(ready(&mut server, lookup.id), [401]);
    }
    ask(&mut server, client(5000), "alice");
    assert_eq!(server.engine.counters().dropped.overloaded, 300 - 16, "it may ask again");
}
