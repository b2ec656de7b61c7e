//! `RocksDB` as the log's tables: how it is set up, opened and read.
//!
//! Always true: all tables are flushed together, and a batch is in all of them or in none.

use std::path::Path;

use rocksdb::{
    ColumnFamily, DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode, LogLevel, Options, WriteBatch,
    WriteOptions,
};
use unanimous_sdk::protocol::CoordinatorId;

use super::{
    Error,
    encoding::{Change, Table},
    recovery::{self, Each, Tables},
};

/// Held in memory before it goes to a file; most of what is written is deleted before that.
const WRITE_BUFFER_BYTES: usize = 32 << 20;
/// Bounds what start must read again.
const WAL_BYTES: u64 = 64 << 20;

/// The open database.
pub(super) struct Database(DB);

impl Database {
    /// Makes an empty one.
    pub(super) fn create(path: &Path, coordinator: CoordinatorId) -> Result<(), Error> {
        let mut options = options();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let database = DB::open_cf_with_opts(&options, path, tables()).map(Self).map_err(failed("be created"))?;
        database.write(&recovery::create(coordinator)?, true)
    }

    /// Opens it so that nothing in it can change.
    pub(super) fn open_to_read(path: &Path) -> Result<Self, Error> {
        // RocksDB would make the folder, if only to say that there is nothing in it.
        if !path.join("CURRENT").exists() {
            return Err(Error::DatabaseMissing { path: path.to_owned() });
        }
        DB::open_cf_with_opts_for_read_only(&options(), path, tables(), false).map(Self).map_err(failed("be opened"))
    }

    /// Opens it; what it holds is durable when this returns, though a killed process may not have synced it.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        DB::open_cf_with_opts(&options(), path, tables()).map(Self).map_err(failed("be opened"))
    }

    /// Writes one batch; with `sync`, the disk has it, and all before it, when this returns.
    pub(super) fn write(&self, changes: &[Change], sync: bool) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        for change in changes {
            match change {
                Change::Put(table, key, value) => batch.put_cf(self.table(*table)?, key, value),
                Change::Delete(table, key) => batch.delete_cf(self.table(*table)?, key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.0.write_opt(batch, &options).map_err(|source| Error::Write { source })
    }

    fn table(&self, table: Table) -> Result<&ColumnFamily, Error> {
        self.0.cf_handle(table.name()).ok_or_else(|| Error::Misuse(format!("there is no table {}", table.name())))
    }
}

impl Tables for Database {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.0.get_cf(self.table(table)?, key).map_err(failed("be read"))
    }

    fn last(&self, table: Table, upto: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut rows = self.0.iterator_cf(self.table(table)?, IteratorMode::From(upto, Direction::Reverse));
        Ok(rows.next().transpose().map_err(failed("be read"))?.map(|(key, _)| key.into_vec()))
    }

    fn scan(&self, table: Table, from: &[u8], each: &mut Each<'_>) -> Result<(), Error> {
        for row in self.0.iterator_cf(self.table(table)?, IteratorMode::From(from, Direction::Forward)) {
            let (key, value) = row.map_err(failed("be read"))?;
            each(&key, &value)?;
        }
        Ok(())
    }
}

fn failed(doing: &'static str) -> impl FnOnce(rocksdb::Error) -> Error {
    move |source| Error::Database { doing, source }
}

fn options() -> Options {
    let mut options = Options::default();
    // Behind it stand the chain and the mark: no recovery mode can be trusted alone.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    // A table must never be ahead of another one after a crash.
    options.set_atomic_flush(true);
    options.set_max_total_wal_size(WAL_BYTES);
    options.set_max_background_jobs(2);
    options.set_max_open_files(256);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

fn tables() -> Vec<(&'static str, Options)> {
    let options = |table| {
        let mut options = Options::default();
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_compression_type(match table {
            Table::History => DBCompressionType::Lz4,
            Table::Live | Table::Outcomes | Table::Index | Table::Meta => DBCompressionType::None,
        });
        options
    };
    let mut all = vec![("default", Options::default())];
    all.extend(Table::ALL.map(|table| (table.name(), options(table))));
    all
}
