//! Memory at an address that is told to the kernel once.
#![expect(unsafe_code, reason = "the kernel is given pointers that outlive the borrow they were made under")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::slice;

/// Gives what the process has freed back to the system: some milliseconds of work, so to be done where much was freed.
/// Where the C library has no such call, it is left to its allocator.
pub fn return_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; the allocator's own locks guard what it does.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A type for which all bits zero, and whatever the kernel writes into it, is a value.
///
/// # Safety
/// Every bit pattern is valid, and dropping a value does nothing.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for u8 {}

/// A zeroed array that never moves and is never reallocated.
///
/// It holds a raw pointer and no `Box`, because a `Box` that moves asserts that no other pointer to its content is used.
pub(super) struct Fixed<T: Plain> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: it owns what it points to and shares it with nobody.
unsafe impl<T: Plain + Send> Send for Fixed<T> {}

impl<T: Plain> Fixed<T> {
    /// `len` zeroed values. Pages that nothing is ever written to take no memory.
    pub(super) fn new(len: usize) -> Self {
        let len = len.max(1);
        let layout = Self::layout(len);
        // SAFETY: the layout has a size, since `len` and the types used are not empty (asserted in `layout`).
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start.cast()) else { handle_alloc_error(layout) };
        Fixed { start, len }
    }

    /// The address of the value at `index`, which stays the same as long as `self` lives.
    pub(super) fn at(&mut self, index: usize) -> *mut T {
        assert!(index < self.len, "index {index} of {}", self.len);
        // SAFETY: inside the allocation, as just checked.
        unsafe { self.start.as_ptr().add(index) }
    }

    fn layout(len: usize) -> Layout {
        assert!(size_of::<T>() > 0, "an empty type has no address");
        match Layout::array::<T>(len) {
            Ok(layout) => layout,
            Err(_) => panic!("{len} values of {} bytes are more than an address space", size_of::<T>()),
        }
    }
}

impl<T: Plain> std::ops::Deref for Fixed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: allocated and zeroed for `len` values; the kernel writes only during calls that borrow `self` mutably.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> std::ops::DerefMut for Fixed<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> Drop for Fixed<T> {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) }
    }
}
