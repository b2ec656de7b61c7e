//! The name of a branch in its transaction.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Malformed, ids::shorten};

/// A branch's name: 1 to 64 of `A-Z a-z 0-9 . _ -`, the first a letter or digit. Cheap to clone.
///
/// ```
/// use unanimous_sdk::protocol::BranchName;
/// let name: BranchName = "orders".parse().unwrap();
/// assert_eq!(name.as_str(), "orders");
/// assert!("a/b".parse::<BranchName>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchName(Arc<str>);

impl BranchName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that no other branch has: a random UUID.
    ///
    /// ```
    /// use unanimous_sdk::protocol::BranchName;
    /// assert_ne!(BranchName::unique(), BranchName::unique());
    /// ```
    pub fn unique() -> Self {
        // Version 7, as everywhere here; 74 of its bits are random.
        Self(uuid::Uuid::now_v7().to_string().into())
    }

    /// The name a coordinator gives to a branch that came without one: a number.
    pub fn numbered(n: usize) -> Self {
        Self(n.to_string().into())
    }
}

impl FromStr for BranchName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bytes = text.as_bytes();
        let fits = (1..=64).contains(&bytes.len())
            && bytes[0].is_ascii_alphanumeric()
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b));
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(Malformed::new(format!(
                "a branch name is 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit, not {:?}",
                shorten(text)
            )))
        }
    }
}

impl Serialize for BranchName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for BranchName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        super::text::read(from, "a branch name", str::parse)
    }
}

impl fmt::Display for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BranchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
