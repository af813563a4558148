//! One pace for several agents. RFC 8445, section 14.2, speaks of the transactions of one agent; but what it spares are NATs and
//! access links (appendix B.1), and agents of one process have these in common.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Agent;
use super::config::Timings;

/// A pace that all agents keep that are given a clone of it, each beside its own: see
/// [`AgentConfig::shared_pace`](super::AgentConfig::shared_pace). Whoever wants to start a transaction takes the next time that is
/// free, so that agents have their turns in the order in which they come; each turn is O(1), however many there are.
#[derive(Clone, Debug)]
pub struct SharedPace {
    interval: Duration,
    /// From when on there are times that nobody has taken.
    free: Arc<Mutex<Option<Instant>>>,
}

impl SharedPace {
    /// Lets one new transaction begin in each interval, which is not less than 5 ms, whatever is given: "one new mapping every
    /// 5 ms" is what NATs support well.
    pub fn new(interval: Duration) -> SharedPace {
        SharedPace { interval: interval.max(Timings::MIN_PACING), free: Arc::default() }
    }

    /// Takes the next time that is free.
    fn take(&self, now: Instant) -> Instant {
        // No panic leaves it half-changed.
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let time = free.map_or(now, |free| free.max(now));
        *free = Some(time + self.interval);
        time
    }
}

impl Agent {
    /// When the next transaction may start by the pace that is shared, if this agent has one to start.
    pub(super) fn shared_turn(&mut self, now: Instant, ordinary: bool) -> Option<Instant> {
        let shared = self.config.shared_pace.as_ref()?;
        let has_turn = self.pace.turn.is_some_and(|turn| now < turn + shared.interval);
        (has_turn || self.has_transaction_to_start(ordinary)).then(|| self.shared_turn_beside(now)).flatten()
    }

    /// The same for one that is there in any case.
    pub(super) fn shared_turn_beside(&mut self, now: Instant) -> Option<Instant> {
        let shared = self.config.shared_pace.as_ref()?;
        // A time that went by unused may be another's by now.
        let turn = self.pace.turn.filter(|turn| now < *turn + shared.interval);
        Some(*self.pace.turn.insert(turn.unwrap_or_else(|| shared.take(now))))
    }

    fn has_transaction_to_start(&self, ordinary: bool) -> bool {
        let (list, streams) = (&self.session.list, &self.session.streams);
        let checkable = || list.iter().any(|(_, pair)| pair.is_unchecked() && streams.may_check(pair));
        list.has_triggered() || ordinary && (self.gathering.has_queue() || checkable())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::SocketAddr;

    use thirl_common::wire::Message;

    use super::super::{AgentConfig, Credentials, Role};
    use super::*;
    use crate::candidate::Candidate;

    const AGENTS: u16 = 20;
    const CANDIDATES: u16 = 5;

    fn agents(now: Instant, config: &AgentConfig) -> Vec<Agent> {
        let agent = |n: u16| {
            let [high, low] = n.to_be_bytes();
            let mut agent = Agent::new(config.clone(), [low + 1; 32]);
            agent.add_local_socket(now, SocketAddr::from(([10, 0, high, low], 1000)), 255);
            agent.gather(now);
            let remote = Credentials { ufrag: "peer".to_owned(), pwd: "p".repeat(24) };
            agent.set_remote_credentials(now, remote).unwrap();
            for port in 1..=CANDIDATES {
                let line = format!("candidate:{port} 1 udp {port} 203.0.113.1 {port} typ host");
                agent.add_remote_candidate(now, Candidate::parse(&line).unwrap());
            }
            agent
        };
        (0..AGENTS).map(agent).collect()
    }

    /// When the agents' transactions start, in milliseconds, by agent.
    fn starts(config: &AgentConfig, seconds: u64) -> Vec<(u128, u16)> {
        #[expect(clippy::disallowed_methods, reason = "any origin will do")]
        let start = Instant::now();
        let (mut now, mut known, mut starts) = (start, BTreeSet::new(), Vec::new());
        let mut agents = agents(now, config);
        while now < start + Duration::from_secs(seconds) {
            for (n, agent) in (0..).zip(&mut agents) {
                if agent.poll_timeout().is_some_and(|at| at <= now) {
                    agent.handle_timeout(now);
                }
                while let Some(transmit) = agent.poll_transmit() {
                    let id = Message::parse(&transmit.payload).unwrap().transaction_id();
                    if known.insert(id) {
                        starts.push(((now - start).as_millis(), n));
                    }
                }
                while agent.poll_event().is_some() {}
            }
            now = agents
                .iter()
                .filter_map(Agent::poll_timeout)
                .min()
                .unwrap()
                .max(now + Duration::from_millis(1));
        }
        starts
    }

    fn least_gap(starts: &[(u128, u16)]) -> u128 {
        starts.windows(2).map(|two| two[1].0 - two[0].0).min().unwrap()
    }

    #[test]
    fn agents_take_turns_and_nobody_has_to_wait_for_all_of_another() {
        let alone = AgentConfig::new(Role::Controlling);
        let each = starts(&alone, 3);
        assert_eq!(least_gap(&each), 0, "each has a pace of its own otherwise");
        let shared = AgentConfig { shared_pace: Some(SharedPace::new(Duration::ZERO)), ..alone };
        let starts = starts(&shared, 3);
        assert!(least_gap(&starts) >= 5, "{starts:?}");
        let mut counts = BTreeMap::new();
        for (round, turn) in starts.chunks(usize::from(AGENTS)).enumerate().take(usize::from(CANDIDATES)) {
            turn.iter().for_each(|(_, n)| *counts.entry(*n).or_insert(0) += 1);
            assert!(counts.values().all(|count| *count == round + 1), "round {round}: {counts:?}");
        }
        assert_eq!(counts.len(), usize::from(AGENTS));
        let last = u128::from(AGENTS * CANDIDATES - 1);
        assert_eq!(starts[usize::from(AGENTS * CANDIDATES) - 1].0, 5 * last, "no time goes by unused");
    }
}
