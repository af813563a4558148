//! What a diagnosis found, as data and in words.

use std::fmt;
use std::net::SocketAddr;

use serde::Serialize;

/// Mapping behaviour in the terms of RFC 4787, section 4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Mapping {
    /// Endpoint-independent: one external port whatever the destination ("cone").
    #[serde(rename = "EIM")]
    EndpointIndependent,
    /// Address-dependent: another external port for each destination address.
    #[serde(rename = "ADM")]
    AddressDependent,
    /// Address- and port-dependent: another external port for each destination ("symmetric").
    #[serde(rename = "APDM")]
    AddressAndPortDependent,
}

impl Mapping {
    /// Whether the external port depends on the destination, which makes a direct path hard to find.
    pub fn depends_on_destination(self) -> bool {
        self != Mapping::EndpointIndependent
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mapping::EndpointIndependent => "endpoint-independent (EIM, \"cone\")",
            Mapping::AddressDependent => "address-dependent (ADM)",
            Mapping::AddressAndPortDependent => "address- and port-dependent (APDM, \"symmetric\")",
        })
    }
}

/// One server's answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// Who was asked.
    pub server: SocketAddr,
    /// Where the packet seemed to come from: the reflexive transport address.
    pub reflexive: SocketAddr,
    /// Round trip in milliseconds, if the first transmission was answered.
    pub rtt_ms: Option<f64>,
}

/// What was learnt of the mapping on one socket.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MappingReport {
    /// The socket's own address.
    pub local: SocketAddr,
    /// The answers, in the order in which they came.
    pub answers: Vec<Answer>,
    /// Who did not answer.
    pub silent: Vec<SocketAddr>,
    /// Whether there is address translation at all; `None` if nobody answered.
    pub translated: Option<bool>,
    /// The behaviour, or `None` where it could not be told.
    pub mapping: Option<Mapping>,
    /// Whether the mapping depends on the destination; known in more cases than the behaviour itself.
    pub mapping_depends_on_destination: Option<bool>,
    /// Why `mapping` is `None`, or what it rests on.
    pub reason: String,
}

impl MappingReport {
    /// Concludes from the answers.
    pub(super) fn new(local: SocketAddr, answers: Vec<Answer>, silent: Vec<SocketAddr>) -> MappingReport {
        let translated = answers.first().map(|_| answers.iter().any(|answer| answer.reflexive != local));
        let (mapping, depends, reason) = conclude(&answers, &silent);
        MappingReport {
            local,
            answers,
            silent,
            translated,
            mapping,
            mapping_depends_on_destination: mapping.map(Mapping::depends_on_destination).or(depends),
            reason,
        }
    }

    /// Whether nobody answered.
    pub fn is_blocked(&self) -> bool {
        self.answers.is_empty() && !self.silent.is_empty()
    }
}

/// Compares what different destinations saw of one socket.
fn conclude(answers: &[Answer], silent: &[SocketAddr]) -> (Option<Mapping>, Option<bool>, String) {
    let pairs = || answers.iter().enumerate().flat_map(|(n, a)| answers[n + 1..].iter().map(move |b| (a, b)));
    let across_ips = || pairs().filter(|(a, b)| a.server.ip() != b.server.ip());
    let across_ports = || pairs().filter(|(a, b)| a.server.ip() == b.server.ip());
    let differ = |(a, b): (&Answer, &Answer)| a.reflexive != b.reflexive;
    if answers.is_empty() {
        let reason = match silent.len() {
            0 => "no server was asked".to_owned(),
            count => format!("none of {count} servers answered: UDP is blocked here, or they are down"),
        };
        return (None, None, reason);
    }
    if across_ports().any(differ) {
        let reason = "two ports of one server saw different addresses".to_owned();
        return (Some(Mapping::AddressAndPortDependent), Some(true), reason);
    }
    if across_ips().any(differ) {
        return match across_ports().next() {
            Some(_) => {
                let reason =
                    "two servers saw different addresses, two ports of one server the same".to_owned();
                (Some(Mapping::AddressDependent), Some(true), reason)
            }
            None => {
                let reason = "two servers saw different addresses; whether the port counts as well can only be told \
                              with a server that answers on two ports (RFC 5780)";
                (None, Some(true), reason.to_owned())
            }
        };
    }
    if across_ips().next().is_some() {
        let reason = format!("{} destinations saw the same address", answers.len());
        return (Some(Mapping::EndpointIndependent), Some(false), reason);
    }
    let reason = "only one server address answered: it takes two to tell whether the mapping depends on the \
                  destination; name another with --server";
    (None, None, reason.to_owned())
}

impl fmt::Display for MappingReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  local address       {}", self.local)?;
        for answer in &self.answers {
            write!(f, "  reflexive address   {}  (seen by {}", answer.reflexive, answer.server)?;
            match answer.rtt_ms {
                Some(rtt) => writeln!(f, ", {rtt:.1} ms)")?,
                None => writeln!(f, ")")?,
            }
        }
        for server in &self.silent {
            writeln!(f, "  no answer from      {server}")?;
        }
        let verdict = match (self.mapping, self.mapping_depends_on_destination, self.translated) {
            (_, _, Some(false)) => "none: no address translation".to_owned(),
            (Some(mapping), _, _) => mapping.to_string(),
            (None, Some(true), _) => "depends on the destination (ADM or APDM)".to_owned(),
            _ => "unknown".to_owned(),
        };
        writeln!(f, "  mapping             {verdict}")?;
        write!(f, "                      {}", self.reason)
    }
}

/// The report on one address family.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum FamilyReport {
    /// The test ran.
    Tested(MappingReport),
    /// It could not run.
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl FamilyReport {
    /// The report, if the test ran.
    pub fn tested(&self) -> Option<&MappingReport> {
        match self {
            FamilyReport::Tested(report) => Some(report),
            FamilyReport::Unavailable { .. } => None,
        }
    }
}

/// The whole diagnosis.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diagnosis {
    /// UDP over IPv4.
    pub ipv4: FamilyReport,
    /// UDP over IPv6.
    pub ipv6: FamilyReport,
}

impl Diagnosis {
    /// Whether any server answered.
    pub fn is_reachable(&self) -> bool {
        [&self.ipv4, &self.ipv6]
            .iter()
            .any(|family| family.tested().is_some_and(|report| !report.answers.is_empty()))
    }

    /// What it means for connecting, in words.
    pub fn verdict(&self) -> String {
        let families = [("IPv4", &self.ipv4), ("IPv6", &self.ipv6)];
        let said = families.iter().filter_map(|(name, family)| Some((name, family.tested()?)));
        let lines: Vec<_> =
            said.map(|(name, report)| format!("{name}: {}", family_verdict(report))).collect();
        match lines.is_empty() {
            true => "Nothing could be measured: no server address is reachable from here.".to_owned(),
            false => lines.join("\n"),
        }
    }
}

fn family_verdict(report: &MappingReport) -> &'static str {
    if report.is_blocked() {
        return "no answer over UDP. Paths will need a relay over TCP, unless the servers are down.";
    }
    match (report.translated, report.mapping_depends_on_destination) {
        (Some(false), _) => "no address translation. Only a firewall can be in the way of direct paths.",
        (_, Some(false)) => {
            "the mapping does not depend on the destination. Direct paths work with most peers, all but those whose \
             own mapping depends on the destination and which filter by port."
        }
        (_, Some(true)) => {
            "the mapping depends on the destination. Direct paths work only with peers that are reachable from \
             anywhere or filter by address alone; others need a relay."
        }
        _ => "there is address translation; whether direct paths work cannot be told yet.",
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.verdict())?;
        for (name, family) in [("IPv4", &self.ipv4), ("IPv6", &self.ipv6)] {
            match family {
                FamilyReport::Tested(report) => write!(f, "\nUDP over {name}\n{report}\n")?,
                FamilyReport::Unavailable { reason } => write!(f, "\nUDP over {name}: {reason}\n")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(answers: &[(&str, &str)]) -> MappingReport {
        let answer = |(server, reflexive): &(&str, &str)| Answer {
            server: server.parse().unwrap(),
            reflexive: reflexive.parse().unwrap(),
            rtt_ms: None,
        };
        MappingReport::new("192.168.1.2:5000".parse().unwrap(), answers.iter().map(answer).collect(), vec![])
    }

    #[test]
    fn conclusions() {
        let same = "198.51.100.10:5000";
        let other = "198.51.100.10:5001";
        for (answers, mapping, depends) in [
            (&[][..], None, None),
            (&[("203.0.113.10:1", same)], None, None),
            (&[("203.0.113.10:1", same), ("203.0.113.10:2", same)], None, None),
            (
                &[("203.0.113.10:1", same), ("203.0.113.11:1", same)],
                Some(Mapping::EndpointIndependent),
                Some(false),
            ),
            (&[("203.0.113.10:1", same), ("203.0.113.11:1", other)], None, Some(true)),
            (
                &[("203.0.113.10:1", same), ("203.0.113.10:2", same), ("203.0.113.11:1", other)],
                Some(Mapping::AddressDependent),
                Some(true),
            ),
            (
                &[("203.0.113.10:1", same), ("203.0.113.10:2", other)],
                Some(Mapping::AddressAndPortDependent),
                Some(true),
            ),
        ] {
            let report = report(answers);
            assert_eq!(
                (report.mapping, report.mapping_depends_on_destination),
                (mapping, depends),
                "{answers:?}"
            );
        }
    }

    #[test]
    fn no_translation_is_said_so() {
        let report = report(&[("203.0.113.10:1", "192.168.1.2:5000")]);
        assert_eq!(report.translated, Some(false));
        assert!(report.to_string().contains("no address translation"));
    }
}
