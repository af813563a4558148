//! A request, and the responses to it.

use std::time::{Duration, Instant};

use thirl_common::auth::SecurityFeatures;
use thirl_common::net::{ClientAddr, FiveTuple, RelayedAddr, Transmit};
use thirl_common::wire::{
    AddressErrorCode, AddressFamily, AlternateDomain, AlternateServer, AttributeType, BufferTooSmall, Class,
    ConnectionId, IntegrityAlgorithm, IntegrityKey, Lifetime, Message, MessageWriter, Method, MobilityTicket,
    Nonce, Realm, ReservationToken, ThirdPartyAuthorization, TransactionId, XorMappedAddress,
    XorRelayedAddress,
};

use super::authenticate::OFFERED;
use super::mobility::Ticket;
use super::output::RelayedAddresses;
use super::realm::Served;
use super::redirect::Alternate;
use super::refusal::Refusal;

/// Longer than any response: the longest realm that the RFC allows has 763 bytes, and so has the longest server name.
const RESPONSE_ROOM: usize = 2048;

/// Comprehension-required attributes by which any request may say who it is from.
const KNOWN: [AttributeType; 6] = [
    AttributeType::USERNAME,
    AttributeType::USERHASH,
    AttributeType::REALM,
    AttributeType::NONCE,
    AttributeType::PASSWORD_ALGORITHM,
    AttributeType::ACCESS_TOKEN,
];

/// A well-formed request, when it came and from whom.
pub(super) struct Request<'m> {
    pub(super) now: Instant,
    pub(super) unix_seconds: u64,
    pub(super) five_tuple: FiveTuple,
    pub(super) message: Message<'m>,
    pub(super) fingerprint: bool,
}

/// How the responses to a client's request are made tamper-proof: like the request.
#[derive(Clone, Debug)]
pub(super) struct Signing {
    pub(super) key: IntegrityKey,
    pub(super) algorithm: IntegrityAlgorithm,
}

/// What a response needs to know of its request, which may be gone by then.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    pub(super) five_tuple: FiveTuple,
    pub(super) method: Method,
    pub(super) transaction: TransactionId,
    pub(super) fingerprint: bool,
    pub(super) signing: Option<Signing>,
}

/// What a success response says. What is `None` is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Success {
    pub(super) relayed: RelayedAddresses,
    pub(super) refused: Option<(AddressFamily, u16)>,
    pub(super) lifetime: Option<Duration>,
    pub(super) reservation_token: Option<u64>,
    pub(super) mapped: Option<ClientAddr>,
    pub(super) ticket: Option<Ticket>,
    pub(super) connection: Option<ConnectionId>,
}

/// What a client is told that has to authenticate (RFC 8489, section 9.2.4).
pub(super) struct Offer<'a> {
    pub(super) served: Served<'a>,
    pub(super) features: SecurityFeatures,
    pub(super) nonce: &'a str,
}

impl Request<'_> {
    /// Refuses comprehension-required attributes other than `own` and those of credentials.
    pub(super) fn check_known(&self, own: &[AttributeType]) -> Result<(), Refusal> {
        let unknown = self.message.unknown_attributes(&[&KNOWN, own].concat());
        if unknown.is_empty() { Ok(()) } else { Err(Refusal::UnknownAttributes(unknown)) }
    }

    /// The envelope of its responses.
    pub(super) fn envelope(&self, signing: Option<Signing>) -> Envelope {
        Envelope {
            five_tuple: self.five_tuple,
            method: self.message.method(),
            transaction: self.message.transaction_id(),
            fingerprint: self.fingerprint,
            signing,
        }
    }
}

impl Envelope {
    /// A success response.
    pub(super) fn succeed(&self, success: &Success) -> Result<Transmit, BufferTooSmall> {
        self.respond(Class::Success, |writer| {
            for RelayedAddr(addr) in success.relayed.iter() {
                writer.attribute(&XorRelayedAddress(addr))?;
            }
            if let Some((family, code)) = success.refused {
                writer.attribute(&AddressErrorCode { family: Some(family), code })?;
            }
            if let Some(lifetime) = success.lifetime {
                let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
                writer.attribute(&Lifetime(seconds))?;
            }
            if let Some(token) = success.reservation_token {
                writer.attribute(&ReservationToken(token))?;
            }
            if let Some(ClientAddr(addr)) = success.mapped {
                writer.attribute(&XorMappedAddress(addr))?;
            }
            if let Some(ticket) = &success.ticket {
                writer.attribute(&MobilityTicket(ticket.value()))?;
            }
            if let Some(connection) = success.connection {
                writer.attribute(&connection)?;
            }
            Ok(())
        })
    }

    /// An error response, with the challenge if there is one. Phrases are for people, and left out.
    pub(super) fn refuse(
        &self,
        refusal: &Refusal,
        challenge: Option<&Offer<'_>>,
    ) -> Result<Transmit, BufferTooSmall> {
        self.respond(Class::Error, |writer| {
            writer.attribute(&refusal.error_code().bare())?;
            if let Refusal::UnknownAttributes(unknown) = refusal {
                writer.attribute(unknown)?;
            }
            if let Refusal::TryAlternate(Alternate { addr, domain }) = refusal {
                writer.attribute(&AlternateServer(*addr))?;
                if let Some(domain) = domain {
                    writer.attribute(&AlternateDomain(domain))?;
                }
            }
            if let Some(Offer { served, features, nonce }) = challenge {
                writer.attribute(&Realm(served.name))?.attribute(&Nonce(nonce))?;
                if features.password_algorithms {
                    writer.attribute(&OFFERED)?;
                }
                if let Some(server) = served.token_server {
                    writer.attribute(&ThirdPartyAuthorization(server))?;
                }
            }
            Ok(())
        })
    }

    fn respond(
        &self,
        class: Class,
        write: impl FnOnce(&mut MessageWriter<'_>) -> Result<(), BufferTooSmall>,
    ) -> Result<Transmit, BufferTooSmall> {
        let mut buffer = [0; RESPONSE_ROOM];
        let mut writer = MessageWriter::new(&mut buffer, class, self.method, self.transaction)?;
        write(&mut writer)?;
        if let Some(Signing { key, algorithm }) = &self.signing {
            writer.integrity(*algorithm, key)?;
        }
        if self.fingerprint {
            writer.fingerprint()?;
        }
        let FiveTuple { transport, client, server } = self.five_tuple;
        Ok(Transmit { transport, from: server.0, to: client.0, payload: writer.finish().to_vec() })
    }
}
