//! The report in words: the verdict first. No colour, so there is nothing to switch off; lines break at a given width.

use std::fmt::Write as _;

use super::behaviour::{Confidence, Filtering, Mapping};
use super::findings::{Answer, Scope};
use super::gateway::GatewayReport;
use super::hops::Hop;
use super::lifetime::Lifetime;
use super::report::{Report, TcpReport, UdpReport};
use super::verdict::known_as;

/// Nothing is readable in fewer columns, and the table needs as many.
pub(super) const MIN_WIDTH: usize = 32;

/// The terms of RFC 3489 (section 5), which people know.
const ONCE_CALLED: &str = "EIM with EIF was called a full cone, with ADF a restricted cone, with APDF a port restricted cone; \
                           APDM was called symmetric.";

impl Report {
    /// The report for people, in lines of `width` columns; at least 32 are used.
    pub fn to_text(&self, width: usize) -> String {
        let width = width.max(MIN_WIDTH);
        let mut text = String::new();
        paragraph(&mut text, width, "", &self.verdict.summary);
        if !self.verdict.why.is_empty() {
            text.push_str("\nWhy\n");
            self.verdict.why.iter().for_each(|why| paragraph(&mut text, width, "- ", why));
        }
        if !self.verdict.advice.is_empty() {
            text.push_str("\nWhat to change\n");
            self.verdict.advice.iter().for_each(|advice| paragraph(&mut text, width, "- ", advice));
        }
        self.table(&mut text);
        paragraph(&mut text, width, "  ", ONCE_CALLED);
        for (name, udp, tcp) in
            [("IPv4", &self.udp.ipv4, &self.tcp.ipv4), ("IPv6", &self.udp.ipv6, &self.tcp.ipv6)]
        {
            _ = write!(text, "\nUDP over {name}\n");
            udp_words(&mut text, width, udp);
            _ = write!(text, "\nTCP over {name}\n");
            tcp_words(&mut text, width, tcp);
        }
        for (name, gateway) in [("IPv4", &self.gateway.ipv4), ("IPv6", &self.gateway.ipv6)] {
            _ = write!(text, "\nGateway over {name}\n");
            gateway_words(&mut text, width, gateway);
        }
        if let Some(around) = &self.surroundings {
            around.to_text(&mut text, width);
        }
        text
    }

    fn table(&self, text: &mut String) {
        text.push_str("\nYou and a peer, by its NAT\n");
        let [eif, adf, apdf] = Filtering::ALL.map(Filtering::name);
        _ = writeln!(text, "  {:5}{eif:8} {adf:8} {apdf}", "");
        for mapping in Mapping::ALL {
            let [eif, adf, apdf] =
                Filtering::ALL.map(|filtering| self.verdict.path(mapping, filtering).name());
            _ = writeln!(text, "  {:5}{eif:8} {adf:8} {apdf}", mapping.name());
        }
    }
}

fn udp_words(text: &mut String, width: usize, report: &UdpReport) {
    let mut say = |key: &str, words: &str| entry(text, width, key, words);
    let Some(local) = report.local else { return say("", &report.reason) };
    say("local", &local.to_string());
    report.answers.iter().for_each(|answer| say("reflexive", &answer_words(answer)));
    report.silent.iter().for_each(|server| say("no answer", &format!("from {server}")));
    for faulty in &report.faulty {
        say("not used", &format!("{}: {}", faulty.server, faulty.fault));
    }
    let sure =
        |confidence: Option<_>| confidence.map_or(String::new(), |sure| format!(" (confidence: {sure})"));
    let mapping = match (report.translated, report.mapping, report.mapping_depends_on_destination) {
        (Some(false), ..) => "none: no address translation".to_owned(),
        (_, Some(mapping), _) => format!("{mapping}: {}{}", report.reason, sure(report.mapping_confidence)),
        (_, None, Some(true)) => format!("depends on the destination (ADM or APDM): {}", report.reason),
        _ => format!("unknown: {}", report.reason),
    };
    say("mapping", &mapping);
    let reason = format!("{}{}", report.filtering_reason, sure(report.filtering_confidence));
    match report.filtering {
        Some(filtering)
            if report.translated == Some(false) && filtering != Filtering::EndpointIndependent =>
        {
            say("filtering", &format!("{filtering}, of a stateful firewall: {reason}"));
        }
        Some(filtering) => say("filtering", &format!("{filtering}: {reason}")),
        None => say("filtering", &format!("unknown: {reason}")),
    }
    if let Some(name) = known_as(report) {
        say("once called", &format!("{name} NAT (RFC 3489)"));
    }
    if let Some(allocation) = &report.allocation {
        let ports = allocation.ports.map_or("unknown".to_owned(), |ports| ports.to_string());
        let step = allocation.step.map_or(String::new(), |step| format!(" with step {step}"));
        say("ports", &format!("{ports}{step}: {}", allocation.reason));
        if allocation.addresses.len() > 1 {
            let addresses: Vec<_> = allocation.addresses.iter().map(ToString::to_string).collect();
            let how = if allocation.pooling.is_some() { "arbitrary" } else { "unknown" };
            say("pooling", &format!("{how}: {}", addresses.join(", ")));
        }
    }
    if let Some(at_least) = report.layers.at_least.filter(|at_least| *at_least > 0) {
        let carrier = match (report.layers.carrier_grade, report.layers.carrier_grade_confidence) {
            (Some(true), Some(Confidence::High)) => ", one of them the provider's",
            (Some(true), _) => ", one of them probably the provider's",
            _ => "",
        };
        say("layers", &format!("{at_least} or more{carrier}: {}", report.layers.reason));
    }
    report.layers.hops.iter().flatten().for_each(|hop| say("router", &hop_words(hop)));
    if let Some(path_mtu) = &report.path_mtu {
        let bytes = path_mtu.bytes.map_or("unknown".to_owned(), |bytes| format!("{bytes} bytes"));
        let black_hole =
            if path_mtu.black_hole == Some(true) { ", a black hole for larger ones" } else { "" };
        say("packets", &format!("{bytes}{black_hole}: {}{}", path_mtu.reason, sure(path_mtu.confidence)));
    }
    if let Some(hairpin) = &report.hairpin {
        let works = hairpin.works.map_or("unknown", |works| if works { "works" } else { "does not work" });
        say("hairpinning", &format!("{works}: {}", hairpin.reason));
    }
    if let Some(lifetime) = &report.lifetime {
        say("lifetime", &format!("alone after one exchange: {}", lifetime_words(&lifetime.single)));
        say("", &format!("after a conversation: {}", lifetime_words(&lifetime.conversation)));
        say("", &lifetime.refresh_reason);
    }
}

fn lifetime_words(lifetime: &Lifetime) -> String {
    let words = match (lifetime.at_least_s, lifetime.at_most_s) {
        (Some(least), Some(most)) => format!("between {least:.0} and {most:.0} s of silence"),
        (Some(least), None) => format!("more than {least:.0} s of silence"),
        _ => "unknown".to_owned(),
    };
    format!("{words}: {}", lifetime.reason)
}

fn hop_words(hop: &Hop) -> String {
    let whose = match hop.scope {
        Some(Scope::Private) => " (private)",
        Some(Scope::Shared) => " (between a provider and its customers)",
        Some(Scope::Global) => " (public)",
        None => "",
    };
    let address = hop.address.map_or("does not say its address".to_owned(), |address| address.to_string());
    format!("{}: {address}{whose}", hop.distance)
}

fn tcp_words(text: &mut String, width: usize, report: &TcpReport) {
    if report.local.is_none() {
        return entry(text, width, "", &report.reason);
    }
    for answer in &report.answers {
        entry(text, width, "reflexive", &answer_words(answer));
    }
    for failure in &report.failed {
        entry(text, width, "no answer", &format!("from {}: {}", failure.server, failure.reason));
    }
    if let Some(mapping) = report.mapping {
        entry(text, width, "mapping", &format!("{mapping}: {}", report.reason));
    }
}

fn answer_words(answer: &Answer) -> String {
    let rtt = answer.rtt_ms.map_or(String::new(), |rtt| format!(" in {rtt:.1} ms"));
    format!("{}, seen by {}{rtt}", answer.reflexive, answer.server)
}

fn gateway_words(text: &mut String, width: usize, report: &GatewayReport) {
    let Some(address) = report.address else { return entry(text, width, "", &report.reason) };
    entry(text, width, "address", &address.to_string());
    for (protocol, service) in report.services() {
        let state = match (service.offered, service.granted) {
            (None, _) => continue,
            (Some(false), _) => "no",
            (_, Some(true)) => "opens ports",
            (_, Some(false)) => "refuses",
            (_, None) => "is there",
        };
        let external = service.external.map_or(String::new(), |ip| format!("; external address {ip}"));
        entry(text, width, &protocol.to_string(), &format!("{state}: {}{external}", service.reason));
    }
    if report.external.is_none() {
        entry(text, width, "external", &format!("unknown: {}", report.reason));
    }
}

/// A key and its value; on a narrow terminal the value begins a line of its own.
pub(super) fn entry(text: &mut String, width: usize, key: &str, value: &str) {
    match key {
        "" => paragraph(text, width, "  ", value),
        _ if width < 60 => {
            _ = writeln!(text, "  {key}");
            paragraph(text, width, "    ", value);
        }
        _ => paragraph(text, width, &format!("  {key:12} "), value),
    }
}

/// Breaks `words` into lines; the first begins with `lead`, the others with as many blanks.
pub(super) fn paragraph(text: &mut String, width: usize, lead: &str, words: &str) {
    let indent = lead.chars().count();
    text.push_str(lead);
    let mut column = indent;
    for word in words.split_whitespace() {
        let len = word.chars().count();
        if column > indent && column + 1 + len > width {
            _ = write!(text, "\n{:indent$}", "");
            column = indent;
        }
        if column > indent {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += len;
    }
    text.push('\n');
}
