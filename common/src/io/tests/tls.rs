//! Against a client of `rustls`, which blocks on a thread of its own.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

use super::*;
use crate::tls::{Identity, testing};
use crate::wire::{FramingError, frame_len};

const LIMITS: StreamLimits = StreamLimits { read: 20_000, write: 50_000 };

type Client = StreamOwned<ClientConnection, TcpStream>;

/// A server's configuration, and the certificate for its clients to trust.
fn server_config() -> (Arc<ServerConfig>, CertificateDer<'static>) {
    let (certificate, key) = testing::pem(&rcgen::PKCS_ECDSA_P256_SHA256, (2020, 2030));
    let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    (identity.tls().clone(), CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap())
}

/// A connection of which nothing was read, and its other end.
fn connected(limits: StreamLimits) -> (ClientConn, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    other.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (stream, _) = listener.accept().unwrap();
    (ClientConn::new(StreamConn::new(stream, limits).unwrap()), other)
}

/// Serves one client, which does this, and calls back after each read until the client has closed or it returns false.
fn serve(
    client: impl FnOnce(&mut Client) + Send + 'static,
    limits: StreamLimits,
    mut then: impl FnMut(&mut ClientConn) -> bool,
) {
    let (config, trusted) = server_config();
    let (mut connection, other) = connected(limits);
    let thread = thread::spawn(move || {
        let mut roots = RootCertStore::empty();
        roots.add(trusted).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("turn.example").unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = StreamOwned::new(tls, other);
        client(&mut stream);
        stream.conn.send_close_notify();
        let _ = stream.conn.write_tls(&mut stream.sock);
        // To close with bytes unread would take back what was sent.
        let _ = stream.sock.shutdown(Shutdown::Write);
        let _ = stream.sock.read_to_end(&mut Vec::new());
    });
    let mut poller = Poller::new().unwrap();
    poller.add(&connection, 1, Interest::READ).unwrap();
    let mut events = Vec::new();
    loop {
        poller.wait(Some(Duration::from_secs(10)), &mut events).unwrap();
        assert!(!events.is_empty(), "the client does something");
        if connection.wants_write() {
            connection.flush().unwrap();
        }
        let outcome = connection.read(|| Some(config.clone()), false).unwrap();
        if !then(&mut connection) || outcome == ReadOutcome::Closed {
            break;
        }
        let interest = if connection.wants_write() { Interest::READ_WRITE } else { Interest::READ };
        poller.modify(&connection, 1, interest).unwrap();
    }
    connection.close();
    thread.join().unwrap();
}

fn channel_data(len: u16) -> Vec<u8> {
    let [l0, l1] = len.to_be_bytes();
    let mut frame = vec![0x40, 0x01, l0, l1];
    frame.extend((0..len).map(|byte| (byte % 251) as u8));
    frame
}

fn padded_stream(lens: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &len in lens {
        bytes.extend(channel_data(len));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

#[test]
fn frames_survive_every_split_into_records() {
    let lens: Vec<u16> = (0..40).chain([1_000, 17_000, 3, 0]).collect();
    for step in [1, 3, 5, 64, 1_000, 16_384, 50_000] {
        let bytes = padded_stream(&lens);
        let mut got = Vec::new();
        let send = move |client: &mut Client| {
            for piece in bytes.chunks(step) {
                client.write_all(piece).unwrap();
            }
        };
        serve(send, LIMITS, |connection| {
            while let Some(frame) = connection.take_frame(frame_len).unwrap() {
                got.push(frame.to_vec());
            }
            true
        });
        let expected: Vec<_> = lens.iter().map(|len| channel_data(*len)).collect();
        assert!(got == expected, "{} of {} frames, in records of {step}", got.len(), expected.len());
    }
}

#[test]
fn what_is_written_arrives_in_order_though_the_client_reads_late() {
    const FRAMES: usize = 200;
    let frame = channel_data(1_001);
    let expected = frame.clone();
    let mut written = 0;
    let echo = move |client: &mut Client| {
        client.write_all(&padded_stream(&[0])).unwrap();
        let mut all = vec![0; FRAMES * 1_008];
        client.read_exact(&mut all).unwrap();
        for got in all.chunks(1_008) {
            assert!(got[..expected.len()] == expected);
        }
    };
    let limits = StreamLimits { write: 1 << 20, ..LIMITS };
    serve(echo, limits, |connection| {
        while connection.take_frame(frame_len).unwrap().is_some() {
            for _ in 0..FRAMES {
                let outcome = connection.write(&[&frame[..4], &frame[4..], &[0; 3]]).unwrap();
                assert_ne!(outcome, WriteOutcome::Full);
                written += 1;
            }
        }
        true
    });
    assert_eq!(written, FRAMES);
}

#[test]
fn a_client_that_does_not_read_is_bounded() {
    let frame = channel_data(9_000);
    let mut most = 0;
    let silent = |client: &mut Client| client.write_all(&padded_stream(&[0])).unwrap();
    serve(silent, LIMITS, |connection| {
        while connection.take_frame(frame_len).unwrap().is_some() {
            // Far more than the kernel's buffers.
            let full = (0..10_000).find(|_| connection.write(&[&frame]).unwrap() == WriteOutcome::Full);
            assert!(full.is_some());
            most = connection.queued_len();
        }
        most == 0
    });
    assert!(most > 0 && most <= LIMITS.write, "{most} bytes are queued");
}

#[test]
fn a_frame_beyond_the_limit_ends_the_connection() {
    let mut refused = false;
    let long = |client: &mut Client| client.write_all(&padded_stream(&[20_001])).unwrap();
    serve(long, LIMITS, |connection| {
        refused |= matches!(
            connection.take_frame(frame_len),
            Err(TakeError::TooLong { frame: 20_008, limit: 20_000 })
        );
        !refused
    });
    assert!(refused);
}

/// What the server says and does of a client that sends this, and nothing more.
fn after(bytes: &[u8]) -> (std::io::Result<ReadOutcome>, ClientConn, TcpStream) {
    let (config, _) = server_config();
    let (mut connection, mut other) = connected(LIMITS);
    other.write_all(bytes).unwrap();
    let mut poller = Poller::new().unwrap();
    poller.add(&connection, 1, Interest::READ).unwrap();
    poller.wait(Some(Duration::from_secs(10)), &mut Vec::new()).unwrap();
    let outcome = connection.read(|| Some(config), false);
    (outcome, connection, other)
}

#[test]
fn the_first_byte_tells_what_it_is() {
    let (outcome, mut connection, _other) = after(&padded_stream(&[5]));
    assert_eq!(outcome.unwrap(), ReadOutcome::Data(12));
    assert!(!connection.is_tls());
    assert_eq!(connection.take_frame(frame_len).unwrap(), Some(&channel_data(5)[..]));

    // A ClientHello begins.
    let (outcome, mut connection, _other) = after(&[22, 3, 1, 0, 200, 1]);
    assert_eq!(outcome.unwrap(), ReadOutcome::Data(6));
    assert!(connection.is_tls() && connection.is_handshaking());
    assert_eq!(connection.take_frame(frame_len).unwrap(), None);
    assert_eq!(connection.write(&[b"too early"]).unwrap(), WriteOutcome::Full);

    let (mut connection, mut other) = connected(LIMITS);
    other.write_all(&[22, 3, 1, 0, 200, 1]).unwrap();
    let mut poller = Poller::new().unwrap();
    poller.add(&connection, 1, Interest::READ).unwrap();
    poller.wait(Some(Duration::from_secs(10)), &mut Vec::new()).unwrap();
    connection.read(|| None, false).unwrap();
    assert!(!connection.is_tls(), "there is no certificate");
    assert_eq!(connection.take_frame(frame_len), Err(TakeError::Framing(FramingError::UnknownProtocol)));
}

#[test]
fn broken_records_end_the_connection_with_an_alert() {
    for garbage in [
        &[22, 3, 1, 0, 4, 0xFF, 0, 0, 0][..],
        &[22, 3, 1, 0xFF, 0xFF, 1, 2, 3],
        &[22, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0],
    ] {
        let (outcome, connection, mut other) = after(garbage);
        assert_eq!(outcome.unwrap_err().kind(), std::io::ErrorKind::InvalidData, "{garbage:?}");
        drop(connection);
        let mut alert = Vec::new();
        // The server closed with bytes unread, so the end may be a reset.
        let _ = other.read_to_end(&mut alert);
        assert_eq!(alert.first(), Some(&21), "{garbage:?}");
    }
}
