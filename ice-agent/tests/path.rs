//! What a path offers to who sends and receives, on this machine's loopback.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use thirl_ice_agent::driver::{Builder, IceAgent, LocalAddress, Path, PathClosed, TrySendError};

async fn paths() -> (Path, Path) {
    let on_loopback = |builder: Builder| {
        let address = LocalAddress { address: "127.0.0.1:0".parse().unwrap(), preference: 255 };
        builder.addresses([address]).gather()
    };
    let a = on_loopback(IceAgent::builder().controlling()).await.unwrap();
    let b = on_loopback(IceAgent::builder().controlled()).await.unwrap();
    a.set_remote(&b.description()).unwrap();
    b.set_remote(&a.description()).unwrap();
    tokio::try_join!(a.connect(), b.connect()).unwrap()
}

#[tokio::test]
async fn batches_keep_lengths_and_order() {
    let (a, b) = paths().await;
    // Trains, ends of trains, single ones, one without content, and more than fits into one call.
    let lengths =
        [1200, 1200, 1200, 300, 1200, 0, 5, 5, 5, 9000, 9000, 1].into_iter().chain((0..200).map(|_| 777));
    let sent: Vec<Vec<u8>> =
        lengths.enumerate().map(|(n, len)| vec![u8::try_from(n % 251).unwrap(); len]).collect();
    a.send_batch(&sent).await.unwrap();
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let count = b.recv_batch(&mut received, 50).await.unwrap();
        assert!((1..=50).contains(&count));
    }
    assert_eq!(received, sent);
    assert_eq!(b.dropped(), 0);
}

#[tokio::test]
async fn trying_never_waits() {
    let (a, b) = paths().await;
    assert_eq!(b.try_recv(), Ok(None));
    a.try_send(b"one").unwrap();
    assert_eq!(b.recv_datagram().await.unwrap(), "one");
    assert_eq!(a.try_send(&[0; 70_000]), Err(TrySendError::Closed(PathClosed::TooLarge)));
    a.writable().await;
    for n in 0..100u32 {
        while a.try_send(&n.to_be_bytes()) == Err(TrySendError::Full) {
            a.writable().await;
        }
    }
    for n in 0..100 {
        let next = match b.try_recv().unwrap() {
            Some(next) => next,
            None => b.recv_datagram().await.unwrap(),
        };
        assert_eq!(next, u32::to_be_bytes(n)[..]);
    }
}

#[tokio::test]
async fn a_path_is_a_stream_and_a_sink() {
    let (a, b) = paths().await;
    let (mut a, b_stream) = (a.datagrams(), b.datagrams());
    let sent: Vec<_> = (0..100u8).map(|n| Bytes::from(vec![n; 100])).collect();
    a.send_all(&mut futures_util::stream::iter(sent.clone()).map(Ok)).await.unwrap();
    let received: Vec<_> = b_stream.take(100).collect().await;
    assert_eq!(received, sent);
}

#[tokio::test]
async fn loopback_takes_what_its_interface_takes() {
    let (a, _b) = paths().await;
    // The loopback of Linux takes packets of 65,536 bytes, of which IPv4 can say 65,535.
    assert_eq!(a.mtu(), Some(65_535 - 20 - 8));
}
