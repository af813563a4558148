//! Which technique a shard uses.
#![expect(unsafe_code, reason = "a filter for system calls")]

use std::{ptr, thread};

use super::*;

#[test]
fn techniques_have_names() {
    for technique in [Technique::IoUring, Technique::Epoll] {
        assert_eq!(technique.to_string().parse(), Ok(technique));
    }
    assert_eq!("kqueue".parse::<Technique>(), Err(UnknownTechnique));
}

#[test]
fn a_shard_does_as_it_is_told() {
    let io = ShardIo::new(options(Technique::Epoll)).unwrap();
    assert_eq!((io.technique(), io.why_not_io_uring().is_none()), (Technique::Epoll, true));
    match ShardIo::new(options(Technique::IoUring)) {
        Ok(io) => assert_eq!(io.technique(), Technique::IoUring),
        Err(error) => assert!(error.to_string().starts_with("io_uring cannot be used: "), "{error}"),
    }
}

#[test]
fn where_io_uring_is_forbidden_it_is_epoll_and_says_why() {
    for (errno, why) in [(libc::EPERM, "forbidden"), (libc::ENOSYS, "has none"), (libc::EINVAL, "6.1")] {
        let thread = thread::spawn(move || {
            refuse(libc::SYS_io_uring_setup, errno);
            let mut io = ShardIo::new(IoOptions::default()).unwrap();
            assert_eq!(io.technique(), Technique::Epoll);
            let said = io.why_not_io_uring().unwrap().to_string();
            assert!(said.contains(why), "{said}");
            let told = ShardIo::new(options(Technique::IoUring)).unwrap_err();
            assert!(told.to_string().contains(why), "{told}");
            let socket = BindOptions::default().bind(addr("127.0.0.1:0")).unwrap();
            socket.send_to(b"to itself", socket.local_addr().unwrap()).unwrap();
            io.add(socket, 0).unwrap();
            assert_eq!(receive(&mut io, 1)[0].payload, b"to itself");
        });
        thread.join().unwrap();
    }
}

#[test]
fn a_ring_without_its_operations_is_not_used() {
    // As where a filter lets rings be made, and nothing be done with them.
    let thread = thread::spawn(|| {
        refuse(libc::SYS_io_uring_enter, libc::EPERM);
        assert_eq!(ShardIo::new(IoOptions::default()).unwrap().technique(), Technique::Epoll);
    });
    thread.join().unwrap();
}

fn a_shard_that_changes_its_thread_does_no_harm(on: Technique) {
    let mut io = ShardIo::new(options(on)).unwrap();
    let socket = BindOptions::default().bind(addr("127.0.0.1:0")).unwrap();
    let to = socket.local_addr().unwrap();
    let socket = io.add(socket, 0).unwrap();
    io.turn(Some(Duration::ZERO), &mut Vec::new()).unwrap();
    let thread = thread::spawn(move || {
        io.send(Route { socket, to, source: None }, b"from elsewhere");
        let turned = io.turn(Some(Duration::ZERO), &mut Vec::new());
        (turned.is_ok(), io.counters().sent, io.counters().failed())
    });
    let expected = if on == Technique::Epoll { (true, 1, 0) } else { (false, 0, 1) };
    assert_eq!(thread.join().unwrap(), expected);
}

on_each_technique! { a_shard_that_changes_its_thread_does_no_harm }

/// Makes this thread's calls of this number fail (seccomp(2)), as containers do.
fn refuse(call: libc::c_long, errno: i32) {
    let statement = |code, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let mut filter = [
        // The number of the call is the first field of `seccomp_data`.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::try_from(call).unwrap()),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: u16::try_from(filter.len()).unwrap(), filter: filter.as_mut_ptr() };
    // SAFETY: no pointers.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(done, 0);
    // SAFETY: the program lives through the call, which copies it.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, ptr::from_ref(&program))
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
