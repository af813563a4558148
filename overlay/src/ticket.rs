//! The ticket: what `thirl listen` prints and `thirl ping` takes. A node's id and the servers it listens at.
//!
//! As text it is `thirl1` and z-base-32, so a double click selects all of it and no shell reads anything into it. The
//! digit is the version. What is encoded is `node id (32) ‖ for each server: length (1) ‖ its shortest text`. Parsing is
//! strict, so a ticket has one spelling, and one that was cut off is not taken for another.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::encoding::ZBASE32;
use crate::identity::{InvalidNodeId, NodeId};
use crate::signalling::{InvalidServerUrl, MAX_SERVER_URL, ServerUrl};

/// Most servers in a ticket.
pub const MAX_SERVERS: usize = 3;

/// Most characters of a ticket: its prefix, and five bits a character.
pub const MAX_TICKET: usize = PREFIX.len() + 1 + ((32 + MAX_SERVERS * (1 + MAX_SERVER_URL)) * 8).div_ceil(5);

const PREFIX: &str = "thirl";
const VERSION: char = '1';

/// How to reach a node.
///
/// ```
/// use thirl_overlay::{NodeKey, Ticket};
///
/// let key = NodeKey::from_seed(&[7; 32]);
/// let ticket = Ticket::new(key.id(), vec!["example.org".parse()?])?;
/// let text = ticket.to_string();
/// assert!(text.starts_with("thirl1"));
/// assert_eq!(text.parse::<Ticket>()?, ticket);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    node: NodeId,
    servers: Vec<ServerUrl>,
}

impl Ticket {
    /// A ticket for `node`, which listens at `servers`: one to [`MAX_SERVERS`], the preferred one first.
    pub fn new(node: NodeId, servers: Vec<ServerUrl>) -> Result<Ticket, InvalidTicket> {
        match servers.len() {
            0 => Err(InvalidTicket::NoServer),
            1..=MAX_SERVERS => Ok(Ticket { node, servers }),
            _ => Err(InvalidTicket::TooManyServers),
        }
    }

    /// Whom the ticket leads to.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Where it listens: at least one.
    pub fn servers(&self) -> &[ServerUrl] {
        &self.servers
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.node.as_bytes().to_vec();
        for server in &self.servers {
            let text = server.compact();
            bytes.push(u8::try_from(text.len()).map_err(|_| fmt::Error)?);
            bytes.extend_from_slice(text.as_bytes());
        }
        write!(f, "{PREFIX}{VERSION}{}", ZBASE32.encode(&bytes))
    }
}

impl FromStr for Ticket {
    type Err = InvalidTicket;

    /// White space around the ticket is ignored.
    fn from_str(text: &str) -> Result<Ticket, InvalidTicket> {
        let text = text.trim();
        let mut rest = text.strip_prefix(PREFIX).ok_or(InvalidTicket::NotATicket)?.chars();
        match rest.next() {
            Some(VERSION) => {}
            Some(version) if version.is_ascii_digit() => return Err(InvalidTicket::Version { version }),
            _ => return Err(InvalidTicket::NotATicket),
        }
        if text.len() > MAX_TICKET {
            return Err(InvalidTicket::TooLong);
        }
        let bytes = decode(rest.as_str(), PREFIX.len() + 1)?;
        let (node, mut rest) = bytes.split_first_chunk::<32>().ok_or(InvalidTicket::CutOff)?;
        let node = NodeId::from_bytes(node)?;
        let mut servers = Vec::new();
        while let Some((&length, tail)) = rest.split_first() {
            let (server, tail) = tail.split_at_checked(length.into()).ok_or(InvalidTicket::CutOff)?;
            servers.push(parse_server(server)?);
            rest = tail;
        }
        Ticket::new(node, servers)
    }
}

impl Serialize for Ticket {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ticket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ticket, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Why something is not a ticket. The fault is with who gave it, or with how it was copied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidTicket {
    /// Another text.
    #[error(
        "not a ticket: a ticket starts with `{PREFIX}{VERSION}`; `thirl listen` on the other machine prints one"
    )]
    NotATicket,
    /// Made by a later build.
    #[error("a ticket of version {version}, this build knows {VERSION}: update Thirl on this machine")]
    Version {
        /// Its version.
        version: char,
    },
    /// Too many characters.
    #[error("a ticket has at most {MAX_TICKET} characters: copy the ticket alone")]
    TooLong,
    /// A character that no ticket has.
    #[error("`{found}` at character {position} is in no ticket: copy it again")]
    Character {
        /// The character.
        found: char,
        /// Its place, counted from 1.
        position: usize,
    },
    /// The end is missing.
    #[error("the ticket is cut off: copy it whole")]
    CutOff,
    /// It names no server.
    #[error("the ticket names no server: run `thirl listen --server HOST` again")]
    NoServer,
    /// It names more servers than a ticket may.
    #[error("a ticket names at most {MAX_SERVERS} servers")]
    TooManyServers,
    /// The node id is wrong.
    #[error("the ticket's node id is damaged, copy it again: {0}")]
    Node(#[from] InvalidNodeId),
    /// A server's address is wrong.
    #[error("a server in the ticket is damaged, copy it again: {0}")]
    Server(InvalidServerUrl),
    /// A server's address has another spelling than its shortest.
    #[error("a server in the ticket is damaged, copy it again: not its shortest spelling")]
    ServerSpelling,
}

fn decode(text: &str, offset: usize) -> Result<Vec<u8>, InvalidTicket> {
    let valid = |c: char| {
        c.is_ascii_digit() && c != '0' && c != '2' || c.is_ascii_lowercase() && c != 'l' && c != 'v'
    };
    if let Some((index, found)) = text.chars().enumerate().find(|&(_, c)| !valid(c)) {
        return Err(InvalidTicket::Character { found, position: offset + index + 1 });
    }
    // Only the length or the bits beyond the last byte can be wrong now.
    ZBASE32.decode(text.as_bytes()).map_err(|_| InvalidTicket::CutOff)
}

fn parse_server(bytes: &[u8]) -> Result<ServerUrl, InvalidTicket> {
    let text = str::from_utf8(bytes).map_err(|_| InvalidTicket::Server(InvalidServerUrl::Host))?;
    let server: ServerUrl = text.parse().map_err(InvalidTicket::Server)?;
    if server.compact() != text {
        return Err(InvalidTicket::ServerSpelling);
    }
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeKey;
    use proptest::prelude::*;

    fn ticket(servers: &[&str]) -> Ticket {
        let servers = servers.iter().map(|server| server.parse().unwrap()).collect();
        Ticket::new(NodeKey::from_seed(&[1; 32]).id(), servers).unwrap()
    }

    fn raw(bytes: &[u8]) -> String {
        format!("thirl1{}", ZBASE32.encode(bytes))
    }

    #[test]
    fn a_ticket_is_short_and_safe_to_copy() {
        let text = ticket(&["turn.example.org"]).to_string();
        assert_eq!(text.len(), 85);
        assert!(text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "{text}");
        assert_eq!(format!("  {text}\r\n").parse(), Ok(ticket(&["turn.example.org"])));
    }

    #[test]
    fn several_servers_keep_their_order() {
        let ticket = ticket(&["b.example", "[::1]:80", "wss://a.example/x"]);
        assert_eq!(ticket.to_string().parse(), Ok(ticket));
    }

    #[test]
    fn the_longest_ticket_fits() {
        let longest = format!("ws://{}.example:3480/{}", "a".repeat(63), "b".repeat(173));
        assert_eq!(longest.len(), MAX_SERVER_URL);
        let text = ticket(&[&longest, &longest, &longest]).to_string();
        assert_eq!(text.len(), MAX_TICKET);
        assert!(text.parse::<Ticket>().is_ok());
        assert_eq!(format!("{text}y").parse::<Ticket>(), Err(InvalidTicket::TooLong));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let good = ticket(&["example.org"]).to_string();
        let id = *NodeKey::from_seed(&[1; 32]).id().as_bytes();
        for (text, error) in [
            ("".into(), InvalidTicket::NotATicket),
            ("example.org".into(), InvalidTicket::NotATicket),
            ("thirl".into(), InvalidTicket::NotATicket),
            (good.replace("thirl1", "thirl2"), InvalidTicket::Version { version: '2' }),
            (good.replace("thirl1", "thirl1-"), InvalidTicket::Character { found: '-', position: 7 }),
            ("thirl1".into(), InvalidTicket::CutOff),
            (raw(&id), InvalidTicket::NoServer),
            (raw(&[id.as_slice(), &[1, b'a'].repeat(4)].concat()), InvalidTicket::TooManyServers),
            (raw(&[id.as_slice(), &[2, b'a']].concat()), InvalidTicket::CutOff),
            (raw(&[id.as_slice(), &[1, b'A']].concat()), InvalidTicket::ServerSpelling),
            (raw(&[id.as_slice(), &[1, b'?']].concat()), InvalidTicket::Server(InvalidServerUrl::Host)),
            (raw(&[[0; 32].as_slice(), &[1, b'a']].concat()), InvalidTicket::Node(InvalidNodeId::Weak)),
        ] {
            assert_eq!(text.parse::<Ticket>(), Err(error), "{text}");
        }
        for cut in 0..good.len() {
            assert!(good[..cut].parse::<Ticket>().is_err(), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn tickets_round_trip(
            seed: [u8; 32],
            servers in proptest::collection::vec("[a-z]{1,20}(\\.[a-z]{1,9}){0,2}(:[1-9][0-9]{0,3})?", 1..=MAX_SERVERS),
        ) {
            let servers = servers.iter().map(|server| server.parse().unwrap()).collect();
            let ticket = Ticket::new(NodeKey::from_seed(&seed).id(), servers).unwrap();
            let text = ticket.to_string();
            prop_assert!(text.len() <= MAX_TICKET);
            prop_assert_eq!(text.parse(), Ok(ticket));
        }

        #[test]
        fn whatever_parses_is_spelt_that_way(text in "thirl1[a-z1-9]{52,120}") {
            if let Ok(ticket) = text.parse::<Ticket>() {
                prop_assert_eq!(ticket.to_string(), text);
            }
        }

        #[test]
        fn junk_never_panics(text in "(thirl1?)?.{0,200}") {
            let _ = text.parse::<Ticket>();
        }
    }
}
