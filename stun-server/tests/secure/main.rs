//! The STUN server over TLS on loopback, with clients of `rustls`, and over DTLS, with clients of `dimpl`.
#![cfg(feature = "driver")]
#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do, the test cannot")]

mod dtls;
mod passed;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use thirl_common::net::Transport;
use thirl_common::tls::{Certificates, PemFiles};
use thirl_common::wire::{Class, Message, MessageWriter, Method, TransactionId, XorMappedAddress};
use thirl_stun_server::server::{Config, Running, Server};
use thirl_stun_server::shard::Secure;

const PATIENCE: Duration = Duration::from_secs(20);

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A certificate and its key on disk, gone when the test is.
struct OnDisk {
    directory: PathBuf,
    files: PemFiles,
}

impl OnDisk {
    fn new() -> OnDisk {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("thirl-tls-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let files =
            PemFiles { certificate: directory.join("cert.pem"), private_key: directory.join("key.pem") };
        let on_disk = OnDisk { directory, files };
        on_disk.renew();
        on_disk
    }

    /// Another certificate for the same name; clients trust it alone.
    fn renew(&self) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["turn.example".to_owned()]).unwrap();
        fs::write(&self.files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&self.files.private_key, key.serialize_pem()).unwrap();
    }

    fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.files.certificate).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Arc::new(
            ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth(),
        )
    }

    fn serve(&self, change: impl FnOnce(&mut Config)) -> Running {
        let loopback = || vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
        let mut config = Config::default();
        (config.listen.udp, config.listen.tcp) = (loopback(), loopback());
        config.listen.shards = NonZeroUsize::new(1);
        let certificates = Certificates::read(self.files.clone()).unwrap();
        config.listen.secure = Some(Secure { addrs: loopback(), ..Secure::new(certificates) });
        change(&mut config);
        Server::start(&config).unwrap()
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn addr_of(running: &Running, transport: Transport) -> SocketAddr {
    running.local_addrs().iter().find(|(has, _)| *has == transport).unwrap().1
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The handshake begins with the first request.
fn secure(server: SocketAddr, config: &Arc<ClientConfig>) -> Tls {
    let name = ServerName::try_from("turn.example").unwrap();
    StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), connect(server))
}

fn ask(stream: &mut Tls, id: u8) -> io::Result<()> {
    let mut buffer = [0; 20];
    let id = TransactionId([id; 12]);
    let writer = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, id).unwrap();
    stream.write_all(writer.finish())?;
    let client = stream.sock.local_addr()?;
    let mut response = vec![0; if client.is_ipv4() { 32 } else { 44 }];
    stream.read_exact(&mut response)?;
    let response = Message::parse(&response).unwrap();
    assert_eq!((response.class(), response.transaction_id()), (Class::Success, id));
    assert_eq!(response.require::<XorMappedAddress>().unwrap().0, client);
    Ok(())
}

/// Reads until the server ends the connection; an error if it does not.
fn expect_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => said,
        // What the server did not read, it answers with a reset.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => said,
        Err(error) => panic!("the server does not end the connection: {error}"),
    }
}

#[test]
fn binding_over_tls_in_both_families_and_on_every_port() {
    let on_disk = OnDisk::new();
    let running = on_disk.serve(|_| {});
    let client = on_disk.client();
    let streams = running.local_addrs().iter().filter(|(transport, _)| transport.is_reliable());
    let mut asked = 0;
    for &(_, server) in streams {
        let mut stream = secure(server, &client);
        for id in 0..5 {
            ask(&mut stream, id).unwrap();
            asked += 1;
        }
    }
    assert_eq!(asked, 20, "IPv4 and IPv6, the ordinary port and the other");
    running.shutdown();
    assert_eq!(running.join().answered, asked);
}

#[test]
fn alpn_of_rfc_7443_is_taken_and_others_are_not() {
    let on_disk = OnDisk::new();
    let running = on_disk.serve(|_| {});
    for (offered, taken) in [
        (&[&b"stun.turn"[..]][..], true),
        (&[b"http/1.1", b"stun.turn"], true),
        (&[b"stun.nat-discovery"], true),
        (&[b"http/1.1"], false),
    ] {
        let mut client = ClientConfig::clone(&on_disk.client());
        client.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        let mut stream = secure(addr_of(&running, Transport::Tls), &Arc::new(client));
        assert_eq!(ask(&mut stream, 1).is_ok(), taken, "{offered:?}");
        if taken {
            assert!(stream.conn.alpn_protocol().unwrap().starts_with(b"stun."));
        }
    }
}

#[test]
fn a_handshake_that_does_not_end_is_cut_and_others_are_served_meanwhile() {
    let on_disk = OnDisk::new();
    let running = on_disk.serve(|config| {
        let secure = config.listen.secure.as_mut().unwrap();
        secure.handshake_timeout = Duration::from_millis(300);
    });
    let (server, client) = (addr_of(&running, Transport::Tls), on_disk.client());
    let mut slow: Vec<_> = (0..20).map(|_| connect(server)).collect();
    for stream in &mut slow {
        stream.write_all(&[22, 3, 1, 0, 200, 1]).unwrap();
    }
    let mut other = secure(server, &client);
    ask(&mut other, 1).unwrap();
    for stream in &mut slow {
        expect_end(stream);
    }
    ask(&mut other, 2).unwrap();
}

#[test]
fn broken_records_end_their_connection_and_no_other() {
    let on_disk = OnDisk::new();
    let running = on_disk.serve(|_| {});
    let (server, client) = (addr_of(&running, Transport::Tls), on_disk.client());
    let mut good = secure(server, &client);
    ask(&mut good, 1).unwrap();
    // Garbage and a record that is too long, instead of a handshake.
    for garbage in [&[22, 3, 1, 0, 4, 0xFF, 0, 0, 0][..], &[22, 3, 1, 0xFF, 0xFF, 1]] {
        let mut stream = connect(server);
        stream.write_all(garbage).unwrap();
        let said = expect_end(&mut stream);
        assert_eq!(said.first(), Some(&21), "an alert: {said:?}");
    }
    // The same after it, an empty record, and something else than STUN.
    for garbage in [&[23, 3, 3, 0, 40][..], &[23, 3, 3, 0xFF, 0xFF], &[23, 3, 3, 0, 0]] {
        let mut stream = secure(server, &client);
        ask(&mut stream, 2).unwrap();
        stream.sock.write_all(&[garbage, &[7; 60]].concat()).unwrap();
        expect_end(&mut stream.sock);
    }
    let mut stream = secure(server, &client);
    stream.write_all(b"POST / HTTP/1.1\r\n\r\n").unwrap();
    expect_end(&mut stream.sock);
    ask(&mut good, 3).unwrap();
}

#[test]
fn a_renewed_certificate_is_taken_up_and_a_broken_one_is_not() {
    let on_disk = OnDisk::new();
    let running = on_disk.serve(|_| {});
    let server = addr_of(&running, Transport::Tls);
    let first = on_disk.client();
    let mut old = secure(server, &first);
    ask(&mut old, 1).unwrap();
    on_disk.renew();
    let second = on_disk.client();
    running.renew_certificates();
    // Until it is taken up, who trusts the new one alone is shown the old one.
    let mut tries = 0;
    while ask(&mut secure(server, &second), 2).is_err() {
        tries += 1;
        assert!(tries < 100_000, "the new certificate is not taken up");
    }
    assert!(ask(&mut secure(server, &first), 3).is_err());
    ask(&mut old, 4).unwrap();

    fs::write(&on_disk.files.certificate, "and now for something else").unwrap();
    running.renew_certificates();
    for id in 0..50 {
        ask(&mut secure(server, &second), id).unwrap();
    }
}

#[test]
fn without_a_certificate_tls_is_a_stream_of_nothing_known() {
    let on_disk = OnDisk::new();
    let running = on_disk.serve(|config| config.listen.secure = None);
    assert!(running.local_addrs().iter().all(|(transport, _)| !matches!(transport, Transport::Tls)));
    assert!(ask(&mut secure(addr_of(&running, Transport::Tcp), &on_disk.client()), 1).is_err());
}
