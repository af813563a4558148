//! Permissions: from which IP addresses peers may send to a client (RFC 8656, section 9).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use thirl_common::wire::AddressFamily;

use super::peer_policy::Reach;
use super::table::{Hashing, Table};

/// "The Permission Lifetime MUST be 300 seconds" (RFC 8656, section 9).
pub const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);

/// The permissions of one allocation. They have no timer: one that has expired is not seen, and is forgotten when there
/// is no more room.
#[derive(Debug, Default)]
pub(super) struct Permissions {
    by_ip: Table<IpAddr, Permission>,
}

#[derive(Clone, Debug)]
struct Permission {
    expires: Instant,
    reach: Reach,
}

/// The allocation has as many as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Permissions {
    /// Which ports of `ip` are permitted now.
    #[inline]
    pub(super) fn get(&self, ip: IpAddr, now: Instant) -> Option<&Reach> {
        self.by_ip.get(&ip).filter(|permission| permission.expires > now).map(|permission| &permission.reach)
    }

    /// Installs or refreshes all of `wanted`, or none.
    pub(super) fn install(
        &mut self,
        wanted: &[(IpAddr, Reach)],
        now: Instant,
        limit: usize,
        hashing: &Hashing,
    ) -> Result<(), NoRoom> {
        // Each may be new, or may be there twice: counted high, unless that would be too much.
        if self.by_ip.len() + wanted.len() > limit {
            self.by_ip.retain(|_, permission| permission.expires > now);
            let new = wanted.iter().enumerate().filter(|(at, (ip, _))| {
                self.by_ip.get(ip).is_none() && wanted[..*at].iter().all(|(earlier, _)| earlier != ip)
            });
            if self.by_ip.len() + new.count() > limit {
                return Err(NoRoom);
            }
        }
        let expires = now + PERMISSION_LIFETIME;
        for (ip, reach) in wanted {
            self.by_ip.insert(*ip, Permission { expires, reach: reach.clone() }, hashing);
        }
        Ok(())
    }

    /// Forgets the peers of a family.
    pub(super) fn remove_family(&mut self, family: AddressFamily) {
        self.by_ip.retain(|ip, _| AddressFamily::of(*ip) != family);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::origin;

    fn ip(last: u8) -> (IpAddr, Reach) {
        ([192, 0, 2, last].into(), Reach::AllPorts)
    }

    #[test]
    fn expire_after_five_minutes_and_make_room() {
        let (t0, hashing) = (origin(), Hashing::random());
        let mut permissions = Permissions::default();
        permissions.install(&[ip(1), ip(2)], t0, 2, &hashing).unwrap();
        let last = t0 + PERMISSION_LIFETIME - Duration::from_nanos(1);
        assert_eq!(permissions.get(ip(1).0, last), Some(&Reach::AllPorts));
        assert_eq!(permissions.get(ip(1).0, t0 + PERMISSION_LIFETIME), None);
        assert_eq!(permissions.install(&[ip(3)], last, 2, &hashing), Err(NoRoom));
        assert_eq!(permissions.install(&[ip(2), ip(2), ip(1)], last, 2, &hashing), Ok(()), "none is new");
        assert_eq!(permissions.install(&[ip(3), ip(4)], last + PERMISSION_LIFETIME, 2, &hashing), Ok(()));
        assert_eq!(permissions.get(ip(1).0, last + PERMISSION_LIFETIME), None);
    }

    #[test]
    fn all_or_nothing() {
        let (t0, hashing) = (origin(), Hashing::random());
        let mut permissions = Permissions::default();
        assert_eq!(permissions.install(&[ip(1), ip(2), ip(3)], t0, 2, &hashing), Err(NoRoom));
        assert!((1..=3).all(|last| permissions.get(ip(last).0, t0).is_none()));
    }
}
