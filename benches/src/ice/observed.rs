//! What an agent's checks look like from the network: how many, and how far apart new ones are.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use thirl_common::wire::{Class, Message, Protocol, TransactionId, classify};

/// "The agent MUST NOT use a Ta value smaller than 5 ms" (RFC 8445, section 14.2).
const LEAST_TA: Duration = Duration::from_millis(5);

/// The checks of one agent.
#[derive(Debug, Default)]
pub(super) struct Observed {
    known: BTreeSet<TransactionId>,
    /// When each transaction was first seen.
    begun: Vec<Instant>,
    /// Checks, repetitions included.
    pub(super) sent: u32,
}

impl Observed {
    /// Takes note of a datagram that an agent sent.
    pub(super) fn note(&mut self, now: Instant, datagram: &[u8]) {
        let message = if classify(datagram) == Protocol::Stun { Message::parse(datagram).ok() } else { None };
        let Some(message) = message.filter(|message| message.class() == Class::Request) else { return };
        self.sent += 1;
        if self.known.insert(message.transaction_id()) {
            self.begun.push(now);
        }
    }

    /// The least time between two new transactions.
    pub(super) fn least_gap(&self) -> Option<Duration> {
        self.begun.windows(2).map(|pair| pair[1] - pair[0]).min()
    }

    /// How many transactions the agent was ahead of one every 5 ms at the most.
    pub(super) fn ahead(&self) -> usize {
        let mut ahead = 0;
        for (n, first) in self.begun.iter().enumerate() {
            for (after, at) in self.begun[n..].iter().enumerate() {
                let allowed = (*at - *first).as_micros() / LEAST_TA.as_micros();
                ahead = ahead.max(after.saturating_sub(usize::try_from(allowed).unwrap_or(usize::MAX)));
            }
        }
        ahead
    }
}
