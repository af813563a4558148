//! A relay on loopback, and a client of it that is written out here.
#![expect(clippy::unwrap_used, reason = "what a helper of a test cannot do, the test cannot")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thirl_common::auth::{Credentials, LongTermKey};
use thirl_common::net::Transport;
use thirl_common::wire::*;
use thirl_turn_relay::server::{Config, Running, Server, StartError};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const LOOPBACK_V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const LOOPBACK_V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

pub(crate) fn start(configure: impl FnOnce(&mut Config)) -> Running {
    try_start(configure).unwrap()
}

pub(crate) fn try_start(configure: impl FnOnce(&mut Config)) -> Result<Running, StartError> {
    let mut credentials = Credentials::default();
    credentials.users.insert("alice", "secret");
    let mut config = Config::default();
    config.listen.udp = vec![(LOOPBACK_V4, 0).into(), (LOOPBACK_V6, 0).into()];
    config.listen.tcp = config.listen.udp.clone();
    config.listen.shards = NonZeroUsize::new(2);
    config.engine.credentials = Arc::new(credentials);
    config.engine.peers.allowed = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    configure(&mut config);
    Server::start(config)
}

pub(crate) fn addr_of(running: &Running, transport: Transport, ipv4: bool) -> SocketAddr {
    let matching = |(has, addr): &&(Transport, SocketAddr)| *has == transport && addr.is_ipv4() == ipv4;
    running.local_addrs().iter().find(matching).unwrap().1
}

/// Waits for something that the server's threads do soon.
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    #[expect(clippy::disallowed_methods, reason = "a deadline for a test over real sockets")]
    let (now, start) = (Instant::now, Instant::now());
    while !condition() {
        assert!(now() - start < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

pub(crate) enum Wire {
    Udp(UdpSocket),
    /// With this before each datagram.
    Proxied(UdpSocket, Vec<u8>),
    Tcp(TcpStream),
    Tls(Box<Tls>),
}

pub(crate) type Tls = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

pub(crate) struct Client {
    pub(crate) wire: Wire,
    /// What follows the next request at once.
    pub(crate) trailer: Vec<u8>,
    nonce: String,
    transactions: u32,
}

impl Client {
    pub(crate) fn connect(running: &Running, transport: Transport, ipv4: bool) -> Client {
        let server = addr_of(running, transport, ipv4);
        let wire = if transport == Transport::Udp {
            let socket = UdpSocket::bind((if ipv4 { LOOPBACK_V4 } else { LOOPBACK_V6 }, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(server).unwrap();
            Wire::Udp(socket)
        } else {
            let stream = TcpStream::connect(server).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            Wire::Tcp(stream)
        };
        Client::over(wire)
    }

    pub(crate) fn over(wire: Wire) -> Client {
        let mut client = Client { wire, trailer: Vec::new(), nonce: String::new(), transactions: 0 };
        let challenge = client.request(Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP).unwrap();
        });
        assert_eq!(code(&challenge), 401);
        client.nonce = Message::parse(&challenge).unwrap().require::<Nonce<'_>>().unwrap().0.to_owned();
        client
    }

    pub(crate) fn send(&mut self, message: &[u8]) {
        match &mut self.wire {
            Wire::Udp(socket) => assert_eq!(socket.send(message).unwrap(), message.len()),
            Wire::Proxied(socket, header) => {
                socket.send(&[header, message].concat()).unwrap();
            }
            Wire::Tcp(stream) => stream.write_all(&padded_whole(message)).unwrap(),
            Wire::Tls(stream) => stream.write_all(&padded_whole(message)).unwrap(),
        }
    }

    pub(crate) fn receive(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        let len = match &mut self.wire {
            Wire::Udp(socket) | Wire::Proxied(socket, _) => socket.recv(&mut buffer).unwrap(),
            Wire::Tcp(stream) => read_frame(stream, &mut buffer),
            Wire::Tls(stream) => read_frame(stream, &mut buffer),
        };
        buffer.truncate(len);
        buffer
    }

    pub(crate) fn request(&mut self, method: Method, write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
        self.transactions += 1;
        let mut id = TransactionId([0; 12]);
        id.0[..4].copy_from_slice(&self.transactions.to_be_bytes());
        let mut buffer = [0; 512];
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, id).unwrap();
        write(&mut writer);
        if !self.nonce.is_empty() {
            let key = LongTermKey::new("alice", "thirl", "secret").integrity_key();
            writer.attribute(&Username("alice")).unwrap().attribute(&Realm("thirl")).unwrap();
            writer.attribute(&Nonce(&self.nonce)).unwrap().integrity(IntegrityAlgorithm::Sha1, &key).unwrap();
        }
        let request = [writer.finish(), &std::mem::take(&mut self.trailer)].concat();
        self.send(&request);
        loop {
            let response = self.receive();
            // Data may come before it.
            if response[0] < 0x40 && Message::parse(&response).unwrap().transaction_id() == id {
                return response;
            }
        }
    }

    pub(crate) fn allocate(&mut self, family: AddressFamily) -> Result<SocketAddr, u16> {
        let response = self.request(Method::ALLOCATE, |writer| {
            writer.attribute(&RequestedTransport::UDP).unwrap();
            writer.attribute(&RequestedAddressFamily(Some(family))).unwrap();
        });
        match code(&response) {
            0 => Ok(Message::parse(&response).unwrap().require::<XorRelayedAddress>().unwrap().0),
            code => Err(code),
        }
    }

    pub(crate) fn permit(&mut self, peer: SocketAddr) -> u16 {
        code(&self.request(Method::CREATE_PERMISSION, |writer| {
            writer.attribute(&XorPeerAddress(peer)).unwrap();
        }))
    }

    pub(crate) fn bind(&mut self, peer: SocketAddr) -> u16 {
        self.bind_channel(ChannelNumber::MIN, peer)
    }

    pub(crate) fn bind_channel(&mut self, channel: ChannelNumber, peer: SocketAddr) -> u16 {
        code(&self.request(Method::CHANNEL_BIND, |writer| {
            writer.attribute(&channel).unwrap().attribute(&XorPeerAddress(peer)).unwrap();
        }))
    }

    pub(crate) fn send_indication(&mut self, peer: SocketAddr, data: &[u8]) {
        let mut buffer = [0; 2048];
        let id = TransactionId([99; 12]);
        let mut writer = MessageWriter::new(&mut buffer, Class::Indication, Method::SEND, id).unwrap();
        writer.attribute(&XorPeerAddress(peer)).unwrap().attribute(&Data(data)).unwrap();
        self.send(writer.finish());
    }
}

fn padded_whole(message: &[u8]) -> Vec<u8> {
    [message, &vec![0; padded(message.len()) - message.len()]].concat()
}

/// The length of the next frame, which is read with its padding.
fn read_frame(stream: &mut impl Read, buffer: &mut [u8]) -> usize {
    stream.read_exact(&mut buffer[..4]).unwrap();
    let header = if buffer[0] >= 0x40 { 4 } else { 20 };
    let len = header + usize::from(u16::from_be_bytes([buffer[2], buffer[3]]));
    stream.read_exact(&mut buffer[4..padded(len)]).unwrap();
    len
}

pub(crate) fn code(response: &[u8]) -> u16 {
    let response = Message::parse(response).unwrap();
    if response.class() == Class::Success { 0 } else { response.require::<ErrorCode<'_>>().unwrap().code }
}

pub(crate) fn peer(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) fn receive_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..len].to_vec(), from)
}
