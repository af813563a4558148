//! What is told to a shard from outside: it takes it up in its next turn.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thirl_common::io::Waker;

use super::figures::ShardFigures;

/// Reaches the shards of a server, which have the numbers from 0 up. All clones reach the same.
pub struct Post<L>(Arc<[Mailbox<L>]>);

struct Mailbox<L> {
    /// Whether there is any mail, so that a shard without need not lock.
    any: AtomicBool,
    waiting: Mutex<Vec<Mail<L>>>,
    waker: Waker,
}

/// What a shard is sent.
pub(super) enum Mail<L> {
    /// For its service.
    Letter(L),
    /// What its figures are.
    Figures(Sender<ShardFigures>),
}

impl<L> Post<L> {
    pub(super) fn new(wakers: Vec<Waker>) -> Post<L> {
        let mailbox = |waker| Mailbox { any: AtomicBool::new(false), waiting: Mutex::new(Vec::new()), waker };
        Post(wakers.into_iter().map(mailbox).collect())
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.0.len()
    }

    /// Sends a letter to the service of a shard. Where there is no such shard, or it has ended, the letter is dropped in
    /// the end.
    pub fn send(&self, shard: usize, letter: L) {
        self.put(shard, Mail::Letter(letter));
    }

    pub(super) fn ask_figures(&self, shard: usize, answer: Sender<ShardFigures>) {
        self.put(shard, Mail::Figures(answer));
    }

    /// Has all shards begin another turn.
    pub(super) fn wake_all(&self) {
        self.0.iter().for_each(Mailbox::wake);
    }

    /// Takes a shard's mail, in the order in which it came.
    pub(super) fn take(&self, shard: usize) -> Vec<Mail<L>> {
        match self.0.get(shard) {
            Some(mailbox) if mailbox.any.swap(false, Ordering::Acquire) => {
                std::mem::take(&mut mailbox.lock())
            }
            _ => Vec::new(),
        }
    }

    fn put(&self, shard: usize, mail: Mail<L>) {
        if let Some(mailbox) = self.0.get(shard) {
            mailbox.lock().push(mail);
            if !mailbox.any.swap(true, Ordering::Release) {
                mailbox.wake();
            }
        }
    }
}

impl<L> Mailbox<L> {
    fn wake(&self) {
        // An eventfd whose counter is full wakes as well.
        let _ = self.waker.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Mail<L>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L> Clone for Post<L> {
    fn clone(&self) -> Self {
        Post(self.0.clone())
    }
}

impl<L> fmt::Debug for Post<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Post").field("shards", &self.shards()).finish()
    }
}
