//! UDP sockets, bound and nonblocking.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use libc::c_int;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::error_queue::{Fragmentation, report_errors, set_fragmentation};
use super::sys;

/// How to bind a [`DatagramSocket`]. An IPv6 socket never takes IPv4: each family has its own.
#[derive(Clone, Debug, Default)]
pub struct BindOptions {
    /// Let other sockets bind the same address; the kernel spreads senders over them (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// Learn which local address each datagram was sent to, and choose which one to send from. For wildcard binds, where
    /// an answer must leave from the address that was asked; it costs a little on every datagram.
    pub packet_info: bool,
    /// Receive buffer of the kernel, in bytes, as far as it allows.
    pub recv_buffer: Option<usize>,
    /// Send buffer of the kernel, in bytes, as far as it allows.
    pub send_buffer: Option<usize>,
    /// Whether what it sends may be fragmented; `None`: as the system has it, which over IPv4 forbids it to routers.
    pub fragmentation: Option<Fragmentation>,
    /// Learn of the errors that its datagrams meet with: [`ShardIo::take_undelivered`](super::ShardIo::take_undelivered).
    pub report_errors: bool,
}

impl BindOptions {
    /// A nonblocking UDP socket bound to `addr` (port 0: one that the system chooses).
    pub fn bind(&self, addr: SocketAddr) -> io::Result<DatagramSocket> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if self.reuse_port {
            socket.set_reuse_port(true)?;
        }
        self.apply(&socket, addr)?;
        socket.bind(&SockAddr::from(addr))?;
        Ok(self.made(socket, addr))
    }

    /// Makes one of a socket that somebody else has bound. One that takes both families is refused.
    pub fn adopt(&self, socket: UdpSocket) -> io::Result<DatagramSocket> {
        let addr = socket.local_addr()?;
        let socket = Socket::from(socket);
        check_family(&socket, addr)?;
        self.apply(&socket, addr)?;
        Ok(self.made(socket, addr))
    }

    fn apply(&self, socket: &Socket, addr: SocketAddr) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        if self.packet_info {
            let (level, name) = match addr {
                SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
                SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
            };
            sys::set_option(socket.as_fd(), level, name, 1)?;
        }
        if let Some(bytes) = self.recv_buffer {
            set_buffer(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, bytes)?;
        }
        if let Some(bytes) = self.send_buffer {
            set_buffer(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, bytes)?;
        }
        if let Some(fragmentation) = self.fragmentation {
            set_fragmentation(socket.as_fd(), addr.is_ipv4(), fragmentation)?;
        }
        if self.report_errors {
            report_errors(socket.as_fd(), addr.is_ipv4())?;
        }
        Ok(())
    }

    fn made(&self, socket: Socket, addr: SocketAddr) -> DatagramSocket {
        DatagramSocket { socket: socket.into(), ipv4: addr.is_ipv4(), packet_info: self.packet_info }
    }
}

/// A nonblocking UDP socket. [`ShardIo::add`](super::ShardIo::add) takes it for batched use.
#[derive(Debug)]
pub struct DatagramSocket {
    socket: UdpSocket,
    ipv4: bool,
    packet_info: bool,
}

impl DatagramSocket {
    /// The address it is bound to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether it was bound with [`BindOptions::packet_info`].
    pub fn packet_info(&self) -> bool {
        self.packet_info
    }

    /// Sets whether what it sends from now on may be fragmented.
    pub fn set_fragmentation(&self, fragmentation: Fragmentation) -> io::Result<()> {
        set_fragmentation(self.as_fd(), self.ipv4, fragmentation)
    }

    /// Lets the kernel hand on what arrives together as one piece (udp(7), UDP_GRO), if it can (Linux 5.0).
    pub(super) fn receive_trains(&self) {
        let _ = sys::set_option(self.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1);
    }

    /// Sends one datagram at once, past any queue, from the address that routing chooses.
    pub fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.send_to(datagram, to).map(|_| ())
    }
}

impl AsFd for DatagramSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// An IPv6 socket that takes IPv4 too would call IPv4 clients by names that they do not know.
pub(super) fn check_family(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    if addr.is_ipv4() || socket.only_v6()? {
        return Ok(());
    }
    let what = format!("the socket at {addr} takes IPv4 too; open it with BindIPv6Only=ipv6-only");
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

/// Whether this kernel sends several datagrams as one (udp(7), UDP_SEGMENT; Linux 4.18). One that does not would send them
/// as a single long one.
pub(super) fn can_send_trains() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
            .is_ok_and(|socket| sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok())
    })
}

/// The address this host would send to `dest` from: routing decides, nothing is sent.
pub fn local_address_towards(dest: SocketAddr) -> io::Result<IpAddr> {
    Ok(connected(dest)?.local_addr()?.ip())
}

/// The largest IP packet that is known to pass to `dest` in one piece: bytes. It is what the interface takes, or what
/// routers have said to this host (RFC 1191, RFC 8201).
pub fn path_mtu(dest: SocketAddr) -> io::Result<usize> {
    let socket = connected(dest)?;
    let (level, name) = match dest {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    usize::try_from(sys::option(socket.as_fd(), level, name)?).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The addresses, IPv4 and IPv6, that this host sends to the internet from; `None` for a family without a route there.
pub fn internet_facing_ips() -> [Option<IpAddr>; 2] {
    // Nothing is sent there: any address outside would do.
    let outside: [SocketAddr; 2] =
        [(Ipv4Addr::new(9, 9, 9, 9), 9).into(), (Ipv6Addr::new(0x2620, 0xfe, 0, 0, 0, 0, 0, 0xfe), 9).into()];
    outside.map(|dest| local_address_towards(dest).ok().filter(|ip| !ip.is_unspecified()))
}

/// A socket that knows its way there; nothing is sent.
fn connected(dest: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match dest {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(dest)?;
    Ok(socket)
}

/// Asks for a kernel buffer past the system's limit, which root may, or else up to it.
fn set_buffer(socket: &Socket, forced: c_int, limited: c_int, bytes: usize) -> io::Result<()> {
    let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    sys::set_option(socket.as_fd(), libc::SOL_SOCKET, forced, bytes)
        .or_else(|_| sys::set_option(socket.as_fd(), libc::SOL_SOCKET, limited, bytes))
}
