//! What a client of DTLS reads of a server beside the session.

use thirl_common::dtls::ServerCertificates;

/// Datagrams of a server, each behind a length of two bytes: what comes of them does not depend on repetition, and no
/// certificate is longer than all that came.
pub fn server_certificates(data: &[u8]) {
    let mut certificates = ServerCertificates::default();
    let mut rest = data;
    while let Some((&[high, low], after)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (datagram, after) = after.split_at(len);
        certificates.handle_datagram(datagram);
        let once = certificates.chain();
        certificates.handle_datagram(datagram);
        assert_eq!(certificates.chain(), once, "a datagram may come twice");
        if let Some(chain) = once {
            assert!(chain.iter().map(Vec::len).sum::<usize>() <= data.len());
        }
        rest = after;
    }
}
