//! Attributes of the credential mechanisms, and SOFTWARE (RFC 8489, sections 14.3, 14.4, 14.9, 14.10 and 14.14).

use super::attribute::{Attribute, AttributeError, AttributeType, exact};
use super::header::TransactionId;

macro_rules! text_attribute {
    ($(#[$doc:meta])* $name:ident, $ty:ident, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<'a>(pub &'a str);

        impl<'a> $name<'a> {
            /// The longest value that the RFC lets stand, in bytes. A longer one is refused.
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
    /// Who asks: up to 508 bytes (RFC 8489, section 14.3).
    Username, USERNAME, 508
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
