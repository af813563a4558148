//! Where a signalling server is: what people type, and what is dialled.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::protocol::PATH;

/// The port of `thirl serve`'s signalling endpoint, where none is given.
pub const DEFAULT_PORT: u16 = 3480;

/// Most bytes of a server's address as text.
pub const MAX_SERVER_URL: usize = 255;

/// The address of a signalling server.
///
/// | typed | dialled |
/// |---|---|
/// | `example.org` | `ws://example.org:3480/v1/signal` |
/// | `192.0.2.1:80` | `ws://192.0.2.1:80/v1/signal` |
/// | `2001:db8::1`, `[2001:db8::1]` | `ws://[2001:db8::1]:3480/v1/signal` |
/// | `[2001:db8::1]:80` | `ws://[2001:db8::1]:80/v1/signal` |
/// | `wss://example.org/signal` | `wss://example.org:443/signal` |
///
/// A full URL without a port means what it means to a browser: 80, or 443 for `wss`; without a path, `/v1/signal`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerUrl {
    secure: bool,
    authority: Authority,
    path: String,
}

impl ServerUrl {
    /// Whether it is `wss`.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// The host to resolve: a name or an address, without brackets.
    pub fn host(&self) -> String {
        self.authority.host.to_string()
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.authority.port
    }

    /// `host:port`, which a proof of identity names as the server it is for.
    pub fn authority(&self) -> String {
        self.authority.to_string()
    }

    /// The shortest text that means the same.
    pub fn compact(&self) -> String {
        match (&self.authority.host, self.authority.port) {
            _ if self.secure || self.path != PATH => self.to_string(),
            (host, DEFAULT_PORT) => host.to_string(),
            _ => self.authority(),
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.secure { "wss" } else { "ws" }, self.authority, self.path)
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({self})")
    }
}

impl FromStr for ServerUrl {
    type Err = InvalidServerUrl;

    fn from_str(text: &str) -> Result<ServerUrl, InvalidServerUrl> {
        if text.len() > MAX_SERVER_URL {
            return Err(InvalidServerUrl::TooLong);
        }
        let url = parse_url(text)?;
        // What was left out in typing counts too, for it is said in full elsewhere.
        if url.to_string().len() > MAX_SERVER_URL { Err(InvalidServerUrl::TooLong) } else { Ok(url) }
    }
}

/// A name under which a server is reached, with or without a port: what a proof must name to be for this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName {
    host: Host,
    port: Option<u16>,
}

impl ServerName {
    /// Whether a proof that names `authority` (`host:port`) is for this server.
    pub(crate) fn covers(&self, authority: &str) -> bool {
        parse_authority(authority)
            .is_ok_and(|(host, port)| host == self.host && (self.port.is_none() || port == self.port))
    }
}

impl FromStr for ServerName {
    type Err = InvalidServerUrl;

    fn from_str(text: &str) -> Result<ServerName, InvalidServerUrl> {
        if text.len() > MAX_SERVER_URL {
            return Err(InvalidServerUrl::TooLong);
        }
        let (host, port) = parse_authority(text)?;
        Ok(ServerName { host, port })
    }
}

/// Why something is not the address of a server. The fault is with who typed it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidServerUrl {
    /// Too many bytes.
    #[error("a server's address has at most {MAX_SERVER_URL} characters")]
    TooLong,
    /// Another scheme than `ws` and `wss`.
    #[error("a server's address starts with ws:// or wss://, not {scheme}://, or is just HOST or HOST:PORT")]
    Scheme {
        /// The scheme, cut to 16 characters.
        scheme: String,
    },
    /// Not a host name or an IP address.
    #[error("the host is neither a name nor an IP address: give HOST, HOST:PORT, IPv6 or [IPv6]:PORT")]
    Host,
    /// Not a port.
    #[error("the port is not a number from 1 to 65535: give HOST:PORT or [IPv6]:PORT")]
    Port,
    /// Characters in the path that are not allowed, or a query, a fragment, a user.
    #[error("the path may hold letters, digits and -._~% only, and no query: give ws://HOST:PORT{PATH}")]
    Path,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Authority {
    host: Host,
    port: u16,
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    Name(String),
    Ip(IpAddr),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Ip(address) => address.fmt(f),
        }
    }
}

fn parse_url(text: &str) -> Result<ServerUrl, InvalidServerUrl> {
    let (secure, rest, default_port) = match text.split_once("://") {
        None => return bare(text),
        Some(("ws", rest)) => (false, rest, 80),
        Some(("wss", rest)) => (true, rest, 443),
        Some((scheme, _)) => {
            return Err(InvalidServerUrl::Scheme { scheme: scheme.chars().take(16).collect() });
        }
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() || path == "/" { PATH } else { path };
    if !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~%".contains(&byte)) {
        return Err(InvalidServerUrl::Path);
    }
    let (host, port) = parse_authority(authority)?;
    let authority = Authority { host, port: port.unwrap_or(default_port) };
    Ok(ServerUrl { secure, authority, path: path.to_owned() })
}

fn bare(text: &str) -> Result<ServerUrl, InvalidServerUrl> {
    let (host, port) = parse_authority(text)?;
    let authority = Authority { host, port: port.unwrap_or(DEFAULT_PORT) };
    Ok(ServerUrl { secure: false, authority, path: PATH.to_owned() })
}

/// `HOST`, `HOST:PORT`, bare IPv6, `[IPv6]`, `[IPv6]:PORT`.
fn parse_authority(text: &str) -> Result<(Host, Option<u16>), InvalidServerUrl> {
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Ok((Host::Ip(address.into()), None));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(InvalidServerUrl::Host)?;
        let address: Ipv6Addr = address.parse().map_err(|_| InvalidServerUrl::Host)?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(parse_port(port)?),
            None if rest.is_empty() => None,
            None => return Err(InvalidServerUrl::Port),
        };
        return Ok((Host::Ip(address.into()), port));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (text, None),
    };
    Ok((parse_host(host)?, port))
}

fn parse_port(text: &str) -> Result<u16, InvalidServerUrl> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port| digits && port != 0).ok_or(InvalidServerUrl::Port)
}

/// An IPv4 address or a name of letters, digits, `-` and `_` in labels of 1 to 63 (RFC 1035, section 2.3.4).
fn parse_host(text: &str) -> Result<Host, InvalidServerUrl> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Host::Ip(address));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    // A name whose last label is a number is a mistyped IPv4 address (WHATWG URL, "ends in a number").
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if name.len() > 253 || numeric || !name.split('.').all(label) {
        return Err(InvalidServerUrl::Host);
    }
    Ok(Host::Name(name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<String, InvalidServerUrl> {
        text.parse::<ServerUrl>().map(|url| url.to_string())
    }

    #[test]
    fn what_people_type_is_understood() {
        for (typed, dialled) in [
            ("example.org", "ws://example.org:3480/v1/signal"),
            ("Example.ORG.", "ws://example.org:3480/v1/signal"),
            ("localhost:80", "ws://localhost:80/v1/signal"),
            ("192.0.2.1", "ws://192.0.2.1:3480/v1/signal"),
            ("192.0.2.1:80", "ws://192.0.2.1:80/v1/signal"),
            ("2001:DB8::1", "ws://[2001:db8::1]:3480/v1/signal"),
            ("[2001:db8::1]", "ws://[2001:db8::1]:3480/v1/signal"),
            ("[2001:db8::1]:80", "ws://[2001:db8::1]:80/v1/signal"),
            ("::1", "ws://[::1]:3480/v1/signal"),
            ("ws://example.org", "ws://example.org:80/v1/signal"),
            ("ws://example.org:3480/", "ws://example.org:3480/v1/signal"),
            ("wss://example.org/a/b", "wss://example.org:443/a/b"),
            ("ws://[::1]:3480/v1/signal", "ws://[::1]:3480/v1/signal"),
        ] {
            assert_eq!(parse(typed).as_deref(), Ok(dialled), "{typed}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (typed, error) in [
            ("", InvalidServerUrl::Host),
            ("a b", InvalidServerUrl::Host),
            ("192.0.2.256", InvalidServerUrl::Host),
            ("user@example.org", InvalidServerUrl::Host),
            ("[::1", InvalidServerUrl::Host),
            ("[192.0.2.1]", InvalidServerUrl::Host),
            ("fe80::1%eth0", InvalidServerUrl::Port),
            ("[::1]80", InvalidServerUrl::Port),
            ("example.org:", InvalidServerUrl::Port),
            ("example.org:0", InvalidServerUrl::Port),
            ("example.org:+80", InvalidServerUrl::Port),
            ("example.org:65536", InvalidServerUrl::Port),
            ("https://example.org", InvalidServerUrl::Scheme { scheme: "https".into() }),
            ("ws://example.org/a?b", InvalidServerUrl::Path),
            ("ws://example.org/a\r\nHost: b", InvalidServerUrl::Path),
        ] {
            assert_eq!(parse(typed), Err(error), "{typed}");
        }
        assert_eq!(parse(&"a".repeat(256)), Err(InvalidServerUrl::TooLong));
        let long_name = ["a"; 124].join(".");
        assert_eq!(
            parse(&format!("wss://{long_name}")),
            Err(InvalidServerUrl::TooLong),
            "with port and path"
        );
    }

    #[test]
    fn the_compact_form_means_the_same() {
        for (typed, compact) in [
            ("ws://example.org:3480/v1/signal", "example.org"),
            ("ws://example.org/v1/signal", "example.org:80"),
            ("[::1]", "::1"),
            ("[::1]:80", "[::1]:80"),
            ("wss://example.org", "wss://example.org:443/v1/signal"),
            ("ws://example.org:3480/x", "ws://example.org:3480/x"),
        ] {
            let url: ServerUrl = typed.parse().unwrap();
            assert_eq!(url.compact(), compact);
            assert_eq!(compact.parse(), Ok(url));
        }
    }

    #[test]
    fn a_name_covers_what_was_dialled() {
        let any_port: ServerName = "Example.org".parse().unwrap();
        assert!(any_port.covers("example.org:3480") && any_port.covers("example.org:80"));
        assert!(!any_port.covers("example.com:3480") && !any_port.covers("") && !any_port.covers("[::"));
        let one_port: ServerName = "[::1]:3480".parse().unwrap();
        assert!(one_port.covers("[::1]:3480") && !one_port.covers("[::1]:3481") && !one_port.covers("::1"));
    }

    proptest! {
        #[test]
        fn whatever_parses_round_trips(text in "(wss?://)?[a-z0-9\\[\\]:./-]{0,40}") {
            if let Ok(url) = text.parse::<ServerUrl>() {
                prop_assert_eq!(url.to_string().parse(), Ok(url.clone()));
                prop_assert_eq!(url.compact().parse(), Ok(url));
            }
        }

        #[test]
        fn junk_never_panics(text in ".{0,300}") {
            let _ = text.parse::<ServerUrl>();
            let _ = text.parse::<ServerName>();
        }
    }
}
