//! `RocksDB` as the log's tables: how it is set up, opened and read.
//!
//! Always true: all tables are flushed together, and a batch is in all of them or in none.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rocksdb::{
    ColumnFamily, DB, DBCompressionType, DBRecoveryMode, Direction, IteratorMode, LogLevel, Options, WriteBatch,
    WriteOptions, compaction_filter::Decision,
};
use unanimous_sdk::protocol::{CoordinatorId, TransactionId};

use super::{
    Error,
    encoding::{Change, Table},
    index,
    recovery::{self, Each, Tables},
    space,
};

/// The open database.
pub(super) struct Database {
    db: DB,
    /// Index rows of transactions whose ids begin with less than this are dropped when their file is compacted.
    index_from: Arc<AtomicU64>,
}

impl Database {
    /// Makes an empty one.
    pub(super) fn create(path: &Path, coordinator: CoordinatorId) -> Result<(), Error> {
        let database = Self::with(path, "be created", |mut options, tables| {
            options.create_if_missing(true);
            options.create_missing_column_families(true);
            DB::open_cf_with_opts(&options, path, tables)
        })?;
        database.write(&recovery::create(coordinator)?, true)
    }

    /// Opens it so that nothing in it can change.
    pub(super) fn open_to_read(path: &Path) -> Result<Self, Error> {
        // RocksDB would make the folder, if only to say that there is nothing in it.
        if !path.join("CURRENT").exists() {
            return Err(Error::DatabaseMissing { path: path.to_owned() });
        }
        Self::with(path, "be opened", |options, tables| {
            DB::open_cf_with_opts_for_read_only(&options, path, tables, false)
        })
    }

    /// Opens it; what it holds is durable when this returns, though a killed process may not have synced it.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        Self::with(path, "be opened", |options, tables| DB::open_cf_with_opts(&options, path, tables))
    }

    fn with(
        path: &Path,
        doing: &'static str,
        open: impl FnOnce(Options, Vec<(&'static str, Options)>) -> Result<DB, rocksdb::Error>,
    ) -> Result<Self, Error> {
        let sizes = Sizes::within(space::reserve_bytes(path)?);
        let index_from = Arc::new(AtomicU64::new(0));
        let db = open(options(sizes), tables(sizes, &index_from)).map_err(failed(doing))?;
        Ok(Self { db, index_from })
    }

    /// Index rows of transactions with ids up to this one may be dropped from now on.
    pub(super) fn forget_index_upto(&self, id: TransactionId) {
        self.index_from.fetch_max(index::first_half(id), Ordering::Relaxed);
    }

    /// Gives back the room that dropped rows take.
    pub(super) fn compact(&self, tables: &[Table]) -> Result<(), Error> {
        for table in tables {
            self.db.compact_range_cf(self.table(*table)?, None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn flush(&self) {
        for table in Table::ALL {
            self.db.flush_cf(self.table(table).unwrap()).unwrap();
        }
    }

    /// Writes one batch; with `sync`, the disk has it, and all before it, when this returns.
    pub(super) fn write(&self, changes: &[Change], sync: bool) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        for change in changes {
            match change {
                Change::Put(table, key, value) => batch.put_cf(self.table(*table)?, key, value),
                Change::Delete(table, key) => batch.delete_cf(self.table(*table)?, key),
                Change::DeleteRange(table, from, below) => batch.delete_range_cf(self.table(*table)?, from, below),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(batch, &options).map_err(|source| Error::Write { source })
    }

    fn table(&self, table: Table) -> Result<&ColumnFamily, Error> {
        self.db.cf_handle(table.name()).ok_or_else(|| Error::Misuse(format!("there is no table {}", table.name())))
    }
}

impl Tables for Database {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.db.get_cf(self.table(table)?, key).map_err(failed("be read"))
    }

    fn last(&self, table: Table, upto: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut rows = self.db.iterator_cf(self.table(table)?, IteratorMode::From(upto, Direction::Reverse));
        Ok(rows.next().transpose().map_err(failed("be read"))?.map(|(key, _)| key.into_vec()))
    }

    fn scan(&self, table: Table, from: &[u8], each: &mut Each<'_>) -> Result<(), Error> {
        let mut rows = self.db.raw_iterator_cf(self.table(table)?);
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            if each(key, value)?.is_break() {
                return Ok(());
            }
            rows.next();
        }
        // It ends at what it can't read, too.
        rows.status().map_err(failed("be read"))
    }
}

fn failed(doing: &'static str) -> impl FnOnce(rocksdb::Error) -> Error {
    move |source| Error::Database { doing, source }
}

/// In bytes.
#[derive(Clone, Copy)]
struct Sizes {
    /// Held in memory before it goes to a file; most of what is written is deleted before that. A little more than this
    /// is allocated on the disk at once for what is written ahead.
    write_buffer: usize,
    /// Bounds what start must read again, and what must be made room for then.
    wal: u64,
    manifest: usize,
}

impl Sizes {
    /// What is allocated at once must fit into the reserve, or on a small disk the log itself would use it up.
    fn within(reserve: u64) -> Self {
        let part = |of| usize::try_from(reserve / of).unwrap_or(usize::MAX);
        Self { write_buffer: part(2), wal: reserve, manifest: part(16) }
    }
}

fn options(sizes: Sizes) -> Options {
    let mut options = Options::default();
    // Behind it stand the chain and the mark: no recovery mode can be trusted alone.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_track_and_verify_wals_in_manifest(true);
    // A table must never be ahead of another one after a crash.
    options.set_atomic_flush(true);
    options.set_max_total_wal_size(sizes.wal);
    options.set_manifest_preallocation_size(sizes.manifest);
    options.set_max_background_jobs(2);
    options.set_max_open_files(256);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

fn tables(sizes: Sizes, index_from: &Arc<AtomicU64>) -> Vec<(&'static str, Options)> {
    let mut default = Options::default();
    // Nothing is ever in it, but the largest of all counts for what is allocated.
    default.set_write_buffer_size(sizes.write_buffer);
    let options = |table| {
        let mut options = default.clone();
        options.set_compression_type(match table {
            Table::History | Table::Kept => DBCompressionType::Lz4,
            Table::Live | Table::Outcomes | Table::Index | Table::Meta => DBCompressionType::None,
        });
        if table == Table::Index {
            let from = Arc::clone(index_from);
            options.set_compaction_filter("retention", move |_, key, value| {
                let dropped =
                    value.is_empty() && index::half_of_row(key).is_some_and(|half| half < from.load(Ordering::Relaxed));
                if dropped { Decision::Remove } else { Decision::Keep }
            });
        }
        options
    };
    let mut all = Vec::from(Table::ALL.map(|table| (table.name(), options(table))));
    all.push(("default", default));
    all
}
