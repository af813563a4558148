//! The table of keys as arguments of `clap`.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::Key;

/// What the command line said.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    pub(super) values: Vec<(&'static str, Vec<String>)>,
}

impl Flags {
    /// Adds `--config FILE` and one flag for each key to a command.
    pub fn augment(command: Command, keys: &[Key]) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .env("THIRL_CONFIG")
            .value_parser(value_parser!(PathBuf))
            .help("Read settings from this TOML file; flags and environment go before it");
        let arg = |key: &Key| {
            let action = if key.repeat { ArgAction::Append } else { ArgAction::Set };
            let help = format!("{} [env: {}]", key.help, key.variable());
            Arg::new(key.name).long(key.name).value_name(key.value).help(help).action(action)
        };
        command.arg(config).args(keys.iter().filter(|key| !key.is_table()).map(arg))
    }

    /// What was matched of the flags that [`Flags::augment`] added.
    pub fn from_matches(matches: &ArgMatches, keys: &[Key]) -> Flags {
        let given = |key: &Key| {
            let values = matches.get_many::<String>(key.name)?.cloned().collect();
            Some((key.name, values))
        };
        let values = keys.iter().filter(|key| !key.is_table()).filter_map(given).collect();
        Flags { config: matches.get_one("config").cloned(), values }
    }
}
