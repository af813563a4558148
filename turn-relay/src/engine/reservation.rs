//! Ports that EVEN-PORT set aside (RFC 8656, section 7.2).

use std::time::Duration;

use super::Engine;
use super::output::Action;

/// "The server MUST hold the ... reservation for at least 30 seconds" (RFC 8656, section 7.2).
pub const RESERVATION_LIFETIME: Duration = Duration::from_secs(30);

impl Engine {
    /// Ends a reservation, unless it was used meanwhile.
    pub(super) fn expire_reservation(&mut self, token: u64) {
        if self.shared.end_reservation(token).is_some() {
            self.actions.push_back(Action::ReleaseReserved { token });
        }
    }
}
