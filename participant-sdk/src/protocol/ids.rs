//! The four identities that are UUIDs.
//!
//! Always true: text is the canonical form, lower-case with hyphens, and no other spelling is taken; order is the order
//! of the bytes, which for version 7 is the order of time.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::Malformed;

macro_rules! uuid_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $accepts:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The value with these bytes.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID itself.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                let wrong = || Malformed::new(format!(concat!($what, " is a UUID, lower-case with hyphens, not {:?}"), shorten(text)));
                let uuid = Uuid::try_parse(text).map_err(|_| wrong())?;
                let accepts: fn(&Uuid) -> bool = $accepts;
                let mut canonical = [0; uuid::fmt::Hyphenated::LENGTH];
                if uuid.hyphenated().encode_lower(&mut canonical) != text || !accepts(&uuid) {
                    return Err(wrong());
                }
                Ok(Self(uuid))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                if from.is_human_readable() {
                    super::text::read(from, $what, str::parse)
                } else {
                    Uuid::deserialize(from).map(Self)
                }
            }
        }
    };
}

uuid_type!(
    /// A transaction's id: a `UUIDv7` minted by the coordinator alone. [`TransactionId::NIL`] stands only in a horizon.
    ///
    /// ```
    /// use unanimous_sdk::protocol::TransactionId;
    /// let id: TransactionId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    /// assert!(TransactionId::NIL < id);
    /// assert!("01890A5D-AC96-774B-BCCE-B302099A8057".parse::<TransactionId>().is_err());
    /// ```
    TransactionId,
    "a transaction id (version 7)",
    |uuid| uuid.get_version_num() == 7 || uuid.is_nil()
);

impl TransactionId {
    /// Lower than every id: the horizon before the first transaction.
    pub const NIL: Self = Self(Uuid::nil());
}

uuid_type!(
    /// A coordinator's id: minted once, kept with its log for ever.
    ///
    /// ```
    /// use unanimous_sdk::protocol::CoordinatorId;
    /// assert!("not-an-id".parse::<CoordinatorId>().is_err());
    /// ```
    CoordinatorId,
    "a coordinator id",
    |_| true
);

uuid_type!(
    /// One opening of a coordinator's log: a `UUIDv7`, greater than the one before. Higher epochs overrule lower ones.
    ///
    /// ```
    /// use unanimous_sdk::protocol::Epoch;
    /// let earlier: Epoch = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    /// let later: Epoch = "01890a5d-ac97-7000-8000-000000000000".parse().unwrap();
    /// assert!(earlier < later);
    /// ```
    Epoch,
    "an epoch (version 7)",
    |uuid| uuid.get_version_num() == 7
);

uuid_type!(
    /// The id of a participant's store: minted when the store is created, and kept with its branches. Processes that share
    /// a store share it; a copy or an earlier state of a store has the same one.
    ///
    /// ```
    /// use unanimous_sdk::protocol::ParticipantId;
    /// assert!("not-an-id".parse::<ParticipantId>().is_err());
    /// ```
    ParticipantId,
    "a participant id",
    |_| true
);

impl Epoch {
    /// Returns the time in it, in milliseconds since 1970: its first 48 bits.
    ///
    /// ```
    /// use unanimous_sdk::protocol::Epoch;
    /// let epoch: Epoch = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    /// assert_eq!(epoch.unix_ms(), 0x0189_0a5d_ac96);
    /// ```
    pub const fn unix_ms(self) -> u64 {
        unix_ms(self.0)
    }
}

impl TransactionId {
    /// Returns the time in it, in milliseconds since 1970: its first 48 bits.
    ///
    /// ```
    /// use unanimous_sdk::protocol::TransactionId;
    /// assert_eq!(TransactionId::NIL.unix_ms(), 0);
    /// ```
    pub const fn unix_ms(self) -> u64 {
        unix_ms(self.0)
    }
}

/// The first 48 bits of a `UUIDv7`.
const fn unix_ms(uuid: Uuid) -> u64 {
    uuid.as_u64_pair().0 >> 16
}

/// The head of a text that came from outside, for a message.
pub(crate) fn shorten(text: &str) -> &str {
    let end = text.char_indices().nth(80).map_or(text.len(), |(at, _)| at);
    &text[..end]
}
