//! TCP allocations whose clients come by TLS: each way of a pipe ends by itself, by the alert `close_notify` (RFC 8446, section
//! 6.1) on the client's side and by FIN on the peer's.
#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do, the test cannot")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion};
use thirl_common::net::Transport;
use thirl_common::tls::{Certificates, PemFiles};
use thirl_common::wire::{ConnectionId, Method};
use thirl_stun_server::shard::Secure;
use thirl_turn_relay::server::Running;

use super::client::*;
use super::tcp::{allocated, connect, read};

const NAME: &str = "turn.example";

/// A relay with a certificate, which its clients trust.
struct Relay {
    running: Running,
    certificate: CertificateDer<'static>,
}

impl Relay {
    fn start(name: &str) -> Relay {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec![NAME.to_owned()]).unwrap().self_signed(&key).unwrap();
        let directory = std::env::temp_dir().join(format!("thirl-tls-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let files =
            PemFiles { certificate: directory.join("cert.pem"), private_key: directory.join("key.pem") };
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.private_key, key.serialize_pem()).unwrap();
        let certificates = Certificates::read(files).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        let running = start(|config| {
            let addrs = vec![(LOOPBACK_V4, 0).into()];
            config.listen.secure = Some(Secure { addrs, ..Secure::new(certificates) });
        });
        Relay { running, certificate: certificate.der().clone() }
    }

    fn client(&self, version: &'static SupportedProtocolVersion) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        // Named, since crates of the tests bring another one into the build of the whole workspace.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(NAME).unwrap();
        let stream = TcpStream::connect(addr_of(&self.running, Transport::Tls, true)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        Client::over(Wire::Tls(Box::new(Tls::new(connection, stream))))
    }

    /// A client's connection by TLS to a peer of ours, by Connect.
    fn pipe(&self, version: &'static SupportedProtocolVersion, control: &mut Client) -> (Tls, TcpStream) {
        let listener = TcpListener::bind((LOOPBACK_V4, 0)).unwrap();
        let connection: ConnectionId = connect(control, listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = self.client(version);
        let response = client.request(Method::CONNECTION_BIND, |writer| {
            writer.attribute(&connection).unwrap();
        });
        assert_eq!(code(&response), 0);
        let Wire::Tls(stream) = client.wire else { panic!("connected by TLS") };
        (*stream, peer)
    }
}

/// So much that no buffer holds it.
fn much() -> Vec<u8> {
    (0..=250).cycle().take(12_000_000).collect()
}

fn say_that_this_was_all(stream: &mut Tls) {
    stream.conn.send_close_notify();
    stream.flush().unwrap();
}

#[test]
fn a_client_may_end_before_its_peer() {
    let relay = Relay::start("client-ends");
    let (mut control, _) = allocated(&relay.running, true);
    for version in [&TLS13, &TLS12] {
        let (mut stream, mut peer) = relay.pipe(version, &mut control);
        stream.write_all(b"question").unwrap();
        say_that_this_was_all(&mut stream);
        let mut question = String::new();
        peer.read_to_string(&mut question).unwrap();
        assert_eq!(question, "question");
        let answer = much();
        let sent = answer.clone();
        let sender = thread::spawn(move || peer.write_all(&sent).unwrap());
        let mut received = Vec::new();
        // An error, if the connection ended without TLS saying so.
        stream.read_to_end(&mut received).unwrap();
        sender.join().unwrap();
        assert!(received == answer, "{} bytes", received.len());
    }
}

#[test]
fn a_peer_may_end_before_its_client() {
    let relay = Relay::start("peer-ends");
    let (mut control, _) = allocated(&relay.running, true);
    for version in [&TLS13, &TLS12] {
        let (mut stream, mut peer) = relay.pipe(version, &mut control);
        peer.write_all(b"greeting").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let mut greeting = String::new();
        stream.read_to_string(&mut greeting).unwrap();
        assert_eq!(greeting, "greeting");
        let answer = much();
        let expected = answer.clone();
        let reader = thread::spawn(move || {
            read(&mut peer, expected.len()) == expected && peer.read(&mut [0]).unwrap() == 0
        });
        stream.write_all(&answer).unwrap();
        say_that_this_was_all(&mut stream);
        assert!(reader.join().unwrap(), "all of it, and then the end");
    }
}
