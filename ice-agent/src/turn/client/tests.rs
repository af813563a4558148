//! The client against a scripted server.

use super::*;
use crate::turn::AccessToken;
use thirl_common::auth::{KeyAlgorithm, LongTermKey, userhash};
use thirl_common::wire::{
    AccessToken as AccessTokenAttribute, AdditionalAddressFamily, AddressFamily, AlternateDomain,
    AlternateServer, AttributeType, ErrorCode, IntegrityAlgorithm, IntegrityKey, MobilityTicket, Nonce,
    PasswordAlgorithm, PasswordAlgorithms, Realm, RequestedAddressFamily, RequestedTransport,
    ThirdPartyAuthorization, UserHash, Username,
};

const PEER: &str = "198.51.100.20:4000";

#[expect(clippy::disallowed_methods, reason = "any origin will do")]
fn origin() -> Instant {
    Instant::now()
}

fn config(transport: Transport) -> TurnClientConfig {
    TurnClientConfig {
        server: "203.0.113.10:3478".parse().unwrap(),
        transport,
        local: "192.0.2.1:40000".parse().unwrap(),
        credentials: TurnCredentials::password("alice", "secret"),
        families: Families::Ipv4,
        mobile: false,
    }
}

fn key() -> IntegrityKey {
    LongTermKey::new("alice", "thirl", "secret").integrity_key()
}

fn response(
    request: &[u8],
    class: Class,
    key: Option<&IntegrityKey>,
    fill: impl FnOnce(&mut MessageWriter<'_>),
) -> Vec<u8> {
    let request = Message::parse(request).unwrap();
    let mut buffer = [0; 512];
    let mut writer =
        MessageWriter::new(&mut buffer, class, request.method(), request.transaction_id()).unwrap();
    fill(&mut writer);
    if let Some(key) = key {
        writer.integrity(IntegrityAlgorithm::Sha1, key).unwrap();
    }
    writer.finish().to_vec()
}

fn challenge(request: &[u8], error: ErrorCode<'_>, nonce: &str) -> Vec<u8> {
    response(request, Class::Error, None, |writer| {
        writer.attribute(&error).unwrap();
        writer.attribute(&Realm("thirl")).unwrap().attribute(&Nonce(nonce)).unwrap();
    })
}

fn granted(request: &[u8], key: &IntegrityKey) -> Vec<u8> {
    response(request, Class::Success, Some(key), |writer| {
        writer.attribute(&XorRelayedAddress("203.0.113.10:50000".parse().unwrap())).unwrap();
        writer.attribute(&XorMappedAddress("198.51.100.10:1234".parse().unwrap())).unwrap();
        writer.attribute(&Lifetime(600)).unwrap();
    })
}

fn ok(request: &[u8]) -> Vec<u8> {
    response(request, Class::Success, Some(&key()), |writer| {
        writer.attribute(&Lifetime(600)).unwrap();
    })
}

fn refused(request: &[u8], code: ErrorCode<'_>) -> Vec<u8> {
    response(request, Class::Error, Some(&key()), |writer| {
        writer.attribute(&code).unwrap();
    })
}

/// A client with these wishes whose next request is an authenticated Allocate.
fn asking(families: Families, mobile: bool) -> TurnClient {
    let config = TurnClientConfig { families, mobile, ..config(Transport::Udp) };
    let mut client = TurnClient::new(config, [1; 32]);
    client.start(origin());
    let first = client.poll_transmit().unwrap();
    client.handle_input(origin(), &challenge(&first, ErrorCode::UNAUTHENTICATED, "n1"));
    client
}

fn allocated(transport: Transport, now: Instant) -> TurnClient {
    let mut client = TurnClient::new(config(transport), [1; 32]);
    client.start(now);
    let first = client.poll_transmit().unwrap();
    assert_eq!(
        Message::parse(&first).unwrap().require::<RequestedTransport>().unwrap(),
        RequestedTransport::UDP
    );
    client.handle_input(now, &challenge(&first, ErrorCode::UNAUTHENTICATED, "n1"));
    let second = client.poll_transmit().unwrap();
    let message = Message::parse(&second).unwrap();
    assert_eq!(message.verify_integrity(&key()), Ok(IntegrityAlgorithm::Sha1));
    assert_eq!(message.require::<Username<'_>>().unwrap().0, "alice");
    assert_eq!(message.require::<Nonce<'_>>().unwrap().0, "n1");
    client.handle_input(now, &granted(&second, &key()));
    assert!(matches!(client.poll_event(), Some(TurnEvent::Allocated { .. })));
    assert!(client.poll_transmit().is_none());
    client
}

#[test]
fn a_success_without_the_right_integrity_is_ignored() {
    let now = origin();
    let mut client = TurnClient::new(config(Transport::Udp), [1; 32]);
    client.start(now);
    let first = client.poll_transmit().unwrap();
    client.handle_input(now, &challenge(&first, ErrorCode::UNAUTHENTICATED, "n1"));
    let second = client.poll_transmit().unwrap();
    let unsigned = response(&second, Class::Success, None, |_| {});
    client.handle_input(now, &unsigned);
    client.handle_input(now, &granted(&second, &IntegrityKey::new(b"forged")));
    assert_eq!(client.poll_event(), None);
    client.handle_input(now, &granted(&second, &key()));
    assert!(client.is_allocated());
}

#[test]
fn wrong_credentials_are_said_to_be_wrong() {
    let now = origin();
    let mut client = TurnClient::new(config(Transport::Udp), [1; 32]);
    client.start(now);
    for nonce in ["n1", "n2"] {
        let request = client.poll_transmit().unwrap();
        client.handle_input(now, &challenge(&request, ErrorCode::UNAUTHENTICATED, nonce));
    }
    assert_eq!(client.poll_event(), Some(TurnEvent::Failed { reason: TurnError::CredentialsRefused }));
    assert_eq!((client.poll_transmit(), client.poll_timeout()), (None, None));
}

#[test]
fn a_stale_nonce_is_replaced_but_not_for_ever() {
    let now = origin();
    let mut client = allocated(Transport::Udp, now);
    client.allow(now, PEER.parse::<SocketAddr>().unwrap().ip());
    for nonce in ["n2", "n3", "n4"] {
        let request = client.poll_transmit().unwrap();
        client.handle_input(now, &challenge(&request, ErrorCode::STALE_NONCE, nonce));
    }
    let request = client.poll_transmit().unwrap();
    assert_eq!(Message::parse(&request).unwrap().require::<Nonce<'_>>().unwrap().0, "n4");
    client.handle_input(now, &challenge(&request, ErrorCode::STALE_NONCE, "n5"));
    assert!(matches!(client.poll_event(), Some(TurnEvent::PermissionFailed { .. })));
    assert_eq!(client.poll_transmit(), None);
}

#[test]
fn silence_ends_in_a_failure_that_names_the_transport() {
    let mut now = origin();
    let mut client = TurnClient::new(config(Transport::Udp), [1; 32]);
    client.start(now);
    while let Some(deadline) = client.poll_timeout() {
        now = deadline;
        client.handle_timeout(now);
    }
    assert_eq!(std::iter::from_fn(|| client.poll_transmit()).count(), 7);
    let reason = TurnError::TimedOut { transport: Transport::Udp };
    assert_eq!(client.poll_event(), Some(TurnEvent::Failed { reason }));
}

#[test]
fn data_goes_in_indications_until_the_channel_is_confirmed() {
    let now = origin();
    let peer: SocketAddr = PEER.parse().unwrap();
    let mut client = allocated(Transport::Tcp, now);
    client.allow(now, peer.ip());
    client.allow(now, peer.ip());
    let request = client.poll_transmit().unwrap();
    assert_eq!(client.poll_transmit(), None, "asked for once");
    client.handle_input(now, &ok(&request));
    client.allow(now, peer.ip());
    assert!(client.is_allowed(peer.ip()) && client.poll_transmit().is_none());

    // A check is no reason for a channel, data is.
    client.send(now, peer, &request).unwrap();
    let sent = client.poll_transmit().unwrap();
    assert_eq!(Message::parse(&sent).unwrap().method(), Method::SEND);
    assert_eq!(client.poll_transmit(), None);
    client.send(now, peer, b"hello").unwrap();
    let request = client.poll_transmit().unwrap();
    assert_eq!(Message::parse(&request).unwrap().method(), Method::CHANNEL_BIND);
    let sent = client.poll_transmit().unwrap();
    let message = Message::parse(&sent).unwrap();
    assert_eq!((message.method(), message.require::<Data<'_>>().unwrap().0), (Method::SEND, &b"hello"[..]));

    client.handle_input(now, &ok(&request));
    client.send(now, peer, b"hello").unwrap();
    assert_eq!(client.poll_transmit().unwrap(), b"\x40\x00\x00\x05hello\x00\x00\x00");

    let header = ChannelData::header(ChannelNumber::MIN, 3).unwrap();
    let frame = [&header[..], b"abc"].concat();
    assert_eq!(client.handle_input(now, &frame), Some(Received { peer, data: b"abc" }));
    assert_eq!(client.handle_input(now, b"\x40\x01\x00\x00"), None, "not a channel of ours");
}

#[test]
fn everything_is_refreshed_in_time() {
    let start = origin();
    let peer: SocketAddr = PEER.parse().unwrap();
    let mut client = allocated(Transport::Udp, start);
    client.allow(start, peer.ip());
    client.bind_channel(start, peer);
    let mut asked = Vec::new();
    let mut now = start;
    while now - start < Duration::from_secs(700) {
        while let Some(request) = client.poll_transmit() {
            asked.push((Message::parse(&request).unwrap().method(), (now - start).as_secs()));
            client.handle_input(now, &ok(&request));
        }
        now = client.poll_timeout().unwrap();
        client.handle_timeout(now);
    }
    let at = |method| asked.iter().filter(|(m, _)| *m == method).map(|(_, at)| *at).collect::<Vec<_>>();
    assert_eq!(at(Method::CREATE_PERMISSION), [0, 240, 480]);
    assert_eq!(at(Method::CHANNEL_BIND), [0, 540]);
    assert_eq!(at(Method::REFRESH), [540]);
}

#[test]
fn an_older_allocation_is_deleted_once() {
    let now = origin();
    let mut client = TurnClient::new(config(Transport::Udp), [1; 32]);
    client.start(now);
    let first = client.poll_transmit().unwrap();
    client.handle_input(now, &challenge(&first, ErrorCode::UNAUTHENTICATED, "n1"));
    let mismatch = |request: &[u8]| {
        response(request, Class::Error, Some(&key()), |writer| {
            writer.attribute(&ErrorCode::ALLOCATION_MISMATCH).unwrap();
        })
    };
    let allocate = client.poll_transmit().unwrap();
    client.handle_input(now, &mismatch(&allocate));
    let refresh = client.poll_transmit().unwrap();
    assert_eq!(Message::parse(&refresh).unwrap().require::<Lifetime>().unwrap().0, 0);
    client.handle_input(now, &ok(&refresh));
    let allocate = client.poll_transmit().unwrap();
    client.handle_input(now, &mismatch(&allocate));
    assert_eq!(client.poll_event(), Some(TurnEvent::Failed { reason: TurnError::AllocationMismatch }));
}

#[test]
fn a_server_that_restarted_is_noticed_and_closing_gives_back() {
    let now = origin();
    let peer: SocketAddr = PEER.parse().unwrap();
    let mut client = allocated(Transport::Udp, now);
    client.close(now);
    let refresh = client.poll_transmit().unwrap();
    assert_eq!(Message::parse(&refresh).unwrap().require::<Lifetime>().unwrap().0, 0);
    client.handle_input(now, &ok(&refresh));
    assert!(client.is_over() && client.poll_event().is_none() && client.poll_timeout().is_none());

    let mut client = allocated(Transport::Udp, now);
    client.allow(now, peer.ip());
    let request = client.poll_transmit().unwrap();
    let gone = response(&request, Class::Error, Some(&key()), |writer| {
        writer.attribute(&ErrorCode::ALLOCATION_MISMATCH).unwrap();
    });
    client.handle_input(now, &gone);
    assert_eq!(client.poll_event(), Some(TurnEvent::Lost { reason: TurnError::AllocationMismatch }));
    assert_eq!(client.send(now, peer, b"x"), Err(SendError::NoAllocation));
}

#[test]
fn both_families_are_had_in_one_allocation() {
    let mut client = asking(Families::Both, false);
    let request = client.poll_transmit().unwrap();
    let message = Message::parse(&request).unwrap();
    let ipv6 = Some(AddressFamily::Ipv6);
    assert_eq!(message.require::<AdditionalAddressFamily>(), Ok(AdditionalAddressFamily(ipv6)));
    assert_eq!(
        message.get::<RequestedAddressFamily>(),
        Ok(None),
        "never with the other (RFC 8656, section 7.1)"
    );
    let relayed = ["203.0.113.10:50000", "[2001:db8::10]:50000"].map(|address| address.parse().unwrap());
    let granted = response(&request, Class::Success, Some(&key()), |writer| {
        for relayed in relayed {
            writer.attribute(&XorRelayedAddress(relayed)).unwrap();
        }
        writer.attribute(&XorMappedAddress("198.51.100.10:1234".parse().unwrap())).unwrap();
    });
    client.handle_input(origin(), &granted);
    let Some(TurnEvent::Allocated { relayed: first, additional, .. }) = client.poll_event() else { panic!() };
    assert_eq!((first, additional), (relayed[0], Some(relayed[1])));
}

#[test]
fn of_two_families_the_one_that_there_is_will_do() {
    let now = origin();
    let mut client = asking(Families::Both, false);
    for code in [ErrorCode::UNSUPPORTED_TRANSPORT, ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED] {
        let request = client.poll_transmit().unwrap();
        client.handle_input(now, &refused(&request, code));
    }
    // Neither both nor IPv4.
    let request = client.poll_transmit().unwrap();
    let message = Message::parse(&request).unwrap();
    let ipv6 = RequestedAddressFamily(Some(AddressFamily::Ipv6));
    assert_eq!(message.require::<RequestedAddressFamily>(), Ok(ipv6));
    client.handle_input(now, &refused(&request, ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED));
    assert_eq!(client.poll_event(), Some(TurnEvent::Failed { reason: TurnError::FamilyNotSupported }));
    // Who asks for one gets it or nothing.
    let mut client = asking(Families::Ipv4, false);
    let request = client.poll_transmit().unwrap();
    client.handle_input(now, &refused(&request, ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED));
    assert_eq!(client.poll_event(), Some(TurnEvent::Failed { reason: TurnError::FamilyNotSupported }));
}

fn ticketed(request: &[u8], ticket: &[u8]) -> Vec<u8> {
    response(request, Class::Success, Some(&key()), |writer| {
        writer.attribute(&XorRelayedAddress("203.0.113.10:50000".parse().unwrap())).unwrap();
        writer.attribute(&XorMappedAddress("198.51.100.10:1234".parse().unwrap())).unwrap();
        writer.attribute(&MobilityTicket(ticket)).unwrap();
    })
}

#[test]
fn an_allocation_with_a_ticket_moves_to_another_five_tuple() {
    let now = origin();
    let mut client = asking(Families::Ipv4, true);
    let request = client.poll_transmit().unwrap();
    let empty = MobilityTicket(&[]);
    assert_eq!(Message::parse(&request).unwrap().require::<MobilityTicket<'_>>(), Ok(empty));
    client.handle_input(now, &ticketed(&request, b"first"));
    assert!(client.poll_event().is_some() && client.is_mobile());
    for ticket in ["first", "second"] {
        let local = "192.0.2.77:41000".parse().unwrap();
        assert!(client.move_to(now, local, Transport::Tcp) && client.move_to(now, local, Transport::Tcp));
        let request = client.poll_transmit().unwrap();
        let message = Message::parse(&request).unwrap();
        assert_eq!(message.method(), Method::REFRESH);
        assert_eq!(message.require::<MobilityTicket<'_>>().unwrap().0, ticket.as_bytes());
        assert_eq!(client.poll_transmit(), None, "asked once");
        client.handle_input(now, &ticketed(&request, b"second"));
        let mapped = Some("198.51.100.10:1234".parse().unwrap());
        assert_eq!(client.poll_event(), Some(TurnEvent::Moved { mapped }));
    }
    // Behind a NAT whose mapping is another now, the server does not know the client by its five-tuple.
    client.refresh(now);
    for (ticket, code) in [(false, ErrorCode::ALLOCATION_MISMATCH), (true, ErrorCode::BAD_REQUEST)] {
        let request = client.poll_transmit().unwrap();
        assert_eq!(Message::parse(&request).unwrap().has(AttributeType::MOBILITY_TICKET), ticket);
        client.handle_input(now, &refused(&request, code));
    }
    assert_eq!(client.poll_event(), Some(TurnEvent::Lost { reason: TurnError::AllocationMismatch }));
}

#[test]
fn a_server_without_mobility_costs_a_round_trip() {
    let now = origin();
    let mut client = asking(Families::Ipv4, true);
    let request = client.poll_transmit().unwrap();
    client.handle_input(now, &refused(&request, ErrorCode::MOBILITY_FORBIDDEN));
    let request = client.poll_transmit().unwrap();
    assert_eq!(Message::parse(&request).unwrap().get::<MobilityTicket<'_>>(), Ok(None));
    client.handle_input(now, &granted(&request, &key()));
    assert!(client.is_allocated() && !client.is_mobile());
    assert!(!client.move_to(now, "192.0.2.77:41000".parse().unwrap(), Transport::Udp));
}

#[test]
fn refusals_have_names_and_a_time_after_which_to_ask_again() {
    let minute = Some(Duration::from_secs(60));
    for (code, reason, retry) in [
        (ErrorCode::ALLOCATION_QUOTA_REACHED, TurnError::QuotaReached, minute),
        (ErrorCode::INSUFFICIENT_CAPACITY, TurnError::InsufficientCapacity, minute),
        (ErrorCode::WRONG_CREDENTIALS, TurnError::WrongCredentials, None),
    ] {
        let mut client = asking(Families::Ipv4, false);
        let request = client.poll_transmit().unwrap();
        client.handle_input(origin(), &refused(&request, code));
        assert_eq!(reason.retry_after(), retry);
        assert_eq!(client.poll_event(), Some(TurnEvent::Failed { reason }));
        assert!(client.is_over() && client.poll_timeout().is_none());
    }
}

#[test]
fn who_is_sent_elsewhere_is_told_where_and_by_which_name() {
    for domain in [None, Some("turn.example")] {
        let mut client = asking(Families::Ipv4, false);
        let request = client.poll_transmit().unwrap();
        let to = "203.0.113.99:5349".parse().unwrap();
        let elsewhere = response(&request, Class::Error, Some(&key()), |writer| {
            writer.attribute(&ErrorCode::TRY_ALTERNATE).unwrap().attribute(&AlternateServer(to)).unwrap();
            if let Some(domain) = domain {
                writer.attribute(&AlternateDomain(domain)).unwrap();
            }
        });
        client.handle_input(origin(), &elsewhere);
        let reason = TurnError::TryAlternate { to, domain: domain.map(str::to_owned) };
        assert_eq!(client.poll_event(), Some(TurnEvent::Failed { reason }));
    }
}

#[test]
fn an_allocation_of_other_credentials_is_lost() {
    let now = origin();
    let mut client = allocated(Transport::Udp, now);
    client.refresh(now);
    client.refresh(now);
    let request = client.poll_transmit().unwrap();
    assert_eq!(client.poll_transmit(), None, "asked once");
    client.handle_input(now, &refused(&request, ErrorCode::WRONG_CREDENTIALS));
    assert_eq!(client.poll_event(), Some(TurnEvent::Lost { reason: TurnError::WrongCredentials }));
    // An older one on the same five-tuple, of another user: nothing can be had until it expires.
    let mut client = asking(Families::Ipv4, false);
    for code in [ErrorCode::ALLOCATION_MISMATCH, ErrorCode::WRONG_CREDENTIALS] {
        let request = client.poll_transmit().unwrap();
        client.handle_input(now, &refused(&request, code));
    }
    assert_eq!(client.poll_event(), Some(TurnEvent::Failed { reason: TurnError::AllocationMismatch }));
}

/// A nonce that says that password algorithms are offered and usernames are to be hidden.
const TELLING: &str = "obMatJos2AAADn1";

fn offering(request: &[u8], code: ErrorCode<'_>, nonce: &str, offered: &[u8]) -> Vec<u8> {
    response(request, Class::Error, None, |writer| {
        writer.attribute(&code).unwrap().attribute(&Realm("thirl")).unwrap();
        writer.attribute(&Nonce(nonce)).unwrap().raw(AttributeType::PASSWORD_ALGORITHMS, offered).unwrap();
    })
}

fn sha256_key() -> IntegrityKey {
    LongTermKey::with_algorithm(KeyAlgorithm::Sha256, "alice", "thirl", "secret").integrity_key()
}

fn granted_as(request: &[u8], algorithm: IntegrityAlgorithm, key: &IntegrityKey) -> Vec<u8> {
    response(request, Class::Success, None, |writer| {
        writer.attribute(&XorRelayedAddress("203.0.113.10:50000".parse().unwrap())).unwrap();
        writer.attribute(&XorMappedAddress("198.51.100.10:1234".parse().unwrap())).unwrap();
        writer.integrity(algorithm, key).unwrap();
    })
}

/// What the client does about a first challenge.
fn challenged(challenge: impl FnOnce(&[u8]) -> Vec<u8>) -> TurnClient {
    let now = origin();
    let mut client = TurnClient::new(config(Transport::Udp), [1; 32]);
    client.start(now);
    let first = client.poll_transmit().unwrap();
    client.handle_input(now, &challenge(&first));
    client
}

#[test]
fn the_stronger_key_is_used_where_it_is_offered_and_asked_for_in_the_answer() {
    let now = origin();
    let both = PasswordAlgorithms::SHA256_AND_MD5;
    let mut client =
        challenged(|first| offering(first, ErrorCode::UNAUTHENTICATED, TELLING, both.as_bytes()));
    let request = client.poll_transmit().unwrap();
    let message = Message::parse(&request).unwrap();
    assert_eq!(message.verify_integrity(&sha256_key()), Ok(IntegrityAlgorithm::Sha256));
    assert_eq!(message.require::<UserHash>().unwrap().0, userhash("alice", "thirl"));
    assert_eq!(message.get::<Username<'_>>(), Ok(None));
    assert_eq!(message.require::<PasswordAlgorithms<'_>>(), Ok(both));
    assert_eq!(message.require::<PasswordAlgorithm<'_>>(), Ok(PasswordAlgorithm::SHA256));
    for (algorithm, key) in [
        (IntegrityAlgorithm::Sha1, sha256_key()),
        (IntegrityAlgorithm::Sha1, key()),
        (IntegrityAlgorithm::Sha256, key()),
    ] {
        client.handle_input(now, &granted_as(&request, algorithm, &key));
        assert!(!client.is_allocated(), "{algorithm:?}");
    }
    client.handle_input(now, &granted_as(&request, IntegrityAlgorithm::Sha256, &sha256_key()));
    assert!(client.is_allocated());
}

#[test]
fn an_offer_that_was_taken_away_is_not_answered() {
    let failed = |mut client: TurnClient| {
        assert_eq!(client.poll_transmit(), None);
        client.poll_event()
    };
    let reason = TurnError::BidDown;
    let removed = challenged(|first| challenge(first, ErrorCode::UNAUTHENTICATED, TELLING));
    assert_eq!(failed(removed), Some(TurnEvent::Failed { reason: reason.clone() }));
    // Later, by a nonce that says nothing, or by an offer that is another.
    let both = PasswordAlgorithms::SHA256_AND_MD5.as_bytes();
    for later in [
        |request: &[u8]| challenge(request, ErrorCode::STALE_NONCE, "n2"),
        |request: &[u8]| offering(request, ErrorCode::STALE_NONCE, "n2", &[0, 1, 0, 0]),
    ] {
        let mut client = challenged(|first| offering(first, ErrorCode::UNAUTHENTICATED, TELLING, both));
        let request = client.poll_transmit().unwrap();
        client.handle_input(origin(), &later(&request));
        assert_eq!(failed(client), Some(TurnEvent::Failed { reason: reason.clone() }));
    }
}

#[test]
fn offers_that_cannot_be_taken_say_why() {
    let offer = |offered: &[u8]| {
        challenged(|first| offering(first, ErrorCode::UNAUTHENTICATED, TELLING, offered)).poll_event()
    };
    let unknown = offer(&[0, 9, 0, 0]);
    assert_eq!(unknown, Some(TurnEvent::Failed { reason: TurnError::NoCommonAlgorithm }));
    assert_eq!(offer(&[&[0, 1, 0, 0][..], &[0, 9, 0, 0].repeat(80)].concat()), None);
    assert!(matches!(
        offer(&[0, 9, 0]),
        Some(TurnEvent::Failed { reason: TurnError::ServerMisbehaved { .. } })
    ));
    let mut longest = vec![0; 60_000];
    longest[..4].copy_from_slice(&[0, 1, 0, 0]);
    longest.chunks_exact_mut(4).skip(1).for_each(|entry| entry[1] = 9);
    let mut client = challenged(|first| {
        let first = Message::parse(first).unwrap();
        let mut buffer = vec![0; 65_000];
        let mut writer =
            MessageWriter::new(&mut buffer, Class::Error, first.method(), first.transaction_id()).unwrap();
        writer.attribute(&ErrorCode::UNAUTHENTICATED).unwrap().attribute(&Realm("thirl")).unwrap();
        writer.attribute(&Nonce(TELLING)).unwrap();
        writer.raw(AttributeType::PASSWORD_ALGORITHMS, &longest).unwrap();
        writer.finish().to_vec()
    });
    assert!(matches!(
        client.poll_event(),
        Some(TurnEvent::Failed { reason: TurnError::ServerMisbehaved { .. } })
    ));
    assert_eq!((client.poll_transmit(), client.poll_timeout()), (None, None));
}

#[test]
fn names_and_passwords_are_prepared_if_they_can_be() {
    for (written, hashed) in [("a\u{3000}e\u{301}", "a \u{E9}"), ("soft\u{AD}hyphen", "soft\u{AD}hyphen")] {
        let config = TurnClientConfig {
            credentials: TurnCredentials::password(written, written),
            ..config(Transport::Udp)
        };
        let mut client = TurnClient::new(config, [1; 32]);
        client.start(origin());
        let first = client.poll_transmit().unwrap();
        client.handle_input(origin(), &challenge(&first, ErrorCode::UNAUTHENTICATED, "n1"));
        let request = client.poll_transmit().unwrap();
        let message = Message::parse(&request).unwrap();
        assert_eq!(message.require::<Username<'_>>().unwrap().0, hashed);
        let key = LongTermKey::new(hashed, "thirl", hashed).integrity_key();
        assert_eq!(message.verify_integrity(&key), Ok(IntegrityAlgorithm::Sha1));
    }
}

fn token() -> AccessToken {
    AccessToken { kid: "north".to_owned(), token: vec![9; 100], mac_key: vec![5; 20] }
}

fn third_party(request: &[u8], nonce: &str) -> Vec<u8> {
    response(request, Class::Error, None, |writer| {
        writer.attribute(&ErrorCode::UNAUTHENTICATED).unwrap();
        writer.attribute(&Realm("thirl")).unwrap().attribute(&Nonce(nonce)).unwrap();
        writer.attribute(&ThirdPartyAuthorization("turn.example.org")).unwrap();
    })
}

/// A client that has been challenged once.
fn challenged_as(credentials: TurnCredentials, challenge: impl Fn(&[u8]) -> Vec<u8>) -> TurnClient {
    let mut client = TurnClient::new(TurnClientConfig { credentials, ..config(Transport::Udp) }, [1; 32]);
    client.start(origin());
    let first = client.poll_transmit().unwrap();
    client.handle_input(origin(), &challenge(&first));
    client
}

fn failure(client: &mut TurnClient) -> Option<TurnError> {
    match client.poll_event() {
        Some(TurnEvent::Failed { reason } | TurnEvent::Lost { reason }) => Some(reason),
        _ => None,
    }
}

#[test]
fn an_access_token_comes_with_every_request() {
    let now = origin();
    let mut client = challenged_as(token().into(), |request| third_party(request, "n1"));
    let key = IntegrityKey::new(&token().mac_key);
    let allocate = client.poll_transmit().unwrap();
    client.handle_input(now, &granted(&allocate, &key));
    assert!(matches!(client.poll_event(), Some(TurnEvent::Allocated { .. })));
    client.allow(now, "192.0.2.9".parse().unwrap());
    client.refresh(now);
    let later = std::iter::from_fn(|| client.poll_transmit()).collect::<Vec<_>>();
    assert_eq!(later.len(), 2);
    for request in [allocate].iter().chain(&later) {
        let message = Message::parse(request).unwrap();
        assert_eq!(message.require::<Username<'_>>().unwrap().0, "north");
        assert_eq!(message.require::<AccessTokenAttribute<'_>>().unwrap().0, token().token);
        assert_eq!(message.verify_integrity(&key), Ok(IntegrityAlgorithm::Sha1));
    }
    // Its time is over.
    let refresh = later.iter().find(|request| Message::parse(request).unwrap().method() == Method::REFRESH);
    client.handle_input(now, &third_party(refresh.unwrap(), "n1"));
    let wanted = TurnError::TokenWanted { server: "turn.example.org".to_owned() };
    assert_eq!(failure(&mut client), Some(wanted));
}

#[test]
fn who_has_no_token_is_told_whose_is_wanted() {
    let wanted = TurnError::TokenWanted { server: "turn.example.org".to_owned() };
    let no_token = |request: &[u8]| challenge(request, ErrorCode::UNAUTHENTICATED, "n1");
    let told = |request: &[u8]| third_party(request, "n1");
    assert_eq!(failure(&mut challenged_as(TurnCredentials::None, told)), Some(wanted));
    assert_eq!(failure(&mut challenged_as(TurnCredentials::None, no_token)), Some(TurnError::NoCredentials));
    assert_eq!(failure(&mut challenged_as(token().into(), no_token)), Some(TurnError::NoTokens));
    // A user with a password need not care.
    let mut client = challenged_as(TurnCredentials::password("alice", "secret"), told);
    let request = client.poll_transmit().unwrap();
    assert_eq!(Message::parse(&request).unwrap().verify_integrity(&key()), Ok(IntegrityAlgorithm::Sha1));
    let too_long = AccessToken { token: vec![0; 60_000], ..token() };
    let reason = failure(&mut challenged_as(too_long.into(), told));
    assert!(matches!(reason, Some(TurnError::ServerMisbehaved { .. })), "{reason:?}");
}
