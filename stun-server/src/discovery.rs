//! What a server with two addresses tells about NATs (RFC 5780): which sockets it has, and from which of them it answers
//! what. The second address may be another machine's, a partner's.
//!
//! [`Discovery`] holds the addresses; [`Vantage`] is one request's view of them; [`Asked`] is what the request wants.

use std::net::{IpAddr, SocketAddr};

use crate::partner::{LinkAddrs, MAX_REQUEST_LEN};
use thirl_common::net::{ClientAddr, ExternalIp, FiveTuple, ServerAddr, Transport, canonical};
use thirl_common::wire::{
    AttributeError, AttributeType, BufferTooSmall, ChangeRequest, ChangedAddress, Class, ClassicRequest,
    MappedAddress, Message, MessageWriter, Method, OtherAddress, Padding, ResponseOrigin, ResponsePort,
    SourceAddress, TransactionId, XorMappedAddress,
};

/// The longest PADDING of a response, in bytes: Ethernet's MTU, so that the datagram is sent in fragments (RFC 5780,
/// section 7.6).
pub(crate) const MAX_PADDING: usize = 1500;

/// A response is sent to no port below this (RESPONSE-PORT): there are the services that a response, whose id the
/// requester chose, might mean something to (RFC 6335, section 6).
const FIRST_USER_PORT: u16 = 1024;

/// Two addresses of a family and two ports: four sockets (RFC 5780, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPair {
    /// As they are bound here.
    local: [IpAddr; 2],
    /// As clients know them: behind a 1:1 NAT the NAT's (`external-ip`).
    public: [IpAddr; 2],
    ports: [u16; 2],
    /// Whether the second is a partner's.
    has_partner: bool,
}

impl AddressPair {
    /// `None` unless the addresses are two of one family, here and outside, none of them a wildcard, and the ports two.
    pub fn new(local: [IpAddr; 2], external: &[ExternalIp], ports: [u16; 2]) -> Option<AddressPair> {
        AddressPair::called(local, local.map(|ip| ExternalIp::outside(external, ip)), ports)
    }

    /// One address here and one at a partner, which is known by its public one and has the same two ports.
    pub fn with_partner(
        own: IpAddr,
        external: &[ExternalIp],
        partner: IpAddr,
        ports: [u16; 2],
    ) -> Option<AddressPair> {
        let pair = AddressPair::called([own, partner], [ExternalIp::outside(external, own), partner], ports)?;
        Some(AddressPair { has_partner: true, ..pair })
    }

    fn called(local: [IpAddr; 2], public: [IpAddr; 2], ports: [u16; 2]) -> Option<AddressPair> {
        let known = !local.iter().any(IpAddr::is_unspecified) && !ports.contains(&0) && ports[0] != ports[1];
        let apart = |[a, b]: [IpAddr; 2]| a != b && a.is_ipv4() == b.is_ipv4();
        (known && apart(local) && apart(public)).then_some(AddressPair {
            local,
            public,
            ports,
            has_partner: false,
        })
    }

    /// Those that are here, as they are bound: four, or two beside a partner's two.
    pub fn addrs(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        let AddressPair { local, ports, has_partner, .. } = *self;
        let here = if has_partner { 1 } else { 2 };
        local.into_iter().take(here).flat_map(move |ip| ports.map(|port| SocketAddr::new(ip, port)))
    }

    /// The ends of the link to the partner, if the second address is one's.
    pub fn link(&self) -> Option<LinkAddrs> {
        let ([own, partner], [first, second_port]) = (self.local, self.ports);
        let at = |ip| SocketAddr::new(ip, first);
        let link =
            LinkAddrs { local: at(own), public: at(self.public[0]), partner: at(partner), second_port };
        self.has_partner.then_some(link)
    }

    #[inline]
    fn vantage(&self, server: SocketAddr, can_redirect: bool) -> Option<Vantage> {
        let ([a, b], [p, q]) = (self.local, self.ports);
        let [public_a, public_b] = self.public;
        let ips = match server.ip() {
            ip if ip == a => [(a, public_a), (b, public_b)],
            ip if ip == b => [(b, public_b), (a, public_a)],
            _ => return None,
        };
        let other_port = if server.port() == p { q } else { (server.port() == q).then_some(p)? };
        let [own, other] = ips.map(|(local, public)| Ip { local, public });
        let ports = [server.port(), other_port];
        Some(Vantage { ips: [own, other], ports, can_redirect, has_partner: self.has_partner })
    }
}

/// The addresses that a server discovers NATs with: a pair of each family, or of one, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// For IPv4 clients.
    pub ipv4: Option<AddressPair>,
    /// For IPv6 clients.
    pub ipv6: Option<AddressPair>,
}

impl Discovery {
    /// Pairs the first two addresses of each family that are not the same, here or outside, and no wildcards.
    pub fn between(ips: &[IpAddr], external: &[ExternalIp], ports: [u16; 2]) -> Discovery {
        let pair = |ipv4: bool| {
            let mut of_family = ips.iter().filter(|ip| ip.is_ipv4() == ipv4);
            let first = *of_family.next()?;
            of_family.find_map(|second| AddressPair::new([first, *second], external, ports))
        };
        Discovery { ipv4: pair(true), ipv6: pair(false) }
    }

    /// The same without the pairs whose partner is down, of which `up` is told the link.
    #[must_use]
    pub fn without_silent_partners(self, up: impl Fn(&LinkAddrs) -> bool) -> Discovery {
        let answers = |pair: &AddressPair| pair.link().is_none_or(|link| up(&link));
        Discovery { ipv4: self.ipv4.filter(answers), ipv6: self.ipv6.filter(answers) }
    }

    /// The links to partners: one of each family at the most.
    pub fn links(&self) -> impl Iterator<Item = LinkAddrs> + use<> {
        [self.ipv4, self.ipv6].into_iter().flatten().filter_map(|pair| pair.link())
    }

    /// All addresses to listen on.
    pub fn addrs(&self) -> impl Iterator<Item = SocketAddr> + use<> {
        [self.ipv4, self.ipv6].into_iter().flatten().flat_map(|pair| pair.addrs())
    }

    /// Whether there is no pair at all.
    pub fn is_empty(&self) -> bool {
        self.ipv4.or(self.ipv6).is_none()
    }

    #[inline]
    pub(crate) fn vantage(&self, five_tuple: FiveTuple) -> Option<Vantage> {
        let FiveTuple { transport, server: ServerAddr(server), .. } = five_tuple;
        let pair = if server.is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        pair.as_ref()?.vantage(server, transport == Transport::Udp)
    }
}

/// The address that a request came to, and the one with both IP and port changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vantage {
    /// The one that was asked, and the other.
    ips: [Ip; 2],
    ports: [u16; 2],
    can_redirect: bool,
    has_partner: bool,
}

/// An address here and outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ip {
    local: IpAddr,
    public: IpAddr,
}

impl Vantage {
    /// Whether a response may go another way than the request: not over a stream.
    pub(crate) fn can_redirect(&self) -> bool {
        self.can_redirect
    }

    /// What is asked for, unless it is more than a partner would be told: it gets requests up to a length.
    pub(crate) fn read(&self, request: &Message<'_>) -> Result<Asked, AttributeError> {
        let asked = Asked::read(request)?;
        if self.has_partner && asked.change.ip && request.as_bytes().len() > MAX_REQUEST_LEN {
            return Err(AttributeError { attribute: AttributeType::PADDING });
        }
        Ok(asked)
    }

    /// Where a response leaves from (RFC 5780, section 6.1, table 1), as that is bound here.
    pub(crate) fn source(&self, change: ChangeRequest) -> ServerAddr {
        ServerAddr(self.addr(change, |ip| ip.local))
    }

    /// The same, as the client sees it.
    fn origin(&self, change: ChangeRequest) -> SocketAddr {
        self.addr(change, |ip| ip.public)
    }

    /// OTHER-ADDRESS.
    fn opposite(&self) -> SocketAddr {
        self.origin(ChangeRequest { ip: true, port: true })
    }

    fn addr(&self, change: ChangeRequest, seen: impl Fn(Ip) -> IpAddr) -> SocketAddr {
        let ([own, other], [own_port, other_port]) = (self.ips, self.ports);
        let ip = seen(if change.ip { other } else { own });
        SocketAddr::new(ip, if change.port { other_port } else { own_port })
    }

    /// A success with all that RFC 5780, section 6.1, asks for. PADDING fills it up to the request's length at the most,
    /// so that nobody gets more bytes than were sent in their name.
    pub(crate) fn success<'b>(
        &self,
        request: &Message<'_>,
        client: ClientAddr,
        (asked, fingerprint): (&Asked, bool),
        out: &'b mut [u8],
    ) -> Result<&'b [u8], BufferTooSmall> {
        const FINGERPRINT_LEN: usize = 8;
        const ATTRIBUTE_HEADER_LEN: usize = 4;
        let client = canonical(client.0);
        let mut writer = MessageWriter::new(out, Class::Success, Method::BINDING, request.transaction_id())?;
        writer.attribute(&XorMappedAddress(client))?.attribute(&MappedAddress(client))?;
        writer.attribute(&ResponseOrigin(self.origin(asked.change)))?;
        writer.attribute(&OtherAddress(self.opposite()))?;
        if asked.padding {
            let ending = if fingerprint { FINGERPRINT_LEN } else { 0 };
            let room = request.as_bytes().len().checked_sub(writer.len() + ATTRIBUTE_HEADER_LEN + ending);
            if let Some(room) = room {
                writer.attribute(&Padding(&[0; MAX_PADDING][..room.min(MAX_PADDING)]))?;
            }
        }
        if fingerprint {
            writer.fingerprint()?;
        }
        Ok(writer.finish())
    }

    /// The same for a client of RFC 3489 (section 8.1).
    pub(crate) fn classic_success<'b>(
        &self,
        request: &ClassicRequest<'_>,
        client: ClientAddr,
        change: ChangeRequest,
        out: &'b mut [u8],
    ) -> Result<&'b [u8], BufferTooSmall> {
        let id = TransactionId([0; 12]);
        let mut writer = MessageWriter::new(out, Class::Success, Method::BINDING, id)?;
        writer.attribute(&MappedAddress(canonical(client.0)))?;
        writer.attribute(&SourceAddress(self.origin(change)))?;
        writer.attribute(&ChangedAddress(self.opposite()))?;
        let len = writer.finish().len();
        // Where RFC 8489 has its cookie, the id of RFC 3489 begins; no attribute here is XOR-ed with it.
        out.get_mut(4..20).ok_or(BufferTooSmall)?.copy_from_slice(&request.transaction_id());
        out.get(..len).ok_or(BufferTooSmall)
    }
}

/// What a request asks for by the attributes of RFC 5780.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) change: ChangeRequest,
    pub(crate) port: Option<u16>,
    pub(crate) padding: bool,
}

impl Asked {
    /// Comprehension-required attributes that are understood beside those of any Binding request.
    pub(crate) const ATTRIBUTES: [AttributeType; 3] =
        [AttributeType::CHANGE_REQUEST, AttributeType::RESPONSE_PORT, AttributeType::PADDING];

    /// What cannot be read, and a RESPONSE-PORT that no response goes to, is a bad request.
    pub(crate) fn read(request: &Message<'_>) -> Result<Asked, AttributeError> {
        let mut asked = Asked::default();
        for attribute in request.attributes() {
            match attribute.ty {
                AttributeType::CHANGE_REQUEST => asked.change = attribute.decode(request.transaction_id())?,
                AttributeType::RESPONSE_PORT => {
                    let ResponsePort(port) = attribute.decode(request.transaction_id())?;
                    if port < FIRST_USER_PORT {
                        return Err(AttributeError { attribute: attribute.ty });
                    }
                    asked.port = Some(port);
                }
                AttributeType::PADDING => asked.padding = true,
                _ => {}
            }
        }
        // "If the Request also contains the RESPONSE-PORT attribute the PADDING attribute MUST be ignored" (RFC 5780,
        // section 6.1): what is sent to a port that did not ask is short.
        asked.padding &= asked.port.is_none();
        Ok(asked)
    }

    /// Whether the response goes another way than the request.
    pub(crate) fn redirects(&self) -> bool {
        self.change != ChangeRequest::default() || self.port.is_some()
    }

    /// Where the response goes: "the source IP address of the Binding Request" always (RFC 5780, section 7.5).
    pub(crate) fn destination(&self, ClientAddr(client): ClientAddr) -> ClientAddr {
        let mut to = client;
        to.set_port(self.port.unwrap_or(client.port()));
        ClientAddr(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn to(server: SocketAddr) -> FiveTuple {
        let client = ClientAddr("198.51.100.1:5000".parse().unwrap());
        FiveTuple { transport: Transport::Udp, client, server: ServerAddr(server) }
    }

    #[test]
    fn pairs_the_first_two_of_each_family() {
        let all = ips(&["192.0.2.1", "2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::2"]);
        let discovery = Discovery::between(&all, &[], [3478, 3479]);
        let addrs: Vec<_> = discovery.addrs().map(|addr| addr.to_string()).collect();
        let expected = [
            "192.0.2.1:3478",
            "192.0.2.1:3479",
            "192.0.2.2:3478",
            "192.0.2.2:3479",
            "[2001:db8::1]:3478",
            "[2001:db8::1]:3479",
            "[2001:db8::2]:3478",
            "[2001:db8::2]:3479",
        ];
        assert_eq!(addrs, expected);
    }

    #[test]
    fn without_two_addresses_and_two_ports_there_is_nothing_to_discover_with() {
        for (texts, ports) in [
            (&["192.0.2.1"][..], [1, 2]),
            (&["192.0.2.1", "192.0.2.1"], [1, 2]),
            (&["192.0.2.1", "2001:db8::1"], [1, 2]),
            (&["0.0.0.0", "192.0.2.1"], [1, 2]),
            (&["192.0.2.1", "192.0.2.2"], [1, 1]),
            (&["192.0.2.1", "192.0.2.2"], [0, 1]),
        ] {
            assert!(Discovery::between(&ips(texts), &[], ports).is_empty(), "{texts:?} {ports:?}");
        }
    }

    #[test]
    fn every_address_has_its_opposite_and_a_strange_one_none() {
        let discovery = Discovery::between(&ips(&["192.0.2.1", "192.0.2.2"]), &[], [1, 2]);
        for (own, other) in [
            ("192.0.2.1:1", "192.0.2.2:2"),
            ("192.0.2.1:2", "192.0.2.2:1"),
            ("192.0.2.2:1", "192.0.2.1:2"),
            ("192.0.2.2:2", "192.0.2.1:1"),
        ] {
            let (own, other): (SocketAddr, SocketAddr) = (own.parse().unwrap(), other.parse().unwrap());
            let vantage = discovery.vantage(to(own)).unwrap();
            assert_eq!(vantage.opposite(), other);
            assert_eq!(vantage.source(ChangeRequest::default()).0, own);
            assert_eq!(vantage.source(ChangeRequest { ip: true, port: true }).0, other);
            let ip = vantage.source(ChangeRequest { ip: true, port: false }).0;
            assert_eq!((ip.ip(), ip.port()), (other.ip(), own.port()));
            let port = vantage.source(ChangeRequest { ip: false, port: true }).0;
            assert_eq!((port.ip(), port.port()), (own.ip(), other.port()));
        }
        for strange in ["192.0.2.3:1", "192.0.2.1:3", "[2001:db8::1]:1"] {
            assert_eq!(discovery.vantage(to(strange.parse().unwrap())), None);
        }
    }

    #[test]
    fn behind_a_nat_clients_are_told_its_addresses_and_sockets_their_own() {
        let external = |public: &str, local: &str| ExternalIp {
            external: public.parse().unwrap(),
            local: Some(local.parse().unwrap()),
        };
        let all = [external("203.0.113.1", "10.0.0.1"), external("203.0.113.2", "10.0.0.2")];
        let discovery = Discovery::between(&ips(&["10.0.0.1", "10.0.0.2"]), &all, [1, 2]);
        let vantage = discovery.vantage(to("10.0.0.1:1".parse().unwrap())).unwrap();
        let both = ChangeRequest { ip: true, port: true };
        assert_eq!(vantage.source(both).0.to_string(), "10.0.0.2:2");
        assert_eq!(vantage.origin(both).to_string(), "203.0.113.2:2");
        assert_eq!(vantage.origin(ChangeRequest::default()).to_string(), "203.0.113.1:1");
        assert_eq!(vantage.opposite().to_string(), "203.0.113.2:2");
        // Clients do not know the two apart.
        let one_name = [ExternalIp { external: all[0].external, local: None }];
        assert!(Discovery::between(&ips(&["10.0.0.1", "10.0.0.2"]), &one_name, [1, 2]).is_empty());
    }
}
