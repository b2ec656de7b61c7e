//! Times on the wire.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment: milliseconds since 1970, UTC. In JSON an RFC 3339 text, in binary forms the number.
///
/// ```
/// use unanimous_sdk::protocol::UnixMillis;
/// let at: UnixMillis = serde_json::from_str("\"2026-01-02T03:04:05.678Z\"").unwrap();
/// assert_eq!(at.to_string(), "2026-01-02T03:04:05.678Z");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The latest moment that can be written.
    const MAX: u64 = 253_402_207_200_000;

    /// This long after it.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let more = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(more).min(Self::MAX))
    }

    /// How long after `earlier` it is; zero when it isn't.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Reads an RFC 3339 time, and takes what lies between two milliseconds for the later; None for anything else. What
    /// lies before 1970 is taken for its beginning.
    pub fn parse_up(text: &str) -> Option<Self> {
        let at: jiff::Timestamp = text.parse().ok()?;
        let nanos = u128::try_from(at.as_nanosecond()).unwrap_or(0);
        u64::try_from(nanos.div_ceil(1_000_000)).ok().map(Self)
    }

    /// Reads an RFC 3339 time; None for anything else, and for what lies before 1970.
    pub fn parse(text: &str) -> Option<Self> {
        let at: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(at.as_millisecond()).ok().map(Self)
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = i64::try_from(self.0.min(Self::MAX)).unwrap_or(0);
        let at = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
        write!(f, "{at:.3}")
    }
}

impl fmt::Debug for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for UnixMillis {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { to.collect_str(self) } else { self.0.serialize(to) }
    }
}

impl<'de> Deserialize<'de> for UnixMillis {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if from.is_human_readable() {
            super::text::read(from, "an RFC 3339 time", |text| Self::parse(text).ok_or("expected an RFC 3339 time"))
        } else {
            u64::deserialize(from).map(Self)
        }
    }
}
