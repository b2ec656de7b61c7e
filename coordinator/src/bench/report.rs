//! What a run has found: as rows, as JSON, as text.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

use super::{
    goals::{self, Row},
    hang::{self, Hang},
    log_alone::Logged,
    numbers::{ratio, real},
    options::Bench,
    recovery::Recovery,
    stage::{Measured, Target},
};

/// All that was measured.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Found {
    pub fdatasync: Logged,
    /// In the order of clients, and then of [`Target`].
    pub measured: Vec<Measured>,
    /// None: it wasn't measured, for this reason.
    pub hang: Option<Result<Hang, String>>,
    pub recovery: Option<Result<Recovery, String>>,
}

/// A figure of a measurement.
type Figure = (&'static str, fn(&Measured) -> f64);

const FIGURES: [Figure; 4] = [
    ("tx/s", |measured| measured.pace.rate),
    ("p50 in µs", |measured| measured.pace.p50_us),
    ("p99 in µs", |measured| measured.pace.p99_us),
    ("µs of CPU a transaction", |measured| measured.cpu_us),
];

/// What it is compared with.
const fn floors(target: Target) -> &'static [Target] {
    match target {
        Target::Null | Target::Log => &[],
        Target::BatchingNull => &[Target::Null],
        Target::Single | Target::Batching | Target::Interactive => &[Target::Null, Target::BatchingNull, Target::Log],
    }
}

impl Found {
    /// One measurement.
    pub fn of(&self, target: Target, clients: usize) -> Option<&Measured> {
        self.measured.iter().find(|measured| measured.target == target && measured.clients == clients)
    }

    /// For how many clients there are measurements.
    pub fn clients(&self) -> Vec<usize> {
        let mut all: Vec<usize> = self.measured.iter().map(|measured| measured.clients).collect();
        all.dedup();
        all
    }

    /// All figures, those with goals first.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = vec![];
        for clients in self.clients() {
            self.rows_of(clients, &mut rows);
        }
        if let Some(Ok(hang)) = &self.hang {
            rows.push(Row::new(goals::HANG, Some(hang::CLIENTS), hang.with_p99_us, Some(hang.without_p99_us)));
        }
        if let Some(Ok(recovery)) = &self.recovery {
            rows.push(Row::new(goals::READY, None, recovery.ready, Some(recovery.scan)));
            let batching = self.measured.iter().filter(|measured| measured.target == Target::Batching);
            // The best there is.
            let floor = batching.map(|measured| measured.pace.rate).max_by(f64::total_cmp);
            rows.push(Row::new(goals::FINISH, None, real(recovery.in_doubt) / recovery.finish, floor));
            rows.push(Row::new(goals::MEMORY, None, recovery.bytes_each, None));
            rows.push(Row::new("bytes of memory at the most, recovering", None, recovery.peak, None));
        }
        let fdatasync = self.fdatasync.pace;
        rows.push(Row::new("fdatasync a second, alone", Some(1), fdatasync.rate, None));
        rows.push(Row::new("p50 in µs, fdatasync alone", Some(1), fdatasync.p50_us, None));
        goals::judge(rows)
    }

    fn rows_of(&self, clients: usize, rows: &mut Vec<Row>) {
        let at = Some(clients);
        for measured in self.measured.iter().filter(|measured| measured.clients == clients) {
            let name = measured.target.name();
            let floors: Vec<&Measured> =
                floors(measured.target).iter().filter_map(|floor| self.of(*floor, clients)).collect();
            for (what, of) in FIGURES {
                rows.extend(floors.iter().map(|floor| {
                    let to = floor.target.name();
                    Row::new(format!("{what}, {name} : {to}"), at, of(measured), Some(of(floor)))
                }));
                if floors.is_empty() {
                    rows.push(Row::new(format!("{what}, {name}"), at, of(measured), None));
                }
            }
            let mut alone = |what: String, value| rows.push(Row::new(what, at, value, None));
            alone(format!("requests a transaction, {name}"), measured.requests);
            alone(format!("µs of CPU a transaction, participants of {name}"), measured.participants_cpu_us);
            alone(format!("µs of CPU a transaction, load on {name}"), measured.load_cpu_us);
            if let Some(forced) = measured.forced_writes {
                alone(format!("forced writes a transaction, {name}"), forced);
            }
        }
        if let (Some(single), Some(null), Some(log)) =
            (self.of(Target::Single, clients), self.of(Target::Null, clients), self.of(Target::Log, clients))
        {
            let floor = null.pace.p50_us + log.pace.p50_us;
            rows.push(Row::new(goals::ALONE, at, single.pace.p50_us, Some(floor)));
        }
    }

    /// For other programs.
    pub fn json(&self, bench: &Bench) -> Value {
        json!({
            "rows": self.rows(),
            "options": {
                "quick": bench.quick, "branches": bench.branches, "payload": bench.payload, "aborts": bench.aborts,
                "interactive": bench.interactive, "respond": bench.respond.name(),
                "participants": bench.participants.name(), "seconds": bench.seconds, "log": bench.log,
            },
            "in_doubt": self.recovery.as_ref().and_then(|recovery| recovery.as_ref().ok()).map(|recovery| recovery.in_doubt),
            "not_measured": self.failures(),
        })
    }

    fn failures(&self) -> Vec<String> {
        let hang = self.hang.as_ref().and_then(|hang| hang.as_ref().err());
        let recovery = self.recovery.as_ref().and_then(|recovery| recovery.as_ref().err());
        hang.map(|why| format!("one participant of ten hangs: {why}"))
            .into_iter()
            .chain(recovery.map(|why| format!("many in doubt at SIGKILL: {why}")))
            .collect()
    }

    /// The tables.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        for clients in self.clients() {
            self.table(clients, &mut text)?;
        }
        let Logged { pace, .. } = self.fdatasync;
        writeln!(
            text,
            "fdatasync alone: {:.0} a second, p50 {:.0} µs, p99 {:.0} µs",
            pace.rate, pace.p50_us, pace.p99_us
        )?;
        if let Some(Ok(recovery)) = &self.recovery {
            let Recovery { in_doubt, bytes_each, scan, ready, finish, peak } = recovery;
            writeln!(
                text,
                "{in_doubt} in doubt at SIGKILL: {bytes_each:.0} bytes each; scan and decode {scan:.2} s, ready {ready:.2} s, all \
                 finished {finish:.2} s later; at most {:.0} MiB",
                peak / 1_048_576.0
            )?;
        }
        for why in self.failures() {
            writeln!(text, "not measured: {why}")?;
        }
        goals_table(&self.rows(), &mut text)?;
        Ok(text)
    }

    fn table(&self, clients: usize, text: &mut String) -> fmt::Result {
        let plural = if clients == 1 { "client" } else { "clients" };
        writeln!(
            text,
            "\n{:<26} {:>8} {:>7} {:>7} {:>8} {:>8}  {:>24}  {:>8} {:>7}",
            format!("{clients} {plural}"),
            "tx/s",
            "x null",
            "x batch",
            "p50 ms",
            "p99 ms",
            "CPU µs/tx: it, part, load",
            "requests",
            "forced"
        )?;
        let rate = |target| self.of(target, clients).map(|measured| measured.pace.rate);
        for measured in self.measured.iter().filter(|measured| measured.clients == clients) {
            let Measured { target, pace, cpu_us, participants_cpu_us, load_cpu_us, requests, forced_writes, .. } =
                measured;
            let to = |floor| {
                rate(floor).and_then(|floor| ratio(pace.rate, floor)).map_or_else(String::new, |r| format!("{r:.2}"))
            };
            let cpu = format!("{cpu_us:.0}, {participants_cpu_us:.0}, {load_cpu_us:.0}");
            let forced = forced_writes.map_or_else(String::new, |forced| format!("{forced:.3}"));
            writeln!(
                text,
                "{:<26} {:>8.0} {:>7} {:>7} {:>8.2} {:>8.2}  {cpu:>25}  {requests:>8.2} {forced:>7}",
                target.name(),
                pace.rate,
                to(Target::Null),
                to(Target::BatchingNull),
                pace.p50_us / 1000.0,
                pace.p99_us / 1000.0
            )?;
        }
        Ok(())
    }
}

fn goals_table(rows: &[Row], text: &mut String) -> fmt::Result {
    writeln!(text, "\n{:<66} {:>7} {:>9} {:>9} {:>8}", "goal", "clients", "is", "goal", "stretch")?;
    for row in rows {
        let (Some(goal), Some(met)) = (row.goal, row.met) else { continue };
        let sign = if row.at_most { "<=" } else { ">=" };
        let number = |number: f64| if number < 100.0 { format!("{number:.2}") } else { format!("{number:.0}") };
        let clients = row.clients.map_or_else(String::new, |clients| clients.to_string());
        let is = row.held().map_or_else(|| "?".to_owned(), number);
        let stretch = row.stretch.map_or_else(String::new, number);
        let met = match (row.value, met) {
            (None, _) => "not measured",
            (Some(_), true) => "met",
            (Some(_), false) => "NOT MET",
        };
        writeln!(
            text,
            "{:<66} {clients:>7} {is:>9} {:>9} {stretch:>8}  {met}",
            row.figure,
            format!("{sign} {}", number(goal))
        )?;
    }
    Ok(())
}
