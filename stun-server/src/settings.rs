//! The STUN server's settings, under the names that coturn gave them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thirl_common::config::{ConfigError, Key, Values, parse};

use crate::server::Config;
use crate::shard::Listen;

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
];

/// The port of STUN over UDP and TCP (RFC 8489, section 18.6).
const DEFAULT_PORT: u16 = 3478;

/// What the server starts with.
pub fn config(values: &Values) -> Result<Config, ConfigError> {
    let ips = values.all("listening-ip", parse::ip)?;
    let port = values.one("listening-port", parse::listening_port)?.unwrap_or(DEFAULT_PORT);
    Ok(Config { listen: listen(&ips, port) })
}

/// Both transports on each address, or on all addresses of both families if none is given.
pub fn listen(ips: &[IpAddr], port: u16) -> Listen {
    let everywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let ips = if ips.is_empty() { &everywhere } else { ips };
    let addrs: Vec<_> = ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
    Listen { udp: addrs.clone(), tcp: addrs, ..Listen::default() }
}
