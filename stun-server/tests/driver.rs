//! The STUN server over real sockets on loopback.
#![cfg(feature = "driver")]
#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do, the test cannot")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::time::Duration;

use thirl_common::net::Transport;
use thirl_common::wire::{Class, Message, MessageWriter, Method, TransactionId, XorMappedAddress};
use thirl_stun_server::server::{Config, Running, Server, StartError};

const PATIENCE: Duration = Duration::from_secs(10);

fn config(udp: &[&str], tcp: &[&str]) -> Config {
    let parse = |addrs: &[&str]| addrs.iter().map(|addr| addr.parse().unwrap()).collect();
    let mut config = Config::default();
    (config.listen.udp, config.listen.tcp) = (parse(udp), parse(tcp));
    config.listen.shards = NonZeroUsize::new(2);
    config
}

fn addr_of(running: &Running, transport: Transport, ipv4: bool) -> SocketAddr {
    let matching = |(has, addr): &&(Transport, SocketAddr)| *has == transport && addr.is_ipv4() == ipv4;
    running.local_addrs().iter().find(matching).unwrap().1
}

fn request(id: u8) -> Vec<u8> {
    let mut buffer = [0; 20];
    let id = TransactionId([id; 12]);
    MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, id).unwrap().finish().to_vec()
}

fn check(response: &[u8], id: u8, client: SocketAddr) {
    let response = Message::parse(response).unwrap();
    assert_eq!((response.class(), response.transaction_id()), (Class::Success, TransactionId([id; 12])));
    assert_eq!(response.require::<XorMappedAddress>().unwrap().0, client);
}

fn ask_udp(server: SocketAddr, id: u8) {
    let socket = UdpSocket::bind((if server.is_ipv4() { "127.0.0.1" } else { "::1" }, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // Connected: an answer from another address would not be seen.
    socket.connect(server).unwrap();
    socket.send(&request(id)).unwrap();
    let mut buffer = [0; 100];
    let len = socket.recv(&mut buffer).unwrap();
    check(&buffer[..len], id, socket.local_addr().unwrap());
}

fn connect(server: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn answers_over_udp_and_tcp_in_both_families() {
    let loopback = ["127.0.0.1:0", "[::1]:0"];
    let running = Server::start(&config(&loopback, &loopback)).unwrap();
    for ipv4 in [true, false] {
        for id in 0..8 {
            ask_udp(addr_of(&running, Transport::Udp, ipv4), id);
        }
        let mut stream = connect(addr_of(&running, Transport::Tcp, ipv4));
        // Two requests and a half, then the rest: where a segment ends means nothing.
        let requests = [request(1), request(2), request(3)].concat();
        stream.write_all(&requests[..50]).unwrap();
        stream.write_all(&requests[50..]).unwrap();
        for id in 1..=3 {
            let mut response = vec![0; if ipv4 { 32 } else { 44 }];
            stream.read_exact(&mut response).unwrap();
            check(&response, id, stream.local_addr().unwrap());
        }
    }
    running.shutdown();
    assert_eq!(running.join().answered, 2 * (8 + 3));
}

#[test]
fn a_wildcard_answers_from_the_address_that_was_asked() {
    let running = Server::start(&config(&["0.0.0.0:0"], &[])).unwrap();
    let port = addr_of(&running, Transport::Udp, true).port();
    for last in 1..=9 {
        ask_udp(SocketAddr::new(IpAddr::from([127, 0, 0, last]), port), last);
    }
}

#[test]
fn a_taken_port_is_named_and_nothing_is_shared_with_its_owner() {
    let running = Server::start(&config(&["127.0.0.1:0"], &["127.0.0.1:0"])).unwrap();
    for &(transport, addr) in running.local_addrs() {
        let text = addr.to_string();
        let (udp, tcp) =
            if transport == Transport::Udp { (vec![&*text], vec![]) } else { (vec![], vec![&*text]) };
        match Server::start(&config(&udp, &tcp)) {
            Err(StartError::Bind { addr: named, transport: over, .. }) => {
                assert_eq!((over, named), (transport, addr));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(Server::start(&config(&[], &[])), Err(StartError::NothingToListenOn)));
    let error = Server::start(&config(&["192.0.2.1:3478"], &[])).unwrap_err().to_string();
    assert!(error.contains("192.0.2.1:3478") && error.contains("listening-ip"), "{error}");
}

#[test]
fn streams_that_are_of_no_use_are_closed() {
    let mut config = config(&[], &["127.0.0.1:0"]);
    config.listen.idle_timeout = Duration::from_millis(100);
    config.listen.shards = NonZeroUsize::new(1);
    config.listen.max_connections = 3;
    let running = Server::start(&config).unwrap();
    let server = addr_of(&running, Transport::Tcp, true);
    // One that speaks something else, one that says nothing, one that never ends its message.
    let mut junk = connect(server);
    junk.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let silent = connect(server);
    let mut slow = connect(server);
    slow.write_all(&request(1)[..19]).unwrap();
    for mut stream in [junk, silent, slow] {
        // The end, or a reset where something was left unread.
        assert!(!matches!(stream.read(&mut [0; 10]), Ok(1..)));
    }
    let open: Vec<_> = (0..3).map(|_| connect(server)).collect();
    let refused = connect(server).read(&mut [0; 10]);
    assert!(!matches!(refused, Ok(1..)), "beyond the limit: closed at once");
    drop(open);
}
