//! A check for whoever feeds the log any bytes: what is read of them would be written as what reads the same.

use super::{
    encoding::{Unreadable, decode, encode},
    format, mark,
};
use crate::transaction::Record;

/// Reads these bytes as each kind of value that stands in the log, and as the mark. Err: something was read that is written
/// as something else. Bytes that are none of them are refused, and that is no error.
pub fn reads_as_written(bytes: &[u8]) -> Result<(), String> {
    value(bytes, format::read_live_row, |(number, record)| format::live_row(*number, record))?;
    value(bytes, format::read_finished_row, format::finished_row)?;
    value(bytes, format::read_outcome_row, |(link, _)| format::outcome_row(link))?;
    value(bytes, decode::<u64>, encode)?;
    match mark::parse(bytes) {
        Some((coordinator, tip)) if mark::bytes(coordinator, tip) != bytes => {
            Err(format!("the mark of {coordinator} and {tip:?} isn't written as it was read"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Reads a row of the table of unfinished transactions, and checks nothing else: what a start must do at the least.
///
/// # Errors
/// Why the row is not understood.
pub fn decode_record(row: &[u8]) -> Result<Record, String> {
    format::read_live_row(row).map(|(_, record)| record).map_err(|error| error.to_string())
}

fn value<T>(
    bytes: &[u8],
    read: impl Fn(&[u8]) -> Result<T, Unreadable>,
    write: impl Fn(&T) -> Result<Vec<u8>, Unreadable>,
) -> Result<(), String> {
    let Ok(value) = read(bytes) else { return Ok(()) };
    let written = write(&value).map_err(|error| format!("what was read can't be written: {error}"))?;
    let again = read(&written).map_err(|error| format!("what was written can't be read: {error}"))?;
    match write(&again) {
        Ok(again) if again == written => Ok(()),
        Ok(_) | Err(_) => Err("what was read isn't written as it was read".to_owned()),
    }
}
