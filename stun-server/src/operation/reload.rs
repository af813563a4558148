//! Settings that are read anew while a server runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use thirl_common::config::{ConfigError, Flags, Key, Values};

/// Where the settings of a server came from, and what they were when it began or when they were last taken up.
#[derive(Debug)]
pub struct Configuration {
    keys: Vec<Key>,
    flags: Flags,
    values: Values,
    seen: Stamp,
}

/// What tells a file from what it was before it was written to, or from another in its place.
type Stamp = Option<(u64, u64, i64, i64)>;

impl Configuration {
    /// Reads file, environment and flags.
    pub fn read(keys: &[Key], flags: Flags) -> Result<Configuration, ConfigError> {
        let seen = stamp(flags.config.as_ref());
        let values = load(keys, &flags)?;
        Ok(Configuration { keys: keys.to_vec(), flags, values, seen })
    }

    /// What they say.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Reads all of it again, has `check` look at the whole, and returns what that made of it. `None` if it is refused:
    /// the log says why, and what was in use stays so. What a running server cannot change is as before, and named in the
    /// log.
    pub fn read_again<T>(&mut self, check: impl Fn(&Values) -> Result<T, ConfigError>) -> Option<T> {
        self.seen = stamp(self.flags.config.as_ref());
        let read = load(&self.keys, &self.flags).and_then(|mut values| {
            check(&values)?;
            let changed = values.changes(&self.values, &self.keys);
            let fixed: Vec<_> = changed.into_iter().filter(|key| key.fixed).collect();
            fixed.iter().for_each(|key| values.keep(&self.values, key));
            Ok((check(&values)?, values, fixed))
        });
        match read {
            Ok((checked, values, fixed)) => {
                for key in fixed {
                    tracing::warn!(
                        setting = key.name,
                        "changed, but takes a restart; the value before stays in use"
                    );
                }
                self.values = values;
                Some(checked)
            }
            Err(error) => {
                let error = error.to_string().replace("\n  ", " ");
                tracing::error!("the configuration is refused, and the one before stays in use: {error}");
                None
            }
        }
    }

    /// Whether the file is another than when it was last read.
    pub fn file_changed(&self) -> bool {
        stamp(self.flags.config.as_ref()) != self.seen
    }
}

fn load(keys: &[Key], flags: &Flags) -> Result<Values, ConfigError> {
    Values::load(keys, flags, |name| std::env::var(name).ok())
}

fn stamp(path: Option<&PathBuf>) -> Stamp {
    let file = fs::metadata(path?).ok()?;
    Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use thirl_common::config::parse;

    use super::*;

    #[test]
    fn what_is_refused_or_fixed_stays_as_it_was() {
        const KEYS: &[Key] =
            &[Key::single("listening-port", "PORT", "").fixed(), Key::single("user-quota", "COUNT", "")];
        let path = std::env::temp_dir().join(format!("thirl-reload-{}.toml", std::process::id()));
        let write = |text: &str| fs::write(&path, text).unwrap();
        let check = |values: &Values| {
            let port = values.one("listening-port", parse::port)?;
            Ok((port, values.one("user-quota", parse::number(1, 9))?))
        };
        write("listening-port = 1\nuser-quota = 1\n");
        let command = Flags::augment(clap::Command::new("server"), KEYS);
        let matches = command.get_matches_from(["server", "--config", path.to_str().unwrap()]);
        let flags = Flags::from_matches(&matches, KEYS);
        let mut configuration = Configuration::read(KEYS, flags).unwrap();
        assert!(!configuration.file_changed());

        write("listening-port = 22\nuser-quota = 2\n");
        assert!(configuration.file_changed());
        assert_eq!(configuration.read_again(check), Some((Some(1), Some(2))), "the port takes a restart");
        assert!(!configuration.file_changed());
        for refused in ["user-quota = 10\n", "listening-port = 0\nuser-quota = 3\n", "user-quota = \n"] {
            write(refused);
            assert_eq!(configuration.read_again(check), None, "{refused}");
        }
        assert_eq!(check(configuration.values()).unwrap(), (Some(1), Some(2)));
        fs::remove_file(&path).unwrap();
        assert_eq!(configuration.read_again(check), None);
    }
}
