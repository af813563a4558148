//! What an agent costs among many in one process: heap, and CPU time for connecting and for a minute of idling.
//!
//! Agents of one kind in pairs, over a network without delay and in virtual time. They connect among dead candidates, if
//! there are some; then nothing is sent but what keeps the pairs alive.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

use super::agent::{Kind, Progress, SansIo, Start};
use super::scene::{Dead, Hosts, Scene, Told};
use crate::network::run_time;
use crate::{BenchError, now};

/// Checks of pairs that lead nowhere are over by then.
const SETTLED: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(1);

/// Each figure is for one agent.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Cost {
    pub(super) agents: usize,
    /// Dead candidates that each is told.
    pub(super) dead: u8,
    /// Heap once everything has settled: bytes asked of the allocator, and how many allocations.
    pub(super) heap_bytes: f64,
    pub(super) allocations: f64,
    pub(super) connect_us: f64,
    pub(super) idle_us_per_minute: f64,
    pub(super) idle_packets_per_minute: f64,
}

struct Couple {
    agents: [Box<dyn SansIo>; 2],
    sent: u64,
}

/// Measures so many agents of one kind, with so many dead candidates.
pub(super) fn measure(kind: Kind, agents: usize, dead: u8) -> Result<Cost, BenchError> {
    let mut rng = StdRng::seed_from_u64(1);
    let start = now();
    let mut couples = Vec::with_capacity(agents / 2);
    let before = cpu();
    let heap = allocation_counter::measure(|| {
        for _ in 0..agents / 2 {
            couples.push(Couple::new(kind, dead, start, &mut rng));
        }
        couples.iter_mut().for_each(|couple| couple.run(start, start + SETTLED));
    });
    let connected = cpu();
    let alive =
        |couple: &mut Couple| couple.agents.iter_mut().all(|agent| agent.progress() == Progress::Nominated);
    if !couples.iter_mut().all(alive) {
        return Err(BenchError::Figures(format!("{}: not all agents are connected", kind.name)));
    }
    let sent = |couples: &[Couple]| couples.iter().map(|couple| couple.sent).sum::<u64>();
    let (settled, already_sent) = (cpu(), sent(&couples));
    idle(&mut couples, start + SETTLED, start + SETTLED + IDLE);
    let minutes = IDLE.as_secs_f64() / 60.0;
    let each = |sum: f64| sum / (2 * couples.len()) as f64;
    Ok(Cost {
        agents,
        dead,
        heap_bytes: each(heap.bytes_current as f64),
        allocations: each(heap.count_current as f64),
        connect_us: each((connected - before) as f64 / 1000.0),
        idle_us_per_minute: each((cpu() - settled) as f64 / 1000.0) / minutes,
        idle_packets_per_minute: each((sent(&couples) - already_sent) as f64) / minutes,
    })
}

/// Nanoseconds of CPU time of this thread so far.
fn cpu() -> u64 {
    run_time(Path::new("/proc/thread-self/schedstat"))
}

/// All couples in the order in which something is due.
fn idle(couples: &mut [Couple], from: Instant, until: Instant) {
    let mut due: BinaryHeap<_> = couples
        .iter_mut()
        .enumerate()
        .filter_map(|(index, couple)| Some(Reverse((couple.next(from)?, index))))
        .collect();
    while let Some(Reverse((at, index))) = due.pop().filter(|Reverse((at, _))| *at < until) {
        let couple = &mut couples[index];
        couple.step(at);
        due.extend(couple.next(at).map(|next| Reverse((next, index))));
    }
}

impl Couple {
    fn new(kind: Kind, count: u8, now: Instant, rng: &mut StdRng) -> Couple {
        let told = Told::AtOnce;
        let scene = Scene { dead: Dead::Private, count, delay: Duration::ZERO, loss: 0.0, told };
        let Hosts { a, b } = Hosts::LAN;
        let mut make = |address, controlling| {
            (kind.make)(&Start { controlling, address, now, seed: rng.random(), trickle: false })
        };
        let mut agents = [make(a, true), make(b, false)];
        let credentials = [agents[1].credentials(), agents[0].credentials()];
        for ((agent, peer), address) in agents.iter_mut().zip(credentials).zip([b, a]) {
            agent.set_remote_credentials(now, &peer);
            for (_, line) in scene.candidates(address, |n| scene.dead_in_the_lan(n, 9), rng) {
                agent.add_remote_candidate(now, &line);
            }
            agent.end_of_candidates(now);
        }
        Couple { agents, sent: 0 }
    }

    fn run(&mut self, from: Instant, until: Instant) {
        let mut now = from;
        while now < until {
            self.step(now);
            let Some(next) = self.next(now) else { return };
            now = next;
        }
    }

    fn step(&mut self, now: Instant) {
        for agent in &mut self.agents {
            if agent.poll_timeout(now).is_some_and(|at| at <= now) {
                agent.handle_timeout(now);
            }
        }
        let Hosts { a, b } = Hosts::LAN;
        let [first, second] = &mut self.agents;
        loop {
            let sent = pass(now, first, second, a, b) + pass(now, second, first, b, a);
            if sent == 0 {
                break;
            }
            self.sent += sent;
        }
        self.agents.iter_mut().for_each(|agent| _ = agent.progress());
    }

    fn next(&mut self, now: Instant) -> Option<Instant> {
        self.agents.iter_mut().filter_map(|agent| agent.poll_timeout(now)).min().map(|at| at.max(now + TICK))
    }
}

/// Hands one agent's packets to the other, if they are for it.
fn pass(
    now: Instant,
    from: &mut Box<dyn SansIo>,
    to: &mut Box<dyn SansIo>,
    own: std::net::SocketAddr,
    peer: std::net::SocketAddr,
) -> u64 {
    let mut sent = 0;
    while let Some((address, payload)) = from.poll_transmit(now) {
        sent += 1;
        if address == peer {
            to.handle_datagram(now, own, &payload);
        }
    }
    sent
}
