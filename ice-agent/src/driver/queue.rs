//! Datagrams that wait, with a bound: like UDP, the oldest are dropped.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use thirl_common::wire::{Protocol, classify};
use tokio::sync::Notify;

/// So many bytes may wait, in each direction of each agent or stream.
const MAX_BYTES: usize = 1 << 20;

/// A queue between one who pushes and one who waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Vec<u8>>,
    bytes: usize,
    dropped: u64,
    closed: bool,
}

impl Queue {
    /// Appends a datagram; makes room by dropping the oldest.
    pub(super) fn push(&self, item: Vec<u8>) {
        self.push_where(item, |_| true);
    }

    /// As [`Queue::push`], for a stream to a TURN server: requests are never dropped, since nothing repeats them.
    pub(super) fn push_to_stream(&self, item: Vec<u8>) {
        self.push_where(item, |bytes| {
            let is_send_indication = bytes.starts_with(&[0x00, 0x16]);
            classify(bytes) == Protocol::ChannelData || is_send_indication
        });
    }

    fn push_where(&self, item: Vec<u8>, may_drop: impl Fn(&[u8]) -> bool) {
        {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            while state.bytes + item.len() > MAX_BYTES {
                let Some(at) = state.items.iter().position(|item| may_drop(item)) else { break };
                let dropped = state.items.remove(at).map_or(0, |item| item.len());
                state.bytes -= dropped;
                state.dropped += 1;
            }
            state.bytes += item.len();
            state.items.push_back(item);
        }
        self.changed.notify_one();
    }

    /// The oldest datagram; `None` once the queue is closed and empty. To be awaited in one place at a time.
    pub(super) async fn pop(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut state = self.lock();
                if let Some(item) = state.items.pop_front() {
                    state.bytes -= item.len();
                    // Another may wait as well, and one notification stands for any number of datagrams.
                    if !state.items.is_empty() || state.closed {
                        self.changed.notify_one();
                    }
                    return Some(item);
                }
                if state.closed {
                    self.changed.notify_one();
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// How many datagrams were dropped for want of room.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic leaves the state half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_data_is_dropped_and_requests_are_not() {
        let queue = Queue::default();
        let allocate = vec![0x00, 0x03];
        queue.push_to_stream(allocate.clone());
        for n in 0..64u8 {
            queue.push_to_stream([vec![0x40, 0, n], vec![0; 32_000]].concat());
        }
        assert_eq!(queue.pop().await.unwrap(), allocate);
        assert_eq!(queue.pop().await.unwrap()[2], 64 - 32);
        assert_eq!(queue.dropped(), 32);
        queue.close();
        for _ in 0..31 {
            assert!(queue.pop().await.is_some());
        }
        assert_eq!(queue.pop().await, None);
    }
}
