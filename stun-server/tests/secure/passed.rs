//! A port that is shared with an HTTPS server: who is served, who is passed on, and what that may cost.

use std::net::{Shutdown, TcpListener};
use std::thread;

use rustls::AlertDescription;
use thirl_common::proxy_protocol;
use thirl_stun_server::shard::HttpsBackend;

use super::*;

fn offering(on_disk: &OnDisk, protocols: &[&str]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&on_disk.client());
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A server with this backend.
fn serve(on_disk: &OnDisk, backend: SocketAddr, proxy_protocol: bool, change: fn(&mut Config)) -> Running {
    on_disk.serve(|config| {
        let secure = config.listen.secure.as_mut().unwrap();
        secure.https_backend = Some(HttpsBackend { addr: backend, proxy_protocol });
        change(config);
    })
}

fn backend() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

fn accept(backend: &TcpListener) -> TcpStream {
    let (stream, _) = backend.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What a client sends first that offers these protocols.
fn client_hello(on_disk: &OnDisk, protocols: &[&str]) -> Vec<u8> {
    let name = ServerName::try_from("turn.example").unwrap();
    let mut client = ClientConnection::new(offering(on_disk, protocols), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn who_offers_ours_or_nothing_is_served() {
    let on_disk = OnDisk::new();
    let (_backend, addr) = backend();
    let running = serve(&on_disk, addr, false, |_| {});
    for protocols in [&[][..], &["stun.turn"], &["stun.nat-discovery"], &["h2", "http/1.1", "stun.turn"]] {
        for transport in [Transport::Tcp, Transport::Tls] {
            let mut stream = secure(addr_of(&running, transport), &offering(&on_disk, protocols));
            ask(&mut stream, 1).unwrap();
            let agreed = stream.conn.alpn_protocol().map(<[u8]>::to_vec);
            assert_eq!(agreed, protocols.last().map(|protocol| protocol.as_bytes().to_vec()));
        }
    }
}

#[test]
fn others_are_passed_on_as_they_are() {
    let on_disk = OnDisk::new();
    let (backend, addr) = backend();
    for proxy_protocol in [false, true] {
        let running = serve(&on_disk, addr, proxy_protocol, |_| {});
        for piece in [usize::MAX, 100, 1] {
            let mut client = connect(addr_of(&running, Transport::Tls));
            client.set_nodelay(true).unwrap();
            let hello = client_hello(&on_disk, &["h2", "http/1.1"]);
            for piece in hello.chunks(piece.min(hello.len())) {
                client.write_all(piece).unwrap();
            }
            client.write_all(b"and more").unwrap();
            let mut server = accept(&backend);
            let mut header = vec![0; if proxy_protocol { 28 } else { 0 }];
            server.read_exact(&mut header).unwrap();
            if proxy_protocol {
                let header = proxy_protocol::of_stream(&header).unwrap().unwrap();
                assert_eq!(header.client, client.local_addr().ok());
            }
            let mut received = vec![0; hello.len() + 8];
            server.read_exact(&mut received).unwrap();
            assert!(received == [&hello[..], b"and more"].concat());
            // Each way ends by itself.
            server.write_all(b"no TLS at all").unwrap();
            server.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, b"no TLS at all");
            client.write_all(b"bye").unwrap();
            drop(client);
            let mut rest = Vec::new();
            server.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"bye");
        }
    }
}

#[test]
fn without_a_backend_others_are_refused() {
    let on_disk = OnDisk::new();
    let running = on_disk.serve(|_| {});
    let mut stream = secure(addr_of(&running, Transport::Tls), &offering(&on_disk, &["h2", "http/1.1"]));
    let refused = ask(&mut stream, 1).unwrap_err();
    let alert = refused.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    assert_eq!(alert, Some(&rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
}

#[test]
fn a_backend_that_is_not_there_costs_its_clients_alone() {
    let on_disk = OnDisk::new();
    let (listener, addr) = backend();
    drop(listener);
    let running = serve(&on_disk, addr, false, |_| {});
    let mut client = connect(addr_of(&running, Transport::Tls));
    client.write_all(&client_hello(&on_disk, &["h2"])).unwrap();
    assert_eq!(expect_end(&mut client), b"");
    ask(&mut secure(addr_of(&running, Transport::Tls), &on_disk.client()), 1).unwrap();
}

#[test]
fn who_is_passed_on_counts_as_a_connection() {
    let on_disk = OnDisk::new();
    let (backend, addr) = backend();
    let running = serve(&on_disk, addr, false, |config| config.listen.max_connections = 2);
    let server = addr_of(&running, Transport::Tls);
    let passed = [(); 2].map(|()| {
        let mut client = connect(server);
        client.write_all(&client_hello(&on_disk, &["h2"])).unwrap();
        (client, accept(&backend))
    });
    assert_eq!(expect_end(&mut connect(server)), b"", "there is no room");
    drop(passed);
    let deadline = thread::spawn(move || {
        while ask(&mut secure(server, &on_disk.client()), 1).is_err() {
            thread::yield_now();
        }
    });
    deadline.join().unwrap();
}

#[test]
fn a_client_hello_has_an_end_and_a_deadline() {
    let on_disk = OnDisk::new();
    let (_backend, addr) = backend();
    let running = serve(&on_disk, addr, false, |config| {
        config.listen.secure.as_mut().unwrap().handshake_timeout = Duration::from_millis(200);
    });
    let server = addr_of(&running, Transport::Tls);
    // Half of one, and no more.
    let mut slow = connect(server);
    let hello = client_hello(&on_disk, &["h2"]);
    slow.write_all(&hello[..hello.len() / 2]).unwrap();
    expect_end(&mut slow);
    // One of 60,000 bytes, in records of 4,000.
    let mut large = connect(server);
    let mut message = vec![1, 0, 0xEA, 0x60];
    message.resize(60_004, 0);
    for piece in message.chunks(4_000) {
        let len = u16::try_from(piece.len()).unwrap().to_be_bytes();
        // The server may have had enough before all is written.
        let _ = large.write_all(&[&[22, 3, 1, len[0], len[1]], piece].concat());
    }
    expect_end(&mut large);
    ask(&mut secure(server, &on_disk.client()), 1).unwrap();
}
