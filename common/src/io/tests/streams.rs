use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use super::*;
use crate::wire::{FrameLen, FramingError, frame_len};

const LIMITS: StreamLimits = StreamLimits { read: 20_000, write: 50_000 };

/// A connection and its other end, which blocks.
fn connected(limits: StreamLimits) -> (StreamConn, TcpStream) {
    let options = ListenOptions { limits, ..ListenOptions::default() };
    let listener = options.listen(addr("127.0.0.1:0")).unwrap();
    let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    other.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut io = ShardIo::new(IoOptions::default()).unwrap();
    io.poller().add(&listener, 1, Interest::READ).unwrap();
    assert!(event(&mut io, 1).readable);
    let Accepted::Connection(connection) = listener.accept().unwrap() else { panic!("a connection waits") };
    assert!(matches!(listener.accept().unwrap(), Accepted::Nothing));
    assert_eq!(connection.peer_addr(), other.local_addr().unwrap());
    assert_eq!(connection.local_addr(), other.peer_addr().unwrap());
    (connection, other)
}

/// Waits until the connection is readable, and reads.
fn read(connection: &mut StreamConn) -> ReadOutcome {
    let mut poller = Poller::new().unwrap();
    poller.add(connection, 1, Interest::READ).unwrap();
    let mut events = Vec::new();
    poller.wait(Some(Duration::from_secs(10)), &mut events).unwrap();
    connection.read().unwrap()
}

fn frames(connection: &mut StreamConn) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(frame) = connection.take_frame(frame_len).unwrap() {
        frames.push(frame.to_vec());
    }
    frames
}

/// ChannelData of every length up to 40, padded, and a STUN message in between.
fn stream() -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    for len in 0..40u8 {
        let mut frame = vec![0x40, 0x01, 0, len];
        frame.extend(0..len);
        expected.push(frame.clone());
        frame.resize(frame.len().next_multiple_of(4), 0);
        bytes.extend(frame);
    }
    let mut stun = vec![0, 1, 0, 4, 0x21, 0x12, 0xA4, 0x42];
    stun.resize(24, 7);
    bytes.extend(&stun);
    expected.push(stun);
    (bytes, expected)
}

#[test]
fn frames_survive_every_split() {
    let (bytes, expected) = stream();
    let (mut connection, mut other) = connected(LIMITS);
    for step in [1, 2, 3, 5, 7, 11, 64, 333, bytes.len()] {
        let mut got = Vec::new();
        for piece in bytes.chunks(step) {
            other.write_all(piece).unwrap();
            let mut missing = piece.len();
            while missing > 0 {
                let ReadOutcome::Data(count) = read(&mut connection) else { panic!("bytes wait") };
                missing -= count;
                got.extend(frames(&mut connection));
            }
        }
        assert_eq!(got, expected, "in steps of {step}");
        assert_eq!(connection.buffer_memory(), 0, "an idle connection holds no buffer");
    }
    assert_eq!(connection.read().unwrap(), ReadOutcome::Idle);
    assert_eq!(connection.buffer_memory(), 0);
}

#[test]
fn the_longest_frame_fits_the_default_limit() {
    let (mut connection, mut other) = connected(StreamLimits::default());
    let mut frame = vec![0x40, 0x01, 0xFF, 0xFF];
    frame.resize(65_540, 9);
    for _ in 0..2 {
        let bytes = frame.clone();
        let writer = std::thread::spawn(move || other.write_all(&bytes).map(|()| other));
        let mut got = Vec::new();
        while got.is_empty() {
            assert!(matches!(read(&mut connection), ReadOutcome::Data(_)));
            got = frames(&mut connection);
        }
        assert_eq!(got, [&frame[..65_539]]);
        other = writer.join().unwrap().unwrap();
    }
    assert_eq!(connection.buffer_memory(), 0);
}

#[test]
fn what_is_not_taken_fills_the_buffer_and_no_more() {
    let (mut connection, mut other) = connected(LIMITS);
    let writer = std::thread::spawn(move || other.write_all(&[0x40; 30_000]).map(|()| other));
    let mut count = 0;
    loop {
        match read(&mut connection) {
            ReadOutcome::Data(more) => count += more,
            outcome => break assert_eq!(outcome, ReadOutcome::Full),
        }
    }
    assert_eq!(count, LIMITS.read);
    assert!(connection.buffer_memory() <= LIMITS.read);
    writer.join().unwrap().unwrap();
}

#[test]
fn streams_that_cannot_be_followed_say_why() {
    let (mut connection, mut other) = connected(LIMITS);
    other.write_all(b"POST / HTTP/1.1\r\n\r\n").unwrap();
    read(&mut connection);
    let error = connection.take_frame(frame_len).unwrap_err();
    assert_eq!(error, TakeError::Framing(FramingError::UnknownProtocol));

    let (mut connection, mut other) = connected(LIMITS);
    other.write_all(&[0x40, 0x01, 0xFF, 0xFF]).unwrap();
    read(&mut connection);
    let error = connection.take_frame(frame_len).unwrap_err();
    assert_eq!(error, TakeError::TooLong { frame: 65_540, limit: LIMITS.read });

    // A framer that lies takes nothing and breaks nothing.
    let lie = |_: &[u8]| Ok::<_, FramingError>(FrameLen::Complete { frame: 100, padded: 99 });
    assert_eq!(connection.take_frame(lie).unwrap(), None);
}

#[test]
fn the_end_and_a_reset_are_told() {
    let (mut connection, mut other) = connected(LIMITS);
    other.write_all(&[0x40, 0x01, 0, 0]).unwrap();
    drop(other);
    while let ReadOutcome::Data(_) = read(&mut connection) {}
    assert_eq!(frames(&mut connection), [[0x40, 0x01, 0, 0]], "what came before the end is not lost");
    assert_eq!(connection.read().unwrap(), ReadOutcome::Closed);

    let (mut connection, other) = connected(LIMITS);
    assert_eq!(connection.write(&[b"unread"]).unwrap(), WriteOutcome::Written);
    drop(other);
    let mut poller = Poller::new().unwrap();
    poller.add(&connection, 1, Interest::NONE).unwrap();
    let mut events = Vec::new();
    poller.wait(Some(Duration::from_secs(10)), &mut events).unwrap();
    assert!(events[0].closed, "reported whatever the interest is");
    assert!(connection.read().is_err());
    assert!(connection.write(&[b"more"]).is_err(), "and it is no signal that ends the process");
}

#[test]
fn a_reader_that_does_not_read_costs_no_more_than_the_bound() {
    let (mut connection, mut other) = connected(LIMITS);
    let mut sent: Vec<u8> = Vec::new();
    let mut number = 0u32;
    let frame = |number: u32| [&number.to_be_bytes()[..], &[7; 996]].concat();
    loop {
        let bytes = frame(number);
        let (head, rest) = bytes.split_at(4);
        match connection.write(&[head, rest]).unwrap() {
            WriteOutcome::Full => break,
            _ => sent.extend(&bytes),
        }
        number += 1;
        assert!(number < 100_000, "the kernel's buffers are finite");
    }
    assert!(connection.wants_write());
    assert!(connection.queued_len() <= LIMITS.write);
    assert!(connection.buffer_memory() <= 2 * LIMITS.write);
    assert!(!connection.flush().unwrap(), "nobody read");

    // Now somebody reads: every frame taken arrives whole and in order, and none that was refused.
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; sent.len()];
        other.read_exact(&mut got).map(|()| (got == sent, other))
    });
    let mut poller = Poller::new().unwrap();
    poller.add(&connection, 1, Interest::WRITE).unwrap();
    let (mut events, mut in_vain) = (Vec::new(), 0);
    while !connection.flush().unwrap() {
        poller.wait(Some(Duration::from_secs(10)), &mut events).unwrap();
        // A signal may end one wait or another.
        in_vain = if events.is_empty() { in_vain + 1 } else { 0 };
        assert!(in_vain < 3, "room comes as the other side reads");
    }
    assert!(!connection.wants_write());
    assert_eq!(connection.buffer_memory(), 0);
    let (equal, mut other) = reader.join().unwrap().unwrap();
    assert!(equal);
    assert_eq!(connection.write(&[b"a", b"b", b"c", b"d", b"e", b"f"]).unwrap(), WriteOutcome::Queued);
    assert!(connection.flush().unwrap());
    let mut many = [0; 6];
    other.read_exact(&mut many).unwrap();
    assert_eq!(&many, b"abcdef", "more parts than are written without a copy");
}

/// Set for a copy of this test that runs with few descriptors.
const FEW_DESCRIPTORS: &str = "THIRL_TEST_FEW_DESCRIPTORS";

#[test]
fn without_descriptors_accepting_says_so_and_goes_on_later() {
    if std::env::var_os(FEW_DESCRIPTORS).is_some() {
        return accept_without_descriptors();
    }
    let name = "io::tests::streams::without_descriptors_accepting_says_so_and_goes_on_later";
    let copy = Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(FEW_DESCRIPTORS, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&copy.stdout);
    assert!(copy.status.success(), "{output}{}", String::from_utf8_lossy(&copy.stderr));
    assert!(output.contains("1 passed"), "{output}");
}

fn accept_without_descriptors() {
    let listener = ListenOptions::default().listen(addr("127.0.0.1:0")).unwrap();
    let _other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut files = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        files.push(file);
    }
    let Accepted::Exhausted(error) = listener.accept().unwrap() else { panic!("no descriptor is left") };
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    files.pop();
    assert!(matches!(listener.accept().unwrap(), Accepted::Connection(_)), "the connection still waits");
}
