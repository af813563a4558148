//! The JSON of `thirl nat`: what it prints on loopback is what `docs/nat-report.schema.json` says, which is what
//! `docs/nat-json.md` says.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use jsonschema::Validator;
use serde_json::{Map, Value};
use thirl_tests::harness::{self, Program};

const LIMIT: Duration = Duration::from_secs(60);

fn schema() -> Value {
    serde_json::from_str(include_str!("../../docs/nat-report.schema.json")).unwrap()
}

fn validator() -> Validator {
    jsonschema::validator_for(&schema()).unwrap()
}

#[track_caller]
fn assert_valid(report: &Value) {
    let problems: Vec<_> = validator()
        .iter_errors(report)
        .map(|problem| format!("{} at {}", problem, problem.instance_path()))
        .collect();
    assert!(problems.is_empty(), "{problems:#?} in {report}");
}

/// What `thirl nat --json` prints, and what it exits with.
fn nat(arguments: &[&str]) -> (Value, Option<i32>) {
    let mut command = Command::new(harness::thirl());
    command.args(["nat", "--json"]).args(arguments);
    let mut program = Program::spawn(command).unwrap().named("thirl nat");
    let said = program.wait_for_json(LIMIT).unwrap();
    (said, program.wait_for_end(LIMIT).unwrap().code())
}

/// A server on loopback, and the URI that it prints.
fn server() -> (Program, String) {
    let mut command = Command::new(harness::stun_server());
    command.args(["--listening-ip", "127.0.0.1", "--listening-port", "0"]);
    let mut server = Program::spawn(command).unwrap().named("stun-server");
    let line = server.wait_for_line("stun:127.0.0.1", LIMIT).unwrap();
    let uri = line.split_whitespace().find(|word| word.starts_with("stun:")).unwrap().to_owned();
    (server, uri)
}

#[test]
fn a_server_that_answers_one_that_is_silent_and_one_without_an_address() {
    let (_server, uri) = server();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = format!("stun:{}", silent.local_addr().unwrap());
    let nowhere = "stun:nowhere.invalid";
    let (said, code) = nat(&["--server", &uri, "--server", &silent, "--server", nowhere, "--hairpin"]);
    assert_valid(&said);
    assert_eq!(code, Some(0), "{said}");
    assert!(said["captive_portal"].is_object() && said["ipv6_addresses"].is_object(), "{said}");
    let found = &said["udp"]["ipv4"];
    assert_eq!([&found["reachable"], &found["translated"]], [true, false], "{found}");
    assert_eq!(found["silent"][0], silent["stun:".len()..], "{found}");
    assert_eq!(said["unresolved"][0]["server"], "stun:nowhere.invalid:3478", "{said}");
    assert!(found["filtering"].is_null() && found["hairpin"].is_object() && said["pair"].is_null(), "{said}");
}

#[test]
fn servers_that_do_not_answer() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (said, code) = nat(&["--server", &format!("stun:{}", silent.local_addr().unwrap())]);
    assert_valid(&said);
    assert_eq!((code, &said["udp"]["ipv4"]["reachable"]), (Some(1), &Value::Bool(false)), "{said}");
}

#[test]
fn ctrl_c_ends_it_at_once_with_what_was_found_so_far() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_read_timeout(Some(LIMIT)).unwrap();
    let (_server, uri) = server();
    let mut command = Command::new(harness::thirl());
    command.args(["nat", "--json", "--lifetime", "--server", &uri]);
    command.args(["--server", &format!("stun:{}", silent.local_addr().unwrap())]);
    let mut program = Program::spawn(command).unwrap().named("thirl nat");
    silent.recv_from(&mut [0; 100]).unwrap();
    program.signal("INT").unwrap();
    let said = program.wait_for_json(LIMIT).unwrap();
    assert_valid(&said);
    program.wait_for_end(LIMIT).unwrap();
    assert!(program.output().contains("interrupted: this is what was found so far"), "{}", program.output());
}

#[test]
fn a_pair_on_one_machine() {
    let mut serve = Command::new(harness::thirl());
    let port = harness::free_udp_port().unwrap().to_string();
    serve.args(["serve", "--listening-ip", "127.0.0.1", "--listening-port", &port, "--signalling-port", "0"]);
    let mut serve = Program::spawn(serve).unwrap().named("serve");
    let next = serve.wait_for_line("thirl listen --server", LIMIT).unwrap();
    let server = next.split_whitespace().skip_while(|word| *word != "--server").nth(1).unwrap();
    let mut listen = Command::new(harness::thirl());
    listen.args(["listen", "--server", server, "--json"]);
    let mut listen = Program::spawn(listen).unwrap().named("listen");
    let ticket = listen.wait_for_json(LIMIT).unwrap()["ticket"].as_str().unwrap().to_owned();
    let (said, code) = nat(&["--against", &ticket]);
    assert_valid(&said);
    let pair = &said["pair"];
    assert_eq!(
        (code, &pair["agrees"], &pair["prediction"]["way"]),
        (Some(0), &true.into(), &"host".into()),
        "{pair}"
    );
}

#[test]
fn the_schema_refuses_what_readers_could_not_read() {
    let (_server, uri) = server();
    let (said, _) = nat(&["--server", &uri]);
    let refused = |pointer: &str, change: &dyn Fn(&mut Map<String, Value>)| {
        let mut changed = said.clone();
        change(changed.pointer_mut(pointer).unwrap().as_object_mut().unwrap());
        !validator().is_valid(&changed)
    };
    let remove =
        |field: &'static str| move |object: &mut Map<String, Value>| assert!(object.remove(field).is_some());
    for field in ["version", "verdict", "udp", "pair"] {
        assert!(refused("", &remove(field)), "without {field}");
    }
    assert!(refused("/udp/ipv4", &remove("mapping")) && refused("/udp/ipv4/layers", &remove("reason")));
    assert!(refused("", &|object| _ = object.insert("version".into(), 2.into())), "another version");
    assert!(refused("/udp/ipv4", &|object| _ = object.insert("mapping".into(), "cone".into())));
    assert!(refused("/udp/ipv4", &|object| _ = object.insert("local".into(), "localhost".into())));
    assert!(!refused("/udp/ipv4", &|object| _ = object.insert("later".into(), 1.into())), "fields are added");
}

/// The fields of all tables of docs/nat-json.md, each as a path from the object that its section is about.
fn documented() -> Vec<(&'static str, &'static str)> {
    let text = include_str!("../../docs/nat-json.md");
    let mut fields = Vec::new();
    for section in text.split("\n## ") {
        let title = section.lines().next().unwrap_or_default();
        let tables = section.split("| field | what |").skip(1);
        let rows = tables.flat_map(|table| table.lines().skip(2).take_while(|line| line.starts_with('|')));
        let cells = rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split(", "));
        let names = cells.filter_map(|cell| cell.trim().strip_prefix('`')?.strip_suffix('`'));
        fields.extend(names.map(|name| (title, name)));
    }
    fields
}

/// Every field of an object of the schema, and of the objects in it and in its arrays, as paths.
fn described(schema: &Value, of: &Value, prefix: &str, into: &mut Vec<String>) {
    let named = of["$ref"].as_str().and_then(|name| schema.pointer(name.strip_prefix('#')?));
    let either = of["anyOf"].as_array().and_then(|either| either.first());
    if let Some(inner) = named.or(either).or(of.get("items")) {
        return described(schema, inner, prefix, into);
    }
    for (name, field) in of["properties"].as_object().into_iter().flatten() {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        described(schema, field, &path, into);
        into.push(path);
    }
}

#[test]
fn the_schema_and_the_documentation_name_the_same_fields() {
    let (schema, documented) = (schema(), documented());
    for (title, definition) in [
        ("`udp.ipv4`, `udp.ipv6`", "/$defs/udp"),
        ("`tcp.ipv4`, `tcp.ipv6`", "/$defs/tcp"),
        ("`reach.tcp_3478`, `reach.tls_443`, `reach.udp_443`", "/$defs/way"),
        ("`gateway.ipv4`, `gateway.ipv6`", "/$defs/gateway"),
        ("`ipv6_addresses`", "/$defs/ipv6_addresses"),
        ("`lifetime`", "/$defs/udp/properties/lifetime/anyOf/0"),
        ("`pair`", "/$defs/pair"),
        ("`pair.you`, `pair.they`", "/$defs/facts"),
    ] {
        let mut described_fields = Vec::new();
        described(&schema, schema.pointer(definition).unwrap(), "", &mut described_fields);
        let documented: Vec<_> =
            documented.iter().filter(|(section, _)| *section == title).map(|(_, name)| *name).collect();
        assert!(documented.len() > 2, "{title}: {documented:?}");
        for name in &documented {
            assert!(
                described_fields.iter().any(|field| field == name),
                "{title}: {name} is not in the schema"
            );
        }
        for field in &described_fields {
            let outer = field.split('.').next().unwrap();
            let known = documented.iter().any(|name| name.split('.').next() == Some(outer));
            assert!(known, "{title}: {field} is not documented");
        }
    }
}
