//! Clients that come, go, vanish, retransmit and lie, at random by a seed that is printed, against `turn-relay` as a process:
//! afterwards its memory is what it was, every relay port can be bound, and every counter adds up.
//!
//! One minute with 500 allocations; `cargo xtask soak --minutes 10` is longer, with 5,000.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::env;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use thirl_common::wire::{
    ChannelNumber, Lifetime, Message, MessageWriter, Method, RequestedTransport, XorPeerAddress,
};
use thirl_tests::harness::turn::{Login, RawClient, code, send_indication, stranger};
use thirl_tests::harness::{Deadline, Relay, http_get};

const LIMIT: Duration = Duration::from_secs(30);
/// Below those that the system hands out.
const FIRST_PORT: u16 = 20_000;
/// What an allocator's heaps swing by, in bytes, up and down: seen are 6.0 to 6.6 MB at the ends of cycles. It does not grow
/// with time, so that what each allocation leaves comes to light.
const SWING: u64 = 768 << 10;
/// The server gives memory back within a second of an allocation's end.
const SETTLED: Duration = Duration::from_secs(3);
/// What is sent to peers.
const HELLO: &[u8] = b"hello";
/// Whom no permission is for.
const STRANGER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)), 9);

/// What the clients did, as the server has to have counted it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    created: u64,
    ended: u64,
    to_peer: u64,
    to_client: u64,
    to_peer_not_permitted: u64,
    no_channel: u64,
    no_allocation: u64,
    malformed: u64,
}

/// One that has an allocation, and may have been forgotten by whoever made it.
struct Client {
    raw: RawClient,
    relayed: SocketAddr,
    /// Signed once, and said again by a client that heard no answer.
    request: Vec<u8>,
    channel: bool,
}

struct Soak {
    relay: Relay,
    metrics: SocketAddr,
    peer: UdpSocket,
    rng: StdRng,
    clients: Vec<Client>,
    /// Nobody sends from them any more, and the server does not know. They come back to end what they left.
    vanished: Vec<Client>,
    tally: Tally,
}

impl Soak {
    fn start(seed: u64, allocations: u16) -> Soak {
        let last_port = FIRST_PORT + 2 * allocations;
        let ports = [FIRST_PORT.to_string(), last_port.to_string()];
        let mut relay = Relay::start(&[
            "--relay-threads",
            "2",
            "--allowed-peer-ip",
            "127.0.0.1",
            "--min-port",
            &ports[0],
            "--max-port",
            &ports[1],
            "--prometheus",
            "true",
            "--prometheus-port",
            "0",
            "--rate-limit",
            "1000000",
        ])
        .unwrap();
        let log = relay.program.output();
        let said = log.lines().find(|line| line.contains("metrics are served")).map(str::to_owned);
        let said = said.unwrap_or_else(|| relay.program.wait_for_line("metrics are served", LIMIT).unwrap());
        let metrics = said.split_once("addr=").unwrap().1.split_whitespace().next().unwrap().parse().unwrap();
        let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        peer.set_read_timeout(Some(LIMIT)).unwrap();
        let rng = StdRng::seed_from_u64(seed);
        let (clients, vanished) = (Vec::new(), Vec::new());
        Soak { relay, metrics, peer, rng, clients, vanished, tally: Tally::default() }
    }

    /// Fills up, churns until the deadline or for so many steps, and ends everything.
    fn cycle(&mut self, allocations: usize, steps: usize, deadline: Deadline) {
        for step in 0.. {
            if step >= steps || deadline.has_passed() {
                break;
            }
            match self.clients.len() + self.vanished.len() {
                there if there >= allocations => self.leave_or_return(),
                _ if self.clients.is_empty() || self.rng.random_bool(0.4) => self.come(),
                _ => self.act(),
            }
        }
        while !self.clients.is_empty() || !self.vanished.is_empty() {
            self.leave_or_return();
        }
    }

    fn come(&mut self) {
        let mut raw = self.relay.client(Ipv4Addr::LOCALHOST).unwrap();
        raw.log_in().unwrap();
        let request = raw.login.sign(Method::ALLOCATE, |writer| {
            drop(writer.attribute(&RequestedTransport::UDP));
            drop(writer.attribute(&Lifetime(3600)));
        });
        let response = raw.ask(&request).unwrap();
        let response = Message::parse(&response).unwrap();
        let relayed = response.require::<thirl_common::wire::XorRelayedAddress>().unwrap().0;
        assert_eq!(raw.permit(self.peer.local_addr().unwrap()).unwrap(), 0);
        self.tally.created += 1;
        self.clients.push(Client { raw, relayed, request, channel: false });
        if self.rng.random_bool(0.05) {
            self.connect_and_vanish();
        }
    }

    /// By TCP the server sees at once that a client is gone.
    fn connect_and_vanish(&mut self) {
        let mut stream = TcpStream::connect(self.relay.addr).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let login = &self.clients.last().unwrap().raw.login;
        let request = login.sign(Method::ALLOCATE, |writer| drop(writer.attribute(&RequestedTransport::UDP)));
        stream.write_all(&request).unwrap();
        let mut response = [0; 20];
        stream.read_exact(&mut response).unwrap();
        assert_eq!(response[..2], [1, 3], "a success of Allocate");
        self.tally.created += 1;
        self.tally.ended += 1;
    }

    fn leave_or_return(&mut self) {
        let from_vanished = self.clients.is_empty() || !self.vanished.is_empty() && self.rng.random_bool(0.5);
        let clients = if from_vanished { &mut self.vanished } else { &mut self.clients };
        let client = clients.swap_remove(self.rng.random_range(0..clients.len()));
        let ended = client.raw.request(Method::REFRESH, |writer| drop(writer.attribute(&Lifetime(0))));
        assert_eq!(ended.unwrap(), 0);
        self.tally.ended += 1;
        // What it sends now is nobody's.
        client.raw.send(&send_indication(self.peer.local_addr().unwrap(), HELLO)).unwrap();
        assert_eq!(client.raw.request(Method::REFRESH, |_| {}).unwrap(), 437);
        self.tally.no_allocation += 1;
    }

    fn act(&mut self) {
        let at = self.rng.random_range(0..self.clients.len());
        let peer = self.peer.local_addr().unwrap();
        match self.rng.random_range(0..10) {
            0 => {
                let client = self.clients.swap_remove(at);
                self.vanished.push(client);
            }
            1 => {
                let client = &self.clients[at];
                let lifetime = |writer: &mut MessageWriter<'_>| drop(writer.attribute(&Lifetime(3600)));
                assert_eq!(client.raw.request(Method::REFRESH, lifetime).unwrap(), 0);
            }
            2 => {
                let client = &self.clients[at];
                assert_eq!(code(&client.raw.ask(&client.request).unwrap()), 0, "retransmitted");
            }
            3 => {
                let client = &mut self.clients[at];
                let bind = |writer: &mut MessageWriter<'_>| {
                    drop(writer.attribute(&ChannelNumber::new(0x4000).unwrap()));
                    drop(writer.attribute(&XorPeerAddress(peer)));
                };
                assert_eq!(client.raw.request(Method::CHANNEL_BIND, bind).unwrap(), 0);
                client.channel = true;
            }
            4 => self.lie(at),
            _ => self.echo(at),
        }
    }

    fn echo(&mut self, at: usize) {
        let client = &self.clients[at];
        let by_channel = client.channel && self.rng.random_bool(0.5);
        let datagram = match by_channel {
            true => [[0x40, 0, 0, 5].as_slice(), b"hello"].concat(),
            false => send_indication(self.peer.local_addr().unwrap(), HELLO),
        };
        client.raw.send(&datagram).unwrap();
        let mut buffer = [0; 64];
        let (len, from) = self.peer.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (b"hello".as_slice(), client.relayed));
        self.peer.send_to(b"hello", from).unwrap();
        let received = client.raw.receive().unwrap();
        assert!(received.windows(5).any(|part| part == b"hello"));
        self.tally.to_peer += 1;
        self.tally.to_client += 1;
    }

    /// None of it is to have an effect; a request whose answer comes marks the end.
    fn lie(&mut self, at: usize) {
        let client = &self.clients[at].raw;
        match self.rng.random_range(0..6) {
            0 => {
                let wrong = Login { password: "guessed".to_owned(), ..client.login.clone() };
                let request = wrong.sign(Method::REFRESH, |writer| drop(writer.attribute(&Lifetime(0))));
                assert_eq!(code(&client.ask(&request).unwrap()), 401);
            }
            1 => {
                client.send(&send_indication(STRANGER, HELLO)).unwrap();
                self.tally.to_peer_not_permitted += 1;
            }
            2 => {
                client.send(&[0x4F, 0xF0, 0, 1, 7]).unwrap();
                self.tally.no_channel += 1;
            }
            3 => {
                client.send(&[7; 33]).unwrap();
                self.tally.malformed += 1;
            }
            4 => {
                let stale = Login { nonce: "0123456789abcdef0123".to_owned(), ..client.login.clone() };
                assert_eq!(code(&client.ask(&stale.sign(Method::REFRESH, |_| {})).unwrap()), 438);
            }
            _ => assert_eq!(client.permit(SocketAddr::from(([10, 0, 0, 1], 9))).unwrap(), 403),
        }
        assert_eq!(code(&client.ask(&stranger(Method::REFRESH, |_| {})).unwrap()), 401);
    }

    /// What is left of its memory when the server has given back what it can, a while after the last allocation has ended:
    /// when it has not become less for some time.
    #[expect(clippy::disallowed_methods, reason = "the condition is that nothing changes any more")]
    fn memory_left(&self) -> u64 {
        let mut least = u64::MAX;
        let mut quiet = Deadline::after(SETTLED);
        while !quiet.has_passed() {
            let memory = self.relay.memory().unwrap();
            if memory < least {
                (least, quiet) = (memory, Deadline::after(SETTLED));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        least
    }

    /// What the server counted. Those that a TCP client left are ended when its connection's end is seen.
    fn counted(&self) -> Tally {
        let deadline = Deadline::after(LIMIT);
        loop {
            let (_, text) = http_get(self.metrics, "/metrics").unwrap();
            let of = |name: &str| {
                let matching = text.lines().filter(|line| line.starts_with(&format!("thirl_{name}")));
                matching.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
            };
            if of("allocations ") == 0 || deadline.has_passed() {
                assert_eq!(
                    of("allocations_created_total"),
                    of("allocations_ended_total") + of("allocations ")
                );
                assert_eq!(of("relay_sockets "), 0);
                return Tally {
                    created: of("allocations_created_total"),
                    ended: of("allocations_ended_total"),
                    to_peer: of("relayed_packets_total{direction=\"to_peer\"}"),
                    to_client: of("relayed_packets_total{direction=\"to_client\"}"),
                    to_peer_not_permitted: of("dropped_total{reason=\"to_peer_not_permitted\"}"),
                    no_channel: of("dropped_total{reason=\"no_channel\"}"),
                    no_allocation: of("dropped_total{reason=\"no_allocation\"}"),
                    malformed: of("dropped_total{reason=\"malformed\"}"),
                };
            }
        }
    }
}

fn setting<T: FromStr>(name: &str, default: T) -> T {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn nothing_is_lost_and_nothing_is_left() {
    let seconds = 60 * setting("THIRL_SOAK_MINUTES", 1_u64);
    let allocations = setting("THIRL_SOAK_ALLOCATIONS", 500_u16);
    let seed = setting("THIRL_SOAK_SEED", rand::random::<u64>());
    eprintln!("soak: THIRL_SOAK_SEED={seed}, {allocations} allocations, {seconds} s");
    let mut soak = Soak::start(seed, allocations);
    let whole = Deadline::after(Duration::from_secs(seconds));
    // An allocator keeps pages for next time: what two cycles of the same shape have left is where it starts.
    let steps = 20 * usize::from(allocations);
    soak.cycle(allocations.into(), steps, Deadline::after(Duration::from_secs(seconds / 3)));
    soak.cycle(allocations.into(), steps, Deadline::after(Duration::from_secs(seconds / 3)));
    let files = soak.relay.open_files().unwrap();
    let start = soak.memory_left();
    let created = soak.tally.created;
    let mut cycles = 0;
    while !whole.has_passed() {
        soak.cycle(allocations.into(), steps, whole);
        cycles += 1;
        eprintln!("soak: cycle {cycles}: {} KiB", soak.relay.memory().unwrap() >> 10);
    }
    assert_eq!(soak.counted(), soak.tally, "every counter adds up");
    let end = soak.memory_left();
    eprintln!("soak: {cycles} cycles, {:?}, memory {} KiB, then {} KiB", soak.tally, start >> 10, end >> 10);
    let since = soak.tally.created - created;
    assert!(
        end <= start + (start / 20).max(SWING),
        "memory: {start} bytes at first, {end} at last, and {since} allocations in between"
    );
    assert!(soak.relay.open_files().unwrap() <= files + 1, "files are left open");
    for port in FIRST_PORT..=FIRST_PORT + 2 * allocations {
        let bound = UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
        assert!(bound.is_ok(), "port {port} is lost: {bound:?}");
    }
}
