use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsFd;

use super::*;
use crate::net::{Obstacle, Undelivered};

/// Waits for an error of a datagram that `socket` sent.
fn error_of(socket: &UdpSocket) -> Undelivered {
    match take_error(socket.as_fd()) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket.recv(&mut []).unwrap_err();
            take_error(socket.as_fd()).unwrap()
        }
        error => error.unwrap(),
    }
}

fn closed_port_is_reported(ip: &str) {
    let closed = UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap();
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    report_errors(socket.as_fd(), closed.is_ipv4()).unwrap();
    socket.send_to(b"anybody there?", closed).unwrap();
    let error = error_of(&socket);
    assert_eq!((error.to, error.reporter), (closed, Some(closed.ip())));
    assert_eq!((error.obstacle, &error.quoted[..]), (Obstacle::Other, &b"anybody there?"[..]));
    assert_eq!(take_error(socket.as_fd()).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn an_icmp_error_quotes_the_datagram() {
    closed_port_is_reported("127.66.0.2");
}

#[test]
fn an_icmpv6_error_quotes_the_datagram() {
    match UdpSocket::bind("[::1]:0") {
        Ok(_) => closed_port_is_reported("::1"),
        Err(error) => not_here("an_icmpv6_error_quotes_the_datagram", &error),
    }
}

#[test]
fn what_the_interface_does_not_take_is_refused_with_its_mtu() {
    // Over IPv4 no datagram is larger than what the loopback takes.
    let socket = match UdpSocket::bind("[::1]:0") {
        Ok(socket) => socket,
        Err(error) => {
            return not_here("what_the_interface_does_not_take_is_refused_with_its_mtu", &error);
        }
    };
    let to = socket.local_addr().unwrap();
    report_errors(socket.as_fd(), false).unwrap();
    set_fragmentation(socket.as_fd(), false, Fragmentation::Never).unwrap();
    let refused = socket.send_to(&[0; 65_500], to).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
    let error = error_of(&socket);
    assert_eq!((error.to.ip(), error.reporter), (to.ip(), None));
    let Obstacle::TooBig { mtu } = error.obstacle else { panic!("{error:?}") };
    assert!((1280..65_500 + 48).contains(&mtu), "{mtu}");
    set_fragmentation(socket.as_fd(), false, Fragmentation::Allowed).unwrap();
}
