//! The STUN server's settings, under the names that coturn gave them. What they say of Binding requests they say to the
//! relay too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thirl_common::config::{ConfigError, Key, Problem, Values, parse};
use thirl_common::net::ExternalIp;

use crate::binding::BindingConfig;
use crate::server::Config;
use crate::shard::Listen;
use crate::{Discovery, Limit};

/// Every setting of the STUN server.
pub const KEYS: &[Key] =
    &[LISTENING_IP, LISTENING_PORT, EXTERNAL_IP, ALT_LISTENING_PORT, RFC5780, RATE_LIMIT];

/// `listening-ip`.
pub const LISTENING_IP: Key = Key {
    name: "listening-ip",
    value: "IP",
    help: "Address to listen on; may be repeated. Default: all, IPv4 and IPv6",
    repeat: true,
};

/// `listening-port`.
pub const LISTENING_PORT: Key = Key {
    name: "listening-port",
    value: "PORT",
    help: "UDP and TCP port to listen on; 0 lets the system choose. Default: 3478",
    repeat: false,
};

/// `external-ip`.
pub const EXTERNAL_IP: Key = Key {
    name: "external-ip",
    value: "PUBLIC[/PRIVATE]",
    help: "What this host is called outside, behind a 1:1 NAT, or what one of its addresses is; may be repeated",
    repeat: true,
};

/// `alt-listening-port`.
pub const ALT_LISTENING_PORT: Key = Key {
    name: "alt-listening-port",
    value: "PORT",
    help: "Second port of NAT behaviour discovery (RFC 5780); 0 is the default. Default: listening-port + 1",
    repeat: false,
};

/// `rfc5780`.
pub const RFC5780: Key = Key {
    name: "rfc5780",
    value: "BOOL",
    help: "NAT behaviour discovery (RFC 5780); `false` is coturn's no-rfc5780. Default: true if two addresses of \
           one family are given as listening-ip, of which the first two are used",
    repeat: false,
};

/// `rate-limit`.
pub const RATE_LIMIT: Key = Key {
    name: "rate-limit",
    value: "COUNT",
    help: "Requests a second without credentials that one IPv4 address or IPv6 /64 may send for ever, and in two \
           seconds at once; 0: no limit. Default: 1000",
    repeat: false,
};

/// The port of STUN over UDP and TCP (RFC 8489, section 18.6).
pub const DEFAULT_PORT: u16 = 3478;

/// The highest `rate-limit`.
const MAX_RATE: u64 = 1_000_000_000;

/// What the server starts with.
pub fn config(values: &Values) -> Result<Config, ConfigError> {
    let ips = values.all(LISTENING_IP.name, parse::ip)?;
    let port = values.one(LISTENING_PORT.name, parse::listening_port)?.unwrap_or(DEFAULT_PORT);
    Ok(Config { listen: listen(&ips, port), binding: binding(values, &ips, port)? })
}

/// What a server on these addresses and this port does about Binding requests.
pub fn binding(values: &Values, ips: &[IpAddr], port: u16) -> Result<BindingConfig, ConfigError> {
    let limit = match values.one(RATE_LIMIT.name, parse::number(0, MAX_RATE))? {
        None => Some(Limit::default()),
        Some(rate) => u32::try_from(rate)
            .ok()
            .filter(|rate| *rate > 0)
            .map(|per_second| Limit { per_second, burst: per_second.saturating_mul(2) }),
    };
    let external = values.all(EXTERNAL_IP.name, parse::external_ip)?;
    Ok(BindingConfig { discovery: discovery(values, ips, &external, port)?, limit })
}

fn discovery(
    values: &Values,
    ips: &[IpAddr],
    external: &[ExternalIp],
    port: u16,
) -> Result<Discovery, ConfigError> {
    let wanted = values.one(RFC5780.name, parse::boolean)?;
    let alternate =
        values.one(ALT_LISTENING_PORT.name, parse::listening_port)?.filter(|alternate| *alternate != 0);
    if wanted == Some(false) {
        return Ok(Discovery::default());
    }
    let key = if wanted.is_some() { RFC5780.name } else { ALT_LISTENING_PORT.name };
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
    let discovery = Discovery::between(ips, external, [port, other.unwrap_or(port ^ 1)]);
    if asked_for && discovery.is_empty() {
        let problem = Problem::new(
            "NAT behaviour discovery needs two addresses of one family, and there are not two that clients know apart",
            "give listening-ip twice (behind a NAT with an external-ip `public/private` for each), or leave rfc5780 and \
             alt-listening-port out",
        );
        return Err(values.refuse(key, problem));
    }
    if other.is_none() && !discovery.is_empty() {
        let problem = Problem::new(
            "the second port of NAT behaviour discovery would be the same as listening-port, or above 65535",
            "give an alt-listening-port that differs from listening-port",
        );
        return Err(values.refuse(ALT_LISTENING_PORT.name, problem));
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
            config.binding.discovery.addrs().map(|addr| addr.port()).collect::<Vec<_>>()
        };
        assert_eq!(ports(""), [3478, 3479, 3478, 3479]);
        assert_eq!(ports("listening-port = 5000\nalt-listening-port = 6000"), [5000, 6000, 5000, 6000]);
        assert_eq!(ports("alt-listening-port = 0\nrfc5780 = true"), [3478, 3479, 3478, 3479]);
        assert_eq!(ports("rfc5780 = false"), [0; 0]);
        assert_eq!(ports("listening-port = 0"), [0; 0]);
        assert!(read("").unwrap().binding.discovery.is_empty());
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
            (
                format!("{two}external-ip = \"203.0.113.1\"\nrfc5780 = true"),
                "stun.toml:3: rfc5780",
                "`public/private` for each",
            ),
            ("rfc5780 = \"yes\"".to_owned(), "stun.toml:1: rfc5780", "`true`"),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(place) && error.contains(hint), "{text}\n{error}");
        }
    }

    #[test]
    fn the_limit_is_on_unless_it_is_zero() {
        assert_eq!(read("").unwrap().binding.limit, Some(Limit::default()));
        assert_eq!(read("rate-limit = 5").unwrap().binding.limit, Some(Limit { per_second: 5, burst: 10 }));
        assert_eq!(read("rate-limit = 0").unwrap().binding.limit, None);
        assert!(read("rate-limit = -1").is_err());
    }
}
