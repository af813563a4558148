//! The client's side of a request: when to send it again and when to give up (RFC 8489, section 6.2).

use std::time::{Duration, Instant};

use crate::net::Transport;

/// How a request is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retransmission {
    /// The first interval; it doubles with each transmission. RTO of RFC 8489, section 6.2.1.
    pub rto: Duration,
    /// How often the request is sent at the most. Rc.
    pub transmissions: u32,
    /// How many times `rto` to wait for an answer after the last transmission. Rm.
    pub last_wait: u32,
    /// The doubling stops here.
    pub max_interval: Duration,
}

impl Retransmission {
    /// "RTO ... SHOULD be greater than or equal to 500 ms", Rc = 7, Rm = 16 (RFC 8489, section 6.2.1): 39.5 s in all.
    pub const STUN: Retransmission = Retransmission {
        rto: Duration::from_millis(500),
        transmissions: 7,
        last_wait: 16,
        max_interval: Duration::from_secs(32),
    };

    /// Ti: how long to wait where the transport retransmits (RFC 8489, section 6.2.2).
    pub const RELIABLE_WAIT: Duration = Duration::from_millis(39_500);
}

/// What is due at a transaction's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// Send the same bytes again.
    Retransmit,
    /// No answer came; the transaction is over.
    TimedOut,
}

/// The timer of one request. The bytes, and what the answer is for, are kept by whoever sent it.
///
/// ```
/// use std::time::{Duration, Instant};
/// use thirl_common::net::Transport;
/// use thirl_common::request::{Due, Retransmission, Transaction};
///
/// # #[expect(clippy::disallowed_methods, reason = "an example's clock")]
/// let now = Instant::now();
/// let mut transaction = Transaction::start(Retransmission::STUN, Transport::Udp, now);
/// let later = transaction.deadline();
/// assert_eq!(later - now, Duration::from_millis(500));
/// assert_eq!(transaction.handle_timeout(later), Due::Retransmit);
/// assert_eq!(transaction.deadline() - later, Duration::from_millis(1000));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Transaction {
    schedule: Retransmission,
    started: Instant,
    interval: Duration,
    sent: u32,
    deadline: Instant,
}

impl Transaction {
    /// Notes the first transmission, which the caller makes at `now`.
    pub fn start(schedule: Retransmission, transport: Transport, now: Instant) -> Transaction {
        let reliable = transport.is_reliable();
        let interval = if reliable { Retransmission::RELIABLE_WAIT } else { schedule.rto };
        let schedule =
            if reliable { Retransmission { transmissions: 1, last_wait: 0, ..schedule } } else { schedule };
        let mut transaction =
            Transaction { schedule, started: now, interval, sent: 1, deadline: now + interval };
        if !reliable && schedule.transmissions <= 1 {
            transaction.deadline = now + schedule.rto * schedule.last_wait;
        }
        transaction
    }

    /// When [`Transaction::handle_timeout`] is due.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// When the request was first sent.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// How often it was sent. An answer to a request sent once gives a round-trip time (Karn's algorithm).
    pub fn transmissions(&self) -> u32 {
        self.sent
    }

    /// Moves on if the deadline has come.
    pub fn handle_timeout(&mut self, now: Instant) -> Due {
        if now < self.deadline {
            return Due::Nothing;
        }
        if self.sent >= self.schedule.transmissions {
            return Due::TimedOut;
        }
        self.sent += 1;
        self.interval = (self.interval * 2).min(self.schedule.max_interval);
        let last = self.sent == self.schedule.transmissions;
        let wait = if last { self.schedule.rto * self.schedule.last_wait } else { self.interval };
        self.deadline = now + wait;
        Due::Retransmit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    fn origin() -> Instant {
        Instant::now()
    }

    #[test]
    fn the_schedule_of_rfc_8489() {
        let t0 = origin();
        let mut transaction = Transaction::start(Retransmission::STUN, Transport::Udp, t0);
        let mut sent_at = vec![0];
        loop {
            let now = transaction.deadline();
            match transaction.handle_timeout(now) {
                Due::Retransmit => sent_at.push((now - t0).as_millis()),
                Due::TimedOut => break,
                Due::Nothing => unreachable!("its own deadline is never early"),
            }
        }
        assert_eq!(sent_at, [0, 500, 1500, 3500, 7500, 15500, 31500]);
        assert_eq!(transaction.deadline() - t0, Duration::from_millis(39_500));
    }

    #[test]
    fn a_reliable_transport_is_only_waited_for() {
        let t0 = origin();
        let mut transaction = Transaction::start(Retransmission::STUN, Transport::Tcp, t0);
        assert_eq!(transaction.deadline() - t0, Duration::from_millis(39_500));
        assert_eq!(transaction.handle_timeout(transaction.deadline()), Due::TimedOut);
    }
}
