//! Sockets that a service manager has opened: here systemd's own tool for trying them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;

use thirl_common::wire::{Class, HEADER_LEN, MessageWriter, Method, TransactionId};
use thirl_tests::harness::{self, Allocation, Program, free_tcp_port, free_udp_port};
use thirl_tests::natlab::Unavailable;
use thirl_tests::requires;

use super::{ALICE, LIMIT};

pub(super) fn activator() -> Result<(), Unavailable> {
    harness::installed("systemd-socket-activate", "systemd", "hands sockets over to our servers").map(drop)
}

/// The tool listens, and becomes `program` when somebody comes. The address that the settings name is not this host's.
fn activate(flags: &[&str], addr: SocketAddr, program: &std::path::Path, settings: &[&str]) -> Program {
    let mut command = Command::new("systemd-socket-activate");
    command.args(flags).arg("-l").arg(addr.to_string()).arg(program);
    command.args(["--listening-ip", "203.0.113.1"]).args(settings);
    let mut program = Program::spawn(command).unwrap().named("systemd-socket-activate");
    program.wait_for_line("Listening on", LIMIT).unwrap();
    program
}

#[test]
fn a_relay_serves_on_a_udp_socket_that_is_handed_over() {
    requires!(activator());
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_udp_port().unwrap()));
    let settings = ["--user", "alice:secret", "--allowed-peer-ip", "127.0.0.1", "--relay-threads", "2"];
    let mut relay = activate(&["--datagram"], addr, &harness::turn_relay(), &settings);
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().send_to(b"anybody there?", addr).unwrap();
    relay.wait_for_line("?transport=udp", LIMIT).unwrap();
    Allocation::new(addr, ALICE).unwrap().unwrap().echo().unwrap();
}

#[test]
fn a_stun_server_accepts_by_every_thread_from_a_listener_that_is_handed_over() {
    requires!(activator());
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_tcp_port().unwrap()));
    let mut request = [0; HEADER_LEN];
    let id = TransactionId([7; 12]);
    MessageWriter::new(&mut request, Class::Request, Method::BINDING, id).unwrap().finish();
    let mut server = activate(&[], addr, &harness::stun_server(), &[]);
    for _ in 0..8 {
        let mut client = TcpStream::connect(addr).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(&request).unwrap();
        let mut response = [0; HEADER_LEN];
        client.read_exact(&mut response).unwrap();
        assert_eq!((&response[..2], &response[8..]), (&[1, 1][..], &id.0[..]));
    }
    server.signal("TERM").unwrap();
    assert!(server.wait_for_end(LIMIT).unwrap().success());
}
