//! The TOML file: keys at the top level, each value a string, a number, a boolean, or a list of such; and tables with names,
//! whose keys are alike.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Key;
use super::error::{ConfigError, Problem, Source};
use super::values::{Table, Values};

/// Reads `text`, which came from `path`. What is no key of the table is refused, with the nearest one as a hint.
pub(super) fn read(path: &Path, text: &str, keys: &[Key]) -> Result<Values, ConfigError> {
    let file = File { path, text };
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        at: file.at(error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;
    file.values(table.get_ref(), keys)
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn at(&self, offset: usize) -> Source {
        Source::File { path: self.path.to_owned(), line: line_of(self.text, offset) }
    }

    fn values(&self, table: &DeTable<'_>, keys: &[Key]) -> Result<Values, ConfigError> {
        let mut values = Values::default();
        for (name, value) in table {
            let Some(key) = keys.iter().find(|key| key.name == name.get_ref().as_ref()) else {
                return Err(unknown(self.at(name.span().start), name.get_ref(), keys));
            };
            if key.is_table() {
                values.tables.insert(key.name, self.tables(key, value)?);
                continue;
            }
            let read = match value.get_ref() {
                DeValue::Array(several) if key.repeat => several
                    .iter()
                    .map(|value| scalar(key, value, self.at(value.span().start)))
                    .collect::<Result<_, _>>()?,
                _ => vec![scalar(key, value, self.at(value.span().start))?],
            };
            values.by_key.insert(key.name, read);
        }
        Ok(values)
    }

    fn tables(&self, key: &Key, value: &Spanned<DeValue<'_>>) -> Result<Vec<Table>, ConfigError> {
        let refuse = |value: &Spanned<DeValue<'_>>| {
            let hint = format!("write `[{}.{}]` on a line, and its keys below", key.name, key.value);
            let problem =
                Problem::new(format!("{} does not fit here", article(value.get_ref().type_str())), hint);
            ConfigError::Value { at: self.at(value.span().start), key: key.name.to_owned(), problem }
        };
        let DeValue::Table(named) = value.get_ref() else { return Err(refuse(value)) };
        let read = |(name, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| match value.get_ref() {
            DeValue::Table(table) => {
                let name: &std::borrow::Cow<'_, str> = name.get_ref();
                let at = self.at(value.span().start);
                Ok(Table { name: name.to_string(), at, values: self.values(table, key.table)? })
            }
            _ => Err(refuse(value)),
        };
        named.iter().map(read).collect()
    }
}

fn scalar(key: &Key, value: &Spanned<DeValue<'_>>, at: Source) -> Result<(String, Source), ConfigError> {
    let text = match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        other => {
            let hint = match key.repeat {
                true => format!("write `{} = [\"{}\", ...]`", key.name, key.value),
                false => format!("write `{} = \"{}\"`", key.name, key.value),
            };
            let problem = Problem::new(format!("{} does not fit here", article(other.type_str())), hint);
            return Err(ConfigError::Value { at, key: key.name.to_owned(), problem });
        }
    };
    Ok((text, at))
}

fn article(noun: &str) -> String {
    if noun.starts_with(['a', 'i']) { format!("an {noun}") } else { format!("a {noun}") }
}

fn unknown(at: Source, name: &str, keys: &[Key]) -> ConfigError {
    let nearest = keys.iter().min_by_key(|key| strsim::damerau_levenshtein(key.name, name));
    let hint = match nearest {
        Some(key) if strsim::damerau_levenshtein(key.name, name) <= 4 => {
            format!("did you mean `{}`?", key.name)
        }
        _ => "see --help for the keys there are".to_owned(),
    };
    ConfigError::Value { at, key: name.to_owned(), problem: Problem::new("there is no such key", hint) }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
