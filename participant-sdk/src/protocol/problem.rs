//! Errors as RFC 9457 problems.

use serde::Serialize;
use serde_json::{Map, Value};

macro_rules! problem_types {
    ($($name:ident $text:literal $status:literal $title:literal,)*) => {
        /// Every kind of problem of the protocol, with its status.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum ProblemType { $($name,)* }

        impl ProblemType {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The last part of its reference, such as `unknown-branch`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Its reference as it stands in `type`, such as `/problems/unknown-branch`.
            pub const fn reference(self) -> &'static str {
                match self { $(Self::$name => concat!("/problems/", $text),)* }
            }

            /// Its HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// What has happened, in a few words.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

problem_types! {
    Malformed "malformed" 400 "The request is malformed",
    Implausible "implausible" 400 "A value cannot be true",
    Invalid "invalid" 422 "A value is out of its range",
    ForbiddenParticipant "forbidden-participant" 403 "The participant is not on the allow-list",
    ForbiddenCoordinator "forbidden-coordinator" 403 "The coordinator is not on the allow-list",
    CrossOrigin "cross-origin" 403 "A web page may not make this call",
    UnknownTransaction "unknown-transaction" 404 "The transaction is not known",
    UnknownBranch "unknown-branch" 404 "The branch is not known",
    NotFound "not-found" 404 "There is nothing here",
    MethodNotAllowed "method-not-allowed" 405 "This method is not served here",
    Aborted "aborted" 409 "The decision is abort",
    Committed "committed" 409 "The decision is commit",
    NotActive "not-active" 409 "The transaction is not active any more",
    BranchConflict "branch-conflict" 409 "The branch is there already, and differs",
    NotMyLog "not-my-log" 409 "That is not in this coordinator's log",
    NotDecided "not-decided" 409 "There is no decision yet",
    Forgotten "forgotten" 410 "The transaction may have been decided and forgotten",
    StaleEpoch "stale-epoch" 412 "The epoch is not the present one",
    TooLarge "too-large" 413 "The body is too large",
    UnsupportedMediaType "unsupported-media-type" 415 "The body is not JSON",
    Misdirected "misdirected" 421 "The call is meant for somebody else",
    KeyReused "key-reused" 422 "The Idempotency-Key was used with another body",
    Overloaded "overloaded" 503 "Too much is under way",
    NotReady "not-ready" 503 "Not ready to serve",
    Superseded "superseded" 503 "Another coordinator has taken over",
    DiskFull "disk-full" 503 "The disk is full",
}

/// One problem: what happened, to what, and what to do now. Serializes as `application/problem+json`.
///
/// ```
/// use unanimous_sdk::protocol::{Problem, ProblemType};
/// let problem = Problem::new(ProblemType::Invalid, "`timeout_ms` is 0; it is 1 to 86,400,000");
/// assert_eq!(problem.kind.status(), 422);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Problem {
    pub kind: ProblemType,
    pub detail: String,
    /// Members beside those of RFC 9457, such as `transaction` or `epoch`.
    pub members: Map<String, Value>,
}

impl Problem {
    /// A problem with its text and no further members.
    pub fn new(kind: ProblemType, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), members: Map::new() }
    }

    /// The same with one member more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        self.members.insert(name.to_owned(), serde_json::to_value(value).unwrap_or(Value::Null));
        self
    }

    /// The media type of a problem.
    pub const MEDIA_TYPE: &'static str = "application/problem+json";
}

impl Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("type", self.kind.reference())?;
        map.serialize_entry("title", self.kind.title())?;
        map.serialize_entry("status", &self.kind.status())?;
        map.serialize_entry("detail", &self.detail)?;
        for (name, value) in &self.members {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}
