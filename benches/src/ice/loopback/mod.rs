//! Two agents of a kind with real sockets on loopback: the delay is what the machine makes it, and nothing is lost.
//!
//! [`tap`] lies between them. [`ours`], `webrtc` and [`program`] (libnice and aioice) are the agents.

mod ours;
mod program;
mod tap;
#[cfg(feature = "peers")]
mod webrtc;

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::outcome::Outcome;
use super::scene::Scene;
use crate::{BenchError, Context};
use program::Program;
use tap::Tap;

/// Who is not connected by then never will be.
const LIMIT: Duration = Duration::from_secs(20);

/// How far one side came, and when.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    works: Option<Duration>,
    nominated: Option<Duration>,
}

/// An implementation.
pub(super) enum Kind {
    Ours,
    #[cfg(feature = "peers")]
    Webrtc,
    Program(&'static str, Program),
}

impl Kind {
    /// Those that this machine can run; which not, and why, is said.
    pub(super) fn all() -> Vec<Kind> {
        let mut kinds = vec![Kind::Ours];
        #[cfg(feature = "peers")]
        kinds.push(Kind::Webrtc);
        for (name, found) in [("libnice", Program::libnice()), ("aioice", Program::aioice())] {
            match found {
                Ok(program) => kinds.push(Kind::Program(name, program)),
                Err(error) => eprintln!("thirl-bench: {name} is left out: {error}"),
            }
        }
        kinds
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Kind::Ours => "thirl",
            #[cfg(feature = "peers")]
            Kind::Webrtc => "webrtc-ice",
            Kind::Program(name, _) => name,
        }
    }
}

/// One connect.
pub(super) fn run(kind: &Kind, scene: &Scene, seed: u64) -> Result<Outcome, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting a runtime")?;
    let tap = Tap::new()?;
    let mut rng = StdRng::seed_from_u64(seed);
    let [a, b] = match kind {
        Kind::Ours => runtime.block_on(ours::connect(&tap, scene, &mut rng))?,
        #[cfg(feature = "peers")]
        Kind::Webrtc => runtime.block_on(webrtc::connect(&tap, scene, &mut rng))?,
        Kind::Program(_, program) => program.connect(&tap, scene, &mut rng)?,
    };
    let slower = |a: Option<Duration>, b: Option<Duration>| Some(a?.max(b?));
    Ok(Outcome::new(slower(a.works, b.works), slower(a.nominated, b.nominated), &tap.finish()))
}
