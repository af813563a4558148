//! The STUN server behind a proxy, on loopback: the proxy is 127.0.0.1.
#![cfg(feature = "driver")]
#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do, the test cannot")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::time::Duration;

use thirl_common::net::Transport;
use thirl_common::proxy_protocol::{TrustedProxies, header_of_stream};
use thirl_common::wire::{Class, Message, MessageWriter, Method, TransactionId, XorMappedAddress};
use thirl_stun_server::server::{Config, Running, Server};

const PATIENCE: Duration = Duration::from_secs(10);
const CLIENT: &str = "192.0.2.1:5000";

fn start(proxy: &str) -> Running {
    let mut config = Config::default();
    config.listen.udp = vec!["127.0.0.1:0".parse().unwrap()];
    config.listen.tcp = config.listen.udp.clone();
    config.listen.shards = NonZeroUsize::new(1);
    config.listen.proxies = TrustedProxies(vec![proxy.parse().unwrap()]);
    Server::start(&config).unwrap()
}

fn addr_of(running: &Running, transport: Transport) -> SocketAddr {
    running.local_addrs().iter().find(|(has, _)| *has == transport).unwrap().1
}

fn request() -> Vec<u8> {
    let mut buffer = [0; 20];
    let id = TransactionId([7; 12]);
    MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, id).unwrap().finish().to_vec()
}

fn mapped(response: &[u8]) -> SocketAddr {
    Message::parse(response).unwrap().require::<XorMappedAddress>().unwrap().0
}

fn connect(running: &Running) -> TcpStream {
    let stream = TcpStream::connect(addr_of(running, Transport::Tcp)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// The address that the server sees in each of two requests, or `None` if it closes the connection.
fn ask_by_tcp(stream: &mut TcpStream) -> Option<SocketAddr> {
    let mut response = [0; 32];
    let mut ask = || {
        stream.write_all(&request()).ok()?;
        stream.read_exact(&mut response).ok()?;
        Some(mapped(&response))
    };
    let first = ask()?;
    assert_eq!(ask(), Some(first));
    Some(first)
}

fn datagram(client: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut header = header_of_stream(client, "198.51.100.1:3478".parse().unwrap());
    // Over a stream (1) becomes by datagram (2).
    header[13] += 1;
    [&header, payload].concat()
}

#[test]
fn a_connections_client_is_whom_the_proxy_says() {
    let running = start("127.0.0.1");
    let client: SocketAddr = CLIENT.parse().unwrap();
    let v1 = b"PROXY TCP4 192.0.2.1 198.51.100.1 5000 3478\r\n".to_vec();
    for header in [v1, header_of_stream(client, "198.51.100.1:3478".parse().unwrap())] {
        let mut stream = connect(&running);
        stream.write_all(&header).unwrap();
        assert_eq!(ask_by_tcp(&mut stream), Some(client));
        drop(stream);
        // In single bytes, and a request right behind it.
        let mut stream = connect(&running);
        for byte in [&header[..], &request()].concat() {
            stream.write_all(&[byte]).unwrap();
        }
        let mut response = [0; 32];
        stream.read_exact(&mut response).unwrap();
        assert_eq!(mapped(&response), client);
    }
    let mut itself = connect(&running);
    itself.write_all(b"PROXY UNKNOWN\r\n").unwrap();
    assert_eq!(ask_by_tcp(&mut itself), itself.local_addr().ok());
    assert_eq!(ask_by_tcp(&mut connect(&running)), None, "a proxy has to say whom it speaks for");
}

#[test]
fn one_client_is_not_two() {
    let running = start("127.0.0.1");
    let header = header_of_stream(CLIENT.parse().unwrap(), "198.51.100.1:3478".parse().unwrap());
    let [mut first, mut second] = [(); 2].map(|()| connect(&running));
    first.write_all(&header).unwrap();
    assert!(ask_by_tcp(&mut first).is_some());
    second.write_all(&header).unwrap();
    assert!(ask_by_tcp(&mut second).is_none());
    assert!(ask_by_tcp(&mut first).is_some());
}

#[test]
fn a_header_from_anybody_else_is_none() {
    let running = start("127.0.0.9");
    let mut stream = connect(&running);
    let own = stream.local_addr().ok();
    assert_eq!(ask_by_tcp(&mut stream), own);
    let mut liar = connect(&running);
    liar.write_all(b"PROXY TCP4 192.0.2.1 198.51.100.1 5000 3478\r\n").unwrap();
    assert_eq!(ask_by_tcp(&mut liar), None);
    let liar = UdpSocket::bind("127.0.0.1:0").unwrap();
    liar.set_read_timeout(Some(PATIENCE)).unwrap();
    liar.connect(addr_of(&running, Transport::Udp)).unwrap();
    liar.send(&datagram(CLIENT.parse().unwrap(), &request())).unwrap();
    liar.send(&request()).unwrap();
    let mut response = [0; 100];
    let len = liar.recv(&mut response).unwrap();
    assert_eq!(mapped(&response[..len]), liar.local_addr().unwrap(), "the first drew no answer");
}

#[test]
fn each_datagrams_client_is_whom_the_proxy_says() {
    let running = start("127.0.0.1");
    let proxy = UdpSocket::bind("127.0.0.1:0").unwrap();
    proxy.set_read_timeout(Some(PATIENCE)).unwrap();
    proxy.connect(addr_of(&running, Transport::Udp)).unwrap();
    let mut response = [0; 100];
    for client in [CLIENT, "192.0.2.2:1", "[2001:db8::1]:9"] {
        let client = client.parse().unwrap();
        // Without a header it is not taken.
        proxy.send(&request()).unwrap();
        let header = match client {
            SocketAddr::V4(_) => datagram(client, &request()),
            SocketAddr::V6(_) => {
                let mut header = header_of_stream(client, "[2001:db8::2]:3478".parse().unwrap());
                header[13] += 1;
                [header, request()].concat()
            }
        };
        proxy.send(&header).unwrap();
        let len = proxy.recv(&mut response).unwrap();
        assert_eq!(mapped(&response[..len]), client);
    }
}
