use super::*;
use crate::identity::NodeKey;
use crate::signalling::protocol::Payload;
use proptest::prelude::*;

const UNIX: u64 = 1_800_000_000;
const HOST: &str = "example.org:3480";

/// Credentials that tell for whom and when they were made.
struct Minted;

impl IceServers for Minted {
    fn for_node(&self, node: NodeId, _: &str, now_unix: u64) -> Vec<IceServer> {
        let username = Some(format!("{now_unix}:{node}"));
        vec![IceServer { urls: vec![], username, credential: Some("secret".into()), ttl_seconds: Some(600) }]
    }
}

/// A switchboard with a clock and the frames that each connection was sent.
struct Bench {
    switchboard: Switchboard,
    now: Instant,
    inbox: BTreeMap<ConnId, Vec<ServerMessage>>,
    closed: BTreeMap<ConnId, ErrorReason>,
    /// Whether frames count as sent at once.
    sending: bool,
}

impl Bench {
    fn new(config: Config) -> Bench {
        Bench {
            switchboard: Switchboard::new(config, Box::new(Minted), [7; 32]),
            now: start(),
            inbox: BTreeMap::new(),
            closed: BTreeMap::new(),
            sending: true,
        }
    }

    fn open(&mut self, source: &str) -> Result<ConnId, Refused> {
        let conn = self.switchboard.handle_open(self.now, source.parse().unwrap());
        self.poll();
        conn
    }

    fn frame(&mut self, conn: ConnId, text: &str) {
        self.switchboard.handle_frame(self.now, UNIX, conn, text);
        self.poll();
    }

    fn say(&mut self, conn: ConnId, message: &ClientMessage) {
        self.frame(conn, message.to_frame().as_str());
    }

    fn send(&mut self, conn: ConnId, to: NodeId, payload: &[u8]) {
        self.say(conn, &ClientMessage::Send { to, payload: Payload::new(payload.into()).unwrap() });
    }

    /// Opens a connection and answers its challenge.
    fn join(&mut self, key: &NodeKey) -> ConnId {
        let conn = self.open("192.0.2.1").unwrap();
        let nonce = self.nonce(conn);
        self.say(conn, &ClientMessage::Prove(Proof::new(key, &nonce, HOST)));
        assert!(matches!(self.last(conn), ServerMessage::Welcome { .. }));
        conn
    }

    fn poll(&mut self) {
        while let Some((conn, frame)) = self.switchboard.poll_transmit() {
            self.inbox.entry(conn).or_default().push(ServerMessage::from_frame(frame.as_str()).unwrap());
            if self.sending {
                self.switchboard.handle_sent(self.now, conn, frame.as_str().len());
            }
        }
        while let Some(Action::Close { conn, reason }) = self.switchboard.poll_action() {
            self.closed.insert(conn, reason);
        }
    }

    fn nonce(&self, conn: ConnId) -> Nonce {
        match &self.inbox[&conn][0] {
            ServerMessage::Challenge { nonce, version: VERSION } => *nonce,
            other => panic!("{other:?}"),
        }
    }

    fn last(&self, conn: ConnId) -> &ServerMessage {
        self.inbox[&conn].last().unwrap()
    }

    fn assert_closed(&self, conn: ConnId, with: ErrorReason) {
        assert!(
            matches!(self.last(conn), ServerMessage::Error { reason, .. } if *reason == with),
            "{with:?}"
        );
        assert_eq!(self.closed.get(&conn), Some(&with));
    }

    /// Nothing is left of closed connections.
    fn assert_empty(&mut self) {
        assert!(self.switchboard.conns.is_empty() && self.switchboard.nodes.is_empty());
        assert!(self.switchboard.proof_deadlines.is_empty() && self.switchboard.queued_total == 0);
        for source in ["192.0.2.1", "198.51.100.1", "2001:db8::1"] {
            let prefix = SourcePrefix::of(source.parse().unwrap());
            assert_eq!(self.switchboard.by_prefix.get(prefix), 0);
            assert_eq!(self.switchboard.unproven_by_prefix.get(prefix), 0);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "an instant to count from")]
fn start() -> Instant {
    Instant::now()
}

fn key(n: u8) -> NodeKey {
    NodeKey::from_seed(&[n; 32])
}

#[test]
fn nodes_exchange_messages() {
    let mut bench = Bench::new(Config::default());
    let (a, b) = (bench.join(&key(1)), bench.join(&key(2)));
    bench.send(a, key(2).id(), b"hello");
    let payload = Payload::new(b"hello".into()).unwrap();
    assert_eq!(bench.last(b), &ServerMessage::Deliver { from: key(1).id(), payload: payload.clone() });
    bench.send(b, key(2).id(), b"hello");
    assert_eq!(bench.last(b), &ServerMessage::Deliver { from: key(2).id(), payload }, "to oneself");
    let stats = bench.switchboard.stats();
    assert_eq!((stats.connections, stats.nodes, stats.delivered), (2, 2, 2));
    bench.switchboard.handle_close(a);
    bench.send(b, key(1).id(), b"hello");
    let reason = UndeliverableReason::Offline;
    assert_eq!(bench.last(b), &ServerMessage::Undeliverable { to: key(1).id(), reason });
    bench.switchboard.handle_close(b);
    bench.assert_empty();
}

#[test]
fn ice_servers_are_made_for_the_node_that_proved_its_key() {
    let mut bench = Bench::new(Config::default());
    let conn = bench.join(&key(1));
    let ice_servers = Minted.for_node(key(1).id(), "", UNIX);
    assert_eq!(bench.last(conn), &ServerMessage::Welcome { ice_servers: ice_servers.clone() });
    bench.say(conn, &ClientMessage::Refresh);
    assert_eq!(bench.last(conn), &ServerMessage::IceServers { ice_servers });
}

#[test]
fn a_forged_proof_is_refused() {
    let mut bench = Bench::new(Config::default());
    let conn = bench.open("192.0.2.1").unwrap();
    let nonce = bench.nonce(conn);
    let forged = Proof { node: key(2).id(), ..Proof::new(&key(1), &nonce, HOST) };
    bench.say(conn, &ClientMessage::Prove(forged));
    bench.assert_closed(conn, ErrorReason::BadProof);
    // The nonce is spent: the right proof comes too late.
    bench.say(conn, &ClientMessage::Prove(Proof::new(&key(1), &nonce, HOST)));
    bench.assert_closed(conn, ErrorReason::BadProof);
    bench.assert_empty();
    assert_eq!(bench.switchboard.stats().bad_proofs, 1);
}

#[test]
fn a_proof_for_another_connection_is_refused() {
    let mut bench = Bench::new(Config::default());
    let conn = bench.open("192.0.2.1").unwrap();
    let proof = Proof::new(&key(1), &bench.nonce(conn), HOST);
    bench.say(conn, &ClientMessage::Prove(proof.clone()));
    let again = bench.open("192.0.2.1").unwrap();
    assert_ne!(bench.nonce(again), bench.nonce(conn));
    bench.say(again, &ClientMessage::Prove(proof));
    bench.assert_closed(again, ErrorReason::BadProof);
}

#[test]
fn a_proof_for_another_server_is_refused() {
    let names = vec!["example.org".parse().unwrap()];
    let mut bench = Bench::new(Config { names, ..Config::default() });
    let conn = bench.open("192.0.2.1").unwrap();
    let nonce = bench.nonce(conn);
    bench.say(conn, &ClientMessage::Prove(Proof::new(&key(1), &nonce, "evil.example:3480")));
    bench.assert_closed(conn, ErrorReason::WrongServer);
    // Naming the right server afterwards breaks the signature.
    let conn = bench.open("192.0.2.1").unwrap();
    let relayed =
        Proof { server: HOST.into(), ..Proof::new(&key(1), &bench.nonce(conn), "evil.example:3480") };
    bench.say(conn, &ClientMessage::Prove(relayed));
    bench.assert_closed(conn, ErrorReason::BadProof);
    bench.join(&key(1));
}

#[test]
fn a_proof_of_another_version_is_refused() {
    let mut bench = Bench::new(Config::default());
    let conn = bench.open("192.0.2.1").unwrap();
    let proof = Proof { version: 2, ..Proof::new(&key(1), &bench.nonce(conn), HOST) };
    bench.say(conn, &ClientMessage::Prove(proof));
    bench.assert_closed(conn, ErrorReason::Version);
}

#[test]
fn nothing_is_carried_before_the_proof() {
    for text in ["", r#"{"type":"refresh"}"#, r#"{"type":"dance"}"#] {
        let mut bench = Bench::new(Config::default());
        let conn = bench.open("192.0.2.1").unwrap();
        bench.frame(conn, text);
        bench.assert_closed(conn, ErrorReason::ProofExpected);
        bench.assert_empty();
    }
}

#[test]
fn a_connection_has_ten_seconds_to_prove_its_key() {
    let mut bench = Bench::new(Config::default());
    let conn = bench.open("192.0.2.1").unwrap();
    let proven = bench.join(&key(1));
    let deadline = bench.switchboard.poll_timeout().unwrap();
    assert_eq!(deadline, bench.now + Duration::from_secs(10));
    bench.switchboard.handle_timeout(deadline - Duration::from_millis(1));
    bench.poll();
    assert!(bench.closed.is_empty());
    bench.switchboard.handle_timeout(deadline);
    bench.poll();
    bench.assert_closed(conn, ErrorReason::TimedOut);
    assert!(!bench.closed.contains_key(&proven));
    assert_eq!(bench.switchboard.poll_timeout(), None);
}

#[test]
fn a_node_that_connects_again_replaces_its_older_connection() {
    let mut bench = Bench::new(Config::default());
    let (older, other) = (bench.join(&key(1)), bench.join(&key(2)));
    let newer = bench.join(&key(1));
    bench.assert_closed(older, ErrorReason::Replaced);
    bench.send(other, key(1).id(), b"hello");
    assert!(matches!(bench.last(newer), ServerMessage::Deliver { .. }));
    // The driver reports the end of the older one late: that must not take the node offline.
    bench.switchboard.handle_close(older);
    bench.send(other, key(1).id(), b"again");
    assert!(matches!(bench.last(other), ServerMessage::Welcome { .. }), "nothing was undeliverable");
    assert_eq!(bench.switchboard.stats().nodes, 2);
}

#[test]
fn unknown_and_malformed_messages_are_answered_and_the_connection_stays() {
    let mut bench = Bench::new(Config::default());
    let conn = bench.join(&key(1));
    let proof = Proof::new(&key(1), &bench.nonce(conn), HOST);
    for (text, expected) in [
        (r#"{"type":"dance"}"#.to_owned(), ErrorReason::Unsupported),
        (ClientMessage::Prove(proof).to_frame().into_string(), ErrorReason::Unsupported),
        ("{".to_owned(), ErrorReason::Malformed),
        (r#"{"type":"send","to":"nobody","payload":""}"#.to_owned(), ErrorReason::Malformed),
    ] {
        bench.frame(conn, &text);
        assert!(
            matches!(bench.last(conn), ServerMessage::Error { reason, .. } if *reason == expected),
            "{text}"
        );
    }
    assert!(bench.closed.is_empty());
}

#[test]
fn an_oversize_frame_ends_the_connection() {
    let mut bench = Bench::new(Config::default());
    let conn = bench.join(&key(1));
    bench.frame(conn, &" ".repeat(MAX_FRAME + 1));
    bench.assert_closed(conn, ErrorReason::TooLarge);
    bench.assert_empty();
}

#[test]
fn a_flood_is_dropped_and_answered_once() {
    let rate = Rate { per_second: 10, burst: 20 };
    let mut bench = Bench::new(Config { rate, ..Config::default() });
    let (a, b) = (bench.join(&key(1)), bench.join(&key(2)));
    for _ in 0..100 {
        bench.send(a, key(2).id(), b"flood");
    }
    assert_eq!(bench.switchboard.stats().delivered, 19, "the proof cost one");
    assert_eq!(bench.switchboard.stats().rate_limited, 81);
    let count = |bench: &Bench, conn| bench.inbox[&conn].len();
    assert_eq!(count(&bench, a), 3, "challenge, welcome, one error");
    assert_eq!(count(&bench, b), 2 + 19);
    bench.now += Duration::from_secs(1);
    bench.send(a, key(2).id(), b"later");
    assert_eq!(count(&bench, b), 2 + 20);
    assert!(bench.closed.is_empty());
}

#[test]
fn connections_are_bounded_by_prefix_and_in_total() {
    let mut bench = Bench::new(Config {
        max_connections: 6,
        max_per_prefix: 4,
        max_unproven_per_prefix: 2,
        ..Config::default()
    });
    let first = bench.open("192.0.2.1").unwrap();
    bench.open("192.0.2.2").unwrap();
    assert_eq!(bench.open("192.0.2.3"), Err(Refused::PrefixFull), "unproven");
    assert_eq!(bench.open("::ffff:192.0.2.3"), Err(Refused::PrefixFull), "in any spelling");
    bench.switchboard.handle_close(first);
    for n in 1..=3 {
        bench.join(&key(n));
    }
    assert_eq!(bench.open("192.0.2.3"), Err(Refused::PrefixFull), "all");
    bench.open("2001:db8::1").unwrap();
    bench.open("2001:db8::2").unwrap();
    assert_eq!(bench.open("198.51.100.1"), Err(Refused::Full));
    assert_eq!(bench.switchboard.stats().refused, 4);
    assert_eq!(bench.switchboard.stats().connections, 6);
}

#[test]
fn a_full_queue_makes_senders_wait_and_a_stalled_reader_leave() {
    let mut bench = Bench::new(Config { max_queued: 4096, ..Config::default() });
    let (a, b) = (bench.join(&key(1)), bench.join(&key(2)));
    bench.sending = false;
    for _ in 0..10 {
        bench.send(a, key(2).id(), &[0; 1000]);
    }
    let reason = UndeliverableReason::Busy;
    assert_eq!(bench.last(a), &ServerMessage::Undeliverable { to: key(2).id(), reason });
    assert_eq!(bench.switchboard.stats().delivered, 2);
    assert!(bench.closed.is_empty(), "a stranger cannot have a node closed by filling its queue");
    bench.now += Duration::from_secs(16);
    bench.send(a, key(2).id(), &[0; 1000]);
    bench.assert_closed(b, ErrorReason::SlowReader);
    bench.send(a, key(2).id(), &[0; 1000]);
    let reason = UndeliverableReason::Offline;
    assert_eq!(bench.last(a), &ServerMessage::Undeliverable { to: key(2).id(), reason });
}

#[test]
fn what_waits_for_all_is_bounded() {
    let mut bench = Bench::new(Config { max_queued_total: 4096, ..Config::default() });
    let conns: Vec<ConnId> = (1..=4).map(|n| bench.join(&key(n))).collect();
    bench.sending = false;
    for to in 2..=4 {
        bench.send(conns[0], key(to).id(), &[0; 1000]);
    }
    assert_eq!(bench.switchboard.stats().delivered, 2);
    assert!(bench.switchboard.queued_total <= 4096 + 200);
}

#[test]
fn who_sends_without_reading_is_closed() {
    let rate = Rate { per_second: 1, burst: 1_000_000 };
    let mut bench = Bench::new(Config { max_queued: 4096, rate, ..Config::default() });
    let conn = bench.join(&key(1));
    bench.sending = false;
    let mut asked = 0;
    while bench.closed.is_empty() {
        bench.say(conn, &ClientMessage::Refresh);
        asked += 1;
        assert!(asked < 1000, "never closed");
    }
    bench.assert_closed(conn, ErrorReason::SlowReader);
    bench.assert_empty();
}

#[test]
fn a_shutdown_tells_everyone() {
    let mut bench = Bench::new(Config::default());
    let (a, b) = (bench.join(&key(1)), bench.open("2001:db8::1").unwrap());
    bench.switchboard.handle_shutdown();
    bench.poll();
    bench.assert_closed(a, ErrorReason::ShuttingDown);
    bench.assert_closed(b, ErrorReason::ShuttingDown);
    bench.assert_empty();
}

#[test]
fn events_tell_who_came_and_went() {
    let mut bench = Bench::new(Config::default());
    let (conn, node) = (bench.join(&key(1)), key(1).id());
    assert_eq!(bench.switchboard.poll_event(), Some(Event::Joined { conn, node }));
    bench.switchboard.handle_close(conn);
    assert_eq!(bench.switchboard.poll_event(), Some(Event::Left { conn, node }));
    assert_eq!(bench.switchboard.poll_event(), None);
}

proptest! {
    /// Whatever connections say, in whatever order they come and go, the switchboard's books agree.
    #[test]
    fn the_books_agree(steps in proptest::collection::vec((0u8..6, 0usize..6, 1u8..4), 0..60)) {
        let mut bench = Bench::new(Config { max_unproven_per_prefix: 3, ..Config::default() });
        let mut conns = Vec::new();
        for (what, which, who) in steps {
            let conn = conns.get(which).copied();
            match (what, conn) {
                (0, _) => conns.extend(bench.open("192.0.2.1").ok()),
                (1, Some(conn)) => {
                    let proof = Proof::new(&key(who), &bench.nonce(conn), HOST);
                    bench.say(conn, &ClientMessage::Prove(proof));
                }
                (2, Some(conn)) => bench.send(conn, key(who).id(), b"x"),
                (3, Some(conn)) => bench.switchboard.handle_close(conn),
                (4, Some(conn)) => bench.frame(conn, "{"),
                (5, _) => {
                    bench.now += Duration::from_secs(3);
                    let now = bench.now;
                    bench.switchboard.handle_timeout(now);
                    bench.poll();
                }
                _ => {}
            }
            let board = &bench.switchboard;
            let prefix = SourcePrefix::of("192.0.2.1".parse().unwrap());
            let unproven = board.conns.values().filter(|c| matches!(c.state, State::Unproven { .. })).count();
            prop_assert_eq!(board.by_prefix.get(prefix) as usize, board.conns.len());
            prop_assert_eq!(board.unproven_by_prefix.get(prefix) as usize, unproven);
            prop_assert_eq!(board.proof_deadlines.len(), unproven);
            prop_assert_eq!(board.nodes.len(), board.conns.len() - unproven);
            prop_assert_eq!(board.queued_total, 0);
        }
        let left: Vec<ConnId> = bench.switchboard.conns.keys().copied().collect();
        for conn in left {
            bench.switchboard.handle_close(conn);
        }
        bench.assert_empty();
    }
}
