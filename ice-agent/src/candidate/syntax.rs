//! The `candidate:` line (RFC 8839, section 5.1; `tcptype` of RFC 6544, section 4.5).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{Candidate, CandidateAddress, CandidateKind, CandidateTransport, ComponentId, TcpType};

/// A longer line is no honest one: bytes.
const MAX_LINE: usize = 1024;
/// "foundation = 1*32ice-char" (RFC 8839, section 5.1).
const MAX_FOUNDATION: usize = 32;

/// The line is no candidate: the fault of whoever wrote it. A peer's other candidates remain usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CandidateSyntaxError {
    /// A field is not there.
    #[error("the candidate ends before its {0}")]
    Missing(&'static str),
    /// A field cannot be read.
    #[error("the candidate's {field} cannot be {found:?}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What stands there.
        found: String,
    },
    /// Longer than 1024 bytes.
    #[error("the candidate is longer than 1024 bytes")]
    TooLong,
}

impl Candidate {
    /// Reads a line as peers write them: with or without `a=` and `candidate:`, any case, any ASCII white space, a foundation
    /// of any characters.
    pub fn parse(line: &str) -> Result<Candidate, CandidateSyntaxError> {
        let line = line.trim_ascii();
        let line = strip_prefix_ignoring_case(line, "a=").unwrap_or(line);
        read(strip_prefix_ignoring_case(line, "candidate:").unwrap_or(line).trim_ascii_start(), false)
    }

    /// Reads a line that must be as RFC 8839 writes it, from `candidate:` on.
    pub fn parse_strict(line: &str) -> Result<Candidate, CandidateSyntaxError> {
        let rest = line.strip_prefix("candidate:").ok_or(CandidateSyntaxError::Missing("\"candidate:\""))?;
        if rest.contains(|c: char| c.is_whitespace() && c != ' ') || rest.split(' ').any(str::is_empty) {
            return Err(invalid("white space", rest));
        }
        read(rest, true)
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match &self.transport {
            CandidateTransport::Udp => "udp",
            CandidateTransport::Tcp(_) => "tcp",
            CandidateTransport::Other(name) => name,
        };
        let (foundation, component, priority) = (&self.foundation, self.component.get(), self.priority);
        write!(f, "candidate:{foundation} {component} {transport} {priority} ")?;
        write_address(f, &self.address, "")?;
        write!(f, " typ {}", self.kind)?;
        if let Some(related) = &self.related {
            f.write_str(" raddr ")?;
            write_address(f, related, "rport ")?;
        }
        if let CandidateTransport::Tcp(ty) = self.transport {
            write!(f, " tcptype {ty}")?;
        }
        self.extensions.iter().try_for_each(|(name, value)| write!(f, " {name} {value}"))
    }
}

fn write_address(f: &mut fmt::Formatter<'_>, address: &CandidateAddress, port_word: &str) -> fmt::Result {
    match address {
        CandidateAddress::Ip(address) => write!(f, "{} {port_word}{}", address.ip(), address.port()),
        CandidateAddress::Unresolved { name, port } => write!(f, "{name} {port_word}{port}"),
    }
}

fn read(line: &str, strict: bool) -> Result<Candidate, CandidateSyntaxError> {
    if line.len() > MAX_LINE {
        return Err(CandidateSyntaxError::TooLong);
    }
    let mut words = line.split_ascii_whitespace();
    let mut next = |field| words.next().ok_or(CandidateSyntaxError::Missing(field));
    let foundation = foundation(next("foundation")?, strict)?;
    let component = next("component")?;
    let component = number(component, "component")
        .and_then(|n| ComponentId::new(n).ok_or(invalid("component", component)))?;
    let transport = next("transport")?;
    let priority = number(next("priority")?, "priority")?;
    let host = next("address")?;
    let address = address(host, number(next("port")?, "port")?)?;
    let typ = next("type")?;
    if !typ.eq_ignore_ascii_case("typ") {
        return Err(invalid("type", typ));
    }
    let kind = kind(next("type")?)?;
    let mut extensions: Vec<(String, String)> = Vec::new();
    while let Some(name) = words.next() {
        match words.next() {
            Some(value) => extensions.push((name.to_owned(), value.to_owned())),
            None if strict => return Err(CandidateSyntaxError::Missing("last extension's value")),
            None => break,
        }
    }
    let related = take_related(&mut extensions)?;
    let transport = read_transport(transport, &mut extensions)?;
    Ok(Candidate { foundation, component, transport, priority, address, kind, related, extensions })
}

fn foundation(word: &str, strict: bool) -> Result<String, CandidateSyntaxError> {
    let ice_char = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
    if strict && (word.len() > MAX_FOUNDATION || !word.chars().all(ice_char)) {
        return Err(invalid("foundation", word));
    }
    Ok(word.to_owned())
}

fn address(host: &str, port: u16) -> Result<CandidateAddress, CandidateSyntaxError> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // A zone says something on its own host only.
    let bare = bare.split_once('%').map_or(bare, |(ip, _)| ip);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(CandidateAddress::Ip(SocketAddr::new(ip, port)));
    }
    let name_char = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    if host.len() <= 253 && host.chars().all(name_char) && host.contains(|c: char| c.is_ascii_alphabetic()) {
        return Ok(CandidateAddress::Unresolved { name: host.to_owned(), port });
    }
    Err(invalid("address", host))
}

fn kind(word: &str) -> Result<CandidateKind, CandidateSyntaxError> {
    use CandidateKind::{Host, PeerReflexive, Relayed, ServerReflexive};
    [Host, ServerReflexive, PeerReflexive, Relayed]
        .into_iter()
        .find(|kind| word.eq_ignore_ascii_case(kind.as_str()))
        .ok_or_else(|| invalid("type", word))
}

fn take_related(
    extensions: &mut Vec<(String, String)>,
) -> Result<Option<CandidateAddress>, CandidateSyntaxError> {
    let Some(raddr) = take(extensions, "raddr") else { return Ok(None) };
    let port = match take(extensions, "rport") {
        Some(port) => number(&port, "rport")?,
        None => 0,
    };
    // For diagnosis only: what cannot be read is not worth a candidate.
    Ok(address(&raddr, port).ok())
}

fn read_transport(
    word: &str,
    extensions: &mut Vec<(String, String)>,
) -> Result<CandidateTransport, CandidateSyntaxError> {
    if word.eq_ignore_ascii_case("udp") {
        return Ok(CandidateTransport::Udp);
    }
    if !word.eq_ignore_ascii_case("tcp") {
        return Ok(CandidateTransport::Other(word.to_owned()));
    }
    let ty = take(extensions, "tcptype").ok_or(CandidateSyntaxError::Missing("tcptype"))?;
    match ty.to_ascii_lowercase().as_str() {
        "active" => Ok(CandidateTransport::Tcp(TcpType::Active)),
        "passive" => Ok(CandidateTransport::Tcp(TcpType::Passive)),
        "so" => Ok(CandidateTransport::Tcp(TcpType::SimultaneousOpen)),
        _ => Err(invalid("tcptype", &ty)),
    }
}

/// Takes all of this name out; the first counts.
fn take(extensions: &mut Vec<(String, String)>, name: &str) -> Option<String> {
    let mut taken = extensions.extract_if(.., |(key, _)| key.eq_ignore_ascii_case(name));
    let first = taken.next().map(|(_, value)| value);
    taken.for_each(drop);
    first
}

fn number<N: std::str::FromStr>(word: &str, field: &'static str) -> Result<N, CandidateSyntaxError> {
    // FromStr takes a plus sign, the grammar does not.
    match word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok()).flatten() {
        Some(number) => Ok(number),
        None => Err(invalid(field, word)),
    }
}

fn invalid(field: &'static str, found: &str) -> CandidateSyntaxError {
    CandidateSyntaxError::Invalid { field, found: found.chars().take(64).collect() }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_survive_the_round_trip() {
        for line in [
            "candidate:1 1 udp 2130706431 192.0.2.1 40000 typ host",
            "candidate:a+/9 2 udp 1694498815 198.51.100.7 5 typ srflx raddr 10.0.0.1 rport 40000",
            "candidate:3 1 udp 16777215 2001:db8::1 49152 typ relay raddr 198.51.100.7 rport 5 generation 0 ufrag abcd",
            "candidate:4 1 tcp 2105524479 192.0.2.1 9 typ host tcptype active network-id 3",
            "candidate:5 1 sctp 1 192.0.2.1 9 typ host",
            "candidate:6 1 udp 2113937151 3c6b1f5e-0000-4c4f-8e5a-1d2c3b4a5f60.local 54321 typ host",
        ] {
            assert_eq!(Candidate::parse_strict(line).unwrap().to_string(), line);
            assert_eq!(Candidate::parse(line).unwrap().to_string(), line);
        }
    }

    #[test]
    fn lenient_where_peers_are_sloppy() {
        let candidate = Candidate::parse(
            "a=candidate:Hc0a80001 1 UDP 2130706431  [fe80::1%eth0] 40000 TYP Host raddr 0.0.0.0 rport 0 odd\r\n",
        )
        .unwrap();
        assert_eq!(candidate.address.ip(), "[fe80::1]:40000".parse().ok());
        assert!(Candidate::parse_strict("candidate:1 1 udp  5 192.0.2.1 1 typ host").is_err());
    }

    #[test]
    fn what_comes_twice_counts_once() {
        let line =
            "candidate:1 1 udp 5 192.0.2.1 1 typ srflx raddr junk% rport 2 raddr 10.0.0.1 generation 0";
        let candidate = Candidate::parse(line).unwrap();
        assert_eq!(candidate.related, None);
        assert_eq!(Candidate::parse(&candidate.to_string()), Ok(candidate));
    }

    #[test]
    fn white_space_is_that_of_ascii_everywhere() {
        let candidate = Candidate::parse("\tcandidate:1 1 udp 5 192.0.2.1 1 typ host x a\u{b}").unwrap();
        assert_eq!(candidate.extensions, [("x".to_owned(), "a\u{b}".to_owned())]);
        assert_eq!(Candidate::parse(&candidate.to_string()), Ok(candidate));
    }

    #[test]
    fn says_what_is_wrong() {
        let message = |line| Candidate::parse(line).unwrap_err().to_string();
        assert_eq!(message("candidate:1 1 udp 5 192.0.2.1 1"), "the candidate ends before its type");
        assert_eq!(
            message("candidate:1 0 udp 5 192.0.2.1 1 typ host"),
            "the candidate's component cannot be \"0\""
        );
        assert_eq!(
            message("candidate:1 1 udp 5 192.0.2.1 65536 typ host"),
            "the candidate's port cannot be \"65536\""
        );
        assert_eq!(
            message("candidate:1 1 udp 5 1.2.3.400 1 typ host"),
            "the candidate's address cannot be \"1.2.3.400\""
        );
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "\\PC{0,200}") {
            if let Ok(candidate) = Candidate::parse(&line) {
                prop_assert!(Candidate::parse(&candidate.to_string()).is_ok());
            }
        }

        #[test]
        fn near_lines_do_not_panic(words in proptest::collection::vec(
            prop_oneof!["candidate:", "typ", "host", "udp", "tcp", "1", "raddr", "192.0.2.1", "::1", "tcptype", "[a-z%.:]{0,6}"], 0..14)) {
            if let Ok(candidate) = Candidate::parse(&words.join(" ")) {
                prop_assert!(Candidate::parse(&candidate.to_string()).is_ok());
            }
        }
    }
}
