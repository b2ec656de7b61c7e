//! What is in force, and where each value came from: for people, and a configuration file again.
//!
//! Always true: every key is listed once, in the order of the help.

use std::{fmt, path::PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use toml::Value;

use super::file::File;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment variable of this name.
    Environment(String),
    /// This file.
    File(PathBuf),
    /// Nobody said anything.
    Default,
}

/// One key.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Setting {
    pub key: String,
    /// As it stands in a file; None if it has no value.
    pub value: Option<Value>,
    pub source: Source,
}

/// All keys. Displays as a configuration file that says the same.
#[derive(Clone, Debug, Default)]
pub struct Settings(pub Vec<Setting>);

impl Settings {
    pub(super) fn of(command: &Command, given: &ArgMatches, file: &File) -> Self {
        let flags =
            command.get_arguments().filter(|flag| !matches!(flag.get_action(), ArgAction::Help | ArgAction::Version));
        Self(flags.filter_map(|flag| Some(setting(flag, flag.get_long()?, given, file))).collect())
    }
}

fn setting(flag: &Arg, key: &str, given: &ArgMatches, file: &File) -> Setting {
    let id = flag.get_id().as_str();
    let texts = given.get_raw(id).map(|raw| raw.map(|text| text.to_string_lossy().into_owned()).collect::<Vec<_>>());
    let value = if matches!(flag.get_action(), ArgAction::Append) {
        texts.map(|texts| Value::Array(texts.into_iter().map(Value::String).collect()))
    } else {
        texts.and_then(|texts| texts.into_iter().next()).map(plain)
    };
    let source = match given.value_source(id) {
        Some(ValueSource::CommandLine) => Source::Flag,
        Some(ValueSource::EnvVariable) => {
            Source::Environment(flag.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
        }
        _ if file.has(key) => Source::File(file.path.clone()),
        _ => Source::Default,
    };
    Setting { key: key.to_owned(), value, source }
}

fn plain(text: String) -> Value {
    match (text.parse(), text.parse()) {
        (Ok(number), _) => Value::Integer(number),
        (_, Ok(yes)) => Value::Boolean(yes),
        _ => Value::String(text),
    }
}

impl fmt::Display for Source {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => write!(to, "flag"),
            Self::Environment(name) => write!(to, "environment {name}"),
            Self::File(path) => write!(to, "file {}", path.display()),
            Self::Default => write!(to, "default"),
        }
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Setting { key, value, source } in &self.0 {
            // The file's own name can't stand in it.
            let start = if value.is_none() || key == "config" { "# " } else { "" };
            let value = value.as_ref().map_or_else(|| "(not set)".to_owned(), ToString::to_string);
            writeln!(to, "{:<48} # {source}", format!("{start}{key} = {value}"))?;
        }
        Ok(())
    }
}
