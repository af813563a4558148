//! Why there is no mapping, in words for the person who owns the gateway.

use std::fmt;

/// A protocol by which a gateway opens ports; the earlier is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Port Control Protocol (RFC 6887).
    Pcp,
    /// NAT Port Mapping Protocol (RFC 6886): IPv4 only.
    NatPmp,
    /// UPnP Internet Gateway Device, WANIPConnection or WANPPPConnection: IPv4 only here.
    Upnp,
}

impl Protocol {
    /// All, the preferred first.
    pub const ALL: [Protocol; 3] = [Protocol::Pcp, Protocol::NatPmp, Protocol::Upnp];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Pcp => "PCP",
            Protocol::NatPmp => "NAT-PMP",
            Protocol::Upnp => "UPnP",
        })
    }
}

/// The result of a PCP or NAT-PMP request, by its name in RFC 6887, section 7.4; NAT-PMP's codes of RFC 6886, section
/// 3.5, are the same things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResultCode {
    /// It was done.
    Success,
    /// The server speaks another version.
    UnsupportedVersion,
    /// Forbidden to this client, or switched off.
    NotAuthorized,
    /// The server does not understand the request.
    MalformedRequest,
    /// The server does not do this.
    UnsupportedOpcode,
    /// The server does not know an option; none is sent here.
    UnsupportedOption,
    /// The server does not understand an option; none is sent here.
    MalformedOption,
    /// The gateway has no external address, for now.
    NetworkFailure,
    /// The gateway is full, for now.
    NoResources,
    /// The gateway does not map this transport.
    UnsupportedProtocol,
    /// This client has as many mappings as it may.
    UserExceededQuota,
    /// The suggested external port or address is not to be had.
    CannotProvideExternal,
    /// The request comes from another address than it names.
    AddressMismatch,
    /// Too many peers in a filter; none is sent here.
    ExcessiveRemotePeers,
    /// A code of another time.
    Other(u16),
}

use ResultCode::*;

/// PCP's codes, each at its number.
const PCP: [ResultCode; 14] = [
    Success,
    UnsupportedVersion,
    NotAuthorized,
    MalformedRequest,
    UnsupportedOpcode,
    UnsupportedOption,
    MalformedOption,
    NetworkFailure,
    NoResources,
    UnsupportedProtocol,
    UserExceededQuota,
    CannotProvideExternal,
    AddressMismatch,
    ExcessiveRemotePeers,
];

/// NAT-PMP's codes, each at its number.
const NAT_PMP: [ResultCode; 6] =
    [Success, UnsupportedVersion, NotAuthorized, NetworkFailure, NoResources, UnsupportedOpcode];

impl ResultCode {
    pub(super) fn of_pcp(code: u8) -> ResultCode {
        PCP.get(usize::from(code)).copied().unwrap_or(Other(code.into()))
    }

    pub(super) fn of_nat_pmp(code: u16) -> ResultCode {
        NAT_PMP.get(usize::from(code)).copied().unwrap_or(Other(code))
    }

    pub(super) fn to_pcp(self) -> u8 {
        u8::try_from(self.number_in(&PCP)).unwrap_or(u8::MAX)
    }

    pub(super) fn to_nat_pmp(self) -> u16 {
        self.number_in(&NAT_PMP)
    }

    fn number_in(self, codes: &[ResultCode]) -> u16 {
        match self {
            Other(code) => code,
            _ => (0..).zip(codes).find(|(_, code)| **code == self).map_or(u16::MAX, |(number, _)| number),
        }
    }

    /// Whether the same request may succeed later: "short lifetime" errors of RFC 6887, section 7.4.
    pub fn is_temporary(self) -> bool {
        matches!(self, NetworkFailure | NoResources | UserExceededQuota)
    }
}

impl fmt::Display for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Success => "SUCCESS",
            UnsupportedVersion => "UNSUPP_VERSION: the router speaks another version",
            NotAuthorized => "NOT_AUTHORIZED: the router refuses mappings: switch them on in its settings",
            MalformedRequest => "MALFORMED_REQUEST: the router does not understand a request that is well formed",
            UnsupportedOpcode => "UNSUPP_OPCODE: the router makes no mappings",
            UnsupportedOption => "UNSUPP_OPTION: the router complains of an option that was not sent",
            MalformedOption => "MALFORMED_OPTION: the router complains of an option that was not sent",
            NetworkFailure => {
                "NETWORK_FAILURE: the router has no external address now: see whether it is online"
            }
            NoResources => "NO_RESOURCES: the router has no room for another mapping: remove some in its settings",
            UnsupportedProtocol => "UNSUPP_PROTOCOL: the router does not map this transport",
            UserExceededQuota => "USER_EX_QUOTA: this machine has as many mappings as the router allows it",
            CannotProvideExternal => {
                "CANNOT_PROVIDE_EXTERNAL: the router cannot give an external port"
            }
            AddressMismatch => {
                "ADDRESS_MISMATCH: the request reached the router from another address: there is a NAT before it"
            }
            ExcessiveRemotePeers => "EXCESSIVE_REMOTE_PEERS: the router complains of a filter that was not sent",
            Other(code) => return write!(f, "result code {code}: unknown to the standards"),
        })
    }
}

/// Why a UPnP request failed; the numbers are those of WANIPConnection:1 and :2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpnpError {
    /// No gateway answered the search.
    #[error("no gateway answered the search")]
    NotFound,
    /// 606.
    #[error(
        "606 NotAuthorized: the router refuses mappings for this machine: switch them on in its settings"
    )]
    NotAuthorized,
    /// 718: the port is mapped to another host.
    #[error("718 ConflictInMappingEntry: the external ports that were tried are taken")]
    Conflict,
    /// 724: the external port has to be the internal one.
    #[error("724 SamePortValuesRequired: the router maps a port to the same one only, which is taken")]
    SamePortRequired,
    /// 725: mappings do not expire.
    #[error(
        "725 OnlyPermanentLeasesSupported: the router makes only mappings that stay until they are removed"
    )]
    OnlyPermanent,
    /// Another error code, with the gateway's words for it.
    #[error("{0} {1}")]
    Code(u16, String),
    /// No answer, or none that makes sense.
    #[error("{0}")]
    Broken(String),
}

/// Why there is no mapping.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MappingError {
    /// Nobody answered.
    #[error("the router does not answer")]
    Silent,
    /// The gateway says that nobody listens on port 5351.
    #[error("the router's UDP port 5351 is closed")]
    Closed,
    /// PCP or NAT-PMP says why.
    #[error("{0}")]
    Refused(ResultCode),
    /// UPnP says why.
    #[error("{0}")]
    Upnp(UpnpError),
    /// The protocol is for IPv4.
    #[error("it is for IPv4 only")]
    Ipv4Only,
    /// The mapping that was granted makes no sense.
    #[error("the router's answer makes no sense")]
    Nonsense,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_number() {
        (0..=255).for_each(|code| assert_eq!(ResultCode::of_pcp(code).to_pcp(), code));
        (0..=u16::MAX).for_each(|code| assert_eq!(ResultCode::of_nat_pmp(code).to_nat_pmp(), code));
        assert_eq!(ResultCode::of_pcp(2), ResultCode::of_nat_pmp(2));
        assert_eq!([ResultCode::of_pcp(7), ResultCode::of_pcp(8)], [3, 4].map(ResultCode::of_nat_pmp));
    }
}
