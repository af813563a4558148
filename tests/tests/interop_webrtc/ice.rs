//! webrtc-rs' own ICE agent as the peer of ours.

use std::net::IpAddr;
use std::sync::Arc;

use thirl_ice_agent::agent::{PathKind, Role};
use thirl_ice_agent::driver::{Description, IceAgent};
use tokio::sync::mpsc;
use webrtc_ice::agent::Agent;
use webrtc_ice::agent::agent_config::AgentConfig;
use webrtc_ice::candidate::Candidate;
use webrtc_ice::candidate::candidate_base::unmarshal_candidate;
use webrtc_ice::mdns::MulticastDnsMode;
use webrtc_ice::network_type::NetworkType;
use webrtc_util::Conn;

use crate::{agent, within_limit};

const DATAGRAMS: u8 = 20;

struct Theirs {
    agent: Agent,
    description: Description,
}

impl Theirs {
    /// Gathers on loopback.
    async fn gather(role: Role) -> Theirs {
        let config = AgentConfig {
            network_types: vec![NetworkType::Udp4],
            multicast_dns_mode: MulticastDnsMode::Disabled,
            is_controlling: role == Role::Controlling,
            include_loopback: true,
            ip_filter: Arc::new(Some(Box::new(|ip: IpAddr| ip.is_loopback()))),
            ..AgentConfig::default()
        };
        let agent = Agent::new(config).await.unwrap();
        let (found, mut candidates) = mpsc::unbounded_channel();
        agent.on_candidate(Box::new(move |candidate| {
            found.send(candidate.map(|candidate| format!("candidate:{}", candidate.marshal()))).unwrap();
            Box::pin(async {})
        }));
        agent.gather_candidates().unwrap();
        let (ufrag, pwd) = agent.get_local_user_credentials().await;
        let mut description = Description { ufrag, pwd, ..Description::default() };
        while let Some(candidate) = within_limit("a candidate", candidates.recv()).await.unwrap() {
            description.candidates.push(candidate);
        }
        assert!(!description.candidates.is_empty());
        Theirs { agent, description }
    }

    /// Connects, and sends back what comes.
    async fn echo(self, role: Role, peer: Description) {
        for line in &peer.candidates {
            let candidate = unmarshal_candidate(line.strip_prefix("candidate:").unwrap()).unwrap();
            let candidate: Arc<dyn Candidate + Send + Sync> = Arc::new(candidate);
            self.agent.add_remote_candidate(&candidate).unwrap();
        }
        let (_cancel, cancelled) = mpsc::channel(1);
        let path: Arc<dyn Conn + Send + Sync> = match role {
            Role::Controlling => self.agent.dial(cancelled, peer.ufrag, peer.pwd).await.unwrap(),
            Role::Controlled => self.agent.accept(cancelled, peer.ufrag, peer.pwd).await.unwrap(),
        };
        let mut buffer = [0; 2048];
        for _ in 0..DATAGRAMS {
            let len = path.recv(&mut buffer).await.unwrap();
            path.send(&buffer[..len]).await.unwrap();
        }
        self.agent.close().await.unwrap();
    }
}

async fn connects(our_role: Role) {
    let ours: IceAgent = agent(our_role).await;
    let their_role = our_role.opposite();
    let theirs = Theirs::gather(their_role).await;
    ours.set_remote(&theirs.description).unwrap();
    let echo = tokio::spawn(theirs.echo(their_role, ours.description()));
    let path = within_limit("a path", ours.connect()).await.unwrap();
    assert_eq!(path.kind(), PathKind::Direct);
    for n in 0..DATAGRAMS {
        let datagram = vec![n; 1000];
        path.send(&datagram).await.unwrap();
        assert_eq!(within_limit("an echo", path.recv_datagram()).await.unwrap(), datagram);
    }
    within_limit("the end", echo).await.unwrap();
}

#[tokio::test]
async fn controlling() {
    connects(Role::Controlling).await;
}

#[tokio::test]
async fn controlled() {
    connects(Role::Controlled).await;
}
