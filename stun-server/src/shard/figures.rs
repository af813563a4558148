//! What shards tell of themselves when they are asked.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use thirl_common::io::DatagramCounters;

use super::post::Post;

/// How long a shard may take to answer: much longer than any turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// The clients' connections of a shard or of all, and its datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardFigures {
    /// Streams without TLS, or of which nothing came yet.
    pub tcp: usize,
    /// Streams with TLS.
    pub tls: usize,
    /// Streams that are passed on to an HTTPS server.
    pub passed_on: usize,
    /// DTLS sessions.
    pub dtls: usize,
    /// Of these, those whose handshake is under way.
    pub dtls_handshakes: usize,
    /// Of all sockets.
    pub datagrams: DatagramCounters,
}

impl ShardFigures {
    fn add(mut self, other: &ShardFigures) -> ShardFigures {
        self.tcp += other.tcp;
        self.tls += other.tls;
        self.passed_on += other.passed_on;
        self.dtls += other.dtls;
        self.dtls_handshakes += other.dtls_handshakes;
        self.datagrams.add(&other.datagrams);
        self
    }
}

impl<L> Post<L> {
    /// Asks the service of each shard, and waits for the answers. `None`: one does not answer.
    pub fn ask<T>(&self, question: impl Fn(Sender<T>) -> L) -> Option<Vec<T>> {
        let (sender, answers) = channel();
        (0..self.shards()).for_each(|shard| self.send(shard, question(sender.clone())));
        drop(sender);
        all(&answers, self.shards())
    }

    /// The figures of all shards, added up. `None`: one does not answer.
    pub fn figures(&self) -> Option<ShardFigures> {
        let (sender, answers) = channel();
        (0..self.shards()).for_each(|shard| self.ask_figures(shard, sender.clone()));
        drop(sender);
        Some(all(&answers, self.shards())?.iter().fold(ShardFigures::default(), ShardFigures::add))
    }
}

fn all<T>(answers: &Receiver<T>, count: usize) -> Option<Vec<T>> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        match answers.recv_timeout(PATIENCE) {
            Ok(answer) => all.push(answer),
            // A shard that has ended answers nothing any more.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        }
    }
    Some(all)
}
