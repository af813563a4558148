//! Where the `turn-relay` binary has its users from: access tokens, a service that it asks, and realms by ORIGIN.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64;
use serde_json::{Value, json};
use thirl_common::auth::{AccessTokenContent, LongTermKey, TokenKey};
use thirl_common::wire::{
    AccessToken, Class, ErrorCode, IntegrityAlgorithm, IntegrityKey, Lifetime, Message, MessageWriter,
    Method, Nonce, Origin, Realm, RequestedTransport, ThirdPartyAuthorization, TransactionId, Username,
};
use thirl_tests::harness::{self, Program};

const LIMIT: Duration = Duration::from_secs(30);

/// A relay on loopback.
struct Relay {
    _program: Program,
    addr: SocketAddr,
}

impl Relay {
    fn start(flags: &[&str]) -> Relay {
        let port = harness::free_udp_port().unwrap();
        let mut command = Command::new(harness::turn_relay());
        command.args([
            "--listening-ip",
            "127.0.0.1",
            "--listening-port",
            &port.to_string(),
            "--no-tls",
            "true",
        ]);
        let mut program = Program::spawn({
            command.args(["--relay-threads", "2", "--io", "epoll"]).args(flags);
            command
        })
        .unwrap()
        .named("turn-relay");
        program.wait_for_line("turn:", LIMIT).unwrap();
        Relay { _program: program, addr: ([127, 0, 0, 1], port).into() }
    }
}

struct Client {
    socket: UdpSocket,
    transactions: u32,
}

/// What a response says.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    /// 0 for a success.
    code: u16,
    realm: Option<String>,
    nonce: Option<String>,
    token_server: Option<String>,
    lifetime: Option<u32>,
}

impl Client {
    fn of(relay: &Relay) -> Client {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(relay.addr).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        Client { socket, transactions: 0 }
    }

    /// An Allocate, sent again until it is answered.
    fn allocate(&mut self, key: Option<&IntegrityKey>, write: impl FnOnce(&mut MessageWriter<'_>)) -> Said {
        self.transactions += 1;
        let mut id = TransactionId([7; 12]);
        id.0[..4].copy_from_slice(&self.transactions.to_be_bytes());
        let mut buffer = [0; 1024];
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, id).unwrap();
        writer.attribute(&RequestedTransport::UDP).unwrap();
        write(&mut writer);
        if let Some(key) = key {
            writer.integrity(IntegrityAlgorithm::Sha1, key).unwrap();
        }
        let request = writer.finish();
        let deadline = harness::Deadline::after(LIMIT);
        let mut received = [0; 2048];
        loop {
            assert!(!deadline.has_passed(), "no answer");
            self.socket.send(request).unwrap();
            let Ok(len) = self.socket.recv(&mut received) else { continue };
            let message = Message::parse(&received[..len]).unwrap();
            if message.transaction_id() != id {
                continue;
            }
            if let (Class::Success, Some(key)) = (message.class(), key) {
                assert!(message.verify_integrity(key).is_ok());
            }
            return Said {
                code: message.get::<ErrorCode<'_>>().unwrap().map_or(0, |error| error.code),
                realm: message.get().unwrap().map(|Realm(realm)| realm.to_owned()),
                nonce: message.get().unwrap().map(|Nonce(nonce)| nonce.to_owned()),
                token_server: message.get().unwrap().map(|ThirdPartyAuthorization(name)| name.to_owned()),
                lifetime: message.get().unwrap().map(|Lifetime(seconds)| seconds),
            };
        }
    }

    /// The same with a password, after a challenge.
    fn allocate_as(&mut self, username: &str, password: &str, origin: Option<&str>) -> (u16, String) {
        let told = self.allocate(None, |writer| {
            if let Some(origin) = origin {
                writer.attribute(&Origin(origin)).unwrap();
            }
        });
        let (realm, nonce) = (told.realm.unwrap(), told.nonce.unwrap());
        let key = LongTermKey::new(username, &realm, password).integrity_key();
        let said = self.allocate(Some(&key), |writer| {
            writer.attribute(&Username(username)).unwrap().attribute(&Realm(&realm)).unwrap();
            writer.attribute(&Nonce(&nonce)).unwrap();
        });
        (said.code, realm)
    }
}

#[test]
fn access_tokens_of_an_authorization_server() {
    let shared = [9; 32];
    let setting = format!("north:{}", BASE64.encode(&shared));
    let relay = Relay::start(&["--server-name", "turn.example.org", "--oauth-key", &setting]);
    #[expect(clippy::disallowed_methods, reason = "the relay has the same clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seal = |made: u64, key: &[u8]| {
        let content = AccessTokenContent { mac_key: vec![5; 20], timestamp: made, lifetime: 300 };
        TokenKey::new(key).unwrap().seal(&content, "turn.example.org", [1; 12]).unwrap()
    };
    let mut client = Client::of(&relay);
    let told = client.allocate(None, |_| {});
    assert_eq!((told.code, told.token_server.as_deref()), (401, Some("turn.example.org")));
    let nonce = told.nonce.unwrap();
    let key = IntegrityKey::new(&[5; 20]);
    let mut ask = |token: &[u8]| {
        client.allocate(Some(&key), |writer| {
            writer.attribute(&Username("north")).unwrap().attribute(&Realm("thirl")).unwrap();
            writer.attribute(&Nonce(&nonce)).unwrap().attribute(&AccessToken(token)).unwrap();
        })
    };
    assert_eq!(ask(&seal(now, &[8; 32])).code, 401, "another's key");
    assert_eq!(ask(&seal(now - 400, &shared)).code, 401, "over");
    let said = ask(&seal(now, &shared));
    assert_eq!(said.code, 0);
    assert!(said.lifetime.is_some_and(|seconds| (270..=300).contains(&seconds)), "{:?}", said.lifetime);
}

/// A web service that knows alice, in the realm `thirl`, by her password.
fn user_service() -> (String, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/turn", listener.local_addr().unwrap());
    let (asked, questions) = channel();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (head, question) = read_request(stream.as_ref().unwrap());
            let answer = match question["username"].as_str() {
                Some("alice") => json!({ "password": "secret" }).to_string(),
                Some("broken") => "{".to_owned(),
                _ => String::new(),
            };
            let status = if answer.is_empty() { "404 Not Found" } else { "200 OK" };
            let length = answer.len();
            let response =
                format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}");
            asked.send((head, question)).unwrap();
            stream.unwrap().write_all(response.as_bytes()).unwrap();
        }
    });
    (url, questions)
}

fn read_request(stream: &TcpStream) -> (String, Value) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "{head}");
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.unwrap()];
    reader.read_exact(&mut body).unwrap();
    (head, serde_json::from_slice(&body).unwrap())
}

#[test]
fn a_service_is_asked_for_users_once() {
    let (url, questions) = user_service();
    let relay = Relay::start(&["--auth-url", &url, "--auth-token", "let-me-in", "--user", "bob:builder"]);
    assert_eq!(Client::of(&relay).allocate_as("bob", "builder", None).0, 0);
    assert!(questions.try_recv().is_err(), "who stands in the settings is not asked for");
    for (username, password, code) in [
        ("alice", "secret", 0),
        ("alice", "wrong", 401),
        ("alice", "secret", 0),
        ("eve", "x", 401),
        ("broken", "x", 401),
    ] {
        assert_eq!(Client::of(&relay).allocate_as(username, password, None).0, code, "{username} {password}");
    }
    let asked: Vec<_> = questions.try_iter().collect();
    let names: Vec<_> = asked.iter().map(|(_, question)| question["username"].as_str().unwrap()).collect();
    assert_eq!(names, ["alice", "eve", "broken"]);
    let (head, question) = &asked[0];
    assert!(head.starts_with("POST /turn HTTP/1.1\r\n"), "{head}");
    assert!(head.lines().any(|line| line.eq_ignore_ascii_case("authorization: Bearer let-me-in")), "{head}");
    assert_eq!(*question, json!({ "realm": "thirl", "username": "alice", "algorithm": "md5" }));
}

/// A relay with a realm besides its own, which has these lines.
fn with_realm(of_realm: &str) -> Relay {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("thirl-realms-{}-{number}.toml", std::process::id()));
    let toml = format!(
        "realm = \"own.example\"\nuser = [\"alice:own\"]\n\
         [realms.\"video.example\"]\norigin = [\"https://video.example\"]\n{of_realm}\n"
    );
    std::fs::write(&path, toml).unwrap();
    let relay = Relay::start(&["--config", path.to_str().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    relay
}

#[test]
fn a_realm_has_quotas_and_tokens_of_its_own() {
    let shared = [9; 32];
    let relay = with_realm(&format!(
        "user = [\"alice:video\"]\nserver-name = \"turn\"\noauth-key = [\"north:{}\"]\ntotal-quota = 2\n",
        BASE64.encode(&shared)
    ));
    #[expect(clippy::disallowed_methods, reason = "the relay has the same clock")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let content = AccessTokenContent { mac_key: vec![5; 20], timestamp: now, lifetime: 300 };
    let token = TokenKey::new(&shared).unwrap().seal(&content, "turn", [1; 12]).unwrap();
    let mut client = Client::of(&relay);
    let told = client.allocate(None, |_| {});
    assert_eq!(told.token_server, None, "in the server's own realm there are no tokens");
    let origin = "https://video.example";
    let told = client.allocate(None, |writer| _ = writer.attribute(&Origin(origin)).unwrap());
    assert_eq!(told.token_server.as_deref(), Some("turn"));
    let mut ask = |realm: &str| {
        let said = client.allocate(Some(&IntegrityKey::new(&[5; 20])), |writer| {
            writer.attribute(&Username("north")).unwrap().attribute(&Realm(realm)).unwrap();
            writer.attribute(&Nonce(told.nonce.as_deref().unwrap())).unwrap();
            writer.attribute(&AccessToken(&token)).unwrap();
        });
        said.code
    };
    assert_eq!((ask("own.example"), ask("video.example")), (401, 0));
    let alice = |password, origin| Client::of(&relay).allocate_as("alice", password, origin).0;
    assert_eq!((alice("video", Some(origin)), alice("video", Some(origin))), (0, 486));
    assert_eq!(alice("own", None), 0, "the others have room");
}

#[test]
fn realms_of_the_file() {
    let relay = with_realm("user = [\"alice:video\"]");
    for (password, origin, code, realm) in [
        ("own", None, 0, "own.example"),
        ("video", None, 401, "own.example"),
        ("video", Some("https://video.example"), 0, "video.example"),
        ("own", Some("https://video.example"), 401, "video.example"),
        ("own", Some("https://elsewhere.example"), 0, "own.example"),
    ] {
        let answer = Client::of(&relay).allocate_as("alice", password, origin);
        assert_eq!(answer, (code, realm.to_owned()), "{password} {origin:?}");
    }
}
