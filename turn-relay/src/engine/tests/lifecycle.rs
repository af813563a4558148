//! Allocate and Refresh: how allocations come and go.

use std::sync::Arc;
use std::time::Duration;

use thirl_common::auth::{Chain, EphemeralCredentials, LongTermKey, RestSecrets};
use thirl_common::net::{FiveTuple, PeerAddr, RelayedAddr, Transport};
use thirl_common::wire::*;

use crate::engine::testing::*;
use crate::engine::*;

fn write<'a, A: Attribute<'a>>(attribute: A) -> impl FnOnce(&mut MessageWriter<'_>) {
    move |writer| {
        writer.attribute(&attribute).unwrap();
    }
}

#[test]
fn an_allocation_lives_its_lifetime() {
    let mut server = Server::new(|_| {});
    let reply = server.allocate(client(1), |_| {});
    assert_eq!((reply.code(), reply.lifetime()), (0, 600));
    assert_eq!(reply.relayed(), *server.sockets.values().next().unwrap());
    assert_eq!(reply.message().require::<XorMappedAddress>().unwrap().0, client(1).client.0);
    assert!(reply.message().get::<ReservationToken>().unwrap().is_none());
    let end = server.engine.poll_timeout().unwrap();
    assert_eq!(end - server.now, Duration::from_secs(600));
    server.pass(Duration::from_millis(599_999));
    assert_eq!(server.engine.allocations(), 1);
    server.pass(Duration::from_millis(1));
    assert_eq!((server.engine.allocations(), server.sockets.len()), (0, 0));
    assert_eq!((server.engine.poll_timeout(), server.engine.shared.seats()), (None, 0));
    assert!(matches!(server.events[0], Event::AllocationCreated { .. }));
    assert!(matches!(server.events[1], Event::AllocationEnded { reason: EndReason::Expired, .. }));
}

#[test]
fn many_that_expire_together_end_in_parts() {
    let mut server = Server::new(|_| {});
    for port in 0..100 {
        server.allocate(client(port), |_| {});
    }
    let mut left = Vec::new();
    server.pass(Duration::from_secs(600));
    while server.engine.poll_timeout().is_some_and(|due| due <= server.now) {
        left.push(server.engine.allocations());
        server.pass(Duration::ZERO);
    }
    assert_eq!(left, [68, 36, 4], "data may pass in between");
    assert_eq!((server.engine.allocations(), server.sockets.len()), (0, 0));
}

#[test]
fn lifetimes_are_between_the_default_and_the_maximum() {
    let mut server = Server::new(|_| {});
    for (port, (asked, got)) in
        (1..).zip([(0, 600), (1, 600), (599, 600), (700, 700), (3600, 3600), (u32::MAX, 3600)])
    {
        assert_eq!(server.allocate(client(port), write(Lifetime(asked))).lifetime(), got, "asked {asked}");
    }
    for (asked, got) in [(1, 600), (700, 700), (u32::MAX, 3600)] {
        let reply = server.request(client(1), "alice", Method::REFRESH, write(Lifetime(asked)));
        assert_eq!((reply.code(), reply.lifetime()), (0, got));
    }
    assert_eq!(server.request(client(1), "alice", Method::REFRESH, |_| {}).lifetime(), 600);
}

#[test]
fn a_refresh_prolongs_or_deletes() {
    let mut server = Server::new(|_| {});
    server.allocated(client(1));
    server.pass(Duration::from_secs(599));
    assert_eq!(server.request(client(1), "alice", Method::REFRESH, |_| {}).code(), 0);
    server.pass(Duration::from_secs(599));
    assert_eq!(server.engine.allocations(), 1);
    let reply = server.request(client(1), "alice", Method::REFRESH, write(Lifetime(0)));
    assert_eq!((reply.code(), reply.lifetime()), (0, 0));
    assert_eq!((server.engine.allocations(), server.sockets.len()), (0, 0));
    assert_eq!(server.engine.poll_timeout(), None);
    assert!(matches!(server.events.last(), Some(Event::AllocationEnded { reason: EndReason::Deleted, .. })));
    assert_eq!(server.request(client(1), "alice", Method::REFRESH, write(Lifetime(0))).code(), 437);
}

#[test]
fn a_refresh_for_another_family_is_a_mismatch() {
    let mut server = Server::new(|_| {});
    server.allocated(client(1));
    let mut refresh = |family| {
        server.request(client(1), "alice", Method::REFRESH, write(RequestedAddressFamily(family))).code()
    };
    assert_eq!(refresh(Some(AddressFamily::Ipv4)), 0);
    assert_eq!(refresh(Some(AddressFamily::Ipv6)), 443);
    assert_eq!(refresh(None), 443);
}

#[test]
fn a_retransmitted_allocate_is_answered_alike() {
    let mut server = Server::new(|_| {});
    server.slow = true;
    let request = server.signed(client(1), "alice", Method::ALLOCATE, |writer| {
        writer.attribute(&RequestedTransport::UDP).unwrap().attribute(&EvenPort { reserve: true }).unwrap();
    });
    assert!(server.deliver(client(1), &request).is_none(), "no socket, no success");
    assert!(server.deliver(client(1), &request).is_none());
    server.carry_out();
    let sent = server.settle();
    assert_eq!(sent.len(), 1);
    let first = Reply(sent[0].payload.clone());
    server.pass(Duration::from_secs(100));
    let again = server.deliver(client(1), &request).unwrap();
    assert_eq!((first.lifetime(), again.lifetime()), (600, 500));
    assert_eq!(again.relayed(), first.relayed());
    let token = |reply: &Reply| reply.message().require::<ReservationToken>().unwrap();
    assert_eq!(token(&again), token(&first));
    assert_eq!(server.sockets.len(), 1);
    assert_eq!(server.allocate(client(1), |_| {}).code(), 437, "another transaction");
}

#[test]
fn a_client_that_goes_while_its_socket_is_bound_leaves_none() {
    let mut server = Server::new(|_| {});
    server.slow = true;
    let request = server.signed(client(1), "alice", Method::ALLOCATE, write(RequestedTransport::UDP));
    assert!(server.deliver(client(1), &request).is_none());
    server.engine.handle_client_gone(server.now, client(1));
    server.carry_out();
    assert_eq!(server.sockets.len(), 1, "bound in vain");
    server.slow = false;
    assert!(server.settle().is_empty());
    assert_eq!((server.sockets.len(), server.engine.shared.seats()), (0, 0));
}

#[test]
fn what_an_allocate_is_refused_for() {
    let mut server = Server::new(|config| config.families = vec![AddressFamily::Ipv4]);
    let request = |server: &mut Server, write: &dyn Fn(&mut MessageWriter<'_>)| {
        server.request(client(1), "alice", Method::ALLOCATE, |writer| write(writer)).code()
    };
    assert_eq!(request(&mut server, &|_| {}), 400, "no REQUESTED-TRANSPORT");
    for (protocol, code) in [(&[17][..], 400), (&[6, 0, 0, 0], 400), (&[33, 0, 0, 0], 442)] {
        let wrong = |writer: &mut MessageWriter<'_>| {
            writer.raw(AttributeType::REQUESTED_TRANSPORT, protocol).unwrap();
        };
        assert_eq!(request(&mut server, &wrong), code, "{protocol:?}");
    }
    let token = (AttributeType::RESERVATION_TOKEN, &[1, 2, 3, 4, 5, 6, 7, 8][..]);
    let even = (AttributeType::EVEN_PORT, &[0][..]);
    let family = |number| (AttributeType::REQUESTED_ADDRESS_FAMILY, number);
    let (ipv4, ipv6, none) = (family(&[1, 0, 0, 0][..]), family(&[2, 0, 0, 0]), family(&[9, 0, 0, 0]));
    let also = |number| (AttributeType::ADDITIONAL_ADDRESS_FAMILY, number);
    let (also_ipv4, also_ipv6, also_none) =
        (also(&[1, 0, 0, 0][..]), also(&[2, 0, 0, 0]), also(&[9, 0, 0, 0]));
    let even_and_next = (AttributeType::EVEN_PORT, &[0x80][..]);
    for (attributes, code) in [
        (&[(AttributeType::LIFETIME, &[1][..])][..], 400),
        (&[(AttributeType::EVEN_PORT, &[])], 400),
        (&[ipv6], 440),
        (&[none], 440),
        (&[token], 508),
        (&[token, even], 400),
        (&[token, ipv4], 400),
        (&[token, also_ipv6], 400),
        (&[ipv4, also_ipv6], 400),
        (&[also_ipv4], 400),
        (&[also_none], 400),
        (&[even_and_next, also_ipv6], 400),
    ] {
        let reply = server.allocate(client(1), |writer| {
            for (ty, value) in attributes {
                writer.raw(*ty, value).unwrap();
            }
        });
        assert_eq!(reply.code(), code, "{attributes:?}");
    }
}

#[test]
fn attributes_that_are_not_supported_are_named() {
    let mut server = Server::new(|_| {});
    let reply = server.allocate(client(1), |writer| {
        writer.attribute(&ChannelNumber::MIN).unwrap().raw(AttributeType(0x7001), b"").unwrap();
        writer.raw(AttributeType(0x8099), b"").unwrap();
    });
    assert_eq!(reply.code(), 420);
    let unknown = reply.message().require::<UnknownAttributes>().unwrap();
    assert!(unknown.iter().eq([AttributeType::CHANNEL_NUMBER, AttributeType(0x7001)]));
    for method in [Method::REFRESH, Method::CREATE_PERMISSION, Method::CHANNEL_BIND] {
        let reply = server.request(client(1), "alice", method, |writer| {
            writer.raw(AttributeType(0x7001), b"").unwrap();
        });
        assert_eq!(reply.code(), 420, "{method:?}");
    }
}

#[test]
fn both_families_are_relayed() {
    let mut server = Server::new(|_| {});
    let family = RequestedAddressFamily(Some(AddressFamily::Ipv6));
    let reply = server.allocate(client(1), write(family));
    assert!(reply.relayed().0.is_ipv6());
    assert!(server.allocate(client(2), |_| {}).relayed().0.is_ipv4());
}

fn also_ipv6(writer: &mut MessageWriter<'_>) {
    write(AdditionalAddressFamily(Some(AddressFamily::Ipv6)))(writer);
}

#[test]
fn one_allocation_of_both_families() {
    let mut server = Server::new(|config| config.user_quota = Some(1));
    let reply = server.allocate(client(1), also_ipv6);
    let relayed: Vec<_> =
        reply.message().get_all::<XorRelayedAddress>().map(|addr| addr.unwrap().0).collect();
    assert!(relayed.len() == 2 && relayed[0].is_ipv4() && relayed[1].is_ipv6(), "{relayed:?}");
    assert!(reply.message().get::<AddressErrorCode>().unwrap().is_none());
    assert_eq!((server.sockets.len(), server.engine.allocations()), (2, 1));
    let draft = write(SsodaAdditionalAddressFamily(Some(AddressFamily::Ipv6)));
    assert_eq!(server.allocate(client(2), draft).code(), 486, "one allocation is one, whatever its families");
    let v6 = PeerAddr("[2001:db8:1::1]:9".parse().unwrap());
    for (peer, channel) in [(peer(1, 9), 0x4001), (v6, 0x4002)] {
        let bind = |writer: &mut MessageWriter<'_>| {
            write(ChannelNumber::new(channel).unwrap())(writer);
            write(XorPeerAddress(peer.0))(writer);
        };
        assert_eq!(server.request(client(1), "alice", Method::CHANNEL_BIND, bind).code(), 0);
    }
    let mut refresh = |family| {
        server.request(client(1), "alice", Method::REFRESH, |writer| {
            write(Lifetime(0))(writer);
            write(RequestedAddressFamily(Some(family)))(writer);
        })
    };
    assert_eq!(refresh(AddressFamily::Ipv6).code(), 0, "only this one ends");
    assert_eq!(refresh(AddressFamily::Ipv6).code(), 443);
    assert_eq!((server.sockets.len(), server.engine.allocations()), (1, 1));
    let to_channel = |server: &mut Server, channel| {
        let datagram = ChannelData::header(ChannelNumber::new(channel).unwrap(), 0).unwrap();
        server.engine.handle_datagram(server.now, UNIX, client(1), &datagram).is_some()
    };
    assert!(to_channel(&mut server, 0x4001) && !to_channel(&mut server, 0x4002));
    server.pass(Duration::from_secs(600));
    assert_eq!((server.sockets.len(), server.engine.shared.seats()), (0, 0));
}

#[test]
fn one_of_two_families_may_fail() {
    let mut server = Server::new(|_| {});
    server.failing_family = Some((AddressFamily::Ipv4, BindError::PortsExhausted));
    let reply = server.allocate(client(1), also_ipv6);
    assert!(reply.relayed().0.is_ipv6());
    let missing = AddressErrorCode { family: Some(AddressFamily::Ipv4), code: 508 };
    assert_eq!(reply.message().require::<AddressErrorCode>().unwrap(), missing);
    assert_eq!(server.sockets.len(), 1);
    server.bind_error = Some(BindError::NoAddress);
    assert_eq!(server.allocate(client(2), also_ipv6).code(), 440, "neither");
    assert_eq!((server.engine.allocations(), server.engine.shared.seats()), (1, 1));

    let mut server = Server::new(|config| config.families = vec![AddressFamily::Ipv4]);
    let reply = server.allocate(client(1), also_ipv6);
    assert!(reply.relayed().0.is_ipv4());
    let missing = AddressErrorCode { family: Some(AddressFamily::Ipv6), code: 440 };
    assert_eq!(reply.message().require::<AddressErrorCode>().unwrap(), missing);
}

#[test]
fn a_client_that_goes_between_its_two_sockets_leaves_none() {
    let mut server = Server::new(|_| {});
    server.slow = true;
    let request = server.signed(client(1), "alice", Method::ALLOCATE, |writer| {
        write(RequestedTransport::UDP)(writer);
        also_ipv6(writer);
    });
    assert!(server.deliver(client(1), &request).is_none());
    let (allocation, _) = server.engine.allocations.find(&client(1)).unwrap();
    let relays = [AddressFamily::Ipv4, AddressFamily::Ipv6].map(|family| RelayId { allocation, family });
    let addresses =
        ["203.0.113.10:50000", "[2001:db8::10]:50002"].map(|addr| RelayedAddr(addr.parse().unwrap()));
    server.sockets = relays.into_iter().zip(addresses).collect();
    server.engine.relay_bound(relays[0], Ok(addresses[0]), server.now);
    assert!(server.engine.poll_transmit().is_none(), "answered when both are known");
    server.engine.handle_client_gone(server.now, client(1));
    server.engine.relay_bound(relays[1], Ok(addresses[1]), server.now);
    server.waiting.clear();
    server.slow = false;
    assert!(server.settle().is_empty());
    assert_eq!((server.sockets.len(), server.engine.shared.seats()), (0, 0));
    assert_eq!(server.engine.counters().allocations_ended.total(), 0, "there was none");
}

#[test]
fn a_socket_that_cannot_be_bound_costs_one_client_one_answer() {
    let mut server = Server::new(|_| {});
    for (error, code) in [
        (BindError::PortsExhausted, 508),
        (BindError::System("EMFILE".into()), 508),
        (BindError::NotReserved, 508),
        (BindError::NoAddress, 440),
    ] {
        server.bind_error = Some(error);
        assert_eq!(server.allocate(client(1), |_| {}).code(), code);
        assert_eq!((server.engine.allocations(), server.engine.shared.seats()), (0, 0));
    }
    server.bind_error = None;
    assert_eq!(server.allocate(client(1), |_| {}).code(), 0);
}

#[test]
fn quotas_by_user_and_in_all() {
    let mut server = Server::new(|config| (config.user_quota, config.total_quota) = (Some(2), 3));
    server.allocated(client(1));
    server.allocated(client(2));
    assert_eq!(server.allocate(client(3), |_| {}).code(), 486);
    let mut bob =
        |port| server.request(client(port), "bob", Method::ALLOCATE, write(RequestedTransport::UDP)).code();
    assert_eq!((bob(3), bob(4)), (0, 508));
    server.request(client(1), "alice", Method::REFRESH, write(Lifetime(0)));
    assert_eq!(server.allocate(client(1), |_| {}).code(), 0);
}

#[test]
fn quotas_by_address_and_by_the_user_behind_rest_credentials() {
    let rest = RestSecrets::new(vec!["north".into()]);
    let carol = |expires| rest.mint("carol", expires).unwrap();
    let mut server = Server::new(|config| {
        let users = config.credentials.clone();
        let mut chain = Chain::default();
        chain.push(users);
        chain.push(Arc::new(rest.clone()));
        config.credentials = Arc::new(chain);
        (config.user_quota, config.address_quota) = (Some(2), Some(3));
    });
    let mut ask = |from, username: &str, password: &str| {
        let nonce = server.nonce(from);
        let key = LongTermKey::new(username, "thirl", password).integrity_key();
        let mut buffer = [0; 256];
        let id = server.transaction();
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, id).unwrap();
        write(RequestedTransport::UDP)(&mut writer);
        writer.attribute(&Username(username)).unwrap().attribute(&Realm("thirl")).unwrap();
        writer.attribute(&Nonce(&nonce)).unwrap().integrity(IntegrityAlgorithm::Sha1, &key).unwrap();
        let reply = server.deliver(from, writer.finish()).unwrap();
        assert!(reply.message().verify_integrity(&key).is_ok());
        reply.code()
    };
    for (port, expires) in [(1, 600), (2, 601)] {
        let EphemeralCredentials { username, password } = carol(UNIX + expires);
        assert_eq!(ask(client(port), &username, &password), 0);
    }
    let EphemeralCredentials { username, password } = carol(UNIX + 602);
    assert_eq!(ask(client_at(9, 3), &username, &password), 486, "new credentials are not a new user");
    assert_eq!(ask(client(4), "alice", PASSWORD), 0);
    assert_eq!(ask(client(5), "alice", PASSWORD), 486, "the address has its three");
    assert_eq!(ask(client_at(9, 5), "alice", PASSWORD), 0);
    let reasons = server.events.iter().filter_map(|event| match event {
        Event::Refused { refusal, .. } => Some(refusal.clone()),
        _ => None,
    });
    assert_eq!(reasons.collect::<Vec<_>>(), [Refusal::UserQuotaReached, Refusal::AddressQuotaReached]);
}

#[test]
fn a_pair_of_ports() {
    let mut server = Server::new(|_| {});
    let rtp = server.allocate(client(1), write(EvenPort { reserve: true }));
    let token = rtp.message().require::<ReservationToken>().unwrap();
    assert_eq!(rtp.relayed().port() % 2, 0);
    assert_eq!(server.engine.shared.seats(), 2, "a reservation counts");
    let rtcp = server.allocate(client(2), write(token));
    assert_eq!(rtcp.relayed().port(), rtp.relayed().port() + 1);
    assert_eq!((server.engine.shared.seats(), server.reserved.len()), (2, 0));
    assert_eq!(server.allocate(client(3), write(token)).code(), 508, "used up");
    server.pass(RESERVATION_LIFETIME);
    assert_eq!(server.sockets.len(), 2);
}

#[test]
fn a_reservation_expires() {
    let mut server = Server::new(|_| {});
    let rtp = server.allocate(client(1), write(EvenPort { reserve: true }));
    let token = rtp.message().require::<ReservationToken>().unwrap();
    server.request(client(1), "alice", Method::REFRESH, write(Lifetime(0)));
    server.pass(RESERVATION_LIFETIME - Duration::from_millis(1));
    assert_eq!(server.reserved.len(), 1);
    server.pass(Duration::from_millis(1));
    assert_eq!(
        (server.reserved.len(), server.engine.shared.seats(), server.engine.poll_timeout()),
        (0, 0, None)
    );
    assert_eq!(server.allocate(client(2), write(token)).code(), 508);
    let plain = server.allocate(client(2), write(EvenPort { reserve: false }));
    assert_eq!(plain.relayed().port() % 2, 0);
    assert!(plain.message().get::<ReservationToken>().unwrap().is_none());
    assert_eq!(server.reserved.len(), 0);
}

#[test]
fn a_reservation_may_be_used_at_another_engine_of_the_server() {
    let mut one = Server::new(|_| {});
    let other = Engine::with_shared(one.engine.config.clone(), one.engine.shared.clone(), [9; 32]);
    let rtp = one.allocate(client(1), write(EvenPort { reserve: true }));
    let token = rtp.message().require::<ReservationToken>().unwrap();
    let mut other = Server::around(other);
    other.reserved = std::mem::take(&mut one.reserved);
    let rtcp = other.allocate(client(2), write(token));
    assert_eq!(rtcp.relayed().port(), rtp.relayed().port() + 1);
    one.pass(RESERVATION_LIFETIME);
    assert_eq!(other.engine.shared.seats(), 2);
}

#[test]
fn the_same_client_over_two_transports_has_two_allocations() {
    let mut server = Server::new(|_| {});
    server.allocated(client(1));
    let tcp = FiveTuple { transport: Transport::Tcp, ..client(1) };
    server.allocated(tcp);
    server.engine.handle_client_gone(server.now, tcp);
    server.settle();
    assert_eq!((server.engine.allocations(), server.sockets.len()), (1, 1));
    assert!(matches!(
        server.events.last(),
        Some(Event::AllocationEnded { reason: EndReason::ClientGone, .. })
    ));
    assert!(server.engine.has_allocation(&client(1)) && !server.engine.has_allocation(&tcp));
}

#[test]
fn events_that_nobody_fetches_are_bounded() {
    let mut server = Server::new(|_| {});
    let request = server.signed(client(1), "mallory", Method::REFRESH, |_| {});
    for _ in 0..2000 {
        server.engine.handle_datagram(server.now, UNIX, client(1), &request);
        while server.engine.poll_transmit().is_some() {}
    }
    assert_eq!(server.engine.counters().dropped.events, 2000 - 1024);
}
