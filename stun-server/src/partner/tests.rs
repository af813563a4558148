//! Two links, a network that does what it likes, and virtual time.

use proptest::prelude::*;
use thirl_common::net::ClientAddr;

use super::*;

#[expect(clippy::disallowed_methods, reason = "any origin will do")]
fn origin() -> Instant {
    Instant::now()
}

const A: usize = 0;
const B: usize = 1;

/// Two sides and all that was ever sent.
struct Pair {
    links: [Link; 2],
    /// What the sides' clocks show beyond the time.
    clocks: [Duration; 2],
    now: Instant,
    /// To whom, and what.
    sent: Vec<(usize, Vec<u8>)>,
    events: [Vec<LinkEvent>; 2],
    /// Requests that were taken.
    taken: Vec<(usize, Vec<u8>)>,
    made: u8,
    next_request: u32,
    /// Whether what is sent arrives.
    connected: [bool; 2],
}

fn addrs(side: usize) -> LinkAddrs {
    let public = |side| format!("192.0.2.{}:3478", side + 1).parse().unwrap();
    let local = format!("10.0.0.{}:3478", side + 1).parse().unwrap();
    LinkAddrs { local, public: public(side), partner: public(1 - side), second_port: 3479 }
}

fn secrets(all: &[&str]) -> PartnerSecrets {
    PartnerSecrets(all.iter().map(|secret| (*secret).to_owned()).collect())
}

impl Pair {
    fn new() -> Pair {
        Pair::with([&["secret"], &["secret"]], [3479, 3479])
    }

    fn with(all: [&[&str]; 2], second_ports: [u16; 2]) -> Pair {
        let now = origin();
        let link = |side: usize, seed| {
            let addrs = LinkAddrs { second_port: second_ports[side], ..addrs(side) };
            Link::new(addrs, &secrets(all[side]), [seed; 32], now)
        };
        Pair {
            links: [link(A, 0), link(B, 1)],
            clocks: [Duration::ZERO; 2],
            now,
            sent: Vec::new(),
            events: [Vec::new(), Vec::new()],
            taken: Vec::new(),
            made: 2,
            next_request: 0,
            connected: [true; 2],
        }
    }

    fn now_of(&self, side: usize) -> Instant {
        self.now + self.clocks[side]
    }

    /// Gives a side what somebody sent to it at some time, and delivers what it says to that.
    fn deliver(&mut self, to: usize, datagram: &[u8]) {
        let now = self.now_of(to);
        if let Some(passed_on) = self.links[to].handle_datagram(now, datagram) {
            assert_eq!(passed_on.client.0.to_string(), "198.51.100.7:40000");
            self.taken.push((to, passed_on.request.to_vec()));
        }
        self.collect(to);
    }

    fn collect(&mut self, side: usize) {
        while let Some(event) = self.links[side].poll_event() {
            self.events[side].push(event);
        }
        while let Some(transmit) = self.links[side].poll_transmit() {
            let LinkAddrs { local, partner, .. } = *self.links[side].addrs();
            assert_eq!((transmit.from, transmit.to), (local, partner));
            self.send(1 - side, &transmit.payload);
        }
    }

    fn send(&mut self, to: usize, datagram: &[u8]) {
        self.sent.push((to, datagram.to_vec()));
        if self.connected[to] {
            self.deliver(to, datagram);
        }
    }

    /// Lets time pass in steps of a tenth of a second.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            for side in [A, B] {
                let now = self.now_of(side);
                if self.links[side].poll_timeout().is_some_and(|at| at <= now) {
                    self.links[side].handle_timeout(now);
                    self.collect(side);
                }
            }
            self.now += Duration::from_millis(100);
        }
    }

    /// A request that one side passes on: what goes over the link.
    fn pass_on(&mut self, side: usize) -> Option<Vec<u8>> {
        self.next_request += 1;
        let request = self.next_request.to_be_bytes();
        let client = ClientAddr("198.51.100.7:40000".parse().unwrap());
        let mut out = [0; MAX_PARTNER_MESSAGE_LEN];
        let now = self.now_of(side);
        let passed_on = PassedOn { client, server_port: 3478, request: &request };
        self.links[side].pass_on(now, passed_on, &mut out).map(<[u8]>::to_vec)
    }

    fn restart(&mut self, side: usize) {
        let now = self.now_of(side);
        self.made += 1;
        self.links[side] = Link::new(addrs(side), &secrets(&["secret"]), [self.made; 32], now);
    }

    fn are_up(&self) -> bool {
        self.links.iter().all(Link::is_up)
    }

    fn up() -> Pair {
        let mut pair = Pair::new();
        pair.pass(Duration::from_millis(1500));
        assert!(pair.are_up());
        pair
    }
}

#[test]
fn two_that_share_a_secret_find_each_other_and_say_so_once() {
    let mut pair = Pair::new();
    assert_eq!(pair.pass_on(A), None, "not before");
    pair.pass(Duration::from_secs(60));
    assert!(pair.are_up());
    assert_eq!(pair.events, [[LinkEvent::Up], [LinkEvent::Up]]);
    assert!(pair.sent.len() < 130, "a heartbeat a second from each: {}", pair.sent.len());
    let sealed = pair.pass_on(A).unwrap();
    pair.send(B, &sealed);
    assert_eq!(pair.taken, [(B, vec![0, 0, 0, 2])]);
}

#[test]
fn clocks_that_differ_change_nothing() {
    let mut pair = Pair::new();
    pair.clocks[B] = Duration::from_secs(86_400 * 400);
    let now = pair.now_of(B);
    pair.links[B] = Link::new(addrs(B), &secrets(&["secret"]), [9; 32], now);
    pair.pass(Duration::from_secs(10));
    assert!(pair.are_up());
    // One jumps ahead, as after a sleep.
    pair.clocks[A] = Duration::from_secs(3600);
    pair.pass(Duration::from_secs(3));
    assert!(pair.are_up());
}

#[test]
fn a_request_is_taken_once_and_in_any_order() {
    let mut pair = Pair::up();
    let sealed: Vec<_> = (0..100).map(|_| pair.pass_on(A).unwrap()).collect();
    for datagram in sealed.iter().rev().chain(&sealed) {
        pair.deliver(B, datagram);
    }
    assert_eq!(pair.taken.len(), 100);
}

#[test]
fn what_is_sent_back_to_its_sender_does_nothing() {
    let mut pair = Pair::up();
    let sealed = pair.pass_on(A).unwrap();
    let recorded: Vec<_> = pair.sent.drain(..).chain([(B, sealed)]).collect();
    for (to, datagram) in recorded {
        pair.deliver(1 - to, &datagram);
    }
    assert_eq!((pair.taken.len(), pair.sent.len()), (0, 0));
}

#[test]
fn no_byte_of_a_message_may_change() {
    let mut pair = Pair::up();
    let request = pair.pass_on(A).unwrap();
    let (_, heartbeat) = pair.sent.iter().rfind(|(to, _)| *to == B).unwrap().clone();
    pair.sent.clear();
    for message in [heartbeat, request] {
        for at in 0..message.len() {
            pair.deliver(B, &message[..at]);
            let mut changed = message.clone();
            changed[at] ^= 0x40;
            pair.deliver(B, &changed);
        }
    }
    assert_eq!((pair.taken.len(), pair.sent.len()), (0, 0));
}

#[test]
fn another_secret_is_not_believed_and_named() {
    let mut pair = Pair::with([&["one"], &["another"]], [3479; 2]);
    pair.pass(Duration::from_secs(20));
    let down = [LinkEvent::Down(DownReason::WrongSignature)];
    assert_eq!(pair.events, [down, down]);
    // Changed on one side after the other.
    let mut pair = Pair::with([&["new", "old"], &["old", "new"]], [3479; 2]);
    pair.pass(Duration::from_secs(2));
    assert!(pair.are_up());
}

#[test]
fn a_partner_that_falls_silent_is_down_and_comes_back() {
    let mut pair = Pair::up();
    pair.connected = [false; 2];
    pair.pass(SILENCE - HEARTBEAT);
    assert!(pair.are_up());
    pair.pass(HEARTBEAT * 2);
    assert!(!pair.links[A].is_up() && pair.pass_on(A).is_none());
    pair.connected = [true; 2];
    pair.pass(HEARTBEAT * 2);
    let expected = [LinkEvent::Up, LinkEvent::Down(DownReason::Silent), LinkEvent::Up];
    assert_eq!(pair.events, [expected, expected]);
}

#[test]
fn a_partner_that_was_never_there_is_said_to_be_down_once() {
    let mut pair = Pair::new();
    pair.connected = [false; 2];
    pair.pass(Duration::from_secs(60));
    let down = [LinkEvent::Down(DownReason::Silent)];
    assert_eq!(pair.events, [down, down]);
}

#[test]
fn one_that_hears_and_is_not_heard_knows_it() {
    let mut pair = Pair::new();
    pair.connected[B] = false;
    pair.pass(Duration::from_secs(10));
    assert_eq!(pair.events[A], [LinkEvent::Down(DownReason::Deaf)]);
    assert_eq!(pair.events[B], [LinkEvent::Down(DownReason::Silent)]);
}

#[test]
fn other_ports_are_named() {
    let mut pair = Pair::with([&["secret"], &["secret"]], [3479, 3480]);
    pair.pass(Duration::from_secs(10));
    let reason = DownReason::OtherPorts { partner: [3478, 3480], own: [3478, 3479] };
    assert_eq!(pair.events[A], [LinkEvent::Down(reason)]);
    assert!(reason.to_string().contains("3478 and 3480"));
}

#[test]
fn a_restart_of_either_side_is_noticed_within_two_heartbeats() {
    for side in [A, B] {
        let mut pair = Pair::up();
        pair.restart(side);
        pair.pass(HEARTBEAT * 2);
        assert!(pair.are_up());
        for from in [A, B] {
            let sealed = pair.pass_on(from).unwrap();
            pair.send(1 - from, &sealed);
        }
        assert_eq!(pair.taken.len(), 2);
        assert!(!pair.events[1 - side].contains(&LinkEvent::Down(DownReason::Silent)), "too soon for that");
    }
}

#[test]
fn replayed_heartbeats_draw_a_bounded_number_of_answers() {
    let mut pair = Pair::up();
    let recorded: Vec<_> = pair.sent.drain(..).collect();
    pair.connected = [false; 2];
    for _ in 0..100 {
        for (to, datagram) in &recorded {
            pair.deliver(*to, datagram);
        }
    }
    assert!(pair.sent.len() <= 2 * usize::from(REPLIES), "{}", pair.sent.len());
}

#[test]
fn requests_are_passed_on_at_a_bounded_rate() {
    let mut pair = Pair::up();
    let at_once = (0..3 * MAX_PER_SECOND).filter(|_| pair.pass_on(A).is_some()).count();
    assert_eq!(at_once, MAX_PER_SECOND as usize);
    pair.pass(Duration::from_millis(100));
    let later = (0..MAX_PER_SECOND).filter(|_| pair.pass_on(A).is_some()).count();
    assert!(later.abs_diff(MAX_PER_SECOND as usize / 10) <= 1, "{later}");
}

#[derive(Clone, Debug)]
enum Step {
    Pass,
    /// One side passes a request on, which arrives or is kept for later.
    Request(usize, bool),
    Restart(usize),
    /// Something that was sent once arrives again.
    Replay(prop::sample::Index),
    Connect([bool; 2]),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Pass),
        4 => (0..2usize, any::<bool>()).prop_map(|(side, arrives)| Step::Request(side, arrives)),
        1 => (0..2usize).prop_map(Step::Restart),
        12 => any::<prop::sample::Index>().prop_map(Step::Replay),
        1 => any::<[bool; 2]>().prop_map(Step::Connect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is lost, late, sent again, and however often the sides restart: no request is taken twice, none by its
    /// own sender, and two that can hear each other find each other.
    #[test]
    fn nothing_is_taken_twice(steps in proptest::collection::vec(step(), 1..150)) {
        let mut pair = Pair::new();
        for step in steps {
            match step {
                Step::Pass => pair.pass(Duration::from_millis(700)),
                Step::Request(side, arrives) => {
                    let Some(sealed) = pair.pass_on(side) else { continue };
                    if arrives { pair.send(1 - side, &sealed) } else { pair.sent.push((1 - side, sealed)) }
                }
                Step::Restart(side) => pair.restart(side),
                Step::Replay(index) if !pair.sent.is_empty() => {
                    let (to, datagram) = index.get(&pair.sent).clone();
                    pair.deliver(to, &datagram);
                    pair.deliver(1 - to, &datagram);
                }
                Step::Replay(_) => {}
                Step::Connect(connected) => pair.connected = connected,
            }
        }
        let mut taken: Vec<_> = pair.taken.iter().map(|(_, request)| request.clone()).collect();
        taken.sort();
        taken.dedup();
        prop_assert_eq!(taken.len(), pair.taken.len());
        pair.connected = [true; 2];
        pair.pass(HEARTBEAT * 3);
        prop_assert!(pair.are_up());
    }
}
