//! FINGERPRINT: a checksum that tells STUN from other protocols (RFC 8489, section 14.7).

/// "XOR'ed with the 32-bit value 0x5354554e" (RFC 8489, section 14.7).
const XOR: u32 = 0x5354_554E;

/// The value for a message whose header's length already counts the FINGERPRINT attribute.
///
/// `parts` are the message's bytes up to that attribute.
pub(super) fn fingerprint(parts: &[&[u8]]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.finalize() ^ XOR
}
