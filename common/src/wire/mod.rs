//! The STUN, TURN and ICE wire formats (being written).
