//! What keeps a mapping (RFC 4787, section 4.3, REQ-6): packets go through it in one direction only, more often than it
//! would need, until it would be gone without them.
//!
//! From inside go Binding indications, which nobody answers; from outside come answers that another socket asked for.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::net::Transport;

use super::ANSWER;
use crate::nat::probe::{Outcome, ProbeId, Prober, Question, SocketId};

/// Indications within the time that a mapping lives: so many may be lost, but for one.
const OUTBOUND_PACE: u32 = 4;

/// Answers within that time: of these none is lost unnoticed.
const INBOUND_PACE: u32 = 2;

/// After the time by which it would be gone.
const MARGIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Refresh {
    server: SocketAddr,
    /// Asks the server to answer to the others.
    asking: SocketId,
    gone: Duration,
    outbound: Keeper,
    inbound: Keeper,
}

/// A mapping that is kept, or is not.
#[derive(Debug)]
struct Keeper {
    socket: SocketId,
    probe: ProbeId,
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
    /// Of mappings that survive `alive` of silence, and not `gone`.
    pub(super) fn begin(
        now: Instant,
        prober: &mut Prober,
        server: SocketAddr,
        alive: Duration,
        gone: Duration,
    ) -> Refresh {
        let mut keeper = |pace| {
            let socket = prober.open(Transport::Udp);
            let probe = prober.ask(now, socket, Question::plain(server));
            Keeper { socket, probe, pace: alive / pace, state: State::Opening }
        };
        let (outbound, inbound) = (keeper(OUTBOUND_PACE), keeper(INBOUND_PACE));
        Refresh { server, asking: prober.open(Transport::Udp), gone: gone + MARGIN, outbound, inbound }
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
                let next = (now + keeper.pace).min(since + self.gone);
                keeper.state = State::Keeping { port, since, next };
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
                State::Keeping { port: response.reflexive.port(), since: now, next: now + self.pace }
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
