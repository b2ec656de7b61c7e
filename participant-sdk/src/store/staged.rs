//! What stands on disk, as bytes: one version byte, then the value. Another version is refused, not guessed.

use serde::{Deserialize, Serialize};

use super::locks::Mode;
use crate::{
    branch::BranchKey,
    protocol::{BranchName, CoordinatorId, TransactionId},
};

/// The version of staged work.
const STAGED: u8 = 1;

/// The work of a branch that voted to commit: what it writes, and what it holds.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Staged {
    /// Keys and their new values; None deletes.
    pub(super) writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    pub(super) locks: Vec<(Vec<u8>, Mode)>,
}

/// Writes a value behind its version.
pub(super) fn encode<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    // Only a value of unknown length can fail to be written, and none of ours has any.
    postcard::to_extend(value, vec![version]).unwrap_or_default()
}

/// Returns the version of what stands on disk, and the value.
pub(super) fn version(bytes: &[u8]) -> Result<(u8, &[u8]), String> {
    bytes.split_first().map(|(version, rest)| (*version, rest)).ok_or_else(|| "a value is empty".to_owned())
}

/// Reads a value without its version.
pub(super) fn read<'a, T: Deserialize<'a>>(rest: &'a [u8]) -> Result<T, String> {
    match postcard::take_from_bytes(rest) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err("a value is longer than it should be".to_owned()),
        Err(cause) => Err(format!("a value can't be read: {cause}")),
    }
}

pub(super) fn encode_staged(staged: &Staged) -> Vec<u8> {
    encode(STAGED, staged)
}

pub(super) fn decode_staged(bytes: &[u8]) -> Result<Staged, String> {
    match version(bytes)? {
        (STAGED, rest) => read(rest),
        (other, _) => Err(format!("staged work has the unknown version {other}")),
    }
}

/// Keys of branches: ordered by coordinator, then transaction.
pub(super) fn encode_key(key: &BranchKey) -> Vec<u8> {
    let mut bytes = key.coordinator.uuid().as_bytes().to_vec();
    bytes.extend_from_slice(key.transaction.uuid().as_bytes());
    bytes.extend_from_slice(key.branch.as_str().as_bytes());
    bytes
}

pub(super) fn decode_key(bytes: &[u8]) -> Result<BranchKey, String> {
    let wrong = || "the key of a branch can't be read".to_owned();
    let (coordinator, rest) = bytes.split_at_checked(16).ok_or_else(wrong)?;
    let (transaction, branch) = rest.split_at_checked(16).ok_or_else(wrong)?;
    let branch: BranchName = std::str::from_utf8(branch).map_err(|_| wrong())?.parse().map_err(|_| wrong())?;
    let uuid = |bytes| uuid::Uuid::from_slice(bytes).map_err(|_| wrong());
    Ok(BranchKey {
        coordinator: CoordinatorId::from_uuid(uuid(coordinator)?),
        transaction: TransactionId::from_uuid(uuid(transaction)?),
        branch,
    })
}

/// A key as it is shown to people.
pub(super) fn show(key: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(&key[..key.len().min(80)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_not_ours_is_refused() {
        let staged = Staged { writes: vec![(b"k".to_vec(), None)], locks: vec![(b"k".to_vec(), Mode::Exclusive)] };
        let bytes = encode_staged(&staged);
        assert_eq!(decode_staged(&bytes).unwrap(), staged);
        let mut newer = bytes.clone();
        newer[0] = 2;
        assert!(decode_staged(&newer).unwrap_err().contains("version 2"));
        assert!(decode_staged(&bytes[..bytes.len() - 1]).is_err());
        assert!(decode_staged(&[bytes, vec![0]].concat()).is_err());
        assert!(decode_staged(&[]).is_err());
        assert!(decode_key(b"short").is_err());
    }
}
