//! The TURN client against a server that says anything.

use std::time::{Duration, Instant};

use thirl_common::net::Transport;
use thirl_common::wire::HEADER_LEN;
use thirl_ice_agent::turn::{AccessToken, Families, TurnClient, TurnClientConfig, TurnCredentials};

/// No answer draws more than the repetition of what was asked and what follows from it.
const MAX_SENT: usize = 16;

/// Where the cookie and the transaction id of a message are.
const ID: std::ops::Range<usize> = 4..HEADER_LEN;

/// The first byte chooses the client. Then come answers, each with its length in two bytes before it, of which the highest bit
/// says whether it answers the last request. A second passes after each.
pub fn turn_client(data: &[u8]) {
    let Some((&choice, mut rest)) = data.split_first() else { return };
    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    let mut now = Instant::now();
    let credentials = match choice & 3 {
        0 => TurnCredentials::None,
        1 => AccessToken { kid: "north".to_owned(), token: vec![1; 40], mac_key: vec![5; 20] }.into(),
        _ => TurnCredentials::password("alice", "secret"),
    };
    let mut client = TurnClient::new(
        TurnClientConfig {
            server: ([203, 0, 113, 10], 3478).into(),
            transport: if choice & 4 == 0 { Transport::Udp } else { Transport::Tcp },
            local: ([192, 0, 2, 1], 40_000).into(),
            credentials,
            families: if choice & 8 == 0 { Families::Ipv4 } else { Families::Both },
            mobile: choice & 16 != 0,
        },
        [1; 32],
    );
    client.start(now);
    let mut last = drain(&mut client);
    while let Some((&[high, low], after)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes([high & 0x7F, low])).min(after.len());
        let (answer, following) = after.split_at(len);
        rest = following;
        let mut answer = answer.to_vec();
        if high & 0x80 != 0
            && let (Some(to), Some(id)) = (answer.get_mut(ID), last.get(ID))
        {
            to.copy_from_slice(id);
        }
        if let Some(received) = client.handle_input(now, &answer) {
            assert!(received.data.len() < answer.len());
        }
        let sent = drain(&mut client);
        last = if sent.is_empty() { last } else { sent };
        client.allow(now, [198, 51, 100, 20].into());
        let sent = client.send(now, ([198, 51, 100, 20], 4000).into(), b"data");
        assert_eq!(sent.is_ok(), client.is_allocated());
        now += Duration::from_secs(1);
        client.handle_timeout(now);
        let sent = drain(&mut client);
        last = if sent.is_empty() { last } else { sent };
        assert!(client.is_over() || client.poll_timeout().is_some());
    }
}

/// The last of what it has to send.
fn drain(client: &mut TurnClient) -> Vec<u8> {
    while client.poll_event().is_some() {}
    let sent: Vec<_> = std::iter::from_fn(|| client.poll_transmit()).collect();
    assert!(sent.len() <= MAX_SENT, "{} messages at once", sent.len());
    sent.into_iter().next_back().unwrap_or_default()
}
