//! `thirl serve`: reloaded, and at sockets of a service manager's.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use thirl_overlay::signalling::{IceServer, WebSocketSignalling};
use thirl_overlay::{NodeKey, Signalling};
use thirl_tests::harness::{self, Allocation, Login, Program, free_tcp_port};
use thirl_tests::requires;

use super::activation::activator;
use super::reload::{Conf, TAKEN_UP};
use super::{LIMIT, said};

/// Username and password that the signalling server hands a node for the relay.
fn credentials(signalling: &str) -> (String, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let servers = runtime.block_on(async {
        let key = NodeKey::from_seed(&rand::random());
        let node = WebSocketSignalling::connect(signalling.parse().unwrap(), &key).await.unwrap();
        let servers = node.ice_servers();
        node.close().await;
        servers
    });
    let of_relay =
        servers.into_iter().find_map(|IceServer { username, credential, .. }| username.zip(credential));
    of_relay.unwrap()
}

fn allocate(addr: SocketAddr, (username, password): &(String, String)) -> Result<Allocation, u16> {
    Allocation::new(addr, Login { username, password }).unwrap()
}

/// What stands after `flag` in a line that says what to type.
fn after(line: &str, flag: &str) -> String {
    line.split_whitespace().skip_while(|word| *word != flag).nth(1).unwrap().to_owned()
}

#[test]
fn nodes_are_told_credentials_of_the_settings_that_hold() {
    let conf = Conf::new("static-auth-secret = \"first\"\nlog-level = \"info\"\n");
    let mut command = Command::new(harness::thirl());
    command.args(["serve", "--listening-ip", "127.0.0.1", "--listening-port", "0", "--signalling-port", "0"]);
    command.args(["--allowed-peer-ip", "127.0.0.1", "--relay-threads", "2"]).args(conf.flags());
    let mut serve = Program::spawn(command).unwrap().named("serve");
    let server = after(&serve.wait_for_line("thirl listen --server", LIMIT).unwrap(), "--server");
    let line = said(&mut serve, "?transport=udp");
    let (_, uri) = line.rsplit_once("turn:").unwrap();
    let addr = uri.strip_suffix("?transport=udp").unwrap().parse().unwrap();
    let first = credentials(&server);
    let mut allocation = allocate(addr, &first).unwrap();
    allocation.echo().unwrap();

    conf.write("static-auth-secret = \"second\"\nlog-level = \"info\"\nuser-quota = 1\n");
    serve.signal("HUP").unwrap();
    serve.wait_for_line(TAKEN_UP, LIMIT).unwrap();
    allocation.echo().unwrap();
    assert_eq!(allocate(addr, &first).err(), Some(401), "the first secret is none any more");
    let second = credentials(&server);
    let mut another = allocate(addr, &second).unwrap();
    another.echo().unwrap();
    assert_eq!(allocate(addr, &second).err(), Some(486), "user-quota is new");

    conf.write("static-auth-secret = \"third\"\nmin-port = 0\n");
    serve.signal("HUP").unwrap();
    let line = serve.wait_for_line("is refused", LIMIT).unwrap();
    assert!(line.contains(":2: min-port:"), "{line}");
    allocation.echo().unwrap();
    allocate(addr, &credentials(&server)).unwrap();
    serve.signal("INT").unwrap();
    assert!(serve.wait_for_end(LIMIT).unwrap().success());
}

#[test]
fn signalling_and_relay_have_the_listeners_that_are_handed_over() {
    requires!(activator());
    let [relay, signalling] = [(); 2].map(|()| free_tcp_port().unwrap());
    let mut command = Command::new("systemd-socket-activate");
    let addr = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    command.args(["-l", &addr(relay).to_string(), "-l", &addr(signalling).to_string()]).arg(harness::thirl());
    // The relay has no other address, or it could not start: this host has none of the kind.
    command.args(["serve", "--listening-ip", "127.0.0.1", "--listening-port", &relay.to_string()]);
    command.args(["--signalling-port", &signalling.to_string(), "--relay-threads", "2"]);
    let mut serve = Program::spawn(command).unwrap().named("systemd-socket-activate");
    serve.wait_for_line("Listening on", LIMIT).unwrap();
    drop(TcpStream::connect(addr(relay)).unwrap());
    let server = after(&serve.wait_for_line("thirl listen --server", LIMIT).unwrap(), "--server");
    assert_eq!(server, addr(signalling).to_string());
    let (username, _) = credentials(&server);
    assert!(username.contains(':'), "{username}");
    let turn = said(&mut serve, "?transport=tcp");
    assert!(turn.contains(&addr(relay).to_string()), "{turn}");
    assert!(!serve.output().contains("?transport=udp"), "nobody opened such a socket");
    serve.signal("INT").unwrap();
    assert!(serve.wait_for_end(LIMIT).unwrap().success());
}
