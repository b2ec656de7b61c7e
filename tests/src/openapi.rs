//! Holds real answers against the API's own description, `/openapi.json`.
//!
//! Always true: what isn't described doesn't fit: a status, a media type, a member; and a word of a schema that isn't
//! understood here is an error, not passed over. (A client must ignore members that it doesn't know; a description that
//! leaves one out is wrong all the same.)

use std::collections::BTreeSet;

use reqwest::{Method, Url};
use serde_json::{Map, Value};
use unanimous_coordinator::api;
use unanimous_sdk::protocol::UnixMillis;
use uuid::Uuid;

use crate::api::Answer;

/// What a call that isn't described at all may be answered with.
const ELSEWHERE: [u16; 3] = [404, 405, 503];

/// See the module.
pub struct Description(Value);

impl Description {
    /// That of the coordinator that is built with the tests.
    pub fn ours() -> Self {
        Self(api::description())
    }

    /// That one.
    pub fn new(description: Value) -> Self {
        Self(description)
    }

    /// Every answer that is described: method, path and status.
    pub fn answers(&self) -> BTreeSet<String> {
        let paths = members(&self.0["paths"]);
        let calls = paths.flat_map(|(path, calls)| members(calls).map(move |(method, call)| (path, method, call)));
        let all = calls.flat_map(|(path, method, call)| {
            members(&call["responses"]).map(move |(status, _)| format!("{method} {path} {status}"))
        });
        all.collect()
    }

    /// Whether an answer is one that is described, and which; else what is wrong with it.
    pub fn fits(&self, method: &Method, path: &str, answer: &Answer) -> Result<String, String> {
        let path = path.split('?').next().unwrap_or_default();
        let method = method.as_str().to_ascii_lowercase();
        let status = answer.status;
        let found = members(&self.0["paths"]).find(|(template, _)| is_of(template, path));
        let Some((template, call)) = found.and_then(|(template, calls)| Some((template, calls.get(&method)?))) else {
            let problem = self.schema(&self.0["components"]["schemas"]["Problem"], &answer.body, "the problem");
            return match problem {
                Ok(()) if ELSEWHERE.contains(&status) => Ok(format!("{method} elsewhere {status}")),
                Ok(()) => Err(format!("{method} {path} isn't described, and answered {status}")),
                Err(error) => Err(format!("{method} {path} isn't described: {error}")),
            };
        };
        let which = format!("{method} {template} {status}");
        let wrong = |why: String| format!("{which}: {why}: {answer:?}");
        let response = &call["responses"][status.to_string()];
        if !response.is_object() {
            return Err(wrong("the status isn't described".to_owned()));
        }
        let media = answer.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default();
        let schema = &response["content"][media]["schema"];
        if !schema.is_object() {
            return Err(wrong(format!("the media type {media:?} isn't described")));
        }
        if media.ends_with("json") {
            self.schema(schema, &answer.body, "the body").map_err(wrong)?;
        }
        Ok(which)
    }

    /// Whether a value fits a schema; `at` is where it stands.
    fn schema(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("{at} {why}: {value}"));
        let Some(schema) = schema.as_object() else { return Err(format!("{at}: there is no schema for it")) };
        for (word, meaning) in schema {
            match &**word {
                "$ref" => {
                    let target = meaning.as_str().and_then(|text| self.0.pointer(text.strip_prefix('#')?));
                    self.schema(target.unwrap_or(&Value::Null), value, at)?;
                }
                "oneOf" => {
                    let fit = items(meaning).filter(|schema| self.schema(schema, value, at).is_ok()).count();
                    if fit != 1 {
                        return wrong(&format!("fits {fit} of those it may be"));
                    }
                }
                "type" if !is_of_type(meaning, value) => return wrong(&format!("isn't of type {meaning}")),
                "enum" if !items(meaning).any(|one| one == value) => return wrong("is no word that is described"),
                "format" if !is_in_format(meaning, value) => return wrong(&format!("isn't a {meaning}")),
                "minimum" if value.as_f64() < meaning.as_f64() && value.is_number() => return wrong("is too low"),
                "maximum" if value.as_f64() > meaning.as_f64() && value.is_number() => return wrong("is too high"),
                "items" => {
                    for (place, item) in items(value).enumerate() {
                        self.schema(meaning, item, &format!("{at}[{place}]"))?;
                    }
                }
                // Looked at below; fitting; for those who read it, and, patterns, for those who send.
                "properties"
                | "required"
                | "additionalProperties"
                | "type"
                | "enum"
                | "format"
                | "minimum"
                | "maximum"
                | "description"
                | "example"
                | "pattern"
                | "propertyNames" => {}
                other => return Err(format!("{at}: the word `{other}` of a schema isn't understood here")),
            }
        }
        match value {
            Value::Object(value) => self.object(schema, value, at),
            _ => Ok(()),
        }
    }

    fn object(&self, schema: &Map<String, Value>, value: &Map<String, Value>, at: &str) -> Result<(), String> {
        let (described, others) = (schema.get("properties"), schema.get("additionalProperties"));
        for name in schema.get("required").into_iter().flat_map(items).filter_map(Value::as_str) {
            if !value.contains_key(name) {
                return Err(format!("{at} has no `{name}`"));
            }
        }
        if described.is_none() && others.is_none() {
            return Ok(());
        }
        for (name, value) in value {
            let at = format!("{at}.{name}");
            match (described.and_then(|described| described.get(name)), others) {
                (Some(schema), _) => self.schema(schema, value, &at)?,
                (None, Some(schema)) if schema.is_object() => self.schema(schema, value, &at)?,
                (None, _) => return Err(format!("{at} isn't described")),
            }
        }
        Ok(())
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Whether a path is one of those that a template with `{names}` stands for.
fn is_of(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    let fits =
        |(template, part): (&&str, &&str)| if template.starts_with('{') { !part.is_empty() } else { template == part };
    template.len() == path.len() && template.iter().zip(&path).all(fits)
}

fn is_of_type(meaning: &Value, value: &Value) -> bool {
    let one = |name: &Value| match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => false,
    };
    one(meaning) || items(meaning).any(one)
}

fn is_in_format(meaning: &Value, value: &Value) -> bool {
    match (meaning.as_str(), value.as_str()) {
        (Some("uuid"), Some(text)) => Uuid::try_parse(text).is_ok(),
        (Some("uri"), Some(text)) => Url::parse(text).is_ok(),
        (Some("date-time"), Some(text)) => UnixMillis::parse(text).is_some(),
        (Some("int32"), None) => value.is_null() || value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
        // Types say whether there may be none, and unsigned ones go further than the format's name says.
        (Some("int64" | "uuid" | "uri" | "date-time"), None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
    use serde_json::json;

    use super::*;

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn answer(status: u16, media: &'static str, body: Value) -> Answer {
        Answer { status, headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media))]), body }
    }

    fn fault(method: &Method, path: &str, answer: &Answer) -> String {
        Description::ours().fits(method, path, answer).expect_err("it doesn't fit")
    }

    fn transaction() -> Value {
        json!({
            "id": ID, "state": "aborted", "decision": "abort", "sequence": null, "heuristic": false,
            "reason": { "code": "initiator", "detail": null, "branch": null }, "metadata": { "order": "17" },
            "created_at": "2026-01-02T03:04:05.678Z", "deadline": "2026-01-02T03:04:05.678Z",
            "decided_at": "2026-01-02T03:04:05.678Z", "finished_at": null,
            "branches": [{
                "branch": "1", "participant": "http://127.0.0.1:8081/north", "state": "aborted", "vote": null,
                "participant_id": null, "acknowledged": true, "attempts": 1, "last_error": null, "next_attempt_at": null
            }]
        })
    }

    #[test]
    fn what_is_described_fits() {
        let path = format!("/v1/transactions/{ID}");
        let fits = Description::ours().fits(&Method::GET, &path, &answer(200, "application/json", transaction()));
        assert_eq!(fits.as_deref(), Ok("get /v1/transactions/{id} 200"));
    }

    #[test]
    fn what_is_not_described_does_not_fit() {
        let path = format!("/v1/transactions/{ID}");
        let json = "application/json";
        assert!(fault(&Method::GET, &path, &answer(418, json, transaction())).contains("status"));
        assert!(fault(&Method::GET, &path, &answer(200, "text/plain", transaction())).contains("media type"));
        assert!(fault(&Method::GET, "/v1/elsewhere", &answer(200, json, transaction())).contains("isn't described"));
        assert!(fault(&Method::PUT, &path, &answer(200, json, transaction())).contains("isn't described"));
        for (place, wrong, says) in [
            ("/colour", json!("red"), "colour isn't described"),
            ("/branches/0/colour", json!("red"), "branches[0].colour isn't described"),
            ("/state", json!("sleeping"), "no word"),
            ("/state", json!(7), "type"),
            ("/sequence", json!(-1), "too low"),
            ("/heuristic", json!("false"), "type"),
            ("/decided_at", json!("yesterday"), "date-time"),
            ("/id", json!("17"), "uuid"),
            ("/decision", json!("perhaps"), "fits 0"),
            ("/metadata/order", json!(17), "type"),
            ("/branches", json!({}), "type"),
        ] {
            let mut body = transaction();
            let (parent, name) = place.rsplit_once('/').unwrap();
            body.pointer_mut(parent).unwrap()[name] = wrong;
            let fault = fault(&Method::GET, &path, &answer(200, json, body));
            assert!(fault.contains(says), "{place}: {fault}");
        }
        for name in ["decision", "finished_at", "branches"] {
            let mut body = transaction();
            body.as_object_mut().unwrap().remove(name);
            let fault = fault(&Method::GET, &path, &answer(200, json, body));
            assert!(fault.contains(&format!("no `{name}`")), "{fault}");
        }
    }

    #[test]
    fn a_word_of_a_schema_that_is_not_understood_is_an_error() {
        let schema = json!({ "content": { "application/json": { "schema": { "not": {} } } } });
        let description = Description::new(json!({ "paths": { "/": { "get": { "responses": { "200": schema } } } } }));
        let fits = description.fits(&Method::GET, "/", &answer(200, "application/json", json!({})));
        assert!(fits.expect_err("it isn't understood").contains("`not`"));
    }
}
