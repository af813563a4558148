//! How clients get their allocations and channels, and give them up.

use std::net::SocketAddr;
use std::time::Duration;

use thirl_common::wire::frame_len;
use thirl_ice_agent::turn::TurnEvent;

use super::{CLIENTS, Client, Load, TURN};
use crate::{BenchError, Context, now};

/// A step of all clients is given up after so long.
const LIMIT: Duration = Duration::from_secs(60);

/// So many clients take a step at a time, so that no buffer overflows.
const AT_ONCE: usize = 32;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Allocate,
    Bind,
    Release,
}

impl Load {
    /// Gives each client an allocation, and a channel to its peer.
    pub(crate) fn set_up(&mut self, server: SocketAddr) -> Result<(), BenchError> {
        self.allocate(server)?;
        self.bind()
    }

    /// Gives each client an allocation.
    pub(crate) fn allocate(&mut self, server: SocketAddr) -> Result<(), BenchError> {
        self.server = server;
        for number in 0..self.shape.count {
            self.add_client(number)?;
        }
        self.take(Step::Allocate)
    }

    /// Gives each client a channel to its peer, or a permission if it sends indications.
    pub(crate) fn bind(&mut self) -> Result<(), BenchError> {
        self.take(Step::Bind)?;
        (0..self.shape.count).for_each(|number| self.make_frame(number));
        Ok(())
    }

    /// Ends all allocations.
    pub(crate) fn release(&mut self) -> Result<(), BenchError> {
        self.take(Step::Release)
    }

    /// Lets all clients take a step, some at a time.
    fn take(&mut self, step: Step) -> Result<(), BenchError> {
        if self.shape.bare {
            return Ok(());
        }
        self.clients.iter_mut().for_each(|client| client.ready = false);
        let count = self.clients.len();
        let (mut begun, mut done) = (0, 0);
        let deadline = now() + LIMIT;
        while done < count {
            while begun < count.min(done + AT_ONCE) {
                self.begin(begun, step);
                begun += 1;
            }
            let before = done;
            self.io.turn(Some(TURN), &mut self.events).context("waiting for responses")?;
            done += self.take_responses(step)?;
            if done == before {
                self.retransmit(begun);
            }
            if now() > deadline {
                let what = format!("{} of {count} clients could not {step:?}", count - done);
                return Err(BenchError::Server { server: self.server.to_string(), what });
            }
        }
        Ok(())
    }

    fn begin(&mut self, number: usize, step: Step) {
        let Client { turn, peer, .. } = &mut self.clients[number];
        match step {
            Step::Allocate => turn.start(now()),
            Step::Bind if self.shape.indications => turn.allow(now(), peer.ip()),
            Step::Bind => turn.bind_channel(now(), *peer),
            Step::Release => turn.close(now()),
        }
        self.transmit(number);
    }

    pub(super) fn transmit(&mut self, number: usize) {
        while let Some(bytes) = self.clients[number].turn.poll_transmit() {
            self.send(number, &bytes);
        }
    }

    fn retransmit(&mut self, begun: usize) {
        for number in 0..begun {
            if !self.clients[number].ready {
                self.clients[number].turn.handle_timeout(now());
                self.transmit(number);
            }
        }
    }

    /// How many clients completed the step.
    fn take_responses(&mut self, step: Step) -> Result<usize, BenchError> {
        let mut done = 0;
        for index in 0..self.io.received_len() {
            let Some(datagram) = self.io.received(index) else { break };
            let number = self.hosts.client_number(datagram.local);
            if let (CLIENTS, Some(client)) =
                (datagram.token, number.and_then(|number| self.clients.get_mut(number)))
            {
                client.turn.handle_input(now(), datagram.payload);
                done += self.look_at(number.unwrap_or_default(), step)?;
            }
        }
        for event in std::mem::take(&mut self.events) {
            let Ok(number) = usize::try_from(event.token) else { continue };
            let (Some(stream), Some(client)) = (self.streams.get_mut(number), self.clients.get_mut(number))
            else {
                continue;
            };
            stream.read().context("reading a connection")?;
            while let Ok(Some(frame)) = stream.take_frame(frame_len) {
                client.turn.handle_input(now(), frame);
            }
            done += self.look_at(number, step)?;
        }
        Ok(done)
    }

    /// 1 if the client has completed the step now.
    fn look_at(&mut self, number: usize, step: Step) -> Result<usize, BenchError> {
        let Client { turn, peer, ready, .. } = &mut self.clients[number];
        let mut relayed = None;
        while let Some(event) = turn.poll_event() {
            match event {
                TurnEvent::Allocated { relayed: addr, .. } => relayed = Some(addr),
                other => {
                    let what = format!("{other:?}");
                    return Err(BenchError::Server { server: self.server.to_string(), what });
                }
            }
        }
        let completed = match step {
            Step::Allocate => turn.is_allocated(),
            Step::Bind if self.shape.indications => turn.is_allowed(peer.ip()),
            Step::Bind => turn.has_channel(*peer),
            Step::Release => turn.is_over(),
        };
        let first = completed && !std::mem::replace(ready, completed);
        if let (true, Some(relayed)) = (self.shape.pairs, relayed)
            && let Some(partner) = self.clients.get_mut(number ^ 1)
        {
            partner.peer = relayed;
        }
        self.transmit(number);
        Ok(usize::from(first))
    }
}
