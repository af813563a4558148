//! Sockets that keep quiet for different times, after which another socket has the server answer to their ports
//! (RESPONSE-PORT): the answer comes in if the mapping still lives. All trials of a round wait at the same time; the
//! second round looks between the last that lived and the first that did not.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::net::Transport;
use thirl_common::time::Deadlines;

use super::{ANSWER, Lifetime};
use crate::nat::probe::{Outcome, ProbeId, Prober, Question, SocketId};

/// Requests and answers before the silence.
pub(super) const SINGLE: u32 = 1;

/// The first and the last are 3 s apart: Linux takes a flow for a stream after 2 s.
pub(super) const CONVERSATION: u32 = 4;

/// From one to the next.
const PACE: Duration = Duration::from_secs(1);

/// The first round: seconds. The first of it shows whether the server can do it at all; RFC 4787 (section 4.3) wants two
/// minutes at least and recommends five.
const FIRST_ROUND: [f64; 10] = [0.0, 3.0, 8.0, 15.0, 28.0, 45.0, 75.0, 118.0, 178.0, 298.0];

/// The second round has at most so many trials.
const SECOND_ROUND: u32 = 8;

/// The search stops here: nobody needs a keepalive more exactly.
const PRECISION: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Search {
    server: SocketAddr,
    exchanges: u32,
    /// Asks the server to answer to the others.
    asking: SocketId,
    trials: Vec<Trial>,
    timers: Deadlines<ProbeId>,
    round: u32,
    failure: Option<String>,
    over: bool,
}

#[derive(Debug)]
struct Trial {
    socket: SocketId,
    probe: ProbeId,
    wait: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Asks, so many times yet.
    Opening {
        left: u32,
    },
    /// Will ask again.
    Pausing {
        left: u32,
    },
    Waiting {
        port: u16,
        since: Instant,
    },
    Asking {
        since: Instant,
        asked: Instant,
    },
    Alive,
    /// After so much silence.
    Gone {
        silence: Duration,
    },
}

impl Trial {
    fn is_settled(&self) -> bool {
        matches!(self.state, State::Alive | State::Gone { .. })
    }
}

impl Search {
    pub(super) fn begin(now: Instant, prober: &mut Prober, server: SocketAddr, exchanges: u32) -> Search {
        let mut search = Search {
            server,
            exchanges,
            asking: prober.open(Transport::Udp),
            trials: Vec::new(),
            timers: Deadlines::default(),
            round: 1,
            failure: None,
            over: false,
        };
        search.open(now, prober, FIRST_ROUND.map(Duration::from_secs_f64));
        search
    }

    pub(super) fn handle(&mut self, now: Instant, prober: &mut Prober, probe: ProbeId, outcome: &Outcome) {
        let Some(trial) = self.trials.iter_mut().find(|trial| trial.probe == probe) else { return };
        match (trial.state, outcome) {
            (State::Opening { left: 1 }, Outcome::Answered(response)) => {
                trial.state = State::Waiting { port: response.reflexive.port(), since: now };
                self.timers.set(probe, now + trial.wait);
            }
            (State::Opening { left }, Outcome::Answered(_)) => {
                trial.state = State::Pausing { left: left - 1 };
                self.timers.set(probe, now + PACE);
            }
            (State::Asking { .. }, Outcome::Answered(_)) => trial.state = State::Alive,
            (State::Asking { since, asked }, Outcome::Silent { .. }) => {
                // Where packets are lost, it may have lived when the first was sent. A busy machine asks late.
                let end = if prober.loss().seen() { now } else { asked };
                trial.state = State::Gone { silence: end.saturating_duration_since(since) };
            }
            (State::Asking { .. }, Outcome::Refused(code)) => {
                self.failure = Some(format!("the server refuses RESPONSE-PORT with error {code}"));
            }
            _ => self.failure = Some("the server stopped answering".to_owned()),
        }
        if trial.wait.is_zero() && matches!(trial.state, State::Gone { .. }) {
            self.failure = Some("the server does not answer to another port (RESPONSE-PORT)".to_owned());
        }
        self.go_on(now, prober);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, prober: &mut Prober) {
        while let Some(probe) = self.timers.pop_due(now) {
            let Some(trial) = self.trials.iter_mut().find(|trial| trial.probe == probe) else { continue };
            match trial.state {
                State::Pausing { left } => {
                    trial.state = State::Opening { left };
                    trial.probe = prober.ask(now, trial.socket, Question::plain(self.server));
                }
                State::Waiting { port, since } => {
                    trial.state = State::Asking { since, asked: now };
                    trial.probe =
                        prober.ask(now, self.asking, Question::answered_at(self.server, trial.socket, port));
                }
                _ => {}
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn is_coarse(&self) -> bool {
        self.round == 1
    }

    /// When this round will be over at the latest.
    pub(super) fn ends_at(&self, now: Instant) -> Option<Instant> {
        let gone = self.bracket().1;
        let needed = self.trials.iter().filter(|trial| !trial.is_settled());
        let needed = needed.filter(|trial| gone.is_none_or(|gone| trial.wait < gone));
        let end = |trial: &Trial| match trial.state {
            State::Waiting { since, .. } => since + trial.wait + ANSWER,
            State::Opening { left } | State::Pausing { left } => now + PACE * left + trial.wait + ANSWER,
            _ => now + ANSWER,
        };
        needed.map(end).max().filter(|_| !self.over)
    }

    /// What was survived and what was not, at the end.
    pub(super) fn found(&self) -> Option<(Duration, Duration)> {
        let (alive, gone) = self.bracket();
        Some((alive.filter(|_| self.over)?, gone?))
    }

    pub(super) fn report(&self) -> Lifetime {
        if let Some(reason) = &self.failure {
            return Lifetime { at_least_s: None, at_most_s: None, reason: reason.clone() };
        }
        let (alive, _) = self.bracket();
        let silence = |trial: &Trial| match trial.state {
            State::Gone { silence } => Some(silence),
            _ => None,
        };
        let gone = self.trials.iter().filter_map(silence).min();
        let reason = match gone {
            Some(_) => format!("{} sockets that kept quiet for different times", self.trials.len()),
            None if !self.is_over() => "it was stopped before a mapping had expired".to_owned(),
            None => "it outlived the longest trial".to_owned(),
        };
        Lifetime {
            at_least_s: alive.map(|wait| wait.as_secs_f64()),
            at_most_s: gone.map(|wait| wait.as_secs_f64()),
            reason,
        }
    }

    /// The longest wait that was survived below the shortest that was not, and that one.
    fn bracket(&self) -> (Option<Duration>, Option<Duration>) {
        let settled = self.trials.iter().filter(|trial| trial.is_settled());
        let (alive, gone): (Vec<_>, Vec<_>) = settled.partition(|trial| trial.state == State::Alive);
        let gone = gone.iter().map(|trial| trial.wait).min();
        let alive = alive.iter().map(|trial| trial.wait).filter(|wait| gone.is_none_or(|gone| *wait < gone));
        (alive.max(), gone)
    }

    fn go_on(&mut self, now: Instant, prober: &mut Prober) {
        let (alive, gone) = self.bracket();
        // What is longer than the shortest that was not survived need not be waited for.
        let wait = |trial: &Trial| !trial.is_settled() && gone.is_none_or(|gone| trial.wait < gone);
        if self.over || (self.failure.is_none() && self.trials.iter().any(wait)) {
            return;
        }
        self.close(prober);
        if let (1, Some(alive), Some(gone), None) = (self.round, alive, gone, &self.failure)
            && gone - alive > PRECISION
        {
            self.round += 1;
            let step = ((gone - alive) / (SECOND_ROUND + 1)).max(PRECISION);
            let waits = (1..=SECOND_ROUND).map(|n| alive + step * n).filter(|wait| *wait < gone);
            self.asking = prober.open(Transport::Udp);
            self.open(now, prober, waits);
        } else {
            self.over = true;
        }
    }

    fn open(&mut self, now: Instant, prober: &mut Prober, waits: impl IntoIterator<Item = Duration>) {
        for wait in waits {
            let socket = prober.open(Transport::Udp);
            let probe = prober.ask(now, socket, Question::plain(self.server));
            self.trials.push(Trial { socket, probe, wait, state: State::Opening { left: self.exchanges } });
        }
    }

    fn close(&mut self, prober: &mut Prober) {
        self.timers = Deadlines::default();
        self.trials.iter().filter(|trial| !trial.is_settled()).for_each(|trial| prober.forget(trial.probe));
        self.trials.iter().for_each(|trial| prober.close(trial.socket));
        self.trials.retain(Trial::is_settled);
        prober.close(self.asking);
    }
}
