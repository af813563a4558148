//! Datagrams that wait, with a bound: like UDP, the oldest are dropped.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use thirl_common::wire::{Protocol, classify};

/// So many bytes may wait, in each direction of each agent or stream.
const MAX_BYTES: usize = 1 << 20;
/// What a datagram takes beside its content: bytes.
const OVERHEAD: usize = 64;

/// A queue between one who pushes and those who wait.
#[derive(Debug, Default)]
pub(super) struct Queue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Bytes>,
    bytes: usize,
    dropped: u64,
    closed: bool,
    waiting: Vec<Waker>,
    want_room: Vec<Waker>,
}

impl Queue {
    /// Appends datagrams; makes room by dropping the oldest.
    pub(super) fn push(&self, items: impl IntoIterator<Item = Bytes>) {
        self.push_where(items, |_| true);
    }

    /// As [`Queue::push`], for a stream to a TURN server: requests are never dropped, since nothing repeats them.
    pub(super) fn push_to_stream(&self, item: Vec<u8>) {
        self.push_where([item.into()], |bytes| {
            let is_send_indication = bytes.starts_with(&[0x00, 0x16]);
            classify(bytes) == Protocol::ChannelData || is_send_indication
        });
    }

    fn push_where(&self, items: impl IntoIterator<Item = Bytes>, may_drop: impl Fn(&[u8]) -> bool) {
        let mut state = self.lock();
        for item in items {
            state.push(item, &may_drop);
        }
        state.wake();
    }

    /// How many bytes wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().bytes
    }

    /// Waits until fewer bytes wait than that, or until the queue is closed.
    pub(super) async fn room(&self, most: usize) {
        poll_fn(|cx| {
            let mut state = self.lock();
            if state.bytes < most || state.closed {
                return Poll::Ready(());
            }
            if !state.want_room.iter().any(|waiting| waiting.will_wake(cx.waker())) {
                state.want_room.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Waits until the queue is closed, though not all may have been taken from it.
    pub(super) async fn closed(&self) {
        poll_fn(|cx| self.poll(cx, |state| state.closed.then_some(()))).await;
    }

    /// The oldest datagram; `None` once the queue is closed and empty.
    pub(super) async fn pop(&self) -> Option<Bytes> {
        poll_fn(|cx| self.poll_pop(cx)).await
    }

    /// As [`Queue::pop`], for who polls.
    pub(super) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        self.poll(cx, State::pop)
    }

    /// Waits for a datagram and appends as many as there are, at most `max`; returns how many. None come once the queue
    /// is closed and empty.
    pub(super) fn poll_fill(&self, cx: &mut Context<'_>, into: &mut Vec<Bytes>, max: usize) -> Poll<usize> {
        let before = into.len();
        let filled = self.poll(cx, |state| {
            into.extend(std::iter::from_fn(|| state.pop()).take(max));
            (into.len() > before).then_some(())
        });
        filled.map(|_| into.len() - before)
    }

    /// The oldest datagram, if there is one; `Pending` if not, but one may come.
    pub(super) fn try_pop(&self) -> Poll<Option<Bytes>> {
        let mut state = self.lock();
        match state.pop() {
            None if !state.closed => Poll::Pending,
            item => Poll::Ready(item),
        }
    }

    fn poll<R>(&self, cx: &mut Context<'_>, take: impl FnOnce(&mut State) -> Option<R>) -> Poll<Option<R>> {
        let mut state = self.lock();
        match take(&mut state) {
            None if !state.closed => {
                if !state.waiting.iter().any(|waiting| waiting.will_wake(cx.waker())) {
                    state.waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
            taken => Poll::Ready(taken),
        }
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.wake();
    }

    /// How many datagrams were dropped for want of room.
    pub(super) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic leaves the state half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, item: Bytes, may_drop: &impl Fn(&[u8]) -> bool) {
        if self.closed {
            return;
        }
        let size = item.len() + OVERHEAD;
        while self.bytes + size > MAX_BYTES {
            let Some(at) = self.items.iter().position(|item| may_drop(item)) else { break };
            let dropped = self.items.remove(at).map_or(0, |item| item.len() + OVERHEAD);
            self.bytes -= dropped;
            self.dropped += 1;
        }
        self.bytes += size;
        self.items.push_back(item);
    }

    fn pop(&mut self) -> Option<Bytes> {
        let item = self.items.pop_front()?;
        self.bytes -= item.len() + OVERHEAD;
        self.want_room.drain(..).for_each(Waker::wake);
        Some(item)
    }

    /// Wakes all who wait: who comes first is served, and one who has gone away holds up nobody.
    fn wake(&mut self) {
        self.waiting.drain(..).chain(self.want_room.drain(..)).for_each(Waker::wake);
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

    #[tokio::test]
    async fn one_who_gives_up_takes_nothing_from_who_waits_on() {
        let queue = std::sync::Arc::new(Queue::default());
        let waiting = tokio::spawn({
            let queue = std::sync::Arc::clone(&queue);
            async move { queue.pop().await }
        });
        {
            let mut given_up = Box::pin(queue.pop());
            assert!(poll_fn(|cx| Poll::Ready(given_up.as_mut().poll(cx))).await.is_pending());
        }
        tokio::task::yield_now().await;
        queue.push([Bytes::from_static(b"one")]);
        assert_eq!(waiting.await.unwrap().unwrap(), "one");
    }

    #[tokio::test]
    async fn empty_datagrams_are_bounded_too() {
        let queue = Queue::default();
        queue.push((0..100_000).map(|_| Bytes::new()));
        let mut all = Vec::new();
        let filled = poll_fn(|cx| queue.poll_fill(cx, &mut all, usize::MAX)).await;
        assert_eq!((filled, queue.dropped()), (MAX_BYTES / OVERHEAD, 100_000 - filled as u64));
        assert!(queue.try_pop().is_pending());
    }
}
