//! WebRTC over our paths: DTLS, SCTP and data channels of webrtc-rs run over the agent's `webrtc_util::Conn`, between two
//! of our agents and with Chromium; webrtc-rs' own ICE agent is the peer of ours in both roles.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod chromium;
mod data_channel;
mod ice;
mod stack;

use std::time::Duration;

use thirl_ice_agent::agent::Role;
use thirl_ice_agent::candidate::CandidateTransport;
use thirl_ice_agent::driver::{IceAgent, LocalAddress};

/// Generous: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(60);

async fn agent(role: Role) -> IceAgent {
    agent_over(role, CandidateTransport::Udp).await
}

/// One that tells candidates of this transport alone.
async fn agent_over(role: Role, transport: CandidateTransport) -> IceAgent {
    let address = LocalAddress { address: "127.0.0.1:0".parse().unwrap(), preference: u8::MAX };
    let builder = IceAgent::builder().filter(move |candidate| candidate.transport == transport);
    builder.role(role).addresses([address]).gather().await.unwrap()
}

async fn within_limit<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come within {LIMIT:?}"),
    }
}
