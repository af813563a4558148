//! The TURN client of webrtc-rs (`turn` 0.17) against `turn-relay`, on loopback: an allocation, a permission, data both ways
//! by Send indications and then by a channel, which it binds meanwhile, and the refresh that ends it.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use thirl_tests::harness::Relay;
use tokio::net::UdpSocket;
use tokio::time::timeout;
use turn::client::{Client, ClientConfig};
use webrtc_util::Conn as _;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn allocates_and_relays_and_ends() {
    let mut relay = Relay::start(&["--allowed-peer-ip", "127.0.0.1"]).unwrap();
    let client = Client::new(ClientConfig {
        stun_serv_addr: relay.addr.to_string(),
        turn_serv_addr: relay.addr.to_string(),
        username: "alice".to_owned(),
        password: "secret".to_owned(),
        // The server says which.
        realm: String::new(),
        software: String::new(),
        rto_in_ms: 0,
        conn: Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()),
        vnet: None,
    });
    let client = client.await.unwrap();
    client.listen().await.unwrap();
    let reflexive = timeout(LIMIT, client.send_binding_request()).await.unwrap().unwrap();
    assert_eq!(reflexive.ip(), Ipv4Addr::LOCALHOST);

    let allocation = timeout(LIMIT, client.allocate()).await.unwrap().unwrap();
    let relayed = allocation.local_addr().unwrap();
    let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut buffer = [0; 1500];
    for number in 0..200_u32 {
        let data = number.to_be_bytes().repeat(200);
        timeout(LIMIT, allocation.send_to(&data, peer.local_addr().unwrap())).await.unwrap().unwrap();
        let (len, from) = timeout(LIMIT, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!((&buffer[..len], from), (&data[..], relayed));
        peer.send_to(&data, relayed).await.unwrap();
        let (len, from) = timeout(LIMIT, allocation.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!((&buffer[..len], from), (&data[..], peer.local_addr().unwrap()));
    }

    allocation.close().await.unwrap();
    let ended = relay.program.wait_for_line("allocation ended", LIMIT).unwrap();
    assert!(ended.contains("to_peer_packets=200") && ended.contains("to_client_packets=200"), "{ended}");
    client.close().await.unwrap();
}
