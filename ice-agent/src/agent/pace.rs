//! The pace of new transactions, over all checks and all gathering (RFC 8445, section 14).
//!
//! Two things are to be spared (RFC 8445, appendix B.1): NATs, for which one new mapping every 5 ms is "well supported",
//! and access links. So no two transactions begin within 5 ms, ever; and beyond a burst, which in all is less than the
//! first flight of a TCP connection, they begin every [`Timings::pacing`]. What time goes by unused earns a new burst.

use std::time::{Duration, Instant};

use super::config::Timings;
use super::event::State;
use super::remote::Session;
use super::{Agent, Timer};

/// When the next transaction may be started.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the last one was started.
    last: Option<Instant>,
    /// When the last one would have been started without a burst.
    steady: Option<Instant>,
    /// This agent's turn by the pace that it shares with others.
    pub(super) turn: Option<Instant>,
    /// Whether it was one of gathering.
    gathered_last: bool,
}

impl Pace {
    /// When what follows an open path may be started.
    fn triggered(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| last + Timings::MIN_PACING)
    }

    /// When anything else may be.
    fn ordinary(&self, now: Instant, pacing: Duration, burst: u32) -> Instant {
        let ahead = pacing.saturating_mul(burst);
        let earned = self.steady.and_then(|steady| (steady + pacing).checked_sub(ahead));
        self.triggered(now).max(earned.unwrap_or(now))
    }

    fn started(&mut self, now: Instant, pacing: Duration) {
        self.last = Some(now);
        self.turn = None;
        self.steady = Some(self.steady.map_or(now, |steady| now.max(steady + pacing)));
    }
}

/// More than this a peer's Ta does not slow this side down.
const MAX_REMOTE_PACING: Duration = Duration::from_secs(10);

impl Agent {
    /// What this side proposes for Ta: nothing if it is the 50 ms that count where nothing is said (RFC 8839, section 5.5).
    pub fn proposed_pacing(&self) -> Option<Duration> {
        let pacing = self.config.timings.pacing;
        (pacing != Timings::default().pacing).then_some(pacing)
    }

    /// What the peer proposes for Ta, if it does (`a=ice-pacing`: RFC 8839, section 5.5). "Both agents MUST use the higher
    /// value of the proposed values" (RFC 8445, section 14.2), and without a burst.
    pub fn set_remote_pacing(&mut self, pacing: Duration) {
        let timings = &mut self.config.timings;
        timings.pacing = timings.pacing.max(pacing.min(MAX_REMOTE_PACING));
        timings.burst = 0;
    }

    /// Starts the transactions whose turn it is. A check that answers one of the peer's, or nominates, follows a path that
    /// is known to be open and does not wait for the steady pace.
    pub(super) fn pump(&mut self, now: Instant) {
        while self.is_running() {
            let Timings { pacing, burst, .. } = self.config.timings;
            let (triggered, ordinary) = (self.pace.triggered(now), self.pace.ordinary(now, pacing, burst));
            if now < triggered {
                let next = if self.session.list.has_triggered() { triggered } else { ordinary };
                self.timers.set(Timer::Pace, next);
                return;
            }
            if let Some(turn) = self.shared_turn(now, now >= ordinary).filter(|turn| now < *turn) {
                self.timers.set(Timer::Pace, turn);
                return;
            }
            if !self.start_triggered(now) {
                if now < ordinary {
                    self.timers.set(Timer::Pace, ordinary);
                    return;
                }
                if !self.start_next(now) {
                    self.timers.cancel(Timer::Pace);
                    return;
                }
            }
            self.pace.started(now, pacing);
        }
    }

    /// When a check may be sent that is not of the steady pace ([`super::hard_nat`]).
    pub(super) fn turn_beside(&mut self, now: Instant) -> Instant {
        let least = self.pace.triggered(now);
        self.shared_turn_beside(now).map_or(least, |turn| turn.max(least))
    }

    /// Such a check is sent.
    pub(super) fn sent_beside(&mut self, now: Instant) {
        self.pace.last = Some(now);
        self.pace.turn = None;
    }

    fn start_triggered(&mut self, now: Instant) -> bool {
        while let Some(pair) = self.session.list.next_triggered() {
            if self.start_check(now, pair) {
                return true;
            }
        }
        false
    }

    /// Gathering and ordinary checks take turns.
    fn start_next(&mut self, now: Instant) -> bool {
        let checked = self.pace.gathered_last && self.start_ordinary(now);
        self.pace.gathered_last = !checked && self.gather_next(now);
        checked || self.pace.gathered_last || self.start_ordinary(now)
    }

    fn start_ordinary(&mut self, now: Instant) -> bool {
        let Session { list, streams, .. } = &mut self.session;
        let done = !streams.look_for_more() && !list.wants_any();
        let next = if done || matches!(self.state, State::Failed | State::Closed) {
            None
        } else {
            list.next_ordinary(|pair| streams.may_check(pair))
        };
        next.is_some_and(|pair| self.start_check(now, pair))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    fn origin() -> Instant {
        Instant::now()
    }

    const PACING: Duration = Duration::from_millis(50);
    const BURST: u32 = 4;

    /// The milliseconds at which transactions start if there is always one that waits.
    fn starts(pace: &mut Pace, from: Instant, origin: Instant, count: usize) -> Vec<u128> {
        let mut now = from;
        let mut starts = Vec::new();
        for _ in 0..count {
            now = now.max(pace.ordinary(now, PACING, BURST));
            pace.started(now, PACING);
            starts.push((now - origin).as_millis());
        }
        starts
    }

    #[test]
    fn a_burst_then_the_steady_pace_and_rest_earns_another() {
        let t0 = origin();
        let mut pace = Pace::default();
        assert_eq!(starts(&mut pace, t0, t0, 8), [0, 5, 10, 15, 20, 50, 100, 150]);
        let later = t0 + Duration::from_millis(250);
        assert_eq!(starts(&mut pace, later, t0, 4), [250, 255, 300, 350], "half a burst was earned");
        let much_later = t0 + Duration::from_secs(10);
        assert_eq!(starts(&mut pace, much_later, t0, 6), [10_000, 10_005, 10_010, 10_015, 10_020, 10_050]);
    }

    #[test]
    fn what_follows_an_open_path_waits_for_the_least_interval_only() {
        let t0 = origin();
        let mut pace = Pace::default();
        starts(&mut pace, t0, t0, 8);
        let last = t0 + Duration::from_millis(150);
        assert_eq!(pace.triggered(last), last + Timings::MIN_PACING);
    }
}
