//! The mapping test (RFC 5780, section 4.3): one socket, several destinations. It is the same over TCP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use thirl_common::net::Transport;

use super::behaviour::{Confidence, Mapping};
use super::findings::{Answer, Findings, Observation, beyond_all_nats};
use super::probe::{Outcome, ProbeId, Prober, Question, Response, SocketId};
use super::servers::{ServerFault, fault};

/// More destinations are not asked, whatever servers claim of their other addresses.
const MAX_DESTINATIONS: usize = 16;

/// Asks servers what they see of one socket, and servers of RFC 5780 on their other address and port too. In the end
/// all are asked again: a mapping that changes meanwhile tells nothing.
#[derive(Debug)]
pub(super) struct MappingTest {
    socket: SocketId,
    transport: Transport,
    /// Each destination with the server that it belongs to.
    asked: BTreeMap<ProbeId, (SocketAddr, SocketAddr)>,
    destinations: BTreeSet<SocketAddr>,
    observed: bool,
    /// Each answer with the server that it belongs to.
    answers: Vec<(SocketAddr, Answer)>,
    again: BTreeMap<ProbeId, Again>,
    /// What somebody saw from then on, if the mapping has changed.
    changed: Option<Answer>,
    pub(super) local: Option<SocketAddr>,
    pub(super) silent: Vec<SocketAddr>,
    /// Who gave no answer that can be used, and why.
    pub(super) failed: Vec<(SocketAddr, String)>,
    /// Whether anybody was there who gave no such answer.
    pub(super) accepted: bool,
}

/// A destination that is asked again.
#[derive(Clone, Copy, Debug)]
struct Again {
    /// To which it belongs.
    server: SocketAddr,
    before: Answer,
    /// Whether that was another address than the first time.
    changed: bool,
}

impl MappingTest {
    pub(super) fn begin(
        now: Instant,
        prober: &mut Prober,
        transport: Transport,
        servers: &[(SocketAddr, Option<SocketAddr>)],
    ) -> MappingTest {
        let mut test = MappingTest {
            socket: prober.open(transport),
            transport,
            asked: BTreeMap::new(),
            destinations: BTreeSet::new(),
            observed: false,
            answers: Vec::new(),
            again: BTreeMap::new(),
            changed: None,
            local: None,
            silent: Vec::new(),
            failed: Vec::new(),
            accepted: false,
        };
        for (server, _) in servers {
            test.ask(now, prober, *server, *server);
        }
        for (server, other) in servers {
            test.ask_others(now, prober, *server, *other);
        }
        test
    }

    pub(super) fn handle(
        &mut self,
        now: Instant,
        prober: &mut Prober,
        found: &mut Findings,
        probe: ProbeId,
        outcome: &Outcome,
    ) {
        if let Some((server, destination)) = self.asked.remove(&probe) {
            self.local = prober.local(self.socket);
            self.handle_first(now, prober, found, (server, destination), outcome);
            if self.asked.is_empty() {
                self.ask_again(now, prober);
            }
        } else if let Some(again) = self.again.remove(&probe) {
            self.handle_again(now, prober, found, again, outcome);
        } else {
            return;
        }
        if self.is_over() {
            prober.close(self.socket);
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.asked.is_empty() && self.again.is_empty()
    }

    /// What servers that can be believed saw.
    pub(super) fn answers(&self) -> Vec<Answer> {
        self.answers.iter().map(|(_, answer)| *answer).collect()
    }

    /// What that tells of the mapping; of the servers so many were silent from the beginning.
    pub(super) fn conclude(&self, silent: usize) -> Conclusion {
        if let Some(Answer { server, reflexive, .. }) = self.changed {
            let reason = format!(
                "the NAT changed its mappings meanwhile, as if it had been restarted: {server} now sees {reflexive}"
            );
            return Conclusion::unknown(None, reason);
        }
        conclude(&self.answers(), silent)
    }

    /// All four addresses of a server of RFC 5780.
    fn ask_others(
        &mut self,
        now: Instant,
        prober: &mut Prober,
        server: SocketAddr,
        other: Option<SocketAddr>,
    ) {
        let Some(other) = other.filter(|other| other.is_ipv4() == server.is_ipv4()) else { return };
        let at = |ip, port| SocketAddr::new(ip, port);
        for destination in [at(server.ip(), other.port()), at(other.ip(), server.port()), other] {
            self.ask(now, prober, server, destination);
        }
    }

    fn ask(&mut self, now: Instant, prober: &mut Prober, server: SocketAddr, destination: SocketAddr) {
        if self.destinations.len() < MAX_DESTINATIONS && self.destinations.insert(destination) {
            let probe = prober.ask(now, self.socket, Question::plain(destination));
            self.asked.insert(probe, (server, destination));
        }
    }

    fn handle_first(
        &mut self,
        now: Instant,
        prober: &mut Prober,
        found: &mut Findings,
        (server, destination): (SocketAddr, SocketAddr),
        outcome: &Outcome,
    ) {
        match outcome {
            Outcome::Answered(response) => match self.fault(found, server, response) {
                Some(fault) => self.blame(found, server, fault),
                None => {
                    if !self.observed && Some(destination) == found.outermost() {
                        found.observe(Observation::of(self.local, response));
                        self.observed = true;
                    }
                    self.answers.push((server, Answer::of(response)));
                    if destination == server {
                        self.ask_others(now, prober, server, response.other);
                    }
                }
            },
            Outcome::WrongSource(from) => self.blame(found, server, ServerFault::WrongSource { from: *from }),
            Outcome::Failed(reason) => self.failed.push((destination, reason.clone())),
            Outcome::Silent { connected: true } => {
                self.accepted = true;
                self.failed.push((destination, "it accepts connections and does not answer".to_owned()));
            }
            _ => self.silent.push(destination),
        }
    }

    /// What is wrong with an answer. By its other addresses a server need not tell its other address again: of coturn only
    /// the first is right.
    fn fault(&self, found: &Findings, server: SocketAddr, response: &Response) -> Option<ServerFault> {
        let other = response.other.filter(|_| response.from == server);
        let reflexive = response.reflexive;
        // The first socket is still open, and two sockets cannot be seen as one.
        let same = self.transport == Transport::Udp && found.first_seen_by(response.from) == Some(reflexive);
        let wrong = same.then_some(ServerFault::WrongReflexiveAddress { reflexive });
        fault(&Response { other, ..*response }).or(wrong)
    }

    /// Asks everybody a second time. Not over TCP, where one port makes no second connection to the same place.
    fn ask_again(&mut self, now: Instant, prober: &mut Prober) {
        if self.transport != Transport::Udp {
            return;
        }
        for (server, before) in &self.answers {
            let probe = prober.ask(now, self.socket, Question::plain(before.server));
            self.again.insert(probe, Again { server: *server, before: *before, changed: false });
        }
    }

    /// A mapping that has changed stays as it is then; a server that sees something else each time is wrong.
    fn handle_again(
        &mut self,
        now: Instant,
        prober: &mut Prober,
        found: &mut Findings,
        again: Again,
        outcome: &Outcome,
    ) {
        // That a server falls silent does not concern the mapping.
        let Outcome::Answered(response) = outcome else { return };
        let Again { server, before, changed } = again;
        let reflexive = response.reflexive;
        match (reflexive == before.reflexive, changed) {
            (true, false) => {}
            (true, true) => self.changed = self.changed.or(Some(before)),
            (false, false) => {
                let probe = prober.ask(now, self.socket, Question::plain(before.server));
                self.again.insert(probe, Again { before: Answer::of(response), changed: true, ..again });
            }
            (false, true) => self.blame(found, server, ServerFault::WrongReflexiveAddress { reflexive }),
        }
    }

    fn blame(&mut self, found: &mut Findings, server: SocketAddr, fault: ServerFault) {
        self.accepted = true;
        self.failed.push((server, fault.to_string()));
        found.blame(server, fault);
        self.answers.retain(|(of, _)| *of != server);
        // What is still to come from it would count as well.
        self.asked.retain(|_, (of, _)| *of != server);
        self.again.retain(|_, again| again.server != server);
    }
}

/// What answers of different destinations to one socket tell of its mapping.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Conclusion {
    pub(super) mapping: Option<Mapping>,
    /// Known in more cases than the behaviour itself.
    pub(super) depends: Option<bool>,
    pub(super) confidence: Option<Confidence>,
    pub(super) reason: String,
}

impl Conclusion {
    fn unknown(depends: Option<bool>, reason: impl Into<String>) -> Conclusion {
        Conclusion { mapping: None, depends, confidence: None, reason: reason.into() }
    }

    fn known(mapping: Mapping, comparisons: usize, reason: impl Into<String>) -> Conclusion {
        let confidence = if comparisons > 1 { Confidence::High } else { Confidence::Medium };
        let depends = Some(mapping.depends_on_destination());
        Conclusion { mapping: Some(mapping), depends, confidence: Some(confidence), reason: reason.into() }
    }
}

/// Compares what different destinations saw of one socket.
pub(super) fn conclude(answers: &[Answer], silent: usize) -> Conclusion {
    if answers.is_empty() {
        return Conclusion::unknown(
            None,
            match silent {
                0 => "no server was asked that can be believed".to_owned(),
                1 => "the server did not answer".to_owned(),
                count => format!("none of {count} servers answered"),
            },
        );
    }
    let answers = beyond_all_nats(answers);
    let pairs = || answers.iter().enumerate().flat_map(|(n, a)| answers[n + 1..].iter().map(move |b| (a, b)));
    let across_ips = || pairs().filter(|(a, b)| a.server.ip() != b.server.ip());
    let across_ports = || pairs().filter(|(a, b)| a.server.ip() == b.server.ip());
    let differ = |(a, b): &(&Answer, &Answer)| a.reflexive != b.reflexive;
    let port_differences = across_ports().filter(differ).count();
    if port_differences > 0 {
        let reason = "two ports of one server saw different addresses";
        return Conclusion::known(Mapping::AddressAndPortDependent, port_differences, reason);
    }
    let ip_differences = across_ips().filter(differ).count();
    if ip_differences > 0 {
        if across_ports().next().is_none() {
            let reason = "two servers saw different addresses; whether the port counts as well can only be told with \
                          a server that answers on two ports (RFC 5780)";
            return Conclusion::unknown(Some(true), reason);
        }
        let reason = "two servers saw different addresses, two ports of one server the same";
        return Conclusion::known(Mapping::AddressDependent, ip_differences, reason);
    }
    match across_ips().count() {
        0 => Conclusion::unknown(
            None,
            "only one server address answered: it takes two to tell whether the mapping depends on the destination; \
             name another with --server",
        ),
        comparisons => Conclusion::known(
            Mapping::EndpointIndependent,
            comparisons,
            format!("{} destinations saw the same address", answers.len()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concluded(answers: &[(&str, &str)]) -> (Option<Mapping>, Option<bool>) {
        let answer = |(server, reflexive): &(&str, &str)| Answer {
            server: server.parse().unwrap(),
            reflexive: reflexive.parse().unwrap(),
            rtt_ms: None,
        };
        let conclusion = conclude(&answers.iter().map(answer).collect::<Vec<_>>(), 0);
        (conclusion.mapping, conclusion.depends)
    }

    #[test]
    fn conclusions() {
        let (same, other, inner) = ("198.51.100.10:5000", "198.51.100.10:5001", "100.64.0.10:7");
        let eim = (Some(Mapping::EndpointIndependent), Some(false));
        for (answers, expected) in [
            (&[][..], (None, None)),
            (&[("203.0.113.10:1", same)], (None, None)),
            (&[("203.0.113.10:1", same), ("203.0.113.10:2", same)], (None, None)),
            (&[("203.0.113.10:1", same), ("203.0.113.11:1", same)], eim),
            (&[("203.0.113.10:1", same), ("203.0.113.11:1", same), ("100.64.0.1:1", inner)], eim),
            (&[("203.0.113.10:1", same), ("203.0.113.11:1", other)], (None, Some(true))),
            (
                &[("203.0.113.10:1", same), ("203.0.113.10:2", same), ("203.0.113.11:1", other)],
                (Some(Mapping::AddressDependent), Some(true)),
            ),
            (
                &[("203.0.113.10:1", same), ("203.0.113.10:2", other)],
                (Some(Mapping::AddressAndPortDependent), Some(true)),
            ),
        ] {
            assert_eq!(concluded(answers), expected, "{answers:?}");
        }
    }
}
