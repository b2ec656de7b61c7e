//! A participant's answer as the coordinator reads it: it counts only if it says, by the rules of the protocol, what it is
//! taken for. What it says is worked out here anew, from the JSON as a tree.
//!
//! The first line has the status and the content type, the rest is the body.

use std::str;

use serde_json::Value;
use unanimous_sdk::protocol::{
    AbortAnswer, BatchAnswers, BranchesAnswer, CommitAnswer, CoordinatorRef, InquiryAnswer, PrepareAnswer, Vote,
};

/// See the module.
pub(super) fn check(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(head) = str::from_utf8(&bytes[..end]) else { return };
    let (status, content_type) = head.split_once(' ').map_or((head, None), |(status, of)| (status, Some(of)));
    let Ok(status) = status.parse() else { return };
    counts_only_as_it_says(status, content_type, &bytes[end + 1..]);
}

/// One answer.
pub fn counts_only_as_it_says(status: u16, content_type: Option<&str>, body: &[u8]) {
    let tree = tree(content_type, body);
    let says = |member: &str| tree.as_ref().and_then(|tree| tree.get(member)?.as_str());
    if let Some(answer) = PrepareAnswer::parse(status, content_type, body) {
        let expected = match answer {
            PrepareAnswer::Vote(Vote::Prepared) => (200, "prepared"),
            PrepareAnswer::Vote(Vote::ReadOnly) => (200, "read_only"),
            PrepareAnswer::Refused { .. } => (409, "abort"),
        };
        assert_eq!((status, says("vote")), (expected.0, Some(expected.1)));
    }
    if let Some(answer) = CommitAnswer::parse(status, content_type, body) {
        let (expected, member) = match answer {
            CommitAnswer::Committed => ((200, "committed"), "state"),
            CommitAnswer::HeuristicAbort { .. } => ((409, "heuristic_abort"), "state"),
            CommitAnswer::UnknownBranch => ((404, "/problems/unknown-branch"), "type"),
        };
        assert_eq!((status, says(member)), (expected.0, Some(expected.1)));
    }
    if let Some(answer) = AbortAnswer::parse(status, content_type, body) {
        let expected = match answer {
            AbortAnswer::Aborted => (200, "aborted"),
            AbortAnswer::HeuristicCommit { .. } => (409, "heuristic_commit"),
        };
        assert_eq!((status, says("state")), (expected.0, Some(expected.1)));
    }
    if let Some(known) = CoordinatorRef::of_stale_epoch(status, content_type, body) {
        assert_eq!((status, says("type")), (412, Some("/problems/stale-epoch")));
        assert_eq!(says("epoch").map(str::to_ascii_lowercase), Some(known.epoch.to_string()));
    }
    let answers = tree.as_ref().and_then(|tree| tree.get("answers")?.as_array());
    for sent in 0..4 {
        let Some(read) = BatchAnswers::parse(status, content_type, body, sent) else { continue };
        let answers = answers.expect("what was read has answers");
        assert_eq!((status, read.len(), answers.len()), (200, sent, sent));
        for (read, answer) in read.iter().zip(answers) {
            let Some(read) = read else { continue };
            assert_eq!(answer["status"], read.status);
            // In a batch it counts exactly when it would count alone.
            let alone = read.body.get().as_bytes();
            let json = Some("application/json");
            assert_eq!(read.prepare(), PrepareAnswer::parse(read.status, json, alone));
            assert_eq!(read.commit(), CommitAnswer::parse(read.status, json, alone));
            assert_eq!(read.abort(), AbortAnswer::parse(read.status, json, alone));
            counts_only_as_it_says(read.status, json, alone);
        }
    }
    // A coordinator's answers to a participant: read or refused.
    let _ = serde_json::from_slice::<InquiryAnswer>(body);
    let _ = serde_json::from_slice::<BranchesAnswer>(body);
}

/// The object that a JSON body is.
fn tree(content_type: Option<&str>, body: &[u8]) -> Option<Value> {
    let media = content_type?.split(';').next()?.trim().to_lowercase();
    let json = media == "application/json" || (media.starts_with("application/") && media.ends_with("+json"));
    serde_json::from_slice(body).ok().filter(|tree: &Value| json && tree.is_object())
}
