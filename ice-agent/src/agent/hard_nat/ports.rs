//! The ports that a NAT gives out, as numbers of a sequence that goes up or down and begins anew after the last one.

/// Ports from here on are given out (RFC 6335, section 6).
const FIRST: u16 = 1024;
pub(super) const PORTS: u32 = 65_536 - FIRST as u32;

/// The port of an index from 0 to [`PORTS`].
pub(super) fn port_number(index: u32) -> Option<u16> {
    u16::try_from(index + u32::from(FIRST)).ok()
}

/// How far a port is ahead of the newest.
pub(super) fn steps_ahead(newest: u16, step: i8, port: u16) -> u32 {
    let ahead = (i32::from(port) - i32::from(newest)) * i32::from(step.signum());
    ahead.rem_euclid(PORTS.cast_signed()).cast_unsigned()
}

/// The port so many steps ahead of the newest.
pub(super) fn port_after(newest: u16, step: i8, steps: u32) -> Option<u16> {
    let steps = steps.cast_signed() * i32::from(step.signum());
    let index = i32::from(newest) - i32::from(FIRST) + steps;
    port_number(index.rem_euclid(PORTS.cast_signed()).cast_unsigned())
}

/// The same, unless the sequence begins anew before: nobody knows where.
pub(super) fn port_ahead(newest: u16, step: i8, ahead: i32) -> Option<u16> {
    u16::try_from(i32::from(newest) + i32::from(step.signum()) * ahead).ok()
}
