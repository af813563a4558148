//! Our TURN client against coturn, one step at a time: families, tickets, and what a server that restarts says.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use thirl_common::net::Transport;
use thirl_ice_agent::turn::{Families, TurnClient, TurnClientConfig, TurnCredentials, TurnError, TurnEvent};
use thirl_tests::harness::{self, Coturn};
use thirl_tests::requires;

const LIMIT: Duration = Duration::from_secs(30);
const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// The client with a socket, and time as it is.
struct Driven {
    turn: TurnClient,
    socket: UdpSocket,
    server: SocketAddr,
    events: Vec<TurnEvent>,
    received: Vec<Vec<u8>>,
}

impl Driven {
    fn new(server: SocketAddr, families: Families, mobile: bool) -> Driven {
        let socket = socket(server);
        let config = TurnClientConfig {
            server,
            transport: Transport::Udp,
            local: socket.local_addr().unwrap(),
            credentials: TurnCredentials::password("alice", "secret"),
            families,
            mobile,
        };
        let mut turn = TurnClient::new(config, [7; 32]);
        turn.start(now());
        Driven { turn, socket, server, events: Vec::new(), received: Vec::new() }
    }

    /// Goes on until something is so.
    fn until(&mut self, mut done: impl FnMut(&Driven) -> bool) {
        let end = now() + LIMIT;
        let mut buffer = [0; 2048];
        while !done(self) {
            assert!(now() < end, "{:?}", self.events);
            while let Some(bytes) = self.turn.poll_transmit() {
                self.socket.send_to(&bytes, self.server).unwrap();
            }
            self.events.extend(std::iter::from_fn(|| self.turn.poll_event()));
            let next = self.turn.poll_timeout().unwrap_or(end).saturating_duration_since(now());
            self.socket
                .set_read_timeout(Some(next.clamp(Duration::from_millis(1), Duration::from_millis(100))))
                .unwrap();
            match self.socket.recv(&mut buffer) {
                Ok(len) => {
                    let received = self.turn.handle_input(now(), &buffer[..len]);
                    self.received.extend(received.map(|received| received.data.to_vec()));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                // A server that is gone: ICMP says so.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => panic!("{error}"),
            }
            self.turn.handle_timeout(now());
        }
    }

    /// The relayed transport addresses.
    fn allocated(&mut self) -> Vec<SocketAddr> {
        self.until(|client| !client.events.is_empty());
        match self.events.remove(0) {
            TurnEvent::Allocated { relayed, additional, .. } => {
                [Some(relayed), additional].into_iter().flatten().collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// Whether what goes to a peer, who sends it back, comes back.
    fn echoes(&mut self, ip: IpAddr) {
        let peer = UdpSocket::bind((ip, 0)).unwrap();
        peer.set_read_timeout(Some(LIMIT)).unwrap();
        let addr = peer.local_addr().unwrap();
        self.turn.allow(now(), ip);
        self.until(|client| client.turn.is_allowed(ip));
        self.turn.send(now(), addr, b"ping").unwrap();
        self.until(|client| client.turn.has_channel(addr));
        let mut buffer = [0; 16];
        let (len, from) = peer.recv_from(&mut buffer).unwrap();
        peer.send_to(&buffer[..len], from).unwrap();
        self.until(|client| client.received.contains(&b"ping".to_vec()));
        self.received.clear();
    }
}

fn socket(server: SocketAddr) -> UdpSocket {
    UdpSocket::bind((if server.is_ipv4() { V4 } else { V6 }, 0)).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a driver reads the clock")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn one_allocation_relays_both_families() {
    requires!(harness::installed("turnserver", "coturn", "is the TURN server of others"));
    let server = Coturn::start_on(&[V4, V6], &[]).unwrap();
    let mut client = Driven::new(server.addr(), Families::Both, false);
    let relayed = client.allocated();
    assert_eq!(relayed.iter().map(SocketAddr::is_ipv4).collect::<Vec<_>>(), [true, false], "{relayed:?}");
    client.echoes(V4);
    client.echoes(V6);
    // From an IPv6 client, an IPv6 address.
    let mut client = Driven::new((V6, server.port).into(), Families::Ipv6, false);
    assert!(client.allocated()[0].is_ipv6());
    client.echoes(V6);
}

#[test]
fn where_there_is_one_family_that_one_is_had() {
    requires!(harness::installed("turnserver", "coturn", "is the TURN server of others"));
    let server = Coturn::start(&[]).unwrap();
    let mut client = Driven::new(server.addr(), Families::Both, true);
    let relayed = client.allocated();
    assert!(matches!(relayed[..], [one] if one.is_ipv4()), "{relayed:?}");
    client.echoes(V4);
    assert!(!client.turn.is_mobile(), "it was not let");
    let mut client = Driven::new(server.addr(), Families::Ipv6, false);
    client.until(|client| !client.events.is_empty());
    assert_eq!(client.events, [TurnEvent::Failed { reason: TurnError::FamilyNotSupported }]);
}

#[test]
fn an_allocation_moves_with_its_ticket() {
    requires!(harness::installed("turnserver", "coturn", "is the TURN server of others"));
    let server = Coturn::start(&["--mobility"]).unwrap();
    let mut client = Driven::new(server.addr(), Families::Ipv4, true);
    client.allocated();
    client.echoes(V4);
    for _ in 0..2 {
        assert!(client.turn.is_mobile());
        client.socket = socket(server.addr());
        assert!(client.turn.move_to(now(), client.socket.local_addr().unwrap(), Transport::Udp));
        client.until(|client| client.events.iter().any(|event| matches!(event, TurnEvent::Moved { .. })));
        client.events.clear();
        client.echoes(V4);
    }
}

#[test]
fn a_quota_and_a_server_that_forgot_are_called_by_their_names() {
    requires!(harness::installed("turnserver", "coturn", "is the TURN server of others"));
    let server = Coturn::start(&["--user-quota", "1"]).unwrap();
    let mut first = Driven::new(server.addr(), Families::Ipv4, false);
    first.allocated();
    let mut second = Driven::new(server.addr(), Families::Ipv4, false);
    second.until(|client| !client.events.is_empty());
    assert_eq!(second.events, [TurnEvent::Failed { reason: TurnError::QuotaReached }]);
    // Another server at another port knows as little of the allocation as one that has restarted.
    let other = Coturn::start(&[]).unwrap();
    first.server = other.addr();
    first.turn.refresh(now());
    first.until(|client| !client.events.is_empty());
    assert_eq!(first.events, [TurnEvent::Lost { reason: TurnError::AllocationMismatch }]);
}
