//! One ring: requests in, completions out, one system call for both.
#![expect(unsafe_code, reason = "requests hold pointers for the kernel")]

use std::io;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, squeue};

/// How many requests wait to be submitted at most. A short queue stays in the nearest cache.
const REQUESTS: u32 = 256;

/// How often a kernel short of memory is asked again, and how long it is left alone each time: 2 s in all.
const TRIES: usize = 1000;
const REST: Duration = Duration::from_millis(2);

/// `IORING_ENTER_GETEVENTS` of io_uring_enter(2): run what was put off, and post its completions.
const GETEVENTS: u32 = 1;

/// What to do besides submitting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing: no receive makes progress.
    Not,
    /// Let receives make progress.
    Glance,
    /// That, and wait until there is a completion, for so long at most.
    For(Option<Duration>),
}

/// A ring whose completions are posted only within [`Ring::enter`] (`IORING_SETUP_DEFER_TASKRUN`).
pub(super) struct Ring {
    ring: IoUring,
    /// Whether the thread that it serves is known.
    enabled: bool,
}

impl Ring {
    /// A ring for the thread that first calls [`Ring::enter`], with room for `completions`.
    pub(super) fn new(completions: u32) -> io::Result<Ring> {
        let ring = IoUring::builder()
            .dontfork()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(completions.max(2 * REQUESTS))
            .build(REQUESTS)?;
        let usable = ring.params().is_feature_skip_cqe_on_success()
            && ring.params().is_feature_ext_arg()
            && ring.params().is_feature_nodrop();
        if usable {
            Ok(Ring { ring, enabled: false })
        } else {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
    }

    /// Gives the kernel a ring of buffers to receive into, as group `group`.
    ///
    /// # Safety
    /// There are `count` entries at the address, which is a page's, and they stay there until the ring is dropped.
    pub(super) unsafe fn register_buffers(&self, entries: u64, count: u16, group: u16) -> io::Result<()> {
        // SAFETY: the caller vouches for the memory.
        unsafe { self.ring.submitter().register_buf_ring_with_flags(entries, count, group, 0) }
    }

    /// Whether a request more has to be submitted before there is room.
    pub(super) fn is_full(&mut self) -> bool {
        self.ring.submission().is_full()
    }

    /// Queues a request. There is room for it.
    ///
    /// # Safety
    /// What it points to is valid, and nobody else writes to it, until its last completion is taken, or, if it is one that
    /// completes in submission, until [`Ring::enter`] returns `Ok`.
    pub(super) unsafe fn push(&mut self, request: &squeue::Entry) {
        // SAFETY: the caller vouches for its pointers.
        let pushed = unsafe { self.ring.submission().push(request) };
        debug_assert!(pushed.is_ok(), "there is room");
    }

    /// Submits all that is queued, and waits as told. With `Ok`, all is submitted.
    ///
    /// `done` is called for each completion, also with an error: for a kernel that is short of memory or of room for
    /// completions is asked again.
    pub(super) fn enter(&mut self, wait: Wait, mut done: impl FnMut(&cqueue::Entry)) -> io::Result<()> {
        if !self.enabled {
            self.ring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        for tried in 1.. {
            let result = self.enter_once(wait);
            let completions = self.ring.completion();
            let progress = !completions.is_empty();
            completions.for_each(|completion| done(&completion));
            let submitted = self.ring.submission().is_empty();
            let Err(error) = result else {
                if submitted {
                    break;
                }
                continue;
            };
            match error.raw_os_error() {
                // The time of the wait has passed, or a signal ended it.
                Some(libc::ETIME | libc::EINTR) if submitted => break,
                Some(libc::ETIME | libc::EINTR) => {}
                Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) if tried < TRIES => {
                    if !progress {
                        std::thread::park_timeout(REST);
                    }
                }
                _ => return Err(error),
            }
        }
        self.take_overflow(done)
    }

    fn enter_once(&mut self, wait: Wait) -> io::Result<usize> {
        let queued = u32::try_from(self.ring.submission().len()).unwrap_or(REQUESTS);
        let submitter = self.ring.submitter();
        match wait {
            Wait::Not => submitter.submit(),
            Wait::For(None) => submitter.submit_and_wait(1),
            Wait::For(Some(time)) if !time.is_zero() => {
                let time = Timespec::from(time);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
            Wait::Glance | Wait::For(_) => {
                // SAFETY: no pointers but those of the requests, for which whoever pushed them vouched.
                unsafe { submitter.enter::<libc::sigset_t>(queued, 0, GETEVENTS, None) }
            }
        }
    }

    /// Takes completions for which there was no room. They may be of requests that were submitted just now, of which the
    /// caller is told that they are done.
    fn take_overflow(&mut self, mut done: impl FnMut(&cqueue::Entry)) -> io::Result<()> {
        while self.ring.submission().cq_overflow() {
            self.enter_once(Wait::Glance)?;
            self.ring.completion().for_each(|completion| done(&completion));
        }
        Ok(())
    }
}
