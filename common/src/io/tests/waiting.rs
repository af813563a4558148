use std::net::UdpSocket;
use std::thread;

use super::*;

#[test]
fn a_waker_ends_a_wait_from_another_thread_and_every_time() {
    let mut io = ShardIo::new(IoOptions::default()).unwrap();
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

#[test]
fn a_shard_may_move_to_its_thread() {
    let mut io = ShardIo::new(IoOptions::default()).unwrap();
    let socket = BindOptions::default().bind(addr("127.0.0.1:0")).unwrap();
    let to = socket.local_addr().unwrap();
    io.add(socket, 3).unwrap();
    let thread = thread::spawn(move || receive(&mut io, 1));
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"moved", to).unwrap();
    assert_eq!(thread.join().unwrap()[0].payload, b"moved");
}
