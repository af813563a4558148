//! A data channel between two of our agents.

use std::sync::Arc;

use bytes::Bytes;
use thirl_ice_agent::agent::Role;
use webrtc_data::data_channel::{Config, DataChannel};

use crate::stack::{Identity, Setup, associate};
use crate::{agent, within_limit};

const MESSAGES: u8 = 100;
const BYTES: usize = 10_000;

#[tokio::test]
async fn two_agents_carry_a_data_channel() {
    let (a, b) = tokio::join!(agent(Role::Controlling), agent(Role::Controlled));
    a.set_remote(&b.description()).unwrap();
    b.set_remote(&a.description()).unwrap();
    let (a, b) = within_limit("a path", async { tokio::try_join!(a.connect(), b.connect()).unwrap() }).await;

    let (ours, theirs) = (Identity::new(), Identity::new());
    let (our_fingerprint, their_fingerprint) = (ours.fingerprint(), theirs.fingerprint());
    let active = associate(a, Setup::Active, ours, their_fingerprint);
    let passive = associate(b, Setup::Passive, theirs, our_fingerprint);
    let (active, passive) = within_limit("an association", async { tokio::join!(active, passive) }).await;

    let echo = tokio::spawn(async move {
        let channel =
            DataChannel::accept(&Arc::new(passive), Config::default(), &[] as &[DataChannel]).await.unwrap();
        assert_eq!(channel.config.label, "echo");
        let mut buffer = vec![0; BYTES];
        for _ in 0..MESSAGES {
            let len = channel.read(&mut buffer).await.unwrap();
            channel.write(&Bytes::copy_from_slice(&buffer[..len])).await.unwrap();
        }
        // Whoever drops the channel ends it.
        channel
    });
    let config = Config { label: "echo".to_owned(), ..Config::default() };
    let association = Arc::new(active);
    let channel = DataChannel::dial(&association, 1, config).await.unwrap();
    for n in 0..MESSAGES {
        channel.write(&Bytes::from(vec![n; BYTES])).await.unwrap();
    }
    let mut buffer = vec![0; BYTES];
    for n in 0..MESSAGES {
        let len = within_limit("an echo", channel.read(&mut buffer)).await.unwrap();
        assert_eq!(buffer[..len], vec![n; BYTES]);
    }
    echo.await.unwrap();
}
