//! What DTLS reads before it knows whom it reads.

use thirl_common::dtls::{Answer, ClientHello, Cookies, Version};
use thirl_common::net::{ClientAddr, FiveTuple, ServerAddr, Transport};

const NOW: u64 = 1_800_000_000;

/// A datagram that may be a ClientHello: it draws no more than it is, nobody guesses a cookie, and who brings back the one
/// that it was given is believed.
pub fn client_hello(data: &[u8]) {
    let Some(hello) = ClientHello::parse(data) else { return };
    if let Some(first) = hello.before_the_cookie() {
        first_of(&hello, &first);
    }
    let answer = answer(&hello);
    let Some(datagram) = answer.datagram() else { panic!("nobody guesses a cookie") };
    assert!(datagram.len() <= data.len(), "amplification");
    match &answer {
        Answer::Verify(request) => {
            assert_eq!(hello.version(), Some(Version::Dtls12));
            comes_back_in_1_2(&hello, data, &request[request.len() - 32..]);
        }
        Answer::Retry(request) => {
            let request = request.as_bytes();
            assert_eq!((hello.version(), hello.cookie()), (Some(Version::Dtls13), &[][..]));
            comes_back_in_1_3(&hello, data, &request[request.len() - 32..]);
        }
        _ => assert!(hello.version() != Some(Version::Dtls12)),
    }
}

/// What is made of a ClientHello is what came before it.
fn first_of(hello: &ClientHello<'_>, first: &[u8]) {
    let parsed = ClientHello::parse(first).unwrap();
    assert_eq!((parsed.random, parsed.message_sequence), (hello.random, 0));
    // One of 1.3 says with its cookie what it was; that cookie need not be one of ours. One with a cookie of 1.2 may offer 1.3,
    // and have a cookie of that too.
    if (hello.version(), parsed.version()) != (Some(Version::Dtls12), Some(Version::Dtls13)) {
        assert!(parsed.cookie().is_empty());
    }
    if (hello.version(), parsed.version()) == (Some(Version::Dtls12), Some(Version::Dtls12)) {
        assert_eq!(parsed.before_the_cookie().as_deref(), Some(first), "there is none before the first");
    }
}

/// In the place of the cookie that it had, if it had one of that length.
fn comes_back_in_1_2(hello: &ClientHello<'_>, data: &[u8], cookie: &[u8]) {
    if hello.cookie().len() != cookie.len() {
        return;
    }
    let at = hello.cookie().as_ptr() as usize - data.as_ptr() as usize;
    let mut second = data.to_vec();
    second[at..at + cookie.len()].copy_from_slice(cookie);
    let second = ClientHello::parse(&second).unwrap();
    assert_eq!(answer(&second), Answer::Verified);
    assert_eq!(second.before_the_cookie(), hello.before_the_cookie());
}

/// As the last extension: believed if the ClientHello that it came to can be told from the one that brings it, and else not.
fn comes_back_in_1_3(hello: &ClientHello<'_>, data: &[u8], cookie: &[u8]) {
    let mut second = data[..13 + usize::from(u16::from_be_bytes([data[11], data[12]]))].to_vec();
    let first = second.clone();
    let mut extensions = 13 + 12 + 2 + 32;
    // Session, cookie, cipher suites, compression methods.
    for width in [1, 1, 2, 1] {
        let len =
            second[extensions..extensions + width].iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
        extensions += width + len;
    }
    second.extend([0, 44, 0, 34, 0, 32]);
    second.extend(cookie);
    let lengths = [(11..13, 13), (14..17, 25), (22..25, 25), (extensions..extensions + 2, extensions + 2)];
    let whole = second.len();
    for (field, start) in lengths {
        let len = (whole - start).to_be_bytes();
        second[field.clone()].copy_from_slice(&len[len.len() - field.len()..]);
    }
    // Too long for a record, or behind what is no extension.
    let Some(parsed) = ClientHello::parse(&second).filter(|parsed| parsed.cookie() == cookie) else { return };
    let told = parsed.before_the_cookie().unwrap();
    assert_eq!(answer(&parsed) == Answer::Verified, told[25..] == first[25..]);
    assert_eq!(parsed.random, hello.random);
}

fn answer(hello: &ClientHello<'_>) -> Answer {
    let five_tuple = FiveTuple {
        transport: Transport::Dtls,
        client: ClientAddr("198.51.100.1:5000".parse().unwrap()),
        server: ServerAddr("192.0.2.1:3478".parse().unwrap()),
    };
    Cookies::new(&[7; 32]).answer(NOW, &five_tuple, hello)
}
