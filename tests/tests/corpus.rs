//! All that fuzzing has found worth keeping, and whatever once broke a rule, is fed to its target again; and so are answers
//! of participants, damaged at random.

use std::{fs, path::Path};

use proptest::prelude::*;
use unanimous_sdk::protocol::{AbortAnswer, CommitAnswer, PrepareAnswer, Vote};
use unanimous_tests::fuzz::{self, TARGETS};

#[test]
fn what_was_found_before_breaks_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, check) in TARGETS {
        let folder = corpus.join(target);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut count = 0;
        for file in files.map(|file| file.unwrap().path()) {
            eprintln!("{}", file.display());
            check(&fs::read(&file).unwrap());
            count += 1;
        }
        assert!(count >= 10, "the corpus of {target} has {count} files");
        println!("{target}: {count}");
    }
}

fn content_type() -> impl Strategy<Value = Option<&'static str>> {
    prop_oneof![
        8 => Just(Some("application/json")),
        2 => Just(Some("Application/Problem+JSON; charset=utf-8")),
        1 => Just(Some("text/html")),
        1 => Just(Some("application/jsonp")),
        1 => Just(Some(";")),
        1 => Just(None),
    ]
}

fn status() -> impl Strategy<Value = u16> {
    prop_oneof![6 => Just(200), 4 => Just(409), 4 => Just(404), 1 => 0..=999u16]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        r#"{"vote":"prepared"}"#,
        r#"{"vote":"read_only","more":[1,{"vote":"abort"}]}"#,
        r#"{"vote":"abort","reason":"too \u0061 late"}"#,
        r#"{"vote":"abort","vote":"prepared"}"#,
        r#"["prepared"]"#,
        r#" {"state":"committed"} "#,
        r#"{"state":"aborted"}"#,
        r#"{"state":"heuristic_abort","detail":"by hand"}"#,
        r#"{"state":"heuristic_commit","detail":null}"#,
        r#"{"type":"/problems/unknown-branch","title":"","status":404,"detail":""}"#,
        r#"{"type":"/problems/not-found"}"#,
    ]);
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 0..3);
    let damaged = (known, damage).prop_map(|(text, damage)| {
        let mut bytes = text.as_bytes().to_vec();
        for (at, byte, how) in damage {
            let at = at.index(bytes.len().max(1));
            match how {
                _ if bytes.is_empty() => bytes.push(byte),
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => bytes.truncate(at),
            }
        }
        bytes
    });
    prop_oneof![9 => damaged, 1 => prop::collection::vec(any::<u8>(), 0..40)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_counts_only_as_what_it_says(status in status(), content_type in content_type(), body in body()) {
        fuzz::counts_only_as_it_says(status, content_type, &body);
        let batch = [br#"{"answers":[{"status":200,"body":"#, &body[..], b"}]}"].concat();
        fuzz::counts_only_as_it_says(200, content_type, &batch);
    }
}

#[test]
fn what_a_participant_says_is_read_as_that() {
    let json = Some("application/json");
    for answer in [PrepareAnswer::Vote(Vote::Prepared), PrepareAnswer::Refused { reason: Some("no".into()) }] {
        let body = serde_json::to_vec(&answer).expect("it can be written");
        assert_eq!(PrepareAnswer::parse(answer.status(), json, &body), Some(answer));
    }
    for answer in [CommitAnswer::Committed, CommitAnswer::UnknownBranch] {
        let body = serde_json::to_vec(&answer).expect("it can be written");
        assert_eq!(CommitAnswer::parse(answer.status(), json, &body), Some(answer));
    }
    let body = serde_json::to_vec(&AbortAnswer::Aborted).expect("it can be written");
    assert_eq!(AbortAnswer::parse(200, json, &body), Some(AbortAnswer::Aborted));
}
