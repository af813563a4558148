//! Becoming a user without rights, once the sockets are bound.

use std::ffi::CString;
use std::io;

use nix::sys::prctl::set_no_new_privs;
use nix::unistd::{Gid, Group, Uid, User, geteuid, initgroups, setgid, setuid};
use thirl_common::config::{ConfigError, Key, Problem, Values, parse};

/// Which user.
pub const PROC_USER: Key = Key::single(
    "proc-user",
    "NAME",
    "User to become once all sockets are bound, with its supplementary groups; the program has to be started as root. It \
     must be able to read the configuration and the certificate for a reload, and relay ports below 1024 can no longer be \
     bound. Default: the user who starts it",
)
.example("\"turn-relay\"")
.fixed();
/// Which group.
pub const PROC_GROUP: Key =
    Key::single("proc-group", "NAME", "Group to become with proc-user. Default: the user's own")
        .example("\"turn-relay\"")
        .fixed();

/// A user to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessUser {
    name: CString,
    uid: Uid,
    gid: Gid,
}

/// Whom the values name.
pub(super) fn settings(values: &Values) -> Result<Option<ProcessUser>, ConfigError> {
    let group = values.one(PROC_GROUP.name, |name| {
        let group = Group::from_name(&parse::text(name)?);
        known(group, name, "group").map(|group| group.gid)
    })?;
    let user = values.one(PROC_USER.name, |name| {
        let user = known(User::from_name(&parse::text(name)?), name, "user")?;
        let c_name = CString::new(user.name).map_err(|_| unknown(name, "user"))?;
        Ok(ProcessUser { name: c_name, uid: user.uid, gid: user.gid })
    })?;
    match (user, group) {
        (Some(user), group) => Ok(Some(ProcessUser { gid: group.unwrap_or(user.gid), ..user })),
        (None, None) => Ok(None),
        (None, Some(_)) => {
            let problem = Problem::new("it goes with a proc-user", "give proc-user too");
            Err(values.refuse(PROC_GROUP.name, problem))
        }
    }
}

fn known<T>(found: nix::Result<Option<T>>, name: &str, what: &str) -> Result<T, Problem> {
    found.ok().flatten().ok_or_else(|| unknown(name, what))
}

fn unknown(name: &str, what: &str) -> Problem {
    let hint = format!("make one with `{what}add --system {name}`, or give another");
    Problem::new(format!("there is no {what} {name:?}"), hint)
}

impl ProcessUser {
    /// Becomes it, on every thread and for ever.
    pub(crate) fn assume(&self) -> io::Result<()> {
        let ProcessUser { name, uid, gid } = self;
        if geteuid() == *uid {
            return Ok(());
        }
        initgroups(name, *gid)?;
        setgid(*gid)?;
        setuid(*uid)?;
        // Whatever the system thinks that it did: there must be no way back.
        if !uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
            return Err(io::Error::other("the rights of root could be had again"));
        }
        Ok(())
    }
}

/// From here on no program that this one starts has more rights than it has. To be called before there are threads, whose
/// own this is.
pub fn forgo_new_privileges() {
    if let Err(error) = set_no_new_privs() {
        tracing::warn!(%error, "the program could still gain rights");
    }
}
