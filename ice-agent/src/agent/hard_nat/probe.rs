//! The easy side, or the one whose filter is the stricter: checks to ports at the one address that the peer told, from one
//! socket. No state is kept of a probe but that it was sent.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use super::plan::Plan;
use super::ports::{PORTS, port_after, port_number, steps_ahead};
use super::{Search, Work};
use crate::agent::event::Via;
use crate::agent::{Agent, Timer};

/// So many probes are sent in one search, each to another port.
const PROBES: u32 = 1536;
/// Two probes are at least so far apart: half of what RFC 8445, section 14.2, lets checks be.
const INTERVAL: Duration = Duration::from_millis(10);
/// What was sent last may still be answered.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// So many ports on both sides of one that is known are probed before others: carriers give each customer a block of ports (RFC
/// 6269, section 4). Where a NAT gives any port, these are as good as others.
const AROUND: u32 = 128;
/// The same of those that follow in a sequence: each check of the peer's and of its neighbours moves it on. The first are probed
/// before those on both sides.
const FOLLOWING: u32 = 512;
/// The budget is used up by one search, and grows back by so much: whatever the peer makes this side do, by restarts or
/// other addresses, in the long run it is no more than one packet a second.
const REFILL: Duration = Duration::from_secs(1);

/// A search in progress.
#[derive(Debug)]
pub(super) struct Probing {
    pub(super) sent: u32,
    ports: Ports,
    /// When the last one was sent.
    over: Option<Instant>,
}

/// What may be sent.
#[derive(Debug, Default)]
pub(super) struct Budget {
    spent: u32,
    counted: Option<Instant>,
}

impl Budget {
    /// Whether one more may be sent, which it then is.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        let since = self.counted.map_or(Duration::ZERO, |counted| now.saturating_duration_since(counted));
        let earned = u32::try_from(since.as_secs() / REFILL.as_secs()).unwrap_or(u32::MAX);
        if earned > 0 || self.counted.is_none() {
            self.spent = self.spent.saturating_sub(earned);
            self.counted = Some(now);
        }
        let allowed = self.spent < PROBES;
        self.spent += u32::from(allowed);
        allowed
    }
}

/// The newest port of the peer's that is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) port: u16,
    /// From one to the next, if they come in sequence.
    pub(super) step: Option<i8>,
}

impl Known {
    /// The ports near to it, in order: `n` counts from 0.
    fn near(self, n: u32) -> Option<u16> {
        let first = if self.step.is_some() { AROUND } else { 0 };
        match n.checked_sub(first) {
            None => self.at(n + 1),
            Some(beyond) if beyond >= 2 * AROUND => {
                let ahead = n + 1 - AROUND;
                self.at(ahead).filter(|_| ahead <= self.following())
            }
            Some(beyond) if beyond % 2 == 0 => self.at(first + beyond / 2 + 1),
            Some(beyond) => self.at(PORTS - (beyond / 2 + 1)),
        }
    }

    /// The port so many steps ahead.
    fn at(self, steps: u32) -> Option<u16> {
        port_after(self.port, self.step.unwrap_or(1), steps)
    }

    /// Whether a port is one of those.
    fn is_near(self, port: u16) -> bool {
        let ahead = steps_ahead(self.port, self.step.unwrap_or(1), port);
        (1..=self.following()).contains(&ahead) || (1..=AROUND).contains(&(PORTS - ahead))
    }

    /// So many of those ahead are near.
    fn following(self) -> u32 {
        if self.step.is_some() { FOLLOWING } else { AROUND }
    }
}

/// Ports in the order in which they are probed, none twice.
#[derive(Debug)]
struct Ports {
    known: Option<Known>,
    near: u32,
    /// Then `offset + n * stride` for n = 0, 1, …: all of them, since the stride has no factor in common with their number.
    offset: u32,
    stride: u32,
    spread: u32,
}

impl Ports {
    fn new(known: Option<Known>, rng: &mut StdRng) -> Ports {
        let coprime = |stride: &u32| [2, 3, 7].iter().all(|factor| !stride.is_multiple_of(*factor));
        let strides = std::iter::repeat_with(|| rng.random_range(1..PORTS));
        let stride = strides.take(1000).find(coprime).unwrap_or(1);
        Ports { known, near: 0, offset: rng.random_range(0..PORTS), stride, spread: 0 }
    }

    fn next(&mut self) -> Option<u16> {
        if let Some(port) = self.next_near() {
            return Some(port);
        }
        while self.spread < PORTS {
            let port = port_number((self.offset + self.spread * self.stride % PORTS) % PORTS)?;
            self.spread += 1;
            if !self.known.is_some_and(|known| known.is_near(port)) {
                return Some(port);
            }
        }
        None
    }

    fn next_near(&mut self) -> Option<u16> {
        let port = self.known?.near(self.near)?;
        self.near += 1;
        Some(port)
    }
}

impl Agent {
    pub(super) fn new_probing(&mut self, peer: IpAddr) -> Probing {
        let known = self.remote_port(peer);
        let ports = self.random.draw(|rng| Ports::new(known, rng));
        Probing { sent: 0, ports, over: None }
    }

    pub(super) fn go_on_probing(&mut self, now: Instant) {
        let turn = self.turn_beside(now);
        if now < turn {
            self.timers.set(Timer::HardNat, turn);
            return;
        }
        let birthday = self.config.hard_nats.birthday;
        let Some(hard_nat) = &mut self.hard_nat else { return };
        let Some(Search { component, plan: Plan::Probe { from, peer }, work: Work::Probe(probing), .. }) =
            &mut hard_nat.search
        else {
            return;
        };
        let (component, from, ip) = (*component, *from, *peer);
        match probing.over {
            None => {}
            Some(over) if now < over => return self.timers.set(Timer::HardNat, over),
            Some(_) => return self.end_search(now, false),
        }
        let may = probing.sent < PROBES && hard_nat.probes.spend(now);
        let next = if birthday { Ports::next } else { Ports::next_near };
        let port = may.then(|| next(&mut probing.ports)).flatten();
        let Some(port) = port else {
            probing.over = Some(now + LAST_ANSWERS);
            self.timers.set(Timer::HardNat, now + LAST_ANSWERS);
            return;
        };
        probing.sent += 1;
        self.timers.set(Timer::HardNat, now + INTERVAL);
        let Some(bytes) = self.write_bare_check(component, from) else { return };
        self.sent_beside(now);
        self.transmit_from(Via::Socket(from), SocketAddr::new(ip, port), bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;

    fn all(known: Option<Known>, seed: u64) -> Vec<u16> {
        let mut ports = Ports::new(known, &mut StdRng::seed_from_u64(seed));
        std::iter::from_fn(|| ports.next()).collect()
    }

    #[test]
    fn each_port_is_probed_once() {
        let known = |port, step| Some(Known { port, step });
        for (seed, known) in [
            (1, None),
            (2, known(20_000, Some(1))),
            (3, known(65_530, Some(1))),
            (4, known(1030, Some(-2))),
            (5, known(1030, None)),
            (6, known(1000, None)),
        ] {
            let all = all(known, seed);
            assert_eq!(all.len(), PORTS as usize);
            assert!(all.iter().all(|port| *port >= 1024));
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), PORTS as usize);
        }
        let ahead = all(known(65_534, Some(1)), 5);
        assert_eq!(ahead[..3], [65_535, 1024, 1025], "it begins anew after the last");
        assert_eq!(ahead[127..131], [1150, 1151, 65_533, 1152], "then on both sides");
        assert_eq!(all(known(1025, Some(-1)), 5)[..2], [1024, 65_535]);
        assert_eq!(all(known(5000, None), 5)[..4], [5001, 4999, 5002, 4998]);
    }

    #[test]
    fn the_budget_grows_back_slowly() {
        #[expect(clippy::disallowed_methods, reason = "any origin will do")]
        let start = Instant::now();
        let mut budget = Budget::default();
        let spend = |budget: &mut Budget, at: u64| {
            let now = start + Duration::from_secs(at);
            (0..10_000).filter(|_| budget.spend(now)).count()
        };
        assert_eq!(spend(&mut budget, 0), 1536);
        assert_eq!(spend(&mut budget, 10), 10);
        assert_eq!(spend(&mut budget, 11), 1);
        assert_eq!(spend(&mut budget, 100_000), 1536);
    }
}
