//! The lifetime of an idle mapping (RFC 5780, section 4.6), by search.
//!
//! Each trial is a socket of its own that keeps quiet for a while, after which another socket has the server answer to
//! its port (RESPONSE-PORT): the answer comes in if the mapping still lives. All trials of a round wait at the same time;
//! the second round looks between the last that lived and the first that did not.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;
use thirl_common::net::Transport;
use thirl_common::time::Deadlines;

use super::probe::{Outcome, ProbeId, Prober, Question, SocketId};

/// The first round: seconds. The first of it shows whether the server can do it at all; RFC 4787 (section 4.3) wants two
/// minutes at least and recommends five.
const FIRST_ROUND: [f64; 10] = [0.0, 3.0, 8.0, 15.0, 28.0, 45.0, 75.0, 118.0, 178.0, 298.0];

/// The second round has at most so many trials.
const SECOND_ROUND: u32 = 8;

/// The search stops here: nobody needs a keepalive more exactly.
const PRECISION: Duration = Duration::from_secs(1);

/// How long a mapping lasts without traffic.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LifetimeReport {
    /// Seconds of silence after which it still lived.
    pub at_least_s: Option<f64>,
    /// Seconds of silence after which it had gone; `None` if it outlived the test.
    pub at_most_s: Option<f64>,
    /// What it rests on.
    pub reason: String,
}

#[derive(Debug)]
pub(super) struct LifetimeTest {
    server: SocketAddr,
    /// Asks the server to answer to the others.
    asking: SocketId,
    trials: Vec<Trial>,
    timers: Deadlines<ProbeId>,
    rounds: u32,
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
    Opening,
    Waiting { port: u16 },
    Asking,
    Alive,
    Gone,
}

impl LifetimeTest {
    pub(super) fn begin(now: Instant, prober: &mut Prober, server: SocketAddr) -> LifetimeTest {
        let mut test = LifetimeTest {
            server,
            asking: prober.open(Transport::Udp),
            trials: Vec::new(),
            timers: Deadlines::default(),
            rounds: 1,
            failure: None,
            over: false,
        };
        test.open(now, prober, FIRST_ROUND.map(Duration::from_secs_f64));
        test
    }

    pub(super) fn handle(&mut self, now: Instant, prober: &mut Prober, probe: ProbeId, outcome: &Outcome) {
        let Some(trial) = self.trials.iter_mut().find(|trial| trial.probe == probe) else { return };
        match (trial.state, outcome) {
            (State::Opening, Outcome::Answered(response)) => {
                trial.state = State::Waiting { port: response.reflexive.port() };
                self.timers.set(probe, now + trial.wait);
            }
            (State::Asking, Outcome::Answered(_)) => trial.state = State::Alive,
            (State::Asking, Outcome::Silent { .. }) => trial.state = State::Gone,
            (State::Asking, Outcome::Refused(code)) => {
                self.failure = Some(format!("the server refuses RESPONSE-PORT with error {code}"));
            }
            _ => self.failure = Some("the server stopped answering".to_owned()),
        }
        if trial.wait.is_zero() && trial.state == State::Gone {
            self.failure = Some("the server does not answer to another port (RESPONSE-PORT)".to_owned());
        }
        self.go_on(now, prober);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, prober: &mut Prober) {
        while let Some(probe) = self.timers.pop_due(now) {
            let Some(trial) = self.trials.iter_mut().find(|trial| trial.probe == probe) else { continue };
            let State::Waiting { port } = trial.state else { continue };
            let question = Question {
                answer_at: Some(trial.socket),
                response_port: Some(port),
                ..Question::plain(self.server)
            };
            trial.state = State::Asking;
            trial.probe = prober.ask(now, self.asking, question);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The longest wait of this round: how long it may take yet.
    pub(super) fn longest_wait(&self) -> Duration {
        let unsettled = self.trials.iter().filter(|trial| !matches!(trial.state, State::Alive | State::Gone));
        unsettled.map(|trial| trial.wait).max().unwrap_or_default()
    }

    pub(super) fn report(&self) -> LifetimeReport {
        if let Some(reason) = &self.failure {
            return LifetimeReport { at_least_s: None, at_most_s: None, reason: reason.clone() };
        }
        let (alive, gone) = self.bracket();
        let reason = match gone {
            Some(_) => format!("{} sockets that kept quiet for different times", self.trials.len()),
            None => "it outlived the longest trial".to_owned(),
        };
        LifetimeReport {
            at_least_s: alive.map(|wait| wait.as_secs_f64()),
            at_most_s: gone.map(|wait| wait.as_secs_f64()),
            reason,
        }
    }

    /// The longest wait that was survived below the shortest that was not, and that one.
    fn bracket(&self) -> (Option<Duration>, Option<Duration>) {
        let with =
            |state| self.trials.iter().filter(move |trial| trial.state == state).map(|trial| trial.wait);
        let gone = with(State::Gone).min();
        (with(State::Alive).filter(|wait| gone.is_none_or(|gone| *wait < gone)).max(), gone)
    }

    fn go_on(&mut self, now: Instant, prober: &mut Prober) {
        let (alive, gone) = self.bracket();
        let unsettled = |trial: &Trial| !matches!(trial.state, State::Alive | State::Gone);
        // What is longer than the shortest that was not survived need not be waited for.
        let wait = |trial: &Trial| unsettled(trial) && gone.is_none_or(|gone| trial.wait < gone);
        if self.failure.is_none() && self.trials.iter().any(wait) {
            return;
        }
        self.close(prober);
        if let (1, Some(alive), Some(gone), None) = (self.rounds, alive, gone, &self.failure)
            && gone - alive > PRECISION
        {
            self.rounds += 1;
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
            self.trials.push(Trial { socket, probe, wait, state: State::Opening });
        }
    }

    fn close(&mut self, prober: &mut Prober) {
        self.timers = Deadlines::default();
        self.trials.iter().for_each(|trial| prober.close(trial.socket));
        self.trials.retain(|trial| matches!(trial.state, State::Alive | State::Gone));
        prober.close(self.asking);
    }
}
