//! Buffers that the kernel receives into, given to it by a ring in shared memory (io_uring_register_buf_ring(3)).
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::ring::Ring;
use crate::io::memory::{Fixed, Plain};

/// The group that receives take buffers from. A ring has one.
pub(super) const GROUP: u16 = 0;

/// Memory at the start of a page, of whatever size the kernel has them.
#[repr(C, align(65536))]
#[derive(Clone, Copy)]
pub(super) struct Page([u8; 65536]);

// SAFETY: bytes.
unsafe impl Plain for Page {}

/// The ring by which buffers are given. Which bytes a buffer is, its user decides.
pub(super) struct BufferRing {
    entries: Fixed<Page>,
    count: u16,
    /// Where the next buffer given goes; counts on past `count`.
    tail: u16,
}

impl BufferRing {
    /// How many there can be.
    pub(super) const MOST: usize = 1 << 15;

    /// A ring for `count` buffers: a power of two, [`BufferRing::MOST`] at most.
    pub(super) fn new(count: u16) -> BufferRing {
        assert!(count.is_power_of_two(), "{count} buffers");
        let bytes = usize::from(count) * size_of::<BufRingEntry>();
        BufferRing { entries: Fixed::new(bytes.div_ceil(size_of::<Page>())), count, tail: 0 }
    }

    /// Makes `ring` take buffers from here.
    ///
    /// # Safety
    /// `self` outlives `ring`, and every buffer given is memory that the kernel may write to until it comes back with a
    /// completion.
    pub(super) unsafe fn register(&mut self, ring: &Ring) -> io::Result<()> {
        // SAFETY: the entries stand at a page, are as many (see `new`), and stay as long as `self`, which outlives `ring`.
        unsafe { ring.register_buffers(self.entries.at(0) as u64, self.count, GROUP) }
    }

    /// Gives a buffer back, or for the first time. The kernel sees it from [`BufferRing::publish`] on.
    pub(super) fn give(&mut self, number: u16, address: *mut u8, len: usize) {
        let index = usize::from(self.tail & (self.count - 1));
        let entries = self.entries.at(0).cast::<BufRingEntry>();
        // SAFETY: below `count`, so inside of `entries`; the kernel does not read it before the tail has passed it, and no
        // reference to it lives longer than this.
        let entry = unsafe { &mut *entries.add(index) };
        entry.set_addr(address as u64);
        entry.set_len(u32::try_from(len).unwrap_or(u32::MAX));
        entry.set_bid(number);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel what was given.
    pub(super) fn publish(&mut self) {
        let entries = self.entries.at(0).cast::<BufRingEntry>();
        // SAFETY: the address of the first entry; the tail lies in a field of it that is nothing else's.
        let tail = unsafe { BufRingEntry::tail(entries) };
        // SAFETY: an aligned u16 that lives as long as `self`, and of which no reference exists.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.store(self.tail, Ordering::Release);
    }
}
