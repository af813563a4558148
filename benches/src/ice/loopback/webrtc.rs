//! `webrtc-ice` (webrtc-rs), both sides on this thread's runtime. It sends data over a selected pair only.

use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot};
use webrtc_ice::Error;
use webrtc_ice::agent::Agent;
use webrtc_ice::agent::agent_config::AgentConfig;
use webrtc_ice::candidate::candidate_base::unmarshal_candidate;
use webrtc_ice::candidate::{Candidate, CandidateType};
use webrtc_ice::mdns::MulticastDnsMode;
use webrtc_ice::network_type::NetworkType;

use super::tap::Tap;
use super::{LIMIT, Times};
use crate::ice::scene::Scene;
use crate::{BenchError, now};

pub(super) async fn connect(tap: &Tap, scene: &Scene, rng: &mut StdRng) -> Result<[Times; 2], BenchError> {
    let (a, b) = (start(true).await.map_err(failed)?, start(false).await.map_err(failed)?);
    let told = tap.tell([a.port, b.port], scene, rng)?;
    let begun = now();
    let (a_times, b_times) =
        tokio::join!(run(&a.agent, true, &b, &told[0], begun), run(&b.agent, false, &a, &told[1], begun));
    for side in [&a, &b] {
        side.agent.close().await.ok();
    }
    Ok([a_times.map_err(failed)?, b_times.map_err(failed)?])
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in `map_err`")]
fn failed(error: Error) -> BenchError {
    BenchError::Figures(format!("webrtc-ice: {error}"))
}

struct Side {
    agent: Agent,
    port: u16,
    ufrag: String,
    pwd: String,
}

async fn start(controlling: bool) -> Result<Side, Error> {
    let agent = Agent::new(AgentConfig {
        network_types: vec![NetworkType::Udp4],
        candidate_types: vec![CandidateType::Host],
        multicast_dns_mode: MulticastDnsMode::Disabled,
        include_loopback: true,
        ip_filter: Arc::new(Some(Box::new(|ip| ip.is_loopback()))),
        is_controlling: controlling,
        ..AgentConfig::default()
    })
    .await?;
    let (told, mut gathered) = mpsc::channel(4);
    agent.on_candidate(Box::new(move |candidate| {
        let told = told.clone();
        Box::pin(async move { _ = told.send(candidate.map(|found| found.port())).await })
    }));
    agent.gather_candidates()?;
    let mut port = 0;
    while let Some(Some(found)) = gathered.recv().await {
        port = found;
    }
    let (ufrag, pwd) = agent.get_local_user_credentials().await;
    Ok(Side { agent, port, ufrag, pwd })
}

async fn run(
    agent: &Agent,
    controlling: bool,
    other: &Side,
    told: &[String],
    begun: Instant,
) -> Result<Times, Error> {
    let (tell, selected) = oneshot::channel();
    let mut tell = Some(tell);
    agent.on_selected_candidate_pair_change(Box::new(move |_, _| {
        if let Some(tell) = tell.take() {
            tell.send(begun.elapsed()).ok();
        }
        Box::pin(async {})
    }));
    for line in told {
        let candidate = unmarshal_candidate(line.trim_start_matches("candidate:"))?;
        let candidate: Arc<dyn Candidate + Send + Sync> = Arc::new(candidate);
        agent.add_remote_candidate(&candidate)?;
    }
    let (_cancel, cancelled) = mpsc::channel(1);
    let (ufrag, pwd) = (other.ufrag.clone(), other.pwd.clone());
    let connecting = async {
        match controlling {
            true => agent.dial(cancelled, ufrag, pwd).await.map(drop),
            false => agent.accept(cancelled, ufrag, pwd).await.map(drop),
        }
    };
    let selected = async { tokio::join!(connecting, selected).1.ok() };
    let at = tokio::time::timeout(LIMIT, selected).await.ok().flatten();
    Ok(Times { works: at, nominated: at })
}
