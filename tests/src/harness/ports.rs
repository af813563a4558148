//! Ports on loopback that nobody has. Between this question and the use of the answer another program may take the
//! port; a test in the NAT lab has the ports of its nodes to itself and needs none of this.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// A UDP port that is free on 127.0.0.1, for TCP as well.
///
/// # Errors
/// Those of the socket calls.
pub fn free_udp_port() -> io::Result<u16> {
    loop {
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
}

/// A TCP port that is free on 127.0.0.1.
///
/// # Errors
/// Those of the socket calls.
pub fn free_tcp_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
