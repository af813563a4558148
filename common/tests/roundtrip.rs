//! Every attribute: what is written is read back the same, by itself and in a message, and no bytes make decoding panic.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use thirl_common::wire::*;

/// Writes `attribute` into a message, and checks that it is read the same.
#[expect(clippy::unwrap_used, reason = "a test's helper")]
fn survives<A>(attribute: &A, id: TransactionId) -> Result<(), TestCaseError>
where
    A: for<'a> Attribute<'a> + PartialEq + std::fmt::Debug,
{
    let mut buffer = vec![0xFF; 2048];
    let mut writer = MessageWriter::new(&mut buffer, Class::Success, Method::ALLOCATE, id).unwrap();
    writer.attribute(attribute).unwrap().attribute(&Lifetime(77)).unwrap();
    let bytes = writer.finish();
    prop_assert_eq!(bytes.len() % 4, 0);
    let message = Message::parse(bytes).unwrap();
    let read = message.require::<A>();
    prop_assert_eq!(read.as_ref(), Ok(attribute));
    prop_assert_eq!(message.attributes().next().map(|raw| raw.value.len()), Some(attribute.value_len()));
    prop_assert!(message.attributes().skip(1).map(|raw| raw.ty).eq([AttributeType::LIFETIME]));
    Ok(())
}

/// The same for attributes that borrow, whose type cannot be named for every lifetime.
macro_rules! survives {
    ($attribute:expr, $ty:ty, $id:expr) => {{
        let attribute: $ty = $attribute;
        let mut buffer = vec![0xFF; 2048];
        let mut writer = MessageWriter::new(&mut buffer, Class::Success, Method::ALLOCATE, $id).unwrap();
        writer.attribute(&attribute).unwrap().attribute(&UseCandidate).unwrap();
        let message = Message::parse(writer.finish()).unwrap();
        prop_assert_eq!(message.require::<$ty>(), Ok(attribute));
        prop_assert!(message.has(AttributeType::USE_CANDIDATE));
    }};
}

fn id() -> impl Strategy<Value = TransactionId> {
    any::<[u8; 12]>().prop_map(TransactionId)
}

fn addr() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn family() -> impl Strategy<Value = Option<AddressFamily>> {
    prop::sample::select(vec![None, Some(AddressFamily::Ipv4), Some(AddressFamily::Ipv6)])
}

/// Text of up to 127 characters, which is what the RFC lets REALM and the like be.
fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..128).prop_map(String::from_iter)
}

proptest! {
    #[test]
    fn addresses(addr in addr(), id in id()) {
        survives(&MappedAddress(addr), id)?;
        survives(&XorMappedAddress(addr), id)?;
        survives(&XorPeerAddress(addr), id)?;
        survives(&XorRelayedAddress(addr), id)?;
        survives(&AlternateServer(addr), id)?;
        survives(&ResponseOrigin(addr), id)?;
        survives(&OtherAddress(addr), id)?;
        survives(&ResponseAddress(addr), id)?;
        survives(&SourceAddress(addr), id)?;
        survives(&ChangedAddress(addr), id)?;
        survives(&ReflectedFrom(addr), id)?;
    }

    #[test]
    fn numbers_and_flags(a: u64, b: u32, c: u16, d: [u8; 2], e: [bool; 2], hash: [u8; 32], id in id()) {
        survives(&Lifetime(b), id)?;
        survives(&ReservationToken(a), id)?;
        survives(&ConnectionId(b), id)?;
        survives(&Priority(b), id)?;
        survives(&IceControlled(a), id)?;
        survives(&IceControlling(a), id)?;
        survives(&Nomination(b), id)?;
        survives(&NatMapping { behaviour: d[0], step: d[1].cast_signed(), round: d[1], port: c }, id)?;
        survives(&GoogDeltaAck(a), id)?;
        survives(&CacheTimeout(b), id)?;
        survives(&UseCandidate, id)?;
        survives(&DontFragment, id)?;
        survives(&ResponsePort(c), id)?;
        survives(&ChangeRequest { ip: e[0], port: e[1] }, id)?;
        survives(&TransactionTransmitCounter { request: d[0], response: d[1] }, id)?;
        survives(&EvenPort { reserve: e[0] }, id)?;
        survives(&RequestedTransport(d[0]), id)?;
        survives(&Icmp { ty: d[0], code: d[1], data: b }, id)?;
        survives(&UserHash(hash), id)?;
        survives(&GoogNetworkInfo { id: c, cost: c ^ 0xFF }, id)?;
        survives(&GoogLastIceCheckReceived(id), id)?;
        if let Some(channel) = ChannelNumber::new(0x4000 | c & 0xFFF) {
            survives(&channel, id)?;
        }
    }

    #[test]
    fn families(family in family(), code in 300u16..700, id in id()) {
        survives(&RequestedAddressFamily(family), id)?;
        survives(&AdditionalAddressFamily(family), id)?;
        survives(&AddressErrorCode { family, code }, id)?;
    }

    #[test]
    fn texts(text in text(), code in 300u16..700, id in id()) {
        survives!(Username(&text), Username<'_>, id);
        survives!(Realm(&text), Realm<'_>, id);
        survives!(Nonce(&text), Nonce<'_>, id);
        survives!(Software(&text), Software<'_>, id);
        survives!(ThirdPartyAuthorization(&text), ThirdPartyAuthorization<'_>, id);
        survives!(ErrorCode { code, reason: &text }, ErrorCode<'_>, id);
        let domain: String = text.chars().filter(char::is_ascii).collect();
        survives!(AlternateDomain(&domain), AlternateDomain<'_>, id);
    }

    #[test]
    fn bytes(value in vec(any::<u8>(), 0..600), pairs in vec(any::<[u8; 2]>(), 0..50), id in id()) {
        survives!(Data(&value), Data<'_>, id);
        survives!(MobilityTicket(&value), MobilityTicket<'_>, id);
        survives!(Padding(&value), Padding<'_>, id);
        survives!(AccessToken(&value), AccessToken<'_>, id);
        survives!(GoogDelta(&value), GoogDelta<'_>, id);
        survives!(GoogMiscInfo::new(&pairs), GoogMiscInfo<'_>, id);
    }

    #[test]
    fn password_algorithms(number: u16, parameters in vec(any::<u8>(), 0..40), id in id()) {
        let algorithm = PasswordAlgorithm { number, parameters: &parameters };
        survives!(algorithm, PasswordAlgorithm<'_>, id);
        // A list holds the algorithms as they stand alone, one after the other.
        let mut one = vec![0xFF; algorithm.value_len()];
        algorithm.encode(&mut one, id);
        let two = [&one[..], &one].concat();
        let list = PasswordAlgorithms::decode(&two, id).unwrap();
        prop_assert!(list.iter().eq([algorithm, algorithm]));
        survives!(list, PasswordAlgorithms<'_>, id);
    }

    #[test]
    fn unknown_attributes(types in vec(any::<u16>(), 0..20), id in id()) {
        let mut unknown = UnknownAttributes::default();
        types.iter().for_each(|ty| unknown.push(AttributeType(*ty)));
        survives(&unknown, id)?;
    }

    #[test]
    fn no_value_makes_decoding_panic(value in vec(any::<u8>(), 0..48), id in id()) {
        fn try_all<'a>(value: &'a [u8], id: TransactionId) {
            macro_rules! try_each { ($($ty:ty),* $(,)?) => { $(let _ = <$ty>::decode(value, id);)* } }
            try_each!(
                MappedAddress, XorMappedAddress, XorPeerAddress, XorRelayedAddress, AlternateServer, ResponseOrigin,
                OtherAddress, ResponseAddress, SourceAddress, ChangedAddress, ReflectedFrom, Lifetime, ReservationToken,
                ConnectionId, Priority, IceControlled, IceControlling, NatMapping, Nomination, GoogDeltaAck, CacheTimeout,
                UseCandidate, DontFragment, ResponsePort, ChangeRequest, TransactionTransmitCounter, EvenPort,
                RequestedTransport, Icmp, UserHash, GoogNetworkInfo, GoogLastIceCheckReceived, ChannelNumber,
                RequestedAddressFamily, AdditionalAddressFamily, AddressErrorCode, Username<'a>, Realm<'a>, Nonce<'a>,
                Software<'a>, ThirdPartyAuthorization<'a>, AlternateDomain<'a>, ErrorCode<'a>, Data<'a>,
                MobilityTicket<'a>, Padding<'a>, AccessToken<'a>, GoogDelta<'a>, GoogMiscInfo<'a>,
                PasswordAlgorithm<'a>, PasswordAlgorithms<'a>, UnknownAttributes,
            );
        }
        try_all(&value, id);
    }
}

#[test]
fn types_have_the_numbers_of_the_registry() {
    // IANA "STUN Attributes", and libwebrtc's api/transport/stun.h for those from 0xC000.
    for (ty, number) in [
        (AttributeType::ACCESS_TOKEN, 0x001B),
        (AttributeType::PASSWORD_ALGORITHM, 0x001D),
        (AttributeType::PASSWORD_ALGORITHMS, 0x8002),
        (AttributeType::ALTERNATE_DOMAIN, 0x8003),
        (AttributeType::ICMP, 0x8004),
        (AttributeType::TRANSACTION_TRANSMIT_COUNTER, 0x8025),
        (AttributeType::CACHE_TIMEOUT, 0x8027),
        (AttributeType::THIRD_PARTY_AUTHORIZATION, 0x802E),
        (AttributeType::MOBILITY_TICKET, 0x8030),
        (AttributeType::NOMINATION, 0xC001),
        (AttributeType::GOOG_NETWORK_INFO, 0xC057),
        (AttributeType::GOOG_DELTA, 0xC05C),
        (AttributeType::GOOG_MESSAGE_INTEGRITY_32, 0xC060),
    ] {
        assert_eq!(ty.0, number);
        assert!(ty.name().is_some());
    }
}
