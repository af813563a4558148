//! A bare forwarder: the packets of a relay and its way to ask the kernel, without a protocol. What it costs is what
//! sockets cost; what a relay costs more is TURN.
//!
//! It knows clients and peers by the numbers that their addresses stand for, cuts the four bytes of a ChannelData header off
//! what clients send, and puts them before what peers send.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use thirl_common::io::{BindOptions, IoOptions, Route, ShardIo, SocketId, Technique};
use thirl_common::wire::{ChannelData, ChannelNumber};

use crate::{BenchError, Context};

/// What it is told.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Where clients send to.
    #[arg(long)]
    listen: SocketAddr,
    /// How it asks the kernel.
    #[arg(long)]
    io: Technique,
    /// How many clients there are.
    #[arg(long)]
    n: usize,
    /// The first client's address.
    #[arg(long)]
    clients: Ipv4Addr,
    /// The first peer's address, and all peers' port.
    #[arg(long)]
    peers: std::net::SocketAddrV4,
}

/// The token of the listening socket; the others have their client's number.
const LISTENER: u64 = 1 << 40;

/// As the servers have it for listening sockets: bytes.
const SOCKET_BUFFER: usize = 4 << 20;

pub(crate) fn run(options: &Options) -> Result<(), BenchError> {
    let what = "the forwarder's sockets";
    let mut io =
        ShardIo::new(IoOptions { technique: Some(options.io), ..IoOptions::default() }).context(what)?;
    let buffers = BindOptions {
        recv_buffer: Some(SOCKET_BUFFER),
        send_buffer: Some(SOCKET_BUFFER),
        ..BindOptions::default()
    };
    let listener = io.add(buffers.bind(options.listen).context(what)?, LISTENER).context(what)?;
    let any = SocketAddr::new(options.listen.ip(), 0);
    let mut forwarder =
        Forwarder { io, listener, relays: Vec::new(), clients: vec![None; options.n], peers: Vec::new() };
    for number in 0..options.n {
        let socket = BindOptions::default().bind(any).context(what)?;
        forwarder.relays.push(forwarder.io.add(socket, number as u64).context(what)?);
        let peer = u32::from(*options.peers.ip()) + u32::try_from(number).unwrap_or(0);
        forwarder.peers.push(SocketAddr::new(Ipv4Addr::from(peer).into(), options.peers.port()));
    }
    let mut events = Vec::new();
    loop {
        forwarder.io.turn(None, &mut events).context("waiting for packets")?;
        for index in 0..forwarder.io.received_len() {
            forwarder.forward(index, options.clients);
        }
    }
}

struct Forwarder {
    io: ShardIo,
    listener: SocketId,
    relays: Vec<SocketId>,
    clients: Vec<Option<SocketAddr>>,
    peers: Vec<SocketAddr>,
}

impl Forwarder {
    fn forward(&mut self, index: usize, first_client: Ipv4Addr) {
        let Some(datagram) = self.io.received(index) else { return };
        let len = datagram.payload.len();
        if datagram.token != LISTENER {
            let header = ChannelData::header(ChannelNumber::MIN, len).unwrap_or_default();
            let client =
                usize::try_from(datagram.token).ok().and_then(|number| self.clients.get(number).copied()?);
            if let Some(to) = client {
                self.io.forward(index, 0..len, &header, 0, Route { socket: self.listener, to, source: None });
            }
            return;
        }
        let from = datagram.from;
        let number = match from.ip() {
            IpAddr::V4(ip) => u32::from(ip).wrapping_sub(u32::from(first_client)) as usize,
            IpAddr::V6(_) => return,
        };
        if let (Some(client), true) = (self.clients.get_mut(number), len >= 4) {
            *client = Some(from);
            let route = Route { socket: self.relays[number], to: self.peers[number], source: None };
            self.io.forward(index, 4..len, &[], 0, route);
        } else {
            // Whoever asks whether it is there.
            self.io.forward(index, 0..len, &[], 0, Route { socket: self.listener, to: from, source: None });
        }
    }
}
