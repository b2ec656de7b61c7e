//! What a message is answered.
//!
//! Always true: every answer says which store gave it, and to which call; every error is a problem that says what to do; an
//! answer keeps within its limit of bytes, whatever the application or the caller wrote.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, Serializer};

use crate::protocol::{AbortAnswer, AnswerOrigin, CommitAnswer, PrepareAnswer, Problem, ProblemType, WithOrigin};

/// The most characters of a text from the application or the caller: of whatever kind they are, an answer keeps its limit.
pub(super) const LONGEST: usize = 4096;

/// An answer of the protocol's.
pub(super) enum Said {
    Prepare(WithOrigin<PrepareAnswer>),
    Commit(WithOrigin<CommitAnswer>),
    Abort(WithOrigin<AbortAnswer>),
}

/// What goes wrong: as the protocol names it, or inside.
pub(super) enum Fault {
    Problem(Problem),
    Internal { what: &'static str, origin: AnswerOrigin },
}

impl Fault {
    /// Says who gives it to which call, as far as that is known.
    pub(super) fn of(self, origin: &AnswerOrigin) -> Self {
        match self {
            Self::Problem(problem) => Self::Problem(origin.on(problem)),
            Self::Internal { what, origin: known } => {
                let origin = AnswerOrigin {
                    transaction: origin.transaction.or(known.transaction),
                    branch: origin.branch.clone().or(known.branch),
                    participant_id: origin.participant_id.or(known.participant_id),
                };
                Self::Internal { what, origin }
            }
        }
    }
}

/// What a message is answered, alone or in a batch.
pub(super) type Answer = Result<Said, Fault>;

impl From<Problem> for Fault {
    fn from(mut problem: Problem) -> Self {
        shorten(&mut problem.detail, LONGEST);
        Self::Problem(problem)
    }
}

pub(super) fn status(answer: &Answer) -> u16 {
    match answer {
        Ok(Said::Prepare(said)) => said.answer.status(),
        Ok(Said::Commit(said)) => said.answer.status(),
        Ok(Said::Abort(said)) => said.answer.status(),
        Err(Fault::Problem(problem)) => problem.kind.status(),
        Err(Fault::Internal { .. }) => 500,
    }
}

impl Said {
    fn shorten(&mut self, most: usize) {
        let text = match self {
            Self::Prepare(said) => match &mut said.answer {
                PrepareAnswer::Refused { reason } => reason,
                PrepareAnswer::Vote(_) => return,
            },
            Self::Commit(said) => match &mut said.answer {
                CommitAnswer::HeuristicAbort { detail } => detail,
                CommitAnswer::Committed | CommitAnswer::UnknownBranch => return,
            },
            Self::Abort(said) => match &mut said.answer {
                AbortAnswer::HeuristicCommit { detail } => detail,
                AbortAnswer::Aborted => return,
            },
        };
        if let Some(text) = text {
            shorten(text, most);
        }
    }
}

/// Cuts the texts in an answer to so many characters.
pub(super) fn shorten_answer(answer: &mut Answer, most: usize) {
    match answer {
        Ok(said) => said.shorten(most),
        Err(Fault::Problem(problem)) => shorten(&mut problem.detail, most),
        Err(Fault::Internal { .. }) => {}
    }
}

fn shorten(text: &mut String, most: usize) {
    if let Some((end, _)) = text.char_indices().nth(most) {
        text.truncate(end);
    }
}

impl Serialize for Said {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Prepare(answer) => answer.serialize(to),
            Self::Commit(answer) => answer.serialize(to),
            Self::Abort(answer) => answer.serialize(to),
        }
    }
}

impl Serialize for Fault {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Problem(problem) => problem.serialize(to),
            Self::Internal { what, origin } => {
                let title = "The participant failed";
                let mut body =
                    serde_json::json!({ "type": "about:blank", "title": title, "status": 500, "detail": what });
                // The same members as a problem of the protocol has.
                let members = origin.on(Problem::new(ProblemType::NotReady, "")).members;
                if let Some(body) = body.as_object_mut() {
                    body.extend(members);
                }
                body.serialize(to)
            }
        }
    }
}

impl IntoResponse for Said {
    fn into_response(self) -> Response {
        let media = match &self {
            Self::Commit(said) if said.answer == CommitAnswer::UnknownBranch => Problem::MEDIA_TYPE,
            Self::Prepare(_) | Self::Commit(_) | Self::Abort(_) => JSON,
        };
        let body = serde_json::to_vec(&self).unwrap_or_default();
        json_response(status(&Ok(self)), media, body)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        json_response(status(&Err(self)), Problem::MEDIA_TYPE, body)
    }
}

/// A problem as an HTTP response.
pub(crate) fn problem_response(problem: &Problem) -> Response {
    json_response(problem.kind.status(), Problem::MEDIA_TYPE, serde_json::to_vec(problem).unwrap_or_default())
}

pub(super) const JSON: &str = "application/json";

pub(super) fn json_response(status: u16, media: &'static str, body: Vec<u8>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
