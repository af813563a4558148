//! The filtering test (RFC 5780, section 4.4): who may answer through a mapping that sent to one address only.
//!
//! It goes before the mapping test, whose requests open the filters that are looked for, and uses a fresh port for each
//! question (erratum 7971). Silence counts only if the address that kept silent answers when it is asked itself, and if
//! so many losses in a row are not to be expected on this line.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use thirl_common::net::Transport;
use thirl_common::wire::ChangeRequest;

use super::behaviour::{Confidence, Filtering};
use super::findings::{Findings, Observation};
use super::probe::{Loss, Outcome, ProbeId, Prober, Question, SocketId, TRANSMISSIONS};
use super::servers::ServerFault;

/// More servers tell nothing new.
const MAX_SERVERS: usize = 2;

/// Silence that chance explains more often than this is none.
const TOLERATED_ERROR: f64 = 1e-3;

/// The behaviour, how sure it is, and why.
pub(super) type Verdict = (Option<Filtering>, Option<Confidence>, String);

/// Asks servers to answer from elsewhere.
#[derive(Debug)]
pub(super) struct FilteringTest {
    servers: Vec<ServerTest>,
}

#[derive(Debug)]
struct ServerTest {
    server: SocketAddr,
    other: SocketAddr,
    /// Test II: from the other address and port.
    elsewhere: Change,
    /// Test III: from the other port.
    other_port: Change,
}

/// One CHANGE-REQUEST, from a fresh socket on which the server has answered just before.
#[derive(Debug)]
struct Change {
    change: ChangeRequest,
    answer_from: SocketAddr,
    socket: SocketId,
    probe: ProbeId,
    asked: bool,
    outcome: Option<Outcome>,
}

impl FilteringTest {
    pub(super) fn begin(now: Instant, prober: &mut Prober, found: &Findings) -> FilteringTest {
        let outermost = found.outermost();
        // Of two names for one server, the second tells nothing new.
        let mut named = BTreeSet::new();
        let mut servers: Vec<_> = found
            .with_other_address()
            .filter(|(server, other)| {
                let new = !named.contains(&server.ip());
                named.extend([server.ip(), other.ip()]);
                new
            })
            .collect();
        servers.sort_by_key(|(server, _)| Some(*server) != outermost);
        let begin = |(server, other): (SocketAddr, SocketAddr)| ServerTest {
            server,
            other,
            elsewhere: Change::begin(now, prober, server, other, ChangeRequest { ip: true, port: true }),
            other_port: Change::begin(
                now,
                prober,
                server,
                SocketAddr::new(server.ip(), other.port()),
                ChangeRequest { ip: false, port: true },
            ),
        };
        FilteringTest { servers: servers.into_iter().take(MAX_SERVERS).map(begin).collect() }
    }

    pub(super) fn handle(
        &mut self,
        now: Instant,
        prober: &mut Prober,
        found: &mut Findings,
        probe: ProbeId,
        outcome: &Outcome,
    ) {
        for test in &mut self.servers {
            let server = test.server;
            for change in [&mut test.elsewhere, &mut test.other_port] {
                if change.probe == probe && change.outcome.is_none() {
                    change.handle(now, prober, found, server, outcome);
                }
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.servers.iter().all(|test| test.elsewhere.outcome.is_some() && test.other_port.outcome.is_some())
    }

    /// Concludes, when it is known which addresses `answer` if they are asked themselves.
    pub(super) fn conclude(&self, found: &Findings, answer: &BTreeSet<SocketAddr>, loss: Loss) -> Verdict {
        let believed = self.servers.iter().filter(|test| found.sound.iter().any(|s| s.from == test.server));
        let results: Vec<_> = believed.map(|test| (test.server, test.conclude(answer, loss))).collect();
        let measured: Vec<_> =
            results.iter().filter_map(|(server, result)| Some((*server, *result.as_ref().ok()?))).collect();
        let Some(&(_, (filtering, confidence))) = measured.first() else {
            let reasons: Vec<_> = results
                .iter()
                .filter_map(|(server, result)| Some(format!("{server}: {}", result.as_ref().err()?)))
                .collect();
            let none = "not measurable: no server here has a second address to answer from (RFC 5780)";
            let reason = if reasons.is_empty() { none.to_owned() } else { reasons.join("; ") };
            return (None, None, reason);
        };
        if let Some((server, (other, _))) = measured.iter().find(|(_, (other, _))| *other != filtering) {
            let reason = format!(
                "not measurable: servers disagree, {} says {filtering}, {server} says {other}",
                measured[0].0
            );
            return (None, None, reason);
        }
        let reason = match filtering {
            Filtering::EndpointIndependent => "an answer from an address never sent to came in",
            Filtering::AddressDependent => {
                "an answer from another port came in, one from another address did not"
            }
            Filtering::AddressAndPortDependent => "answers came in only from where they had been asked for",
        };
        let confidence = if measured.len() > 1 { Confidence::High } else { confidence };
        (Some(filtering), Some(confidence), reason.to_owned())
    }
}

impl ServerTest {
    fn conclude(&self, answer: &BTreeSet<SocketAddr>, loss: Loss) -> Result<(Filtering, Confidence), String> {
        let [elsewhere, other_port] = [self.elsewhere.came_in()?, self.other_port.came_in()?];
        if elsewhere {
            return Ok((Filtering::EndpointIndependent, Confidence::High));
        }
        let has_to_answer = if other_port {
            vec![self.other]
        } else {
            vec![self.other, SocketAddr::new(self.server.ip(), self.other.port())]
        };
        if let Some(silent) = has_to_answer.iter().find(|address| !answer.contains(address)) {
            return Err(format!("{silent}, which it calls its own, does not answer when asked itself"));
        }
        if loss.all_lost(TRANSMISSIONS) > TOLERATED_ERROR {
            return Err("too many packets are lost to tell a filter from loss".to_owned());
        }
        let confidence = if loss.seen() { Confidence::Low } else { Confidence::Medium };
        match other_port {
            true => Ok((Filtering::AddressDependent, confidence)),
            false => Ok((Filtering::AddressAndPortDependent, confidence)),
        }
    }
}

impl Change {
    fn begin(
        now: Instant,
        prober: &mut Prober,
        server: SocketAddr,
        answer_from: SocketAddr,
        change: ChangeRequest,
    ) -> Change {
        let socket = prober.open(Transport::Udp);
        let probe = prober.ask(now, socket, Question::plain(server));
        Change { change, answer_from, socket, probe, asked: false, outcome: None }
    }

    fn handle(
        &mut self,
        now: Instant,
        prober: &mut Prober,
        found: &mut Findings,
        server: SocketAddr,
        outcome: &Outcome,
    ) {
        match outcome {
            Outcome::Answered(response) if !self.asked => {
                found.observe(Observation::of(prober.local(self.socket), response));
                self.asked = true;
                let question = Question {
                    change: self.change,
                    answer_from: self.answer_from,
                    ..Question::plain(server)
                };
                self.probe = prober.ask(now, self.socket, question);
                return;
            }
            Outcome::WrongSource(from) if *from == server => {
                found.blame(server, ServerFault::IgnoresChangeRequest);
            }
            Outcome::WrongSource(from) => found.blame(server, ServerFault::WrongSource { from: *from }),
            _ => {}
        }
        prober.close(self.socket);
        self.outcome = Some(outcome.clone());
    }

    /// Whether the answer came in, or why that cannot be told.
    fn came_in(&self) -> Result<bool, String> {
        match &self.outcome {
            _ if !self.asked => Err("it stopped answering".to_owned()),
            Some(Outcome::Answered(_)) => Ok(true),
            Some(Outcome::Silent { .. }) => Ok(false),
            Some(Outcome::Refused(code)) => Err(format!("it refuses CHANGE-REQUEST with error {code}")),
            _ => Err("it answers CHANGE-REQUEST wrongly".to_owned()),
        }
    }
}
