//! `thirl nat --against TICKET`: what will happen between this machine and the one that listens, and whether it does.

use std::net::SocketAddr;
use std::time::Duration;

use thirl_ice_agent::agent::PathKind;
use thirl_ice_agent::driver::ConnectError;
use thirl_ice_agent::nat::{Facts, Options, PairPath, PairReport, Report, Trial, predict};
use thirl_overlay::node::{Connection, DialError, InquireError, Node, PathDescription};
use thirl_overlay::{NodeId, Ticket};
use tokio::time::{Instant, timeout};

use super::super::node::{NodeArguments, PolicyArgument};
use super::super::outward::OutwardArguments;
use super::Progress;
use crate::error::Failure;

/// A path that begins relayed may find a direct one for so long.
const SETTLING: Duration = Duration::from_secs(3);
/// The same where it has to be searched for.
const SEARCHING: Duration = Duration::from_secs(25);

/// Both sides measure, the pair is judged, and then the path is tried. `servers` are asked beside the ticket's.
pub(super) async fn run(
    ticket: &Ticket,
    policy: PolicyArgument,
    servers: &[SocketAddr],
    options: Options,
    progress: &Progress,
) -> Result<(Report, PairReport), Failure> {
    let peer = ticket.node();
    let node = NodeArguments { key: None, policy, outward: OutwardArguments::default() }
        .start(ticket.servers())
        .await?;
    progress.say("both sides measure");
    let own = async {
        let measured = node.diagnose(servers, options, |event| progress.tell(event)).await;
        measured.map_err(|error| Failure::of("diagnosis", error))
    };
    let ((report, you), they) = tokio::try_join!(own, theirs(&node, peer))?;
    progress.say("the path is tried");
    let searched = they.as_ref().is_ok_and(|they| predict(&you, they).search.is_some());
    let tried = try_path(&node, peer, if searched { SEARCHING } else { SETTLING }).await;
    Ok((report, PairReport::new(peer.to_string(), you, they, tried)))
}

/// What the other side tells, or why it does not. If it is not there at all, nothing else needs to be tried.
async fn theirs(node: &Node, peer: NodeId) -> Result<Result<Facts, String>, Failure> {
    match node.inquire(peer).await {
        Ok(facts) => Ok(Ok(facts)),
        Err(error @ (InquireError::Offline | InquireError::SignallingEnded)) => {
            Err(Failure::Failed(error.to_string()))
        }
        Err(error) => Ok(Err(error.to_string())),
    }
}

async fn try_path(node: &Node, peer: NodeId, patience: Duration) -> Trial {
    let begun = Instant::now();
    match node.dial(peer).await {
        Ok(connection) => {
            let connect_ms = (begun.elapsed().as_secs_f64() * 1e6).round() / 1e3;
            let trial = connected(&settled(&connection, patience).await, connect_ms, &connection);
            connection.close().await;
            trial
        }
        Err(error) => not_connected(&error),
    }
}

async fn settled(connection: &Connection, patience: Duration) -> PathDescription {
    let mut events = connection.path().events();
    let direct =
        async { while connection.describe().path == PathKind::Relayed && events.recv().await.is_ok() {} };
    // Relayed for good, then.
    let _ = timeout(patience, direct).await;
    connection.describe()
}

fn connected(description: &PathDescription, connect_ms: f64, connection: &Connection) -> Trial {
    Trial {
        path: match description.path {
            PathKind::Direct => PairPath::Direct,
            PathKind::Relayed => PairPath::Relay,
        },
        local: Some(description.local),
        remote: Some(description.remote),
        relay: description.relay,
        why: description.why.clone(),
        connect_ms: Some(connect_ms),
        ice: Some(connection.agent().report()),
    }
}

fn not_connected(error: &DialError) -> Trial {
    let ice = match error {
        DialError::NoPath(ConnectError::Failed(report)) => Some((**report).clone()),
        _ => None,
    };
    let failure = ice.as_ref().and_then(|report| report.failure.clone());
    Trial {
        path: PairPath::None,
        local: None,
        remote: None,
        relay: None,
        why: Some(failure.unwrap_or_else(|| error.to_string())),
        connect_ms: None,
        ice,
    }
}
