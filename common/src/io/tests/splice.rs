use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use super::*;

/// A connection of ours, and its other end, which blocks.
fn connected() -> (StreamConn, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    other.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (stream, _) = listener.accept().unwrap();
    (StreamConn::new(stream, StreamLimits::default()).unwrap(), other)
}

/// Splices until it is over, fails, or `stop` says so; says how it ended.
fn run(mut splice: Splice, mut stop: impl FnMut(&Splice) -> bool) -> std::io::Result<()> {
    let mut poller = Poller::new().unwrap();
    splice.watch(&poller, [1, 2]).unwrap();
    let mut events = Vec::new();
    while !stop(&splice) {
        poller.wait(Some(TURN), &mut events).unwrap();
        for event in &events {
            let side = if event.token == 1 { Side::First } else { Side::Second };
            if splice.handle(side, *event)?.over {
                return Ok(());
            }
            splice.watch(&poller, [1, 2]).unwrap();
        }
    }
    Ok(())
}

#[test]
fn bytes_and_ends_go_both_ways() {
    let ((first, mut a), (second, mut b)) = (connected(), connected());
    let splice = Splice::new(ClientConn::plain(first), ClientConn::plain(second)).unwrap();
    let spliced = thread::spawn(move || run(splice, |_| false));
    let large: Vec<u8> = (0..=250).cycle().take(3_000_000).collect();
    let expected = large.clone();
    let writer = thread::spawn(move || {
        a.write_all(&large).unwrap();
        a.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        a.read_to_end(&mut answer).unwrap();
        answer
    });
    let mut received = Vec::new();
    b.read_to_end(&mut received).unwrap();
    assert!(received == expected, "{} bytes", received.len());
    b.write_all(b"after your end").unwrap();
    drop(b);
    assert_eq!(writer.join().unwrap(), b"after your end");
    spliced.join().unwrap().unwrap();
}

#[test]
fn what_was_received_before_goes_first() {
    let ((mut first, mut a), (mut second, mut b)) = (connected(), connected());
    a.write_all(b"hello").unwrap();
    while first.read().unwrap() != ReadOutcome::Data(5) {}
    second.write(&[b"header "]).unwrap();
    let splice = Splice::new(ClientConn::plain(first), ClientConn::plain(second)).unwrap();
    let spliced = thread::spawn(move || run(splice, |_| false));
    a.write_all(b" world").unwrap();
    drop(a);
    b.shutdown(Shutdown::Write).unwrap();
    let mut received = String::new();
    b.read_to_string(&mut received).unwrap();
    assert_eq!(received, "header hello world");
    spliced.join().unwrap().unwrap();
}

#[test]
fn who_does_not_read_is_not_waited_for_in_memory() {
    let ((first, mut a), (second, b)) = (connected(), connected());
    let splice = Splice::new(ClientConn::plain(first), ClientConn::plain(second)).unwrap();
    a.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let writer = thread::spawn(move || {
        let mut written = 0;
        while let Ok(count) = a.write(&[7; 65_536]) {
            written += count;
            assert!(written < 100 << 20, "nothing holds the writer back");
        }
        written
    });
    let mut most = 0;
    let spliced = run(splice, |splice| {
        most = most.max(Side::BOTH.iter().map(|side| splice.stream(*side).buffer_memory()).sum::<usize>());
        writer.is_finished()
    });
    assert!(writer.join().unwrap() > 0);
    assert!(most < 100_000, "{most} bytes");
    drop((spliced, b));
}

#[test]
fn one_side_that_is_lost_ends_both() {
    let ((first, a), (second, mut b)) = (connected(), connected());
    let splice = Splice::new(ClientConn::plain(first), ClientConn::plain(second)).unwrap();
    let spliced = thread::spawn(move || run(splice, |_| false));
    socket2::SockRef::from(&a).set_linger(Some(Duration::ZERO)).unwrap();
    drop(a);
    assert!(spliced.join().unwrap().is_err());
    assert!(!matches!(b.read(&mut [0]), Ok(1..)));
}

#[test]
fn connecting_does_not_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut poller = Poller::new().unwrap();
    let mut made = |addr| {
        let connecting = match Connecting::to(addr, StreamLimits::default()) {
            Ok(connecting) => connecting,
            Err(error) => return Err(error),
        };
        poller.add(&connecting, 1, Interest::WRITE).unwrap();
        let mut events = Vec::new();
        while events.is_empty() {
            poller.wait(Some(TURN), &mut events).unwrap();
        }
        connecting.finish()
    };
    let addr = listener.local_addr().unwrap();
    assert_eq!(made(addr).unwrap().peer_addr(), addr);
    drop(listener);
    assert!(made(addr).is_err());
}
