//! ChannelData: four bytes before application data instead of an indication (RFC 8656, section 12.4).

use core::fmt;

/// Length of the ChannelData header in bytes.
pub const CHANNEL_HEADER_LEN: usize = 4;

/// A channel number.
///
/// Clients of RFC 8656 bind 0x4000 to 0x4FFF (section 12), so that ChannelData can share a port with QUIC. Those of RFC 5766
/// (section 11), coturn's among them, bind up to 0x7FFF, which only a relay has to understand: nothing else that its port
/// speaks starts with 0x50 to 0x7F. What is for relays is named so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelNumber(u16);

impl ChannelNumber {
    /// The lowest that a client is to bind.
    pub const MIN: ChannelNumber = ChannelNumber(0x4000);
    /// The highest that a client is to bind.
    pub const MAX: ChannelNumber = ChannelNumber(0x4FFF);

    /// The channel with this number, if it is one that a client is to bind: [`ChannelNumber::MIN`] to
    /// [`ChannelNumber::MAX`].
    #[inline]
    pub const fn new(number: u16) -> Option<ChannelNumber> {
        if number >= Self::MIN.0 && number <= Self::MAX.0 { Some(ChannelNumber(number)) } else { None }
    }

    /// The channel with this number, if it is one that a relay lets clients bind: 0x4000 to 0x7FFF.
    #[inline]
    pub const fn at_relay(number: u16) -> Option<ChannelNumber> {
        if matches!(number, 0x4000..=0x7FFF) { Some(ChannelNumber(number)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for ChannelNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

/// A ChannelData message that borrows from the datagram or frame it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelData<'a> {
    /// Which channel.
    pub channel: ChannelNumber,
    /// The application data, without padding.
    pub data: &'a [u8],
}

/// Why a ChannelData message cannot be read: the sender's fault; it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelDataError {
    /// Shorter than its header, or than its header says.
    #[error("the ChannelData message is shorter than it says")]
    Truncated,
    /// 0x5000 to 0xFFFF are reserved (RFC 8656, section 12); to a relay, 0x8000 and above (RFC 5766, section 11).
    #[error("the channel number is none that can be bound")]
    InvalidChannel,
}

impl<'a> ChannelData<'a> {
    /// Reads a datagram or frame. Bytes beyond the length are padding and ignored (RFC 8656, section 12.4).
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ChannelDataError> {
        Self::parse_with(bytes, ChannelNumber::new)
    }

    /// As [`ChannelData::parse`], with the channels of RFC 5766 too.
    #[inline]
    pub fn parse_at_relay(bytes: &'a [u8]) -> Result<Self, ChannelDataError> {
        Self::parse_with(bytes, ChannelNumber::at_relay)
    }

    #[inline]
    fn parse_with(
        bytes: &'a [u8],
        channel: impl FnOnce(u16) -> Option<ChannelNumber>,
    ) -> Result<Self, ChannelDataError> {
        let Some((&[n0, n1, l0, l1], rest)) = bytes.split_first_chunk() else {
            return Err(ChannelDataError::Truncated);
        };
        let channel = channel(u16::from_be_bytes([n0, n1])).ok_or(ChannelDataError::InvalidChannel)?;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let data = rest.get(..length).ok_or(ChannelDataError::Truncated)?;
        Ok(ChannelData { channel, data })
    }

    /// The header to put before `len` bytes of data; `None` if they do not fit the 16-bit length.
    #[inline]
    pub fn header(channel: ChannelNumber, len: usize) -> Option<[u8; CHANNEL_HEADER_LEN]> {
        let [n0, n1] = channel.0.to_be_bytes();
        let [l0, l1] = u16::try_from(len).ok()?.to_be_bytes();
        Some([n0, n1, l0, l1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_parse_agree() {
        let header = ChannelData::header(ChannelNumber::MIN, 3).unwrap();
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&header);
        bytes[4..7].copy_from_slice(b"abc");
        let parsed = ChannelData::parse(&bytes).unwrap();
        assert_eq!((parsed.channel, parsed.data), (ChannelNumber::MIN, &b"abc"[..]));
        assert_eq!(ChannelData::header(ChannelNumber::MIN, 0x1_0000), None);
    }

    #[test]
    fn refuses_what_is_short_or_reserved() {
        assert_eq!(ChannelData::parse(&[0x40, 0, 0]), Err(ChannelDataError::Truncated));
        assert_eq!(ChannelData::parse(&[0x40, 0, 0, 1]), Err(ChannelDataError::Truncated));
        assert_eq!(ChannelData::parse(&[0x50, 0, 0, 0]), Err(ChannelDataError::InvalidChannel));
        assert!(ChannelData::parse(&[0x4F, 0xFF, 0, 0]).is_ok());
    }

    #[test]
    fn a_relay_knows_the_channels_of_both_rfcs() {
        for (number, client, relay) in [
            (0x3FFF, false, false),
            (0x4000, true, true),
            (0x4FFF, true, true),
            (0x5000, false, true),
            (0x7FFF, false, true),
            (0x8000, false, false),
        ] {
            assert_eq!(ChannelNumber::new(number).is_some(), client, "{number:#x}");
            assert_eq!(ChannelNumber::at_relay(number).is_some(), relay, "{number:#x}");
        }
        let parsed = ChannelData::parse_at_relay(b"\x7f\xff\0\x01ab").unwrap();
        assert_eq!((parsed.channel.get(), parsed.data), (0x7FFF, &b"a"[..]));
        assert_eq!(ChannelData::header(parsed.channel, 258), Some([0x7F, 0xFF, 1, 2]));
        assert_eq!(ChannelData::parse_at_relay(b"\x7f\xff\0\x03ab"), Err(ChannelDataError::Truncated));
        assert_eq!(ChannelData::parse_at_relay(b"\x80\0\0\0"), Err(ChannelDataError::InvalidChannel));
    }
}
