//! Which realm a client is told, and whose credentials hold where.

use std::num::NonZeroU64;
use std::sync::Arc;

use thirl_common::auth::{Credentials, LongTermKey};
use thirl_common::net::FiveTuple;
use thirl_common::wire::*;

use crate::engine::testing::*;
use crate::engine::*;

/// alice has a password of its own in each realm: the realm's name.
fn realm(name: &str, origins: &[&str], listening: &[&str]) -> RealmConfig {
    let mut credentials = Credentials::default();
    credentials.users.insert("alice", name);
    RealmConfig {
        name: name.into(),
        origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
        listening: listening.iter().map(|ip| ip.parse().unwrap()).collect(),
        credentials: Arc::new(credentials),
        token_server: None,
        limits: RealmLimits::default(),
    }
}

/// The server's own realm at 203.0.113.10, where also two origins are known; one of them alone at .11; `inner` at .12.
fn server() -> Server {
    Server::new(|config| {
        config.realm = "own".into();
        let mut credentials = Credentials::default();
        credentials.users.insert("alice", "own");
        config.credentials = Arc::new(credentials);
        config.realms = vec![
            realm("video", &["https://video.example"], &["203.0.113.10", "203.0.113.11"]),
            realm("chat", &["https://chat.example", "https://talk.example:8443"], &["203.0.113.10"]),
            realm("inner", &[], &["203.0.113.12"]),
        ];
    })
}

fn at(server: u8, port: u16) -> FiveTuple {
    let mut five_tuple = client(port);
    five_tuple.server.0.set_ip([203, 0, 113, server].into());
    five_tuple
}

/// The realm that a client is told, and the nonce.
fn told(server: &mut Server, from: FiveTuple, origin: Option<&str>) -> (String, String) {
    let mut buffer = [0; 128];
    let id = server.transaction();
    let mut request = MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, id).unwrap();
    request.attribute(&RequestedTransport::UDP).unwrap();
    if let Some(origin) = origin {
        request.attribute(&Origin(origin)).unwrap();
    }
    let reply = server.deliver(from, request.finish()).unwrap();
    assert_eq!(reply.code(), 401);
    let message = reply.message();
    (message.require::<Realm<'_>>().unwrap().0.into(), message.require::<Nonce<'_>>().unwrap().0.into())
}

/// What alice is answered who names a realm and has a password: the code, and the realm if she is challenged again.
fn ask(
    server: &mut Server,
    from: FiveTuple,
    method: Method,
    (realm, password): (&str, &str),
    origin: Option<&str>,
) -> (u16, Option<String>) {
    let (_, nonce) = told(server, from, None);
    let key = LongTermKey::new("alice", realm, password).integrity_key();
    let mut buffer = [0; 512];
    let id = server.transaction();
    let mut request = MessageWriter::new(&mut buffer, Class::Request, method, id).unwrap();
    if method == Method::ALLOCATE {
        request.attribute(&RequestedTransport::UDP).unwrap();
    }
    if let Some(origin) = origin {
        request.attribute(&Origin(origin)).unwrap();
    }
    request.attribute(&Username("alice")).unwrap().attribute(&Realm(realm)).unwrap();
    request.attribute(&Nonce(&nonce)).unwrap().integrity(IntegrityAlgorithm::Sha1, &key).unwrap();
    let reply = server.deliver(from, request.finish()).unwrap();
    let again = reply.message().get::<Realm<'_>>().unwrap().map(|Realm(realm)| realm.to_owned());
    (reply.code(), again)
}

#[test]
fn a_client_is_told_the_realm_of_its_origin_or_of_where_it_arrived() {
    let mut server = server();
    for (address, origin, realm) in [
        (10, None, "own"),
        (10, Some("https://video.example"), "video"),
        (10, Some("https://VIDEO.example:443"), "video"),
        (10, Some("https://talk.example:8443"), "chat"),
        (10, Some("https://talk.example"), "own"),
        (11, None, "own"),
        (11, Some("https://video.example"), "video"),
        (11, Some("https://chat.example"), "own"),
        (12, None, "inner"),
        (12, Some("https://video.example"), "inner"),
    ] {
        assert_eq!(told(&mut server, at(address, 1), origin).0, realm, "{address} {origin:?}");
    }
    assert_eq!((server.engine.allocations(), server.engine.poll_timeout()), (0, None));
}

#[test]
fn credentials_hold_in_their_realm_where_it_is_served() {
    for (address, (realm, password), expected) in [
        (10, ("own", "own"), (0, None)),
        (10, ("video", "video"), (0, None)),
        (10, ("video", "own"), (401, Some("video"))),
        (10, ("own", "video"), (401, Some("own"))),
        (10, ("elsewhere", "video"), (401, Some("own"))),
        (10, ("inner", "inner"), (401, Some("own"))),
        (11, ("chat", "chat"), (401, Some("own"))),
        (12, ("inner", "inner"), (0, None)),
        (12, ("own", "own"), (401, Some("inner"))),
        (12, ("video", "video"), (401, Some("inner"))),
    ] {
        let mut server = server();
        let (code, again) = ask(&mut server, at(address, 1), Method::ALLOCATE, (realm, password), None);
        assert_eq!((code, again.as_deref()), expected, "{address} {realm} {password}");
    }
}

#[test]
fn origin_may_come_with_every_request_or_with_the_first() {
    let mut server = server();
    let origin = Some("https://video.example");
    let video = ("video", "video");
    assert_eq!(ask(&mut server, at(10, 1), Method::ALLOCATE, video, origin).0, 0);
    assert_eq!(ask(&mut server, at(10, 1), Method::REFRESH, video, None).0, 0);
    assert_eq!(ask(&mut server, at(10, 1), Method::REFRESH, video, origin).0, 0);
}

#[test]
fn alice_of_one_realm_is_not_alice_of_another() {
    let mut server = server();
    assert_eq!(ask(&mut server, at(10, 1), Method::ALLOCATE, ("video", "video"), None).0, 0);
    assert_eq!(ask(&mut server, at(10, 1), Method::REFRESH, ("chat", "chat"), None).0, 441);
    assert_eq!(ask(&mut server, at(10, 1), Method::REFRESH, ("own", "own"), None).0, 441);
    assert_eq!(ask(&mut server, at(10, 1), Method::REFRESH, ("video", "video"), None).0, 0);
}

#[test]
fn quotas_count_each_realms_users_by_themselves() {
    let mut server = server();
    let mut config = (*server.engine.config).clone();
    config.user_quota = Some(1);
    server.engine.config = Arc::new(config);
    for (port, realm, code) in
        [(1, "own", 0), (2, "video", 0), (3, "video", 486), (4, "chat", 0), (5, "own", 486)]
    {
        assert_eq!(ask(&mut server, at(10, port), Method::ALLOCATE, (realm, realm), None).0, code, "{port}");
    }
}

#[test]
fn a_realm_has_quotas_of_its_own() {
    let mut server = server();
    let mut config = (*server.engine.config).clone();
    config.user_quota = Some(1);
    config.realms[0].limits =
        RealmLimits { user_quota: Some(3), total_quota: Some(2), ..RealmLimits::default() };
    server.engine.reconfigure(server.now, config.into());
    for (port, realm, code) in [
        (1, "video", 0),
        (2, "video", 0),
        (3, "video", 486),
        (4, "chat", 0),
        (5, "chat", 486),
        (6, "own", 0),
        (7, "own", 486),
    ] {
        assert_eq!(ask(&mut server, at(10, port), Method::ALLOCATE, (realm, realm), None).0, code, "{port}");
    }
    let reasons = server.events.iter().filter_map(|event| match event {
        Event::Refused { refusal, .. } => Some(refusal.clone()),
        _ => None,
    });
    let [of_realm, of_user] = [Refusal::RealmQuotaReached, Refusal::UserQuotaReached];
    assert_eq!(reasons.collect::<Vec<_>>(), [of_realm, of_user.clone(), of_user]);
}

/// Bytes per second of a realm hold for its users together, whatever each may have, and take nothing from others.
#[test]
fn a_realm_has_bandwidth_of_its_own() {
    let mut server = server();
    let from = [("video", 1), ("video", 2), ("own", 3)];
    for (realm, port) in from {
        assert_eq!(ask(&mut server, at(10, port), Method::ALLOCATE, (realm, realm), None).0, 0);
    }
    let mut passed = |limits: RealmLimits| {
        let mut config = (*server.engine.config).clone();
        config.bandwidth = Bandwidth { allocation: NonZeroU64::new(500), ..Bandwidth::default() };
        config.realms[0].limits = limits;
        server.engine.reconfigure(server.now, config.into());
        from.map(|(_, port)| {
            let (_, allocation) = server.engine.allocations.find(&at(10, port)).unwrap();
            (0..100).filter(|_| allocation.admits(Direction::ToPeer, 100, server.now)).count()
        })
    };
    let of_server = RealmLimits::default();
    assert_eq!(passed(of_server), [5, 5, 5]);
    let bandwidth = |allocation, total| Bandwidth {
        allocation: NonZeroU64::new(allocation),
        total: NonZeroU64::new(total),
        user: None,
    };
    assert_eq!(passed(RealmLimits { bandwidth: bandwidth(1000, 0), ..of_server }), [10, 10, 5]);
    assert_eq!(passed(RealmLimits { bandwidth: bandwidth(1000, 1200), ..of_server }), [10, 2, 5]);
    assert_eq!(passed(of_server), [5, 5, 5], "what is set anew counts at once");
}
