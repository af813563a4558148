//! Clients with allocations and peers that echo, all in one thread over `thirl_common::io`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use thirl_common::io::{BindOptions, IoOptions, Route, ShardIo, SocketId};
use thirl_common::net::Transport;
use thirl_common::wire::{ChannelData, Protocol, classify};
use thirl_ice_agent::turn::{TurnClient, TurnClientConfig, TurnEvent};

use crate::{BenchError, Context, now};

/// Setting up is given up after so long.
const SETUP_LIMIT: Duration = Duration::from_secs(30);

/// When nothing has arrived for so long, what was under way is taken for lost.
const STALL: Duration = Duration::from_millis(200);

/// So many clients set up at a time, so that no socket buffer overflows.
const SETUP_AT_ONCE: usize = 50;

struct Client {
    turn: TurnClient,
    socket: SocketId,
    peer: SocketAddr,
    bound: bool,
}

/// What was relayed in a measurement.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Packets that arrived at peers and at clients.
    pub(crate) relayed: u64,
    /// Packets taken for lost.
    pub(crate) lost: u64,
    /// How long it took.
    pub(crate) seconds: f64,
}

/// The load's state.
pub(crate) struct Load {
    io: ShardIo,
    events: Vec<thirl_common::io::Event>,
    clients: Vec<Client>,
    server: SocketAddr,
    ip: IpAddr,
    window: usize,
    payload: usize,
    in_flight: usize,
    next: usize,
}

/// A client's socket has an even token, its peer's the odd one after it.
fn client_of(token: u64) -> (usize, bool) {
    (usize::try_from(token / 2).unwrap_or(usize::MAX), token.is_multiple_of(2))
}

impl Load {
    /// Makes `count` allocations, each with a channel to a peer of its own, all at the address `ip`.
    pub(crate) fn set_up(
        server: SocketAddr,
        ip: IpAddr,
        count: usize,
        payload: usize,
        window: usize,
    ) -> Result<Load, BenchError> {
        let io = ShardIo::new(IoOptions { max_datagram: 2048, ..IoOptions::default() })
            .context("the load's sockets")?;
        let mut load = Load {
            io,
            events: Vec::new(),
            clients: Vec::new(),
            server,
            ip,
            window,
            payload,
            in_flight: 0,
            next: 0,
        };
        let mut rng = StdRng::from_seed([5; 32]);
        while load.clients.len() < count {
            let first = load.clients.len();
            for _ in first..count.min(first + SETUP_AT_ONCE) {
                load.add_client(&mut rng)?;
            }
            load.allocate(first)?;
        }
        Ok(load)
    }

    fn add_client(&mut self, rng: &mut StdRng) -> Result<(), BenchError> {
        let token = 2 * self.clients.len() as u64;
        let (socket, local) = self.bind(token)?;
        let (_, peer) = self.bind(token + 1)?;
        let config = TurnClientConfig {
            server: self.server,
            transport: Transport::Udp,
            local,
            username: "bench".to_owned(),
            password: "bench".to_owned(),
            family: None,
        };
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let mut turn = TurnClient::new(config, seed);
        turn.start(now());
        self.clients.push(Client { turn, socket, peer, bound: false });
        Ok(())
    }

    fn bind(&mut self, token: u64) -> Result<(SocketId, SocketAddr), BenchError> {
        let what = "binding a socket of the load (is the limit of open files too low?)";
        let any = SocketAddr::new(self.ip, 0);
        let socket = BindOptions::default().bind(any).context(what)?;
        let addr = socket.local_addr().context(what)?;
        Ok((self.io.add(socket, token).context(what)?, addr))
    }

    /// Runs the clients from `first` on until each has its channel.
    fn allocate(&mut self, first: usize) -> Result<(), BenchError> {
        let deadline = now() + SETUP_LIMIT;
        while self.clients[first..].iter().any(|client| !client.bound) {
            if now() > deadline {
                let what = "allocations are not made in time".to_owned();
                return Err(BenchError::Server { server: self.server.to_string(), what });
            }
            for client in &mut self.clients[first..] {
                client.turn.handle_timeout(now());
                while let Some(event) = client.turn.poll_event() {
                    match event {
                        TurnEvent::Allocated { .. } => client.turn.bind_channel(now(), client.peer),
                        other => {
                            let what = format!("{other:?}");
                            return Err(BenchError::Server { server: self.server.to_string(), what });
                        }
                    }
                }
                while let Some(bytes) = client.turn.poll_transmit() {
                    self.io.send(Route { socket: client.socket, to: self.server, source: None }, &bytes);
                }
                client.bound = client.turn.has_channel(client.peer);
            }
            self.io.turn(Some(Duration::from_millis(20)), &mut self.events).context("waiting for packets")?;
            for index in 0..self.io.received_len() {
                let Some(datagram) = self.io.received(index) else { break };
                if let (client, true) = client_of(datagram.token) {
                    self.clients[client].turn.handle_input(now(), datagram.payload);
                }
            }
        }
        Ok(())
    }

    /// Keeps `window` packets under way for `time`: from client to peer, back, and again.
    pub(crate) fn run(&mut self, time: Duration) -> Result<Tally, BenchError> {
        let begun = now();
        let end = begun + time;
        let mut tally = Tally::default();
        let mut heard = begun;
        loop {
            let time = now();
            if time >= end {
                tally.seconds = (time - begun).as_secs_f64();
                return Ok(tally);
            }
            if time - heard > STALL {
                tally.lost += self.in_flight as u64;
                self.in_flight = 0;
                heard = time;
            }
            self.fill_window();
            self.io.turn(Some(Duration::from_millis(20)), &mut self.events).context("waiting for packets")?;
            let before = tally.relayed;
            self.bounce(&mut tally);
            if tally.relayed > before {
                heard = now();
            }
        }
    }

    fn fill_window(&mut self) {
        let mut frame = vec![0; 4 + self.payload];
        while self.in_flight < self.window {
            let client = &self.clients[self.next % self.clients.len()];
            self.next += 1;
            self.in_flight += 1;
            let Some(number) = client.turn.channel(client.peer) else { continue };
            if let Some(header) = ChannelData::header(number, self.payload) {
                frame[..4].copy_from_slice(&header);
                self.io.send(Route { socket: client.socket, to: self.server, source: None }, &frame);
            }
        }
    }

    /// What reaches a peer goes back to the relay, what reaches a client goes out again.
    fn bounce(&mut self, tally: &mut Tally) {
        for index in 0..self.io.received_len() {
            let Some(datagram) = self.io.received(index) else { break };
            let (_, is_client) = client_of(datagram.token);
            if is_client && classify(datagram.payload) != Protocol::ChannelData {
                continue;
            }
            tally.relayed += 1;
            let to = if is_client { self.server } else { datagram.from };
            let route = Route { socket: datagram.socket, to, source: None };
            let all = 0..datagram.payload.len();
            self.io.forward(index, all, &[], 0, route);
        }
    }
}
