//! What was sent to port 5351 and is not answered yet.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use thirl_common::net::{Transmit, Transport};
use thirl_common::request::{Due, Retransmission, Transaction};
use thirl_common::time::Deadlines;

use super::error::Protocol;
use super::event::MappingId;
use super::wire::Request;

/// The first contact, and a removal: NAT-PMP's 250 ms (RFC 6886, section 3.1), three seconds in all. PCP's own pace,
/// made for servers far away, would take longer to say that there is nobody than a person waits.
const QUICK: Retransmission = Retransmission {
    rto: Duration::from_millis(250),
    transmissions: 6,
    last_wait: 3,
    max_interval: Duration::from_millis(500),
};

/// A renewal, of which there are more: IRT is 3 s (RFC 6887, section 8.1.1), and some 90 s are enough for a gateway to
/// restart.
const PATIENT: Retransmission = Retransmission {
    rto: Duration::from_secs(3),
    transmissions: 5,
    last_wait: 16,
    max_interval: Duration::from_secs(1024),
};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Asked {
    /// PCP ANNOUNCE.
    Announce,
    /// NAT-PMP's external address.
    ExternalAddress,
    Map(Protocol, MappingId),
    Remove(Protocol, MappingId),
}

impl Asked {
    pub(super) fn protocol(self) -> Protocol {
        match self {
            Asked::Announce => Protocol::Pcp,
            Asked::ExternalAddress => Protocol::NatPmp,
            Asked::Map(protocol, _) | Asked::Remove(protocol, _) => protocol,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    Quick,
    Patient,
}

#[derive(Debug)]
struct Pending {
    request: Request,
    transaction: Transaction,
}

/// Sends requests until they are answered or given up.
#[derive(Debug)]
pub(super) struct Requests {
    from: SocketAddr,
    to: SocketAddr,
    pending: BTreeMap<Asked, Pending>,
    timers: Deadlines<Asked>,
    transmits: VecDeque<Transmit>,
}

impl Requests {
    pub(super) fn new(from: SocketAddr, to: SocketAddr) -> Requests {
        let (pending, timers) = (BTreeMap::new(), Deadlines::default());
        Requests { from, to, pending, timers, transmits: VecDeque::new() }
    }

    /// Asks, unless the same is being asked.
    pub(super) fn ask(&mut self, now: Instant, asked: Asked, request: Request, pace: Pace) {
        if self.is_pending(asked) {
            return;
        }
        let schedule = if pace == Pace::Quick { QUICK } else { PATIENT };
        let transaction = Transaction::start(schedule, Transport::Udp, now);
        self.timers.set(asked, transaction.deadline());
        self.pending.insert(asked, Pending { request, transaction });
        self.transmit(request);
    }

    pub(super) fn is_pending(&self, asked: Asked) -> bool {
        self.pending.contains_key(&asked)
    }

    /// Whether it was being asked; it no longer is.
    pub(super) fn finish(&mut self, asked: Asked) -> bool {
        self.timers.cancel(asked);
        self.pending.remove(&asked).is_some()
    }

    pub(super) fn pending(&self) -> Vec<Asked> {
        self.pending.keys().copied().collect()
    }

    /// What is given up now, after sending again what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Asked> {
        let mut given_up = Vec::new();
        while let Some(asked) = self.timers.pop_due(now) {
            let Some(pending) = self.pending.get_mut(&asked) else { continue };
            let due = pending.transaction.handle_timeout(now);
            let (deadline, request) = (pending.transaction.deadline(), pending.request);
            match due {
                Due::TimedOut => {
                    self.pending.remove(&asked);
                    given_up.push(asked);
                }
                Due::Retransmit => {
                    self.timers.set(asked, deadline);
                    self.transmit(request);
                }
                Due::Nothing => self.timers.set(asked, deadline),
            }
        }
        given_up
    }

    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn transmit(&mut self, request: Request) {
        let (from, to, payload) = (self.from, self.to, request.encode());
        self.transmits.push_back(Transmit { transport: Transport::Udp, from, to, payload });
    }
}
