//! What attacks over UDP cost the relay, as a process: memory, open files, answers, and whether an honest client goes on.
//! Each prints its cost; `docs/attacks.md` has the table.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use thirl_common::wire::{
    AdditionalAddressFamily, AddressFamily, ChannelNumber, Data, EvenPort, Lifetime, Message, MessageWriter,
    Method, RequestedTransport, XorPeerAddress,
};
use thirl_tests::harness::turn::{RawClient, code, send_indication, stranger};
use thirl_tests::harness::{Deadline, Relay};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const MIB: u64 = 1 << 20;
/// How long the peer waits before the honest client says something again.
const PATIENCE: Duration = Duration::from_millis(300);
const HELLO: &[u8] = include_bytes!("../interop/client_hello.bin");
const HELLO_1_3: &[u8] = include_bytes!("../interop/client_hello_1_3.bin");

/// What an attack found before it began.
struct Watch {
    relay: Relay,
    /// Somebody who has an allocation all the time, with a permission for `peer`.
    honest: RawClient,
    peer: UdpSocket,
    relayed: SocketAddr,
    memory: u64,
    files: usize,
    since: Deadline,
}

impl Watch {
    fn start(flags: &[&str]) -> Watch {
        let relay =
            Relay::start(&[&["--relay-threads", "1", "--allowed-peer-ip", "127.0.0.1"], flags].concat())
                .unwrap();
        let mut honest = relay.client([127, 0, 0, 200]).unwrap();
        let relayed = honest.allocate(600).unwrap();
        let peer = UdpSocket::bind((LOCALHOST, 0)).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let warm_up = stranger(Method::ALLOCATE, udp);
        assert_eq!(honest.permit(peer.local_addr().unwrap()).unwrap(), 0);
        // The pages that a flood of any kind touches for the first time are not its cost.
        let warm = relay.client([127, 0, 0, 55]).unwrap();
        flood(&warm.socket, (0..20_000).map(|_| warm_up.clone()));
        let (memory, files) = (relay.memory().unwrap(), relay.open_files().unwrap());
        let since = Deadline::after(Duration::MAX);
        let watch = Watch { relay, honest, peer, relayed, memory, files, since };
        watch.honest_goes_on();
        watch
    }

    /// Data passes both ways.
    fn honest_goes_on(&self) {
        let send = send_indication(self.peer.local_addr().unwrap(), b"still there?");
        let mut buffer = [0; 64];
        // Behind a flood it may find no room with the kernel, and is said again.
        let (len, from) = (0..100)
            .find_map(|_| {
                self.honest.send(&send).unwrap();
                self.peer.recv_from(&mut buffer).ok()
            })
            .unwrap();
        assert_eq!((&buffer[..len], from), (b"still there?".as_slice(), self.relayed));
        self.peer.send_to(b"yes", from).unwrap();
        let received = self.honest.receive().unwrap();
        let indication = Message::parse(&received).unwrap();
        assert_eq!(indication.require::<Data<'_>>().unwrap().0, b"yes");
    }

    /// Prints what the attack cost, and asserts that it was no more than this.
    fn cost(&self, attack: &str, answers: usize, memory: u64, files: usize) {
        self.honest_goes_on();
        let grown = self.relay.memory().unwrap().saturating_sub(self.memory);
        let opened = self.relay.open_files().unwrap().saturating_sub(self.files);
        eprintln!("COST {attack}: {} KiB, {opened} files, {answers} answers", grown >> 10);
        assert!(grown <= memory, "{attack}: {grown} bytes of memory");
        assert!(opened <= files, "{attack}: {opened} files");
    }

    /// What the limiter lets through by now: `rate-limit` a second and twice that at once.
    fn admitted(&self) -> usize {
        2000 + 1000 * (1 + usize::try_from(self.since.elapsed().as_secs()).unwrap())
    }
}

fn udp(writer: &mut MessageWriter<'_>) {
    drop(writer.attribute(&RequestedTransport::UDP));
}

fn peer(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, last], port))
}

/// Sends, takes what is there, and counts it: a flood waits for nothing.
fn flood(socket: &UdpSocket, datagrams: impl Iterator<Item = Vec<u8>>) -> usize {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 2048];
    let mut answers = 0;
    for datagram in datagrams {
        let _ = socket.send(&datagram);
        while socket.recv(&mut buffer).is_ok() {
            answers += 1;
        }
    }
    socket.set_nonblocking(false).unwrap();
    answers
}

#[test]
fn a_flood_for_challenges() {
    let watch = Watch::start(&[]);
    let attacker = watch.relay.client([127, 0, 0, 66]).unwrap();
    let answers = flood(&attacker.socket, (0..50_000).map(|_| stranger(Method::ALLOCATE, udp)));
    assert!(answers <= watch.admitted(), "{answers} answers");
    watch.cost("50,000 requests without credentials", answers, MIB, 0);
    // Somebody else is served as ever.
    watch.relay.client([127, 0, 0, 3]).unwrap().allocate(600).unwrap();
}

#[test]
fn a_flood_with_wrong_credentials() {
    let watch = Watch::start(&[]);
    let mut attacker = watch.relay.client([127, 0, 0, 66]).unwrap();
    attacker.log_in().unwrap();
    let answers = flood(
        &attacker.socket,
        (0..5_000).map(|i| {
            let mut login = attacker.login.clone();
            login.username = format!("user{i}");
            login.sign(Method::ALLOCATE, udp)
        }),
    );
    assert!(answers <= watch.admitted(), "{answers} answers");
    watch.cost("5,000 requests with wrong credentials", answers, MIB, 0);
}

#[test]
fn sources_that_are_forged() {
    let watch = Watch::start(&[]);
    for i in 0..5_000_u32 {
        let [_, _, high, low] = i.to_be_bytes();
        let attacker = watch.relay.client([127, 77, high, low]).unwrap();
        assert_eq!(code(&attacker.ask(&stranger(Method::ALLOCATE, udp)).unwrap()), 401);
    }
    watch.cost("5,000 sources", 5_000, MIB, 0);
}

#[test]
fn hellos_of_dtls_without_a_cookie() {
    let watch = Watch::start(&[]);
    for i in 0..5_000_u32 {
        let [_, _, high, low] = i.to_be_bytes();
        let attacker = watch.relay.client([127, 78, high, low]).unwrap();
        let hello = if i % 2 == 0 { HELLO } else { HELLO_1_3 };
        attacker.send(hello).unwrap();
        assert!(attacker.receive().unwrap().len() <= hello.len(), "amplification");
    }
    watch.cost("5,000 sources with a ClientHello", 5_000, MIB, 0);
}

#[test]
fn ports_reserved_for_nothing() {
    let watch = Watch::start(&[
        "--user",
        "bob:builder",
        "--user-quota",
        "10",
        "--min-port",
        "50000",
        "--max-port",
        "50029",
    ]);
    let even = |writer: &mut MessageWriter<'_>| {
        udp(writer);
        drop(writer.attribute(&EvenPort { reserve: true }));
    };
    let mut codes = Vec::new();
    for _ in 0..40 {
        let mut attacker = watch.relay.client([127, 0, 0, 66]).unwrap();
        attacker.log_in().unwrap();
        codes.push(attacker.request(Method::ALLOCATE, even).unwrap());
        // A port that is reserved outlives its allocation for 30 s (RFC 8656, section 7.2), and counts as long.
        let _ = attacker.request(Method::REFRESH, |writer| drop(writer.attribute(&Lifetime(0))));
    }
    let granted = codes.iter().filter(|code| **code == 0).count();
    assert!((1..=9).contains(&granted), "alice has one already: {codes:?}");
    assert!(codes.iter().all(|code| [0, 486].contains(code)), "{codes:?}");
    watch.cost("40 reservations of one user", codes.len(), MIB, granted);
    // There is room for others.
    let mut other = RawClient::new(LOCALHOST.into(), watch.relay.addr, "bob", "builder").unwrap();
    other.allocate(600).unwrap();
}

#[test]
fn more_permissions_and_channels_than_there_is_room_for() {
    let watch = Watch::start(&[]);
    let mut attacker = watch.relay.client([127, 0, 0, 66]).unwrap();
    attacker.allocate(600).unwrap();
    let codes: Vec<u16> = (0..2000).map(|i| attacker.permit(public(i)).unwrap()).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 256);
    assert!(codes.iter().all(|code| [0, 508].contains(code)), "{codes:?}");
    let bind = |i: u16| {
        attacker.request(Method::CHANNEL_BIND, |writer| {
            drop(writer.attribute(&ChannelNumber::new(0x4000 + i).unwrap()));
            drop(writer.attribute(&XorPeerAddress(SocketAddr::new(public(0).ip(), 1000 + i))));
        })
    };
    let codes: Vec<u16> = (0..2000).map(|i| bind(i).unwrap()).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 256);
    assert!(codes.iter().all(|code| [0, 508].contains(code)), "{codes:?}");
    watch.cost("2,000 permissions and 2,000 channels", 4000, MIB, 1);
}

/// An address that is nobody's business to deny, of many.
fn public(i: u16) -> SocketAddr {
    let [high, low] = i.to_be_bytes();
    SocketAddr::from(([8, 8, high, low], 9))
}

#[test]
fn peers_that_are_nobodys_business() {
    let watch = Watch::start(&["--relay-ip", "127.0.0.1", "--relay-ip", "::1"]);
    let mut attacker = watch.relay.client([127, 0, 0, 66]).unwrap();
    attacker.log_in().unwrap();
    let both = attacker.request(Method::ALLOCATE, |writer| {
        udp(writer);
        drop(writer.attribute(&AdditionalAddressFamily(Some(AddressFamily::Ipv6))));
    });
    assert_eq!(both.unwrap(), 0);
    let spellings = [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.2",
        "127.255.255.254",
        "169.254.169.254",
        "169.254.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.2.3",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::127.0.0.2",
        "::10.0.0.1",
        "::ffff:127.0.0.2",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0.0.0.0",
        "::ffff:0:127.0.0.2",
        "64:ff9b::127.0.0.2",
        "64:ff9b::10.0.0.1",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::1",
        "2002:7f00:2::",
        "2002:a00:1::",
        "2002:a9fe:a9fe::1",
        "2002:c0a8:101::",
        "2001:0:7f00:2::",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "100::1",
    ];
    let mut asked = 0;
    for spelling in spellings {
        let denied = SocketAddr::new(spelling.parse().unwrap(), 80);
        assert_eq!(attacker.permit(denied).unwrap(), 403, "CreatePermission {spelling}");
        let bound = attacker.request(Method::CHANNEL_BIND, |writer| {
            drop(writer.attribute(&ChannelNumber::new(0x4000).unwrap()));
            drop(writer.attribute(&XorPeerAddress(denied)));
        });
        assert_eq!(bound.unwrap(), 403, "ChannelBind {spelling}");
        asked += 2;
    }
    watch.cost("41 spellings of denied peers", asked, MIB, 2);
}

#[test]
fn what_was_heard_is_said_again() {
    let watch = Watch::start(&[]);
    let mut victim = watch.relay.client([127, 0, 0, 9]).unwrap();
    victim.allocate(600).unwrap();
    let refresh = victim.login.sign(Method::REFRESH, |writer| drop(writer.attribute(&Lifetime(0))));
    let allocate = victim.login.sign(Method::ALLOCATE, udp);

    // From another address the nonce is worth nothing, whatever is signed with it.
    let far = watch.relay.client([127, 0, 0, 66]).unwrap();
    for heard in [&refresh, &allocate] {
        assert_eq!(code(&far.ask(heard).unwrap()), 438);
    }
    // From another port of the victim's address there is no allocation to end.
    let near = watch.relay.client([127, 0, 0, 9]).unwrap();
    assert_eq!(code(&near.ask(&refresh).unwrap()), 437);
    // The signature is of one method.
    let mut other = refresh.clone();
    other[1] = 8;
    assert_eq!(code(&near.ask(&other).unwrap()), 401);
    // The victim's is as it was, and its five-tuple takes no other.
    assert_eq!(code(&victim.ask(&allocate).unwrap()), 437);
    assert_eq!(victim.permit(peer(1, 9)).unwrap(), 0);
    watch.cost("messages that were heard, said again", 6, MIB, 1);
}

#[test]
fn another_users_allocation() {
    let watch = Watch::start(&["--user", "mallory:moor"]);
    let mut victim = watch.relay.client([127, 0, 0, 9]).unwrap();
    victim.allocate(600).unwrap();
    // With her own name and password, from the very same socket: as a browser's other tab.
    let mut mallory = victim.login.clone();
    mallory.username = "mallory".to_owned();
    mallory.password = "moor".to_owned();
    for (method, expected) in
        [(Method::REFRESH, 441), (Method::CREATE_PERMISSION, 441), (Method::ALLOCATE, 437)]
    {
        let request = mallory.sign(method, |writer| match method {
            Method::ALLOCATE => udp(writer),
            Method::REFRESH => drop(writer.attribute(&Lifetime(0))),
            _ => drop(writer.attribute(&XorPeerAddress(peer(1, 9)))),
        });
        let answered = code(&victim.ask(&request).unwrap());
        assert_eq!(answered, expected, "{method:?}");
    }
    watch.cost("requests for another's allocation", 3, MIB, 1);
}
