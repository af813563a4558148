//! What lies between two agents on loopback: it passes on what the live candidates are sent, swallows what the dead ones
//! are, and takes note of both.
//!
//! Each agent is told an address of the tap's for the other, and hears from the other by that address. One socket on a
//! wildcard address is all dead candidates: every address of 127.0.0.0/8 leads to it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;

use crate::ice::observed::Observed;
use crate::ice::scene::{Dead, Scene};
use crate::{BenchError, Context, now};

/// How soon a thread notices that the tap is to end.
const PATIENCE: Duration = Duration::from_millis(20);

pub(super) struct Tap {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    /// What the first and the second agent are told of the other.
    told: [UdpSocket; 2],
    dead: UdpSocket,
    /// The ports of the agents themselves.
    agents: [AtomicU16; 2],
    observed: [Mutex<Observed>; 2],
    over: AtomicBool,
}

impl Tap {
    pub(super) fn new() -> Result<Tap, BenchError> {
        let bind = |ip: Ipv4Addr| {
            let socket = UdpSocket::bind((ip, 0)).context("binding the tap's sockets")?;
            socket.set_read_timeout(Some(PATIENCE)).context("setting a timeout")?;
            Ok(socket)
        };
        let shared = Arc::new(Shared {
            told: [bind(Ipv4Addr::LOCALHOST)?, bind(Ipv4Addr::LOCALHOST)?],
            dead: bind(Ipv4Addr::UNSPECIFIED)?,
            agents: [AtomicU16::new(0), AtomicU16::new(0)],
            observed: Default::default(),
            over: AtomicBool::new(false),
        });
        let spawn = |work: fn(&Shared)| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || work(&shared))
        };
        let threads = vec![spawn(|tap| tap.pass_on(0)), spawn(|tap| tap.pass_on(1)), spawn(Shared::swallow)];
        Ok(Tap { shared, threads })
    }

    /// What each of the agents, which have these ports, is told of the other.
    pub(super) fn tell(
        &self,
        ports: [u16; 2],
        scene: &Scene,
        rng: &mut StdRng,
    ) -> Result<[Vec<String>; 2], BenchError> {
        for (agent, port) in self.shared.agents.iter().zip(ports) {
            agent.store(port, Ordering::SeqCst);
        }
        let port = self.shared.dead.local_addr().context("asking for a socket's address")?.port();
        let mut told = [Vec::new(), Vec::new()];
        for (told, live) in told.iter_mut().zip(&self.shared.told) {
            let live = live.local_addr().context("asking for a socket's address")?;
            let candidates = scene.candidates(live, |n| dead(scene.dead, n, port), rng);
            told.extend(candidates.into_iter().map(|(_, line)| line));
        }
        Ok(told)
    }

    /// Ends, and says what the two agents sent.
    pub(super) fn finish(mut self) -> [Observed; 2] {
        self.stop();
        [0, 1].map(|side| std::mem::take(&mut *self.shared.observed(side)))
    }

    fn stop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop();
    }
}

fn dead(dead: Dead, n: u8, port: u16) -> SocketAddr {
    let ip = match dead {
        Dead::Subnet | Dead::Anywhere => Ipv4Addr::new(127, 0, 0, 100 + n),
        Dead::Private => Ipv4Addr::new(127, 16 + n, 0, 2),
    };
    SocketAddr::new(ip.into(), port)
}

impl Shared {
    /// What the agent `from` sends to the other's address goes there from its own.
    fn pass_on(&self, from: usize) {
        self.each_datagram(&self.told[from], |sender, datagram| {
            let to = self.agents[1 - from].load(Ordering::SeqCst);
            if sender.port() == self.agents[from].load(Ordering::SeqCst) {
                self.observed(from).note(now(), datagram);
                self.told[1 - from].send_to(datagram, (IpAddr::V4(Ipv4Addr::LOCALHOST), to)).ok();
            }
        });
    }

    fn swallow(&self) {
        self.each_datagram(&self.dead, |sender, datagram| {
            let from = self.agents.iter().position(|port| port.load(Ordering::SeqCst) == sender.port());
            if let Some(from) = from {
                self.observed(from).note(now(), datagram);
            }
        });
    }

    fn each_datagram(&self, socket: &UdpSocket, mut take: impl FnMut(SocketAddr, &[u8])) {
        let mut buffer = [0; 2048];
        while !self.over.load(Ordering::SeqCst) {
            if let Ok((len, sender)) = socket.recv_from(&mut buffer) {
                take(sender, &buffer[..len]);
            }
        }
    }

    fn observed(&self, side: usize) -> MutexGuard<'_, Observed> {
        self.observed[side].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
