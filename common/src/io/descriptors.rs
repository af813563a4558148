//! Room in the process's table of descriptors.

use std::io;
use std::os::fd::AsFd;

use super::sys;

/// Makes room for `count` descriptors at once. More than the process's limit are an error (`EINVAL`).
///
/// The kernel's table grows to twice its size when a descriptor does not fit, and where threads share it, whoever opened that
/// one waits until no processor reads the old table any more (`expand_fdtable` of its fs/file.c): 5 to 12 ms were seen, in
/// which a shard relays nothing. So it is best done at the start. 9 bytes of the kernel's memory are taken for each.
pub fn make_room_for_descriptors(count: usize) -> io::Result<()> {
    let any = sys::eventfd()?;
    sys::duplicate_from(any.as_fd(), count.saturating_sub(1)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many descriptors this process's table has room for (proc(5)).
    fn room() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        line.trim().parse().unwrap()
    }

    #[test]
    fn there_is_room_afterwards_and_nothing_stays_open() {
        make_room_for_descriptors(900).unwrap();
        assert!(room() >= 900, "{}", room());
        assert!(!std::path::Path::new("/proc/self/fd/899").exists());
        assert!(make_room_for_descriptors(usize::MAX).is_err());
    }
}
