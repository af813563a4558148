//! Who is sent to another server, and where: 300, and 508 where there is none.

use std::collections::BTreeMap;

use thirl_common::net::{ExternalIp, FiveTuple, Transport};
use thirl_common::wire::*;

use crate::engine::testing::*;
use crate::engine::*;

fn alternates(addrs: &[&str]) -> Vec<Alternate> {
    addrs.iter().map(|addr| Alternate { addr: addr.parse().unwrap(), domain: None }).collect()
}

fn server(configure: impl FnOnce(&mut Redirects)) -> Server {
    Server::new(|config| configure(&mut config.redirects))
}

/// Where an Allocate is sent: the response is signed, as [`Server::request`] sees to.
fn sent_to(server: &mut Server, from: FiveTuple) -> Option<String> {
    let reply = server.allocate(from, |_| {});
    let to = reply.message().get::<AlternateServer>().unwrap().map(|AlternateServer(to)| to.to_string());
    assert_eq!(reply.code(), if to.is_some() { 300 } else { 0 });
    to
}

#[test]
fn who_is_authenticated_is_sent_on_and_strangers_are_challenged() {
    let mut server = server(|redirects| redirects.plain = alternates(&["198.51.100.7:3478"]));
    let mut buffer = [0; 64];
    let id = server.transaction();
    let mut request = MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, id).unwrap();
    request.attribute(&RequestedTransport::UDP).unwrap();
    let reply = server.deliver(client(1), request.finish()).unwrap();
    assert_eq!((reply.code(), reply.0.len()), (401, 64));
    assert_eq!(sent_to(&mut server, client(1)).as_deref(), Some("198.51.100.7:3478"));
    assert_eq!((server.engine.allocations(), server.engine.shared.seats(), server.sockets.len()), (0, 0, 0));
    assert_eq!(server.engine.counters().redirected, 1);
    assert!(server.events.is_empty(), "that is how it is meant to be");
}

#[test]
fn each_client_has_its_server_and_the_servers_have_like_many() {
    let all = ["198.51.100.1:3478", "198.51.100.2:3478", "198.51.100.3:3478"];
    let mut server_of_three = server(|redirects| redirects.plain = alternates(&all));
    let mut server_of_two = server(|redirects| redirects.plain = alternates(&[all[2], all[0]]));
    let mut share = BTreeMap::new();
    for last in 0..=254 {
        let to = sent_to(&mut server_of_three, client_at(last, 1)).unwrap();
        assert_eq!(
            sent_to(&mut server_of_three, client_at(last, 2)).as_ref(),
            Some(&to),
            "whatever its port"
        );
        if to != all[1] {
            assert_eq!(sent_to(&mut server_of_two, client_at(last, 1)).as_ref(), Some(&to));
        }
        *share.entry(to).or_insert(0) += 1;
    }
    assert!(share.len() == 3 && share.values().all(|clients| (50..120).contains(clients)), "{share:?}");
}

#[test]
fn by_family_and_by_transport() {
    let mut server = server(|redirects| {
        redirects.plain = alternates(&["198.51.100.1:3478", "[2001:db8::5]:3478"]);
        redirects.secure = alternates(&["198.51.100.1:5349"]);
        redirects.secure[0].domain = Some("turn2.example.org".into());
    });
    let mut tls = client(1);
    tls.transport = Transport::Tls;
    let reply = server.allocate(tls, |_| {});
    assert_eq!(reply.message().require::<AlternateServer>().unwrap().0, "198.51.100.1:5349".parse().unwrap());
    assert_eq!(reply.message().require::<AlternateDomain<'_>>().unwrap().0, "turn2.example.org");
    let mut v6 = client(1);
    v6.client.0 = "[2001:db8:7::1]:40000".parse().unwrap();
    v6.server.0 = "[2001:db8::10]:3478".parse().unwrap();
    assert_eq!(sent_to(&mut server, v6).as_deref(), Some("[2001:db8::5]:3478"));
    v6.transport = Transport::Dtls;
    assert_eq!(sent_to(&mut server, v6), None, "there is none for it: it is served here");
}

#[test]
fn a_server_in_its_own_list_keeps_its_share() {
    let mut behind_nat = server(|redirects| {
        redirects.plain = alternates(&["192.0.2.200:3478", "198.51.100.2:3478"]);
        let external = "192.0.2.200".parse().unwrap();
        redirects.external = vec![ExternalIp { external, local: None }];
    });
    let kept = (0..=254).filter(|last| sent_to(&mut behind_nat, client_at(*last, 1)).is_none()).count();
    assert!((80..175).contains(&kept), "{kept}");
    assert_eq!(behind_nat.engine.allocations(), kept);
}

#[test]
fn who_has_no_room_sends_elsewhere_whom_it_would_refuse() {
    let full = |redirects: &mut Redirects| {
        redirects.plain = alternates(&["198.51.100.2:3478"]);
        redirects.when = RedirectWhen::Full;
    };
    let mut quota = Server::new(|config| {
        full(&mut config.redirects);
        (config.user_quota, config.total_quota) = (Some(1), 2);
    });
    quota.allocated(client(1));
    assert_eq!(quota.allocate(client(2), |_| {}).code(), 486, "the user's own limit holds elsewhere too");
    let mut bob = |port| {
        quota.request(client(port), "bob", Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP).unwrap();
        })
    };
    assert_eq!((bob(2).code(), bob(3).code()), (0, 300));
    let mut ports = server(full);
    ports.bind_error = Some(BindError::PortsExhausted);
    assert_eq!(sent_to(&mut ports, client(1)).as_deref(), Some("198.51.100.2:3478"));
    ports.bind_error = Some(BindError::NoAddress);
    assert_eq!(ports.allocate(client(1), |_| {}).code(), 440);
    assert_eq!(ports.engine.shared.seats(), 0);
}

#[test]
fn a_server_that_drains_keeps_what_it_has_and_takes_no_more() {
    for (alternate, code) in [(&["198.51.100.2:3478"][..], 300), (&[], 508)] {
        let mut server = server(|redirects| {
            redirects.plain = alternates(alternate);
            redirects.when = RedirectWhen::Full;
        });
        let pair = server.allocate(client(1), |writer| {
            writer.attribute(&EvenPort { reserve: true }).unwrap();
        });
        let token = pair.message().require::<ReservationToken>().unwrap();
        server.engine.drain();
        assert_eq!(server.allocate(client(2), |_| {}).code(), code);
        let reserved = server.allocate(client(3), |writer| {
            writer.attribute(&token).unwrap();
        });
        assert_eq!(reserved.code(), 0, "its port is here and nowhere else");
        assert_eq!(server.request(client(1), "alice", Method::REFRESH, |_| {}).code(), 0);
        assert_eq!((server.engine.allocations(), server.engine.shared.is_draining()), (2, true));
    }
}
