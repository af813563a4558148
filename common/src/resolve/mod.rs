//! From a STUN or TURN URI to the servers to try, in order: RFC 5928 for `turn:` and `turns:`, RFC 8489, section 8.1, for
//! `stun:` and `stuns:`.
//!
//! 1. [`Target`]: a URI, and whether it named a port: if it did, SRV and NAPTR are not asked.
//! 2. [`Resolution`]: which DNS queries to make, in which order, and what their answers mean. It does no I/O:
//!    [`Resolution::poll_query`] gives the next query, [`Resolution::handle_answer`] takes its answer, and when there is no
//!    query any more, [`Resolution::servers`] are all.
//! 3. `Resolver` (feature `resolve`): the thin driver over hickory-resolver.
//!
//! ```
//! use thirl_common::net::Transport;
//! use thirl_common::resolve::{Query, Records, Resolution, SrvRecord, Target};
//!
//! let target: Target = "turn:example.org?transport=udp".parse()?;
//! let mut resolution = Resolution::new(&target, &[Transport::Udp], 1)?;
//! while let Some(query) = resolution.poll_query() {
//!     resolution.handle_answer(match query {
//!         Query::Srv(name) => {
//!             assert_eq!(name, "_turn._udp.example.org");
//!             Records::Srv(vec![SrvRecord { priority: 0, weight: 0, port: 3000, target: "a.example.org".into() }])
//!         }
//!         Query::Addresses(_) => Records::Addresses(vec!["192.0.2.1".parse()?]),
//!         Query::Naptr(_) => Records::Naptr(vec![]),
//!     });
//! }
//! assert_eq!(resolution.servers()[0].addr, "192.0.2.1:3000".parse()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "resolve")]
mod driver;
mod order;
mod resolution;

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

#[cfg(feature = "resolve")]
pub use driver::{Resolver, ResolverError};
pub use resolution::{Resolution, UnsupportedTransport};

use crate::net::Transport;
use crate::uri::{ServerUri, UriError};

/// What to resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The URI, whose port is the scheme's own if it named none.
    pub uri: ServerUri,
    /// Whether it named a port.
    pub names_port: bool,
}

impl FromStr for Target {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        crate::uri::parse(text).map(|(uri, names_port)| Target { uri, names_port })
    }
}

/// A server to try. A certificate of its must be for the URI's host, not for where DNS led (RFC 5928, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResolvedServer {
    /// How to speak to it.
    pub transport: Transport,
    /// Where it is.
    pub addr: SocketAddr,
}

/// A question to DNS. Names have no dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Query {
    /// NAPTR records (RFC 3403).
    Naptr(String),
    /// SRV records (RFC 2782).
    Srv(String),
    /// A and AAAA records, or what the system knows of the name.
    Addresses(String),
}

/// What DNS answers. None at all is also what a failed query is taken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Records {
    /// To [`Query::Naptr`].
    Naptr(Vec<NaptrRecord>),
    /// To [`Query::Srv`].
    Srv(Vec<SrvRecord>),
    /// To [`Query::Addresses`].
    Addresses(Vec<IpAddr>),
}

/// A NAPTR record (RFC 3403, section 4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NaptrRecord {
    /// Lower ones first.
    pub order: u16,
    /// Lower ones first within the same order.
    pub preference: u16,
    /// `S`: the replacement has SRV records; `A`: it has addresses; empty: it has NAPTR records.
    pub flags: String,
    /// `RELAY:turn.udp:turn.tcp` and the like.
    pub services: String,
    /// Empty in what RFC 3958 lets stand.
    pub regexp: String,
    /// Where to go on.
    pub replacement: String,
}

/// An SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvRecord {
    /// Lower ones first.
    pub priority: u16,
    /// How often it comes first among those of its priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host; `.` or nothing if the service is not to be had.
    pub target: String,
}
