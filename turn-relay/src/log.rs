//! What is said of a shard's allocations, and of who tries to get one without leave.

use std::time::{Duration, Instant};

use thirl_stun_server::{Limit, Limiter};
use tracing::field::display;

use crate::engine::{AllocationId, BindError, Event, Refusal};

/// Lines about failed authentication from one source: 5 at once, and one in 10 s for ever.
const FAILURES: Limit = Limit { per_second: 1, burst: 5 * FAILURE_COST };
const FAILURE_COST: u32 = 10;

/// A line in so much time about what has run out, whoever meets it.
const SHORTAGE_EVERY: Duration = Duration::from_secs(10);

/// So many characters of a name that anybody may have made up are logged.
const NAME_LEN: usize = 64;

/// A shard's log. Usernames and addresses are logged; passwords, keys and nonces never come here.
pub(crate) struct Log {
    /// The shard's number, which makes a session's name unique.
    shard: usize,
    failures: Limiter,
    /// When a shortage may be told of again.
    shortage_at: Option<Instant>,
}

impl Log {
    pub(crate) fn new(shard: usize, seed: [u8; 16]) -> Log {
        Log { shard, failures: Limiter::new(FAILURES, seed), shortage_at: None }
    }

    pub(crate) fn event(&mut self, now: Instant, event: &Event) {
        match event {
            Event::AllocationCreated { id, five_tuple, username, realm, relayed, lifetime } => {
                tracing::info!(
                    session = %self.session(*id), client = %five_tuple, username = &**username, realm = realm.as_deref(), %relayed,
                    lifetime_s = lifetime.as_secs(), "allocation created"
                );
            }
            Event::AllocationEnded { id, five_tuple, username, reason, traffic } => {
                tracing::info!(
                    session = %self.session(*id), client = %five_tuple, username = &**username, %reason,
                    to_peer_packets = traffic.to_peer_packets, to_peer_bytes = traffic.to_peer_bytes,
                    to_client_packets = traffic.to_client_packets, to_client_bytes = traffic.to_client_bytes,
                    "allocation ended"
                );
            }
            Event::AllocationMoved { id, five_tuple, username, relayed } => {
                tracing::info!(
                    session = %self.session(*id), client = %five_tuple, username = &**username, %relayed,
                    "allocation moved"
                );
            }
            Event::Refused { id, five_tuple, method, refusal } => {
                let session = id.map(|id| display(self.session(id)));
                if let Refusal::WrongCredentials { username } = refusal {
                    let ip = five_tuple.client.ip().to_canonical();
                    if self.failures.admit(now, ip, FAILURE_COST) {
                        // contrib/fail2ban reads it. The nonce was one for this address, so that it is no forged one.
                        let username: String = username.chars().take(NAME_LEN).collect();
                        tracing::warn!(
                            %ip, port = five_tuple.client.port(), transport = %five_tuple.transport, username,
                            session = session.as_ref(),
                            "authentication failed"
                        );
                    }
                }
                if is_shortage(refusal) && self.shortage_at.is_none_or(|at| at <= now) {
                    self.shortage_at = Some(now + SHORTAGE_EVERY);
                    tracing::warn!(reason = %refusal, "clients are refused for want of room");
                }
                // One who is not authenticated must not be able to fill the log.
                tracing::debug!(
                    session, client = %five_tuple, ?method, code = refusal.error_code().code, reason = %refusal,
                    "refused"
                );
            }
        }
    }

    fn session(&self, id: AllocationId) -> String {
        format!("{}.{id}", self.shard)
    }
}

/// What only the operator can mend.
fn is_shortage(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::TotalQuotaReached | Refusal::NotBound(BindError::PortsExhausted | BindError::System(_))
    )
}
