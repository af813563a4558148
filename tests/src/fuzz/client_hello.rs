//! What DTLS reads before it knows whom it reads.

use thirl_common::dtls::{Answer, ClientHello, Cookies};
use thirl_common::net::{ClientAddr, FiveTuple, ServerAddr, Transport};

const NOW: u64 = 1_800_000_000;

/// A datagram that may be a ClientHello: it draws no more than it is, and what is made of it is what came before it.
pub fn client_hello(data: &[u8]) {
    let Some(hello) = ClientHello::parse(data) else { return };
    let first = hello.before_the_cookie();
    let parsed = ClientHello::parse(&first).unwrap();
    assert_eq!((parsed.random, parsed.is_current), (hello.random, hello.is_current));
    assert_eq!((parsed.cookie, parsed.message_sequence), (&[][..], 0));
    assert_eq!(parsed.before_the_cookie(), first, "there is none before the first");
    assert!(first.len() + hello.cookie.len() <= data.len());

    let cookies = Cookies::new(&[7; 32]);
    let five_tuple = FiveTuple {
        transport: Transport::Dtls,
        client: ClientAddr("198.51.100.1:5000".parse().unwrap()),
        server: ServerAddr("192.0.2.1:3478".parse().unwrap()),
    };
    let answer = cookies.answer(NOW, &five_tuple, &hello);
    let Some(datagram) = answer.datagram() else { panic!("nobody guesses a cookie") };
    assert!(datagram.len() <= first.len(), "amplification");
    let Answer::Verify(request) = answer else {
        assert!(!hello.is_current);
        return;
    };
    // The cookie that it was given, in the place of its own.
    let Some(cookie) = request.last_chunk::<32>().filter(|cookie| cookie.len() == hello.cookie.len()) else {
        return;
    };
    let at = hello.cookie.as_ptr() as usize - data.as_ptr() as usize;
    let mut second = data.to_vec();
    second[at..at + cookie.len()].copy_from_slice(cookie);
    let second = ClientHello::parse(&second).unwrap();
    assert_eq!(cookies.answer(NOW, &five_tuple, &second), Answer::Verified);
    assert_eq!(second.before_the_cookie(), first);
}
