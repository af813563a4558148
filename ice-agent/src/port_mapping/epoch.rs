//! Whether a gateway still has its mappings, told from the seconds that it counts since it had none.

use std::time::Instant;

use super::error::Protocol;

/// What a server's epoch was, and when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Epoch {
    last: Option<(Instant, u32)>,
}

impl Epoch {
    /// Notes the epoch of a response. Whether the server has lost its mappings since the one before.
    pub(super) fn is_reset_by(&mut self, now: Instant, epoch: u32, protocol: Protocol) -> bool {
        let Some((before, last)) = self.last.replace((now, epoch)) else { return false };
        let ours = now.saturating_duration_since(before).as_secs();
        let (last, epoch) = (u64::from(last), u64::from(epoch));
        match protocol {
            // RFC 6886, section 3.6: 7/8 of our time, less two seconds, has passed there.
            Protocol::NatPmp => epoch + 2 < last + ours * 7 / 8,
            // RFC 6887, section 8.5: back by more than one; or the two clocks differ by more than a sixteenth.
            _ if epoch + 1 < last => true,
            _ => {
                let theirs = epoch.saturating_sub(last);
                ours + 2 < theirs - theirs / 16 || theirs + 2 < ours - ours / 16
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_reboot_is_noticed_and_a_lazy_clock_forgiven() {
        #[expect(clippy::disallowed_methods, reason = "any origin will do")]
        let t0 = Instant::now();
        let after = |seconds| t0 + Duration::from_secs(seconds);
        for protocol in [Protocol::Pcp, Protocol::NatPmp] {
            let reset = |first, (seconds, then)| {
                let mut epoch = Epoch::default();
                assert!(!epoch.is_reset_by(t0, first, protocol), "the first says nothing");
                epoch.is_reset_by(after(seconds), then, protocol)
            };
            assert!(!reset(1000, (600, 1600)));
            assert!(!reset(1000, (600, 1562)), "a clock may lag");
            assert!(!reset(1000, (0, 1000)) && !reset(1000, (0, 999)), "packets may overtake each other");
            assert!(reset(1000, (600, 5)), "rebooted");
            assert!(reset(10, (600, 400)), "rebooted, and up for longer than before by now");
            assert!(!reset(u32::MAX - 9, (10, u32::MAX)), "nothing overflows");
        }
        // Only PCP finds fault with a clock that runs ahead: another server has taken over.
        let mut epoch = Epoch::default();
        epoch.is_reset_by(t0, 0, Protocol::Pcp);
        assert!(epoch.is_reset_by(after(10), 1000, Protocol::Pcp));
    }
}
