//! Buffers, sockets and ids that are used again.

use std::collections::BTreeMap;
use std::net::UdpSocket;

use super::datagrams::{bound, peer, small_io, take};
use super::*;

/// Where no other test binds, so that a port given up is not taken by one of them.
const ALONE: &str = "127.66.0.2:0";

/// Far more than there are buffers for: 32 with io_uring, 8 with epoll.
const MANY: u16 = 600;

fn forwarded_payloads_survive_the_reuse_of_buffers(on: Technique) {
    let mut io = small_io(on);
    let (server, server_addr) = bound(&mut io, "127.0.0.1:0", false, 0);
    let (sender, _) = peer("127.0.0.1:0");
    let (sink, to) = peer("127.0.0.1:0");
    let payload = |number: u16| number.to_be_bytes().repeat(usize::from(number) % 700 + 1);
    let mut events = Vec::new();
    let (mut sent, mut arrived) = (0, 0);
    while arrived < MANY {
        // Bursts of all sizes, which neither kernel buffer has to drop.
        let burst = sent..MANY.min(sent + 1 + sent % 50);
        sent = burst.end;
        for number in burst {
            sender.send_to(&payload(number), server_addr).unwrap();
        }
        while arrived < sent {
            io.turn(Some(TURN), &mut events).unwrap();
            for index in 0..io.received_len() {
                let all = 0..io.received(index).unwrap().payload.len();
                io.forward(index, all, b"prefix", 1, Route { socket: server, to, source: None });
            }
            let count = io.received_len();
            io.flush();
            for _ in 0..count {
                let mut expected = b"prefix".to_vec();
                expected.extend(payload(arrived));
                expected.push(0);
                assert!(take(&sink).0 == expected, "datagram {arrived} came otherwise");
                arrived += 1;
            }
        }
    }
    assert_eq!(io.counters().sent, MANY.into());
}

fn sockets_that_find_no_buffer_go_on(on: Technique) {
    let mut io = small_io(on);
    let addrs: Vec<SocketAddr> =
        (0..40).map(|token| bound(&mut io, "127.0.0.1:0", token % 3 == 0, token).1).collect();
    let (peer, _) = peer("127.0.0.1:0");
    for round in 0..5u8 {
        for _ in 0..5 {
            for addr in &addrs {
                peer.send_to(&[round], addr).unwrap();
            }
        }
        let mut of: BTreeMap<u64, usize> = BTreeMap::new();
        for kept in receive(&mut io, 200) {
            assert_eq!(kept.payload, [round]);
            *of.entry(kept.token).or_default() += 1;
        }
        assert_eq!(of.into_iter().collect::<Vec<_>>(), (0..40).map(|token| (token, 5)).collect::<Vec<_>>());
    }
}

fn what_came_for_a_removed_socket_is_not_taken_for_its_successor(on: Technique) {
    let mut io = small_io(on);
    let (peer, _) = peer("127.0.0.1:0");
    let (mut old, mut at) = bound(&mut io, ALONE, false, 0);
    for token in 1..20 {
        for _ in 0..20 {
            peer.send_to(b"old", at).unwrap();
        }
        // A part of it was handed on, a part was received and waits for its turn, or nothing was received yet.
        if token % 2 == 0 {
            receive(&mut io, 1);
        }
        drop(io.remove(old).unwrap());
        (old, at) = bound(&mut io, &at.to_string(), false, token);
        peer.send_to(b"new", at).unwrap();
        let got = receive(&mut io, 1);
        assert!(got.iter().all(|kept| kept.token == token && kept.payload == b"new"), "{got:?}");
    }
}

fn a_socket_given_back_is_the_callers_alone(on: Technique) {
    let mut io = small_io(on);
    let (id, at) = bound(&mut io, "127.0.0.1:0", false, 0);
    let (peer, _) = peer("127.0.0.1:0");
    peer.send_to(b"first", at).unwrap();
    receive(&mut io, 1);
    let socket = io.remove(id).unwrap();
    peer.send_to(b"second", at).unwrap();
    io.turn(Some(Duration::ZERO), &mut Vec::new()).unwrap();
    assert_eq!(io.received_len(), 0);
    let again = io.add(socket, 1).unwrap();
    assert_ne!(again, id);
    let got = receive(&mut io, 1);
    assert_eq!((got[0].token, &*got[0].payload), (1, &b"second"[..]));
}

fn a_dropped_shard_leaves_nothing_behind(on: Technique) {
    let mut io = small_io(on);
    let addrs: Vec<SocketAddr> = (0..50).map(|token| bound(&mut io, ALONE, false, token).1).collect();
    let (peer, _) = peer("127.0.0.1:0");
    let send_all = |datagram| addrs.iter().all(|addr| peer.send_to(datagram, addr).is_ok());
    assert!(send_all(b"x"));
    receive(&mut io, 50);
    assert!(send_all(b"never received"));
    drop(io);
    for addr in addrs {
        UdpSocket::bind(addr).expect("a socket of a dropped shard is closed");
    }
}

on_each_technique! {
    forwarded_payloads_survive_the_reuse_of_buffers
    sockets_that_find_no_buffer_go_on
    what_came_for_a_removed_socket_is_not_taken_for_its_successor
    a_socket_given_back_is_the_callers_alone
    a_dropped_shard_leaves_nothing_behind
}
