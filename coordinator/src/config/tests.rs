//! Flags over environment over file over defaults, and what each refuses.

use std::{collections::BTreeSet, path::Path};

use clap::{Arg, ArgAction, CommandFactory};
use tempfile::NamedTempFile;

use super::*;

const EXAMPLE: &str = include_str!("../../unanimous.toml");

fn loaded(args: &[&str]) -> Result<Loaded, String> {
    load(["unanimous", "config"].iter().chain(args)).map_err(|error| error.to_string())
}

fn serve(args: &[&str]) -> Serve {
    match loaded(args).unwrap().command {
        Command::Config(serve) => serve,
        other @ (Command::Serve(_) | Command::Bench(_) | Command::BenchPart(_)) => panic!("{other:?}"),
    }
}

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn refusal(text: &str) -> String {
    let file = file(text);
    let message = loaded(&["--config", path(file.path())]).unwrap_err();
    assert!(message.contains(path(file.path())), "the file is named: {message}");
    message
}

/// The flags that a file can stand for, in order.
fn flags() -> Vec<Arg> {
    let command = Cli::command();
    let flags = command
        .find_subcommand("serve")
        .unwrap()
        .get_arguments()
        .filter(|flag| file::is_key(flag, flag.get_long().unwrap_or("config")));
    flags.filter(|flag| !matches!(flag.get_action(), ArgAction::Help)).cloned().collect()
}

#[test]
fn an_address_that_is_not_loopback_needs_insecure() {
    assert!(serve(&["--listen", "127.0.0.1:1"]).check().is_ok());
    assert!(serve(&["--listen", "[::1]:1"]).check().is_ok());
    assert!(serve(&["--listen", "0.0.0.0:1"]).check().is_err());
    assert!(serve(&["--listen", "10.0.0.1:1"]).check().is_err());
    assert!(serve(&["--listen", "0.0.0.0:1", "--insecure"]).check().is_ok());
    assert!(serve(&["--listen", "0.0.0.0:1", "--insecure=false"]).check().is_err());
}

#[test]
fn a_wildcard_address_needs_an_advertised_url() {
    let any = "0.0.0.0:7070".parse().unwrap();
    assert!(serve(&["--insecure"]).url(any).is_err());
    assert_eq!(serve(&["--advertise", "http://Pay:7070/"]).url(any).unwrap(), "http://pay:7070");
    assert_eq!(serve(&[]).url("127.0.0.1:9".parse().unwrap()).unwrap(), "http://127.0.0.1:9");
}

#[test]
fn the_defaults_are_those_of_the_protocol() {
    let serve = serve(&[]);
    assert_eq!(serve.max_body_bytes, 1024 * 1024);
    assert_eq!(serve.max_branches, 256);
    assert_eq!(serve.max_undecided, 100_000);
    assert_eq!((serve.max_timeout_ms, serve.default_timeout_ms), (24 * 3_600_000, 30_000));
    assert_eq!(serve.retain, Duration::from_hours(7 * 24));
    assert!(serve.check().is_ok());
}

#[test]
fn a_file_stands_over_the_defaults_and_under_the_flags() {
    let file = file(
        r#"
        listen = "127.0.0.1:1"
        max-branches = 3
        max-undecided = 4
        insecure = true
        log-json = true
        retain = "36h"
        allow-participant = ["http://a:1/x", "https://b"]
        "#,
    );
    let given = ["--config", path(file.path()), "--max-branches", "5", "--log-json=false"];
    let config = serve(&given);
    assert_eq!(config.listen, "127.0.0.1:1".parse().unwrap());
    assert_eq!((config.max_branches, config.max_undecided), (5, 4));
    assert_eq!((config.insecure, config.log_json), (true, false));
    assert_eq!(config.retain, Duration::from_hours(36));
    assert_eq!(
        config.allow_participants.iter().map(ParticipantUrl::as_str).collect::<Vec<_>>(),
        ["http://a:1/x", "https://b"]
    );

    let settings = loaded(&given).unwrap().settings;
    let source = |key: &str| settings.0.iter().find(|setting| setting.key == key).unwrap().source.clone();
    let from_file = Source::File(file.path().to_owned());
    assert_eq!(
        (source("listen"), source("allow-participant"), source("insecure")),
        (from_file.clone(), from_file.clone(), from_file)
    );
    assert_eq!(
        (source("max-branches"), source("log-json"), source("config")),
        (Source::Flag, Source::Flag, Source::Flag)
    );
    assert_eq!((source("advertise"), source("max-connections")), (Source::Default, Source::Default));
}

#[test]
fn a_flag_replaces_the_list_of_a_file() {
    let file = file("allow-participant = [\"http://a\", \"http://b\"]");
    let config = serve(&["--config", path(file.path()), "--allow-participant", "http://c"]);
    assert_eq!(config.allow_participants.iter().map(ParticipantUrl::as_str).collect::<Vec<_>>(), ["http://c"]);
}

#[test]
fn what_is_printed_is_a_file_that_says_the_same() {
    let args = [
        "--max-branches=7",
        "--retain=1h30m",
        "--allow-participant=http://a",
        "--advertise=http://pay:7070",
        "--insecure",
    ];
    let printed = loaded(&args).unwrap().settings.to_string();
    let file = file(&printed);
    let (given, read) = (serve(&args), serve(&["--config", path(file.path())]));
    assert_eq!(Serve { config: None, ..read.clone() }.clone().max_branches, 7);
    assert_eq!(format!("{given:?}"), format!("{:?}", Serve { config: None, ..read }), "{printed}");
    assert_eq!(printed.lines().count(), flags().len() + 1, "each key once, and `config`: {printed}");
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known() {
    let message = refusal("max-branchs = 3");
    assert!(message.contains("`max-branchs`") && message.contains("`max-branches`"), "{message}");
    let message = refusal("zzz = 3");
    assert!(
        message.contains("`zzz`") && message.contains("allow-participant") && message.contains("retain"),
        "{message}"
    );
    assert!(refusal("[listen]\nport = 1").contains("`listen`"));
    assert!(refusal("[server]\nport = 1").contains("`server`"));
    assert!(refusal("config = \"other.toml\"").contains("`config`"), "a file can't name another");
}

#[test]
fn an_invalid_value_is_refused_with_its_key_and_what_is_allowed() {
    for (text, key, value, allowed) in [
        ("max-branches = 0", "`max-branches`", "0", "1..=10000"),
        ("max-branches = -1", "`max-branches`", "-1", "invalid"),
        ("max-branches = [1, 2]", "`max-branches`", "[1, 2]", "expected one"),
        ("max-timeout-ms = 1.5", "`max-timeout-ms`", "1.5", "expected one"),
        ("retain = \"7 parsecs\"", "`retain`", "7 parsecs", "such as 7d"),
        ("retain = \"0s\"", "`retain`", "0s", "from 1s"),
        ("listen = \"localhost\"", "`listen`", "localhost", "such as 127.0.0.1:7070"),
        ("insecure = \"perhaps\"", "`insecure`", "perhaps", "boolean"),
        ("log = \"a=b=c\"", "`log`", "a=b=c", "expected error, warn"),
        ("allow-participant = [\"http://a\", \"ftp://b\"]", "`allow-participant`", "ftp://b", "http"),
        ("allow-participant = [[\"http://a\"]]", "`allow-participant`", "http://a", "expected a list"),
    ] {
        let message = refusal(text);
        for part in [key, value, allowed] {
            assert!(message.contains(part), "{text}: {part} is not in: {message}");
        }
    }
    let message = loaded(&["--max-branches", "0"]).unwrap_err();
    assert!(
        message.contains("--max-branches") && message.contains("'0'") && message.contains("1..=10000"),
        "{message}"
    );
    let message = serve(&["--max-timeout-ms", "10"]).check().unwrap_err();
    assert!(message.contains("--default-timeout-ms 30000") && message.contains("--max-timeout-ms 10"), "{message}");
}

#[test]
fn what_is_not_toml_or_not_there_is_refused_by_name() {
    assert!(refusal("max-branches = ").contains("TOML"));
    let message = loaded(&["--config", "/no/such/unanimous.toml"]).unwrap_err();
    assert!(message.contains("/no/such/unanimous.toml"), "{message}");
}

#[test]
fn an_invalid_value_of_a_file_is_refused_although_a_flag_stands_over_it() {
    let file = file("max-branches = 0");
    assert!(loaded(&["--config", path(file.path()), "--max-branches", "1"]).is_err());
}

#[test]
fn every_flag_has_its_environment_variable() {
    for flag in flags() {
        let key = flag.get_long().unwrap();
        let expected = format!("UNANIMOUS_{}", key.to_uppercase().replace('-', "_"));
        assert_eq!(flag.get_env().unwrap().to_str().unwrap(), expected);
    }
}

/// What the example file must say: every key, with its help and its default.
fn example() -> String {
    let mut text = "# The configuration of a coordinator: unanimous serve --config unanimous.toml\n\
         #\n\
         # Every key is here, with its default. A flag stands over the environment, and that over this file: max-branches is\n\
         # also --max-branches and UNANIMOUS_MAX_BRANCHES. `unanimous config` prints what is in force, and from where.\n"
        .to_owned();
    for flag in flags() {
        text.push('\n');
        let mut line = "#".to_owned();
        for word in flag.get_help().unwrap().to_string().split_whitespace() {
            if line.len() + word.len() > 117 {
                text.push_str(&line);
                text.push('\n');
                "#".clone_into(&mut line);
            }
            line.push(' ');
            line.push_str(word);
        }
        let key = flag.get_long().unwrap();
        let default: Vec<_> = flag.get_default_values().iter().map(|text| text.to_str().unwrap()).collect();
        let value = match (key, &default[..]) {
            ("advertise", []) => "\"http://coordinator.example:7070\"".to_owned(),
            ("allow-participant", []) => "[\"https://bank.example/accounts\"]".to_owned(),
            (_, [number]) if number.parse::<u64>().is_ok() || number.parse::<bool>().is_ok() => (*number).to_owned(),
            (_, [text]) => format!("{text:?}"),
            (key, _) => panic!("{key} has neither a default nor an example"),
        };
        let example = if default.is_empty() { "\n# Not set unless you say so; such as:" } else { "" };
        text += &[&line, ".", example, "\n# ", key, " = ", &value, "\n"].concat();
    }
    text
}

#[test]
fn the_example_file_explains_every_key_with_its_default() {
    let expected = example();
    assert!(EXAMPLE == expected, "coordinator/unanimous.toml is not what the code says; it should be:\n{expected}");
}

#[test]
fn the_example_file_changes_nothing_and_each_of_its_lines_can_be_used() {
    let asis = file(EXAMPLE);
    let config = |args: &[&str]| format!("{:?}", Serve { config: None, ..serve(args) });
    assert_eq!(config(&["--config", path(asis.path())]), config(&[]));

    let is_value = |line: &&str| line.starts_with("# ") && line.contains(" = ");
    let lines: Vec<&str> = EXAMPLE.lines().filter(is_value).map(|line| &line[2..]).collect();
    let used = file(&lines.join("\n"));
    let read = serve(&["--config", path(used.path())]);
    assert_eq!((read.advertise.is_some(), read.allow_participants.len()), (true, 1), "these two are examples");
    let rest = Serve { config: None, advertise: None, allow_participants: vec![], ..read };
    assert_eq!(format!("{rest:?}"), config(&[]), "the rest are defaults");

    let keys: BTreeSet<&str> = lines.iter().filter_map(|line| line.split(" = ").next()).collect();
    let known = flags();
    assert_eq!(keys, known.iter().filter_map(Arg::get_long).collect::<BTreeSet<_>>());
}
