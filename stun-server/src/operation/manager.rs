//! What a service manager is told (sd_notify(3)); where there is none, nothing.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// The service manager that started the process.
#[derive(Debug)]
pub(super) struct Manager {
    /// How often it wants to hear that the server is well.
    watchdog: Option<Duration>,
    told: Option<Instant>,
}

impl Manager {
    /// The one that there is, which hears at least twice in the time that it allows.
    pub(super) fn find() -> Manager {
        let mut micros = 0;
        let enabled = sd_notify::watchdog_enabled(false, &mut micros);
        Manager { watchdog: enabled.then(|| Duration::from_micros(micros) / 2), told: None }
    }

    /// How long it may hear nothing, if it listens.
    pub(super) fn interval(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The server serves.
    pub(super) fn ready(&self) {
        notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
    }

    /// It reads its configuration anew; then it is ready again.
    pub(super) fn reloading(&self) {
        let now = NotifyState::monotonic_usec_now().unwrap_or(NotifyState::MonotonicUsec(0));
        notify(&[NotifyState::Reloading, now]);
    }

    /// It ends, or is about to.
    pub(super) fn stopping(&self, status: &str) {
        notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Says that all is well, if it is time for that and it `is` so. One who does not hear it starts the process anew.
    pub(super) fn watch(&mut self, now: Instant, is: impl FnOnce() -> bool) {
        let Some(interval) = self.watchdog else { return };
        if self.told.is_some_and(|told| now < told + interval) {
            return;
        }
        if is() {
            self.told = Some(now);
            notify(&[NotifyState::Watchdog]);
        } else {
            tracing::error!(
                "a shard does not answer, and the service manager's watchdog is not told otherwise"
            );
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!(%error, "the service manager is not told");
    }
}
