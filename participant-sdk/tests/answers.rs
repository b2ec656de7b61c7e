//! A participant's answers as the coordinator reads them, whatever stands there: one counts only if it says, by the rules of
//! the protocol, what it is taken for. What it says is worked out here anew, from the JSON as a tree.

use proptest::prelude::*;
use serde_json::Value;
use unanimous_sdk::protocol::{AbortAnswer, CommitAnswer, PrepareAnswer, Vote};

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

/// The member of the object that a JSON body is.
fn says(content_type: Option<&str>, body: &[u8], member: &str) -> Option<String> {
    let content_type = content_type?.to_lowercase();
    let json = ["application/json", "application/problem+json"].contains(&content_type.split(';').next()?);
    let tree: Value = serde_json::from_slice(body).ok()?;
    tree.as_object()?.get(member)?.as_str().filter(|_| json).map(ToOwned::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_counts_only_as_what_it_says(status in status(), content_type in content_type(), body in body()) {
        let says = |member| says(content_type, &body, member);
        let (vote, state, problem) = (says("vote"), says("state"), says("type"));
        if let Some(answer) = PrepareAnswer::parse(status, content_type, &body) {
            let expected = match answer {
                PrepareAnswer::Vote(Vote::Prepared) => (200, "prepared"),
                PrepareAnswer::Vote(Vote::ReadOnly) => (200, "read_only"),
                PrepareAnswer::Refused { .. } => (409, "abort"),
            };
            prop_assert_eq!((status, vote.as_deref()), (expected.0, Some(expected.1)));
        }
        match CommitAnswer::parse(status, content_type, &body) {
            Some(CommitAnswer::Committed) => prop_assert_eq!((status, state.as_deref()), (200, Some("committed"))),
            Some(CommitAnswer::HeuristicAbort { .. }) => {
                prop_assert_eq!((status, state.as_deref()), (409, Some("heuristic_abort")));
            }
            Some(CommitAnswer::UnknownBranch) => {
                prop_assert_eq!((status, problem.as_deref()), (404, Some("/problems/unknown-branch")));
            }
            None => {}
        }
        match AbortAnswer::parse(status, content_type, &body) {
            Some(AbortAnswer::Aborted) => prop_assert_eq!((status, state.as_deref()), (200, Some("aborted"))),
            Some(AbortAnswer::HeuristicCommit { .. }) => {
                prop_assert_eq!((status, state.as_deref()), (409, Some("heuristic_commit")));
            }
            None => {}
        }
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
