//! `is`, the ICE agent of str0m, as a side. What it calls nominated is all that it sends data over.

use std::net::SocketAddr;
use std::time::Instant;

use is::stun::{StunMessage, StunPacket};
use is::{Candidate, IceAgent, IceAgentEvent, IceCreds, Protocol};

use super::agent::{Credentials, Progress, SansIo, Start};

struct Is {
    agent: IceAgent,
    address: SocketAddr,
    nominated: bool,
}

pub(super) fn make(start: &Start) -> Box<dyn SansIo> {
    let mut agent = IceAgent::new(IceCreds::new());
    agent.set_controlling(start.controlling);
    if let Ok(candidate) = Candidate::host(start.address, "udp") {
        agent.add_local_candidate(candidate);
    }
    agent.handle_timeout(start.now);
    Box::new(Is { agent, address: start.address, nominated: false })
}

impl SansIo for Is {
    fn credentials(&self) -> Credentials {
        let IceCreds { ufrag, pass } = self.agent.local_credentials().clone();
        Credentials { ufrag, pwd: pass }
    }

    fn set_remote_credentials(&mut self, _now: Instant, remote: &Credentials) {
        let Credentials { ufrag, pwd } = remote.clone();
        self.agent.set_remote_credentials(IceCreds { ufrag, pass: pwd });
    }

    fn add_remote_candidate(&mut self, _now: Instant, line: &str) {
        if let Ok(candidate) = Candidate::from_sdp_string(line) {
            self.agent.add_remote_candidate(candidate);
        }
    }

    fn end_of_candidates(&mut self, _now: Instant) {}

    fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let Ok(message) = StunMessage::parse(datagram) else { return };
        let packet = StunPacket { proto: Protocol::Udp, source: from, destination: self.address, message };
        self.agent.handle_packet(now, packet);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.agent.handle_timeout(now);
    }

    fn poll_timeout(&mut self, _now: Instant) -> Option<Instant> {
        self.agent.poll_timeout()
    }

    fn poll_transmit(&mut self, _now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        self.agent.poll_transmit().map(|transmit| (transmit.destination, transmit.contents.into()))
    }

    fn progress(&mut self) -> Progress {
        while let Some(event) = self.agent.poll_event() {
            self.nominated |= matches!(event, IceAgentEvent::NominatedSend { .. });
        }
        if self.nominated { Progress::Nominated } else { Progress::Checking }
    }
}
