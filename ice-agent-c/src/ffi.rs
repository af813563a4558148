//! The functions of `thirl_ice.h`. Null is refused where the header does not allow it; that other pointers lead to what the
//! header says is the caller's promise.
#![expect(unsafe_code, reason = "C hands over pointers")]

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::slice;
use std::sync::Arc;

use thirl_ice_agent::agent::{Policy, Role, State};
use thirl_ice_agent::candidate::Candidate;

use crate::agent::{Agent, Callbacks, Config, Error, Server, Told};

thread_local! {
    /// The agent whose callback runs on this thread.
    static IN_CALLBACK_OF: Cell<*const Agent> = const { Cell::new(ptr::null()) };
}

/// `thirl_ice_agent`.
struct CAgent {
    agent: Arc<Agent>,
    callbacks: CCallbacks,
}

/// `thirl_ice_server`.
#[repr(C)]
struct CServer {
    uri: *const c_char,
    username: *const c_char,
    password: *const c_char,
}

/// `thirl_ice_config`.
#[repr(C)]
struct CConfig {
    controlling: c_int,
    relay_only: c_int,
    bind_address: *const c_char,
    servers: *const CServer,
    server_count: usize,
    callbacks: CCallbacks,
}

/// The last members of `thirl_ice_config`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CCallbacks {
    on_state: Option<unsafe extern "C" fn(*mut CAgent, c_int, *mut c_void)>,
    on_candidate: Option<unsafe extern "C" fn(*mut CAgent, *const c_char, *mut c_void)>,
    on_gathered: Option<unsafe extern "C" fn(*mut CAgent, *mut c_void)>,
    on_receive: Option<unsafe extern "C" fn(*mut CAgent, *const u8, usize, *mut c_void)>,
    user: *mut c_void,
}

#[unsafe(no_mangle)]
unsafe extern "C" fn thirl_ice_create(config: *const CConfig, made: *mut *mut CAgent) -> c_int {
    // SAFETY: null, or a configuration.
    let Some(config) = (unsafe { config.as_ref() }) else { return Error::Invalid as c_int };
    if made.is_null() {
        return Error::Invalid as c_int;
    }
    // SAFETY: it is what the caller's configuration holds.
    match unsafe { read_config(config) }.and_then(Agent::new) {
        Ok(agent) => {
            let agent = Box::new(CAgent { agent: Arc::new(agent), callbacks: config.callbacks });
            // SAFETY: not null, so that the caller lets it be written to.
            unsafe { made.write(Box::into_raw(agent)) };
            0
        }
        Err(error) => error as c_int,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn thirl_ice_gather(agent: *mut CAgent) -> c_int {
    // SAFETY: null, or an agent.
    let Some(this) = (unsafe { agent.as_ref() }) else { return Error::Invalid as c_int };
    let caller = Caller { agent, callbacks: this.callbacks };
    code(this.agent.gather(caller))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn thirl_ice_local_description(
    agent: *mut CAgent,
    buffer: *mut c_char,
    size: usize,
) -> c_int {
    // SAFETY: null, or an agent.
    let Some(this) = (unsafe { agent.as_ref() }) else { return Error::Invalid as c_int };
    // SAFETY: null, or a buffer of this size.
    unsafe { write_text(&this.agent.local_description(), buffer, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn thirl_ice_set_remote_description(agent: *mut CAgent, sdp: *const c_char) -> c_int {
    // SAFETY: null, or an agent and a text.
    unsafe { with_text(agent, sdp, Agent::set_remote_description) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn thirl_ice_add_remote_candidate(agent: *mut CAgent, candidate: *const c_char) -> c_int {
    // SAFETY: null, or an agent and a text.
    unsafe { with_text(agent, candidate, Agent::add_remote_candidate) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn thirl_ice_end_of_candidates(agent: *mut CAgent) -> c_int {
    // SAFETY: null, or an agent.
    let Some(this) = (unsafe { agent.as_ref() }) else { return Error::Invalid as c_int };
    code(this.agent.end_of_candidates())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn thirl_ice_send(agent: *mut CAgent, data: *const c_void, size: usize) -> c_int {
    // SAFETY: null, or an agent.
    let Some(this) = (unsafe { agent.as_ref() }) else { return Error::Invalid as c_int };
    if size > isize::MAX.unsigned_abs() {
        return Error::TooLarge as c_int;
    }
    let data = match (data.is_null(), size) {
        (_, 0) => &[][..],
        (true, _) => return Error::Invalid as c_int,
        // SAFETY: not null, so that it leads to this many bytes, which nobody changes during the call.
        (false, _) => unsafe { slice::from_raw_parts(data.cast::<u8>(), size) },
    };
    code(this.agent.send(data))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn thirl_ice_get_state(agent: *mut CAgent) -> c_int {
    // SAFETY: null, or an agent.
    let this = unsafe { agent.as_ref() };
    state_number(this.map_or(State::Closed, |this| this.agent.state()))
}

#[unsafe(no_mangle)]
extern "C" fn thirl_ice_state_name(state: c_int) -> *const c_char {
    let name: &CStr = match state {
        0 => c"new",
        1 => c"checking",
        2 => c"connected",
        3 => c"completed",
        4 => c"disconnected",
        5 => c"failed",
        6 => c"closed",
        _ => c"unknown",
    };
    name.as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn thirl_ice_selected_candidates(
    agent: *mut CAgent,
    local: *mut c_char,
    local_size: usize,
    remote: *mut c_char,
    remote_size: usize,
) -> c_int {
    // SAFETY: null, or an agent and buffers of these sizes.
    unsafe { write_pair(agent, (local, local_size), (remote, remote_size), ToString::to_string) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn thirl_ice_selected_addresses(
    agent: *mut CAgent,
    local: *mut c_char,
    local_size: usize,
    remote: *mut c_char,
    remote_size: usize,
) -> c_int {
    let address = |candidate: &Candidate| {
        candidate.address.ip().map_or_else(|| candidate.address.to_string(), |address| address.to_string())
    };
    // SAFETY: null, or an agent and buffers of these sizes.
    unsafe { write_pair(agent, (local, local_size), (remote, remote_size), address) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn thirl_ice_report(agent: *mut CAgent, buffer: *mut c_char, size: usize) -> c_int {
    // SAFETY: null, or an agent.
    let Some(this) = (unsafe { agent.as_ref() }) else { return Error::Invalid as c_int };
    match this.agent.report() {
        // SAFETY: null, or a buffer of this size.
        Ok(report) => unsafe { write_text(&report, buffer, size) },
        Err(error) => error as c_int,
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn thirl_ice_destroy(agent: *mut CAgent) {
    if agent.is_null() {
        return;
    }
    // SAFETY: made by `thirl_ice_create`, and the caller uses it no more.
    let this = unsafe { Box::from_raw(agent) };
    this.agent.end(IN_CALLBACK_OF.get() == Arc::as_ptr(&this.agent));
}

/// Calls back into C.
struct Caller {
    agent: *mut CAgent,
    callbacks: CCallbacks,
}

// SAFETY: the header says that callbacks come from a thread of the library, so that `user` may be used there. `agent` lives
// until the task that calls back has ended, or is told in a callback to call no more.
unsafe impl Send for Caller {}
// SAFETY: as for `Send`; one task alone calls.
unsafe impl Sync for Caller {}

impl Callbacks for Caller {
    fn tell(&self, to: &Agent, told: &Told<'_>) {
        let CCallbacks { on_state, on_candidate, on_gathered, on_receive, user } = self.callbacks;
        let outer = IN_CALLBACK_OF.replace(to);
        // SAFETY: the caller's functions, of the types that the header gives them; what they are given lasts until they
        // return.
        unsafe {
            match *told {
                Told::State(state) => {
                    on_state.inspect(|call| call(self.agent, state_number(state), user));
                }
                Told::Candidate(line) => {
                    if let (Some(call), Ok(line)) = (on_candidate, CString::new(line)) {
                        call(self.agent, line.as_ptr(), user);
                    }
                }
                Told::Gathered => {
                    on_gathered.inspect(|call| call(self.agent, user));
                }
                Told::Received(data) => {
                    on_receive.inspect(|call| call(self.agent, data.as_ptr(), data.len(), user));
                }
            }
        }
        IN_CALLBACK_OF.set(outer);
    }
}

/// # Safety
/// What the configuration points to is what the header says.
unsafe fn read_config(config: &CConfig) -> Result<Config, Error> {
    let servers = match (config.servers.is_null(), config.server_count) {
        (_, 0) => &[][..],
        (true, _) => return Err(Error::Invalid),
        // SAFETY: not null, so that it leads to this many servers.
        (false, count) => unsafe { slice::from_raw_parts(config.servers, count) },
    };
    let read_server = |server: &CServer| {
        let [username, password] = [server.username, server.password].map(|text| {
            // SAFETY: null, or a text.
            (!text.is_null()).then(|| unsafe { read_text(text) }).transpose()
        });
        Ok(Server {
            // SAFETY: null, or a text.
            uri: unsafe { read_text(server.uri) }?.to_owned(),
            login: username?
                .zip(password?)
                .map(|(username, password)| (username.to_owned(), password.to_owned())),
        })
    };
    let bind_address = match config.bind_address.is_null() {
        true => None,
        // SAFETY: a text.
        false => Some(unsafe { read_text(config.bind_address) }?.to_owned()),
    };
    Ok(Config {
        role: if config.controlling == 0 { Role::Controlled } else { Role::Controlling },
        policy: if config.relay_only == 0 { Policy::All } else { Policy::Relay },
        bind_address,
        servers: servers.iter().map(read_server).collect::<Result<_, _>>()?,
    })
}

/// # Safety
/// `text` is null, or ends with a zero byte and is not changed for as long as the result is used.
unsafe fn read_text<'a>(text: *const c_char) -> Result<&'a str, Error> {
    if text.is_null() {
        return Err(Error::Invalid);
    }
    // SAFETY: not null; the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| Error::Invalid)
}

/// # Safety
/// `agent` is null or an agent, `text` is null or ends with a zero byte.
unsafe fn with_text(
    agent: *mut CAgent,
    text: *const c_char,
    act: impl FnOnce(&Agent, &str) -> Result<(), Error>,
) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { (agent.as_ref(), read_text(text)) } {
        (Some(this), Ok(text)) => code(act(&this.agent, text)),
        _ => Error::Invalid as c_int,
    }
}

/// Writes a text with its zero byte, and returns its length without it.
///
/// # Safety
/// `buffer` is null, or may be written to for `size` bytes.
unsafe fn write_text(text: &str, buffer: *mut c_char, size: usize) -> c_int {
    let (Ok(len), false) = (c_int::try_from(text.len()), buffer.is_null()) else {
        return Error::Invalid as c_int;
    };
    if text.len() >= size {
        return Error::NoRoom as c_int;
    }
    // SAFETY: there is room for the text and a zero byte, and what was just made does not lie in the caller's buffer.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast::<u8>(), text.len());
        buffer.add(text.len()).write(0);
    }
    len
}

/// # Safety
/// `agent` is null or an agent; the buffers are null, or may be written to for their sizes.
unsafe fn write_pair(
    agent: *mut CAgent,
    local: (*mut c_char, usize),
    remote: (*mut c_char, usize),
    text: impl Fn(&Candidate) -> String,
) -> c_int {
    // SAFETY: the caller's promise.
    let Some(this) = (unsafe { agent.as_ref() }) else { return Error::Invalid as c_int };
    let pair = match this.agent.pair() {
        Ok(pair) => pair,
        Err(error) => return error as c_int,
    };
    for ((buffer, size), candidate) in [(local, &pair.local), (remote, &pair.remote)] {
        if buffer.is_null() {
            continue;
        }
        // SAFETY: the caller's promise.
        let written = unsafe { write_text(&text(candidate), buffer, size) };
        if written < 0 {
            return written;
        }
    }
    0
}

fn code(result: Result<(), Error>) -> c_int {
    result.map_or_else(|error| error as c_int, |()| 0)
}

fn state_number(state: State) -> c_int {
    match state {
        State::New => 0,
        State::Checking => 1,
        State::Connected => 2,
        State::Completed => 3,
        State::Disconnected => 4,
        State::Failed => 5,
        State::Closed => 6,
    }
}
