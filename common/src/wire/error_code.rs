//! ERROR-CODE and UNKNOWN-ATTRIBUTES (RFC 8489, sections 14.8 and 14.13).

use super::attribute::{Attribute, AttributeError, AttributeType};
use super::header::TransactionId;

/// Why a request was refused: 300 to 699 and a phrase for people (RFC 8489, section 14.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode<'a> {
    /// The code, 300 to 699.
    pub code: u16,
    /// The phrase; may be empty.
    pub reason: &'a str,
}

impl ErrorCode<'static> {
    /// "The client should contact an alternate server" (RFC 8489, section 14.8).
    pub const TRY_ALTERNATE: ErrorCode<'static> = ErrorCode { code: 300, reason: "Try Alternate" };
    /// "The request was malformed" (RFC 8489, section 14.8).
    pub const BAD_REQUEST: ErrorCode<'static> = ErrorCode { code: 400, reason: "Bad Request" };
    /// "The request did not contain the correct credentials to proceed" (RFC 8489, section 14.8).
    pub const UNAUTHENTICATED: ErrorCode<'static> = ErrorCode { code: 401, reason: "Unauthenticated" };
    /// Valid, but refused for an administrative or similar reason (RFC 8656, section 19).
    pub const FORBIDDEN: ErrorCode<'static> = ErrorCode { code: 403, reason: "Forbidden" };
    /// Mobility is not allowed (RFC 8016, section 3.4).
    pub const MOBILITY_FORBIDDEN: ErrorCode<'static> = ErrorCode { code: 405, reason: "Mobility Forbidden" };
    /// "The server does not recognize a comprehension-required attribute" (RFC 8489, section 14.8).
    pub const UNKNOWN_ATTRIBUTE: ErrorCode<'static> = ErrorCode { code: 420, reason: "Unknown Attribute" };
    /// "The request requires an allocation to exist" or must not (RFC 8656, section 19).
    pub const ALLOCATION_MISMATCH: ErrorCode<'static> =
        ErrorCode { code: 437, reason: "Allocation Mismatch" };
    /// "The NONCE used by the client was no longer valid" (RFC 8489, section 14.8).
    pub const STALE_NONCE: ErrorCode<'static> = ErrorCode { code: 438, reason: "Stale Nonce" };
    /// The family is not served (RFC 8656, section 19).
    pub const ADDRESS_FAMILY_NOT_SUPPORTED: ErrorCode<'static> =
        ErrorCode { code: 440, reason: "Address Family not Supported" };
    /// Not the credentials that made the allocation (RFC 8656, section 19).
    pub const WRONG_CREDENTIALS: ErrorCode<'static> = ErrorCode { code: 441, reason: "Wrong Credentials" };
    /// The REQUESTED-TRANSPORT is not served (RFC 8656, section 19).
    pub const UNSUPPORTED_TRANSPORT: ErrorCode<'static> =
        ErrorCode { code: 442, reason: "Unsupported Transport Protocol" };
    /// A peer is of another family than the allocation (RFC 8656, section 19).
    pub const PEER_ADDRESS_FAMILY_MISMATCH: ErrorCode<'static> =
        ErrorCode { code: 443, reason: "Peer Address Family Mismatch" };
    /// There is a connection to this peer already (RFC 6062, section 6.3).
    pub const CONNECTION_ALREADY_EXISTS: ErrorCode<'static> =
        ErrorCode { code: 446, reason: "Connection Already Exists" };
    /// The peer could not be connected to (RFC 6062, section 6.3).
    pub const CONNECTION_TIMEOUT_OR_FAILURE: ErrorCode<'static> =
        ErrorCode { code: 447, reason: "Connection Timeout or Failure" };
    /// No more allocations for this username (RFC 8656, section 19).
    pub const ALLOCATION_QUOTA_REACHED: ErrorCode<'static> =
        ErrorCode { code: 486, reason: "Allocation Quota Reached" };
    /// "Both agents have the same role" (RFC 8445, section 16.1).
    pub const ROLE_CONFLICT: ErrorCode<'static> = ErrorCode { code: 487, reason: "Role Conflict" };
    /// "A temporary error" (RFC 8489, section 14.8).
    pub const SERVER_ERROR: ErrorCode<'static> = ErrorCode { code: 500, reason: "Server Error" };
    /// "The server is unable to carry out the request due to some capacity limit" (RFC 8656, section 19).
    pub const INSUFFICIENT_CAPACITY: ErrorCode<'static> =
        ErrorCode { code: 508, reason: "Insufficient Capacity" };

    /// The same code without its phrase, where every byte of a response counts.
    pub const fn bare(self) -> ErrorCode<'static> {
        ErrorCode { code: self.code, reason: "" }
    }
}

impl<'a> Attribute<'a> for ErrorCode<'a> {
    const TYPE: AttributeType = AttributeType::ERROR_CODE;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let malformed = AttributeError { attribute: Self::TYPE };
        let &[_, _, class, number, ref reason @ ..] = value else { return Err(malformed) };
        // The 21 bits before the class are reserved and ignored on receipt.
        let class = class & 0x07;
        if !(3..=6).contains(&class) || number > 99 {
            return Err(malformed);
        }
        // The phrase is for people: one that is no UTF-8 does not make the code worth less.
        let reason = core::str::from_utf8(reason).unwrap_or_default();
        Ok(ErrorCode { code: u16::from(class) * 100 + u16::from(number), reason })
    }

    fn value_len(&self) -> usize {
        4 + self.reason.len()
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        let [_, class] = (self.code / 100).to_be_bytes();
        let [_, number] = (self.code % 100).to_be_bytes();
        out[..4].copy_from_slice(&[0, 0, class, number]);
        out[4..].copy_from_slice(self.reason.as_bytes());
    }
}

/// The comprehension-required attributes that a server did not know, as they came (RFC 8489, section 14.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UnknownAttributes {
    types: [u16; Self::MAX],
    len: usize,
}

impl UnknownAttributes {
    /// More are not reported: a request that has so many is no honest one, and the response stays small.
    pub const MAX: usize = 8;

    /// Adds a type unless it is there already or there is no more room.
    pub fn push(&mut self, ty: AttributeType) {
        if self.len < Self::MAX && self.iter().all(|known| known != ty) {
            self.types[self.len] = ty.0;
            self.len += 1;
        }
    }

    /// The types.
    pub fn iter(&self) -> impl Iterator<Item = AttributeType> + '_ {
        self.types[..self.len].iter().map(|&ty| AttributeType(ty))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<'a> Attribute<'a> for UnknownAttributes {
    const TYPE: AttributeType = AttributeType::UNKNOWN_ATTRIBUTES;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let (types, rest) = value.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(AttributeError { attribute: Self::TYPE });
        }
        let mut unknown = UnknownAttributes::default();
        types.iter().for_each(|ty| unknown.push(AttributeType(u16::from_be_bytes(*ty))));
        Ok(unknown)
    }

    fn value_len(&self) -> usize {
        self.len * 2
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        for (out, ty) in out.as_chunks_mut::<2>().0.iter_mut().zip(&self.types[..self.len]) {
            *out = ty.to_be_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = TransactionId([0; 12]);

    #[test]
    fn error_codes_out_of_range_are_refused() {
        assert_eq!(ErrorCode::decode(&[0xff, 0xff, 0xfc, 38], ID).unwrap().code, 438);
        for value in [&[0, 0, 2, 99][..], &[0, 0, 7, 0], &[0, 0, 4, 100], &[0, 0, 4]] {
            assert!(ErrorCode::decode(value, ID).is_err(), "{value:?}");
        }
    }

    #[test]
    fn unknown_attributes_are_bounded_and_distinct() {
        let mut unknown = UnknownAttributes::default();
        (0..100).for_each(|n| unknown.push(AttributeType(n / 2)));
        assert!(unknown.iter().map(|ty| ty.0).eq(0..8));
        let mut out = [0; 16];
        unknown.encode(&mut out, ID);
        assert_eq!(UnknownAttributes::decode(&out, ID).unwrap(), unknown);
    }
}
