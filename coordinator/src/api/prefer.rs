//! `Prefer: wait=N`, RFC 7240: how long a client is willing to wait.

use std::time::Duration;

use axum::http::HeaderMap;

/// The longest wait that is granted.
const LONGEST: u64 = 300;

/// The wait that is asked for; None if there is none, or none that can be understood.
pub(super) fn wait(headers: &HeaderMap) -> Option<Duration> {
    let lines = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let seconds = lines.flat_map(|line| outside_quotes(line, ',')).find_map(|preference| {
        let (name, value) = outside_quotes(preference, ';').next()?.split_once('=')?;
        let digits = value.trim().trim_matches('"');
        let fits = name.trim().eq_ignore_ascii_case("wait")
            && !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit());
        fits.then(|| digits.parse().unwrap_or(LONGEST))
    });
    seconds.map(|seconds: u64| Duration::from_secs(seconds.min(LONGEST)))
}

/// Splits a line at a separator, but not inside quoted strings.
fn outside_quotes(line: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    line.split(move |c| {
        if c == '"' {
            quoted = !quoted;
        }
        !quoted && c == separator
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert("prefer", line.parse().unwrap());
        wait(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn a_wait_is_found_among_other_preferences() {
        for line in [
            "wait=7",
            "respond-async, wait=7",
            "WAIT = 7",
            "wait=7; x=1",
            "foo; bar=\"wait=9, wait=8\", wait=7",
            "wait=\"7\"",
        ] {
            assert_eq!(asked(line), Some(7), "{line}");
        }
    }

    #[test]
    fn more_than_300_s_is_taken_as_300_and_nonsense_as_nothing() {
        assert_eq!(asked("wait=301"), Some(300));
        assert_eq!(asked("wait=99999999999999999999999"), Some(300));
        for line in ["wait", "wait=", "wait=-1", "wait=abc", ";;;=,", "x=\"wait=3\""] {
            assert_eq!(asked(line), None, "{line}");
        }
    }
}
