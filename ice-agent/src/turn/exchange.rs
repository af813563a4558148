//! Requests under way: how they are built, authenticated, repeated, and matched with their answers.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use thirl_common::auth::{Challenge, ChallengeError, LongTermKey, opaque_string};
use thirl_common::net::{Transport, canonical};
use thirl_common::request::{Due, Retransmission, Transaction};
use thirl_common::wire::{
    AdditionalAddressFamily, AddressFamily, AlternateDomain, AlternateServer, BufferTooSmall, ChannelNumber,
    Class, ErrorCode, IntegrityAlgorithm, IntegrityKey, Lifetime, Message, MessageWriter, Method,
    MobilityTicket, RequestedAddressFamily, RequestedTransport, SsodaAdditionalAddressFamily, TransactionId,
    XorPeerAddress,
};

use super::client::Families;
use super::credentials::TurnCredentials;
use super::error::TurnError;

/// A longer ticket is not kept: bytes. That of coturn has 12.
const MAX_TICKET: usize = 512;

/// A longer access token is not sent: bytes.
const MAX_TOKEN: usize = 1024;

/// Room for any request: USERNAME 508, REALM and NONCE 763 each, a ticket, a token, and the small ones. A server that offers so many
/// password algorithms that they do not fit is not answered.
const MAX_REQUEST: usize = 2900 + MAX_TOKEN;

/// How often one request may be sent anew because its nonce was stale or a challenge came.
const MAX_CHALLENGES: u32 = 3;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// With `mobile` for a ticket by which it can be moved (RFC 8016, section 3.1).
    Allocate {
        families: Families,
        mobile: bool,
    },
    Refresh {
        lifetime: Option<u32>,
    },
    /// A Refresh with the ticket, from another five-tuple (RFC 8016, section 3.2).
    Move,
    Permission {
        peer: IpAddr,
    },
    Channel {
        peer: SocketAddr,
        number: ChannelNumber,
    },
}

impl Asked {
    fn method(self) -> Method {
        match self {
            Asked::Allocate { .. } => Method::ALLOCATE,
            Asked::Refresh { .. } | Asked::Move => Method::REFRESH,
            Asked::Permission { .. } => Method::CREATE_PERMISSION,
            Asked::Channel { .. } => Method::CHANNEL_BIND,
        }
    }

    fn write(self, ticket: &[u8], writer: &mut MessageWriter<'_>) -> Result<(), BufferTooSmall> {
        match self {
            Asked::Allocate { families, mobile } => {
                writer.attribute(&RequestedTransport::UDP)?;
                let ipv6 = Some(AddressFamily::Ipv6);
                match families {
                    // IPv4 is the default, and servers of RFC 5766 refuse the attribute.
                    Families::Ipv4 => {}
                    Families::Ipv6 => {
                        writer.attribute(&RequestedAddressFamily(ipv6))?;
                    }
                    Families::Both => {
                        writer.attribute(&AdditionalAddressFamily(ipv6))?;
                        // What coturn knew it by before the RFC; others pass over what they do not know.
                        writer.attribute(&SsodaAdditionalAddressFamily(ipv6))?;
                    }
                }
                if mobile {
                    writer.attribute(&MobilityTicket(&[]))?;
                }
            }
            Asked::Move => {
                writer.attribute(&MobilityTicket(ticket))?;
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

/// What a challenge told us, and the key that follows from it.
#[derive(Debug)]
struct Authentication {
    challenge: Challenge,
    key: IntegrityKey,
}

impl Authentication {
    /// Whether the server sent this: the integrity is asked for that our requests bear, so that nobody on the way can talk
    /// us into the weaker one (RFC 8489, section 9.2.5).
    fn proves(&self, message: &Message<'_>) -> bool {
        message.verify_integrity_as(self.challenge.integrity(), &self.key).is_ok()
    }
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
    credentials: TurnCredentials,
    rng: StdRng,
    authentication: Option<Authentication>,
    /// What the allocation can be moved with: the latest that the server gave.
    ticket: Option<Vec<u8>>,
    pending: BTreeMap<TransactionId, Pending>,
}

impl Exchange {
    pub(super) fn new(transport: Transport, credentials: &TurnCredentials, seed: [u8; 32]) -> Exchange {
        Exchange {
            transport,
            credentials: prepared(credentials),
            rng: StdRng::from_seed(seed),
            authentication: None,
            ticket: None,
            pending: BTreeMap::new(),
        }
    }

    /// Starts a request. The bytes are to be sent now; [`Exchange::deadline`] tells when to look again.
    pub(super) fn ask(&mut self, now: Instant, asked: Asked) -> (TransactionId, Vec<u8>) {
        self.ask_again(now, asked, 0)
    }

    /// Whether a request like this is under way.
    pub(super) fn is_asking(&self, asked: Asked) -> bool {
        self.pending.values().any(|pending| pending.asked == asked)
    }

    /// Whether the server has given a ticket.
    pub(super) fn has_ticket(&self) -> bool {
        self.ticket.is_some()
    }

    /// What carries the requests from now on.
    pub(super) fn set_transport(&mut self, transport: Transport) {
        self.transport = transport;
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
        let proved = self.authentication.as_ref().is_some_and(|known| known.proves(message));
        // What carries an integrity that does not verify is forged. A success must carry one if our request did.
        if !proved && (message.integrity_algorithm().is_some() && self.authentication.is_some()) {
            return None;
        }
        match message.class() {
            Class::Success if proved || !pending.authenticated => {
                let pending = self.pending.remove(&message.transaction_id())?;
                if let Ok(Some(MobilityTicket(ticket))) = message.get() {
                    self.ticket = (1..=MAX_TICKET).contains(&ticket.len()).then(|| ticket.to_vec());
                }
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
                Ok(AlternateServer(to)) => {
                    let domain = message.get::<AlternateDomain<'_>>().ok().flatten();
                    let domain = domain.map(|AlternateDomain(domain)| domain.to_owned());
                    failure(TurnError::TryAlternate { to: canonical(to), domain })
                }
                Err(_) => failure(TurnError::ServerMisbehaved { what: "300 without ALTERNATE-SERVER" }),
            },
            code => failure(TurnError::of_code(code, error.reason)),
        }
    }

    /// Learns realm, nonce and algorithm. An authenticated request that draws 401 again had the wrong credentials, unless
    /// the realm has changed since (RFC 8489, section 9.2.5).
    fn take_challenge(
        &mut self,
        message: &Message<'_>,
        code: u16,
        pending: &Pending,
    ) -> Result<(), TurnError> {
        let challenge = Challenge::read(message)?;
        let known = self.authentication.as_ref().map(|known| &known.challenge);
        let same_realm = known.is_some_and(|known| known.realm == challenge.realm);
        let refused =
            pending.challenges >= MAX_CHALLENGES || (code == 401 && pending.authenticated && same_realm);
        match (&self.credentials, &challenge.token_server) {
            (TurnCredentials::Token(_), Some(server)) if refused => {
                return Err(TurnError::TokenWanted { server: server.clone() });
            }
            (TurnCredentials::None, Some(server)) => {
                return Err(TurnError::TokenWanted { server: server.clone() });
            }
            (TurnCredentials::Token(_), None) => return Err(TurnError::NoTokens),
            (TurnCredentials::None, None) => return Err(TurnError::NoCredentials),
            _ if refused => return Err(TurnError::CredentialsRefused),
            _ => {}
        }
        // A challenge is not signed. The server's own would offer no less than before.
        let offers_less = known.is_some_and(|known| {
            known.integrity() == IntegrityAlgorithm::Sha256
                && challenge.integrity() == IntegrityAlgorithm::Sha1
                || known.algorithm > challenge.algorithm
        });
        if offers_less {
            return Err(TurnError::BidDown);
        }
        let key = self.key(&challenge);
        self.authentication = Some(Authentication { key, challenge });
        if self.write(pending.asked, message.transaction_id()).is_err() {
            self.authentication = None;
            let what = "a challenge that, with the username or the token, is too long to be answered";
            return Err(TurnError::ServerMisbehaved { what });
        }
        Ok(())
    }

    fn key(&self, challenge: &Challenge) -> IntegrityKey {
        match &self.credentials {
            TurnCredentials::Password { username, password } => {
                let Challenge { algorithm, realm, .. } = challenge;
                // The realm is the server's, as it hashes it.
                LongTermKey::with_algorithm(*algorithm, username, realm, password).integrity_key()
            }
            TurnCredentials::Token(token) => IntegrityKey::new(&token.mac_key),
            TurnCredentials::None => IntegrityKey::new(&[]),
        }
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
        asked.write(self.ticket.as_deref().unwrap_or_default(), &mut writer)?;
        if let Some(authentication) = &self.authentication {
            let Authentication { challenge, key } = authentication;
            match &self.credentials {
                TurnCredentials::Password { username, .. } => challenge.answer(&mut writer, username)?,
                TurnCredentials::Token(token) => {
                    challenge.answer_with_token(&mut writer, &token.kid, &token.token)?;
                }
                TurnCredentials::None => {}
            }
            writer.integrity(challenge.integrity(), key)?;
        }
        Ok(writer.finish().to_vec())
    }
}

impl From<ChallengeError> for TurnError {
    fn from(error: ChallengeError) -> TurnError {
        match error {
            ChallengeError::BidDown => TurnError::BidDown,
            ChallengeError::NoCommonAlgorithm => TurnError::NoCommonAlgorithm,
            _ => {
                TurnError::ServerMisbehaved { what: "a challenge with a missing or malformed REALM or NONCE" }
            }
        }
    }
}

/// What RFC 8489 hashes; text that may not stand in a password is left as it is, as browsers and coturn do.
fn prepared(credentials: &TurnCredentials) -> TurnCredentials {
    let prepared = |text: &str| opaque_string(text).unwrap_or(Cow::Borrowed(text)).into_owned();
    match credentials {
        TurnCredentials::Password { username, password } => {
            TurnCredentials::password(prepared(username), prepared(password))
        }
        others => others.clone(),
    }
}
