//! Where servers send their clients (RFC 8489, section 10).

use std::net::{IpAddr, SocketAddr};

/// So many servers are asked after the first: a chain of more is taken for a fault.
const MAX_HOPS: usize = 4;

/// The servers that one allocation was asked of, each on the word of the one before.
///
/// ```
/// use thirl_ice_agent::turn::{Redirection, RedirectionError};
///
/// let [a, b] = ["203.0.113.1:3478", "203.0.113.2:3478"].map(|server| server.parse().unwrap());
/// let mut redirection = Redirection::from(a);
/// assert_eq!(redirection.follow(b), Ok(()));
/// assert_eq!(redirection.follow(a), Err(RedirectionError::Circle));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirection {
    asked: Vec<SocketAddr>,
}

/// The servers' fault: nobody else is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RedirectionError {
    /// That server was asked already (RFC 8489, section 10: "MUST ignore the redirection").
    #[error("a server that was asked before")]
    Circle,
    /// There were too many.
    #[error("one more server, after {MAX_HOPS} others")]
    TooMany,
    /// "The alternate server's address family ... MUST be the same" (RFC 8489, section 14.15).
    #[error("an address of the other family")]
    OtherFamily,
    /// Nobody can be there.
    #[error("an address where no server can be")]
    NoServer,
}

impl From<SocketAddr> for Redirection {
    /// Asked nobody but the first server.
    fn from(server: SocketAddr) -> Redirection {
        Redirection { asked: vec![server] }
    }
}

impl Redirection {
    /// Whether another server than the first is asked.
    pub fn has_moved(&self) -> bool {
        self.asked.len() > 1
    }

    /// Whether the server that is named is to be asked.
    pub fn follow(&mut self, to: SocketAddr) -> Result<(), RedirectionError> {
        let from_ipv4 = self.asked.first().is_none_or(SocketAddr::is_ipv4);
        let nobody = match to.ip() {
            IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast(),
        };
        match () {
            () if nobody || to.port() == 0 => Err(RedirectionError::NoServer),
            () if to.is_ipv4() != from_ipv4 => Err(RedirectionError::OtherFamily),
            () if self.asked.contains(&to) => Err(RedirectionError::Circle),
            () if self.asked.len() > MAX_HOPS => Err(RedirectionError::TooMany),
            () => {
                self.asked.push(to);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_asked_twice_and_no_chain_is_long() {
        let server = |n: usize| SocketAddr::from(([203, 0, 113, 9], u16::try_from(3478 + n).unwrap()));
        let mut redirection = Redirection::from(server(0));
        for n in 1..=MAX_HOPS {
            assert_eq!(redirection.follow(server(n)), Ok(()));
            assert_eq!(redirection.follow(server(n)), Err(RedirectionError::Circle));
            assert_eq!(redirection.follow(server(0)), Err(RedirectionError::Circle));
        }
        assert_eq!(redirection.follow(server(MAX_HOPS + 1)), Err(RedirectionError::TooMany));
    }

    #[test]
    fn nobody_is_asked_where_no_server_can_be() {
        let mut redirection = Redirection::from("203.0.113.9:3478".parse::<SocketAddr>().unwrap());
        for to in ["0.0.0.0:3478", "224.0.0.1:3478", "255.255.255.255:1", "203.0.113.10:0", "[::]:1"] {
            assert_eq!(redirection.follow(to.parse().unwrap()), Err(RedirectionError::NoServer), "{to}");
        }
        let ipv6 = "[2001:db8::1]:3478".parse().unwrap();
        assert_eq!(redirection.follow(ipv6), Err(RedirectionError::OtherFamily));
    }
}
