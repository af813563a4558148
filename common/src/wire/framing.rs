//! Where a message ends in a stream: STUN and ChannelData by their own lengths (RFC 8489, section 6.2.2; RFC 8656,
//! section 12.4), anything else by a length before it (RFC 4571, as ICE over TCP uses it).

use super::channel_data::CHANNEL_HEADER_LEN;
use super::classify::{Protocol, classify, classify_at_relay};
use super::header::{HEADER_LEN, MAGIC_COOKIE};
use super::padded;

/// What stands at the front of a stream's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameLen {
    /// The message is not there yet: at least so many bytes must be buffered before it can be.
    NeedMore(usize),
    /// A whole message.
    Complete {
        /// Its length in bytes.
        frame: usize,
        /// How many bytes to take off the stream: the message with its padding.
        padded: usize,
    },
}

/// The stream cannot be followed any further and must be closed: the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FramingError {
    /// Neither STUN nor ChannelData.
    #[error("the stream carries something that is neither STUN nor ChannelData")]
    UnknownProtocol,
    /// A STUN header with another cookie or a length that is no multiple of four.
    #[error("the stream carries a broken STUN header")]
    BrokenHeader,
}

/// Looks at the front of a stream's buffer. No frame is larger than 65,556 bytes.
#[inline]
pub fn frame_len(buffered: &[u8]) -> Result<FrameLen, FramingError> {
    frame_len_of(classify(buffered), buffered)
}

/// As [`frame_len`], on a client's stream to a TURN server: with the channels of RFC 5766 too.
#[inline]
pub fn frame_len_at_relay(buffered: &[u8]) -> Result<FrameLen, FramingError> {
    frame_len_of(classify_at_relay(buffered), buffered)
}

#[inline]
fn frame_len_of(protocol: Protocol, buffered: &[u8]) -> Result<FrameLen, FramingError> {
    let Some(&[_, _, l0, l1]) = buffered.first_chunk() else {
        return match protocol {
            Protocol::Stun | Protocol::ChannelData => Ok(FrameLen::NeedMore(4)),
            _ if buffered.is_empty() => Ok(FrameLen::NeedMore(4)),
            _ => Err(FramingError::UnknownProtocol),
        };
    };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let frame = match protocol {
        Protocol::ChannelData => CHANNEL_HEADER_LEN + length,
        Protocol::Stun if !length.is_multiple_of(4) => return Err(FramingError::BrokenHeader),
        Protocol::Stun => match buffered.get(4..8) {
            None => return Ok(FrameLen::NeedMore(8)),
            Some(cookie) if cookie != MAGIC_COOKIE.to_be_bytes() => return Err(FramingError::BrokenHeader),
            Some(_) => HEADER_LEN + length,
        },
        _ => return Err(FramingError::UnknownProtocol),
    };
    let padded = padded(frame);
    Ok(if buffered.len() < padded {
        FrameLen::NeedMore(padded)
    } else {
        FrameLen::Complete { frame, padded }
    })
}

/// Length of the header of RFC 4571 in bytes (section 2).
pub const PACKET_HEADER_LEN: usize = 2;

/// Looks at the front of the buffer of a stream that is framed as RFC 4571 says: every packet, STUN or not, behind its
/// 16-bit length (RFC 6544, section 3). The packet is the frame without its first two bytes; it may be empty.
///
/// Any two bytes are a length, so this never fails. No frame is larger than 65,537 bytes.
#[inline]
pub fn packet_frame_len(buffered: &[u8]) -> Result<FrameLen, FramingError> {
    let Some(&header) = buffered.first_chunk::<PACKET_HEADER_LEN>() else {
        return Ok(FrameLen::NeedMore(PACKET_HEADER_LEN));
    };
    let frame = PACKET_HEADER_LEN + usize::from(u16::from_be_bytes(header));
    Ok(if buffered.len() < frame {
        FrameLen::NeedMore(frame)
    } else {
        FrameLen::Complete { frame, padded: frame }
    })
}

/// The header to put before a packet of `len` bytes (RFC 4571, section 2); `None` if they do not fit its 16 bits.
#[inline]
pub fn packet_header(len: usize) -> Option<[u8; PACKET_HEADER_LEN]> {
    u16::try_from(len).ok().map(u16::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channel_data_is_padded_and_stun_is_not() {
        let data = [0x40, 0x00, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 0x40];
        assert_eq!(frame_len(&data), Ok(FrameLen::Complete { frame: 9, padded: 12 }));
        assert_eq!(frame_len(&data[..11]), Ok(FrameLen::NeedMore(12)));
        let mut stun = [0; 24];
        stun[..8].copy_from_slice(&[0, 1, 0, 4, 0x21, 0x12, 0xA4, 0x42]);
        assert_eq!(frame_len(&stun), Ok(FrameLen::Complete { frame: 24, padded: 24 }));
        assert_eq!(frame_len(&stun[..5]), Ok(FrameLen::NeedMore(8)));
        assert_eq!(frame_len(&stun[..8]), Ok(FrameLen::NeedMore(24)));
    }

    #[test]
    fn other_protocols_end_the_stream_at_their_first_byte() {
        assert_eq!(frame_len(b"POST / HTTP/1.1"), Err(FramingError::UnknownProtocol));
        assert_eq!(frame_len(b"\x16"), Err(FramingError::UnknownProtocol));
        assert_eq!(frame_len(&[0, 1, 0, 0, 0, 0, 0, 0]), Err(FramingError::BrokenHeader));
        assert_eq!(frame_len(&[0, 1, 0, 3]), Err(FramingError::BrokenHeader));
        assert_eq!(frame_len(&[]), Ok(FrameLen::NeedMore(4)));
    }

    #[test]
    fn frames_at_a_relay_end_where_they_would_elsewhere() {
        let mut whole = [0x4F, 0xFF, 0, 5, 1, 2, 3, 4, 5, 0, 0, 0, 0x40];
        for first in [0x4F, 0x50, 0x7F] {
            for len in 0..=whole.len() {
                whole[0] = 0x4F;
                let elsewhere = frame_len(&whole[..len]);
                whole[0] = first;
                assert_eq!(frame_len_at_relay(&whole[..len]), elsewhere, "{first:#x}, {len} bytes");
            }
        }
        assert_eq!(frame_len_at_relay(b"\x80"), Err(FramingError::UnknownProtocol));
        assert_eq!(frame_len_at_relay(&[0, 1, 0, 3]), Err(FramingError::BrokenHeader));
    }

    #[test]
    fn packets_of_rfc_4571_are_cut_behind_their_length() {
        assert_eq!(packet_frame_len(&[]), Ok(FrameLen::NeedMore(2)));
        assert_eq!(packet_frame_len(&[0]), Ok(FrameLen::NeedMore(2)));
        assert_eq!(packet_frame_len(&[0, 3, 1, 2]), Ok(FrameLen::NeedMore(5)));
        assert_eq!(packet_frame_len(&[0, 3, 1, 2, 3, 0]), Ok(FrameLen::Complete { frame: 5, padded: 5 }));
        assert_eq!(packet_frame_len(&[0, 0]), Ok(FrameLen::Complete { frame: 2, padded: 2 }));
        assert_eq!(packet_frame_len(&[0xFF, 0xFF]), Ok(FrameLen::NeedMore(65_537)));
        assert_eq!((packet_header(3), packet_header(0x1_0000)), (Some([0, 3]), None));
    }
}
