//! Attributes that ICE agents send beyond RFC 8445: renomination, what libwebrtc adds, and one of ours. All are
//! comprehension-optional.
//!
//! Those without a type here ([`AttributeType::META_DTLS_IN_STUN`](super::AttributeType) and others) are read as they
//! stand with [`Message::attributes`](super::Message::attributes) and written with
//! [`MessageWriter::raw`](super::MessageWriter::raw).

use super::attribute::{Attribute, AttributeError, AttributeType, bytes_attribute, exact, integer_attribute};
use super::header::TransactionId;

/// Nominates this pair over all pairs that were nominated with a lower number (draft-thatcher-ice-renomination,
/// section 4). libwebrtc sends all 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nomination(pub u32);

/// How the NAT before the sender makes mappings, as the sender has seen it: Thirl's own, for peers that say that they know
/// it. What the numbers mean is the agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatMapping {
    /// A number of the agent's for the behaviour.
    pub behaviour: u8,
    /// From one port to the next, if they come in sequence.
    pub step: i8,
    /// Counts the times that both sides look at once; 0 outside of that.
    pub round: u8,
    /// The external port of the sender's newest mapping; 0 if it knows none.
    pub port: u16,
}

/// Which of the sender's networks a check came over, and what that one costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoogNetworkInfo {
    /// The sender's number for the network.
    pub id: u16,
    /// 0 to 999; 10 for Wi-Fi, 900 for cellular of unknown generation.
    pub cost: u16,
}

/// Transaction id of the last check that the sender received, with which a lost response is made up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoogLastIceCheckReceived(pub TransactionId);

/// A list of 16-bit values in network order, whose meaning goes by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoogMiscInfo<'a>(&'a [[u8; 2]]);

/// What changed in the sender's view of the pairs; opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoogDelta<'a>(pub &'a [u8]);

/// Number of the last GOOG-DELTA that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoogDeltaAck(pub u64);

integer_attribute!(Nomination, u32, NOMINATION);
bytes_attribute!(GoogDelta, GOOG_DELTA);
integer_attribute!(GoogDeltaAck, u64, GOOG_DELTA_ACK);

impl<'a> Attribute<'a> for NatMapping {
    const TYPE: AttributeType = AttributeType::NAT_MAPPING;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [behaviour, step, round, p0, p1] = exact(value, Self::TYPE)?;
        let step = i8::from_be_bytes([step]);
        Ok(NatMapping { behaviour, step, round, port: u16::from_be_bytes([p0, p1]) })
    }

    fn value_len(&self) -> usize {
        5
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        out[0] = self.behaviour;
        out[1..2].copy_from_slice(&self.step.to_be_bytes());
        out[2] = self.round;
        out[3..].copy_from_slice(&self.port.to_be_bytes());
    }
}

impl<'a> Attribute<'a> for GoogNetworkInfo {
    const TYPE: AttributeType = AttributeType::GOOG_NETWORK_INFO;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [i0, i1, c0, c1] = exact(value, Self::TYPE)?;
        Ok(GoogNetworkInfo { id: u16::from_be_bytes([i0, i1]), cost: u16::from_be_bytes([c0, c1]) })
    }

    fn value_len(&self) -> usize {
        4
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        out[..2].copy_from_slice(&self.id.to_be_bytes());
        out[2..].copy_from_slice(&self.cost.to_be_bytes());
    }
}

impl<'a> Attribute<'a> for GoogLastIceCheckReceived {
    const TYPE: AttributeType = AttributeType::GOOG_LAST_ICE_CHECK_RECEIVED;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        exact(value, Self::TYPE).map(|id| GoogLastIceCheckReceived(TransactionId(id)))
    }

    fn value_len(&self) -> usize {
        12
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        out.copy_from_slice(&self.0.0);
    }
}

impl<'a> GoogMiscInfo<'a> {
    /// From values in network order.
    pub fn new(values: &'a [[u8; 2]]) -> GoogMiscInfo<'a> {
        GoogMiscInfo(values)
    }

    /// The values.
    pub fn iter(&self) -> impl Iterator<Item = u16> + use<'a> {
        self.0.iter().map(|value| u16::from_be_bytes(*value))
    }
}

impl<'a> Attribute<'a> for GoogMiscInfo<'a> {
    const TYPE: AttributeType = AttributeType::GOOG_MISC_INFO;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        match value.as_chunks() {
            (values, []) => Ok(GoogMiscInfo(values)),
            _ => Err(AttributeError { attribute: Self::TYPE }),
        }
    }

    fn value_len(&self) -> usize {
        self.0.len() * 2
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        out.copy_from_slice(self.0.as_flattened());
    }
}
