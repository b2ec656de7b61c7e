//! The configuration file: TOML, its keys the flags' names without their dashes.
//!
//! Always true: each of its values is one that the flag of that name would take; a key that no flag has is refused.

use std::{
    collections::BTreeMap,
    error::Error as _,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, Args, Command,
    builder::Resettable,
    error::{ContextKind, ContextValue},
};
use toml::{Table, Value};

use super::Serve;

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("the configuration file {} can't be read: {error}", path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("the configuration file {} isn't TOML: {error}", path.display())]
    NotToml { path: PathBuf, error: toml::de::Error },
    #[error("the configuration file {} has an unknown key `{key}`; {hint}", path.display())]
    UnknownKey { path: PathBuf, key: String, hint: String },
    #[error("the configuration file {}: `{key}` is {value}: {allowed}", path.display())]
    Invalid { path: PathBuf, key: String, value: String, allowed: String },
}

/// What a file says; nothing, if there is none.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) path: PathBuf,
    values: BTreeMap<String, Vec<String>>,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => return Err(Error::Unreadable { path, error }),
        };
        let table: Table = match text.parse() {
            Ok(table) => table,
            Err(error) => return Err(Error::NotToml { path, error }),
        };
        let flags = flags();
        let mut values = BTreeMap::new();
        for (key, value) in table {
            let Some(flag) = flags.get_arguments().find(|flag| is_key(flag, &key)) else {
                let hint = hint(&flags, &key);
                return Err(Error::UnknownKey { path, key, hint });
            };
            match check(&flags, flag, &key, &value) {
                Ok(texts) => drop(values.insert(key, texts)),
                Err(allowed) => return Err(Error::Invalid { path, key, value: value.to_string(), allowed }),
            }
        }
        Ok(Self { path, values })
    }

    /// Whether it says something about this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The command with the file's values as its defaults: below flags and environment.
    pub(super) fn under(&self, command: Command) -> Command {
        command.mut_args(|flag| match flag.get_long().and_then(|key| self.values.get(key)) {
            Some(texts) => flag.default_values(texts.clone()),
            None => flag,
        })
    }
}

/// The flags a file can stand for, without their environment.
fn flags() -> Command {
    let flags = Command::new("file").no_binary_name(true).disable_help_flag(true);
    Serve::augment_args(flags).mut_args(|flag| flag.env(Resettable::Reset))
}

pub(super) fn is_key(flag: &Arg, key: &str) -> bool {
    // A file that names another file would need an order of its own.
    flag.get_long() == Some(key) && key != "config"
}

/// The value as the flag's texts; else what is allowed.
fn check(flags: &Command, flag: &Arg, key: &str, value: &Value) -> Result<Vec<String>, String> {
    let is_list = matches!(flag.get_action(), ArgAction::Append);
    let texts = match value {
        Value::Array(items) if is_list => items.iter().map(text).collect::<Option<Vec<_>>>(),
        single => text(single).map(|text| vec![text]),
    };
    let Some(texts) = texts else {
        return Err(
            if is_list { "expected a list of texts" } else { "expected one text, number, true or false" }.to_owned()
        );
    };
    let args = texts.iter().map(|text| format!("--{key}={text}"));
    match flags.clone().try_get_matches_from(args) {
        Ok(_) => Ok(texts),
        Err(error) => Err(error.source().map_or_else(|| error.kind().to_string(), ToString::to_string)),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(yes) => Some(yes.to_string()),
        Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}

/// What was meant, perhaps.
fn hint(flags: &Command, key: &str) -> String {
    let error = flags.clone().try_get_matches_from([format!("--{key}=")]).err();
    let nearest = error.as_ref().and_then(|error| match error.get(ContextKind::SuggestedArg) {
        Some(ContextValue::String(flag)) => Some(flag.trim_start_matches('-')),
        _ => None,
    });
    match nearest {
        Some(nearest) if nearest != "config" => format!("did you mean `{nearest}`?"),
        _ => {
            let keys = flags.get_arguments().filter_map(Arg::get_long).filter(|key| *key != "config");
            format!("there are: {}", keys.collect::<Vec<_>>().join(", "))
        }
    }
}
