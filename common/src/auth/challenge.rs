//! Which key a request is to be signed with: what the server offers, what the client chooses, and how both notice that
//! somebody between them took the stronger choice away (RFC 8489, section 9.2).

use super::key::{KeyAlgorithm, userhash};
use super::nonce::SecurityFeatures;
use crate::wire::{
    AccessToken, AttributeError, AttributeType, BufferTooSmall, IntegrityAlgorithm, Message, MessageWriter,
    Nonce, PasswordAlgorithm, PasswordAlgorithms, Realm, ThirdPartyAuthorization, UserHash, Username,
};

/// What a client learned from a 401 or 438, and answers every later request to the server with.
///
/// ```
/// use thirl_common::auth::{Challenge, LongTermKey};
/// # use thirl_common::wire::*;
/// # let id = TransactionId([1; 12]);
/// # let (mut refusal, mut buffer) = ([0; 128], [0; 256]);
/// # let mut writer = MessageWriter::new(&mut refusal, Class::Error, Method::ALLOCATE, id)?;
/// # writer.attribute(&ErrorCode::UNAUTHENTICATED.bare())?.attribute(&Realm("thirl"))?;
/// # writer.attribute(&Nonce("obMatJos2AAABx"))?.attribute(&PasswordAlgorithms::SHA256_AND_MD5)?;
/// # let refusal = Message::parse(writer.finish())?;
/// let challenge = Challenge::read(&refusal)?;
/// let key = LongTermKey::prepared(challenge.algorithm, "alice", &challenge.realm, "secret")?.integrity_key();
///
/// let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, id)?;
/// challenge.answer(&mut writer, "alice")?;
/// writer.integrity(challenge.integrity(), &key)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Challenge {
    /// REALM, to be sent back and hashed into the key.
    pub realm: String,
    /// NONCE, to be sent back.
    pub nonce: String,
    /// How the key is derived: the strongest that both know.
    pub algorithm: KeyAlgorithm,
    /// The server wants USERHASH instead of USERNAME.
    pub username_anonymity: bool,
    /// The server named in THIRD-PARTY-AUTHORIZATION, for which it takes access tokens (RFC 7635, section 6.1).
    pub token_server: Option<String>,
    /// PASSWORD-ALGORITHMS as it came, to be sent back unchanged.
    offered: Option<Vec<u8>>,
}

/// The request must not be sent again with credentials (RFC 8489, section 9.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChallengeError {
    /// REALM or NONCE is missing, or one of the attributes is malformed: the server is broken.
    #[error("the server's challenge cannot be answered: {0}")]
    Incomplete(#[from] AttributeError),
    /// The nonce says that the server offers a choice, and the choice is not there: somebody on the way removed it.
    #[error("the server's choice of password algorithms was removed on the way")]
    BidDown,
    /// None of the algorithms is known here.
    #[error("the server offers no password algorithm but unknown ones")]
    NoCommonAlgorithm,
}

impl Challenge {
    /// Reads an error response with code 401 or 438.
    pub fn read(message: &Message<'_>) -> Result<Challenge, ChallengeError> {
        let Realm(realm) = message.require()?;
        let Nonce(nonce) = message.require()?;
        let offered: Option<PasswordAlgorithms<'_>> = message.get()?;
        let features = SecurityFeatures::of(nonce);
        let algorithm = match offered {
            None if features.password_algorithms => return Err(ChallengeError::BidDown),
            None => KeyAlgorithm::Md5,
            Some(offered) => {
                offered.iter().filter_map(KeyAlgorithm::of).max().ok_or(ChallengeError::NoCommonAlgorithm)?
            }
        };
        Ok(Challenge {
            realm: realm.to_owned(),
            nonce: nonce.to_owned(),
            algorithm,
            username_anonymity: features.username_anonymity,
            token_server: message.get()?.map(|ThirdPartyAuthorization(server)| server.to_owned()),
            offered: offered.map(|offered| offered.as_bytes().to_vec()),
        })
    }

    /// Appends USERNAME or USERHASH, REALM, NONCE, and where the server offered a choice PASSWORD-ALGORITHMS and
    /// PASSWORD-ALGORITHM. `username` is prepared, or ASCII.
    pub fn answer(&self, writer: &mut MessageWriter<'_>, username: &str) -> Result<(), BufferTooSmall> {
        if self.username_anonymity {
            writer.attribute(&UserHash(userhash(username, &self.realm)))?;
        } else {
            writer.attribute(&Username(username))?;
        }
        self.answer_as_somebody(writer)
    }

    /// The same with an access token, whose `kid` stands in USERNAME (RFC 7635, section 6).
    pub fn answer_with_token(
        &self,
        writer: &mut MessageWriter<'_>,
        kid: &str,
        token: &[u8],
    ) -> Result<(), BufferTooSmall> {
        writer.attribute(&Username(kid))?.attribute(&AccessToken(token))?;
        self.answer_as_somebody(writer)
    }

    fn answer_as_somebody(&self, writer: &mut MessageWriter<'_>) -> Result<(), BufferTooSmall> {
        writer.attribute(&Realm(&self.realm))?.attribute(&Nonce(&self.nonce))?;
        if let Some(offered) = &self.offered {
            writer.raw(AttributeType::PASSWORD_ALGORITHMS, offered)?;
            writer.attribute(&self.algorithm.attribute())?;
        }
        Ok(())
    }

    /// Which integrity requests bear, and responses must: MESSAGE-INTEGRITY-SHA256 where the server offered a choice
    /// (RFC 8489, section 9.2.5).
    pub fn integrity(&self) -> IntegrityAlgorithm {
        match self.offered {
            Some(_) => IntegrityAlgorithm::Sha256,
            None => IntegrityAlgorithm::Sha1,
        }
    }
}

/// The request is to be answered with 400 (RFC 8489, section 9.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the password algorithms in the request are not those that this server offered")]
pub struct AlgorithmMismatch;

/// Which key a request asks to be checked with, of a server whose nonces say that it offers `offered`
/// (RFC 8489, section 9.2.4).
///
/// MD5 if the request says nothing. Else it must repeat the offer unchanged and choose of it: an offer that was changed
/// on its way to the client is noticed here, as the request's integrity covers it.
pub fn chosen_algorithm(
    message: &Message<'_>,
    offered: PasswordAlgorithms<'_>,
) -> Result<KeyAlgorithm, AlgorithmMismatch> {
    let list = message.get::<PasswordAlgorithms<'_>>().map_err(|_| AlgorithmMismatch)?;
    let choice = message.get::<PasswordAlgorithm<'_>>().map_err(|_| AlgorithmMismatch)?;
    match (list, choice) {
        (None, None) => Ok(KeyAlgorithm::Md5),
        (Some(list), Some(choice)) if list == offered && offered.iter().any(|known| known == choice) => {
            KeyAlgorithm::of(choice).ok_or(AlgorithmMismatch)
        }
        _ => Err(AlgorithmMismatch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::LongTermKey;
    use crate::wire::{Class, ErrorCode, Method, TransactionId};

    const ID: TransactionId = TransactionId([5; 12]);
    const BOTH: PasswordAlgorithms<'static> = PasswordAlgorithms::SHA256_AND_MD5;
    /// Bits 0 and 1 are set.
    const NONCE: &str = "obMatJos2AAADabc";

    fn message(class: Class, write: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
        let mut buffer = [0; 512];
        let mut writer = MessageWriter::new(&mut buffer, class, Method::ALLOCATE, ID).unwrap();
        write(&mut writer);
        writer.finish().to_vec()
    }

    fn refusal(nonce: &str, offered: Option<&[u8]>) -> Result<Challenge, ChallengeError> {
        let bytes = message(Class::Error, |writer| {
            writer.attribute(&ErrorCode::UNAUTHENTICATED.bare()).unwrap();
            writer.attribute(&Realm("thirl")).unwrap().attribute(&Nonce(nonce)).unwrap();
            if let Some(offered) = offered {
                writer.raw(AttributeType::PASSWORD_ALGORITHMS, offered).unwrap();
            }
        });
        Challenge::read(&Message::parse(&bytes).unwrap())
    }

    #[test]
    fn the_strongest_that_both_know_is_chosen() {
        for (offered, algorithm, integrity) in [
            (None, KeyAlgorithm::Md5, IntegrityAlgorithm::Sha1),
            (Some(BOTH.as_bytes()), KeyAlgorithm::Sha256, IntegrityAlgorithm::Sha256),
            (Some(&[0, 1, 0, 0, 0, 2, 0, 0][..]), KeyAlgorithm::Sha256, IntegrityAlgorithm::Sha256),
            (Some(&[0, 9, 0, 0, 0, 1, 0, 0][..]), KeyAlgorithm::Md5, IntegrityAlgorithm::Sha256),
        ] {
            let challenge = refusal("short", offered).unwrap();
            assert_eq!((challenge.algorithm, challenge.integrity()), (algorithm, integrity), "{offered:?}");
        }
        assert_eq!(refusal("short", Some(&[0, 9, 0, 0])), Err(ChallengeError::NoCommonAlgorithm));
        assert!(matches!(refusal("short", Some(&[0, 2, 0])), Err(ChallengeError::Incomplete(_))));
    }

    #[test]
    fn a_removed_offer_is_noticed_by_the_client() {
        assert_eq!(refusal(NONCE, None), Err(ChallengeError::BidDown));
        assert!(refusal(NONCE, Some(BOTH.as_bytes())).is_ok());
    }

    #[test]
    fn client_and_server_agree() {
        let challenge = refusal(NONCE, Some(BOTH.as_bytes())).unwrap();
        let key = LongTermKey::with_algorithm(challenge.algorithm, "alice", &challenge.realm, "secret");
        let bytes = message(Class::Request, |writer| {
            challenge.answer(writer, "alice").unwrap();
            writer.integrity(challenge.integrity(), &key.integrity_key()).unwrap();
        });
        let request = Message::parse(&bytes).unwrap();
        assert_eq!(chosen_algorithm(&request, BOTH), Ok(KeyAlgorithm::Sha256));
        assert_eq!(request.require::<UserHash>().unwrap().0, userhash("alice", "thirl"));
        assert_eq!(request.get::<Username<'_>>(), Ok(None));
        assert_eq!(request.verify_integrity(&key.integrity_key()), Ok(IntegrityAlgorithm::Sha256));
    }

    #[test]
    fn a_changed_offer_is_noticed_by_the_server() {
        let md5_only = PasswordAlgorithm::MD5.number;
        for (list, choice, expected) in [
            (None, None, Ok(KeyAlgorithm::Md5)),
            (Some(BOTH.as_bytes()), Some(md5_only), Ok(KeyAlgorithm::Md5)),
            (Some(&[0, 1, 0, 0][..]), Some(md5_only), Err(AlgorithmMismatch)),
            (Some(BOTH.as_bytes()), None, Err(AlgorithmMismatch)),
            (None, Some(md5_only), Err(AlgorithmMismatch)),
            (Some(BOTH.as_bytes()), Some(9), Err(AlgorithmMismatch)),
        ] {
            let bytes = message(Class::Request, |writer| {
                if let Some(list) = list {
                    writer.raw(AttributeType::PASSWORD_ALGORITHMS, list).unwrap();
                }
                if let Some(number) = choice {
                    writer.attribute(&PasswordAlgorithm { number, parameters: &[] }).unwrap();
                }
            });
            let request = Message::parse(&bytes).unwrap();
            assert_eq!(chosen_algorithm(&request, BOTH), expected, "{list:?} {choice:?}");
        }
    }
}
