//! What Linux tells of changes: addresses, links and routes by netlink, and the end of sleep by a timer.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// The groups of NETLINK_ROUTE that tell of links, addresses and routes (Linux, `rtnetlink.h`: RTMGRP_LINK,
/// RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// A time that does not come: seconds since 1970. The kernel cancels the timer when the wall clock is set, which it is at the
/// end of sleep.
const NEVER: i64 = 1 << 40;

/// Told by the kernel, without asking from time to time.
pub(super) struct Alarm {
    netlink: OwnedFd,
    clock_set: OwnedFd,
}

impl Alarm {
    pub(super) fn new() -> io::Result<Alarm> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let netlink = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&netlink, &SocketAddrNetlink::new(0, GROUPS))?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let clock_set = timerfd_create(TimerfdClockId::Realtime, flags)?;
        let alarm = Alarm { netlink, clock_set };
        alarm.arm()?;
        Ok(alarm)
    }

    fn arm(&self) -> io::Result<()> {
        let never = Timespec { tv_sec: NEVER, tv_nsec: 0 };
        let at = Itimerspec { it_interval: Timespec::default(), it_value: never };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        Ok(timerfd_settime(&self.clock_set, flags, &at).map(|_| ())?)
    }

    /// Waits for something to happen; whether the machine may have slept.
    pub(super) fn wait(&self) -> io::Result<bool> {
        let mut fds = [&self.netlink, &self.clock_set].map(|fd| PollFd::new(fd, PollFlags::IN));
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.drain()?;
        match read(&self.clock_set, &mut [0; 8]) {
            Err(Errno::CANCELED) => self.arm().map(|()| true),
            _ => Ok(false),
        }
    }

    /// What exactly has changed does not matter: everything is listed anew. Nor do messages that had no room (ENOBUFS).
    fn drain(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match recv(&self.netlink, &mut buffer, RecvFlags::empty()) {
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
