//! The floor of a recovery: reading what is unfinished from `RocksDB` and decoding it, without checking or keeping it.

use std::{path::Path, time::Instant};

use rocksdb::{DB, IteratorMode, Options};
use serde::{Deserialize, Serialize};

use crate::journal::decode_record;

/// How it went.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Scanned {
    pub seconds: f64,
    pub records: u64,
}

/// Reads the log in a data folder, which no process may have open.
pub fn run(folder: &Path) -> Result<Scanned, String> {
    let began = Instant::now();
    let path = folder.join("log").join("db");
    let failed = |error: rocksdb::Error| format!("{} can't be read: {error}", path.display());
    let options = Options::default();
    let tables = DB::list_cf(&options, &path).map_err(failed)?;
    let db = DB::open_cf_for_read_only(&options, &path, tables, false).map_err(failed)?;
    let live = db.cf_handle("live").ok_or("there is no table of unfinished transactions in it")?;
    let mut records = 0;
    for row in db.iterator_cf(live, IteratorMode::Start) {
        let (_, value) = row.map_err(failed)?;
        let _ = decode_record(&value).map_err(|error| format!("a record can't be decoded: {error}"))?;
        records += 1;
    }
    Ok(Scanned { seconds: began.elapsed().as_secs_f64(), records })
}
