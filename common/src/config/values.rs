//! The layers laid over each other, and values taken out with their types.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::{ConfigError, Problem, Source};
use super::{Flags, Key, file};

/// The values of all keys that were given somewhere, each with its source.
#[derive(Clone, Debug, Default)]
pub struct Values {
    pub(super) by_key: BTreeMap<&'static str, Vec<(String, Source)>>,
    pub(super) tables: BTreeMap<&'static str, Vec<Table>>,
}

/// A table with a name: what its keys were given.
#[derive(Clone, Debug)]
pub struct Table {
    /// As in `[realms.NAME]`.
    pub name: String,
    /// Where it begins.
    pub at: Source,
    /// What stands in it.
    pub values: Values,
}

impl Values {
    /// Reads the file that the flags name, then the environment, then the flags.
    ///
    /// `environment` looks a variable up: `|name| std::env::var(name).ok()` in a program.
    pub fn load(
        keys: &[Key],
        flags: &Flags,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Values, ConfigError> {
        let mut values = Values::default();
        if let Some(path) = &flags.config {
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigError::Unreadable { path: path.clone(), error: error.to_string() })?;
            values = Values::from_file(keys, path, &text)?;
        }
        for key in keys.iter().filter(|key| !key.is_table()) {
            let variable = key.variable();
            if let Some(text) = environment(&variable) {
                let texts =
                    if key.repeat { text.split(',').map(str::to_owned).collect() } else { vec![text] };
                let source = Source::Environment { variable };
                values
                    .by_key
                    .insert(key.name, texts.into_iter().map(|text| (text, source.clone())).collect());
            }
        }
        for (name, texts) in &flags.values {
            let texts = texts.iter().map(|text| (text.clone(), Source::CommandLine)).collect();
            values.by_key.insert(name, texts);
        }
        Ok(values)
    }

    /// The layer of a file alone: `text`, which stands in the file at `path`.
    pub fn from_file(keys: &[Key], path: &Path, text: &str) -> Result<Values, ConfigError> {
        file::read(path, text, keys)
    }

    /// The value of a key that is given once, or `None` if it is not given.
    pub fn one<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Problem>,
    ) -> Result<Option<T>, ConfigError> {
        Ok(self.all(key, parse)?.pop())
    }

    /// The values of a key that may be repeated.
    pub fn all<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Problem>,
    ) -> Result<Vec<T>, ConfigError> {
        let refuse =
            |at: &Source, problem| ConfigError::Value { at: at.clone(), key: key.to_owned(), problem };
        self.by_key
            .get(key)
            .into_iter()
            .flatten()
            .map(|(text, at)| parse(text.trim()).map_err(|problem| refuse(at, problem)))
            .collect()
    }

    /// The tables of a key, by name.
    pub fn tables(&self, key: &'static str) -> &[Table] {
        self.tables.get(key).map_or(&[], Vec::as_slice)
    }

    /// The keys whose values are others than in `before`, wherever they came from.
    pub fn changes<'k>(&self, before: &Values, keys: &'k [Key]) -> Vec<&'k Key> {
        let texts = |values: &Values, key: &Key| -> Vec<String> {
            let values = values.by_key.get(key.name).into_iter().flatten();
            values.map(|(text, _)| text.trim().to_owned()).collect()
        };
        keys.iter().filter(|key| texts(self, key) != texts(before, key)).collect()
    }

    /// Takes the value that a key had `before`.
    pub fn keep(&mut self, before: &Values, key: &Key) {
        match before.by_key.get(key.name) {
            Some(values) => drop(self.by_key.insert(key.name, values.clone())),
            None => drop(self.by_key.remove(key.name)),
        }
    }

    /// Refuses a key for what other keys say. It names the key's source, if it has one.
    pub fn refuse(&self, key: &'static str, problem: Problem) -> ConfigError {
        let given = self.by_key.get(key).and_then(|values| values.last());
        let at = given.map_or(Source::CommandLine, |(_, at)| at.clone());
        ConfigError::Value { at, key: key.to_owned(), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use std::io::Write;

    const KEYS: &[Key] = &[
        Key::single("listening-port", "PORT", ""),
        Key::list("listening-ip", "IP", ""),
        Key::single("realm", "NAME", ""),
    ];

    fn file(text: &str) -> (tempdir::TempFile, Flags) {
        let file = tempdir::TempFile::new(text);
        let flags = Flags { config: Some(file.path.clone()), values: Vec::new() };
        (file, flags)
    }

    /// A file that is gone when the test is.
    mod tempdir {
        use std::path::PathBuf;
        use std::sync::atomic::{AtomicU32, Ordering};

        pub(super) struct TempFile {
            pub(super) path: PathBuf,
        }

        impl TempFile {
            pub(super) fn new(text: &str) -> TempFile {
                static COUNT: AtomicU32 = AtomicU32::new(0);
                let name =
                    format!("thirl-{}-{}.toml", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
                let path = std::env::temp_dir().join(name);
                let mut file = std::fs::File::create(&path).unwrap();
                super::Write::write_all(&mut file, text.as_bytes()).unwrap();
                TempFile { path }
            }
        }

        impl Drop for TempFile {
            fn drop(&mut self) {
                std::fs::remove_file(&self.path).ok();
            }
        }
    }

    #[test]
    fn flags_go_before_the_environment_and_that_before_the_file() {
        let (_file, mut flags) =
            file("listening-port = 1\nrealm = \"file\"\nlistening-ip = [\"192.0.2.1\", \"::1\"]\n");
        let environment = |name: &str| match name {
            "THIRL_LISTENING_PORT" => Some("2".to_owned()),
            "THIRL_REALM" => Some("environment".to_owned()),
            _ => None,
        };
        flags.values.push(("listening-port", vec!["3".to_owned()]));
        let values = Values::load(KEYS, &flags, environment).unwrap();
        assert_eq!(values.one("listening-port", parse::port).unwrap(), Some(3));
        assert_eq!(values.one("realm", parse::text).unwrap().as_deref(), Some("environment"));
        assert_eq!(values.all("listening-ip", parse::ip).unwrap().len(), 2);
    }

    #[test]
    fn a_bad_value_is_refused_with_its_line_and_a_hint() {
        let (file, flags) = file("# comment\nrealm = \"x\"\nlistening-port = \"abc\"\n");
        let values = Values::load(KEYS, &flags, |_| None).unwrap();
        let error = values.one("listening-port", parse::port).unwrap_err().to_string();
        let path = file.path.display();
        assert_eq!(
            error,
            format!("{path}:3: listening-port: \"abc\" is no port\n  hint: give a number from 1 to 65535")
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest() {
        let (_file, flags) = file("realm = \"x\"\nlistning-port = 3478\n");
        let error = Values::load(KEYS, &flags, |_| None).unwrap_err().to_string();
        assert!(
            error
                .ends_with(":2: listning-port: there is no such key\n  hint: did you mean `listening-port`?"),
            "{error}"
        );
    }

    #[test]
    fn syntax_and_shape_are_refused_with_their_lines() {
        for (text, place) in
            [("a = \n", ":1:"), ("\n\nrealm = { x = 1 }\n", ":3:"), ("realm = [\"a\"]\n", ":1:")]
        {
            let (_file, flags) = file(text);
            let error = Values::load(KEYS, &flags, |_| None).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains("hint:"), "{error}");
        }
        let flags = Flags { config: Some("/nonexistent/thirl.toml".into()), values: Vec::new() };
        assert!(
            Values::load(KEYS, &flags, |_| None).unwrap_err().to_string().contains("/nonexistent/thirl.toml")
        );
    }

    #[test]
    fn tables_have_names_and_keys_of_their_own() {
        const WITH_REALMS: &[Key] = &[
            Key::single("realm", "NAME", ""),
            Key::tables(
                "realms",
                "NAME",
                "",
                &[Key::list("user", "NAME", ""), Key::single("port", "PORT", "")],
                "",
            ),
        ];
        let read = |text: &str| Values::from_file(WITH_REALMS, Path::new("x.toml"), text);
        let values =
            read("realm = \"a\"\n[realms.\"b.c\"]\nuser = [\"u\", \"v\"]\n[realms.d]\nport = \"no\"\n")
                .unwrap();
        let [first, second] = values.tables("realms") else { panic!("{values:?}") };
        assert_eq!((first.name.as_str(), first.values.all("user", parse::text).unwrap().len()), ("b.c", 2));
        assert_eq!(first.at, Source::File { path: "x.toml".into(), line: 2 });
        let error = second.values.one("port", parse::port).unwrap_err().to_string();
        assert!(error.starts_with("x.toml:5: port: \"no\" is no port"), "{error}");
        for (text, place) in [
            ("realms = \"a\"\n", "x.toml:1: realms: a string does not fit here"),
            ("[realms]\na = 1\n", "x.toml:2: realms: an integer does not fit here"),
            ("[realms.a]\nusr = []\n", "x.toml:2: usr: there is no such key\n  hint: did you mean `user`?"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.starts_with(place), "{error}");
        }
        let environment = |name: &str| (name == "THIRL_REALMS").then(|| "a".to_owned());
        let loaded = Values::load(WITH_REALMS, &Flags::default(), environment).unwrap();
        assert!(loaded.tables("realms").is_empty(), "for the file alone");
    }

    #[test]
    fn a_list_in_the_environment_is_separated_by_commas() {
        let environment = |name: &str| (name == "THIRL_LISTENING_IP").then(|| "192.0.2.1, bad".to_owned());
        let values = Values::load(KEYS, &Flags::default(), environment).unwrap();
        let error = values.all("listening-ip", parse::ip).unwrap_err().to_string();
        assert!(
            error.starts_with("environment variable THIRL_LISTENING_IP: listening-ip: \"bad\""),
            "{error}"
        );
    }
}
