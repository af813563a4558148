//! What a Binding request is answered with (RFC 8489, sections 6.3.1 and 12; RFC 5780, section 6.1).

use thirl_common::net::{ClientAddr, FiveTuple, ServerAddr, canonical};
use thirl_common::wire::{
    AttributeType, BufferTooSmall, ChangeRequest, Class, ClassicRequest, ErrorCode, Message, MessageWriter,
    Method, ParseError, Protocol, UnknownAttributes, XorMappedAddress, classify,
};

use crate::discovery::{Asked, Discovery, MAX_PADDING, Vantage};

/// The longest response of a server with one address, in bytes: header, ERROR-CODE without a phrase, eight
/// UNKNOWN-ATTRIBUTES, FINGERPRINT.
pub const MAX_RESPONSE_LEN: usize = 20 + 8 + 4 + 2 * UnknownAttributes::MAX + 8;

/// The longest response of all, in bytes: header, four IPv6 addresses, PADDING, FINGERPRINT.
pub const MAX_DISCOVERY_RESPONSE_LEN: usize = 20 + 4 * 24 + 4 + MAX_PADDING + 8;

/// Comprehension-required attributes that a Binding request may carry. Credentials are not asked for, so those that are
/// there are passed over.
const KNOWN: [AttributeType; 5] = [
    AttributeType::USERNAME,
    AttributeType::USERHASH,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::MAPPED_ADDRESS,
];

/// With a second address, those of RFC 5780 too; without one, or over a stream, which cannot leave from another address,
/// they draw a 420.
const KNOWN_WITH_DISCOVERY: [AttributeType; 8] = {
    let ([a, b, c, d, e], [f, g, h]) = (KNOWN, Asked::ATTRIBUTES);
    [a, b, c, d, e, f, g, h]
};

/// Mandatory attributes that a request of RFC 3489 may carry. RESPONSE-ADDRESS would send the response to somebody who did
/// not ask: it draws a 420 (RFC 5389, section 12.2), as does CHANGE-REQUEST with a flag if there is no second address.
const KNOWN_CLASSIC: [AttributeType; 3] =
    [AttributeType::USERNAME, AttributeType::MESSAGE_INTEGRITY, AttributeType::CHANGE_REQUEST];

/// Answers Binding requests. It keeps nothing of a client and allocates nothing.
///
/// The one state machine with a single method: a datagram in, the response out, into a buffer of the caller's.
///
/// - A success holds XOR-MAPPED-ADDRESS alone: 32 bytes for an IPv4 client, 44 for an IPv6 one.
/// - An unknown comprehension-required attribute draws a 420 with UNKNOWN-ATTRIBUTES.
/// - A response carries FINGERPRINT if the request did. A request with a wrong one is dropped.
/// - A request of RFC 3489, without the magic cookie, is answered with MAPPED-ADDRESS: as many bytes.
/// - Indications, responses, other methods and other protocols are dropped.
///
/// With two addresses ([`Responder::with_discovery`]) it is a server of RFC 5780: see [`Responder::handle_request`].
///
/// ```
/// use thirl_common::net::ClientAddr;
/// use thirl_common::wire::{Class, Message, MessageWriter, Method, TransactionId, XorMappedAddress};
/// use thirl_stun_server::{MAX_RESPONSE_LEN, Responder};
///
/// let client = ClientAddr("192.0.2.1:40000".parse().unwrap());
/// let mut buffer = [0; 20];
/// let request = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, TransactionId([7; 12]))?.finish();
///
/// let mut responder = Responder::default();
/// let mut out = [0; MAX_RESPONSE_LEN];
/// let response = responder.handle_datagram(client, request, &mut out).unwrap();
/// let response = Message::parse(response)?;
/// assert_eq!(response.require::<XorMappedAddress>()?.0, client.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Responder {
    discovery: Discovery,
    counters: Counters,
}

/// A response and the way it goes, which is another than the request's if that asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'b> {
    /// The server's address that it leaves from.
    pub from: ServerAddr,
    /// The client's, perhaps with another port than the request's.
    pub to: ClientAddr,
    /// The message.
    pub bytes: &'b [u8],
}

/// What a [`Responder`] did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Success responses.
    pub answered: u64,
    /// Of these, sent from another address or to another port than the request's.
    pub redirected: u64,
    /// 420 responses.
    pub unknown_attributes: u64,
    /// 400 responses.
    pub bad_requests: u64,
    /// Dropped: no well-formed Binding request.
    pub dropped: u64,
    /// Dropped: the source asks too much. A [`Responder`] drops none for that; the server's [`Limiter`](crate::Limiter) does.
    pub limited: u64,
}

impl Counters {
    /// Adds what another responder did.
    pub fn add(&mut self, other: &Counters) {
        self.answered += other.answered;
        self.redirected += other.redirected;
        self.unknown_attributes += other.unknown_attributes;
        self.bad_requests += other.bad_requests;
        self.dropped += other.dropped;
        self.limited += other.limited;
    }
}

impl Responder {
    /// A responder of a server with these addresses.
    pub fn with_discovery(discovery: Discovery) -> Responder {
        Responder { discovery, counters: Counters::default() }
    }

    /// Changes the second addresses.
    pub fn set_discovery(&mut self, discovery: Discovery) {
        self.discovery = discovery;
    }

    /// The response to a datagram or frame, written into `out`, which holds [`MAX_RESPONSE_LEN`] bytes: that of a server
    /// with one address, to whoever asked.
    #[inline]
    pub fn handle_datagram<'b>(
        &mut self,
        client: ClientAddr,
        datagram: &[u8],
        out: &'b mut [u8],
    ) -> Option<&'b [u8]> {
        let answer = answer(datagram, client, None, out);
        self.count(answer.as_ref());
        answer.map(|answer| answer.bytes)
    }

    /// The response to a datagram or frame and the way it is to go, written into `out`, which holds
    /// [`MAX_DISCOVERY_RESPONSE_LEN`] bytes.
    ///
    /// If the address that the request came to is one of the server's four of that family (RFC 5780, section 6.1):
    ///
    /// - A success holds MAPPED-ADDRESS, RESPONSE-ORIGIN and OTHER-ADDRESS too: 68 bytes for an IPv4 client.
    /// - CHANGE-REQUEST is followed, over UDP. That of RFC 3489 too, with SOURCE-ADDRESS and CHANGED-ADDRESS.
    /// - RESPONSE-PORT is followed, over UDP, to the requester's IP address only and to no port below 1024.
    /// - PADDING is answered by PADDING, over UDP, but the response is not made longer than the request by it.
    ///
    /// Otherwise the response is that of [`Responder::handle_datagram`].
    ///
    /// A response whose `from` is a partner's address is the partner's to send, which has handled the same request.
    #[inline]
    pub fn handle_request<'b>(
        &mut self,
        five_tuple: FiveTuple,
        datagram: &[u8],
        out: &'b mut [u8],
    ) -> Option<Response<'b>> {
        let FiveTuple { client, server, .. } = five_tuple;
        let vantage = self.discovery.vantage(five_tuple);
        let answer = answer(datagram, client, vantage.as_ref(), out);
        self.count(answer.as_ref());
        let Answer { bytes, asked, .. } = answer?;
        let from = vantage.map_or(server, |vantage| vantage.source(asked.change));
        Some(Response { from, to: asked.destination(client), bytes })
    }

    /// Whether a datagram is for the responder rather than for another user of the same port: any Binding message.
    #[inline]
    pub fn concerns(datagram: &[u8]) -> bool {
        // The method's bits of the first two bytes, those of the class left out (RFC 8489, section 5, figure 3).
        matches!(datagram, [t0, t1, ..] if t0 & 0xFE == 0 && t1 & 0xEF == 0x01)
    }

    /// What it did so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn count(&mut self, answer: Option<&Answer<'_>>) {
        let counters = &mut self.counters;
        match answer {
            Some(Answer { kind: Kind::Success, asked, .. }) => {
                counters.answered += 1;
                counters.redirected += u64::from(asked.redirects());
            }
            Some(Answer { kind: Kind::UnknownAttributes, .. }) => counters.unknown_attributes += 1,
            Some(Answer { kind: Kind::BadRequest, .. }) => counters.bad_requests += 1,
            None => counters.dropped += 1,
        }
    }
}

/// A response before its way is known.
struct Answer<'b> {
    kind: Kind,
    /// What was asked for and is followed.
    asked: Asked,
    bytes: &'b [u8],
}

#[derive(Clone, Copy)]
enum Kind {
    Success,
    UnknownAttributes,
    BadRequest,
}

fn answer<'b>(
    datagram: &[u8],
    client: ClientAddr,
    vantage: Option<&Vantage>,
    out: &'b mut [u8],
) -> Option<Answer<'b>> {
    if classify(datagram) != Protocol::Stun {
        return None;
    }
    match Message::parse(datagram) {
        Ok(request) => respond(&request, client, vantage, out),
        Err(ParseError::NoMagicCookie) => respond_classic(datagram, client, vantage, out),
        Err(_) => None,
    }
}

fn respond<'b>(
    request: &Message<'_>,
    client: ClientAddr,
    vantage: Option<&Vantage>,
    out: &'b mut [u8],
) -> Option<Answer<'b>> {
    if request.class() != Class::Request || request.method() != Method::BINDING {
        return None;
    }
    let fingerprint = request.check_fingerprint().ok()?;
    let asker = vantage.filter(|vantage| vantage.can_redirect());
    let unknown = request.unknown_attributes(if asker.is_some() { &KNOWN_WITH_DISCOVERY } else { &KNOWN });
    let asked = asker.map_or(Ok(Asked::default()), |vantage| vantage.read(request));
    let (kind, written, asked) = match (asked, vantage) {
        _ if !unknown.is_empty() => {
            let refused = refusal(request, &ErrorCode::UNKNOWN_ATTRIBUTE, Some(&unknown), fingerprint, out);
            (Kind::UnknownAttributes, refused, Asked::default())
        }
        (Err(_), _) => {
            let refused = refusal(request, &ErrorCode::BAD_REQUEST, None, fingerprint, out);
            (Kind::BadRequest, refused, Asked::default())
        }
        (Ok(asked), None) => (Kind::Success, success(request, client, fingerprint, out), asked),
        (Ok(asked), Some(vantage)) => {
            (Kind::Success, vantage.success(request, client, (&asked, fingerprint), out), asked)
        }
    };
    Some(Answer { kind, asked, bytes: written.ok()? })
}

fn respond_classic<'b>(
    datagram: &[u8],
    client: ClientAddr,
    vantage: Option<&Vantage>,
    out: &'b mut [u8],
) -> Option<Answer<'b>> {
    let request = ClassicRequest::parse(datagram).ok()?;
    let mut unknown = request.unknown_attributes(&KNOWN_CLASSIC);
    // Old clients send CHANGE-REQUEST even if nothing is to be changed.
    let change = match request.get() {
        Ok(change) => change.unwrap_or_default(),
        Err(_) => return None,
    };
    if change != ChangeRequest::default() && !vantage.is_some_and(Vantage::can_redirect) {
        unknown.push(AttributeType::CHANGE_REQUEST);
    }
    if !unknown.is_empty() {
        let bytes = request.refusal(&unknown, out).ok()?;
        return Some(Answer { kind: Kind::UnknownAttributes, asked: Asked::default(), bytes });
    }
    let written = match vantage {
        Some(vantage) => vantage.classic_success(&request, client, change, out),
        None => request.success(canonical(client.0), out),
    };
    let asked = Asked { change, ..Asked::default() };
    Some(Answer { kind: Kind::Success, asked, bytes: written.ok()? })
}

fn success<'b>(
    request: &Message<'_>,
    client: ClientAddr,
    fingerprint: bool,
    out: &'b mut [u8],
) -> Result<&'b [u8], BufferTooSmall> {
    let mut writer = MessageWriter::new(out, Class::Success, Method::BINDING, request.transaction_id())?;
    writer.attribute(&XorMappedAddress(canonical(client.0)))?;
    if fingerprint {
        writer.fingerprint()?;
    }
    Ok(writer.finish())
}

fn refusal<'b>(
    request: &Message<'_>,
    code: &ErrorCode<'static>,
    unknown: Option<&UnknownAttributes>,
    fingerprint: bool,
    out: &'b mut [u8],
) -> Result<&'b [u8], BufferTooSmall> {
    let mut writer = MessageWriter::new(out, Class::Error, Method::BINDING, request.transaction_id())?;
    writer.attribute(&code.bare())?;
    if let Some(unknown) = unknown {
        writer.attribute(unknown)?;
    }
    if fingerprint {
        writer.fingerprint()?;
    }
    Ok(writer.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use thirl_common::wire::{ChangeRequest, MappedAddress, TransactionId, Username};

    const ID: TransactionId = TransactionId([9; 12]);

    fn client(addr: &str) -> ClientAddr {
        ClientAddr(addr.parse().unwrap())
    }

    fn message(class: Class, method: Method, write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
        let mut buffer = [0; 256];
        let mut writer = MessageWriter::new(&mut buffer, class, method, ID).unwrap();
        write(&mut writer);
        writer.finish().to_vec()
    }

    fn respond(from: &str, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut out = [0; MAX_RESPONSE_LEN];
        Responder::default().handle_datagram(client(from), datagram, &mut out).map(<[u8]>::to_vec)
    }

    #[test]
    fn a_success_holds_the_address_and_nothing_else() {
        let request = message(Class::Request, Method::BINDING, |_| {});
        for (from, seen, len) in [
            ("192.0.2.1:5", "192.0.2.1:5", 32),
            ("[2001:db8::1]:5", "[2001:db8::1]:5", 44),
            ("[::ffff:192.0.2.1]:5", "192.0.2.1:5", 32),
        ] {
            let response = respond(from, &request).unwrap();
            assert_eq!(response.len(), len, "{from}");
            let response = Message::parse(&response).unwrap();
            assert_eq!((response.class(), response.transaction_id()), (Class::Success, ID));
            assert_eq!(response.require::<XorMappedAddress>().unwrap().0, seen.parse().unwrap());
            assert_eq!(response.get::<MappedAddress>(), Ok(None));
        }
    }

    #[test]
    fn fingerprint_is_answered_with_fingerprint_and_a_wrong_one_with_nothing() {
        let mut request = message(Class::Request, Method::BINDING, |writer| {
            writer.fingerprint().unwrap();
        });
        let response = respond("192.0.2.1:5", &request).unwrap();
        assert_eq!(Message::parse(&response).unwrap().check_fingerprint(), Ok(true));
        *request.last_mut().unwrap() ^= 1;
        assert_eq!(respond("192.0.2.1:5", &request), None);
    }

    #[test]
    fn unknown_attributes_are_named_and_the_response_is_not_much_larger() {
        let request = message(Class::Request, Method::BINDING, |writer| {
            writer.attribute(&Username("someone")).unwrap();
            writer.attribute(&ChangeRequest { ip: true, port: false }).unwrap();
            writer.raw(AttributeType(0x7abc), b"").unwrap().raw(AttributeType(0xfabc), b"").unwrap();
        });
        let response = respond("192.0.2.1:5", &request).unwrap();
        assert!(response.len() <= request.len());
        let response = Message::parse(&response).unwrap();
        assert_eq!(response.require::<ErrorCode<'_>>().unwrap().code, 420);
        let unknown = response.require::<UnknownAttributes>().unwrap();
        assert!(unknown.iter().eq([AttributeType::CHANGE_REQUEST, AttributeType(0x7abc)]));
    }

    #[test]
    fn a_request_of_rfc_3489_is_answered_in_kind() {
        let plain = b"\x00\x01\x00\x00sixteen bytes id";
        let response = respond("192.0.2.1:5", plain).unwrap();
        assert_eq!(
            response,
            b"\x01\x01\x00\x0csixteen bytes id\x00\x01\x00\x08\x00\x01\x00\x05\xc0\x00\x02\x01"
        );
        let unchanged = b"\x00\x01\x00\x08sixteen bytes id\x00\x03\x00\x04\x00\x00\x00\x00";
        assert_eq!(respond("192.0.2.1:5", unchanged), Some(response));
        for refused in [
            b"\x00\x01\x00\x08sixteen bytes id\x00\x03\x00\x04\x00\x00\x00\x06",
            b"\x00\x01\x00\x08sixteen bytes id\x00\x02\x00\x04\x00\x00\x00\x00",
        ] {
            let response = respond("192.0.2.1:5", refused).unwrap();
            let (attribute, named) = (&refused[20..22], &response[response.len() - 4..]);
            assert_eq!((&response[..2], named), (&b"\x01\x11"[..], &[attribute, attribute].concat()[..]));
        }
        assert_eq!(respond("192.0.2.1:5", b"\x01\x01\x00\x00sixteen bytes id"), None);
    }

    #[test]
    fn the_longest_response_fits() {
        let request = message(Class::Request, Method::BINDING, |writer| {
            (0..20).for_each(|n| {
                writer.raw(AttributeType(0x7000 + n), b"").unwrap();
            });
            writer.fingerprint().unwrap();
        });
        assert_eq!(respond("192.0.2.1:5", &request).unwrap().len(), MAX_RESPONSE_LEN);
    }

    #[test]
    fn what_is_no_binding_request_is_dropped() {
        let mut cases = vec![Vec::new(), vec![0; 19], vec![0; 20], b"GET / HTTP/1.1\r\n\r\n..".to_vec()];
        for class in [Class::Indication, Class::Success, Class::Error] {
            cases.push(message(class, Method::BINDING, |_| {}));
        }
        cases.push(message(Class::Request, Method::ALLOCATE, |_| {}));
        let mut responder = Responder::default();
        for case in &cases {
            let mut out = [0; MAX_RESPONSE_LEN];
            assert_eq!(responder.handle_datagram(client("192.0.2.1:5"), case, &mut out), None, "{case:?}");
        }
        assert_eq!(responder.counters(), Counters { dropped: cases.len() as u64, ..Counters::default() });
    }

    #[test]
    fn concerns_exactly_the_binding_messages() {
        for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
            for number in 0..=0xFFF {
                let method = Method::new(number);
                assert_eq!(Responder::concerns(&message(class, method, |_| {})), method == Method::BINDING);
            }
        }
        assert!(!Responder::concerns(&[0]));
    }

    #[test]
    fn no_prefix_and_no_changed_byte_of_a_request_does_harm() {
        let request = message(Class::Request, Method::BINDING, |writer| {
            writer.attribute(&ChangeRequest::default()).unwrap().attribute(&Username("abc")).unwrap();
        });
        for at in 0..request.len() {
            respond("192.0.2.1:5", &request[..at]);
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = request.clone();
                changed[at] = value;
                respond("192.0.2.1:5", &changed);
            }
        }
    }
}
