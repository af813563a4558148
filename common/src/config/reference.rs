//! A page of Markdown about all settings of some programs, made from their tables.

use super::Key;

/// A program and its settings.
#[derive(Clone, Debug)]
pub struct Program {
    /// As it is called.
    pub name: &'static str,
    /// In the order of the page.
    pub keys: Vec<Key>,
}

/// What each setting is, in the order in which the programs name them; which programs take it; and an example.
pub fn reference(programs: &[Program]) -> String {
    let mut keys: Vec<Key> = Vec::new();
    for key in programs.iter().flat_map(|program| &program.keys) {
        if keys.iter().all(|known| known.name != key.name) {
            keys.push(*key);
        }
    }
    let mut page = String::from("| setting | default | in |\n|---|---|---|\n");
    for key in &keys {
        let name = key.name;
        page += &format!("| [`{name}`](#{name}) | {} | {} |\n", key.default(), taken_by(key, programs));
    }
    for key in &keys {
        page += &section(key, &taken_by(key, programs));
    }
    page
}

fn section(key: &Key, taken_by: &str) -> String {
    let Key { name, value, repeat, .. } = key;
    let (meaning, default, variable) = (key.meaning(), key.default(), key.variable());
    let example = key.toml();
    let fixed = if key.fixed { "\n- Another value takes a restart" } else { "" };
    let how = match (key.is_table(), *repeat) {
        (true, _) => format!("- In the file alone, as tables with these keys:\n{}", table(key)),
        (false, repeat) => {
            let commas = if repeat { ", several with commas between them" } else { "" };
            format!("- Flag: `--{name} {value}`; environment: `{variable}`{commas}\n")
        }
    };
    format!(
        "\n## {name}\n`{value}`. {meaning}\n\n\
         - Default: {default}\n\
         {how}\
         - In: {taken_by}{fixed}\n\n\
         ```toml\n{example}\n```\n"
    )
}

/// The keys of a key's tables.
fn table(key: &Key) -> String {
    let line = |key: &Key| format!("  - `{}` (`{}`): {}\n", key.name, key.value, key.meaning());
    key.table.iter().map(line).collect()
}

/// The programs that have the key.
fn taken_by(key: &Key, programs: &[Program]) -> String {
    let has = |program: &&Program| program.keys.iter().any(|other| other.name == key.name);
    programs.iter().filter(has).map(|program| program.name).collect::<Vec<_>>().join(", ")
}

const DEFAULT: &str = "Default: ";

impl Key {
    /// [`Key::help`] without the default, as one or more sentences.
    pub fn meaning(&self) -> String {
        let meaning = self.help.rsplit_once(DEFAULT).map_or(self.help, |(meaning, _)| meaning).trim();
        let stop = if meaning.ends_with('.') { "" } else { "." };
        format!("{meaning}{stop}")
    }

    /// What [`Key::help`] says of the default.
    pub fn default(&self) -> &'static str {
        self.help.rsplit_once(DEFAULT).map_or("not set", |(_, default)| default)
    }

    /// A line of TOML that sets it to its example; of tables the example itself.
    pub fn toml(&self) -> String {
        if let (true, Some(example)) = (self.is_table(), self.example) {
            return example.to_owned();
        }
        let example = self.example.unwrap_or(match self.value {
            "IP" if self.repeat => "[\"203.0.113.10\", \"2001:db8::10\"]",
            "IP" => "\"203.0.113.10\"",
            "PORT" => "3478",
            "COUNT" => "100",
            "SECONDS" => "600",
            "BOOL" | "BOOLEAN" => "true",
            _ if self.repeat => "[\"...\"]",
            _ => "\"...\"",
        });
        format!("{} = {example}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Values;
    use super::*;

    #[test]
    fn a_page_names_each_key_once_and_who_takes_it() {
        const PORT: Key = Key::single("listening-port", "PORT", "Port to listen on. Default: 3478");
        const IP: Key = Key::list("listening-ip", "IP", "Address to listen on; may be repeated");
        let programs = [
            Program { name: "one", keys: vec![PORT] },
            Program { name: "two", keys: vec![PORT, IP.example("[\"192.0.2.1\"]")] },
        ];
        let page = reference(&programs);
        assert_eq!(page.matches("## listening-port\n").count(), 1);
        for part in [
            "| [`listening-port`](#listening-port) | 3478 | one, two |\n",
            "| [`listening-ip`](#listening-ip) | not set | two |\n",
            "`PORT`. Port to listen on.\n\n- Default: 3478\n",
            "environment: `THIRL_LISTENING_IP`, several with commas between them\n",
            "```toml\nlistening-ip = [\"192.0.2.1\"]\n```\n",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        let toml = programs[1].keys.iter().map(|key| key.toml() + "\n").collect::<String>();
        assert!(Values::from_file(&programs[1].keys, Path::new("examples"), &toml).is_ok(), "{toml}");
    }
}
