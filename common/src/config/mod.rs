//! Settings of a program: one table of keys, read alike from a file, the environment and flags.
//!
//! 1. [`Key`]: what a setting is called everywhere: `listening-port` in TOML, `--listening-port`,
//!    `THIRL_LISTENING_PORT`.
//! 2. [`Flags`]: the table as `clap` arguments.
//! 3. [`Values::load`]: file, then environment, then flags; each replaces what the one before said of a key.
//! 4. [`Values::one`] and [`Values::all`]: a value with its type; a bad one is refused with its source and a hint.
//!    [`Values::tables`]: tables with names, each with values of its own.
//! 5. [`reference`](fn@reference): a page about the keys of several programs.
//!
//! Programs turn a [`ConfigError`] into exit code 2 before they open any socket.

mod error;
mod file;
mod flags;
pub mod parse;
mod reference;
mod values;

pub use error::{ConfigError, Problem, Source};
pub use flags::Flags;
pub use reference::{Program, reference};
pub use values::{Table, Values};

/// A setting's name and what to tell people about it.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As in TOML and, after two dashes, on the command line. In the environment it is upper-case, with underscores
    /// and [`ENV_PREFIX`].
    pub name: &'static str,
    /// What stands for the value in `--help`, e.g. `PORT`.
    pub value: &'static str,
    /// One sentence, then `Default: ` and what holds if it is not given.
    pub help: &'static str,
    /// A value as TOML, for the reference. `None`: that of the usual meaning of [`Key::value`].
    pub example: Option<&'static str>,
    /// Whether it may be given more than once. In the environment values are separated by commas.
    pub repeat: bool,
    /// The keys of each of its tables, if it is no value but tables with names, as in `[realms."example.org"]`. Those are
    /// for the file alone. Empty: it is a value.
    pub table: &'static [Key],
    /// Whether a server that runs cannot take up another value.
    pub fixed: bool,
}

/// What every environment variable begins with.
pub const ENV_PREFIX: &str = "THIRL_";

impl Key {
    /// A key that is given once.
    pub const fn single(name: &'static str, value: &'static str, help: &'static str) -> Key {
        Key { name, value, help, example: None, repeat: false, fixed: false, table: &[] }
    }

    /// A key that may be repeated.
    pub const fn list(name: &'static str, value: &'static str, help: &'static str) -> Key {
        Key { name, value, help, example: None, repeat: true, fixed: false, table: &[] }
    }

    /// Tables with names, each with these keys. `example` is what stands in the file.
    pub const fn tables(
        name: &'static str,
        value: &'static str,
        help: &'static str,
        table: &'static [Key],
        example: &'static str,
    ) -> Key {
        Key { name, value, help, example: Some(example), repeat: true, fixed: false, table }
    }

    /// Whether it is tables and not a value.
    pub fn is_table(&self) -> bool {
        !self.table.is_empty()
    }

    /// With an example: a value as TOML.
    pub const fn example(self, toml: &'static str) -> Key {
        Key { example: Some(toml), ..self }
    }

    /// A key whose value is the same until the program ends.
    pub const fn fixed(self) -> Key {
        Key { fixed: true, ..self }
    }

    /// The name of the key's environment variable.
    pub fn variable(&self) -> String {
        format!("{ENV_PREFIX}{}", self.name.to_uppercase().replace('-', "_"))
    }
}
