//! DTLS 1.2 and 1.3, and what it draws before the server knows a client.
#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do, the test cannot")]

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dimpl::{Config, Dtls, DtlsCertificate, Output, ProtocolVersion};
use thirl_common::wire::{Class, Message, MessageWriter, Method, TransactionId, XorMappedAddress};

use super::{OnDisk, PATIENCE};

/// What a client of `dimpl`'s offers: 1.2 alone, 1.3 alone, or both.
type Offer = fn(Arc<Config>, DtlsCertificate, Instant) -> Dtls;

struct Client {
    socket: UdpSocket,
    dtls: Dtls,
    established: bool,
    received: Vec<Vec<u8>>,
}

impl Client {
    fn connect(server: SocketAddr, offer: Offer) -> Client {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let certificate =
            DtlsCertificate { certificate: certificate.der().to_vec(), private_key: key.serialize_der() };
        let mut dtls = offer(Arc::new(Config::default()), certificate, now());
        dtls.set_active(true);
        let socket = connected(server);
        let mut client = Client { socket, dtls, established: false, received: Vec::new() };
        client.until(|client| client.established);
        client
    }

    /// Sends what there is to send, and takes datagrams, or what time it is, until it is done.
    fn until(&mut self, done: impl Fn(&Client) -> bool) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            self.dtls.handle_timeout(now()).unwrap();
            let until = loop {
                match self.dtls.poll_output(&mut buffer) {
                    Output::Packet(datagram) => _ = self.socket.send(datagram).unwrap(),
                    Output::Connected => self.established = true,
                    Output::ApplicationData(data) => self.received.push(data.to_vec()),
                    Output::Timeout(until) => break until,
                    _ => {}
                }
            };
            if done(self) {
                return;
            }
            let patience = until.saturating_duration_since(now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(patience.min(PATIENCE))).unwrap();
            if let Ok(len) = self.socket.recv(&mut buffer) {
                self.dtls.handle_packet(&buffer[..len]).unwrap();
            }
        }
    }

    fn ask(&mut self, id: u8) {
        let mut buffer = [0; 20];
        let id = TransactionId([id; 12]);
        let request = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, id).unwrap().finish();
        self.dtls.send_application_data(request).unwrap();
        self.until(|client| !client.received.is_empty());
        let response = self.received.remove(0);
        let response = Message::parse(&response).unwrap();
        assert_eq!((response.class(), response.transaction_id()), (Class::Success, id));
        let XorMappedAddress(mapped) = response.require().unwrap();
        assert_eq!(mapped, self.socket.local_addr().unwrap());
    }
}

#[expect(clippy::disallowed_methods, reason = "a client over real sockets")]
fn now() -> Instant {
    Instant::now()
}

fn connected(server: SocketAddr) -> UdpSocket {
    let local = if server.is_ipv4() { "127.0.0.1" } else { "::1" };
    let socket = UdpSocket::bind((local, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server).unwrap();
    socket
}

#[test]
fn binding_over_the_newest_version_that_a_client_offers() {
    let on_disk = OnDisk::new();
    let running = on_disk.serve(|_| {});
    let (v1_2, v1_3) = (ProtocolVersion::DTLS1_2, ProtocolVersion::DTLS1_3);
    let datagrams = running.local_addrs().iter().filter(|(transport, _)| !transport.is_reliable());
    for &(_, server) in datagrams {
        let offers: [(Offer, _); 3] = [(Dtls::new_12, v1_2), (Dtls::new_13, v1_3), (Dtls::new_auto, v1_3)];
        for (offer, version) in offers {
            let mut client = Client::connect(server, offer);
            assert_eq!(client.dtls.protocol_version(), Some(version));
            (0..3).for_each(|id| client.ask(id));
        }
    }
}

/// A ClientHello of DTLS with one cipher suite and no extensions: there is none shorter.
fn client_hello() -> Vec<u8> {
    let mut hello = vec![22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 54];
    hello.extend([1, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 42]);
    hello.extend([0xFE, 0xFD]);
    hello.extend([7; 32]);
    hello.extend([0, 0, 0, 2, 0xC0, 0x2B, 1, 0]);
    hello
}

#[test]
fn a_client_hello_without_a_cookie_draws_no_more_than_it_sent() {
    let on_disk = OnDisk::new();
    let running = on_disk.serve(|_| {});
    let hello = client_hello();
    for &(transport, server) in running.local_addrs() {
        if transport.is_reliable() {
            continue;
        }
        let socket = connected(server);
        // What a session would answer, or what is no ClientHello, draws nothing: the answer is the one to the last.
        let mut broken = hello.clone();
        broken[20] = 99;
        for datagram in [&[23; 60][..], &[20], &broken, &hello[..30], &[63; 1_400], &hello] {
            socket.send(datagram).unwrap();
        }
        let mut answer = [0; 2_000];
        let len = socket.recv(&mut answer).unwrap();
        assert!(len <= hello.len(), "{len} bytes");
        assert_eq!((answer[0], answer[13]), (22, 3), "a HelloVerifyRequest");
        let first = answer[..len].to_vec();
        // Nothing is kept of it, so the next draws the same.
        socket.send(&hello).unwrap();
        let len = socket.recv(&mut answer).unwrap();
        assert_eq!(first.len(), len);
    }
}
