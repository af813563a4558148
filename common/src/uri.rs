//! `stun:` and `turn:` URIs (RFC 7064, RFC 7065).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::net::Transport;

/// Port of `stun:` and `turn:` (RFC 8489, section 18.7; RFC 8656, section 3.1).
pub const DEFAULT_PORT: u16 = 3478;

/// Port of `stuns:` and `turns:`.
pub const DEFAULT_TLS_PORT: u16 = 5349;

/// Longer names than DNS has are refused.
const MAX_HOST: usize = 253;

/// What a server is asked for, and whether in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `stun:`
    Stun,
    /// `stuns:`
    Stuns,
    /// `turn:`
    Turn,
    /// `turns:`
    Turns,
}

impl Scheme {
    /// Whether it is over TLS or DTLS.
    pub fn is_secure(self) -> bool {
        matches!(self, Scheme::Stuns | Scheme::Turns)
    }

    /// Whether it names a relay.
    pub fn is_turn(self) -> bool {
        matches!(self, Scheme::Turn | Scheme::Turns)
    }

    fn name(self) -> &'static str {
        match self {
            Scheme::Stun => "stun",
            Scheme::Stuns => "stuns",
            Scheme::Turn => "turn",
            Scheme::Turns => "turns",
        }
    }
}

/// A name to resolve, or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IPv4 or, in brackets, IPv6 address.
    Ip(IpAddr),
    /// A DNS name.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Host::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// A server's URI.
///
/// ```
/// use thirl_common::net::Transport;
/// use thirl_common::uri::ServerUri;
///
/// let uri: ServerUri = "turn:relay.example.org?transport=tcp".parse()?;
/// assert_eq!((uri.port, uri.transport()), (3478, Transport::Tcp));
/// assert_eq!(uri.to_string(), "turn:relay.example.org:3478?transport=tcp");
/// # Ok::<(), thirl_common::uri::UriError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerUri {
    /// What is asked for.
    pub scheme: Scheme,
    /// Where.
    pub host: Host,
    /// The port, or the scheme's own.
    pub port: u16,
    /// What follows `?transport=`: whether it is TCP and not UDP.
    pub tcp: Option<bool>,
}

/// Whoever wrote the URI has to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UriError {
    /// None of the four schemes.
    #[error("{0:?} is no STUN or TURN URI: it begins with stun:, stuns:, turn: or turns:")]
    Scheme(String),
    /// No host, or one that cannot be.
    #[error("{0:?} is no host: write a name, an IPv4 address, or an IPv6 address in brackets")]
    Host(String),
    /// No port.
    #[error("{0:?} is no port: write a number from 1 to 65535")]
    Port(String),
    /// Not `?transport=udp` or `?transport=tcp`, or on a STUN URI.
    #[error("{0:?} is not understood: only turn: and turns: take ?transport=udp or ?transport=tcp")]
    Query(String),
}

impl ServerUri {
    /// What carries the packets. `turn:` alone is over UDP, `turns:` and `stuns:` alone over TLS (RFC 7065, section 3.1;
    /// RFC 5928, section 3).
    pub fn transport(&self) -> Transport {
        match (self.scheme.is_secure(), self.tcp) {
            (false, None | Some(false)) => Transport::Udp,
            (false, Some(true)) => Transport::Tcp,
            (true, None | Some(true)) => Transport::Tls,
            (true, Some(false)) => Transport::Dtls,
        }
    }
}

impl FromStr for ServerUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        parse(text).map(|(uri, _)| uri)
    }
}

impl fmt::Display for ServerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.scheme.name(), self.host, self.port)?;
        match self.tcp {
            None => Ok(()),
            Some(tcp) => write!(f, "?transport={}", if tcp { "tcp" } else { "udp" }),
        }
    }
}

/// A URI, and whether it names a port.
pub(crate) fn parse(text: &str) -> Result<(ServerUri, bool), UriError> {
    let (scheme, rest) = text.split_once(':').ok_or_else(|| UriError::Scheme(text.to_owned()))?;
    let scheme = [Scheme::Stun, Scheme::Stuns, Scheme::Turn, Scheme::Turns]
        .into_iter()
        .find(|known| known.name().eq_ignore_ascii_case(scheme))
        .ok_or_else(|| UriError::Scheme(text.to_owned()))?;
    let (authority, query) = match rest.split_once('?') {
        Some((authority, query)) => (authority, Some(query)),
        None => (rest, None),
    };
    let tcp = match query.map(str::to_ascii_lowercase).as_deref() {
        None => None,
        Some("transport=udp") if scheme.is_turn() => Some(false),
        Some("transport=tcp") if scheme.is_turn() => Some(true),
        Some(_) => return Err(UriError::Query(query.unwrap_or_default().to_owned())),
    };
    let (host, port) = host_and_port(authority)?;
    let default = if scheme.is_secure() { DEFAULT_TLS_PORT } else { DEFAULT_PORT };
    Ok((ServerUri { scheme, host, port: port.unwrap_or(default), tcp }, port.is_some()))
}

/// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
pub fn host_and_port(authority: &str) -> Result<(Host, Option<u16>), UriError> {
    let wrong_host = || UriError::Host(authority.to_owned());
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (ip, after) = rest.split_once(']').ok_or_else(wrong_host)?;
            let ip: Ipv6Addr = ip.parse().map_err(|_| wrong_host())?;
            let port = match after {
                "" => None,
                after => Some(after.strip_prefix(':').ok_or_else(wrong_host)?),
            };
            (Host::Ip(IpAddr::V6(ip)), port)
        }
        None => {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            let host = match host.parse() {
                Ok(ip) => Host::Ip(IpAddr::V4(ip)),
                Err(_) if is_name(host) => Host::Name(host.to_owned()),
                Err(_) => return Err(wrong_host()),
            };
            (host, port)
        }
    };
    let port = port
        .map(|text| {
            text.parse().ok().filter(|port| *port != 0).ok_or_else(|| UriError::Port(text.to_owned()))
        })
        .transpose()?;
    Ok((host, port))
}

fn is_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= MAX_HOST
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfcs() {
        for (text, port, transport) in [
            ("stun:example.org", 3478, Transport::Udp),
            ("stuns:example.org", 5349, Transport::Tls),
            ("stun:example.org:8000", 8000, Transport::Udp),
            ("turn:example.org", 3478, Transport::Udp),
            ("turns:example.org", 5349, Transport::Tls),
            ("turn:example.org:8000", 8000, Transport::Udp),
            ("turn:example.org?transport=udp", 3478, Transport::Udp),
            ("turn:example.org?transport=tcp", 3478, Transport::Tcp),
            ("turns:example.org?transport=tcp", 5349, Transport::Tls),
            ("turns:example.org?transport=udp", 5349, Transport::Dtls),
            ("TURN:[2001:db8::1]:99?transport=TCP", 99, Transport::Tcp),
            ("turn:192.0.2.1", 3478, Transport::Udp),
        ] {
            let uri: ServerUri = text.parse().unwrap();
            assert_eq!((uri.port, uri.transport()), (port, transport), "{text}");
            assert_eq!(uri.to_string().parse(), Ok(uri), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "example.org",
            "http://example.org",
            "stun:",
            "stun:?",
            "stun://example.org",
            "stun:a b",
            "stun:a:0",
            "stun:a:70000",
            "stun:a:",
            "stun:[::1",
            "stun:[::1]x",
            "stun:[192.0.2.1]",
            "stun:2001:db8::1",
            "stun:a?transport=udp",
            "turn:a?transport=sctp",
            "turn:user@a",
            "stun:ä",
        ] {
            assert!(text.parse::<ServerUri>().is_err(), "{text}");
        }
    }
}
