//! Whether the pair that carries a component's data still answers. Failure detection follows traffic: while data is sent and
//! nothing comes back, the peer is asked at once and often; when nothing is sent, it is asked ever more rarely for as long as
//! that keeps the NAT's mapping.
//!
//! The asks are connectivity checks (RFC 8445, section 7.2), so that the 4 seconds of RFC 7675, section 5.1, between two
//! consent checks do not bind them; an answer is consent all the same.

use std::time::{Duration, Instant};

use super::config::Timings;

/// Data has been sent and nothing was heard for so long: the peer is asked.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// Without an answer, it is asked again after so long, or after a round trip.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// The same when nothing but asks is sent.
const ASK_AGAIN_IDLE: Duration = Duration::from_millis(500);
/// How long a pair may be silent against which something else speaks.
const DOUBT: Duration = Duration::from_secs(1);
/// Losses alone do not make a silence: so many asks must have gone without an answer.
const MIN_ASKED: u32 = 6;
const MIN_ASKED_IN_DOUBT: u32 = 4;

/// What is to be done about a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// There is none any more.
    Nothing,
    /// Nothing until then.
    Later(Instant),
    /// Ask, and look again then.
    Ask(Instant),
    /// It has lasted too long. Ask all the same, and look again then.
    Silent(Instant),
}

#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// Since when data is sent and nothing is heard.
    data_since: Option<Instant>,
    /// Since when an ask waits for its answer.
    answer_since: Option<Instant>,
    /// Since when something else speaks against the pair.
    doubt_since: Option<Instant>,
    /// Asks without an answer.
    asked: u32,
    last_asked: Option<Instant>,
    /// When an answer last ended a doubt.
    reassured: Option<Instant>,
    /// Whether data has passed since the last consent check.
    active: bool,
    /// Whether a timer runs.
    armed: bool,
    /// The time between consent checks, and what it may grow to.
    interval: Option<Duration>,
    ceiling: Option<Duration>,
}

impl Liveness {
    /// Data is sent. `true` if a timer has to be set for now.
    pub(super) fn sent_data(&mut self, now: Instant) -> bool {
        self.active = true;
        self.data_since.get_or_insert(now);
        !std::mem::replace(&mut self.armed, true)
    }

    /// The peer was heard: data, or a check. It does not say that the peer hears this side.
    pub(super) fn heard(&mut self, data: bool) {
        self.active |= data;
        self.data_since = None;
        self.doubt_since = None;
    }

    /// A consent check is sent.
    pub(super) fn asks(&mut self, now: Instant) {
        self.answer_since.get_or_insert(now);
        self.last_asked = Some(now);
        self.asked += 1;
        self.armed = true;
    }

    /// Something speaks against the pair: the peer sends from elsewhere, this host slept. `true` if that is news.
    pub(super) fn doubts(&mut self, now: Instant) -> bool {
        let lately = self.reassured.is_some_and(|reassured| now < reassured + ASK_AFTER);
        let news = !lately && self.doubt_since.is_none();
        if news {
            self.doubt_since = Some(now);
            self.armed = true;
        }
        news
    }

    /// What was asked then is answered. That ends a doubt unless it is of before.
    pub(super) fn answered(&mut self, now: Instant, asked: Instant) {
        self.data_since = None;
        self.answer_since = None;
        if self.doubt_since.take_if(|since| *since <= asked).is_some() {
            self.reassured = Some(now);
        }
        self.asked = 0;
        self.last_asked = None;
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, rtt: Duration, timings: &Timings) -> Due {
        let first_ask = [
            self.data_since.map(|since| since + ASK_AFTER),
            self.answer_since.map(|since| since + ASK_AGAIN_IDLE.max(2 * rtt)),
            self.doubt_since,
        ];
        let Some(first_ask) = first_ask.into_iter().flatten().min() else {
            self.armed = false;
            return Due::Nothing;
        };
        let idle = self.data_since.is_none() && self.doubt_since.is_none();
        let again = if idle { ASK_AGAIN_IDLE } else { ASK_AGAIN }.max(rtt);
        let ask_at = self.last_asked.map_or(first_ask, |last| first_ask.max(last + again));
        if now < ask_at {
            return Due::Later(ask_at);
        }
        let limits = [
            self.data_since.map(|since| since + timings.silence),
            self.answer_since.map(|since| since + timings.disconnected),
            self.doubt_since.map(|since| since + DOUBT.max(3 * rtt)),
        ];
        let over = limits.into_iter().flatten().min().is_some_and(|limit| now >= limit);
        let enough = if self.doubt_since.is_some() { MIN_ASKED_IN_DOUBT } else { MIN_ASKED };
        let silent = over && self.asked >= enough;
        if silent { Due::Silent(now + again) } else { Due::Ask(now + again) }
    }

    /// The time until the next consent check. After one that was answered without any data having passed, it grows: the
    /// NAT has kept the mapping for the time before.
    pub(super) fn next_interval(&mut self, timings: &Timings) -> Duration {
        let least = timings.consent_interval;
        let ceiling = self.ceiling.unwrap_or(timings.idle_interval).max(least);
        let interval = match self.interval {
            Some(interval) if !std::mem::take(&mut self.active) && self.answer_since.is_none() => {
                (interval * 3 / 2).min(ceiling)
            }
            _ => least,
        };
        self.active = false;
        *self.interval.insert(interval)
    }

    /// The peer sees this side elsewhere than before: the NAT has not kept the mapping for as long as nothing was sent.
    pub(super) fn mapping_changed(&mut self, timings: &Timings) {
        let kept = self.interval.unwrap_or_default() / 2;
        self.ceiling = Some(kept.max(timings.consent_interval));
        self.interval = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    fn start() -> Instant {
        Instant::now()
    }

    /// When it asks and when it says that there is silence, in milliseconds, from the first timer on.
    fn run(liveness: &mut Liveness, from: Instant) -> (Vec<u128>, u128) {
        let (mut now, mut asks) = (from, Vec::new());
        loop {
            match liveness.handle_timeout(now, RTT, &Timings::default()) {
                Due::Nothing => panic!("there is a silence"),
                Due::Later(at) => now = at,
                Due::Ask(at) => {
                    liveness.asks(now);
                    asks.push((now - from).as_millis());
                    now = at;
                }
                Due::Silent(_) => return (asks, (now - from).as_millis()),
            }
        }
    }

    #[test]
    fn silence_under_traffic_is_told_within_three_seconds() {
        let (mut liveness, now) = (Liveness::default(), start());
        assert!(liveness.sent_data(now), "the first datagram arms the timer");
        assert!(!liveness.sent_data(now + ms(20)), "the others do not");
        assert_eq!(run(&mut liveness, now), (vec![1000, 1250, 1500, 1750, 2000, 2250], 2500));
    }

    #[test]
    fn an_idle_pair_gets_more_time() {
        let (mut liveness, now) = (Liveness::default(), start());
        liveness.asks(now);
        let (asks, silent) = run(&mut liveness, now);
        assert_eq!((asks.first(), asks.len(), silent), (Some(&500), 9, 5000));
    }

    #[test]
    fn what_speaks_against_a_pair_hastens_it() {
        let (mut liveness, now) = (Liveness::default(), start());
        liveness.doubts(now);
        assert_eq!(run(&mut liveness, now), (vec![0, 250, 500, 750], 1000));
        liveness.answered(now + ms(1100), now + ms(1050));
        liveness.doubts(now + ms(1200));
        let due = liveness.handle_timeout(now + ms(1200), RTT, &Timings::default());
        assert_eq!(due, Due::Nothing, "it has just answered");
    }

    #[test]
    fn an_answer_of_before_ends_no_doubt() {
        let (mut liveness, now) = (Liveness::default(), start());
        liveness.asks(now);
        liveness.answered(now + ms(50), now);
        assert!(liveness.doubts(now + ms(100)), "what was answered before speaks for nothing");
        liveness.answered(now + ms(120), now + ms(70));
        assert_eq!(run(&mut liveness, now + ms(100)), (vec![0, 250, 500, 750], 1000));
    }

    #[test]
    fn a_pair_that_answers_is_never_silent() {
        let (mut liveness, start) = (Liveness::default(), start());
        // One way only, so that nothing but answers is heard; each comes after 900 ms.
        let (mut next, mut answers): (Option<Instant>, Vec<Instant>) = (None, Vec::new());
        for tick in 0..6000 {
            let now = start + ms(tick * 10);
            if answers.first().is_some_and(|at| *at <= now) {
                answers.remove(0);
                liveness.answered(now, now - ms(900));
            }
            if liveness.sent_data(now) {
                next = Some(now);
            }
            if next.is_some_and(|at| at <= now) {
                next = match liveness.handle_timeout(now, ms(900), &Timings::default()) {
                    Due::Nothing => None,
                    Due::Later(at) => Some(at),
                    Due::Ask(at) => {
                        liveness.asks(now);
                        answers.push(now + ms(900));
                        Some(at)
                    }
                    Due::Silent(_) => panic!("silent after {tick}"),
                };
            }
        }
    }

    #[test]
    fn the_interval_grows_while_the_mapping_holds() {
        let (mut liveness, now, timings) = (Liveness::default(), start(), Timings::default());
        let next = |liveness: &mut Liveness| {
            let interval = liveness.next_interval(&timings);
            liveness.asks(now);
            liveness.answered(now, now);
            interval.as_millis()
        };
        let grown: Vec<_> = (0..6).map(|_| next(&mut liveness)).collect();
        assert_eq!(grown, [5000, 7500, 11_250, 16_875, 20_000, 20_000]);
        liveness.mapping_changed(&timings);
        let grown: Vec<_> = (0..4).map(|_| next(&mut liveness)).collect();
        assert_eq!(grown, [5000, 7500, 10_000, 10_000]);
        liveness.sent_data(now);
        assert_eq!(next(&mut liveness), 5000, "with traffic, consent is as RFC 7675 has it");
    }
}
