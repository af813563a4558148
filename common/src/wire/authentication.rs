//! Attributes of the credential mechanisms (RFC 8489, sections 14.3, 14.4, 14.9 to 14.12; RFC 7635), and other
//! texts, SOFTWARE and ALTERNATE-DOMAIN (RFC 8489, sections 14.14 and 14.16), and ORIGIN.

use super::attribute::{Attribute, AttributeError, AttributeType, bytes_attribute, exact};
use super::header::TransactionId;
use super::padded;

macro_rules! text_attribute {
    ($(#[$doc:meta])* $name:ident, $ty:ident, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<'a>(pub &'a str);

        impl<'a> $name<'a> {
            /// The longest value that is read, in bytes. A longer one is refused.
            pub const MAX_LEN: usize = $max;
        }

        impl<'a> Attribute<'a> for $name<'a> {
            const TYPE: AttributeType = AttributeType::$ty;

            fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
                match core::str::from_utf8(value) {
                    Ok(text) if value.len() <= Self::MAX_LEN => Ok($name(text)),
                    _ => Err(AttributeError { attribute: Self::TYPE }),
                }
            }

            fn value_len(&self) -> usize {
                self.0.len()
            }

            fn encode(&self, out: &mut [u8], _: TransactionId) {
                out.copy_from_slice(self.0.as_bytes());
            }
        }
    };
}

text_attribute! {
    /// Who asks: up to 508 bytes are to be written, up to 763 to be read (RFC 8489, section 14.3).
    Username, USERNAME, 763
}
text_attribute! {
    /// In which realm: fewer than 128 characters, up to 763 bytes (RFC 8489, section 14.9).
    Realm, REALM, 763
}
text_attribute! {
    /// The server's nonce: fewer than 128 characters, up to 763 bytes (RFC 8489, section 14.10).
    Nonce, NONCE, 763
}
text_attribute! {
    /// What the sender runs: fewer than 128 characters, up to 763 bytes (RFC 8489, section 14.14).
    Software, SOFTWARE, 763
}

text_attribute! {
    /// The web origin that the client acts for, as in HTTP (draft-ietf-tram-stun-origin). REALM's limit is taken.
    Origin, ORIGIN, 763
}
text_attribute! {
    /// The name that the certificate of an ALTERNATE-SERVER bears: up to 255 bytes (RFC 8489, section 14.16).
    AlternateDomain, ALTERNATE_DOMAIN, 255
}
text_attribute! {
    /// "Come with a token for this server": its name (RFC 7635, section 6.1). No limit is given; REALM's is taken.
    ThirdPartyAuthorization, THIRD_PARTY_AUTHORIZATION, 763
}

/// An access token that only the server can open (RFC 7635, section 6.2). `auth::TokenKey` opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessToken<'a>(pub &'a [u8]);

bytes_attribute!(AccessToken, ACCESS_TOKEN);

/// SHA-256 of "username:realm", in place of USERNAME (RFC 8489, section 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserHash(pub [u8; 32]);

impl<'a> Attribute<'a> for UserHash {
    const TYPE: AttributeType = AttributeType::USERHASH;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        exact(value, Self::TYPE).map(UserHash)
    }

    fn value_len(&self) -> usize {
        32
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        out.copy_from_slice(&self.0);
    }
}

/// How the key is derived from the password: what the client chose (RFC 8489, section 14.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordAlgorithm<'a> {
    /// Its number in the registry (RFC 8489, section 18.5).
    pub number: u16,
    /// Its parameters without padding; both algorithms that are registered have none.
    pub parameters: &'a [u8],
}

impl PasswordAlgorithm<'static> {
    /// RFC 8489, section 18.5.1.1.
    pub const MD5: PasswordAlgorithm<'static> = PasswordAlgorithm { number: 1, parameters: &[] };
    /// RFC 8489, section 18.5.1.2.
    pub const SHA256: PasswordAlgorithm<'static> = PasswordAlgorithm { number: 2, parameters: &[] };
}

impl<'a> PasswordAlgorithm<'a> {
    /// The first of a list, and what follows it. The last one's padding may be left out.
    fn split(list: &'a [u8]) -> Option<(PasswordAlgorithm<'a>, &'a [u8])> {
        let (&[n0, n1, l0, l1], rest) = list.split_first_chunk()?;
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        let algorithm =
            PasswordAlgorithm { number: u16::from_be_bytes([n0, n1]), parameters: rest.get(..len)? };
        Some((algorithm, rest.get(padded(len)..).unwrap_or_default()))
    }
}

impl<'a> Attribute<'a> for PasswordAlgorithm<'a> {
    const TYPE: AttributeType = AttributeType::PASSWORD_ALGORITHM;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        match PasswordAlgorithm::split(value) {
            Some((algorithm, [])) => Ok(algorithm),
            _ => Err(AttributeError { attribute: Self::TYPE }),
        }
    }

    fn value_len(&self) -> usize {
        4 + padded(self.parameters.len())
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        let [.., l0, l1] = self.parameters.len().to_be_bytes();
        let [n0, n1] = self.number.to_be_bytes();
        let (head, rest) = out.split_at_mut(4);
        head.copy_from_slice(&[n0, n1, l0, l1]);
        let (parameters, padding) = rest.split_at_mut(self.parameters.len());
        parameters.copy_from_slice(self.parameters);
        padding.fill(0);
    }
}

/// What the server offers, the preferred first; the client sends it back unchanged (RFC 8489, section 14.11).
///
/// Kept as it came, so that echo and comparison are of the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PasswordAlgorithms<'a>(&'a [u8]);

impl PasswordAlgorithms<'static> {
    /// SHA-256, then MD5: what a server offers that keeps passwords.
    pub const SHA256_AND_MD5: PasswordAlgorithms<'static> = PasswordAlgorithms(&[0, 2, 0, 0, 0, 1, 0, 0]);
    /// SHA-256 alone.
    pub const SHA256: PasswordAlgorithms<'static> = PasswordAlgorithms(&[0, 2, 0, 0]);
}

impl<'a> PasswordAlgorithms<'a> {
    /// The algorithms in order.
    pub fn iter(&self) -> impl Iterator<Item = PasswordAlgorithm<'a>> + use<'a> {
        let mut rest = self.0;
        core::iter::from_fn(move || {
            let (algorithm, after) = PasswordAlgorithm::split(rest)?;
            rest = after;
            Some(algorithm)
        })
    }

    /// The value as it stands in the message.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }
}

impl<'a> Attribute<'a> for PasswordAlgorithms<'a> {
    const TYPE: AttributeType = AttributeType::PASSWORD_ALGORITHMS;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let mut rest = value;
        while !rest.is_empty() {
            let split = PasswordAlgorithm::split(rest).ok_or(AttributeError { attribute: Self::TYPE })?;
            rest = split.1;
        }
        Ok(PasswordAlgorithms(value))
    }

    fn value_len(&self) -> usize {
        self.0.len()
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        out.copy_from_slice(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = TransactionId([0; 12]);

    #[test]
    fn lists_of_algorithms_are_read_to_their_end() {
        let numbers = |value: &[u8]| {
            PasswordAlgorithms::decode(value, ID)
                .map(|list| list.iter().map(|a| a.number).collect::<Vec<_>>())
        };
        assert_eq!(numbers(PasswordAlgorithms::SHA256_AND_MD5.as_bytes()), Ok(vec![2, 1]));
        assert_eq!(numbers(&[0, 9, 0, 1, 7, 0, 0, 0, 0, 1, 0, 0]), Ok(vec![9, 1]), "parameters are padded");
        assert_eq!(numbers(&[]), Ok(vec![]));
        for value in [&[0, 2, 0][..], &[0, 2, 0, 1], &[0, 2, 0, 0, 0]] {
            assert!(PasswordAlgorithms::decode(value, ID).is_err(), "{value:?}");
        }
    }

    #[test]
    fn one_algorithm_is_one() {
        assert_eq!(PasswordAlgorithm::decode(&[0, 2, 0, 0], ID), Ok(PasswordAlgorithm::SHA256));
        let unpadded = PasswordAlgorithm::decode(&[0, 9, 0, 1, 7], ID).unwrap();
        assert_eq!((unpadded.number, unpadded.parameters), (9, &[7][..]));
        assert!(PasswordAlgorithm::decode(&[0, 2, 0, 0, 0, 1, 0, 0], ID).is_err());
    }
}
