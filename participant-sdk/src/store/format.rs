//! What stands on disk of coordinators and branches, in types of its own: one version byte, then the value.
//!
//! Values are told apart by position, so a type here never changes: what is kept anew gets a new version. Each version that
//! was ever written is read.
//!
//! # Invariants
//! - A store of an earlier version is read as what it was (`store::a_store_of_the_first_format_opens_as_it_was_left`).
//! - An unknown version is refused, not guessed.

use serde::{Deserialize, Serialize};

use super::staged::{encode, read, version};
use crate::{
    branch::{Branch, Former, Known, Lsn, Payload, State},
    protocol::{Epoch, TransactionId, UnixMillis, Vote},
};

/// A coordinator, as it is known or as it was.
pub(super) enum Coordinator {
    Known(Known),
    Former(Former),
}

#[derive(Deserialize)]
struct Known1<'a> {
    epoch: Epoch,
    horizon: TransactionId,
    url: &'a str,
}

#[derive(Serialize, Deserialize)]
enum Coordinator2<'a> {
    Known { epoch: Epoch, horizon: TransactionId, url: &'a str },
    Former { epoch: Epoch, horizon: TransactionId, order: u64 },
}

pub(super) fn encode_known(known: &Known) -> Vec<u8> {
    let Known { epoch, horizon, url, lsn: _ } = known;
    encode(2, &Coordinator2::Known { epoch: *epoch, horizon: *horizon, url })
}

pub(super) fn encode_former(former: &Former) -> Vec<u8> {
    let Former { epoch, horizon, order, lsn: _ } = *former;
    encode(2, &Coordinator2::Former { epoch, horizon, order })
}

pub(super) fn decode_coordinator(bytes: &[u8]) -> Result<Coordinator, String> {
    let known = |epoch, horizon, url: &str| {
        Coordinator::Known(Known { epoch, horizon, url: url.to_owned(), lsn: Lsn::default() })
    };
    match version(bytes)? {
        (1, rest) => {
            let Known1 { epoch, horizon, url } = read(rest)?;
            Ok(known(epoch, horizon, url))
        }
        (2, rest) => Ok(match read(rest)? {
            Coordinator2::Known { epoch, horizon, url } => known(epoch, horizon, url),
            Coordinator2::Former { epoch, horizon, order } => {
                Coordinator::Former(Former { epoch, horizon, order, lsn: Lsn::default() })
            }
        }),
        (other, _) => Err(format!("a coordinator has the unknown version {other}")),
    }
}

/// States that live in memory alone have their places, and are never written.
#[derive(Serialize, Deserialize)]
enum State1<'a> {
    Open,
    Held(Vote1),
    Working,
    Prepared,
    ReadOnly,
    Refused(&'a str),
    Committing,
    Committed,
    Aborting(&'a str),
    Aborted(&'a str),
    Tombstone,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Vote1 {
    Prepared,
    ReadOnly,
}

#[derive(Serialize, Deserialize)]
struct Payload1<'a> {
    digest: u128,
    text: &'a str,
}

#[derive(Deserialize)]
struct Branch1<'a> {
    #[serde(borrow)]
    state: State1<'a>,
    digest: Option<u128>,
    #[serde(borrow)]
    payload: Option<Payload1<'a>>,
    epoch: Epoch,
    since: UnixMillis,
}

#[derive(Serialize, Deserialize)]
struct Branch2<'a> {
    #[serde(borrow)]
    state: State1<'a>,
    digest: Option<u128>,
    #[serde(borrow)]
    payload: Option<Payload1<'a>>,
    epoch: Epoch,
    since: UnixMillis,
    resolved: Option<&'a str>,
}

impl<'a> From<&'a State> for State1<'a> {
    fn from(state: &'a State) -> Self {
        match state {
            State::Open => Self::Open,
            State::Held(Vote::Prepared) => Self::Held(Vote1::Prepared),
            State::Held(Vote::ReadOnly) => Self::Held(Vote1::ReadOnly),
            State::Working => Self::Working,
            State::Prepared => Self::Prepared,
            State::ReadOnly => Self::ReadOnly,
            State::Refused(why) => Self::Refused(why),
            State::Committing => Self::Committing,
            State::Committed => Self::Committed,
            State::Aborting(why) => Self::Aborting(why),
            State::Aborted(why) => Self::Aborted(why),
            State::Tombstone => Self::Tombstone,
        }
    }
}

impl From<State1<'_>> for State {
    fn from(state: State1<'_>) -> Self {
        match state {
            State1::Open => Self::Open,
            State1::Held(Vote1::Prepared) => Self::Held(Vote::Prepared),
            State1::Held(Vote1::ReadOnly) => Self::Held(Vote::ReadOnly),
            State1::Working => Self::Working,
            State1::Prepared => Self::Prepared,
            State1::ReadOnly => Self::ReadOnly,
            State1::Refused(why) => Self::Refused(why.to_owned()),
            State1::Committing => Self::Committing,
            State1::Committed => Self::Committed,
            State1::Aborting(why) => Self::Aborting(why.to_owned()),
            State1::Aborted(why) => Self::Aborted(why.to_owned()),
            State1::Tombstone => Self::Tombstone,
        }
    }
}

pub(super) fn encode_branch(branch: &Branch) -> Vec<u8> {
    let Branch { state, digest, payload, epoch, since, resolved, lsn: _ } = branch;
    let payload = payload.as_ref().map(|payload| Payload1 { digest: payload.digest, text: &payload.text });
    let (state, resolved) = (state.into(), resolved.as_deref());
    encode(2, &Branch2 { state, digest: *digest, payload, epoch: *epoch, since: *since, resolved })
}

pub(super) fn decode_branch(bytes: &[u8]) -> Result<Branch, String> {
    let Branch2 { state, digest, payload, epoch, since, resolved } = match version(bytes)? {
        (1, rest) => {
            let Branch1 { state, digest, payload, epoch, since } = read(rest)?;
            Branch2 { state, digest, payload, epoch, since, resolved: None }
        }
        (2, rest) => read(rest)?,
        (other, _) => return Err(format!("a branch has the unknown version {other}")),
    };
    let payload = payload.map(|Payload1 { digest, text }| Payload { digest, text: text.into() });
    let (state, resolved, lsn) = (state.into(), resolved.map(str::to_owned), Lsn::default());
    Ok(Branch { state, digest, payload, epoch, since, resolved, lsn })
}
