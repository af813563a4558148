//! Clients with allocations and peers that echo, all in one thread over `thirl_common::io`.
//!
//! All clients share a socket and so do all peers: each has an IP address of its own, which datagrams are sent from and
//! told by. So 20,000 of them cost the load two descriptors. Over TCP each has its connection. `setup`: how they get their
//! allocations, and give them up; `traffic`: packets on their way round; `churn`: packets while others come and go.

mod churn;
mod setup;
mod traffic;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use socket2::{Domain, SockAddr, Socket, Type};
use thirl_common::io::{
    BindOptions, Event, Interest, IoOptions, Route, ShardIo, SocketId, StreamConn, StreamLimits,
};
use thirl_common::net::Transport;
use thirl_common::wire::{
    ChannelData, ChannelNumber, Class, Data, MessageWriter, Method, TransactionId, XorPeerAddress,
};
use thirl_ice_agent::turn::{Families, TurnClient, TurnClientConfig, TurnCredentials};

use crate::network::Network;
use crate::{BenchError, Context};

pub(crate) use churn::Churn;

/// The tokens of the two sockets; those of streams are the clients' numbers.
const CLIENTS: u64 = 1 << 40;
const PEERS: u64 = CLIENTS + 1;

/// The kernel's buffers for the load's sockets: bytes.
const SOCKET_BUFFER: usize = 32 << 20;

/// What clients send, and whom to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// How many clients.
    pub(crate) count: usize,
    /// Bytes of application data.
    pub(crate) payload: usize,
    /// Packets that a client sends one after another.
    pub(crate) burst: usize,
    /// Whether they leave, and may arrive, as one.
    pub(crate) trains: bool,
    /// Send and Data indications instead of channels.
    pub(crate) indications: bool,
    /// Clients speak TCP to the server.
    pub(crate) tcp: bool,
    /// Clients are each other's peers.
    pub(crate) pairs: bool,
    /// There is no relay but a bare forwarder: nobody allocates.
    pub(crate) bare: bool,
}

/// One client.
struct Client {
    turn: TurnClient,
    /// Whom it sends to.
    peer: SocketAddr,
    /// What it sends.
    frame: Vec<u8>,
    /// What it waits for is there.
    ready: bool,
}

/// The load's state.
pub(crate) struct Load {
    io: ShardIo,
    events: Vec<Event>,
    shape: Shape,
    server: SocketAddr,
    hosts: Hosts,
    sockets: [SocketId; 2],
    clients: Vec<Client>,
    streams: Vec<StreamConn>,
    rng: StdRng,
}

/// Where clients and peers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hosts {
    /// The first client's address; the others follow.
    pub(crate) clients: Ipv4Addr,
    /// The first peer's.
    pub(crate) peers: Ipv4Addr,
    /// The port of all clients.
    client_port: u16,
    /// The port of all peers.
    pub(crate) peer_port: u16,
}

impl Hosts {
    fn client(&self, number: usize) -> SocketAddr {
        SocketAddr::new(nth(self.clients, number).into(), self.client_port)
    }

    /// The address of a peer.
    pub(crate) fn peer(&self, number: usize) -> SocketAddr {
        SocketAddr::new(nth(self.peers, number).into(), self.peer_port)
    }

    /// Which client has this address.
    pub(crate) fn client_number(&self, ip: Option<IpAddr>) -> Option<usize> {
        let Some(IpAddr::V4(ip)) = ip else { return None };
        usize::try_from(u32::from(ip).checked_sub(u32::from(self.clients))?).ok()
    }
}

fn nth(first: Ipv4Addr, number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) + u32::try_from(number).unwrap_or(0))
}

impl Load {
    /// Binds the load's sockets. Nothing is sent yet.
    pub(crate) fn new(network: &Network, shape: Shape) -> Result<Load, BenchError> {
        let max_datagram = if shape.trains { 65_535 } else { 2048 };
        let options = IoOptions { max_datagram, trains: shape.trains, ..IoOptions::default() };
        let mut io = ShardIo::new(options).context("the load's sockets")?;
        let (clients, client_port) = bind(&mut io, CLIENTS)?;
        let (peers, peer_port) = bind(&mut io, PEERS)?;
        Ok(Load {
            io,
            events: Vec::new(),
            shape,
            server: SocketAddr::new(network.server_ip, 0),
            hosts: Hosts { clients: network.clients, peers: network.peers, client_port, peer_port },
            sockets: [clients, peers],
            clients: Vec::new(),
            streams: Vec::new(),
            rng: StdRng::from_seed([5; 32]),
        })
    }

    pub(crate) fn hosts(&self) -> Hosts {
        self.hosts
    }

    fn add_client(&mut self, number: usize) -> Result<(), BenchError> {
        let local = match self.shape.tcp {
            true => self.connect(number)?,
            false => self.hosts.client(number),
        };
        let client = self.new_client(number, local);
        self.clients.push(client);
        Ok(())
    }

    fn new_client(&mut self, number: usize, local: SocketAddr) -> Client {
        let config = TurnClientConfig {
            server: self.server,
            transport: if self.shape.tcp { Transport::Tcp } else { Transport::Udp },
            local,
            credentials: TurnCredentials::password("bench", "bench"),
            families: Families::Ipv4,
            mobile: false,
        };
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let turn = TurnClient::new(config, seed);
        Client { turn, peer: self.hosts.peer(number), frame: Vec::new(), ready: false }
    }

    /// Opens a client's connection.
    fn connect(&mut self, number: usize) -> Result<SocketAddr, BenchError> {
        let connect = || -> std::io::Result<StreamConn> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            let ip = self.hosts.client(number).ip();
            socket.bind(&SockAddr::from(SocketAddr::new(ip, 0)))?;
            socket.connect(&SockAddr::from(self.server))?;
            StreamConn::new(TcpStream::from(socket), StreamLimits::default())
        };
        let stream = connect().context("connecting to the server by TCP")?;
        self.io.poller().add(&stream, number as u64, Interest::READ).context("watching a connection")?;
        let local = stream.local_addr();
        self.streams.push(stream);
        Ok(local)
    }

    /// Sends a client's bytes to the server.
    fn send(&mut self, number: usize, bytes: &[u8]) {
        match self.streams.get_mut(number) {
            Some(stream) => {
                // One that is closed is found out by what does not arrive.
                stream.write(&[bytes]).ok();
            }
            None => self.io.send(self.route_of(number), bytes),
        }
    }

    fn send_frame(&mut self, number: usize) {
        let Some(client) = self.clients.get(number) else { return };
        match self.streams.get_mut(number) {
            Some(stream) => {
                stream.write(&[&client.frame]).ok();
            }
            None => {
                let route = self.route_of(number);
                self.io.send(route, &self.clients[number].frame);
            }
        }
    }

    fn route_of(&self, number: usize) -> Route {
        let source = Some(self.hosts.client(number).ip());
        Route { socket: self.sockets[0], to: self.server, source }
    }

    /// Makes what a client is going to send.
    fn make_frame(&mut self, number: usize) {
        let payload = vec![0; self.shape.payload];
        let client = &mut self.clients[number];
        client.frame = match self.shape {
            Shape { indications: true, .. } => send_indication(client.peer, &payload),
            Shape { bare: true, .. } => channel_data(ChannelNumber::MIN, &payload),
            _ => client.turn.channel(client.peer).map_or(Vec::new(), |number| channel_data(number, &payload)),
        };
        if self.shape.tcp {
            client.frame.resize(client.frame.len().next_multiple_of(4), 0);
        }
    }
}

fn channel_data(number: ChannelNumber, payload: &[u8]) -> Vec<u8> {
    let header = ChannelData::header(number, payload.len()).unwrap_or_default();
    [&header, payload].concat()
}

fn send_indication(peer: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; payload.len() + 64];
    let written = MessageWriter::new(&mut buffer, Class::Indication, Method::SEND, TransactionId([4; 12]))
        .and_then(|mut writer| {
            writer.attribute(&XorPeerAddress(peer))?;
            writer.attribute(&Data(payload))?;
            Ok(writer.finish().len())
        });
    buffer.truncate(written.unwrap_or(0));
    buffer
}

fn bind(io: &mut ShardIo, token: u64) -> Result<(SocketId, u16), BenchError> {
    let what = "binding a socket of the load";
    let options = BindOptions {
        packet_info: true,
        recv_buffer: Some(SOCKET_BUFFER),
        send_buffer: Some(SOCKET_BUFFER),
        ..BindOptions::default()
    };
    let socket = options.bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)).context(what)?;
    let port = socket.local_addr().context(what)?.port();
    Ok((io.add(socket, token).context(what)?, port))
}

/// A wait for packets.
const TURN: Duration = Duration::from_millis(20);
