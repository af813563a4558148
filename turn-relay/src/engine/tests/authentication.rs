//! Who is served: 400, 401, 438, 441, and what a stranger costs.

use std::sync::Arc;
use std::time::Duration;

use thirl_common::auth::{Credentials, EphemeralCredentials, LongTermKey, RestSecrets};
use thirl_common::wire::*;

use crate::engine::testing::*;
use crate::engine::*;

fn bare(server: &mut Server, method: Method, write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut buffer = [0; 512];
    let id = server.transaction();
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, id).unwrap();
    write(&mut writer);
    writer.finish().to_vec()
}

#[test]
fn a_stranger_is_told_realm_and_nonce_in_64_bytes_and_leaves_no_trace() {
    let mut server = Server::new(|_| {});
    for method in [Method::ALLOCATE, Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND] {
        let request = bare(&mut server, method, |_| {});
        let reply = server.deliver(client(1), &request).unwrap();
        assert_eq!((reply.code(), reply.0.len()), (401, 64), "{method:?}");
        assert_eq!(reply.message().require::<Realm<'_>>().unwrap().0, "thirl");
        assert!(reply.message().get::<Nonce<'_>>().unwrap().is_some());
        assert_eq!(reply.message().integrity_algorithm(), None);
    }
    assert_eq!((server.engine.allocations(), server.engine.poll_timeout()), (0, None));
    assert!(server.events.is_empty(), "challenges are no news");
    assert_eq!(server.engine.counters().challenges, 4);
}

#[test]
fn fingerprint_is_answered_with_fingerprint_and_a_wrong_one_with_nothing() {
    let mut server = Server::new(|_| {});
    let mut request = bare(&mut server, Method::ALLOCATE, |writer| {
        writer.fingerprint().unwrap();
    });
    let reply = server.deliver(client(1), &request).unwrap();
    assert_eq!(reply.message().check_fingerprint(), Ok(true));
    *request.last_mut().unwrap() ^= 1;
    assert!(server.deliver(client(1), &request).is_none());
    assert_eq!(server.engine.counters().dropped.malformed, 1);
}

#[test]
fn wrong_passwords_and_unknown_users_are_told_the_same() {
    let mut server = Server::new(|_| {});
    let nonce = server.nonce(client(1));
    let id = server.transaction();
    let mut wrong = sign(id, &nonce, "alice", Method::ALLOCATE, IntegrityAlgorithm::Sha1, |_| {});
    *wrong.last_mut().unwrap() ^= 1;
    let unknown = sign(id, &nonce, "mallory", Method::ALLOCATE, IntegrityAlgorithm::Sha1, |_| {});
    for request in [wrong, unknown] {
        let reply = server.deliver(client(1), &request).unwrap();
        assert_eq!((reply.code(), reply.0.len()), (401, 64));
        assert!(matches!(
            server.events.pop(),
            Some(Event::Refused { refusal: Refusal::WrongCredentials { .. }, .. })
        ));
    }
    assert_eq!(server.engine.counters().unauthenticated, 2);
    assert_eq!(server.engine.allocations(), 0);
}

#[test]
fn credentials_without_one_of_their_parts_are_a_bad_request() {
    let mut server = Server::new(|_| {});
    let nonce = server.nonce(client(1));
    for left_out in 0..3 {
        let request = bare(&mut server, Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP).unwrap();
            if left_out != 0 {
                writer.attribute(&Username("alice")).unwrap();
            }
            if left_out != 1 {
                writer.attribute(&Realm("thirl")).unwrap();
            }
            if left_out != 2 {
                writer.attribute(&Nonce(&nonce)).unwrap();
            }
            writer.integrity(IntegrityAlgorithm::Sha1, &key("alice")).unwrap();
        });
        assert_eq!(server.deliver(client(1), &request).unwrap().code(), 400);
    }
}

#[test]
fn a_nonce_grows_stale_and_is_no_use_to_others() {
    let mut server = Server::new(|_| {});
    let nonce = server.nonce(client(1));
    let id = server.transaction();
    let request = sign(id, &nonce, "alice", Method::REFRESH, IntegrityAlgorithm::Sha1, |_| {});
    assert_eq!(server.deliver(client(1), &request).unwrap().code(), 437, "fresh");
    let mut elsewhere = client(1);
    elsewhere.client.0.set_ip("192.0.2.99".parse().unwrap());
    assert_eq!(server.deliver(elsewhere, &request).unwrap().code(), 438);
    server.pass(Duration::from_secs(700));
    let reply = server.deliver(client(1), &request).unwrap();
    assert_eq!(reply.code(), 438);
    let fresh = reply.message().require::<Nonce<'_>>().unwrap().0;
    assert_ne!(fresh, nonce);
    assert_eq!(reply.message().require::<Realm<'_>>().unwrap().0, "thirl");
    assert_eq!(reply.message().integrity_algorithm(), None);
}

#[test]
fn a_response_uses_the_requests_algorithm() {
    let mut server = Server::new(|_| {});
    let nonce = server.nonce(client(1));
    let id = server.transaction();
    let request = sign(id, &nonce, "alice", Method::ALLOCATE, IntegrityAlgorithm::Sha256, |writer| {
        writer.attribute(&RequestedTransport::UDP).unwrap();
    });
    for repeated in [false, true] {
        let reply = server.deliver(client(1), &request).unwrap();
        assert_eq!(reply.code(), 0, "repeated: {repeated}");
        assert_eq!(reply.message().verify_integrity(&key("alice")), Ok(IntegrityAlgorithm::Sha256));
    }
}

#[test]
fn an_allocation_is_its_makers() {
    let mut server = Server::new(|_| {});
    server.allocated(client(1));
    let with_peer = |writer: &mut MessageWriter<'_>| {
        writer.attribute(&XorPeerAddress(peer(1, 1).0)).unwrap().attribute(&ChannelNumber::MIN).unwrap();
    };
    assert_eq!(server.request(client(1), "bob", Method::REFRESH, |_| {}).code(), 441);
    assert_eq!(server.request(client(1), "bob", Method::CHANNEL_BIND, with_peer).code(), 441);
    let reply = server.request(client(1), "bob", Method::CREATE_PERMISSION, |writer| {
        writer.attribute(&XorPeerAddress(peer(1, 1).0)).unwrap();
    });
    assert_eq!(reply.code(), 441);
    assert_eq!(server.request(client(1), "alice", Method::REFRESH, |_| {}).code(), 0);
}

/// A server with a secret, and REST credentials for carol that hold for a minute.
struct Ephemeral {
    server: Server,
    credentials: EphemeralCredentials,
}

impl Ephemeral {
    fn new(end_with_credentials: bool) -> Ephemeral {
        let rest = RestSecrets::new(vec!["north".into()]);
        let credentials = rest.mint("carol", UNIX + 60).unwrap();
        let server = Server::new(|config| {
            config.credentials = Arc::new(Credentials { rest, ..Credentials::default() });
            config.end_with_credentials = end_with_credentials;
        });
        Ephemeral { server, credentials }
    }

    /// The code, and the lifetime if there is one.
    fn ask(&mut self, port: u16, method: Method) -> (u16, Option<u32>) {
        let EphemeralCredentials { username, password } = &self.credentials;
        let key = LongTermKey::new(username, "thirl", password).integrity_key();
        let nonce = self.server.nonce(client(port));
        let request = bare(&mut self.server, method, |writer| {
            if method == Method::ALLOCATE {
                writer.attribute(&RequestedTransport::UDP).unwrap();
            }
            writer.attribute(&Username(username)).unwrap().attribute(&Realm("thirl")).unwrap();
            writer.attribute(&Nonce(&nonce)).unwrap().integrity(IntegrityAlgorithm::Sha1, &key).unwrap();
        });
        let reply = self.server.deliver(client(port), &request).unwrap();
        (reply.code(), reply.message().get::<Lifetime>().unwrap().map(|Lifetime(seconds)| seconds))
    }
}

#[test]
fn ephemeral_credentials_that_expire_end_nothing_that_was_begun() {
    let mut carol = Ephemeral::new(false);
    assert_eq!(carol.ask(1, Method::ALLOCATE), (0, Some(600)));
    carol.server.pass(Duration::from_secs(61));
    assert_eq!(carol.ask(1, Method::ALLOCATE).0, 437, "known, though not anew");
    assert_eq!(carol.ask(1, Method::REFRESH), (0, Some(600)));
    assert_eq!(carol.ask(2, Method::ALLOCATE).0, 401);
}

#[test]
fn an_allocation_ends_with_its_credentials_if_so_set() {
    let mut carol = Ephemeral::new(true);
    assert_eq!(carol.ask(1, Method::ALLOCATE), (0, Some(60)));
    carol.server.pass(Duration::from_secs(40));
    assert_eq!(carol.ask(1, Method::REFRESH), (0, Some(20)), "no more than is left");
    carol.server.pass(Duration::from_secs(20));
    assert_eq!((carol.server.engine.allocations(), carol.server.sockets.len()), (0, 0));
    assert_eq!(carol.ask(1, Method::REFRESH), (401, None));
}

#[test]
fn what_is_no_request_of_ours_draws_nothing() {
    let mut server = Server::new(|_| {});
    let mut cases = vec![Vec::new(), vec![0x40], vec![0; 20], vec![0x80; 30], b"GET / HTTP/1.1".to_vec()];
    cases.push(bare(&mut server, Method::BINDING, |_| {}));
    cases.push(bare(&mut server, Method::CONNECT, |_| {}));
    cases.push(bare(&mut server, Method::CONNECTION_BIND, |_| {}));
    for class in [Class::Indication, Class::Success, Class::Error] {
        let mut buffer = [0; 20];
        let writer = MessageWriter::new(&mut buffer, class, Method::ALLOCATE, TransactionId([0; 12]));
        cases.push(writer.unwrap().finish().to_vec());
    }
    for case in &cases {
        assert!(server.deliver(client(1), case).is_none(), "{case:?}");
    }
    assert_eq!(server.engine.counters().dropped.malformed, cases.len() as u64);
}

#[test]
fn no_prefix_and_no_changed_byte_of_a_request_does_harm() {
    let mut server = Server::new(|_| {});
    let nonce = server.nonce(client(1));
    let id = server.transaction();
    let request = sign(id, &nonce, "alice", Method::ALLOCATE, IntegrityAlgorithm::Sha1, |writer| {
        writer.attribute(&RequestedTransport::UDP).unwrap().attribute(&Lifetime(700)).unwrap();
        writer.attribute(&EvenPort { reserve: true }).unwrap();
    });
    for at in 0..request.len() {
        server.deliver(client(1), &request[..at]);
        for bit in 0..8 {
            let mut changed = request.clone();
            changed[at] ^= 1 << bit;
            let code = server.deliver(client(1), &changed).map_or(0, |reply| reply.code());
            assert!([0, 400, 401, 437, 438].contains(&code), "byte {at}: {code}");
        }
    }
    assert_eq!(server.engine.allocations(), 0);
    assert_eq!(server.deliver(client(1), &request).unwrap().code(), 0);
}

#[test]
fn strangers_are_limited_and_users_are_not() {
    let limit = Limit { per_second: 1, burst: 5 };
    let mut server = Server::new(|config| config.stranger_limit = Some(limit));
    let nonce = server.nonce(client(1));
    let mut wrong =
        sign(server.transaction(), &nonce, "alice", Method::ALLOCATE, IntegrityAlgorithm::Sha1, |_| {});
    *wrong.last_mut().unwrap() ^= 1;
    let without = bare(&mut server, Method::ALLOCATE, |_| {});
    // The nonce was the first of five. Whichever port it comes from, and whatever is wrong: it is one source.
    let answered = (0..10).filter(|n| {
        let request = if n % 2 == 0 { &wrong } else { &without };
        server.deliver(client(2 + n), request).is_some()
    });
    assert_eq!(answered.count(), 4);
    assert_eq!(server.engine.counters().dropped.limited, 6);
    for method in [Method::ALLOCATE, Method::REFRESH, Method::REFRESH] {
        let id = server.transaction();
        let request = sign(id, &nonce, "alice", method, IntegrityAlgorithm::Sha1, |writer| {
            if method == Method::ALLOCATE {
                writer.attribute(&RequestedTransport::UDP).unwrap();
            }
        });
        assert_eq!(server.deliver(client(1), &request).unwrap().code(), 0, "{method:?}");
    }
    server.pass(Duration::from_secs(1));
    assert_eq!(server.deliver(client(9), &without).unwrap().code(), 401);
    assert!(server.deliver(client(9), &without).is_none());
}
