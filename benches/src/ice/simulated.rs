//! Two sans-IO agents in a network of virtual time: deterministic but for agents that draw randomness of their own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::agent::{Kind, Progress, SansIo, Start};
use super::observed::Observed;
use super::outcome::Outcome;
use super::scene::{Hosts, Scene, Told};

/// Who is not connected by then never will be.
const LIMIT: Duration = Duration::from_secs(20);

const TICK: Duration = Duration::from_millis(1);

/// One side and what is known of it.
struct Side {
    agent: Box<dyn SansIo>,
    address: SocketAddr,
    observed: Observed,
    /// Candidates of the peer's, which it has not been told yet.
    mail: Vec<(Instant, String)>,
    works: Option<Instant>,
    nominated: Option<Instant>,
}

/// Packets under way, by arrival. Addresses that no side has swallow them.
struct Network {
    delay: Duration,
    loss: f64,
    rng: StdRng,
    flying: BTreeMap<(Instant, u64), Packet>,
    sent: u64,
}

struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
}

/// One connect.
pub(super) fn run(kind: Kind, scene: &Scene, seed: u64) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed);
    let start = crate::now();
    let Hosts { a, b } = Hosts::LAN;
    let mut sides = [(a, b, true), (b, a, false)].map(|(own, peer, controlling)| {
        let trickle = scene.told == Told::Trickled;
        let begin = Start { controlling, address: own, now: start, seed: rng.random(), trickle };
        let told = scene.candidates(peer, |n| scene.dead_in_the_lan(n, peer.port()), &mut rng);
        Side {
            agent: (kind.make)(&begin),
            address: own,
            observed: Observed::default(),
            mail: told.into_iter().map(|(after, line)| (start + after, line)).collect(),
            works: None,
            nominated: None,
        }
    });
    let [first, second] = &mut sides;
    first.agent.set_remote_credentials(start, &second.agent.credentials());
    second.agent.set_remote_credentials(start, &first.agent.credentials());
    let mut network = Network { delay: scene.delay, loss: scene.loss, rng, flying: BTreeMap::new(), sent: 0 };
    let mut now = start;
    loop {
        for side in &mut sides {
            side.read_mail(now);
            side.look_after(now, &mut network);
        }
        if sides.iter().all(|side| side.nominated.is_some()) || now > start + LIMIT {
            break;
        }
        let timers = sides.iter_mut().filter_map(|side| side.next(now)).min();
        let arrival = network.flying.first_key_value().map(|((at, _), _)| *at);
        let Some(next) = timers.into_iter().chain(arrival).min() else { break };
        now = next.max(now);
        while let Some(packet) = network.arrived(now) {
            if let Some(side) = sides.iter_mut().find(|side| side.address == packet.to) {
                side.agent.handle_datagram(now, packet.from, &packet.payload);
                side.send(now, &mut network);
            }
        }
    }
    let [a, b] = sides;
    let told = start + scene.telling();
    let slower = |a: Option<Instant>, b| Some(a?.max(b?).saturating_duration_since(told));
    Outcome::new(slower(a.works, b.works), slower(a.nominated, b.nominated), &[a.observed, b.observed])
}

impl Side {
    fn read_mail(&mut self, now: Instant) {
        if self.mail.is_empty() {
            return;
        }
        for (_, line) in self.mail.extract_if(.., |(at, _)| *at <= now) {
            self.agent.add_remote_candidate(now, &line);
        }
        if self.mail.is_empty() {
            self.agent.end_of_candidates(now);
        }
    }

    fn look_after(&mut self, now: Instant, network: &mut Network) {
        if self.agent.poll_timeout(now).is_some_and(|at| at <= now) {
            self.agent.handle_timeout(now);
        }
        self.send(now, network);
        let progress = self.agent.progress();
        if progress >= Progress::Works {
            self.works.get_or_insert(now);
        }
        if progress >= Progress::Nominated {
            self.nominated.get_or_insert(now);
        }
    }

    fn send(&mut self, now: Instant, network: &mut Network) {
        while let Some((to, payload)) = self.agent.poll_transmit(now) {
            self.observed.note(now, &payload);
            network.send(now, Packet { from: self.address, to, payload });
        }
    }

    /// A timer that is due still, after it was looked after, is looked at again when a clock would have ticked.
    fn next(&mut self, now: Instant) -> Option<Instant> {
        let mail = self.mail.iter().map(|(at, _)| *at).min();
        let timer = self.agent.poll_timeout(now).map(|at| at.max(now + TICK));
        timer.into_iter().chain(mail).min()
    }
}

impl Network {
    fn send(&mut self, now: Instant, packet: Packet) {
        if self.loss > 0.0 && self.rng.random_bool(self.loss) {
            return;
        }
        self.sent += 1;
        self.flying.insert((now + self.delay, self.sent), packet);
    }

    fn arrived(&mut self, now: Instant) -> Option<Packet> {
        let first = self.flying.first_entry().filter(|entry| entry.key().0 <= now)?;
        Some(first.remove())
    }
}
