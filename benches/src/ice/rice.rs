//! `rice-proto`, the ICE agent of librice, as a side. It sends data over a selected pair only.

use std::net::SocketAddr;
use std::time::Instant;

use rice_proto::agent::{Agent, AgentPoll};
use rice_proto::candidate::{Candidate, CandidateType, TransportType};
use rice_proto::component::RTP;
use stun_proto::agent::Transmit;

use super::agent::{Credentials, Progress, SansIo, Start};

struct Rice {
    agent: Agent,
    stream: usize,
    credentials: Credentials,
    address: SocketAddr,
    selected: bool,
    /// Its clock begins with it.
    born: Instant,
    next: Option<Instant>,
}

pub(super) fn make(start: &Start) -> Box<dyn SansIo> {
    let mut agent = Agent::builder().trickle_ice(start.trickle).controlling(start.controlling).build();
    let stream = agent.add_stream();
    let credentials = Credentials { ufrag: rice_proto::random_string(8), pwd: rice_proto::random_string(24) };
    if let Some(mut stream) = agent.mut_stream(stream) {
        stream.set_local_credentials(theirs(&credentials));
        if stream.add_component().is_ok() {
            let host = Candidate::builder(RTP, CandidateType::Host, TransportType::Udp, "1", start.address);
            stream.add_local_candidate(host.build());
            stream.end_of_local_candidates();
        }
    }
    let (address, born) = (start.address, start.now);
    Box::new(Rice { agent, stream, credentials, address, selected: false, born, next: None })
}

fn theirs(credentials: &Credentials) -> rice_proto::stream::Credentials {
    let Credentials { ufrag, pwd } = credentials.clone();
    rice_proto::stream::Credentials::new(ufrag, pwd)
}

impl Rice {
    fn clock(&self, now: Instant) -> stun_proto::Instant {
        stun_proto::Instant::ZERO + now.saturating_duration_since(self.born)
    }

    /// Lets it do what is due, and notes when it wants to be asked again.
    fn poll(&mut self, now: Instant) {
        loop {
            match self.agent.poll(self.clock(now)) {
                AgentPoll::WaitUntil(at) => {
                    self.next = Some(self.born + at.saturating_duration_since(stun_proto::Instant::ZERO));
                    return;
                }
                AgentPoll::Closed => {
                    self.next = None;
                    return;
                }
                AgentPoll::SelectedPair(_) => self.selected = true,
                _ => {}
            }
        }
    }
}

impl SansIo for Rice {
    fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    fn set_remote_credentials(&mut self, _now: Instant, remote: &Credentials) {
        if let Some(mut stream) = self.agent.mut_stream(self.stream) {
            stream.set_remote_credentials(theirs(remote));
        }
    }

    fn add_remote_candidate(&mut self, _now: Instant, line: &str) {
        let Ok(candidate) = format!("a={line}").parse() else { return };
        if let Some(mut stream) = self.agent.mut_stream(self.stream) {
            stream.add_remote_candidate(candidate);
        }
    }

    fn end_of_candidates(&mut self, _now: Instant) {
        if let Some(mut stream) = self.agent.mut_stream(self.stream) {
            stream.end_of_remote_candidates();
        }
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let clock = self.clock(now);
        if let Some(mut stream) = self.agent.mut_stream(self.stream) {
            let transmit = Transmit::new(datagram, TransportType::Udp, from, self.address);
            stream.handle_incoming_data(RTP, transmit, clock);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.poll(now);
    }

    fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        self.poll(now);
        self.next
    }

    fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        let clock = self.clock(now);
        self.agent.poll_transmit(clock).map(|sent| (sent.transmit.to, sent.transmit.data.to_vec()))
    }

    fn progress(&mut self) -> Progress {
        if self.selected { Progress::Nominated } else { Progress::Checking }
    }
}
