//! What a gateway answers, and the routing table that names it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::net::Transport;
use thirl_ice_agent::port_mapping::routes::{ipv4_default, ipv6_default};
use thirl_ice_agent::port_mapping::wire::{Request, Response};
use thirl_ice_agent::port_mapping::{Action, MappingRequest, PortMapper, UpnpError};

/// What is read of PCP and NAT-PMP is written as what is read as the same; and no sequence of answers makes the client
/// ask without end or wait for a time that is past. The input is a sequence of datagrams, each after its length.
pub fn port_mapping(data: &[u8]) {
    let gateway: SocketAddr = "192.168.1.1:5351".parse().unwrap();
    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    let mut now = Instant::now();
    let mut mapper = PortMapper::new(gateway, "192.168.1.2:40000".parse().unwrap(), [0; 32]);
    for (transport, port) in [(Transport::Udp, 5000), (Transport::Tcp, 5001)] {
        mapper.map(now, MappingRequest::new(transport, port));
    }
    let mut rest = data;
    while let Some((&len, after)) = rest.split_first() {
        let (datagram, after) = after.split_at(usize::from(len).min(after.len()));
        rest = after;
        there_and_back(datagram);
        mapper.handle_datagram(now, gateway, datagram);
        drain(&mut mapper, now);
        let Some(timeout) = mapper.poll_timeout() else { return };
        assert!(timeout > now, "a time that is past");
        now = timeout;
        mapper.handle_timeout(now);
        drain(&mut mapper, now);
    }
}

fn there_and_back(datagram: &[u8]) {
    if let Some(response) = Response::parse(datagram) {
        assert_eq!(Response::parse(&response.encode()), Some(response));
    }
    if let Some(request) = Request::parse(datagram) {
        assert_eq!(Request::parse(&request.encode()), Some(request));
    }
}

fn drain(mapper: &mut PortMapper, now: Instant) {
    let sent = std::iter::from_fn(|| mapper.poll_transmit()).count();
    let events = std::iter::from_fn(|| mapper.poll_event()).count();
    assert!(sent <= 16 && events <= 16, "{sent} datagrams and {events} events at a time");
    while let Some(action) = mapper.poll_action() {
        match action {
            Action::FindUpnp => mapper.upnp_found(now, Err(UpnpError::NotFound)),
            Action::MapUpnp(map) => mapper.upnp_mapped(now, map, Err(UpnpError::NotFound)),
            Action::RemoveUpnp(map) => mapper.upnp_removed(map, Ok(())),
        }
    }
    assert!(mapper.poll_timeout().is_none_or(|timeout| timeout <= now + Duration::from_secs(86_400)));
}

/// A default route has a router and an interface.
pub fn routes(data: &[u8]) {
    let table = String::from_utf8_lossy(data);
    for (route, ipv4) in [(ipv4_default(&table), true), (ipv6_default(&table), false)] {
        let Some(route) = route else { continue };
        assert!(route.gateway.is_ipv4() == ipv4 && !route.gateway.is_unspecified());
        assert!(!route.interface.is_empty() && !route.interface.contains(|c: char| c.is_ascii_whitespace()));
    }
}
