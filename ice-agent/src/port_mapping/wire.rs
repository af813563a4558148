//! The datagrams of PCP (RFC 6887) and NAT-PMP (RFC 6886). Both go to one port of the gateway, and the first byte, the
//! version, tells them apart.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thirl_common::net::Transport;

use super::error::ResultCode;

/// Where PCP and NAT-PMP servers listen, over UDP (RFC 6887, section 19.1; RFC 6886, section 3.1).
pub const SERVER_PORT: u16 = 5351;

/// The longest PCP message, in bytes (RFC 6887, section 7).
pub const MAX_LEN: usize = 1100;

/// The version of RFC 6887, section 7.1.
const PCP_VERSION: u8 = 2;
/// The version of RFC 6886, section 3.
const NAT_PMP_VERSION: u8 = 0;

/// The first byte after the version: set in a response, clear in a request. R of RFC 6887, section 7; 128 of RFC 6886.
const RESPONSE: u8 = 0x80;

const ANNOUNCE: u8 = 0; // RFC 6887, section 14.1
const MAP: u8 = 1; // RFC 6887, section 11
const ADDRESS: u8 = 0; // RFC 6886, section 3.2
const MAP_UDP: u8 = 1; // RFC 6886, section 3.3
const MAP_TCP: u8 = 2;

/// PCP's common header, in bytes (RFC 6887, sections 7.1 and 7.2).
const PCP_HEADER: usize = 24;
/// What MAP adds to it (section 11.1).
const PCP_MAP: usize = 36;

/// IANA's protocol numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The mapping nonce, by which a client knows answers and a server the mapping's owner (RFC 6887, section 11.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(pub [u8; 12]);

/// The fields of MAP, which requests and responses share (RFC 6887, section 11.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// The mapping nonce.
    pub nonce: Nonce,
    /// What is mapped: over a stream TCP, else UDP.
    pub transport: Transport,
    /// The port of this host.
    pub internal_port: u16,
    /// Suggested in a request, 0 for any; assigned in a response.
    pub external_port: u16,
    /// Suggested in a request, all zeros for any; assigned in a response.
    pub external_ip: IpAddr,
}

/// What a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// PCP: is there a server? (RFC 6887, section 14.1.1)
    Announce {
        /// The address that the request is sent from.
        client: IpAddr,
    },
    /// PCP: make, renew or delete a mapping.
    Map {
        /// The address that the request is sent from.
        client: IpAddr,
        /// In seconds; 0 deletes.
        lifetime: u32,
        /// Which mapping.
        map: Map,
    },
    /// NAT-PMP: what is the external address? (RFC 6886, section 3.2)
    ExternalAddress,
    /// NAT-PMP: make, renew or delete a mapping (RFC 6886, sections 3.3 and 3.4).
    NatPmpMap {
        /// What is mapped: over a stream TCP, else UDP.
        transport: Transport,
        /// The port of this host.
        internal_port: u16,
        /// The suggestion, 0 for any and to delete.
        external_port: u16,
        /// In seconds; 0 deletes.
        lifetime: u32,
    },
}

/// What a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// PCP, of either opcode.
    Pcp {
        /// The outcome.
        result: ResultCode,
        /// Of the mapping, or how long this error is likely to last: seconds.
        lifetime: u32,
        /// Since the server lost its mappings, seconds.
        epoch: u32,
        /// The mapping, unless the request was ANNOUNCE.
        map: Option<Map>,
    },
    /// NAT-PMP: the external address.
    ExternalAddress {
        /// Since the server lost its mappings, seconds.
        epoch: u32,
        /// The address, or why there is none.
        external: Result<Ipv4Addr, ResultCode>,
    },
    /// NAT-PMP: a mapping.
    NatPmpMap {
        /// Since the server lost its mappings, seconds.
        epoch: u32,
        /// The outcome.
        result: ResultCode,
        /// What is mapped.
        transport: Transport,
        /// The port of this host; `None` in an error response without one.
        internal_port: Option<u16>,
        /// The assigned port.
        external_port: u16,
        /// In seconds.
        lifetime: u32,
    },
    /// The request was of a version that the server does not speak.
    UnsupportedVersion {
        /// The version that it does.
        speaks: Version,
    },
}

/// The protocol of a server's refusal to speak another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// NAT-PMP (RFC 6886, section 3.5; RFC 6887, appendix A).
    NatPmp,
    /// PCP of RFC 6887 (section 9).
    Pcp,
    /// One of another time.
    Other(u8),
}

impl Request {
    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        match *self {
            Request::Announce { client } => pcp_request(ANNOUNCE, 0, client),
            Request::Map { client, lifetime, map } => {
                let mut bytes = pcp_request(MAP, lifetime, client);
                map.write(&mut bytes);
                bytes
            }
            Request::ExternalAddress => vec![NAT_PMP_VERSION, ADDRESS],
            Request::NatPmpMap { transport, internal_port, external_port, lifetime } => {
                let mut bytes = vec![NAT_PMP_VERSION, nat_pmp_opcode(transport), 0, 0];
                bytes.extend(internal_port.to_be_bytes());
                bytes.extend(external_port.to_be_bytes());
                bytes.extend(lifetime.to_be_bytes());
                bytes
            }
        }
    }

    /// Reads a datagram as a server would; `None` if it is no request.
    pub fn parse(bytes: &[u8]) -> Option<Request> {
        let mut reader = Reader(bytes);
        match reader.take::<2>()? {
            [NAT_PMP_VERSION, ADDRESS] => Some(Request::ExternalAddress),
            [NAT_PMP_VERSION, opcode @ (MAP_UDP | MAP_TCP)] => {
                reader.take::<2>()?;
                Some(Request::NatPmpMap {
                    transport: if opcode == MAP_TCP { Transport::Tcp } else { Transport::Udp },
                    internal_port: reader.u16()?,
                    external_port: reader.u16()?,
                    lifetime: reader.u32()?,
                })
            }
            [PCP_VERSION, opcode @ (ANNOUNCE | MAP)] if is_pcp_length(bytes.len()) => {
                reader.take::<2>()?;
                let lifetime = reader.u32()?;
                let client = reader.address()?;
                match opcode {
                    ANNOUNCE => Some(Request::Announce { client }),
                    _ => Some(Request::Map { client, lifetime, map: Map::read(&mut reader)? }),
                }
            }
            _ => None,
        }
    }
}

impl Response {
    /// Reads what came from a gateway's [`SERVER_PORT`]; `None` if it is no response to anything that is asked here.
    pub fn parse(bytes: &[u8]) -> Option<Response> {
        let mut reader = Reader(bytes);
        let [version, opcode] = reader.take()?;
        if opcode & RESPONSE == 0 {
            return None;
        }
        match version {
            NAT_PMP_VERSION => parse_nat_pmp(opcode & !RESPONSE, reader),
            _ => parse_pcp(version, opcode & !RESPONSE, bytes.len(), reader),
        }
    }

    /// The datagram, as a server would send it.
    pub fn encode(&self) -> Vec<u8> {
        match *self {
            Response::Pcp { result, lifetime, epoch, map } => {
                let opcode = if map.is_some() { MAP } else { ANNOUNCE };
                let mut bytes = pcp_response(PCP_VERSION, opcode, result, lifetime, epoch);
                if let Some(map) = map {
                    map.write(&mut bytes);
                }
                bytes
            }
            Response::ExternalAddress { epoch, external } => {
                let result = external.err().unwrap_or(ResultCode::Success);
                let mut bytes = nat_pmp_response(ADDRESS, result, epoch);
                bytes.extend(external.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
                bytes
            }
            Response::NatPmpMap { epoch, result, transport, internal_port, external_port, lifetime } => {
                let mut bytes = nat_pmp_response(nat_pmp_opcode(transport), result, epoch);
                if let Some(internal_port) = internal_port {
                    bytes.extend(internal_port.to_be_bytes());
                    bytes.extend(external_port.to_be_bytes());
                    bytes.extend(lifetime.to_be_bytes());
                }
                bytes
            }
            Response::UnsupportedVersion { speaks } => {
                let result = ResultCode::UnsupportedVersion;
                match speaks {
                    Version::NatPmp => nat_pmp_response(ADDRESS, result, 0),
                    Version::Pcp => pcp_response(PCP_VERSION, ANNOUNCE, result, 0, 0),
                    Version::Other(version) => pcp_response(version, ANNOUNCE, result, 0, 0),
                }
            }
        }
    }
}

fn parse_nat_pmp(opcode: u8, mut reader: Reader<'_>) -> Option<Response> {
    let result = ResultCode::of_nat_pmp(reader.u16()?);
    if result == ResultCode::UnsupportedVersion {
        return Some(Response::UnsupportedVersion { speaks: Version::NatPmp });
    }
    let epoch = reader.u32()?;
    let failed = result != ResultCode::Success;
    match opcode {
        ADDRESS if failed => Some(Response::ExternalAddress { epoch, external: Err(result) }),
        ADDRESS => Some(Response::ExternalAddress { epoch, external: Ok(Ipv4Addr::from(reader.u32()?)) }),
        MAP_UDP | MAP_TCP => {
            let transport = if opcode == MAP_TCP { Transport::Tcp } else { Transport::Udp };
            let fields = (|| Some((reader.u16()?, reader.u16()?, reader.u32()?)))();
            if fields.is_none() && !failed {
                return None;
            }
            let (external_port, lifetime) = fields.map_or((0, 0), |(_, port, lifetime)| (port, lifetime));
            let internal_port = fields.map(|(port, ..)| port);
            Some(Response::NatPmpMap { epoch, result, transport, internal_port, external_port, lifetime })
        }
        _ => None,
    }
}

fn parse_pcp(version: u8, opcode: u8, len: usize, mut reader: Reader<'_>) -> Option<Response> {
    let [_, result] = reader.take()?;
    let result = ResultCode::of_pcp(result);
    if result == ResultCode::UnsupportedVersion {
        let speaks = if version == PCP_VERSION { Version::Pcp } else { Version::Other(version) };
        return Some(Response::UnsupportedVersion { speaks });
    }
    // Section 8.3: what is of another version or length is no response.
    if version != PCP_VERSION || !is_pcp_length(len) {
        return None;
    }
    let (lifetime, epoch) = (reader.u32()?, reader.u32()?);
    reader.take::<12>()?;
    let map = match opcode {
        ANNOUNCE => None,
        MAP => Some(Map::read(&mut reader)?),
        _ => return None,
    };
    Some(Response::Pcp { result, lifetime, epoch, map })
}

fn pcp_request(opcode: u8, lifetime: u32, client: IpAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PCP_HEADER + PCP_MAP);
    bytes.extend([PCP_VERSION, opcode, 0, 0]);
    bytes.extend(lifetime.to_be_bytes());
    bytes.extend(in_16_bytes(client));
    bytes
}

fn pcp_response(version: u8, opcode: u8, result: ResultCode, lifetime: u32, epoch: u32) -> Vec<u8> {
    let mut bytes = vec![version, RESPONSE | opcode, 0, result.to_pcp()];
    bytes.extend(lifetime.to_be_bytes());
    bytes.extend(epoch.to_be_bytes());
    bytes.extend([0; 12]);
    bytes
}

fn nat_pmp_response(opcode: u8, result: ResultCode, epoch: u32) -> Vec<u8> {
    let mut bytes = vec![NAT_PMP_VERSION, RESPONSE | opcode];
    bytes.extend(result.to_nat_pmp().to_be_bytes());
    bytes.extend(epoch.to_be_bytes());
    bytes
}

fn nat_pmp_opcode(transport: Transport) -> u8 {
    if transport.is_reliable() { MAP_TCP } else { MAP_UDP }
}

/// Section 7: whole words, no shorter than the header.
fn is_pcp_length(len: usize) -> bool {
    (PCP_HEADER..=MAX_LEN).contains(&len) && len.is_multiple_of(4)
}

/// IPv4 addresses are written as IPv4-mapped ones (RFC 6887, section 5).
fn in_16_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

impl Map {
    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.nonce.0);
        bytes.extend([if self.transport.is_reliable() { TCP } else { UDP }, 0, 0, 0]);
        bytes.extend(self.internal_port.to_be_bytes());
        bytes.extend(self.external_port.to_be_bytes());
        bytes.extend(in_16_bytes(self.external_ip));
    }

    fn read(reader: &mut Reader<'_>) -> Option<Map> {
        let nonce = Nonce(reader.take()?);
        let [protocol, ..] = reader.take::<4>()?;
        let transport = match protocol {
            UDP => Transport::Udp,
            TCP => Transport::Tcp,
            _ => return None,
        };
        let (internal_port, external_port) = (reader.u16()?, reader.u16()?);
        Some(Map { nonce, transport, internal_port, external_port, external_ip: reader.address()? })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn address(&mut self) -> Option<IpAddr> {
        Some(Ipv6Addr::from(self.take::<16>()?).to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPPING: Map = Map {
        nonce: Nonce(*b"natlab-nonce"),
        transport: Transport::Udp,
        internal_port: 9002,
        external_port: 40_002,
        external_ip: IpAddr::V4(Ipv4Addr::new(11, 0, 0, 10)),
    };

    /// Byte for byte as the figures of RFC 6887, sections 7.1 and 11.1.
    #[test]
    fn a_map_request() {
        let client = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2));
        let map = Map { external_ip: Ipv4Addr::UNSPECIFIED.into(), ..MAPPING };
        let request = Request::Map { client, lifetime: 30, map };
        let mut wanted =
            vec![2, 1, 0, 0, 0, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 2];
        wanted.extend(b"natlab-nonce\x11\0\0\0\x23\x2a\x9c\x42\0\0\0\0\0\0\0\0\0\0\xff\xff\0\0\0\0");
        assert_eq!(request.encode(), wanted);
        assert_eq!(Request::parse(&wanted), Some(request));
    }

    /// Byte for byte as the figures of RFC 6886, sections 3.2 and 3.3.
    #[test]
    fn nat_pmp() {
        assert_eq!(Request::ExternalAddress.encode(), [0, 0]);
        let answer = Response::parse(&[0, 128, 0, 0, 0, 0, 1, 0, 11, 0, 0, 10]);
        let external = Ok(Ipv4Addr::new(11, 0, 0, 10));
        assert_eq!(answer, Some(Response::ExternalAddress { epoch: 256, external }));
        let map = Request::NatPmpMap {
            transport: Transport::Tcp,
            internal_port: 9001,
            external_port: 40_001,
            lifetime: 7200,
        };
        assert_eq!(map.encode(), [0, 2, 0, 0, 0x23, 0x29, 0x9c, 0x41, 0, 0, 0x1c, 0x20]);
        let refused = Response::parse(&[0, 130, 0, 2, 0, 0, 0, 9]);
        let result = ResultCode::NotAuthorized;
        let transport = Transport::Tcp;
        assert_eq!(
            refused,
            Some(Response::NatPmpMap {
                epoch: 9,
                result,
                transport,
                internal_port: None,
                external_port: 0,
                lifetime: 0
            })
        );
        assert_eq!(Response::parse(&[0, 129, 0, 0, 0, 0, 0, 9]), None, "a success says what was mapped");
    }

    #[test]
    fn versions() {
        let speaks = |bytes: &[u8]| match Response::parse(bytes) {
            Some(Response::UnsupportedVersion { speaks }) => Some(speaks),
            _ => None,
        };
        // A NAT-PMP server that PCP was spoken to; then the other way round, and a server of a draft of PCP.
        assert_eq!(speaks(&[0, 128, 0, 1, 0, 0, 0, 5]), Some(Version::NatPmp));
        assert_eq!(speaks(&pcp_response(2, 0, ResultCode::UnsupportedVersion, 0, 0)), Some(Version::Pcp));
        assert_eq!(
            speaks(&pcp_response(1, 1, ResultCode::UnsupportedVersion, 0, 0)),
            Some(Version::Other(1))
        );
        assert_eq!(speaks(&pcp_response(1, 1, ResultCode::Success, 0, 0)), None);
    }

    #[test]
    fn a_response_is_whole() {
        let whole = Response::Pcp { result: ResultCode::Success, lifetime: 30, epoch: 7, map: Some(MAPPING) };
        let bytes = whole.encode();
        assert_eq!(Response::parse(&bytes), Some(whole));
        (0..bytes.len()).for_each(|len| assert_eq!(Response::parse(&bytes[..len]), None, "{len}"));
        // Options follow in whole words.
        assert_eq!(Response::parse(&[&bytes[..], &[200, 0, 0, 0]].concat()), Some(whole));
        assert_eq!(Response::parse(&[&bytes[..], &[200, 0]].concat()), None);
        assert_eq!(Response::parse(&[&bytes[..], &[0; 1044]].concat()), None, "longer than 1100");
        let request = Request::Announce { client: MAPPING.external_ip };
        assert_eq!(Response::parse(&request.encode()), None, "no R bit");
    }
}
