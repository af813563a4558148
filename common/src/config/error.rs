//! Refusals that say where, what and how to mend it.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A line of a file, counted from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// The command line.
    CommandLine,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File { path, line } => write!(f, "{}:{line}", path.display()),
            Source::Environment { variable } => write!(f, "environment variable {variable}"),
            Source::CommandLine => f.write_str("command line"),
        }
    }
}

/// What is wrong with a value, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// E.g. `"abc" is no port`.
    pub what: String,
    /// E.g. `give a number from 1 to 65535`.
    pub hint: String,
}

impl Problem {
    /// A problem and its hint.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Problem {
        Problem { what: what.into(), hint: hint.into() }
    }
}

/// The configuration cannot be used: the operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value is wrong.
    #[error("{at}: {key}: {}\n  hint: {}", problem.what, problem.hint)]
    Value {
        /// Where it stands.
        at: Source,
        /// The setting.
        key: String,
        /// What is wrong.
        problem: Problem,
    },
    /// The file is no TOML.
    #[error(
        "{at}: {message}\n  hint: the file is TOML: `key = value` lines, strings in quotes, lists in [ ]"
    )]
    Syntax {
        /// Where it breaks.
        at: Source,
        /// What the parser says.
        message: String,
    },
    /// The file cannot be read.
    #[error("{}: {error}\n  hint: check the path and whether this user may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: String,
    },
}
