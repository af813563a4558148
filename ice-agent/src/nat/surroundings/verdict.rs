//! What the surroundings mean for connecting.

use super::{Outcome, Surroundings};
use crate::nat::verdict::Verdict;

impl Verdict {
    /// A portal comes first: what else was measured was measured behind it.
    pub(in crate::nat) fn account_for(&mut self, around: &Surroundings) {
        let portal = &around.captive_portal;
        if let (Some(true), Some(url)) = (portal.present, &portal.url) {
            self.summary = format!(
                "Sign in at {url} first: a captive portal stands before the internet. Until then: {}",
                self.summary
            );
            self.advice.insert(0, format!("Open {url} in a browser, sign in, and run this again."));
        }
        let tls = &around.reach.tls_443;
        if tls.outcome == Some(Outcome::Intercepted) {
            self.why.push(format!("TLS to port 443 is intercepted: {}.", tls.reason));
            self.advice.push(
                "What intercepts TLS will not let a relay over TLS through: have the relay excepted from it."
                    .to_owned(),
            );
        }
        let used = around.ipv6_addresses.used_address();
        if used.is_some_and(|used| used.from_hardware && !used.temporary) {
            self.advice.push(
                "This machine's IPv6 address contains its hardware address, by which it is known again in every \
                 network: switch on temporary addresses (RFC 8981), on Linux with net.ipv6.conf.all.use_tempaddr=2."
                    .to_owned(),
            );
        }
    }
}
