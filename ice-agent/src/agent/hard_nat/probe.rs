//! The easy side: checks to ports at the one address that the peer told, from the one socket whose mapping it knows. No state
//! is kept of a probe but that it was sent.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::rngs::StdRng;

use super::plan::Plan;
use super::{Search, Work};
use crate::agent::event::Via;
use crate::agent::{Agent, Timer};

/// So many probes are sent in one search, each to another port.
const PROBES: u32 = 1536;
/// Two probes are at least so far apart: half of what RFC 8445, section 14.2, lets checks be.
const INTERVAL: Duration = Duration::from_millis(10);
/// What was sent last may still be answered.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// So many ports that follow in a sequence are probed before others: each check of the peer's and of its neighbours moves it
/// on.
const IN_SEQUENCE: u16 = 512;
/// The budget is used up by one search, and grows back by so much: whatever the peer makes this side do, by restarts or
/// other addresses, in the long run it is no more than one packet a second.
const REFILL: Duration = Duration::from_secs(1);

/// Ports from here on are given out (RFC 6335, section 6).
const FIRST_PORT: u16 = 1024;
const PORTS: u32 = 65_536 - FIRST_PORT as u32;

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

/// Ports in the order in which they are probed, none twice.
#[derive(Debug)]
struct Ports {
    /// The newest port of the peer's sequence, the step, and how many were probed of it.
    sequence: Option<(u16, i8)>,
    followed: u16,
    /// Then `offset + n * stride` for n = 0, 1, …: all of them, since the stride has no factor in common with their number.
    offset: u32,
    stride: u32,
    spread: u32,
}

impl Ports {
    fn new(sequence: Option<(u16, i8)>, rng: &mut StdRng) -> Ports {
        let coprime = |stride: &u32| [2, 3, 7].iter().all(|factor| !stride.is_multiple_of(*factor));
        let strides = std::iter::repeat_with(|| rng.random_range(1..PORTS));
        let stride = strides.take(1000).find(coprime).unwrap_or(1);
        Ports { sequence, followed: 0, offset: rng.random_range(0..PORTS), stride, spread: 0 }
    }

    fn next(&mut self) -> Option<u16> {
        if let Some((newest, step)) = self.sequence.filter(|_| self.followed < IN_SEQUENCE) {
            self.followed += 1;
            let port = i32::from(newest) - i32::from(FIRST_PORT)
                + i32::from(step.signum()) * i32::from(self.followed);
            return port_number(port.rem_euclid(PORTS.cast_signed()).cast_unsigned());
        }
        while self.spread < PORTS {
            let port = port_number((self.offset + self.spread * self.stride % PORTS) % PORTS)?;
            self.spread += 1;
            if !self.was_followed(port) {
                return Some(port);
            }
        }
        None
    }

    fn was_followed(&self, port: u16) -> bool {
        let Some((newest, step)) = self.sequence else { return false };
        let ahead = (i32::from(port) - i32::from(newest)) * i32::from(step.signum());
        let ahead = ahead.rem_euclid(PORTS.cast_signed());
        (1..=i32::from(self.followed)).contains(&ahead)
    }
}

fn port_number(index: u32) -> Option<u16> {
    u16::try_from(index + u32::from(FIRST_PORT)).ok()
}

impl Agent {
    pub(super) fn new_probing(&mut self, peer: IpAddr) -> Probing {
        let sequence = self.remote_sequence(peer).filter(|_| self.config.hard_nats.prediction);
        let ports = self.random.draw(|rng| Ports::new(sequence, rng));
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
        let limit = if birthday { PROBES } else { u32::from(IN_SEQUENCE) };
        let port =
            if probing.sent < limit && hard_nat.probes.spend(now) { probing.ports.next() } else { None };
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

    fn all(sequence: Option<(u16, i8)>, seed: u64) -> Vec<u16> {
        let mut ports = Ports::new(sequence, &mut StdRng::seed_from_u64(seed));
        std::iter::from_fn(|| ports.next()).collect()
    }

    #[test]
    fn each_port_is_probed_once() {
        for (seed, sequence) in
            [(1, None), (2, Some((20_000, 1))), (3, Some((65_530, 1))), (4, Some((1030, -2)))]
        {
            let all = all(sequence, seed);
            assert_eq!(all.len(), PORTS as usize);
            assert!(all.iter().all(|port| *port >= FIRST_PORT));
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), PORTS as usize);
        }
        let ahead = all(Some((65_534, 1)), 5);
        assert_eq!(ahead[..3], [65_535, 1024, 1025], "it begins anew after the last");
        assert_eq!(all(Some((1025, -1)), 5)[..2], [1024, 65_535]);
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
