//! Our agent by its driver, both sides on this thread's runtime.

use std::time::Duration;

use rand::rngs::StdRng;
use thirl_ice_agent::driver::{Builder, Description, IceAgent, LocalAddress};

use super::tap::Tap;
use super::{LIMIT, Times};
use crate::ice::scene::Scene;
use crate::{BenchError, now};

pub(super) async fn connect(tap: &Tap, scene: &Scene, rng: &mut StdRng) -> Result<[Times; 2], BenchError> {
    let sides = [start(IceAgent::builder().controlling()).await?, start(IceAgent::builder()).await?];
    let descriptions = [sides[0].description(), sides[1].description()];
    let told = tap.tell([port(&descriptions[0])?, port(&descriptions[1])?], scene, rng)?;
    let begun = now();
    let tasks = [0, 1].map(|n| {
        let (agent, other) = (sides[n].clone(), &descriptions[1 - n]);
        let theirs = Description { candidates: told[n].clone(), ..other.clone() };
        tokio::spawn(async move {
            if agent.set_remote(&theirs).is_err() {
                return Times::default();
            }
            let elapsed = |connected: bool| connected.then(|| begun.elapsed());
            let works = tokio::time::timeout(LIMIT, agent.connect_early()).await;
            let works = elapsed(works.is_ok_and(|path| path.is_ok()));
            let nominated = tokio::time::timeout(LIMIT, agent.connect()).await;
            Times { works, nominated: elapsed(nominated.is_ok_and(|path| path.is_ok())) }
        })
    });
    let [a, b] = tasks;
    let times = [a.await.unwrap_or_default(), b.await.unwrap_or_default()];
    for side in sides {
        tokio::time::timeout(Duration::from_secs(1), side.close()).await.ok();
    }
    Ok(times)
}

async fn start(builder: Builder) -> Result<IceAgent, BenchError> {
    let address = LocalAddress { address: ([127, 0, 0, 1], 0).into(), preference: 255 };
    let agent = builder.addresses([address]).gather().await;
    agent.map_err(|error| BenchError::Figures(format!("our agent does not start: {error}")))
}

/// The port of the one candidate.
fn port(description: &Description) -> Result<u16, BenchError> {
    let line = description.candidates.first().and_then(|line| line.split(' ').nth(5));
    line.and_then(|port| port.parse().ok())
        .ok_or_else(|| BenchError::Figures(format!("not one host candidate: {description:?}")))
}
