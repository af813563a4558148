//! Packets on their way round: from client to peer, back, and again.

use std::time::Duration;

use thirl_common::io::Route;
use thirl_common::wire::{Class, Message, Method, Protocol, classify, frame_len};

use super::{CLIENTS, Load, TURN};
use crate::{BenchError, Context, now};

/// When nothing has arrived for so long, what was under way is taken for lost.
const STALL: Duration = Duration::from_millis(200);

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

impl Load {
    /// Keeps `window` packets under way for `time`.
    pub(crate) fn run(&mut self, window: usize, time: Duration) -> Result<Tally, BenchError> {
        let begun = now();
        let end = begun + time;
        let mut tally = Tally::default();
        let (mut under_way, mut next, mut heard) = (0, 0, begun);
        loop {
            let time = now();
            if time >= end {
                tally.seconds = (time - begun).as_secs_f64();
                self.drain()?;
                return Ok(tally);
            }
            if time - heard > STALL {
                tally.lost += under_way as u64;
                under_way = 0;
                heard = time;
            }
            while under_way < window {
                for _ in 0..self.shape.burst {
                    self.send_frame(next);
                }
                under_way += self.shape.burst;
                next = (next + 1) % self.shape.count;
            }
            self.io.turn(Some(TURN), &mut self.events).context("waiting for packets")?;
            let relayed = self.bounce(true)?;
            if relayed > 0 {
                heard = now();
                tally.relayed += relayed;
            }
        }
    }

    /// Lets what is under way arrive, so that it does not count for the next measurement.
    fn drain(&mut self) -> Result<(), BenchError> {
        loop {
            self.io.turn(Some(TURN), &mut self.events).context("waiting for packets")?;
            if self.bounce(false)? == 0 {
                return Ok(());
            }
        }
    }

    /// What reaches a peer goes back to the relay, what reaches a client goes out again, if `on`. Returns how many packets
    /// came.
    fn bounce(&mut self, on: bool) -> Result<u64, BenchError> {
        let mut relayed = 0;
        for index in 0..self.io.received_len() {
            let Some(datagram) = self.io.received(index) else { break };
            if datagram.token == CLIENTS {
                let number = self.hosts.client_number(datagram.local);
                if let (Some(number), true) = (number, is_data(datagram.payload)) {
                    relayed += 1;
                    if on {
                        self.send_frame(number);
                    }
                }
            } else {
                relayed += 1;
                let route = Route { socket: datagram.socket, to: datagram.from, source: datagram.local };
                let all = 0..datagram.payload.len();
                if on {
                    self.io.forward(index, all, &[], 0, route);
                }
            }
        }
        for event in std::mem::take(&mut self.events) {
            let Ok(number) = usize::try_from(event.token) else { continue };
            let Some(stream) = self.streams.get_mut(number) else { continue };
            stream.flush().context("writing to a connection")?;
            stream.read().context("reading a connection")?;
            let mut frames = 0;
            while let Ok(Some(frame)) = stream.take_frame(frame_len) {
                frames += u64::from(is_data(frame));
            }
            relayed += frames;
            (0..frames).filter(|_| on).for_each(|_| self.send_frame(number));
        }
        Ok(relayed)
    }
}

fn is_data(bytes: &[u8]) -> bool {
    match classify(bytes) {
        Protocol::ChannelData => true,
        Protocol::Stun => Message::parse(bytes)
            .is_ok_and(|message| (message.class(), message.method()) == (Class::Indication, Method::DATA)),
        _ => false,
    }
}
