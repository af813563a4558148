//! The surroundings in words.

use super::{Attempt, Ipv6Address, Ipv6AddressesReport, Ipv6Scope, ReachReport, Surroundings};
use crate::nat::words::entry;

impl Surroundings {
    pub(in crate::nat) fn to_text(&self, text: &mut String, width: usize) {
        text.push_str("\nWhat gets out\n");
        reach_words(text, width, &self.reach);
        let portal = &self.captive_portal;
        let present = match (portal.present, &portal.url) {
            (Some(true), Some(url)) => format!("yes, at {url}"),
            (Some(true), None) => "yes".to_owned(),
            (Some(false), _) => "no".to_owned(),
            (None, _) => "unknown".to_owned(),
        };
        entry(text, width, "sign-in page", &format!("{present}: {}", portal.reason));
        text.push_str("\nIPv6 of this machine\n");
        ipv6_words(text, width, &self.ipv6_addresses);
        let nat64 = &self.nat64;
        let prefix = nat64.prefix.map_or("unknown".to_owned(), |prefix| prefix.to_string());
        let used = if nat64.used { "; IPv4 was measured through it" } else { "" };
        entry(text, width, "NAT64", &format!("{prefix}: {}{used}", nat64.reason));
    }
}

fn reach_words(text: &mut String, width: usize, reach: &ReachReport) {
    for (name, way) in reach.ways() {
        if way.attempts.is_empty() {
            entry(text, width, name, &format!("not tried: {}", way.reason));
        }
        for Attempt { host, address, outcome, reason } in &way.attempts {
            let outcome = outcome.map_or("not tried".to_owned(), |outcome| outcome.to_string());
            let at = address.map_or(String::new(), |address| format!(" ({address})"));
            entry(text, width, name, &format!("{outcome}: {host}{at}: {reason}"));
        }
    }
}

fn ipv6_words(text: &mut String, width: usize, report: &Ipv6AddressesReport) {
    let addresses = report.addresses.as_deref().unwrap_or_default();
    if report.used.is_none() || report.addresses.is_none() {
        entry(text, width, "addresses", &report.reason);
    }
    for address in addresses {
        let Ipv6Address { ip, scope, temporary, deprecated, from_hardware, .. } = address;
        let kinds = [
            (*scope == Ipv6Scope::UniqueLocal, "unique local"),
            (*temporary, "temporary"),
            (*deprecated, "deprecated"),
            (*from_hardware, "made from the hardware address"),
            (Some(*ip) == report.used, "used towards the internet"),
        ];
        let kinds: Vec<_> = kinds.iter().filter(|(is, _)| *is).map(|(_, kind)| *kind).collect();
        let kinds = if kinds.is_empty() { "stable".to_owned() } else { kinds.join(", ") };
        entry(text, width, "address", &format!("{ip}: {kinds}"));
    }
}
