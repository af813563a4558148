//! Packets at a steady rate, while allocations come and go: how long the packets take.

use std::time::{Duration, Instant};

use super::{CLIENTS, Load, PEERS};
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
    /// Allocations that were made.
    pub(crate) allocated: u64,
    /// Clients that got none in their time.
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

/// When the next of events comes that are `gap` apart.
struct Pace {
    next: Instant,
    gap: Duration,
}

impl Pace {
    fn new(rate: u32, from: Instant) -> Pace {
        Pace { next: from, gap: Duration::from_secs(1) / rate.max(1) }
    }

    /// Whether one is due, which it then is no more.
    fn take(&mut self, now: Instant) -> bool {
        let due = self.next <= now;
        if due {
            self.next += self.gap;
        }
        due
    }
}

impl Load {
    /// Sends packets of all clients in turn for `time`. Meanwhile others get an allocation, and give it up half a second
    /// later.
    pub(crate) fn churn(&mut self, churn: Churn, time: Duration) -> Result<Latencies, BenchError> {
        let standing = self.shape.count;
        // Each is used again two seconds after it came.
        let guests = 2 * churn.allocations as usize;
        for number in standing..standing + guests {
            self.add_client(number)?;
        }
        let begun = now();
        let (end, stay) = (begun + time, Duration::from_millis(500));
        let mut packets = Pace::new(churn.packets, begun);
        let mut coming = Pace::new(churn.allocations, begun);
        let mut going = Pace::new(churn.allocations, begun + stay);
        let (mut sent, mut came, mut went) = (0, 0, 0);
        let mut latencies = Latencies::default();
        loop {
            let time = now();
            let sending = time < end;
            if time > end + stay {
                latencies.lost = (sent as u64).saturating_sub(latencies.arrived());
                latencies.nanoseconds.sort_unstable();
                return Ok(latencies);
            }
            while sending && packets.take(time) {
                self.send_stamped(sent % standing, begun);
                sent += 1;
            }
            while sending && coming.take(time) {
                let number = standing + came % guests;
                let local = self.hosts.client(number);
                self.clients[number] = self.new_client(number, local);
                self.clients[number].turn.start(time);
                self.transmit(number);
                came += 1;
            }
            while went < came && going.take(time) {
                let number = standing + went % guests;
                match self.clients[number].turn.is_allocated() {
                    true => latencies.allocated += 1,
                    false => latencies.failed += 1,
                }
                self.clients[number].turn.close(time);
                self.transmit(number);
                went += 1;
            }
            let next = if sending { packets.next.min(coming.next).min(going.next) } else { end + stay };
            let wait = next.saturating_duration_since(now()).min(Duration::from_millis(20));
            self.io.turn(Some(wait), &mut self.events).context("waiting for packets")?;
            self.take_arrivals(begun, &mut latencies);
        }
    }

    /// A packet that says when it left.
    fn send_stamped(&mut self, number: usize, begun: Instant) {
        let stamp = nanoseconds_since(begun);
        if let Some(place) = self.clients[number].frame.get_mut(4..12) {
            place.copy_from_slice(&stamp.to_be_bytes());
        }
        self.send_frame(number);
    }

    fn take_arrivals(&mut self, begun: Instant, latencies: &mut Latencies) {
        let arrived = nanoseconds_since(begun);
        for index in 0..self.io.received_len() {
            let Some(datagram) = self.io.received(index) else { break };
            match (datagram.token, self.hosts.client_number(datagram.local)) {
                (PEERS, _) => {
                    if let Some(stamp) = datagram.payload.first_chunk() {
                        latencies.nanoseconds.push(arrived.saturating_sub(u64::from_be_bytes(*stamp)));
                    }
                }
                (CLIENTS, Some(number)) => {
                    if let Some(client) = self.clients.get_mut(number) {
                        client.turn.handle_input(now(), datagram.payload);
                        while client.turn.poll_event().is_some() {}
                        self.transmit(number);
                    }
                }
                _ => {}
            }
        }
    }
}

fn nanoseconds_since(begun: Instant) -> u64 {
    u64::try_from((now() - begun).as_nanos()).unwrap_or(u64::MAX)
}
