//! What each problem type means and what to do now: `/problems/{name}`, a page for people and JSON for programs.
//!
//! Always true: every type of the protocol has its text; a page holds nothing that came from outside, and loads nothing.

use axum::{
    Json,
    extract::{Path, rejection::PathRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use unanimous_sdk::protocol::{Problem, ProblemType};

use super::{openapi as docs, problem::Failure};

/// Lets a browser apply the page's own style, and nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

const STYLE: &str = "body{font:1.05rem/1.6 system-ui,sans-serif;max-width:42rem;margin:3rem auto;padding:0 1rem;color:#222;background:#fff}\
    h1{line-height:1.2}code{background:#eee;padding:.1em .3em;border-radius:.2em}.status{color:#666}\
    @media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}code{background:#333}.status{color:#999}}";

/// What a type means, and what to do now. Words in backticks are code.
#[derive(Debug)]
struct Advice {
    meaning: &'static str,
    what_to_do: &'static str,
}

/// What a problem type means, and what to do now: a page for people, JSON for programs.
#[utoipa::path(
    get, path = "/problems/{name}", tag = "coordinator",
    params(("name" = String, Path, description = "the last part of a problem's `type`")),
    responses(
        (status = 200, description = "what it means", content((docs::Advice = "application/json"), (String = "text/html"))),
        (status = 400, description = "`malformed`: `detail` names the field", body = docs::Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not-found`: there is no such type", body = docs::Problem, content_type = "application/problem+json"),
        (status = 503, description = "`not-ready`; with Retry-After", body = docs::Problem, content_type = "application/problem+json", headers(("Retry-After" = u32, description = "seconds"))),
    )
)]
pub(super) async fn page(name: Result<Path<String>, PathRejection>, headers: HeaderMap) -> Result<Response, Failure> {
    let Path(name) = name?;
    let Some(kind) = ProblemType::ALL.iter().copied().find(|kind| kind.name() == name) else {
        let known: Vec<_> = ProblemType::ALL.iter().map(|kind| kind.name()).collect();
        let detail = format!("there is no problem type of this name; there are: {}", known.join(", "));
        return Err(Problem::new(ProblemType::NotFound, detail).into());
    };
    let vary = [(header::VARY, "accept")];
    if wants_page(&headers) {
        let as_page = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, POLICY)];
        return Ok((vary, as_page, html(kind)).into_response());
    }
    let Advice { meaning, what_to_do } = advice(kind);
    let body = json!({
        "type": kind.reference(), "title": kind.title(), "status": kind.status(), "meaning": meaning, "what_to_do": what_to_do,
    });
    Ok((vary, Json(body)).into_response())
}

/// Whether a page is wanted at least as much as JSON. Who doesn't say is a program.
fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut page, mut json) = (0_f32, 0_f32);
    for range in accepted.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0));
        match &*media {
            "text/html" | "application/xhtml+xml" => page = quality.max(page),
            "application/json" | Problem::MEDIA_TYPE => json = quality.max(json),
            _ => {}
        }
    }
    page > 0.0 && page >= json
}

fn html(kind: ProblemType) -> String {
    let Advice { meaning, what_to_do } = advice(kind);
    let (name, title) = (kind.name(), kind.title());
    let status = StatusCode::from_u16(kind.status()).map(|status| status.to_string()).unwrap_or_default();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title} ({name})</title>\n<style>{STYLE}</style>\n\
         </head>\n<body>\n<h1>{title}</h1>\n<p class=\"status\"><code>{name}</code>, HTTP status {status}</p>\n\
         <h2>What it means</h2>\n<p>{}</p>\n<h2>What to do</h2>\n<p>{}</p>\n\
         <p class=\"status\">The problem's own <code>detail</code> says what it was about this time.</p>\n</body>\n</html>\n",
        code(meaning),
        code(what_to_do)
    )
}

/// Makes code of the words in backticks.
fn code(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts.map(|(at, part)| if at % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() }).collect()
}

#[allow(clippy::too_many_lines)] // One entry a type.
fn advice(kind: ProblemType) -> Advice {
    let (meaning, what_to_do) = match kind {
        ProblemType::Malformed => (
            "The request can't be read: it isn't a JSON object, lacks a member, has one that is unknown or of the wrong \
             type, or an id, a name, a key or a URL in it is not well-formed. Nothing has changed.",
            "Correct the field that `detail` names. The same request will be refused again: don't repeat it as it is.",
        ),
        ProblemType::Implausible => (
            "A participant's answer: the message names an epoch more than an hour ahead of the participant's clock, or a \
             horizon that lies above the message's own transaction. No sound coordinator sends either. Nothing of it was kept.",
            "Compare the clocks of the two machines, and set the wrong one. If both are right, the message is forged or \
             damaged: find out who sent it. `field` names the member.",
        ),
        ProblemType::Invalid => (
            "The request can be read, but a number or a size in it is out of its range: too long a timeout, too many \
             branches, too much metadata. Nothing has changed.",
            "Bring the value that `detail` names into the range it gives. The limits are the coordinator's: an operator can \
             raise some of them, see `unanimous serve --help`.",
        ),
        ProblemType::ForbiddenParticipant => (
            "The participant's URL is not on the coordinator's allow-list. Whoever may enlist could otherwise make the \
             coordinator call anything, so it calls nobody who isn't listed. Nothing has changed, and no connection was tried.",
            "If the participant is one of yours, start the coordinator with `--allow-participant` and its URL: scheme, host \
             and port must be equal, the path is compared by whole segments. Otherwise correct the URL.",
        ),
        ProblemType::ForbiddenCoordinator => (
            "A participant's answer: it does not obey the coordinator at this URL, or it remembers as many coordinators as it \
             may that are not configured by name. Nothing was kept of the message.",
            "If the coordinator is yours, name its URL in the setting of the participant that `detail` names. Otherwise find \
             out who calls your participant.",
        ),
        ProblemType::CrossOrigin => (
            "A web page in a browser made this call. Without credentials nobody may begin or commit through a browser. Nothing \
             has changed.",
            "Make the call from a program. If the page is yours, let its own server call the coordinator.",
        ),
        ProblemType::UnknownTransaction => (
            "No transaction of this id is in the coordinator's log. If it was begun after the time in `retained_since`, it \
             was never committed; if before, it may have finished and have been dropped since.",
            "Check the id, and that this is the coordinator that gave it. A participant in doubt never takes this for an \
             answer: it asks for the decision and names the coordinator's id and epoch.",
        ),
        ProblemType::UnknownBranch => (
            "The transaction has no branch of this name. From a participant, as the answer to a commit, it says that there is \
             no trace of the branch: the coordinator then shows the branch as `heuristic_unknown`.",
            "Enlist the branch before voting in its name, and look for a typing error in the name. For a branch that is \
             `heuristic_unknown`, an operator must find out at the participant what has become of its data.",
        ),
        ProblemType::NotFound => (
            "Nothing is served at this path.",
            "Check the path and the base URL. All calls begin with `/v1/`; beside them there are `/healthz`, `/readyz`, \
             `/metrics` and `/problems/`.",
        ),
        ProblemType::MethodNotAllowed => (
            "This path is served, but not with this method. Nothing has changed.",
            "Use the method that the protocol gives for the path: POST changes something, GET looks.",
        ),
        ProblemType::Aborted => (
            "The transaction's decision is abort, and that never changes. `transaction.reason` says why: a participant \
             refused, a vote was missing at the deadline, the coordinator was restarted before it had decided, or it was \
             asked for. None of its work is kept anywhere.",
            "Treat the whole as not done. To try again, begin a new transaction; if the reason is `refused`, look first \
             whether the participant's own reason still stands.",
        ),
        ProblemType::Committed => (
            "The transaction's decision is commit, and that never changes: it can't be aborted any more.",
            "Treat the whole as done. To undo it, run another transaction that does the opposite.",
        ),
        ProblemType::NotActive => (
            "The transaction takes no new branch or vote any more: its commit has been asked for, or it is decided. Nothing \
             has changed.",
            "Enlist all branches before asking for the commit. Work that was done for a branch that could not be enlisted \
             must be undone. A voter that has prepared asks for the decision and obeys it.",
        ),
        ProblemType::BranchConflict => (
            "The transaction has a branch of this name already, with another participant, payload or vote. The first stands; \
             nothing has changed.",
            "Choose another name for what is another branch, or leave the name out: the coordinator then gives one. A \
             repeat of the same enlistment must have the same participant and payload.",
        ),
        ProblemType::NotMyLog => (
            "The call names a coordinator id, or an epoch, under which this log was never opened. The data folder was \
             replaced, an older copy of it was put back, or the address belongs to another coordinator now. What this log \
             doesn't know it doesn't presume: no decision is given.",
            "Participants go on asking. An operator must find the data folder that the id belongs to and start a coordinator \
             on it at this address, or resolve the branches by hand. `GET /v1/coordinator` says who answers here.",
        ),
        ProblemType::NotDecided => (
            "A participant acknowledges a decision, but the transaction has none yet. Nothing has changed.",
            "Look for the participant that ended a branch before it was told to: a branch in doubt waits for the decision.",
        ),
        ProblemType::Forgotten => (
            "The coordinator does not know this transaction, and it has dropped that id or a higher one from its log: the \
             transaction may have committed and been dropped. So it does not answer `abort`.",
            "The participant keeps its branch. Its store is probably older than what the coordinator retains, for example put \
             back from a backup. Find out at the other participants how the transaction ended, and end the branch by hand.",
        ),
        ProblemType::StaleEpoch => (
            "The call was made under an epoch that is not the present one: the coordinator was restarted since. The member \
             `epoch` is the present or the higher one.",
            "A voter keeps the new epoch with its vote, durably, and repeats the vote. A coordinator that is told so by one \
             participant serves all others; its next start has a greater epoch, and the participant takes its messages again.",
        ),
        ProblemType::TooLarge => (
            "The body has more bytes than the coordinator takes, or a payload does not fit into the call that brings it to its \
             participant. Nothing has changed.",
            "Send less: a payload should say what to do, not carry the data. The limit of a body is `--max-body-bytes`; a call to \
             a participant has at most 1 MiB, whatever that is set to.",
        ),
        ProblemType::UnsupportedMediaType => (
            "The body is said to be something else than JSON, or is encoded. Nothing has changed.",
            "Send JSON as it is, in UTF-8, with the header `Content-Type: application/json` and no `Content-Encoding`.",
        ),
        ProblemType::Misdirected => (
            "The call reached somebody for whom it was not meant. From the coordinator: the host in the request is none of its \
             own. From a participant: another store's vote was counted for this branch. Nothing has changed.",
            "Check the address that the caller uses, and what its name resolves to. A participant's branch waits until its own \
             store answers at the participant's URL again.",
        ),
        ProblemType::KeyReused => (
            "The `Idempotency-Key` was used before, on the same call, with another body. Nothing has changed.",
            "Use a fresh key for each new request, and the same key only to repeat a request as it was.",
        ),
        ProblemType::Overloaded => (
            "As many transactions are undecided as the coordinator allows. Nothing has changed, and what is under way goes on.",
            "Try again after the seconds in `Retry-After`, later each time. If it lasts, look for a participant that doesn't \
             answer, or transactions that are begun and left to their deadline; the limit is `--max-undecided`.",
        ),
        ProblemType::NotReady => (
            "The coordinator doesn't serve this now: its log is being loaded, it is about to end, or the log can't be read. \
             Nothing has changed.",
            "Try again after the seconds in `Retry-After`; `/readyz` is 200 when it serves. If that doesn't come, the \
             coordinator's own log says why.",
        ),
        ProblemType::Superseded => (
            "Another process has opened a log under this coordinator's id with a higher epoch: two participants have named the \
             same one, or the log is not this process's any more. It begins, decides and delivers nothing further. `detail` \
             names the participants.",
            "Use the coordinator that has taken over, and stop this process. If two of them were started on copies of one \
             data folder, keep the one whose log has the later decisions.",
        ),
        ProblemType::DiskFull => (
            "The disk that holds the log is nearly full: no new work is taken, so that what is under way can still be decided \
             and written. Nothing has changed.",
            "Free space on the disk of the data folder, or shorten `--retain`; the coordinator takes new work again by \
             itself. Never delete files in the data folder.",
        ),
    };
    Advice { meaning, what_to_do }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn wants(accept: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
        wants_page(&headers)
    }

    #[test]
    fn browsers_get_the_page_and_programs_json() {
        assert!(wants("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
        assert!(wants("application/json;q=0.5, text/html"));
        assert!(!wants("application/json, text/html;q=0.5"));
        assert!(!wants("*/*") && !wants("application/problem+json") && !wants("text/html;q=0") && !wants("garbage"));
        assert!(!wants_page(&HeaderMap::new()));
    }

    #[test]
    fn every_type_has_a_text_of_its_own_that_can_stand_in_a_page() {
        let mut seen = std::collections::HashSet::new();
        for kind in ProblemType::ALL {
            let Advice { meaning, what_to_do } = advice(*kind);
            assert!(seen.insert(meaning) && seen.insert(what_to_do), "{kind:?}");
            for text in [meaning, what_to_do, kind.title()] {
                assert!(text.len() > 10 && !text.contains(['<', '>', '&', '"']), "{kind:?}: {text}");
                assert_eq!(text.matches('`').count() % 2, 0, "{kind:?}: {text}");
                assert!(!text.contains("  "), "{kind:?}: {text}");
            }
        }
    }

    #[test]
    fn a_page_loads_nothing() {
        for kind in ProblemType::ALL {
            let page = html(*kind);
            for outside in ["<script", "<link", "<img", "src=", "href=", "url(", "@import", "http:", "https:"] {
                assert!(!page.contains(outside), "{kind:?}: {outside}");
            }
            assert!(page.contains(kind.name()) && page.contains(&kind.status().to_string()), "{kind:?}");
        }
    }
}
