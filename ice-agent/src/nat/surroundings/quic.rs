//! A QUIC packet of a version that nobody has: every QUIC server says which versions it has instead (RFC 9000, section
//! 6.1). So a server's UDP port is known to be reachable, there and back, without a connection.

/// Reserved "to exercise version negotiation" (RFC 9000, section 15).
const VERSION: [u8; 4] = [0x1A, 0x2A, 0x3A, 0x4A];

/// Header form and fixed bit of a long header (RFC 9000, section 17.2).
const LONG_HEADER: u8 = 0xC0;
/// "Header Form (1) = 1", the only bit that a Version Negotiation packet has to have (RFC 8999, section 6).
const HEADER_FORM: u8 = 0x80;

/// Servers answer no smaller datagram (RFC 9000, section 14.1), bytes.
const DATAGRAM: usize = 1200;

/// A client's first Destination Connection ID has at least 8 bytes (RFC 9000, section 7.2).
const LEN: u8 = 8;
const CONNECTION_ID: usize = LEN as usize;

/// A probe, and what answers it.
///
/// ```
/// use thirl_ice_agent::nat::VersionNegotiation;
///
/// let probe = VersionNegotiation::new([7; 16]);
/// assert_eq!(probe.datagram().len(), 1200);
/// assert!(!probe.is_answered_by(&probe.datagram()));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionNegotiation {
    destination: [u8; CONNECTION_ID],
    source: [u8; CONNECTION_ID],
}

impl VersionNegotiation {
    /// With random connection IDs, which the answer has to repeat.
    pub fn new(random: [u8; 2 * CONNECTION_ID]) -> VersionNegotiation {
        let (mut destination, mut source) = ([0; CONNECTION_ID], [0; CONNECTION_ID]);
        destination.copy_from_slice(&random[..CONNECTION_ID]);
        source.copy_from_slice(&random[CONNECTION_ID..]);
        VersionNegotiation { destination, source }
    }

    /// The datagram to send: 1200 bytes.
    pub fn datagram(&self) -> Vec<u8> {
        let mut datagram = header(LONG_HEADER, VERSION, &self.destination, &self.source);
        datagram.resize(DATAGRAM, 0);
        datagram
    }

    /// Whether this is a Version Negotiation packet for the probe: version zero, the connection IDs the other way
    /// around, and at least one version (RFC 8999, section 6).
    pub fn is_answered_by(&self, datagram: &[u8]) -> bool {
        let expected = header(0, [0; 4], &self.source, &self.destination);
        let Some((begin, versions)) = datagram.split_at_checked(expected.len()) else { return false };
        begin[0] & HEADER_FORM != 0
            && begin[1..] == expected[1..]
            && !versions.is_empty()
            && versions.len().is_multiple_of(VERSION.len())
    }
}

/// The part of a long header that all versions share (RFC 8999, section 5.1).
fn header(
    first: u8,
    version: [u8; 4],
    destination: &[u8; CONNECTION_ID],
    source: &[u8; CONNECTION_ID],
) -> Vec<u8> {
    [&[first], &version[..], &[LEN], destination, &[LEN], source].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server's answer, as RFC 8999, section 6, draws it.
    fn answer(versions: &[u8]) -> Vec<u8> {
        [&[0xEA, 0, 0, 0, 0, 8][..], &[2; 8], &[8], &[1; 8], versions].concat()
    }

    fn probe() -> VersionNegotiation {
        let mut random = [1; 16];
        random[8..].fill(2);
        VersionNegotiation::new(random)
    }

    #[test]
    fn the_probe_is_an_initial_packet_of_a_version_that_is_none() {
        let datagram = probe().datagram();
        assert_eq!(datagram[..6], [0xC0, 0x1A, 0x2A, 0x3A, 0x4A, 8]);
        assert_eq!(datagram[6..14], [1; 8]);
        assert_eq!(datagram[14..23], [8, 2, 2, 2, 2, 2, 2, 2, 2]);
    }

    #[test]
    fn an_answer_has_both_connection_ids_and_versions() {
        assert!(probe().is_answered_by(&answer(&[0, 0, 0, 1, 0x6B, 0x33, 0x43, 0xCF])));
        for versions in [&[][..], &[0, 0, 1], &[0, 0, 0, 1, 2]] {
            assert!(!probe().is_answered_by(&answer(versions)), "{versions:?}");
        }
        assert!(!VersionNegotiation::new([1; 16]).is_answered_by(&answer(&[0, 0, 0, 1])), "another's");
        let mut short_header = answer(&[0, 0, 0, 1]);
        short_header[0] = 0x40;
        assert!(!probe().is_answered_by(&short_header));
        assert!(!probe().is_answered_by(&[]));
    }
}
