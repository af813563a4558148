//! The ICE agent for C: the library `libthirl_ice`, whose header is `include/thirl_ice.h`; `examples/two_agents.c` shows its
//! use.
//!
//! 1. `ffi`: the functions of the header: pointers are checked and become values. All that is unsafe is here.
//! 2. `agent`: an agent of the driver with what C expects of it: calls that do not wait, and callbacks.

mod agent;
mod ffi;
