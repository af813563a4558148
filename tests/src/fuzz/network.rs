//! What the network and the system tell a NAT diagnosis.

use std::net::Ipv4Addr;

use thirl_common::net::{Nat64Prefix, parse_if_inet6};
use thirl_ice_agent::nat::{VersionNegotiation, WebProbe};

/// A table of addresses has no more of them than lines, and each is found again in a line written as Linux does.
pub fn if_inet6(data: &[u8]) {
    let Ok(table) = std::str::from_utf8(data) else { return };
    let listed: Vec<_> = parse_if_inet6(table).collect();
    assert!(listed.len() <= table.lines().count());
    for host in listed {
        let ip = u128::from(host.ip);
        let flags = u8::from(host.temporary) | u8::from(host.deprecated) << 5 | u8::from(host.tentative) << 6;
        let line = format!("{ip:032x} 02 40 00 {flags:02x} {}", host.interface);
        assert_eq!(parse_if_inet6(&line).collect::<Vec<_>>(), [host], "{line}");
    }
}

/// Connection IDs, then a datagram that may answer the probe; but no version, no connection ID but the probe's, and no
/// list that breaks off is an answer.
pub fn quic_version(data: &[u8]) {
    let Some((random, datagram)) = data.split_first_chunk::<16>() else { return };
    let probe = VersionNegotiation::new(*random);
    if probe.is_answered_by(datagram) {
        assert_eq!((datagram[1..5].to_vec(), datagram.len() % 4), (vec![0; 4], 3));
        assert_eq!([&datagram[6..14], &datagram[15..23]], [&random[8..], &random[..8]]);
        let mut other = *random;
        other[0] ^= 1;
        assert!(!VersionNegotiation::new(other).is_answered_by(datagram));
        assert!(!probe.is_answered_by(&datagram[..datagram.len() - 1]));
    }
    assert!(!probe.is_answered_by(&probe.datagram()));
}

/// Two bytes of status and one of the length of the Location header, then that, then the page: whatever a portal says, its
/// URL can be shown on a terminal.
pub fn captive_portal(data: &[u8]) {
    let [high, low, len, rest @ ..] = data else { return };
    let (location, body) = rest.split_at(rest.len().min(usize::from(*len)));
    let probe: WebProbe = "example.org:8080/known".parse().unwrap();
    let report = probe.judge(u16::from_be_bytes([*high, *low]), std::str::from_utf8(location).ok(), body);
    assert_eq!(report.present == Some(true), report.url.is_some());
    let url = report.url.unwrap_or_default();
    assert!(url.bytes().all(|byte| byte.is_ascii_graphic()), "{url:?}");
}

/// AAAA records of 16 bytes each: every prefix found in them has an address of `ipv4only.arpa` under it.
pub fn nat64(data: &[u8]) {
    let records: Vec<_> =
        data.chunks_exact(16).map(|chunk| <[u8; 16]>::try_from(chunk).unwrap().into()).collect();
    let prefixes = Nat64Prefix::discover(&records);
    assert!(prefixes.len() <= records.len());
    for prefix in prefixes {
        let known = |ip: Ipv4Addr| matches!(ip.octets(), [192, 0, 0, 170 | 171]);
        assert!(records.iter().any(|record| prefix.extract(*record).is_some_and(known)), "{prefix}");
    }
}
