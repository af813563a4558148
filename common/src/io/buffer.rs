//! The buffers of a stream: they grow on demand up to a bound, and an idle stream has none.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::IoSlice;

/// What a stream reads into at first, in bytes.
const CHUNK: usize = 16 * 1024;

/// A beginning of a frame no longer than this, in bytes, is kept in a buffer of its own length.
const REMAINDER: usize = CHUNK / 4;

thread_local! {
    /// A buffer of CHUNK bytes that no stream of this thread uses: a stream that reads takes it, and gives it back once
    /// it is empty. So neither does an idle stream hold memory, nor does a busy one ask the allocator at every read.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes received, of which whole frames are taken off the front.
#[derive(Debug, Default)]
pub(super) struct FrameBuffer {
    /// Initialised throughout; what counts is `start..end`.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl FrameBuffer {
    pub(super) fn buffered(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Where to read to: at least one byte, unless `limit` bytes are buffered.
    pub(super) fn space(&mut self, limit: usize) -> Option<&mut [u8]> {
        let buffered = self.end - self.start;
        if buffered >= limit {
            return None;
        }
        if self.end == self.bytes.len() {
            if buffered * 2 <= self.bytes.len() && buffered > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
            } else {
                let size = (self.bytes.len() * 2).max(CHUNK).min(limit.max(CHUNK));
                let mut larger = buffer_of(size);
                larger[..buffered].copy_from_slice(&self.bytes[self.start..self.end]);
                give_back(std::mem::replace(&mut self.bytes, larger));
            }
            (self.start, self.end) = (0, buffered);
        }
        let most = self.bytes.len().min(self.end + (limit - buffered));
        Some(&mut self.bytes[self.end..most])
    }

    /// So many bytes were read to where [`space`](Self::space) said.
    pub(super) fn filled(&mut self, count: usize) {
        self.end += count;
        if self.start == self.end {
            self.settle();
        }
    }

    /// Takes `padded` bytes off and returns the first `frame` of them; `None` if there are fewer.
    pub(super) fn take(&mut self, frame: usize, padded: usize) -> Option<&[u8]> {
        let start = self.start;
        if padded > self.end - start || frame > padded {
            return None;
        }
        self.start += padded;
        Some(&self.bytes[start..start + frame])
    }

    /// Holds no more memory than what is buffered needs, as there is no whole frame in it.
    pub(super) fn settle(&mut self) {
        let buffered = self.end - self.start;
        if buffered <= REMAINDER && self.bytes.len() >= CHUNK {
            let own = self.buffered().to_vec();
            give_back(std::mem::replace(&mut self.bytes, own));
            (self.start, self.end) = (0, buffered);
        } else if buffered == 0 {
            *self = FrameBuffer::default();
        }
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}

fn buffer_of(size: usize) -> Vec<u8> {
    let spare = if size <= CHUNK { SPARE.take() } else { Vec::new() };
    if spare.len() == size { spare } else { vec![0; size] }
}

fn give_back(bytes: Vec<u8>) {
    if bytes.len() == CHUNK {
        SPARE.set(bytes);
    }
}

/// Bytes that the kernel did not take yet.
#[derive(Debug, Default)]
pub(super) struct WriteQueue(VecDeque<u8>);

impl WriteQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Queues `parts` but for the first `skip` bytes.
    pub(super) fn push(&mut self, parts: &[&[u8]], mut skip: usize) {
        for part in parts {
            let skipped = skip.min(part.len());
            skip -= skipped;
            self.0.extend(&part[skipped..]);
        }
    }

    pub(super) fn slices(&self) -> [IoSlice<'_>; 2] {
        let (front, back) = self.0.as_slices();
        [IoSlice::new(front), IoSlice::new(back)]
    }

    /// Takes off what was written.
    pub(super) fn written(&mut self, count: usize) {
        if count >= self.0.len() {
            self.0 = VecDeque::new();
        } else {
            self.0.drain(..count);
        }
    }

    pub(super) fn memory(&self) -> usize {
        self.0.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(buffer: &mut FrameBuffer, mut bytes: &[u8], limit: usize) -> usize {
        let mut taken = 0;
        while !bytes.is_empty()
            && let Some(space) = buffer.space(limit)
        {
            assert!(!space.is_empty(), "space is at least a byte");
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            buffer.filled(count);
            bytes = &bytes[count..];
            taken += count;
        }
        taken
    }

    #[test]
    fn no_more_than_the_limit_is_buffered() {
        for limit in [1, 100, CHUNK, 70_000] {
            let mut buffer = FrameBuffer::default();
            assert_eq!(receive(&mut buffer, &[7; 100_000], limit), limit);
            assert!(buffer.memory() <= limit.max(CHUNK));
            assert_eq!(buffer.take(1, 1), Some(&[7][..]));
            assert_eq!(receive(&mut buffer, &[7; 10], limit), 1, "room for what was taken");
        }
    }

    #[test]
    fn content_survives_growing_and_settling() {
        let bytes: Vec<u8> = (0..60_000u32).map(|i| (i % 251) as u8).collect();
        for step in [1, 999, 5_000, 20_000, 60_000] {
            let mut buffer = FrameBuffer::default();
            let mut out = Vec::new();
            for chunk in bytes.chunks(step) {
                assert_eq!(receive(&mut buffer, chunk, 65_556), chunk.len());
                while let Some(frame) = buffer.take(7, 8) {
                    out.extend_from_slice(frame);
                }
                buffer.settle();
                assert!(buffer.memory() < 8, "only the remainder is held");
            }
            let expected: Vec<u8> = bytes.chunks(8).flat_map(|chunk| &chunk[..7]).copied().collect();
            assert_eq!(out, expected, "steps of {step}");
        }
    }

    #[test]
    fn an_empty_buffer_holds_nothing() {
        let mut buffer = FrameBuffer::default();
        receive(&mut buffer, &[1; 40_000], 65_556);
        assert!(buffer.take(40_000, 40_000).is_some());
        buffer.settle();
        assert_eq!(buffer.memory(), 0);
        buffer.space(100).unwrap();
        buffer.filled(0);
        assert_eq!(buffer.memory(), 0, "nothing was there to read");
    }

    #[test]
    fn the_write_queue_skips_what_was_written() {
        let mut queue = WriteQueue::default();
        queue.push(&[b"ab", b"cd", b"ef"], 3);
        queue.push(&[b"gh"], 0);
        queue.written(2);
        assert_eq!(queue.slices().map(|slice| slice.to_vec()).concat(), b"fgh");
        queue.written(3);
        assert_eq!(queue.memory(), 0);
    }
}
