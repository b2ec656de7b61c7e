//! A check for whoever feeds the log any bytes: what is read of them would be written as what reads the same.

use serde::{Serialize, de::DeserializeOwned};

use super::{
    chain::Link,
    encoding::{decode, encode},
    mark,
};
use crate::transaction::{Record, Transaction};

/// Reads these bytes as each kind of value that stands in the log, and as the mark. Err: something was read that is written
/// as something else. Bytes that are none of them are refused, and that is no error.
pub fn reads_as_written(bytes: &[u8]) -> Result<(), String> {
    value::<(u64, Record)>(bytes)?;
    value::<Transaction>(bytes)?;
    value::<Link>(bytes)?;
    value::<u64>(bytes)?;
    match mark::parse(bytes) {
        Some((coordinator, tip)) if mark::bytes(coordinator, tip) != bytes => {
            Err(format!("the mark of {coordinator} and {tip:?} isn't written as it was read"))
        }
        Some(_) | None => Ok(()),
    }
}

fn value<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<(), String> {
    let Ok(value) = decode::<T>(bytes) else { return Ok(()) };
    let written = encode(&value).map_err(|error| format!("what was read can't be written: {error}"))?;
    let again: T = decode(&written).map_err(|error| format!("what was written can't be read: {error}"))?;
    match encode(&again) {
        Ok(again) if again == written => Ok(()),
        Ok(_) | Err(_) => Err("what was read isn't written as it was read".to_owned()),
    }
}
