//! Which protocol a datagram belongs to, by its first byte (RFC 9443, section 2, which updates RFC 7983).

/// What shares a port with STUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// A STUN message: first byte 0 to 3.
    Stun,
    /// ZRTP: 16 to 19.
    Zrtp,
    /// DTLS: 20 to 63.
    Dtls,
    /// A TURN ChannelData message: 64 to 79.
    ChannelData,
    /// QUIC: 80 to 127 (short header) and 192 to 255 (long header).
    Quic,
    /// RTP or RTCP: 128 to 191.
    Rtp,
    /// None of these, or an empty datagram.
    Unknown,
}

/// Tells from the first byte what a datagram is.
#[inline]
pub const fn classify(datagram: &[u8]) -> Protocol {
    let Some(&first) = datagram.first() else { return Protocol::Unknown };
    // By itself and first, since a relay sees little else.
    if first & 0xF0 == 0x40 {
        return Protocol::ChannelData;
    }
    match first {
        0..=3 => Protocol::Stun,
        16..=19 => Protocol::Zrtp,
        20..=63 => Protocol::Dtls,
        64..=79 => Protocol::ChannelData,
        80..=127 | 192..=255 => Protocol::Quic,
        128..=191 => Protocol::Rtp,
        4..=15 => Protocol::Unknown,
    }
}

/// As [`classify`], on a port of a TURN server that shares it with no QUIC: 64 to 127 are ChannelData, as clients of RFC
/// 5766 send it (section 11).
#[inline]
pub const fn classify_at_relay(datagram: &[u8]) -> Protocol {
    match datagram {
        [0x40..=0x7F, ..] => Protocol::ChannelData,
        _ => classify(datagram),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_rfc_9443() {
        for (first, protocol) in [
            (0, Protocol::Stun),
            (3, Protocol::Stun),
            (4, Protocol::Unknown),
            (15, Protocol::Unknown),
            (16, Protocol::Zrtp),
            (19, Protocol::Zrtp),
            (20, Protocol::Dtls),
            (63, Protocol::Dtls),
            (64, Protocol::ChannelData),
            (79, Protocol::ChannelData),
            (80, Protocol::Quic),
            (127, Protocol::Quic),
            (128, Protocol::Rtp),
            (191, Protocol::Rtp),
            (192, Protocol::Quic),
            (255, Protocol::Quic),
        ] {
            assert_eq!(classify(&[first]), protocol, "first byte {first}");
        }
        assert_eq!(classify(&[]), Protocol::Unknown);
    }

    #[test]
    fn a_relay_differs_in_the_channels_of_rfc_5766_alone() {
        for first in 0..=255 {
            let expected = if matches!(first, 80..=127) { Protocol::ChannelData } else { classify(&[first]) };
            assert_eq!(classify_at_relay(&[first]), expected, "first byte {first}");
        }
        assert_eq!(classify_at_relay(&[]), Protocol::Unknown);
    }
}
