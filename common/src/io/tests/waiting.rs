use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;

use super::*;

fn a_waker_ends_a_wait_from_another_thread_and_every_time(on: Technique) {
    let mut io = ShardIo::new(options(on)).unwrap();
    let waker = io.poller().waker(9).unwrap();
    for _ in 0..3 {
        let other = waker.clone();
        let thread = thread::spawn(move || other.wake());
        assert!(event(&mut io, 9).readable);
        thread.join().unwrap().unwrap();
    }
    // One wake, one event: it is not reported again.
    let mut events = Vec::new();
    io.turn(Some(Duration::ZERO), &mut events).unwrap();
    assert_eq!(events, []);
}

fn a_wake_during_other_work_ends_the_next_wait(on: Technique) {
    let mut io = ShardIo::new(options(on)).unwrap();
    let waker = io.poller().waker(9).unwrap();
    let mut events = Vec::new();
    for _ in 0..3 {
        let socket = io.add(BindOptions::default().bind(addr("127.0.0.1:0")).unwrap(), 0).unwrap();
        io.turn(Some(Duration::ZERO), &mut events).unwrap();
        waker.wake().unwrap();
        io.remove(socket).unwrap();
        io.turn(None, &mut events).unwrap();
        assert_eq!(events.iter().map(|event| event.token).collect::<Vec<_>>(), [9]);
    }
}

fn a_stream_is_reported_as_long_as_something_waits(on: Technique) {
    let mut io = ShardIo::new(options(on)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    io.poller().add(&stream, 4, Interest::READ).unwrap();
    let mut events = Vec::new();
    io.turn(Some(Duration::ZERO), &mut events).unwrap();
    assert_eq!(events, []);
    for _ in 0..3 {
        other.write_all(b"abc").unwrap();
        for _ in 0..3 {
            assert!(event(&mut io, 4).readable, "level-triggered");
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
        }
        io.turn(Some(Duration::ZERO), &mut events).unwrap();
        assert_eq!(events, [], "all was read");
    }
    io.poller().modify(&stream, 5, Interest::WRITE).unwrap();
    assert!(event(&mut io, 5).writable);
    io.poller().remove(&stream).unwrap();
    io.turn(Some(Duration::ZERO), &mut events).unwrap();
    assert_eq!(events, []);
}

#[test]
fn a_wait_without_anything_ends_in_time() {
    let mut poller = Poller::new().unwrap();
    let mut events = vec![Event { token: 1, readable: true, writable: false, closed: false }];
    poller.wait(Some(Duration::from_micros(1)), &mut events).unwrap();
    assert_eq!(events, [], "and forgets the last one's events");
}

#[test]
fn interest_changes_what_is_reported() {
    let (socket, other) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let mut poller = Poller::new().unwrap();
    let mut events = Vec::new();
    poller.add(&socket, 1, Interest::READ).unwrap();
    poller.wait(Some(Duration::ZERO), &mut events).unwrap();
    assert_eq!(events, []);
    other.send_to(b"x", socket.local_addr().unwrap()).unwrap();
    let readable = Event { token: 1, readable: true, writable: false, closed: false };
    for _ in 0..2 {
        poller.wait(Some(Duration::from_secs(10)), &mut events).unwrap();
        assert_eq!(events, [readable], "level-triggered");
    }
    poller.modify(&socket, 2, Interest::READ_WRITE).unwrap();
    poller.wait(None, &mut events).unwrap();
    assert_eq!(events, [Event { token: 2, writable: true, ..readable }]);
    poller.modify(&socket, 2, Interest::NONE).unwrap();
    poller.wait(Some(Duration::ZERO), &mut events).unwrap();
    assert_eq!(events, []);
    poller.remove(&socket).unwrap();
}

#[test]
fn tokens_of_the_shard_are_refused() {
    let poller = Poller::new().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let refused = poller.add(&socket, TOKEN_LIMIT, Interest::READ).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
    poller.add(&socket, TOKEN_LIMIT - 1, Interest::READ).unwrap();
}

fn a_shard_may_move_to_its_thread(on: Technique) {
    let mut io = ShardIo::new(options(on)).unwrap();
    let socket = BindOptions::default().bind(addr("127.0.0.1:0")).unwrap();
    let to = socket.local_addr().unwrap();
    io.add(socket, 3).unwrap();
    let thread = thread::spawn(move || receive(&mut io, 1));
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"moved", to).unwrap();
    assert_eq!(thread.join().unwrap()[0].payload, b"moved");
}

on_each_technique! {
    a_wake_during_other_work_ends_the_next_wait
    a_stream_is_reported_as_long_as_something_waits
    a_waker_ends_a_wait_from_another_thread_and_every_time
    a_shard_may_move_to_its_thread
}
