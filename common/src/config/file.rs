//! The TOML file: every key at the top level, each value a string, a number, a boolean, or a list of such.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Key;
use super::error::{ConfigError, Problem, Source};

/// A key's values in a file, each with its place.
pub(super) type Found = Vec<(&'static str, Vec<(String, Source)>)>;

/// Reads `text`, which came from `path`. What is no key of the table is refused, with the nearest one as a hint.
pub(super) fn read(path: &Path, text: &str, keys: &[Key]) -> Result<Found, ConfigError> {
    let at = |offset: usize| Source::File { path: path.to_owned(), line: line_of(text, offset) };
    let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        at: at(error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;
    let mut found = Vec::new();
    for (name, value) in table.get_ref() {
        let name_at = at(name.span().start);
        let Some(key) = keys.iter().find(|key| key.name == name.get_ref().as_ref()) else {
            return Err(unknown(name_at, name.get_ref(), keys));
        };
        let values = match value.get_ref() {
            DeValue::Array(values) if key.repeat => values
                .iter()
                .map(|value| scalar(key, value, at(value.span().start)))
                .collect::<Result<_, _>>()?,
            _ => vec![scalar(key, value, at(value.span().start))?],
        };
        found.push((key.name, values));
    }
    Ok(found)
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
