//! What the log says, how much, and in which form.

use std::fmt;
use std::io::{self, IsTerminal};

use thirl_common::config::{ConfigError, Key, Problem, Values};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt as format, reload};

/// In which form.
pub const LOG_FORMAT: Key = Key::single(
    "log-format",
    "FORMAT",
    "Form of the log on standard error: `text`, or `json`, an object a line. Default: text",
)
.fixed()
.example("\"json\"");
/// How much.
pub const LOG_LEVEL: Key = Key::single(
    "log-level",
    "LEVEL",
    "What is logged: `error`, `warn`, `info`, `debug` or `trace`, or for some modules, as in \
     `info,thirl_turn_relay=debug`. Default: what RUST_LOG says, or info",
)
.example("\"debug\"");

/// What is said of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// Whether each line is a JSON object.
    pub json: bool,
    /// A level or directives that [`EnvFilter`] takes. `None`: as the program has it.
    pub level: Option<String>,
}

/// What the values say of the log.
pub(super) fn settings(values: &Values) -> Result<LogSettings, ConfigError> {
    let json = values.one(LOG_FORMAT.name, |text| match text {
        "text" => Ok(false),
        "json" => Ok(true),
        other => Err(Problem::new(format!("{other:?} is no form of a log"), "give `text` or `json`")),
    })?;
    let level = values.one(LOG_LEVEL.name, |text| match EnvFilter::try_new(text) {
        Ok(_) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(Problem::new(
            format!("{text:?} is no level"),
            "give `error`, `warn`, `info`, `debug` or `trace`, or `info,module=debug`",
        )),
    })?;
    Ok(LogSettings { json: json.unwrap_or(false), level })
}

/// The log of a program that has begun.
#[derive(Clone)]
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    usual: &'static str,
}

impl Log {
    /// Begins it, on standard error. `usual` is the level where neither the settings nor RUST_LOG give one.
    pub fn start(settings: &LogSettings, usual: &'static str) -> Log {
        let (filter, handle) = reload::Layer::new(filter(settings, usual));
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let layer = format::layer().with_writer(io::stderr);
        let layer = match settings.json {
            true => layer.json().flatten_event(true).boxed(),
            false => layer.with_ansi(colour).boxed(),
        };
        // A program that has a log already, as a test may, keeps it.
        let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
        Log { filter: handle, usual }
    }

    /// Takes up another level.
    pub fn set_level(&self, settings: &LogSettings) {
        // This fails only if there is no log.
        let _ = self.filter.reload(filter(settings, self.usual));
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

fn filter(settings: &LogSettings, usual: &str) -> EnvFilter {
    match &settings.level {
        Some(level) => EnvFilter::new(level),
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual)),
    }
}
