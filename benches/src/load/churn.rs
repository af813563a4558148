//! Packets at a steady rate, while allocations come and go: how long the packets take.
//!
//! In three threads, so that none's work is counted as another's delay: one sends packets, each with the time just before; one
//! takes them from the peers' socket, with the time at which the kernel put them there (SO_TIMESTAMPNS, socket(7)); one makes
//! allocations and gives them up.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns};
use nix::sys::time::TimeSpec;
use thirl_ice_agent::turn::TurnEvent;

use super::{CLIENTS, Client, Load, Shape};
use crate::network::Network;
use crate::{BenchError, Context, now};

/// What goes on at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Churn {
    /// Packets a second, from clients to peers.
    pub(crate) packets: u32,
    /// Allocations a second that are made, and as many that end.
    pub(crate) allocations: u32,
}

/// How long packets took from client to peer, and what became of those who came and went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    nanoseconds: Vec<u64>,
    /// Packets that did not arrive.
    pub(crate) lost: u64,
    pub(crate) guests: Guests,
}

/// Who came and went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Guests {
    /// Clients that had an allocation and a channel when they went.
    pub(crate) served: u64,
    /// Clients that did not.
    pub(crate) failed: u64,
}

impl Latencies {
    /// The time that so many of a thousand packets took at most, in µs.
    pub(crate) fn per_mille(&self, per_mille: usize) -> f64 {
        let last = self.nanoseconds.len().saturating_sub(1);
        self.nanoseconds
            .get(last * per_mille / 1000)
            .map_or(f64::NAN, |nanoseconds| *nanoseconds as f64 / 1e3)
    }

    /// How many packets arrived.
    pub(crate) fn arrived(&self) -> u64 {
        self.nanoseconds.len() as u64
    }
}

/// How long a guest has its allocation.
const STAY: Duration = Duration::from_millis(500);

/// So far behind, the load still makes up for what it has missed.
const LAG: Duration = Duration::from_micros(500);

/// When nothing has arrived for so long, nothing more will.
const QUIET: Duration = Duration::from_millis(200);

/// When the next of events comes that are `gap` apart.
struct Pace {
    next: Instant,
    gap: Duration,
}

impl Pace {
    fn new(rate: u32, from: Instant) -> Pace {
        Pace { next: from, gap: Duration::from_secs(1) / rate.max(1) }
    }

    /// Whether one is due, which it then is no more. What the load has missed while it got no time is left out: all at once,
    /// it would be another load.
    fn take(&mut self, now: Instant) -> bool {
        let due = self.next <= now;
        if due {
            self.next = (self.next + self.gap).max(now.checked_sub(LAG).unwrap_or(now));
        }
        due
    }
}

impl Load {
    /// Sends packets of all clients in turn for `time`. Meanwhile others get an allocation and a channel, and give them up
    /// half a second later. The peers' socket is of no use afterwards.
    pub(crate) fn churn(
        &mut self,
        churn: Churn,
        time: Duration,
        network: &Network,
    ) -> Result<Latencies, BenchError> {
        let socket = self.io.remove(self.sockets[1]).ok_or_else(|| gone("the peers' socket"))?;
        let shape = Shape { count: 0, ..self.shape };
        let (server, sent_all, ready) = (self.server, AtomicBool::new(false), Barrier::new(2));
        let (sent, mut latencies) = thread::scope(|scope| {
            let arrivals = scope.spawn(|| take_arrivals(socket.as_fd(), &sent_all));
            let guests = scope.spawn(|| {
                let load = Load::with_guests(network, shape, server, churn.allocations);
                ready.wait();
                load?.come_and_go(churn.allocations, time)
            });
            ready.wait();
            let sent = self.send_at(churn.packets, time);
            sent_all.store(true, Ordering::Release);
            let nanoseconds = arrivals.join().map_err(|_| gone("a thread of the load"))??;
            let guests = guests.join().map_err(|_| gone("a thread of the load"))??;
            Ok::<_, BenchError>((sent?, Latencies { nanoseconds, lost: 0, guests }))
        })?;
        latencies.lost = sent.saturating_sub(latencies.arrived());
        latencies.nanoseconds.sort_unstable();
        Ok(latencies)
    }

    /// Sends packets that say when they left. Returns how many.
    fn send_at(&mut self, rate: u32, time: Duration) -> Result<u64, BenchError> {
        let (begun, mut sent) = (now(), 0);
        let mut pace = Pace::new(rate, begun);
        while now() < begun + time {
            while pace.take(now()) {
                let number = sent % self.clients.len();
                if let Some(place) = self.clients[number].frame.get_mut(4..12) {
                    place.copy_from_slice(&wall_clock().to_be_bytes());
                }
                self.send_frame(number);
                self.io.flush();
                sent += 1;
            }
            let wait = pace.next.saturating_duration_since(now());
            self.io.turn(Some(wait), &mut self.events).context("waiting to send")?;
        }
        Ok(sent as u64)
    }

    /// Guests that may come at a rate. Each place is used again two seconds after its guest came.
    fn with_guests(
        network: &Network,
        shape: Shape,
        server: SocketAddr,
        rate: u32,
    ) -> Result<Load, BenchError> {
        let mut load = Load::new(network, shape)?;
        load.server = server;
        for number in 0..2 * rate as usize {
            load.add_client(number)?;
        }
        Ok(load)
    }

    fn come_and_go(&mut self, rate: u32, time: Duration) -> Result<Guests, BenchError> {
        let places = self.clients.len();
        let begun = now();
        let (mut coming, mut going) = (Pace::new(rate, begun), Pace::new(rate, begun + STAY));
        let (mut came, mut went) = (0, 0);
        let mut guests = Guests::default();
        loop {
            let time_now = now();
            let open = time_now < begun + time;
            if (!open && went == came) || places == 0 {
                return Ok(guests);
            }
            while open && coming.take(time_now) {
                let number = came % places;
                let local = self.hosts.client(number);
                self.clients[number] = self.new_client(number, local);
                self.clients[number].turn.start(time_now);
                self.transmit(number);
                came += 1;
            }
            while went < came && going.take(time_now) {
                let number = went % places;
                let Client { turn, peer, .. } = &mut self.clients[number];
                match turn.has_channel(*peer) {
                    true => guests.served += 1,
                    false => guests.failed += 1,
                }
                turn.close(time_now);
                self.transmit(number);
                went += 1;
            }
            let next = if open { coming.next.min(going.next) } else { going.next };
            let wait = next.saturating_duration_since(now());
            self.io.turn(Some(wait), &mut self.events).context("waiting for responses")?;
            self.take_answers();
        }
    }

    fn take_answers(&mut self) {
        for index in 0..self.io.received_len() {
            let Some(datagram) = self.io.received(index) else { break };
            let number = self.hosts.client_number(datagram.local).unwrap_or(usize::MAX);
            let Some(Client { turn, peer, .. }) =
                self.clients.get_mut(number).filter(|_| datagram.token == CLIENTS)
            else {
                continue;
            };
            turn.handle_input(now(), datagram.payload);
            while let Some(event) = turn.poll_event() {
                if let TurnEvent::Allocated { .. } = event {
                    turn.bind_channel(now(), *peer);
                }
            }
            self.transmit(number);
        }
    }
}

/// How long the packets took, in nanoseconds, that came to a socket until `sent_all` and nothing came any more.
fn take_arrivals(socket: BorrowedFd<'_>, sent_all: &AtomicBool) -> Result<Vec<u64>, BenchError> {
    let what = "the peers' socket";
    setsockopt(&socket, ReceiveTimestampns, &true).map_err(std::io::Error::from).context(what)?;
    let socket = UdpSocket::from(socket.try_clone_to_owned().context(what)?);
    socket.set_nonblocking(false).context(what)?;
    socket.set_read_timeout(Some(QUIET)).context(what)?;
    // Whom a packet was sent to stands beside the time.
    let (mut payload, mut control) = ([0; 2048], nix::cmsg_space!(TimeSpec, [u64; 8]));
    let mut taken = Vec::new();
    loop {
        let mut parts = [IoSliceMut::new(&mut payload)];
        let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty());
        let arrived = match received {
            Ok(message) => message.cmsgs().ok().and_then(|mut all| {
                all.find_map(|control| match control {
                    ControlMessageOwned::ScmTimestampns(time) => Some(nanoseconds(time)),
                    _ => None,
                })
            }),
            Err(nix::Error::EAGAIN) if sent_all.load(Ordering::Acquire) => return Ok(taken),
            Err(_) => continue,
        };
        // One without a time came before times were asked for.
        if let (Some(arrived), Some(left)) = (arrived, payload.first_chunk()) {
            taken.push(arrived.saturating_sub(u64::from_be_bytes(*left)));
        }
    }
}

fn nanoseconds(time: TimeSpec) -> u64 {
    u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX)
}

/// By the clock that the kernel's times are of.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn gone(what: &str) -> BenchError {
    BenchError::Figures(format!("{what} is gone"))
}
