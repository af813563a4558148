//! A clock that counts sleep. [`Instant::now`] of Linux and Apple's systems stands still while the machine is suspended: a
//! consent that expired, or a mapping that the NAT forgot meanwhile, would seem fresh.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// On Apple's systems it is this one that goes on (`mach_continuous_time`).
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;

/// The present, by a clock that counts sleep.
pub(crate) fn now() -> Instant {
    static BEGINNING: LazyLock<Beginning> = LazyLock::new(Beginning::new);
    BEGINNING.instant(read())
}

/// Waits until [`now`] has come so far. A timer may not count sleep: whoever waits for long has to look again when the
/// machine wakes.
pub(crate) async fn sleep_until(at: Instant) {
    tokio::time::sleep(at.saturating_duration_since(now())).await;
}

fn read() -> Duration {
    let time = clock_gettime(CLOCK);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanoseconds)
}

/// One moment by both clocks: instants are made from it by the time that passed by ours.
struct Beginning {
    instant: Instant,
    ours: Duration,
}

impl Beginning {
    #[expect(clippy::disallowed_methods, reason = "a driver reads the clock")]
    fn new() -> Beginning {
        let ours = read();
        Beginning { instant: Instant::now(), ours }
    }

    fn instant(&self, ours: Duration) -> Instant {
        self.instant + ours.saturating_sub(self.ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_asleep_counts() {
        let beginning = Beginning::new();
        let night = Duration::from_secs(8 * 3600);
        assert_eq!(beginning.instant(beginning.ours + night), beginning.instant + night);
        assert_eq!(beginning.instant(Duration::ZERO), beginning.instant);
    }

    #[tokio::test]
    async fn it_goes_as_fast_as_the_timer() {
        let (began, wait) = (now(), Duration::from_millis(20));
        sleep_until(began + wait).await;
        assert!(now() >= began + wait);
    }
}
