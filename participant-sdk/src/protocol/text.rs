//! Values that are texts in JSON.
//!
//! Always true: a text is read where it stands, without a copy of it.

use std::fmt;

use serde::{Deserializer, de};

/// Reads a text by `parse`, whose error says what is wrong with it. `expected` is said of what is no text.
pub(super) fn read<'de, D: Deserializer<'de>, T, E: fmt::Display>(
    from: D,
    expected: &'static str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    struct Visitor<F> {
        expected: &'static str,
        parse: F,
    }
    impl<T, E: fmt::Display, F: FnOnce(&str) -> Result<T, E>> de::Visitor<'_> for Visitor<F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.expected)
        }

        fn visit_str<Error: de::Error>(self, text: &str) -> Result<T, Error> {
            (self.parse)(text).map_err(Error::custom)
        }
    }
    from.deserialize_str(Visitor { expected, parse })
}
