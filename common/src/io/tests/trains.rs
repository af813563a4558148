//! Datagrams that travel together: GRO in, GSO out.

use std::net::UdpSocket;
use std::os::fd::AsFd as _;

use super::datagrams::{bound, peer, small_io, take};
use super::*;

/// Sends what follows as datagrams of `segment` bytes that travel together.
fn send_together(socket: &UdpSocket, segment: i32) {
    sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, segment).unwrap();
}

/// A peer that says how much arrived together.
fn peer_of_trains() -> (UdpSocket, SocketAddr) {
    let (socket, addr) = peer("127.0.0.1:0");
    sys::set_option(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).unwrap();
    (socket, addr)
}

fn numbered(count: u8, len: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| vec![number; len]).collect()
}

fn trains_are_taken_apart_and_leave_as_trains(on: Technique) {
    let mut io = ShardIo::new(options(on)).unwrap();
    let (server, server_addr) = bound(&mut io, "127.0.0.1:0", true, 5);
    let (sender, sender_addr) = peer("127.0.0.1:0");
    let (receiver, receiver_addr) = peer_of_trains();
    let datagrams = numbered(10, 100);
    send_together(&sender, 100);
    sender.send_to(&datagrams.concat()[..950], server_addr).unwrap();
    let got = receive(&mut io, 10);
    let ip = Some(server_addr.ip());
    let expected: Vec<_> = datagrams
        .iter()
        .map(|bytes| Kept { token: 5, from: sender_addr, local: ip, payload: bytes.clone() })
        .collect();
    assert_eq!(got[..9], expected[..9]);
    assert_eq!(got[9].payload, [9; 50]);
    assert_eq!(io.counters().received, 10);

    let route = Route { socket: server, to: receiver_addr, source: ip };
    for (index, kept) in got.iter().enumerate() {
        io.forward(index, 4..kept.payload.len(), b"", 0, route);
        io.forward(index, 0..kept.payload.len(), b"head", 2, route);
    }
    io.flush();
    // Two lengths by turns: each longer one is followed by a shorter, which ends the train.
    assert_eq!(take(&receiver).0, [0; 96]);
    assert_eq!(take(&receiver).0[..106], [&b"head"[..], &[0; 100], &[0; 2]].concat());
    assert_eq!(io.counters().sent, 20);
}

fn headers_are_cut_and_added_between_neighbours(on: Technique) {
    let mut io = ShardIo::new(options(on)).unwrap();
    let (server, server_addr) = bound(&mut io, "127.0.0.1:0", false, 0);
    let (sender, _) = peer("127.0.0.1:0");
    let (receiver, to) = peer_of_trains();
    let route = Route { socket: server, to, source: None };
    let datagrams = numbered(10, 100);
    send_together(&sender, 100);
    for (range, prefix, pad) in [(4..100, &b""[..], 0), (0..100, b"head", 0), (2..99, b"long head", 3)] {
        sender.send_to(&datagrams.concat(), server_addr).unwrap();
        let mut expected = Vec::new();
        for (index, kept) in receive(&mut io, 10).iter().enumerate() {
            io.forward(index, range.clone(), prefix, pad, route);
            expected.extend([prefix, &kept.payload[range.clone()], &vec![0; pad]].concat());
        }
        io.flush();
        assert_eq!(take(&receiver).0, expected, "it arrives as it left, in one piece");
    }
    assert_eq!((io.counters().sent, io.counters().failed()), (30, 0));
}

fn a_train_too_large_for_the_path_leaves_in_parts(on: Technique) {
    let Ok(socket) = BindOptions::default().bind(addr("[::1]:0")) else {
        return eprintln!(
            "not run: a_train_too_large_for_the_path_leaves_in_parts: no IPv6 loopback address"
        );
    };
    // Packets of 1280 bytes, into which the kernel cuts datagrams, but not those of a train.
    set_fragmentation(socket.as_fd(), false, Fragmentation::Allowed).unwrap();
    let mut io = ShardIo::new(options(on)).unwrap();
    let socket = io.add(socket, 0).unwrap();
    let (receiver, to) = peer("[::1]:0");
    let datagrams = numbered(5, 1400);
    for datagram in &datagrams {
        io.send(Route { socket, to, source: None }, datagram);
    }
    io.send(Route { socket, to: addr("[::1]:0"), source: None }, b"lost");
    io.send(Route { socket, to, source: None }, b"last");
    io.flush();
    // What goes once more may be overtaken.
    let mut got: Vec<_> = (0..6).map(|_| take(&receiver).0).collect();
    got.retain(|datagram| datagram != b"last");
    assert!(got == datagrams, "they come in order");
    assert_eq!((io.counters().sent, io.counters().failed()), (6, 1));
}

fn a_train_that_is_refused_costs_itself_alone(on: Technique) {
    let mut io = ShardIo::new(options(on)).unwrap();
    let (server, _) = bound(&mut io, "127.0.0.1:0", false, 0);
    let (receiver, to) = peer("127.0.0.1:0");
    let nowhere = addr("127.0.0.1:0");
    for (to, bytes) in [(nowhere, b"lost"), (nowhere, b"lost"), (to, b"good"), (to, b"also")] {
        io.send(Route { socket: server, to, source: None }, bytes);
    }
    io.flush();
    assert_eq!([take(&receiver).0, take(&receiver).0], [b"good", b"also"]);
    assert_eq!((io.counters().sent, io.counters().failed(), io.failures().len()), (2, 2, 2));
}

fn more_than_a_turn_holds_arrives_whole(on: Technique) {
    let mut io = ShardIo::new(IoOptions { slots: 4, ..options(on) }).unwrap();
    let (server, server_addr) = bound(&mut io, "127.0.0.1:0", false, 0);
    socket2::SockRef::from(io.socket(server).unwrap()).set_recv_buffer_size(1 << 20).unwrap();
    let (sender, _) = peer("127.0.0.1:0");
    send_together(&sender, 1);
    let all: Vec<u8> = (0..200).collect();
    for train in all.chunks(50) {
        sender.send_to(train, server_addr).unwrap();
    }
    let got = receive(&mut io, 200);
    assert_eq!(got.into_iter().flat_map(|kept| kept.payload).collect::<Vec<_>>(), all);
}

fn a_small_arena_takes_no_trains(on: Technique) {
    let mut io = small_io(on);
    let (_, server_addr) = bound(&mut io, "127.0.0.1:0", false, 0);
    let (sender, _) = peer("127.0.0.1:0");
    send_together(&sender, 2000);
    sender.send_to(&[7; 6000], server_addr).unwrap();
    let got = receive(&mut io, 3);
    assert!(got.iter().all(|kept| kept.payload == [7; 2000]));
    assert_eq!(io.counters().oversized, 0);
}

on_each_technique! {
    trains_are_taken_apart_and_leave_as_trains
    headers_are_cut_and_added_between_neighbours
    a_train_too_large_for_the_path_leaves_in_parts
    a_train_that_is_refused_costs_itself_alone
    more_than_a_turn_holds_arrives_whole
    a_small_arena_takes_no_trains
}
