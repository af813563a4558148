//! What is told to a shard, by other shards or from outside: it takes it up in its next turn.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thirl_common::io::Waker;

use super::figures::ShardFigures;
use super::parcel::Parcel;

/// So many bytes of data wait for a shard at most, like those in a socket's buffer: 4 MiB. More are dropped and counted.
const PARCELS_LIMIT: usize = 4 << 20;

/// Reaches the shards of a server, which have the numbers from 0 up. All clones reach the same.
pub struct Post<L>(Arc<[Mailbox<L>]>);

struct Mailbox<L> {
    /// Whether there is any mail, so that a shard without need not lock.
    any: AtomicBool,
    waiting: Mutex<Waiting<L>>,
    waker: Waker,
}

struct Waiting<L> {
    mail: Vec<Mail<L>>,
    /// The bytes of the parcels among it.
    parcel_bytes: usize,
}

/// What a shard is sent.
pub(super) enum Mail<L> {
    /// For its service.
    Letter(L),
    /// What its figures are.
    Figures(Sender<ShardFigures>),
    /// Datagrams for its service's sockets.
    Parcel(Parcel),
}

impl<L> Post<L> {
    pub(super) fn new(wakers: Vec<Waker>) -> Post<L> {
        let mailbox = |waker| Mailbox {
            any: AtomicBool::new(false),
            waiting: Mutex::new(Waiting { mail: Vec::new(), parcel_bytes: 0 }),
            waker,
        };
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

    /// Sends datagrams; false if they found no room.
    pub(super) fn send_parcel(&self, shard: usize, parcel: Parcel) -> bool {
        let Some(mailbox) = self.0.get(shard) else { return false };
        let mut waiting = mailbox.lock();
        let bytes = waiting.parcel_bytes + parcel.size();
        if bytes > PARCELS_LIMIT {
            return false;
        }
        waiting.parcel_bytes = bytes;
        waiting.mail.push(Mail::Parcel(parcel));
        drop(waiting);
        mailbox.announce();
        true
    }

    /// Has all shards begin another turn.
    pub(super) fn wake_all(&self) {
        self.0.iter().for_each(Mailbox::wake);
    }

    /// Takes a shard's mail, in the order in which it came.
    pub(super) fn take(&self, shard: usize) -> Vec<Mail<L>> {
        let Some(mailbox) = self.0.get(shard) else { return Vec::new() };
        if !mailbox.any.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        let mut waiting = mailbox.lock();
        waiting.parcel_bytes = 0;
        std::mem::take(&mut waiting.mail)
    }

    fn put(&self, shard: usize, mail: Mail<L>) {
        if let Some(mailbox) = self.0.get(shard) {
            mailbox.lock().mail.push(mail);
            mailbox.announce();
        }
    }
}

impl<L> Mailbox<L> {
    fn announce(&self) {
        if !self.any.swap(true, Ordering::Release) {
            self.wake();
        }
    }

    fn wake(&self) {
        // An eventfd whose counter is full wakes as well.
        let _ = self.waker.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<L>> {
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
