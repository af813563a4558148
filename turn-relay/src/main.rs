//! `turn-relay`: a STUN server and TURN relay.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, Command, value_parser};
use rand::TryRngCore;
use thirl_common::config::{ConfigError, Flags, Values};
use thirl_stun_server::operation::{self, Configuration, Log, Signals};
use thirl_stun_server::program;
use thirl_stun_server::shard::Handed;
use thirl_turn_relay::announce::Announcement;
use thirl_turn_relay::import::import;
use thirl_turn_relay::operated::{self, OperatedRelay};
use thirl_turn_relay::settings::{KEYS, Settings};

fn main() -> ExitCode {
    let command = Command::new("turn-relay")
        .version(env!("CARGO_PKG_VERSION"))
        .about("STUN server and TURN relay (RFC 8489, RFC 8656)")
        .args_conflicts_with_subcommands(true);
    let check_config = Command::new("check-config").about("Check the settings, open nothing, and end");
    let import_coturn = Command::new("import-coturn")
        .about("Print coturn's settings as TOML, and on standard error what could not be carried over")
        .arg(
            Arg::new("file")
                .value_name("TURNSERVER.CONF")
                .required(true)
                .value_parser(value_parser!(PathBuf)),
        );
    let matches = Flags::augment(command, KEYS)
        .subcommand(Flags::augment(check_config, KEYS))
        .subcommand(import_coturn)
        .get_matches();
    let outcome = match matches.subcommand() {
        Some(("check-config", matches)) => check(Flags::from_matches(matches, KEYS)),
        Some((_, matches)) => matches.get_one::<PathBuf>("file").map_or(Ok(()), |file| import_from(file)),
        None => serve(Flags::from_matches(&matches, KEYS)),
    };
    program::exit_code("turn-relay", outcome)
}

fn check(flags: Flags) -> Result<(), program::Failure> {
    Settings::from_values(Configuration::read(KEYS, flags)?.values())?;
    program::print_line("the settings can be used");
    Ok(())
}

fn import_from(file: &Path) -> Result<(), program::Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| ConfigError::Unreadable { path: file.to_owned(), error: error.to_string() })?;
    let imported = import(&text);
    program::print_line(imported.toml.trim_end());
    for left in &imported.left {
        eprintln!("{}:{left}", file.display());
    }
    // What coturn takes and this relay does not: names given for addresses, a value out of range.
    Settings::from_values(&Values::from_file(KEYS, Path::new("the TOML above"), &imported.toml)?)?;
    Ok(())
}

fn serve(flags: Flags) -> Result<(), program::Failure> {
    let configuration = Configuration::read(KEYS, flags)?;
    let mut settings = Settings::from_values(configuration.values())?;
    let log = Log::start(&settings.operation.log, "info");
    program::raise_open_files_limit();
    let mut random = [0; 16];
    rand::rngs::OsRng.try_fill_bytes(&mut random).map_err(std::io::Error::other)?;
    let new_secret = settings.ensure_credentials(random);
    operation::forgo_new_privileges();
    let signals = Signals::catch()?;
    let (running, _monitor) = operated::start(&settings, Handed::from_environment()?)?;
    program::drop_privileges(&settings.operation)?;
    program::print_line(&Announcement::new(&settings, running.local_addrs()).to_string());
    if let Some(secret) = new_secret {
        program::print_line(&format!(
            "static-auth-secret: {secret}  (new; set one to keep credentials over a restart)"
        ));
    }
    let mut relay = OperatedRelay {
        running: &running,
        configuration,
        log,
        complete: Box::new(move |settings| drop(settings.ensure_credentials(random))),
        notify: Box::new(|_| {}),
    };
    operation::run(&signals, settings.operation, &mut relay);
    drop(relay);
    running.shutdown();
    let report = running.join();
    tracing::info!("{} allocations served", report.engine.allocations_created);
    Ok(())
}
