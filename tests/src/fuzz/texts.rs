//! Ids, names, URLs, times and JSON texts: what is read is written so that it is read as the same.

use std::{fmt::Display, str::FromStr};

use serde_json::Value;
use unanimous_sdk::protocol::{
    BranchName, CoordinatorId, Epoch, MAX_JSON_DEPTH, ParticipantUrl, TransactionId, UnixMillis, canonical_json,
    json_depth_exceeds,
};

/// See the module.
pub(super) fn check(bytes: &[u8]) {
    let deep = json_depth_exceeds(bytes, MAX_JSON_DEPTH);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    same::<TransactionId>(text);
    same::<Epoch>(text);
    same::<CoordinatorId>(text);
    same::<BranchName>(text);
    same::<ParticipantUrl>(text);
    if let Some(time) = UnixMillis::parse(text) {
        assert_eq!(UnixMillis::parse(&time.to_string()), Some(time), "{text}");
        let up = UnixMillis::parse_up(text).expect("what is a time is one however it is rounded");
        assert!(up >= time && up.0 - time.0 <= 1, "{text}");
    }
    if deep {
        return;
    }
    let Ok(tree) = serde_json::from_str::<Value>(text) else { return };
    // None: a member stands twice, or half a character.
    if let Some(canonical) = canonical_json(text) {
        assert_eq!(canonical_json(&canonical).as_ref(), Some(&canonical), "{text}");
        let again: Value = serde_json::from_str(&canonical).expect("canonical JSON is JSON");
        assert_eq!(again, tree, "{text}");
    }
}

fn same<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let written = value.to_string();
        assert!(written.parse().is_ok_and(|again: T| again == value), "{text:?} was written as {written:?}");
    }
}
