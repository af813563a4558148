//! What a proxy says of its client.

use thirl_common::proxy_protocol::{Header, MAX_HEADER_LEN, header_of_stream, of_datagram, of_stream};

/// A header is the same however a stream is cut, never longer than it may be, and what it says can be written again.
pub fn proxy_protocol(data: &[u8]) {
    let whole = of_stream(data);
    let first =
        (0..=data.len().min(MAX_HEADER_LEN)).map(|len| of_stream(&data[..len])).find(|it| *it != Ok(None));
    assert_eq!(first.unwrap_or(Ok(None)), whole);
    if whole == Ok(None) {
        assert!(data.len() < MAX_HEADER_LEN, "something is decided by then");
    }
    if let Ok(Some(Header { client, len })) = whole {
        assert!(0 < len && len <= data.len() && len <= MAX_HEADER_LEN);
        if let Some(client) = client {
            let written = header_of_stream(client, client);
            assert_eq!(of_stream(&written), Ok(Some(Header { client: Some(client), len: written.len() })));
        }
    }
    if let Ok(Header { len, .. }) = of_datagram(data) {
        assert!(16 <= len && len <= data.len());
        assert_eq!(of_datagram(&data[..len]).map(|header| header.len), Ok(len));
    }
}
