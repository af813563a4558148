//! The mapper against the simulated gateway.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use thirl_common::net::Transport;

use super::error::{MappingError, Protocol, ResultCode, UpnpError};
use super::event::{Event, MappingId, MappingRequest};
use super::simulated::{EXTERNAL, Gateway, Speaks, World};
use super::wire::{Request, Response};

const SOON: Duration = Duration::from_secs(5);
const HOUR: Duration = Duration::from_secs(3600);

fn request() -> MappingRequest {
    MappingRequest::new(Transport::Udp, 5000)
}

/// Which protocol maps, and to where.
fn mapped(world: &mut World) -> Option<(Protocol, SocketAddr)> {
    world.run(SOON, |event| match event {
        Event::Mapped { protocol, external, .. } => Some((*protocol, *external)),
        _ => None,
    })
}

fn failed(world: &mut World) -> Vec<(Protocol, MappingError)> {
    let failed = world.run(SOON, |event| match event {
        Event::Failed { reasons, .. } => Some(reasons.clone()),
        _ => None,
    });
    failed.expect("it fails")
}

fn only(protocol: Protocol) -> impl FnOnce(&mut Gateway) {
    move |gateway| {
        if protocol != Protocol::Pcp {
            gateway.pcp = Speaks::Nothing;
        }
        if protocol != Protocol::NatPmp {
            gateway.nat_pmp = Speaks::Nothing;
        }
        if protocol != Protocol::Upnp {
            gateway.upnp = None;
        }
    }
}

/// A world in which a mapping by this protocol stands.
fn standing(protocol: Protocol) -> (World, MappingId) {
    let mut world = World::new(only(protocol));
    let id = world.mapper.map(world.now, request());
    assert_eq!(mapped(&mut world), Some((protocol, SocketAddr::new(EXTERNAL, 5000))));
    world.events(SOON); // the others are given up
    (world, id)
}

#[test]
fn the_best_that_answers_is_taken() {
    for (settings, best) in [
        ((|_| {}) as fn(&mut Gateway), Protocol::Pcp),
        (|gateway| gateway.pcp = Speaks::OtherVersion, Protocol::NatPmp),
        (|gateway| gateway.pcp = Speaks::Nothing, Protocol::NatPmp),
        (|gateway| gateway.pcp = Speaks::Refusing(ResultCode::NotAuthorized), Protocol::NatPmp),
        (
            |gateway| {
                gateway.pcp = Speaks::Nothing;
                gateway.nat_pmp = Speaks::Nothing;
            },
            Protocol::Upnp,
        ),
        (|gateway| gateway.loses_every = 2, Protocol::Pcp),
    ] {
        let mut world = World::new(settings);
        world.mapper.map(world.now, request());
        assert_eq!(mapped(&mut world), Some((best, SocketAddr::new(EXTERNAL, 5000))));
    }
}

#[test]
fn a_silent_protocol_does_not_hold_up_one_that_answers() {
    let mut world = World::new(|gateway| gateway.pcp = Speaks::Nothing);
    let begin = world.now;
    world.mapper.map(begin, request());
    assert!(mapped(&mut world).is_some());
    assert!(world.now - begin <= Duration::from_millis(500), "{:?}", world.now - begin);
}

#[test]
fn every_protocol_is_reported() {
    let mut world = World::new(|gateway| gateway.nat_pmp = Speaks::Nothing);
    world.mapper.discover(world.now);
    let events = world.events(SOON);
    let silent = Event::Missing { protocol: Protocol::NatPmp, reason: MappingError::Silent };
    assert!(events.contains(&silent), "{events:?}");
    assert!(events.contains(&Event::Found { protocol: Protocol::Pcp, external: None }));
    assert!(events.contains(&Event::Found { protocol: Protocol::Upnp, external: Some(EXTERNAL) }));
    assert_eq!(events.len(), 3);
}

#[test]
fn a_gateway_without_anything_says_so_at_once_or_soon() {
    let mut world = World::new(only(Protocol::Pcp));
    world.gateway.pcp = Speaks::Nothing;
    world.mapper.map(world.now, request());
    let begin = world.now;
    let upnp = (Protocol::Upnp, MappingError::Upnp(UpnpError::NotFound));
    let udp = |reason: MappingError| [(Protocol::Pcp, reason.clone()), (Protocol::NatPmp, reason)];
    assert_eq!(failed(&mut world), [&udp(MappingError::Silent)[..], std::slice::from_ref(&upnp)].concat());
    assert!(world.now - begin <= Duration::from_secs(4), "{:?}", world.now - begin);

    world.mapper.discover(world.now);
    world.mapper.map(world.now, request());
    world.mapper.gateway_closed(world.now);
    assert_eq!(failed(&mut world), [&udp(MappingError::Closed)[..], &[upnp]].concat());
}

#[test]
fn a_refusal_is_told_in_the_gateways_words() {
    let mut world = World::new(|gateway| {
        gateway.pcp = Speaks::Refusing(ResultCode::NotAuthorized);
        gateway.nat_pmp = Speaks::Refusing(ResultCode::NoResources);
        gateway.upnp = Some(Err(UpnpError::NotAuthorized));
    });
    world.mapper.map(world.now, request());
    let reasons = [
        (Protocol::Pcp, MappingError::Refused(ResultCode::NotAuthorized)),
        (Protocol::NatPmp, MappingError::Refused(ResultCode::NoResources)),
        (Protocol::Upnp, MappingError::Upnp(UpnpError::NotAuthorized)),
    ];
    assert_eq!(failed(&mut world), reasons);
}

#[test]
fn a_refusal_may_name_the_external_address() {
    let mut world = World::new(|gateway| {
        gateway.pcp = Speaks::Refusing(ResultCode::NoResources);
        gateway.external = IpAddr::V4(Ipv4Addr::new(100, 64, 255, 6));
        gateway.names_it_always = true;
    });
    world.mapper.map(world.now, MappingRequest { protocol: Some(Protocol::Pcp), ..request() });
    let named = Event::Found { protocol: Protocol::Pcp, external: Some(world.gateway.external) };
    assert!(world.events(SOON).contains(&named));
}

#[test]
fn a_protocol_can_be_asked_for() {
    let mut world = World::new(|_| {});
    for protocol in Protocol::ALL {
        let internal_port = 6000 + protocol as u16;
        let request = MappingRequest { internal_port, protocol: Some(protocol), ..request() };
        world.mapper.map(world.now, request);
        assert_eq!(mapped(&mut world), Some((protocol, SocketAddr::new(EXTERNAL, internal_port))));
    }
}

#[test]
fn every_mapping_is_renewed_in_time() {
    for protocol in Protocol::ALL {
        let (mut world, id) = standing(protocol);
        let begin = world.now;
        for _ in 0..3 {
            let renewed = |event: &Event| matches!(event, Event::Renewed { .. }).then_some(());
            world.run(2 * HOUR, renewed).expect("it is renewed");
            let until = world.gateway.mappings[&(false, 5000)].until;
            assert_eq!(until - world.now, 2 * HOUR, "{protocol}");
        }
        let expected = 3 * HOUR..=3 * HOUR * 5 / 4 + SOON;
        assert!(expected.contains(&(world.now - begin)), "{protocol}: {:?}", world.now - begin);
        world.mapper.remove(world.now, id);
        let events = world.events(SOON);
        assert_eq!(events, [Event::Removed { mapping: id, result: Ok(()) }], "{protocol}");
        assert!(world.gateway.mappings.is_empty(), "{protocol}");
        assert_eq!(world.mapper.poll_timeout(), None, "nothing is left to do");
    }
}

#[test]
fn a_reboot_is_noticed_and_mended() {
    for protocol in [Protocol::Pcp, Protocol::NatPmp] {
        let (mut world, _) = standing(protocol);
        let other = world.mapper.map(world.now, MappingRequest { internal_port: 5001, ..request() });
        assert!(mapped(&mut world).is_some());
        assert_eq!(world.events(Duration::from_secs(600)), [], "{protocol}: all is quiet");
        world.gateway.reboot(world.now);
        world.mapper.check(world.now);
        let events = world.events(SOON);
        assert_eq!(world.gateway.mappings.len(), 2, "{protocol}: {events:?}");
        // Elsewhere after the next one, since somebody was faster.
        world.gateway.reboot(world.now);
        world.gateway.taken = vec![5001];
        world.mapper.check(world.now);
        let moved = world.run(SOON, |event| match event {
            Event::Mapped { mapping, external, .. } => Some((*mapping, external.port())),
            _ => None,
        });
        assert_eq!(moved, Some((other, 5002)), "{protocol}");
    }
}

#[test]
fn a_reboot_is_noticed_by_a_renewal_at_the_latest() {
    for protocol in Protocol::ALL {
        let (mut world, _) = standing(protocol);
        world.gateway.reboot(world.now + SOON);
        world.events(2 * HOUR);
        assert_eq!(world.gateway.mappings.len(), 1, "{protocol}");
    }
}

#[test]
fn a_gateway_that_stays_silent_loses_the_mapping() {
    let (mut world, id) = standing(Protocol::Pcp);
    world.gateway.pcp = Speaks::Nothing;
    let begin = world.now;
    let sent = world.gateway.received.len();
    let lost = world.run(3 * HOUR, |event| (*event == Event::Lost { mapping: id }).then_some(()));
    assert!(lost.is_some() && world.now - begin <= 2 * HOUR);
    assert!(world.gateway.received.len() - sent < 60, "{}", world.gateway.received.len());
    let reasons = failed(&mut world);
    assert!(reasons.contains(&(Protocol::Pcp, MappingError::Silent)), "{reasons:?}");
}

#[test]
fn a_short_silence_or_a_passing_error_does_not() {
    for trouble in [Speaks::Nothing, Speaks::Refusing(ResultCode::NetworkFailure)] {
        let (mut world, _) = standing(Protocol::Pcp);
        world.gateway.pcp = trouble;
        assert_eq!(world.events(HOUR * 5 / 4), [], "the first renewals fail: {trouble:?}");
        world.gateway.pcp = Speaks::Well;
        let renewed = world.run(HOUR, |event| matches!(event, Event::Renewed { .. }).then_some(()));
        assert!(renewed.is_some(), "{trouble:?}");
    }
}

#[test]
fn a_mapping_that_is_refused_later_is_made_by_another() {
    let mut world = World::new(|_| {});
    let id = world.mapper.map(world.now, request());
    assert_eq!(mapped(&mut world).unwrap().0, Protocol::Pcp);
    world.gateway.pcp = Speaks::Refusing(ResultCode::NotAuthorized);
    let lost = world.run(2 * HOUR, |event| (*event == Event::Lost { mapping: id }).then_some(()));
    assert!(lost.is_some());
    assert_eq!(mapped(&mut world).unwrap().0, Protocol::NatPmp);
}

#[test]
fn a_new_external_address_is_told() {
    for protocol in Protocol::ALL {
        let (mut world, _) = standing(protocol);
        world.gateway.external = IpAddr::V4(Ipv4Addr::new(11, 0, 0, 99));
        let moved = world.run(2 * HOUR, |event| match event {
            Event::Mapped { external, .. } => Some(external.ip()),
            _ => None,
        });
        assert_eq!(moved, Some(world.gateway.external), "{protocol}");
    }
}

#[test]
fn upnp_takes_another_port_or_a_permanent_lease() {
    let mut world = World::new(|gateway| {
        only(Protocol::Upnp)(gateway);
        gateway.taken = vec![5000];
    });
    world.mapper.map(world.now, request());
    let (_, external) = mapped(&mut world).unwrap();
    assert!(external.port() >= 1024 && external.port() != 5000);

    let mut world = World::new(|gateway| {
        only(Protocol::Upnp)(gateway);
        gateway.upnp = Some(Err(UpnpError::OnlyPermanent));
    });
    world.mapper.map(world.now, request());
    assert!(mapped(&mut world).is_some());
    world.mapper.map(world.now, MappingRequest { permanent: false, internal_port: 1, ..request() });
    let reasons = failed(&mut world);
    assert!(reasons.contains(&(Protocol::Upnp, MappingError::Upnp(UpnpError::OnlyPermanent))));

    // Where ports cannot change, one that is taken is the end.
    let mut world = World::new(|gateway| {
        only(Protocol::Upnp)(gateway);
        gateway.upnp = Some(Err(UpnpError::SamePortRequired));
    });
    world.mapper.map(world.now, request());
    assert!(mapped(&mut world).is_some(), "the same port is the first that is tried");
}

#[test]
fn a_mapping_can_be_given_up_at_any_time() {
    for protocol in Protocol::ALL {
        for asked in [false, true] {
            let mut world = World::new(only(protocol));
            let id = world.mapper.map(world.now, request());
            if asked {
                let found = |event: &Event| matches!(event, Event::Found { .. }).then_some(());
                assert!(world.run(SOON, found).is_some());
            }
            world.mapper.remove(world.now, id);
            let removed = Event::Removed { mapping: id, result: Ok(()) };
            assert!(world.events(SOON).contains(&removed), "{protocol}");
            assert!(world.gateway.mappings.is_empty(), "{protocol}");
        }
    }
}

#[test]
fn strangers_and_liars_are_not_heard() {
    let mut world = World::new(only(Protocol::Pcp));
    world.gateway.pcp = Speaks::Nothing;
    let request = MappingRequest { protocol: Some(Protocol::Pcp), ..request() };
    world.mapper.map(world.now, request);
    let announced = Response::Pcp { result: ResultCode::Success, lifetime: 0, epoch: 1, map: None };
    for stranger in ["192.168.1.3:5351", "192.168.1.1:5350"] {
        world.mapper.handle_datagram(world.now, stranger.parse().unwrap(), &announced.encode());
        assert_eq!(world.mapper.poll_event(), None);
    }
    let gateway = "192.168.1.1:5351".parse().unwrap();
    world.mapper.handle_datagram(world.now, gateway, &announced.encode());
    assert!(world.mapper.poll_event().is_some(), "the gateway is");
    let sent = std::iter::from_fn(|| world.mapper.poll_transmit()).last().unwrap();
    let Some(Request::Map { map, .. }) = Request::parse(&sent.payload) else { panic!("{sent:?}") };
    let answer = |map| Response::Pcp { result: ResultCode::Success, lifetime: 60, epoch: 1, map: Some(map) };
    let mut forged = map;
    forged.nonce.0[0] ^= 1;
    world.mapper.handle_datagram(world.now, gateway, &answer(forged).encode());
    assert_eq!(world.mapper.poll_event(), None, "another nonce");
    world.mapper.handle_datagram(world.now, gateway, &answer(map).encode());
    let reasons = failed(&mut world);
    assert_eq!(reasons, [(Protocol::Pcp, MappingError::Nonsense)], "granted, but with no address");
}
