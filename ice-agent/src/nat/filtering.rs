//! The filtering test (RFC 5780, section 4.4): who may answer through a mapping that sent to one address only.
//!
//! It goes before the mapping test, whose requests open the filters that are looked for, and uses a fresh port for each
//! question (erratum 7971). Each question is asked from two fresh ports, one after the other, which must agree: a port may
//! have a mapping from before, and a line may fail for a second. Silence counts only if the address that kept silent
//! answers when it is asked itself, if the server then answers from there as soon as the filter is open, and if so many
//! losses in a row are not to be expected on this line.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use thirl_common::net::Transport;
use thirl_common::wire::ChangeRequest;

use super::behaviour::{Confidence, Filtering};
use super::findings::{Findings, Observation};
use super::probe::{
    Loss, Outcome, ProbeId, Prober, Question, Response, SocketId, TOLERATED_ERROR, TRANSMISSIONS,
};
use super::servers::ServerFault;

/// More servers tell nothing new.
const MAX_SERVERS: usize = 2;

/// From so many fresh ports each question is asked.
const PORTS: usize = 2;

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
    /// Test II: from the other address and port.
    elsewhere: Change,
    /// Test III: from the other port.
    other_port: Change,
}

/// One CHANGE-REQUEST.
#[derive(Debug)]
struct Change {
    server: SocketAddr,
    change: ChangeRequest,
    answer_from: SocketAddr,
    current: Option<Trial>,
    results: Vec<Result<Seen, String>>,
}

/// What one fresh port saw.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    CameIn,
    /// Nothing came; whether it did as soon as the filter had been opened. `None` if that cannot be done, since the
    /// mapping depends on the destination.
    KeptOut {
        control: Option<bool>,
    },
}

/// The questions from one port.
#[derive(Debug)]
struct Trial {
    socket: SocketId,
    probe: ProbeId,
    stage: Stage,
    /// How the server sees the port.
    reflexive: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// The server is asked what it sees.
    Opening,
    /// It is asked to answer from elsewhere.
    Changing,
    /// Nothing came: the address that kept silent is asked itself, which opens the filter for it.
    OpeningFilter,
    /// The server is asked to answer from there once more.
    Control,
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
        let mut begin = |(server, other): (SocketAddr, SocketAddr)| {
            let mut change = |ip, answer_from| {
                let change = ChangeRequest { ip, port: true };
                Change::begin(now, prober, server, answer_from, change)
            };
            ServerTest {
                server,
                elsewhere: change(true, other),
                other_port: change(false, SocketAddr::new(server.ip(), other.port())),
            }
        };
        FilteringTest { servers: servers.into_iter().take(MAX_SERVERS).map(&mut begin).collect() }
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
            for change in [&mut test.elsewhere, &mut test.other_port] {
                change.handle(now, prober, found, probe, outcome);
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        let mut changes = self.servers.iter().flat_map(|test| [&test.elsewhere, &test.other_port]);
        changes.all(|change| change.current.is_none())
    }

    pub(super) fn conclude(&self, found: &Findings, loss: Loss) -> Verdict {
        let believed = self.servers.iter().filter(|test| found.sound.iter().any(|s| s.from == test.server));
        let results: Vec<_> = believed.map(|test| (test.server, test.conclude(loss))).collect();
        let measured = results.iter().filter_map(|(server, result)| Some((*server, *result.as_ref().ok()?)));
        let measured: Vec<_> = measured.collect();
        // An answer that came in is a proof. That another server's did not, may be due to that server.
        let Some(&(_, (filtering, confidence))) =
            measured.iter().min_by_key(|(_, (filtering, _))| *filtering)
        else {
            let reasons: Vec<_> = results
                .iter()
                .filter_map(|(server, result)| Some(format!("{server}: {}", result.as_ref().err()?)))
                .collect();
            let none = "not measurable: no server here has a second address to answer from (RFC 5780)";
            let reason = if reasons.is_empty() { none.to_owned() } else { reasons.join("; ") };
            return (None, None, reason);
        };
        let reason = match filtering {
            Filtering::EndpointIndependent => "an answer from an address never sent to came in",
            Filtering::AddressDependent => {
                "an answer from another port came in, one from another address did not"
            }
            Filtering::AddressAndPortDependent => "answers came in only from where they had been asked for",
        };
        if let Some((server, _)) = measured.iter().find(|(_, (other, _))| *other != filtering) {
            let reason = format!("{reason}; that of {server} did not");
            return (Some(filtering), Some(confidence.min(Confidence::Medium)), reason);
        }
        let confidence = if measured.len() > 1 { Confidence::High } else { confidence };
        (Some(filtering), Some(confidence), reason.to_owned())
    }
}

impl ServerTest {
    fn conclude(&self, loss: Loss) -> Result<(Filtering, Confidence), String> {
        let (elsewhere, other_port) = (self.elsewhere.seen()?, self.other_port.seen()?);
        let (filtering, silence) = match (elsewhere, other_port) {
            (Seen::CameIn, Seen::CameIn) => return Ok((Filtering::EndpointIndependent, Confidence::High)),
            (Seen::CameIn, Seen::KeptOut { .. }) => {
                return Err(
                    "an answer from another address came in, one from another port did not".to_owned()
                );
            }
            (silence, Seen::CameIn) => (Filtering::AddressDependent, vec![silence]),
            (one, other) => (Filtering::AddressAndPortDependent, vec![one, other]),
        };
        if loss.all_lost(TRANSMISSIONS * 2) > TOLERATED_ERROR {
            return Err("too many packets are lost to tell a filter from loss".to_owned());
        }
        let controlled = silence.iter().all(|seen| *seen == Seen::KeptOut { control: Some(true) });
        let confidence = match (controlled, loss.seen()) {
            (true, false) => Confidence::High,
            (true, true) | (false, false) => Confidence::Medium,
            (false, true) => Confidence::Low,
        };
        Ok((filtering, confidence))
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
        let current = Some(Trial::begin(now, prober, server));
        Change { server, change, answer_from, current, results: Vec::new() }
    }

    fn handle(
        &mut self,
        now: Instant,
        prober: &mut Prober,
        found: &mut Findings,
        probe: ProbeId,
        outcome: &Outcome,
    ) {
        let Some(trial) = self.current.as_mut().filter(|trial| trial.probe == probe) else { return };
        let next = match (trial.stage, outcome) {
            (Stage::Opening, Outcome::Answered(response)) => {
                found.observe(Observation::of(prober.local(trial.socket), response));
                trial.reflexive = Some(response.reflexive);
                Ok(Stage::Changing)
            }
            (Stage::Opening, _) => Err(Err("it stopped answering".to_owned())),
            (Stage::Changing, Outcome::Answered(_)) => Err(Ok(Seen::CameIn)),
            (Stage::Changing, Outcome::Silent { .. }) => Ok(Stage::OpeningFilter),
            (Stage::OpeningFilter, Outcome::Answered(response)) => match trial.is_seen_alike(response) {
                true => Ok(Stage::Control),
                false => Err(Ok(Seen::KeptOut { control: None })),
            },
            (Stage::OpeningFilter, _) => {
                let from = self.answer_from;
                Err(Err(format!("{from}, which it calls its own, does not answer when asked itself")))
            }
            (Stage::Control, Outcome::Answered(_)) => Err(Ok(Seen::KeptOut { control: Some(true) })),
            (Stage::Control, Outcome::Silent { .. }) => Err(Ok(Seen::KeptOut { control: Some(false) })),
            (Stage::Changing | Stage::Control, outcome) => Err(Err(self.complaint(found, outcome))),
        };
        match next {
            Ok(stage) => self.ask(now, prober, stage),
            Err(result) => self.end(now, prober, result),
        }
    }

    /// Goes on to the next question from the same port.
    fn ask(&mut self, now: Instant, prober: &mut Prober, stage: Stage) {
        let Some(trial) = &mut self.current else { return };
        let question = match stage {
            Stage::Opening => Question::plain(self.server),
            Stage::OpeningFilter => Question::plain(self.answer_from),
            Stage::Changing | Stage::Control => Question {
                change: self.change,
                answer_from: self.answer_from,
                ..Question::plain(self.server)
            },
        };
        trial.stage = stage;
        trial.probe = prober.ask(now, trial.socket, question);
    }

    /// Goes on to the next port.
    fn end(&mut self, now: Instant, prober: &mut Prober, result: Result<Seen, String>) {
        if let Some(trial) = self.current.take() {
            prober.close(trial.socket);
        }
        let usable = result.is_ok();
        self.results.push(result);
        if usable && self.results.len() < PORTS {
            self.current = Some(Trial::begin(now, prober, self.server));
        }
    }

    /// What is wrong with the answer to a CHANGE-REQUEST.
    fn complaint(&self, found: &mut Findings, outcome: &Outcome) -> String {
        match outcome {
            Outcome::Refused(code) => return format!("it refuses CHANGE-REQUEST with error {code}"),
            Outcome::WrongSource(from) if *from == self.server => {
                found.blame(self.server, ServerFault::IgnoresChangeRequest);
            }
            Outcome::WrongSource(from) => found.blame(self.server, ServerFault::WrongSource { from: *from }),
            _ => {}
        }
        "it answers CHANGE-REQUEST wrongly".to_owned()
    }

    /// What all ports saw, or why that cannot be told.
    fn seen(&self) -> Result<Seen, String> {
        let mut seen = None;
        for result in &self.results {
            match (seen, result.clone()?) {
                (_, Seen::KeptOut { control: Some(false) }) => {
                    let from = self.answer_from;
                    return Err(format!(
                        "it does not answer from {from}, even where no filter is in the way"
                    ));
                }
                (None, one) => seen = Some(one),
                (Some(Seen::CameIn), Seen::CameIn)
                | (Some(Seen::KeptOut { .. }), Seen::KeptOut { control: Some(true) }) => {}
                (Some(Seen::KeptOut { .. }), uncontrolled @ Seen::KeptOut { .. }) => {
                    seen = Some(uncontrolled);
                }
                _ => return Err("an answer came in to one of two fresh ports only".to_owned()),
            }
        }
        seen.filter(|_| self.results.len() == PORTS).ok_or_else(|| "it was not asked".to_owned())
    }
}

impl Trial {
    fn begin(now: Instant, prober: &mut Prober, server: SocketAddr) -> Trial {
        let socket = prober.open(Transport::Udp);
        let probe = prober.ask(now, socket, Question::plain(server));
        Trial { socket, probe, stage: Stage::Opening, reflexive: None }
    }

    /// Whether the other address sees the same port as the server does: then one filter is before both.
    fn is_seen_alike(&self, response: &Response) -> bool {
        self.reflexive == Some(response.reflexive)
    }
}
