//! Our agent as a side.

use std::net::SocketAddr;
use std::time::Instant;

use thirl_ice_agent::agent::{Agent, AgentConfig, Role, SocketId, State};
use thirl_ice_agent::candidate::Candidate;

use super::agent::{Credentials, Progress, SansIo, Start};

struct Ours {
    agent: Agent,
    socket: SocketId,
}

pub(super) fn make(start: &Start) -> Box<dyn SansIo> {
    let role = if start.controlling { Role::Controlling } else { Role::Controlled };
    let mut agent = Agent::new(AgentConfig::new(role), start.seed);
    let socket = agent.add_local_socket(start.now, start.address, 255);
    agent.gather(start.now);
    Box::new(Ours { agent, socket })
}

impl SansIo for Ours {
    fn credentials(&self) -> Credentials {
        let ours = self.agent.local_credentials();
        Credentials { ufrag: ours.ufrag.clone(), pwd: ours.pwd.clone() }
    }

    fn set_remote_credentials(&mut self, now: Instant, remote: &Credentials) {
        let Credentials { ufrag, pwd } = remote.clone();
        let remote = thirl_ice_agent::agent::Credentials { ufrag, pwd };
        let set = self.agent.set_remote_credentials(now, remote);
        debug_assert!(set.is_ok(), "an agent's own credentials are good");
    }

    fn add_remote_candidate(&mut self, now: Instant, line: &str) {
        if let Ok(candidate) = Candidate::parse(line) {
            self.agent.add_remote_candidate(now, candidate);
        }
    }

    fn end_of_candidates(&mut self, now: Instant) {
        self.agent.set_remote_end_of_candidates(now);
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.agent.handle_datagram(now, self.socket, from, datagram);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.agent.handle_timeout(now);
    }

    fn poll_timeout(&mut self, _now: Instant) -> Option<Instant> {
        self.agent.poll_timeout()
    }

    fn poll_transmit(&mut self, _now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        while self.agent.poll_event().is_some() {}
        self.agent.poll_transmit().map(|transmit| (transmit.to, transmit.payload))
    }

    fn progress(&mut self) -> Progress {
        match self.agent.state() {
            State::Connected => Progress::Works,
            State::Completed => Progress::Nominated,
            _ => Progress::Checking,
        }
    }
}
