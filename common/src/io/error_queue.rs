//! What the network says of datagrams that it did not deliver: the error queue of a UDP socket (`ip(7)`, IP_RECVERR), and
//! whether datagrams may be fragmented. For measuring a path: which routers it has, and how large packets may be.

use std::io;
use std::os::fd::BorrowedFd;

use libc::c_int;

use super::sys;
use crate::net::{Obstacle, Undelivered, canonical};
use crate::wire::Icmp;

/// No router quotes more than an Ethernet frame of what it drops: bytes.
const MAX_QUOTE: usize = 1500;

/// IPv6 takes packets of so many bytes everywhere (RFC 8200, section 5).
const IPV6_MIN_MTU: c_int = 1280;

/// Whether a socket's datagrams may be cut into fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragmentation {
    /// By nobody, and whatever this host has learnt of the path: larger ones than the interface takes are refused.
    Never,
    /// By anybody. Over IPv6, where routers do not do it, this host cuts what its interface does not take into packets of
    /// 1280 bytes.
    Allowed,
    /// By anybody. Over IPv6 this host cuts what is larger than the path is known to take, no smaller than it has to.
    AsNeeded,
    /// By this host, where it knows that the path takes less: what sockets do by default.
    BySender,
}

/// Keeps the errors that `socket`'s datagrams meet with, for [`take_error`]. A pending error also makes the next sending
/// or receiving call fail once, with nothing sent or received.
pub fn report_errors(socket: BorrowedFd<'_>, ipv4: bool) -> io::Result<()> {
    let (level, name) = match ipv4 {
        true => (libc::IPPROTO_IP, libc::IP_RECVERR),
        false => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    sys::set_option(socket, level, name, 1)
}

/// The next error of a datagram that `socket` sent; [`io::ErrorKind::WouldBlock`] if there is none. The kernel has
/// checked that it names this socket's address and port.
pub fn take_error(socket: BorrowedFd<'_>) -> io::Result<Undelivered> {
    take_error_with_quote(socket, vec![0; MAX_QUOTE])
}

/// As [`take_error`], with as much of the quoted payload as there is room for.
pub(super) fn take_error_with_quote(socket: BorrowedFd<'_>, mut quoted: Vec<u8>) -> io::Result<Undelivered> {
    loop {
        let (len, to, error) = sys::recv_error(socket, &mut quoted)?;
        let (Some(to), Some(error)) = (to, error) else { continue };
        quoted.truncate(len);
        let (obstacle, icmp) = (obstacle(&error.error), icmp(&error.error));
        let reporter = error.offender.map(|offender| offender.to_canonical());
        return Ok(Undelivered { to: canonical(to), reporter, obstacle, icmp, quoted });
    }
}

/// Sets whether what `socket` sends may be fragmented.
pub fn set_fragmentation(socket: BorrowedFd<'_>, ipv4: bool, fragmentation: Fragmentation) -> io::Result<()> {
    match (ipv4, fragmentation) {
        (true, Fragmentation::Never) => {
            sys::set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
        }
        (true, Fragmentation::Allowed) => {
            sys::set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
        }
        // As DONT, but no ICMP error, forged perhaps, changes what is sent, and "fragmentation needed" is reported.
        (true, Fragmentation::AsNeeded) => {
            sys::set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)
        }
        (false, Fragmentation::Never) => {
            sys::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
        }
        (false, Fragmentation::Allowed) => {
            sys::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU, IPV6_MIN_MTU)
        }
        (true, Fragmentation::BySender) => {
            sys::set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_WANT)
        }
        (false, Fragmentation::AsNeeded) => {
            sys::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT)
        }
        (false, Fragmentation::BySender) => {
            sys::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)?;
            sys::set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT)
        }
    }
}

fn icmp(error: &libc::sock_extended_err) -> Option<Icmp> {
    let data = match obstacle(error) {
        Obstacle::TooBig { mtu } => mtu,
        _ => 0,
    };
    let of_icmp = matches!(error.ee_origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6);
    of_icmp.then_some(Icmp { ty: error.ee_type, code: error.ee_code, data })
}

fn obstacle(error: &libc::sock_extended_err) -> Obstacle {
    const TIME_EXCEEDED: (u8, u8, u8) = (libc::SO_EE_ORIGIN_ICMP, 11, 0);
    const FRAGMENTATION_NEEDED: (u8, u8, u8) = (libc::SO_EE_ORIGIN_ICMP, 3, 4);
    const HOP_LIMIT_EXCEEDED: (u8, u8, u8) = (libc::SO_EE_ORIGIN_ICMP6, 3, 0);
    const PACKET_TOO_BIG: (u8, u8, u8) = (libc::SO_EE_ORIGIN_ICMP6, 2, 0);
    let local = error.ee_origin == libc::SO_EE_ORIGIN_LOCAL;
    match (error.ee_origin, error.ee_type, error.ee_code) {
        TIME_EXCEEDED | HOP_LIMIT_EXCEEDED => Obstacle::HopLimit,
        FRAGMENTATION_NEEDED | PACKET_TOO_BIG => Obstacle::TooBig { mtu: error.ee_info },
        _ if local && c_int::try_from(error.ee_errno) == Ok(libc::EMSGSIZE) => {
            Obstacle::TooBig { mtu: error.ee_info }
        }
        _ => Obstacle::Other,
    }
}
