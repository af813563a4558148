//! What a peer can make this side do, and what it cannot.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::{Action, Agent, AgentConfig, Credentials, Role, SocketId, Transmit, Via, message};
use crate::candidate::Candidate;
use thirl_common::wire::{IntegrityKey, Message};

const STUN: [&str; 2] = ["9.9.9.9:3478", "8.8.8.8:3478"];

/// An agent behind a NAT whose mapping is what `port` says of each server, and its network.
struct Side {
    agent: Agent,
    now: Instant,
    socket: SocketId,
    /// The ports of the mappings for the two servers.
    ports: [u16; 2],
    sent: Vec<(Duration, Transmit)>,
    /// Sockets that it has asked for.
    opened: BTreeSet<SocketId>,
    most_opened: usize,
    start: Instant,
}

impl Side {
    fn new(ports: [u16; 2]) -> Side {
        #[expect(clippy::disallowed_methods, reason = "a test's clock")]
        let now = Instant::now();
        let stun = STUN.map(|server| server.parse().unwrap()).to_vec();
        let config = AgentConfig { stun, ..AgentConfig::new(Role::Controlled) };
        let mut agent = Agent::new(config, [3; 32]);
        let socket = agent.add_local_socket(now, "192.168.1.2:4000".parse().unwrap(), 255);
        agent.gather(now);
        let (sent, opened) = (Vec::new(), BTreeSet::new());
        let mut side = Side { agent, now, socket, ports, sent, opened, most_opened: 0, start: now };
        side.run(Duration::from_millis(500));
        side
    }

    /// Lets time pass; servers answer, nobody else does.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.agent.handle_timeout(self.now);
            while self.step() {}
            self.now += Duration::from_millis(5);
        }
    }

    fn step(&mut self) -> bool {
        while self.agent.poll_event().is_some() {}
        if let Some(action) = self.agent.poll_action() {
            match action {
                Action::OpenSocket { .. } => {
                    let local = SocketAddr::from((
                        [192, 168, 1, 2],
                        10_000 + u16::try_from(self.opened.len()).unwrap(),
                    ));
                    self.opened.extend(self.agent.socket_opened(self.now, Ok(local)));
                    self.most_opened = self.most_opened.max(self.opened.len());
                }
                Action::CloseSocket { socket } => assert!(self.opened.remove(&socket)),
                other => panic!("{other:?}"),
            }
            return true;
        }
        let Some(transmit) = self.agent.poll_transmit() else { return false };
        let server = STUN.iter().position(|server| transmit.to == server.parse().unwrap());
        match server.filter(|_| transmit.via == Via::Socket(self.socket)) {
            Some(server) => {
                let asked = Message::parse(&transmit.payload).unwrap().transaction_id();
                let mapped = SocketAddr::from(([5, 5, 5, 1], self.ports[server]));
                let answer = message::success(asked, mapped, &IntegrityKey::new(b"none"));
                self.agent.handle_datagram(self.now, self.socket, transmit.to, &answer);
            }
            None => self.sent.push((self.now - self.start, transmit)),
        }
        true
    }

    fn meet(&mut self, pwd: char, candidates: &[&str]) {
        let remote = Credentials { ufrag: "peer".to_owned(), pwd: pwd.to_string().repeat(24) };
        self.agent.set_remote_credentials(self.now, remote).unwrap();
        for candidate in candidates {
            self.agent.add_remote_candidate(self.now, Candidate::parse(candidate).unwrap());
        }
    }

    /// The ports at an address to which it has sent, of which nobody told.
    fn probed(&self, ip: &str, told: &[u16]) -> Vec<(Duration, u16)> {
        let ip: IpAddr = ip.parse().unwrap();
        let there = self.sent.iter().filter(|(_, transmit)| transmit.to.ip() == ip);
        there
            .map(|(at, transmit)| (*at, transmit.to.port()))
            .filter(|(_, port)| !told.contains(port))
            .collect()
    }
}

const EASY: [u16; 2] = [7000, 7000];
const HARD: [u16; 2] = [7000, 60_001];

#[test]
fn what_a_peer_makes_this_side_send_is_bounded() {
    let mut side = Side::new(EASY);
    let hard = "candidate:1 1 udp 1694498815 203.0.113.7 5000 typ srflx x-mapping random";
    // A second address makes no second target.
    let other = "candidate:2 1 udp 1694498814 203.0.113.8 5000 typ srflx x-mapping random";
    side.meet('a', &[hard, other]);
    side.run(Duration::from_secs(35));
    let probed = side.probed("203.0.113.7", &[5000]);
    assert_eq!(probed.len(), 1536);
    let ports: BTreeSet<_> = probed.iter().map(|(_, port)| *port).collect();
    assert_eq!(ports.len(), 1536, "no port twice");
    assert!(ports.iter().all(|port| *port >= 1024));
    assert!(probed.windows(2).all(|two| two[1].0 - two[0].0 >= Duration::from_millis(10)), "10 ms apart");
    assert!(probed[0].0 > Duration::from_secs(2), "ordinary checks had their chance");
    assert_eq!(side.probed("203.0.113.8", &[5000]), []);
    let size: usize = side.sent.iter().map(|(_, transmit)| transmit.payload.len()).max().unwrap();
    assert!(size <= 128, "{size} bytes");
    let words = side.agent.report().hard_nats.unwrap();
    assert!(
        words.starts_with("birthday probing: 1536 checks sent to ports of 203.0.113.7; given up after"),
        "{words}"
    );

    // Restarts and other addresses bring no more than one a second.
    for (n, pwd) in ('b'..='k').enumerate() {
        let ip = format!("203.0.114.{n}");
        side.meet(pwd, &[&format!("candidate:1 1 udp 1694498815 {ip} 5000 typ srflx x-mapping random")]);
        side.run(Duration::from_secs(10));
    }
    let all = side.sent.iter().filter(|(_, transmit)| transmit.to.port() != 5000).count();
    assert!((1536..=1536 + 140).contains(&all), "{all}");
}

#[test]
fn only_public_addresses_are_probed() {
    for ip in [
        "192.168.7.7",
        "10.1.1.1",
        "100.64.1.1",
        "127.0.0.1",
        "169.254.3.4",
        "224.0.0.1",
        "0.1.2.3",
        "255.255.255.255",
        "5.5.5.1",
    ] {
        let mut side = Side::new(EASY);
        side.meet('a', &[&format!("candidate:1 1 udp 1694498815 {ip} 5000 typ srflx x-mapping random")]);
        side.run(Duration::from_secs(10));
        assert_eq!(side.probed(ip, &[5000]), [], "{ip}");
        let mut side = Side::new(HARD);
        side.meet('a', &[&format!("candidate:1 1 udp 1694498815 {ip} 5000 typ srflx x-mapping unknown")]);
        side.run(Duration::from_secs(10));
        assert_eq!(side.most_opened, 0, "{ip}");
    }
}

#[test]
fn many_sockets_send_to_the_one_address_that_was_told() {
    let mut side = Side::new(HARD);
    side.meet('a', &["candidate:1 1 udp 1694498815 203.0.113.7 5000 typ srflx x-mapping unknown"]);
    side.run(Duration::from_secs(30));
    assert_eq!(side.most_opened, 256);
    let target = "203.0.113.7:5000".parse().unwrap();
    let many = side.sent.iter().filter(|(_, transmit)| transmit.via != Via::Socket(side.socket));
    let times: Vec<_> =
        many.inspect(|(_, transmit)| assert_eq!(transmit.to, target)).map(|(at, _)| *at).collect();
    assert!(times.windows(2).all(|two| two[1] - two[0] >= Duration::from_millis(5)), "5 ms apart");
    // Restarts bring no more than one a second.
    for pwd in 'b'..='z' {
        side.meet(pwd, &["candidate:1 1 udp 1694498815 203.0.113.7 5000 typ srflx x-mapping unknown"]);
        side.run(Duration::from_secs(10));
    }
    let all = side.sent.iter().filter(|(_, transmit)| transmit.via != Via::Socket(side.socket)).count();
    assert!((1000..=1536 + 290).contains(&all), "{all}");
    // Closing gives them back.
    side.agent.close(side.now);
    while side.step() {}
    assert_eq!(side.opened.len(), 0);
}

#[test]
fn a_check_that_proves_nothing_opens_nothing() {
    let mut side = Side::new(HARD);
    side.meet('a', &["candidate:1 1 udp 1694498815 203.0.113.7 5000 typ srflx x-mapping unknown"]);
    side.run(Duration::from_secs(4));
    let socket = *side.opened.first().unwrap();
    let forged = message::binding_request(thirl_common::wire::TransactionId([7; 12]));
    let before = side.sent.len();
    for bytes in [&forged[..], b"data", &[]] {
        assert!(
            side.agent
                .handle_datagram(side.now, socket, "203.0.113.7:5000".parse().unwrap(), bytes)
                .is_none()
        );
    }
    while side.step() {}
    assert_eq!(side.sent.len(), before, "no answer");
    assert_eq!(side.agent.report().pairs.len(), 1);
}

#[test]
fn a_socket_that_cannot_be_had_ends_the_asking() {
    let mut side = Side::new(HARD);
    side.meet('a', &["candidate:1 1 udp 1694498815 203.0.113.7 5000 typ srflx x-mapping unknown"]);
    let mut asked = 0;
    for _ in 0..1000 {
        side.now += Duration::from_millis(5);
        side.agent.handle_timeout(side.now);
        while let Some(action) = side.agent.poll_action() {
            assert!(matches!(action, Action::OpenSocket { .. }), "{action:?}");
            asked += 1;
            assert_eq!(side.agent.socket_opened(side.now, Err("too many open files".to_owned())), None);
        }
        while side.agent.poll_transmit().is_some() {}
    }
    assert_eq!(asked, 1);
    let words = side.agent.report().hard_nats.unwrap();
    assert!(words.contains("0 sockets opened here (no more: too many open files)"), "{words}");
}
