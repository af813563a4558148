//! Requests under way: how they are built, authenticated, repeated, and matched with their answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use thirl_common::auth::LongTermKey;
use thirl_common::net::Transport;
use thirl_common::request::{Due, Retransmission, Transaction};
use thirl_common::wire::{
    AddressFamily, AlternateServer, BufferTooSmall, ChannelNumber, Class, ErrorCode, IntegrityAlgorithm,
    IntegrityKey, Lifetime, Message, MessageWriter, Method, Nonce, Realm, RequestedAddressFamily,
    RequestedTransport, TransactionId, Username, XorPeerAddress,
};

use super::error::TurnError;

/// Room for any request: USERNAME 508, REALM and NONCE 763 each, and the small ones.
const MAX_REQUEST: usize = 2400;

/// How often one request may be sent anew because its nonce was stale or a challenge came.
const MAX_CHALLENGES: u32 = 3;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Allocate { family: Option<AddressFamily> },
    Refresh { lifetime: Option<u32> },
    Permission { peer: IpAddr },
    Channel { peer: SocketAddr, number: ChannelNumber },
}

impl Asked {
    fn method(self) -> Method {
        match self {
            Asked::Allocate { .. } => Method::ALLOCATE,
            Asked::Refresh { .. } => Method::REFRESH,
            Asked::Permission { .. } => Method::CREATE_PERMISSION,
            Asked::Channel { .. } => Method::CHANNEL_BIND,
        }
    }

    fn write(self, writer: &mut MessageWriter<'_>) -> Result<(), BufferTooSmall> {
        match self {
            Asked::Allocate { family } => {
                writer.attribute(&RequestedTransport::UDP)?;
                // IPv4 is the default, and servers of RFC 5766 refuse the attribute.
                if family == Some(AddressFamily::Ipv6) {
                    writer.attribute(&RequestedAddressFamily(family))?;
                }
            }
            Asked::Refresh { lifetime } => {
                if let Some(lifetime) = lifetime {
                    writer.attribute(&Lifetime(lifetime))?;
                }
            }
            Asked::Permission { peer } => {
                writer.attribute(&XorPeerAddress(SocketAddr::new(peer, 0)))?;
            }
            Asked::Channel { peer, number } => {
                writer.attribute(&number)?.attribute(&XorPeerAddress(peer))?;
            }
        }
        Ok(())
    }
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Outcome<'a> {
    /// Carried out, and proved to come from the server.
    Success(Message<'a>),
    /// Refused or never answered.
    Failure(TurnError),
}

/// What a challenge told us.
#[derive(Debug)]
struct Authentication {
    realm: String,
    nonce: String,
    key: IntegrityKey,
}

#[derive(Debug)]
struct Pending {
    asked: Asked,
    transaction: Transaction,
    bytes: Vec<u8>,
    challenges: u32,
    authenticated: bool,
}

/// The requests of one five-tuple.
#[derive(Debug)]
pub(super) struct Exchange {
    transport: Transport,
    username: String,
    password: String,
    rng: StdRng,
    authentication: Option<Authentication>,
    pending: BTreeMap<TransactionId, Pending>,
}

impl Exchange {
    pub(super) fn new(transport: Transport, username: String, password: String, seed: [u8; 32]) -> Exchange {
        Exchange {
            transport,
            username,
            password,
            rng: StdRng::from_seed(seed),
            authentication: None,
            pending: BTreeMap::new(),
        }
    }

    /// Starts a request. The bytes are to be sent now; [`Exchange::deadline`] tells when to look again.
    pub(super) fn ask(&mut self, now: Instant, asked: Asked) -> (TransactionId, Vec<u8>) {
        self.ask_again(now, asked, 0)
    }

    pub(super) fn deadline(&self, id: TransactionId) -> Option<Instant> {
        self.pending.get(&id).map(|pending| pending.transaction.deadline())
    }

    /// A fresh transaction id, for requests and indications alike.
    pub(super) fn transaction_id(&mut self) -> TransactionId {
        let mut id = TransactionId([0; 12]);
        self.rng.fill_bytes(&mut id.0);
        id
    }

    /// Forgets every request: what is still to come of them does not matter any more.
    pub(super) fn forget_all(&mut self) {
        self.pending.clear();
    }

    /// A request's deadline has come: bytes to send again, or the request's end.
    pub(super) fn handle_timeout(
        &mut self,
        now: Instant,
        id: TransactionId,
    ) -> Option<Result<Vec<u8>, Asked>> {
        let pending = self.pending.get_mut(&id)?;
        match pending.transaction.handle_timeout(now) {
            Due::Nothing => None,
            Due::Retransmit => Some(Ok(pending.bytes.clone())),
            Due::TimedOut => self.pending.remove(&id).map(|pending| Err(pending.asked)),
        }
    }

    /// A response. `Ok` is the request's end; `Err` are a request's id and bytes to be sent in its place, because the
    /// server challenged it.
    #[expect(clippy::type_complexity, reason = "an end, or what to send instead")]
    pub(super) fn handle_response<'a>(
        &mut self,
        now: Instant,
        message: &Message<'a>,
    ) -> Option<Result<(Asked, Outcome<'a>), (TransactionId, Vec<u8>)>> {
        let pending = self.pending.get(&message.transaction_id())?;
        if pending.asked.method() != message.method() {
            return None;
        }
        let proved = match &self.authentication {
            Some(authentication) => message.verify_integrity(&authentication.key).is_ok(),
            None => false,
        };
        // What carries an integrity that does not verify is forged. A success must carry one if our request did.
        if !proved && (message.integrity_algorithm().is_some() && self.authentication.is_some()) {
            return None;
        }
        match message.class() {
            Class::Success if proved || !pending.authenticated => {
                let pending = self.pending.remove(&message.transaction_id())?;
                Some(Ok((pending.asked, Outcome::Success(*message))))
            }
            Class::Error => {
                let pending = self.pending.remove(&message.transaction_id())?;
                Some(self.handle_error(now, message, &pending))
            }
            _ => None,
        }
    }

    fn handle_error<'a>(
        &mut self,
        now: Instant,
        message: &Message<'a>,
        pending: &Pending,
    ) -> Result<(Asked, Outcome<'a>), (TransactionId, Vec<u8>)> {
        let failure = |error| Ok((pending.asked, Outcome::Failure(error)));
        let Ok(error) = message.require::<ErrorCode<'_>>() else {
            return failure(TurnError::ServerMisbehaved {
                what: "an error response without a readable ERROR-CODE",
            });
        };
        match error.code {
            401 | 438 => match self.take_challenge(message, error.code, pending) {
                Ok(()) => Err(self.ask_again(now, pending.asked, pending.challenges + 1)),
                Err(error) => failure(error),
            },
            300 => match message.require::<AlternateServer>() {
                Ok(AlternateServer(to)) => failure(TurnError::TryAlternate { to }),
                Err(_) => failure(TurnError::ServerMisbehaved { what: "300 without ALTERNATE-SERVER" }),
            },
            437 => failure(TurnError::AllocationMismatch),
            code => failure(TurnError::Refused { code, reason: error.reason.to_owned() }),
        }
    }

    /// Learns realm and nonce. An authenticated request that draws 401 again had the wrong credentials, unless its
    /// realm or nonce were those of an earlier challenge (RFC 8489, section 9.2.5).
    fn take_challenge(
        &mut self,
        message: &Message<'_>,
        code: u16,
        pending: &Pending,
    ) -> Result<(), TurnError> {
        let malformed =
            |_| TurnError::ServerMisbehaved { what: "a challenge with a malformed REALM or NONCE" };
        let realm = message.get::<Realm<'_>>().map_err(malformed)?.map(|realm| realm.0);
        let nonce = message.get::<Nonce<'_>>().map_err(malformed)?.map(|nonce| nonce.0);
        let known = self.authentication.as_ref();
        let (Some(realm), Some(nonce)) = (realm.or(known.map(|known| known.realm.as_str())), nonce) else {
            return Err(TurnError::ServerMisbehaved { what: "a challenge without REALM or NONCE" });
        };
        let same_realm = known.is_some_and(|known| known.realm == realm);
        if pending.challenges >= MAX_CHALLENGES || (code == 401 && pending.authenticated && same_realm) {
            return Err(TurnError::CredentialsRefused);
        }
        let key = LongTermKey::new(&self.username, realm, &self.password).integrity_key();
        self.authentication = Some(Authentication { realm: realm.to_owned(), nonce: nonce.to_owned(), key });
        Ok(())
    }

    fn ask_again(&mut self, now: Instant, asked: Asked, challenges: u32) -> (TransactionId, Vec<u8>) {
        let id = self.transaction_id();
        // Names and nonces are bounded by the codec when they are read; a username of ours that is too long leaves the
        // request short, and the server says so.
        let bytes = self.write(asked, id).unwrap_or_default();
        let transaction = Transaction::start(Retransmission::STUN, self.transport, now);
        let authenticated = self.authentication.is_some();
        self.pending
            .insert(id, Pending { asked, transaction, bytes: bytes.clone(), challenges, authenticated });
        (id, bytes)
    }

    fn write(&self, asked: Asked, id: TransactionId) -> Result<Vec<u8>, BufferTooSmall> {
        let mut buffer = [0; MAX_REQUEST];
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, asked.method(), id)?;
        asked.write(&mut writer)?;
        if let Some(authentication) = &self.authentication {
            writer
                .attribute(&Username(&self.username))?
                .attribute(&Realm(&authentication.realm))?
                .attribute(&Nonce(&authentication.nonce))?
                .integrity(IntegrityAlgorithm::Sha1, &authentication.key)?;
        }
        Ok(writer.finish().to_vec())
    }
}
