//! Settings of how much clients may have: of a server, and of a realm.

use std::num::NonZeroU64;

use thirl_common::config::{ConfigError, Key, Problem, Values, parse};

use super::count;
use crate::engine::{Bandwidth, RealmLimits};

pub(super) const USER_QUOTA: Key =
    Key::single("user-quota", "COUNT", "Allocations of one user at most. Default: no limit of its own")
        .example("12");

pub(super) const IP_QUOTA: Key = Key::single(
    "ip-quota",
    "COUNT",
    "Allocations of one client address at most, or of one IPv6 /64. Default: no limit of its own",
)
.example("100");

pub(super) const TOTAL_QUOTA: Key =
    Key::single("total-quota", "COUNT", "Allocations at most. Default: 100000").example("10000");

pub(super) const MAX_BPS: Key = Key::single(
    "max-bps",
    "BYTES",
    "Bytes per second of one allocation at most, each way. Default: no limit",
)
.example("250000");

pub(super) const USER_MAX_BPS: Key = Key::single(
    "user-max-bps",
    "BYTES",
    "Bytes per second of all of a user's allocations at most, each way. Default: no limit",
)
.example("1000000");

pub(super) const BPS_CAPACITY: Key = Key::single(
    "bps-capacity",
    "BYTES",
    "Bytes per second of all allocations at most, each way. Default: no limit",
)
.example("125000000");

/// The same of a realm: what is not set holds as for the server.
pub(super) const OF_REALM: [Key; 5] = [
    Key {
        help: "Allocations of one user of this realm at most, in place of the server's. Default: that",
        ..USER_QUOTA
    },
    Key {
        help: "Allocations of this realm at most, within the server's. Default: no limit of its own",
        ..TOTAL_QUOTA
    },
    Key {
        help: "Bytes per second of one allocation at most, each way, in place of the server's. Default: that",
        ..MAX_BPS
    },
    Key {
        help: "Bytes per second of all of a user's allocations at most, each way, in place of the server's. Default: that",
        ..USER_MAX_BPS
    },
    Key {
        help: "Bytes per second of this realm's allocations at most, each way, within the server's. Default: no limit of \
               its own",
        ..BPS_CAPACITY
    },
];

pub(super) fn quota(values: &Values, key: &Key) -> Result<Option<usize>, ConfigError> {
    Ok(values.one(key.name, parse::number(1, 10_000_000))?.map(count))
}

pub(super) fn bandwidth(values: &Values) -> Result<Bandwidth, ConfigError> {
    Ok(Bandwidth {
        allocation: values.one(MAX_BPS.name, bytes_per_second)?,
        user: values.one(USER_MAX_BPS.name, bytes_per_second)?,
        total: values.one(BPS_CAPACITY.name, bytes_per_second)?,
    })
}

/// Those of a realm.
pub(super) fn of_realm(values: &Values) -> Result<RealmLimits, ConfigError> {
    Ok(RealmLimits {
        user_quota: quota(values, &USER_QUOTA)?,
        total_quota: quota(values, &TOTAL_QUOTA)?,
        bandwidth: bandwidth(values)?,
    })
}

/// coturn's 0 is no limit; here that is to leave the key out, lest a limit be lost by a slip.
fn bytes_per_second(text: &str) -> Result<NonZeroU64, Problem> {
    text.parse().map_err(|_| {
        Problem::new(
            format!("{text:?} is no number of bytes per second"),
            "give a whole number from 1, in bytes: 125000 is 1 Mbit/s; leave the key out for no limit",
        )
    })
}
