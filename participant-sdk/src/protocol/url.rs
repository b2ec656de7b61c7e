//! The base URL of a participant.
//!
//! Always true: the text is normalised (host in lower case, no default port, no trailing slashes), so equal participants
//! are equal texts, and it is read again as itself; it has no user, query or fragment, no dot segments and no encoded slashes: what is compared with an
//! allow-list is what is called.

use std::{cell::RefCell, collections::HashMap, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::{Malformed, ids::shorten};

/// So many texts are remembered, by each thread.
const MOST_KNOWN: usize = 256;

thread_local! {
    static KNOWN: RefCell<HashMap<Box<str>, ParticipantUrl>> = RefCell::default();
    /// The same of texts that were kept: they are not parsed, so they are not among the others.
    static KEPT: RefCell<HashMap<Box<str>, ParticipantUrl>> = RefCell::default();
}

/// A participant's base URL: `http` or `https`. Cheap to clone.
///
/// ```
/// use unanimous_sdk::protocol::ParticipantUrl;
/// let url: ParticipantUrl = "HTTP://LocalHost:80/bank/".parse().unwrap();
/// assert_eq!(url.as_str(), "http://localhost/bank");
/// assert!(url.is_loopback());
/// assert!("http://me@localhost/bank".parse::<ParticipantUrl>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ParticipantUrl(Arc<str>);

impl ParticipantUrl {
    /// The longest URL that is taken, in bytes.
    pub const MAX_LENGTH: usize = 2048;

    /// The URL as text, without a trailing slash: append `/prepare` and the like.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the URL of a text that [`as_str`](Self::as_str) gave and that was kept since. The text is not looked at: what
    /// was taken once stays what it is, whatever a later version of the URL library thinks of it.
    ///
    /// ```
    /// use unanimous_sdk::protocol::ParticipantUrl;
    /// let url: ParticipantUrl = "http://localhost:8081/bank".parse().unwrap();
    /// assert_eq!(ParticipantUrl::from_kept(url.as_str()), url);
    /// ```
    pub fn from_kept(text: &str) -> Self {
        KEPT.with_borrow_mut(|kept| {
            if let Some(url) = kept.get(text) {
                return url.clone();
            }
            if kept.len() >= MOST_KNOWN {
                kept.clear();
            }
            let url = Self(text.into());
            kept.insert(text.into(), url.clone());
            url
        })
    }

    /// None for a kept text that the URL library doesn't take (any more).
    fn parsed(&self) -> Option<Url> {
        Url::parse(&self.0).ok()
    }

    /// Returns host and port as one text, such as `bank.example:443`: what a connection is made to.
    ///
    /// ```
    /// use unanimous_sdk::protocol::ParticipantUrl;
    /// let url: ParticipantUrl = "http://localhost/bank".parse().unwrap();
    /// assert_eq!(url.host_and_port(), "localhost:80");
    /// ```
    pub fn host_and_port(&self) -> String {
        match self.parsed() {
            Some(url) => {
                format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
            }
            None => self.to_string(),
        }
    }

    /// Whether its host is `localhost` or a loopback address.
    pub fn is_loopback(&self) -> bool {
        match self.parsed().as_ref().and_then(Url::host) {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }

    /// Whether it lies under `root`: scheme, host and port equal, and the path of `root` is a head of its path by whole
    /// segments.
    ///
    /// ```
    /// use unanimous_sdk::protocol::ParticipantUrl;
    /// let url = |text: &str| text.parse::<ParticipantUrl>().unwrap();
    /// assert!(url("http://a/pay/eu").is_under(&url("http://a/pay")));
    /// assert!(!url("http://a/payments").is_under(&url("http://a/pay")));
    /// ```
    pub fn is_under(&self, root: &Self) -> bool {
        let (Some(mine), Some(roots)) = (self.parsed(), root.parsed()) else { return false };
        let origin =
            |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default());
        if origin(&mine) != origin(&roots) {
            return false;
        }
        let segments =
            |url: &Url| url.path().split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        segments(&mine).starts_with(&segments(&roots))
    }
}

impl FromStr for ParticipantUrl {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        // The same few come again and again: they are parsed once, and one text serves all of them.
        if let Some(known) = KNOWN.with_borrow(|known| known.get(text).cloned()) {
            return Ok(known);
        }
        let url = Self::parse(text)?;
        KNOWN.with_borrow_mut(|known| {
            if known.len() >= MOST_KNOWN {
                known.clear();
            }
            known.insert(text.into(), url.clone());
        });
        Ok(url)
    }
}

impl ParticipantUrl {
    fn parse(text: &str) -> Result<Self, Malformed> {
        let url = Self::normalised(text)?;
        // It is kept as it is written, and must be read from there as the same: normalising can make a text longer.
        match Self::normalised(&url.0) {
            Ok(again) if again == url => Ok(url),
            Ok(_) => Err(wrong("that is written in one way only", text)),
            Err(_) => Err(wrong("of at most 2,048 bytes, written in ASCII,", text)),
        }
    }

    fn normalised(text: &str) -> Result<Self, Malformed> {
        let wrong = |why| Err(wrong(why, text));
        if text.len() > Self::MAX_LENGTH {
            return wrong("of at most 2,048 bytes");
        }
        // The URL standard forgives what two parsers could read in two ways; this is refused before it is asked.
        let Some((scheme, rest)) = text.split_once("://") else { return wrong("with a host") };
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return wrong("(no other scheme)");
        }
        if rest.starts_with('/') || text.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'\\') {
            return wrong("without white space, control characters or backslashes");
        }
        let path = rest.split_once('/').map_or("", |(_, path)| path).to_ascii_lowercase();
        let dots = |segment: &str| matches!(segment.replace("%2e", ".").as_str(), "." | "..");
        if path.split('/').any(dots) || path.contains("%2f") || path.contains("%5c") {
            return wrong("without . or .. segments and encoded slashes");
        }
        let Ok(url) = Url::parse(text) else { return wrong("that can be parsed") };
        if url.host().is_none() {
            return wrong("with a host");
        }
        if !url.username().is_empty()
            || url.password().is_some()
            || rest.split('/').next().is_some_and(|host| host.contains('@'))
        {
            return wrong("without a user");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return wrong("without query or fragment");
        }
        Ok(Self(url.as_str().trim_end_matches('/').into()))
    }
}

fn wrong(why: &str, text: &str) -> Malformed {
    Malformed::new(format!("a participant is an http or https URL {why}, not {:?}", shorten(text)))
}

impl TryFrom<String> for ParticipantUrl {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<ParticipantUrl> for String {
    fn from(url: ParticipantUrl) -> Self {
        (*url.0).to_owned()
    }
}

impl fmt::Display for ParticipantUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ParticipantUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_read_again_as_itself() {
        for (text, normal) in [
            ("http://h//", "http://h"),
            ("http://h/a//", "http://h/a"),
            ("http://h//a///", "http://h//a"),
            ("http://h/a%a//", "http://h/a%a"),
            ("http://Bücher.example/é/", "http://xn--bcher-kva.example/%C3%A9"),
        ] {
            let url: ParticipantUrl = text.parse().unwrap();
            assert_eq!(url.as_str(), normal);
            assert_eq!(normal.parse(), Ok(url));
        }
    }

    /// It would be written to the log, and the log could not be read again.
    #[test]
    fn one_that_is_too_long_once_it_is_normalised_is_refused() {
        let text = format!("http://h/{}", "é".repeat(700));
        assert!(text.len() < ParticipantUrl::MAX_LENGTH);
        let error = text.parse::<ParticipantUrl>().unwrap_err().to_string();
        assert!(error.contains("at most 2,048 bytes"), "{error}");
    }
}
