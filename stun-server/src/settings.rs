//! The STUN server's settings, under the names that coturn gave them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thirl_common::config::{ConfigError, Key, Problem, Values, parse};

use crate::server::Config;
use crate::shard::Listen;
use crate::{Discovery, Limit};

/// Every setting of the STUN server.
pub const KEYS: &[Key] = &[
    Key {
        name: "listening-ip",
        value: "IP",
        help: "Address to listen on; may be repeated. Default: all, IPv4 and IPv6",
        repeat: true,
    },
    Key {
        name: "listening-port",
        value: "PORT",
        help: "UDP and TCP port to listen on; 0 lets the system choose. Default: 3478",
        repeat: false,
    },
    Key {
        name: "alt-listening-port",
        value: "PORT",
        help: "Second port of NAT behaviour discovery (RFC 5780); 0 is the default. Default: listening-port + 1",
        repeat: false,
    },
    Key {
        name: "rfc5780",
        value: "BOOL",
        help: "NAT behaviour discovery (RFC 5780); `false` is coturn's no-rfc5780. Default: true if two addresses of \
               one family are given as listening-ip, of which the first two are used",
        repeat: false,
    },
    Key {
        name: "rate-limit",
        value: "COUNT",
        help: "UDP requests a second that one IPv4 address or IPv6 /64 may send for ever, and in two seconds at once; \
               0: no limit. Default: 1000",
        repeat: false,
    },
];

/// The port of STUN over UDP and TCP (RFC 8489, section 18.6).
const DEFAULT_PORT: u16 = 3478;

/// The highest `rate-limit`.
const MAX_RATE: u64 = 1_000_000_000;

/// What the server starts with.
pub fn config(values: &Values) -> Result<Config, ConfigError> {
    let ips = values.all("listening-ip", parse::ip)?;
    let port = values.one("listening-port", parse::listening_port)?.unwrap_or(DEFAULT_PORT);
    let limit = match values.one("rate-limit", parse::number(0, MAX_RATE))? {
        None => Some(Limit::default()),
        Some(rate) => u32::try_from(rate)
            .ok()
            .filter(|rate| *rate > 0)
            .map(|per_second| Limit { per_second, burst: per_second.saturating_mul(2) }),
    };
    Ok(Config { listen: listen(&ips, port), discovery: discovery(values, &ips, port)?, limit })
}

fn discovery(values: &Values, ips: &[IpAddr], port: u16) -> Result<Discovery, ConfigError> {
    let wanted = values.one("rfc5780", parse::boolean)?;
    let alternate = values.one("alt-listening-port", parse::listening_port)?.filter(|port| *port != 0);
    if wanted == Some(false) {
        return Ok(Discovery::default());
    }
    let key = if wanted.is_some() { "rfc5780" } else { "alt-listening-port" };
    let asked_for = wanted.is_some() || alternate.is_some();
    // A port that the system chooses is another for each address.
    if port == 0 {
        let problem = Problem::new(
            "NAT behaviour discovery needs a listening-port that is not 0",
            "give listening-port, or `rfc5780 = false`",
        );
        return if asked_for { Err(values.refuse(key, problem)) } else { Ok(Discovery::default()) };
    }
    let other = alternate.or(port.checked_add(1)).filter(|other| *other != port);
    // Any other port tells whether there are two addresses.
    let discovery = Discovery::between(ips, [port, other.unwrap_or(port ^ 1)]);
    if asked_for && discovery.is_empty() {
        let problem = Problem::new(
            "NAT behaviour discovery needs two addresses of one family, and there are not two",
            "give listening-ip twice, or leave rfc5780 and alt-listening-port out",
        );
        return Err(values.refuse(key, problem));
    }
    if other.is_none() && !discovery.is_empty() {
        let problem = Problem::new(
            "the second port of NAT behaviour discovery would be the same as listening-port, or above 65535",
            "give an alt-listening-port that differs from listening-port",
        );
        return Err(values.refuse("alt-listening-port", problem));
    }
    Ok(discovery)
}

/// Both transports on each address, or on all addresses of both families if none is given.
pub fn listen(ips: &[IpAddr], port: u16) -> Listen {
    let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let ips = if ips.is_empty() { &everywhere } else { ips };
    let addrs: Vec<_> = ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
    Listen { udp: addrs.clone(), tcp: addrs, ..Listen::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> Result<Config, String> {
        let values = Values::from_file(KEYS, Path::new("stun.toml"), text);
        values.and_then(|values| config(&values)).map_err(|error| error.to_string())
    }

    #[test]
    fn two_addresses_make_a_server_of_rfc_5780() {
        let two = "listening-ip = [\"192.0.2.1\", \"192.0.2.2\"]\n";
        let ports = |text: &str| {
            let config = read(&format!("{two}{text}")).unwrap();
            config.discovery.addrs().map(|addr| addr.port()).collect::<Vec<_>>()
        };
        assert_eq!(ports(""), [3478, 3479, 3478, 3479]);
        assert_eq!(ports("listening-port = 5000\nalt-listening-port = 6000"), [5000, 6000, 5000, 6000]);
        assert_eq!(ports("alt-listening-port = 0\nrfc5780 = true"), [3478, 3479, 3478, 3479]);
        assert_eq!(ports("rfc5780 = false"), [0; 0]);
        assert_eq!(ports("listening-port = 0"), [0; 0]);
        assert!(read("").unwrap().discovery.is_empty());
    }

    #[test]
    fn what_cannot_discover_is_refused_with_its_line() {
        let two = "listening-ip = [\"192.0.2.1\", \"192.0.2.2\"]\n";
        for (text, place, hint) in [
            ("rfc5780 = true".to_owned(), "stun.toml:1: rfc5780", "listening-ip twice"),
            (
                "\nalt-listening-port = 3480".to_owned(),
                "stun.toml:2: alt-listening-port",
                "listening-ip twice",
            ),
            (format!("{two}alt-listening-port = 3478"), "stun.toml:2: alt-listening-port", "differs"),
            (format!("{two}listening-port = 65535"), "alt-listening-port", "differs"),
            (format!("{two}listening-port = 0\nrfc5780 = true"), "stun.toml:3: rfc5780", "listening-port"),
            ("rfc5780 = \"yes\"".to_owned(), "stun.toml:1: rfc5780", "`true`"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(place) && error.contains(hint), "{text}\n{error}");
        }
    }

    #[test]
    fn the_limit_is_on_unless_it_is_zero() {
        assert_eq!(read("").unwrap().limit, Some(Limit::default()));
        assert_eq!(read("rate-limit = 5").unwrap().limit, Some(Limit { per_second: 5, burst: 10 }));
        assert_eq!(read("rate-limit = 0").unwrap().limit, None);
        assert!(read("rate-limit = -1").is_err());
    }
}
