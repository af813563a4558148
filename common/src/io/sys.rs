//! The raw system calls, and the kernel's forms of addresses.
#![expect(unsafe_code, reason = "system calls and C structures")]
#![expect(clippy::cast_possible_truncation, reason = "sizes and constants in the types that C has for them")]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use libc::{c_int, c_uint, socklen_t};

use super::memory::Plain;

/// -1 as the error that it stands for.
fn check(result: c_int) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

pub(super) fn epoll_create() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    check(fd)?;
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn epoll_ctl(
    epoll: BorrowedFd<'_>,
    operation: c_int,
    fd: BorrowedFd<'_>,
    events: u32,
    token: u64,
) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: token };
    // SAFETY: `event` lives through the call, which only reads it.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) })
        .map(|_| ())
}

/// Waits at most `timeout` ms (-1: for ever) and returns how many of `events` were filled.
pub(super) fn epoll_wait(
    epoll: BorrowedFd<'_>,
    events: &mut [libc::epoll_event],
    timeout: c_int,
) -> io::Result<usize> {
    let room = c_int::try_from(events.len()).unwrap_or(c_int::MAX);
    // SAFETY: the kernel writes at most `room` events, all of which lie in the slice.
    check(unsafe { libc::epoll_wait(epoll.as_raw_fd(), events.as_mut_ptr(), room, timeout) })
}

pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    check(fd)?;
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Another descriptor of the same, the lowest that is free from `least` on.
pub(super) fn duplicate_from(fd: BorrowedFd<'_>, least: usize) -> io::Result<OwnedFd> {
    let least = c_int::try_from(least).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: no pointers.
    let fd = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    check(fd)?;
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn set_option(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    const SIZE: socklen_t = size_of::<c_int>() as socklen_t;
    // SAFETY: the kernel reads SIZE bytes of `value`, which lives through the call.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), SIZE) })
        .map(|_| ())
}

pub(super) fn option(fd: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `value`, and how many to `len`; both live through the call.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

/// # Safety
/// Each header's pointers are null, or valid for the length beside them.
pub(super) unsafe fn recvmmsg(fd: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let count = c_uint::try_from(headers.len()).unwrap_or(c_uint::MAX);
    // SAFETY: `count` headers lie in the slice; the caller vouches for their pointers; no timeout is given.
    check(unsafe {
        libc::recvmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, ptr::null_mut())
    })
}

/// # Safety
/// Each header's pointers are null, or valid for the length beside them.
pub(super) unsafe fn sendmmsg(fd: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> io::Result<usize> {
    let count = c_uint::try_from(headers.len()).unwrap_or(c_uint::MAX);
    // SAFETY: `count` headers lie in the slice; the caller vouches for their pointers.
    check(unsafe { libc::sendmmsg(fd.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) })
}

/// A message from a socket's error queue: how much of `payload` was filled, where the datagram in question was sent to,
/// and what the kernel says of it. `WouldBlock` if there is none.
pub(super) fn recv_error(
    fd: BorrowedFd<'_>,
    payload: &mut [u8],
) -> io::Result<(usize, Option<SocketAddr>, Option<ExtendedError>)> {
    let mut name = Name::NONE;
    let mut control = Control([0; Control::LEN]);
    let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: all zero is a header without pointers.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = Name::LEN;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = Control::LEN as _;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the header's pointers are valid for the lengths beside them, and live through the call.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: filled by `recvmsg` just now, and `control` is still there.
    let error = unsafe { extended_error(&header) };
    Ok((len, name.get(header.msg_namelen), error))
}

/// What `ip(7)` calls a `sock_extended_err`, and who sent it.
pub(super) struct ExtendedError {
    pub(super) error: libc::sock_extended_err,
    /// `None` if this host itself is the origin.
    pub(super) offender: Option<IpAddr>,
}

/// # Safety
/// `header` was filled by `recvmsg`, and its control buffer is still there.
unsafe fn extended_error(header: &libc::msghdr) -> Option<ExtendedError> {
    const KINDS: [(c_int, c_int); 2] =
        [(libc::IPPROTO_IP, libc::IP_RECVERR), (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)];
    // SAFETY: the caller's promise.
    let (.., data) = unsafe { messages(header) }.find(|(level, kind, _)| KINDS.contains(&(*level, *kind)))?;
    let (error, offender) = data.split_at_checked(size_of::<libc::sock_extended_err>())?;
    // SAFETY: `error` has the size of what it is read as, which is integers only.
    let error = unsafe { ptr::read_unaligned(error.as_ptr().cast::<libc::sock_extended_err>()) };
    let mut name = Name::NONE;
    let len = offender.len().min(size_of::<Name>());
    // SAFETY: `len` bytes lie in the slice, and a `Name` has room for them; any bits are a `Name`.
    unsafe { ptr::copy_nonoverlapping(offender.as_ptr(), (&raw mut name).cast(), len) };
    Some(ExtendedError { error, offender: name.get(len as socklen_t).map(|addr| addr.ip()) })
}

/// The control messages of a header: their level, type and data.
///
/// # Safety
/// `header` was filled by a receiving call, and its control buffer is still there.
unsafe fn messages(header: &libc::msghdr) -> impl Iterator<Item = (c_int, c_int, &[u8])> {
    // SAFETY: the kernel wrote `msg_controllen` bytes of whole control messages.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    std::iter::from_fn(move || {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header.
        let message = unsafe { next.as_ref() }?;
        // SAFETY: as above.
        let data = unsafe { libc::CMSG_DATA(next) };
        let len = (message.cmsg_len as usize).saturating_sub(data as usize - next as usize);
        // SAFETY: the message's data, which the kernel wrote as a whole.
        let data = unsafe { std::slice::from_raw_parts(data, len) };
        // SAFETY: `next` came from this header.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
        Some((message.cmsg_level, message.cmsg_type, data))
    })
}

/// A socket address as the kernel reads and writes it, with room for both families and nothing more.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

// SAFETY: integers only.
unsafe impl Plain for Name {}
// SAFETY: integers and raw pointers only.
unsafe impl Plain for libc::iovec {}
// SAFETY: integers and raw pointers only.
unsafe impl Plain for libc::mmsghdr {}
// SAFETY: integers and raw pointers only.
unsafe impl Plain for libc::msghdr {}

impl Name {
    const NONE: Name = Name {
        v6: libc::sockaddr_in6 {
            sin6_family: libc::AF_UNSPEC as libc::sa_family_t,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    /// What the kernel may write.
    pub(super) const LEN: socklen_t = size_of::<Name>() as socklen_t;

    /// Stores `addr` and returns how many bytes of it count.
    pub(super) fn set(&mut self, addr: SocketAddr) -> socklen_t {
        match addr {
            SocketAddr::V4(addr) => {
                self.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: addr.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(addr.ip().octets()) },
                    sin_zero: [0; 8],
                };
                size_of::<libc::sockaddr_in>() as socklen_t
            }
            SocketAddr::V6(addr) => {
                self.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: addr.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                    sin6_scope_id: addr.scope_id(),
                };
                size_of::<libc::sockaddr_in6>() as socklen_t
            }
        }
    }

    /// The address of which the kernel wrote `len` bytes.
    pub(super) fn get(&self, len: socklen_t) -> Option<SocketAddr> {
        let len = (len as usize).min(size_of::<Name>());
        // SAFETY: any bits are valid bytes, and `len` of them lie in `self`.
        Self::read(unsafe { std::slice::from_raw_parts((&raw const *self).cast(), len) })
    }

    /// The address that the kernel wrote as these bytes. The flow label is no part of it.
    pub(super) fn read(bytes: &[u8]) -> Option<SocketAddr> {
        let (family, rest) = bytes.split_first_chunk()?;
        let (port, rest) = rest.split_first_chunk()?;
        let port = u16::from_be_bytes(*port);
        match c_int::from(libc::sa_family_t::from_ne_bytes(*family)) {
            libc::AF_INET if bytes.len() >= size_of::<libc::sockaddr_in>() => {
                let ip: &[u8; 4] = rest.first_chunk()?;
                Some(SocketAddrV4::new(Ipv4Addr::from(*ip), port).into())
            }
            libc::AF_INET6 if bytes.len() >= size_of::<libc::sockaddr_in6>() => {
                let (ip, rest): (&[u8; 16], _) = rest.get(4..)?.split_first_chunk()?;
                let scope = u32::from_ne_bytes(*rest.first_chunk()?);
                Some(SocketAddrV6::new(Ipv6Addr::from(*ip), port, 0, scope).into())
            }
            _ => None,
        }
    }
}

/// Room for a packet-information control message of either family (40 bytes) and a segment size (24).
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct Control([u8; Control::LEN]);

// SAFETY: bytes.
unsafe impl Plain for Control {}

const _: () = {
    // SAFETY: arithmetic; CMSG_SPACE reads nothing.
    let (info, segment) = unsafe {
        (
            libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as c_uint),
            libc::CMSG_SPACE(size_of::<c_int>() as c_uint),
        )
    };
    assert!(segment as usize == Control::SEGMENT_LEN);
    assert!((info + segment) as usize <= Control::LEN);
    assert!(align_of::<Control>() >= align_of::<libc::cmsghdr>());
};

impl Control {
    /// What the kernel may write.
    pub(super) const LEN: usize = 64;

    /// What it may write where no packet information is asked for.
    pub(super) const SEGMENT_LEN: usize = 24;

    /// Stores a control message that makes `source` the sender's address, and returns how many bytes count.
    pub(super) fn set_source(&mut self, source: IpAddr) -> usize {
        match source {
            IpAddr::V4(ip) => {
                let address = libc::in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
                // ip(7): on sending, `ipi_spec_dst` is the source address; no interface is named.
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: address,
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                self.set(0, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
            }
            IpAddr::V6(ip) => {
                let address = libc::in6_addr { s6_addr: ip.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
                self.set(0, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
            }
        }
    }

    /// Adds, behind the first `used` bytes, a control message that makes what is sent datagrams of `segment` bytes (udp(7),
    /// UDP_SEGMENT), and returns how many bytes count.
    pub(super) fn add_segment(&mut self, used: usize, segment: u16) -> usize {
        self.set(used, libc::SOL_UDP, libc::UDP_SEGMENT, segment)
    }

    /// What the control messages say that the kernel wrote as these bytes, as [`ancillary`].
    pub(super) fn read(bytes: &[u8]) -> Option<Ancillary> {
        let mut control = Control([0; Control::LEN]);
        control.0.get_mut(..bytes.len())?.copy_from_slice(bytes);
        // SAFETY: all zero is a header without pointers.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen = bytes.len() as _;
        // SAFETY: the kernel wrote the bytes, and their copy lives through the call.
        Some(unsafe { ancillary(&header) })
    }

    fn set<T: Copy>(&mut self, at: usize, level: c_int, kind: c_int, value: T) -> usize {
        let size = size_of::<T>() as c_uint;
        // SAFETY: arithmetic; both read nothing.
        let (len, space) = unsafe { (libc::CMSG_LEN(size), libc::CMSG_SPACE(size)) };
        let end = at + space as usize;
        assert!(end <= Self::LEN && at.is_multiple_of(align_of::<libc::cmsghdr>()), "{space} bytes at {at}");
        // SAFETY: inside of the array, as just checked.
        let header = unsafe { (&raw mut self.0).cast::<u8>().add(at) }.cast::<libc::cmsghdr>();
        // SAFETY: the header is aligned (align(8), and `at` is), and with its data ends within LEN, as just checked.
        unsafe {
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = len as _;
            ptr::write_unaligned(libc::CMSG_DATA(header).cast::<T>(), value);
        }
        end
    }
}

/// What the kernel says about what it received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ancillary {
    /// The local address that it was sent to, if the socket asked for packet information.
    pub(super) local: Option<IpAddr>,
    /// The length of each datagram but the last, where there are several (udp(7), UDP_GRO).
    pub(super) segment: Option<usize>,
}

/// # Safety
/// `header` was filled by `recvmmsg`, and its control buffer is still there.
pub(super) unsafe fn ancillary(header: &libc::msghdr) -> Ancillary {
    let mut found = Ancillary::default();
    // SAFETY: the caller's promise.
    for (level, kind, data) in unsafe { messages(header) } {
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if data.len() >= size_of::<libc::in_pktinfo>() => {
                // SAFETY: a message of this type holds an `in_pktinfo`, for which there are bytes enough.
                let info = unsafe { ptr::read_unaligned(data.as_ptr().cast::<libc::in_pktinfo>()) };
                // The header's destination may be a broadcast address, from which nothing can be sent.
                let address = if info.ipi_spec_dst.s_addr == 0 { info.ipi_addr } else { info.ipi_spec_dst };
                found.local = Some(Ipv4Addr::from(address.s_addr.to_ne_bytes()).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if data.len() >= size_of::<libc::in6_pktinfo>() => {
                // SAFETY: a message of this type holds an `in6_pktinfo`, for which there are bytes enough.
                let info = unsafe { ptr::read_unaligned(data.as_ptr().cast::<libc::in6_pktinfo>()) };
                found.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                let segment = data.first_chunk().map(|bytes| c_int::from_ne_bytes(*bytes));
                found.segment = segment.and_then(|segment| segment.try_into().ok());
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_addresses() {
        for text in ["192.0.2.1:3478", "[2001:db8::7]:65535", "[fe80::1%3]:1", "0.0.0.0:0"] {
            let addr: SocketAddr = text.parse().unwrap();
            let mut name = Name { v4: libc::sockaddr_in { ..unsafe_zero() } };
            let len = name.set(addr);
            assert_eq!(name.get(len), Some(addr));
            assert_eq!(name.get(len - 1), None, "a short name is no address");
        }
        assert_eq!(Name { v4: unsafe_zero() }.get(Name::LEN), None, "no family");
    }

    #[test]
    fn control_messages_keep_the_source() {
        for text in ["127.0.0.2", "2001:db8::7"] {
            let source: IpAddr = text.parse().unwrap();
            let mut control = Control([0; Control::LEN]);
            let len = control.set_source(source);
            let local = Some(source);
            assert_eq!(Control::read(&control.0[..len]), Some(Ancillary { local, segment: None }));
            let both = control.add_segment(len, 1200);
            assert_eq!(both, len + Control::SEGMENT_LEN);
            assert_eq!(Control::read(&control.0[..both]).unwrap().local, local);
        }
    }

    fn unsafe_zero() -> libc::sockaddr_in {
        // SAFETY: integers only.
        unsafe { std::mem::zeroed() }
    }
}
