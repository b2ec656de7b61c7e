//! What an opening of the log is told beside the folder.

use unanimous_sdk::protocol::UnixMillis;

/// How a log is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// The wall clock.
    pub now: UnixMillis,
    /// An operator says: the folder was moved after a clean stop, and its original never runs again.
    pub moved: bool,
    /// An operator says: the wall clock is right.
    pub accept_clock: bool,
}

impl From<UnixMillis> for Opening {
    fn from(now: UnixMillis) -> Self {
        Self { now, moved: false, accept_clock: false }
    }
}
