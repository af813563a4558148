//! What keeps a mapping (RFC 4787, section 4.3, REQ-6): packets go through it in one direction only, more often than it
//! would need, until it would be gone without them.
//!
//! From inside go Binding indications, which nobody answers; from outside come answers that another socket asked for.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::net::Transport;

use super::ANSWER;
use crate::nat::probe::{Outcome, ProbeId, Prober, Question, SocketId};

/// When indications go, in hundredths of the time that a mapping lives alone: several, since some may be lost, and the
/// last before its end, since they would open it anew after that, perhaps with the same port.
const OUTBOUND: std::ops::Range<u32> = 70..95;

/// From one to the next, in the same unit.
const OUTBOUND_PACE: u32 = 5;

/// Answers within that time: of these none is lost unnoticed.
const INBOUND_PACE: u32 = 2;

/// After the time by which it would be gone.
const MARGIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Refresh {
    server: SocketAddr,
    /// Asks the server to answer to the others.
    asking: SocketId,
    alive: Duration,
    gone: Duration,
    outbound: Keeper,
    inbound: Keeper,
}

/// A mapping that is kept, or is not.
#[derive(Debug)]
struct Keeper {
    socket: SocketId,
    probe: ProbeId,
    /// Until the first packet that may keep it.
    first: Duration,
    /// From one to the next.
    pace: Duration,
    state: State,
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Opening,
    /// Since it was opened, that is.
    Keeping {
        port: u16,
        since: Instant,
        next: Instant,
    },
    Asking {
        port: u16,
        since: Instant,
    },
    Over(Result<bool, String>),
}

impl Refresh {
    /// Of mappings that survive `alive` of silence, and not `gone`. `None` if these are too far apart: what was kept once
    /// would be gone again before it could be seen.
    pub(super) fn begin(
        now: Instant,
        prober: &mut Prober,
        server: SocketAddr,
        alive: Duration,
        gone: Duration,
    ) -> Option<Refresh> {
        let gone = gone + MARGIN;
        if gone >= alive + alive * OUTBOUND.start / 100 {
            return None;
        }
        let mut keeper = |first, pace| {
            let socket = prober.open(Transport::Udp);
            let probe = prober.ask(now, socket, Question::plain(server));
            Keeper { socket, probe, first, pace, state: State::Opening }
        };
        let outbound = keeper(alive * OUTBOUND.start / 100, alive * OUTBOUND_PACE / 100);
        let inbound = keeper(alive / INBOUND_PACE, alive / INBOUND_PACE);
        Some(Refresh { server, asking: prober.open(Transport::Udp), alive, gone, outbound, inbound })
    }

    pub(super) fn handle(&mut self, now: Instant, prober: &mut Prober, probe: ProbeId, outcome: &Outcome) {
        let gone = self.gone;
        for keeper in [&mut self.outbound, &mut self.inbound] {
            if keeper.probe == probe {
                keeper.handle(now, gone, outcome);
                if keeper.is_over() {
                    prober.close(keeper.socket);
                }
            }
        }
        if self.is_over() {
            prober.close(self.asking);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, prober: &mut Prober) {
        for (keeper, outbound) in [(&mut self.outbound, true), (&mut self.inbound, false)] {
            let State::Keeping { port, since, next } = keeper.state else { continue };
            if now < next {
                continue;
            }
            if outbound && now < since + self.gone {
                prober.indicate(keeper.socket, self.server);
                let last = now + keeper.pace >= since + self.alive * OUTBOUND.end / 100;
                let next = if last { since + self.gone } else { now + keeper.pace };
                keeper.state = match now < since + self.alive {
                    true => State::Keeping { port, since, next },
                    false => State::Over(Err("this machine was too busy to keep the time".to_owned())),
                };
            } else {
                let question = Question::answered_at(self.server, keeper.socket, port);
                keeper.probe = prober.ask(now, self.asking, question);
                keeper.state = State::Asking { port, since };
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let next = |keeper: &Keeper| match keeper.state {
            State::Keeping { next, .. } => Some(next),
            _ => None,
        };
        [&self.outbound, &self.inbound].into_iter().filter_map(next).min()
    }

    pub(super) fn is_over(&self) -> bool {
        self.outbound.is_over() && self.inbound.is_over()
    }

    /// When it will be over at the latest.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        let end = |keeper: &Keeper| match keeper.state {
            State::Keeping { since, .. } | State::Asking { since, .. } => {
                Some(since + self.gone + keeper.pace + ANSWER)
            }
            _ => None,
        };
        [&self.outbound, &self.inbound].into_iter().filter_map(end).max()
    }

    /// Whether packets from inside keep a mapping, whether those from outside do, and what that rests on.
    pub(super) fn report(&self) -> (Option<bool>, Option<bool>, String) {
        let [outbound, inbound] = [&self.outbound, &self.inbound].map(|keeper| match &keeper.state {
            State::Over(kept) => kept.clone(),
            _ => Err("the test was not finished".to_owned()),
        });
        let words = |kept: &Result<bool, String>| match kept {
            Ok(true) => "keep a mapping".to_owned(),
            Ok(false) => "do not keep a mapping".to_owned(),
            Err(reason) => format!("were not measurable ({reason})"),
        };
        let reason = format!(
            "for {} s, longer than a mapping lives alone: packets from inside only {}, packets from outside only {}",
            self.gone.as_secs(),
            words(&outbound),
            words(&inbound)
        );
        (outbound.ok(), inbound.ok(), reason)
    }
}

impl Keeper {
    fn handle(&mut self, now: Instant, gone: Duration, outcome: &Outcome) {
        self.state = match (&self.state, outcome) {
            (State::Opening, Outcome::Answered(response)) => {
                State::Keeping { port: response.reflexive.port(), since: now, next: now + self.first }
            }
            (State::Asking { since, .. }, Outcome::Answered(_)) if now >= *since + gone => {
                State::Over(Ok(true))
            }
            (State::Asking { port, since }, Outcome::Answered(_)) => {
                State::Keeping { port: *port, since: *since, next: now + self.pace }
            }
            (State::Asking { .. }, Outcome::Silent { .. }) => State::Over(Ok(false)),
            _ => State::Over(Err("the server stopped answering".to_owned())),
        };
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Over(_))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use thirl_common::wire::{
        Class, Message, MessageWriter, Method, ResponsePort, TransactionId, XorMappedAddress,
    };

    use super::*;
    use crate::nat::probe::Action;

    /// A NAT that preserves ports and keeps a mapping for five seconds, or for as long after packets of a direction.
    struct Nat {
        outbound: bool,
        inbound: bool,
        until: BTreeMap<u16, Instant>,
    }

    impl Nat {
        const LIFETIME: Duration = Duration::from_secs(5);

        fn lets_out(&mut self, now: Instant, port: u16) {
            let lives = self.until.get(&port).is_some_and(|until| now < *until);
            if self.outbound || !lives {
                self.until.insert(port, now + Self::LIFETIME);
            }
        }

        fn lets_in(&mut self, now: Instant, port: u16) -> bool {
            let Some(until) = self.until.get_mut(&port).filter(|until| now < **until) else { return false };
            if self.inbound {
                *until = now + Self::LIFETIME;
            }
            true
        }
    }

    fn answer(id: TransactionId, mapped: SocketAddr) -> Vec<u8> {
        let mut buffer = [0; 64];
        let mut writer = MessageWriter::new(&mut buffer, Class::Success, Method::BINDING, id).unwrap();
        writer.attribute(&XorMappedAddress(mapped)).unwrap();
        writer.finish().to_vec()
    }

    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    fn found(outbound: bool, inbound: bool) -> (Option<bool>, Option<bool>) {
        let (mut now, server) = (Instant::now(), "192.0.2.1:3478".parse().unwrap());
        let mut nat = Nat { outbound, inbound, until: BTreeMap::new() };
        let mut prober = Prober::new([1; 32]);
        let [alive, gone] = [4500, 5500].map(Duration::from_millis);
        let mut refresh = Refresh::begin(now, &mut prober, server, alive, gone).unwrap();
        let mut port = 1000;
        while !refresh.is_over() {
            while let Some(action) = prober.poll_action() {
                if let Action::Bind { socket, .. } = action {
                    port += 1;
                    prober.socket_bound(now, socket, Ok(([10, 0, 0, 1], port).into()));
                }
            }
            while let Some(sent) = prober.poll_transmit() {
                nat.lets_out(now, sent.from.port());
                let request = Message::parse(&sent.payload).unwrap();
                let to = request.get::<ResponsePort>().unwrap().map_or(sent.from.port(), |port| port.0);
                if request.class() == Class::Request && nat.lets_in(now, to) {
                    let to = SocketAddr::new(sent.from.ip(), to);
                    let answer = answer(request.transaction_id(), to);
                    prober.handle_datagram(now, Transport::Udp, to, server, &answer);
                }
            }
            while let Some((probe, outcome)) = prober.poll_outcome() {
                refresh.handle(now, &mut prober, probe, &outcome);
            }
            let next = [prober.poll_timeout(), refresh.poll_timeout()].into_iter().flatten().min();
            now = next.map_or(now, |next| next.max(now));
            prober.handle_timeout(now);
            refresh.handle_timeout(now, &mut prober);
        }
        let (outbound, inbound, _) = refresh.report();
        (outbound, inbound)
    }

    #[test]
    fn packets_of_each_direction_keep_a_mapping_or_do_not() {
        for (outbound, inbound) in [(true, true), (true, false), (false, false)] {
            assert_eq!(found(outbound, inbound), (Some(outbound), Some(inbound)));
        }
    }
}
