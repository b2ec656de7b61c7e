//! The log under the death of its process: real processes, real SIGKILL, a real failure to write.
//!
//! The other process is this test program itself, told by the environment what to do.

use std::{
    env,
    io::{BufRead, BufReader, Lines},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use super::story::{Log, NOW, story};
use crate::journal::{Journal, Lsn, Progress, rocks};

const DIR: &str = "UNANIMOUS_TEST_DIR";
const STORY: u64 = 4000;

/// The other process: writes a story to the log in the folder it is told, says what was reported, and never ends.
#[test]
#[ignore = "the other process of this file's tests"]
fn child() {
    let Ok(dir) = env::var(DIR) else { return };
    let (opened, _) = match rocks::open(dir.as_ref(), NOW, rand::random) {
        Ok(opened) => opened,
        Err(error) => {
            println!("\nrefused {error}");
            return;
        }
    };
    println!("\nopened");
    let (said, progress) = std::sync::mpsc::channel();
    let on_progress = move |now: Progress| {
        println!("reported {} {}", now.written.0, now.durable.0);
        let _ = said.send(now);
    };
    let on_fatal = |error| println!("fatal {error}");
    let journal = opened.start(Box::new(on_progress), Box::new(on_fatal)).unwrap();
    let entries = story(STORY);
    let mut at = 0;
    for batch in entries.chunks(3) {
        journal.append(Lsn(at as u64 + 1), batch.to_vec());
        at += batch.len();
        // Some always wait, and never very many; after a failure nothing is reported, and this waits to be killed.
        while progress.try_iter().last().is_none_or(|now| now.written.0 + 60 < at as u64) && at > 60 {
            let Ok(now) = progress.recv() else { break };
            if now.written.0 + 60 >= at as u64 {
                break;
            }
        }
    }
    loop {
        std::thread::park();
    }
}

struct Other {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(mut command: Command, dir: &Path) -> Self {
        command.env(DIR, dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, lines }
    }

    /// The rest of its next line that begins so.
    fn next(&mut self, word: &str) -> Option<String> {
        self.lines.by_ref().find_map(|line| Some(line.ok()?.strip_prefix(word)?.to_owned()))
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const ARGUMENTS: [&str; 5] =
    ["--ignored", "--exact", "journal::tests::killed::child", "--nocapture", "--test-threads=1"];

fn child_command() -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(ARGUMENTS);
    command
}

/// A line that was cut short by the kill is no report.
fn reported(text: &str) -> Option<usize> {
    let (written, durable) = text.trim().split_once(' ')?;
    let _: usize = durable.parse().ok()?;
    written.parse().ok()
}

#[test]
fn a_killed_process_loses_nothing_that_was_reported_written() {
    for reports in [1, 7, 40, 150, 400] {
        let dir = tempfile::tempdir().unwrap();
        let mut other = Other::start(child_command(), dir.path());
        let mut written = 0;
        for _ in 0..reports {
            written = other.next("reported ").as_deref().and_then(reported).unwrap();
        }
        other.kill();
        while let Some(line) = other.next("reported ") {
            // The last digits of a torn line would be a smaller number, which is checked all the same.
            written = reported(&line).map_or(written, |now| now.max(written));
        }
        let entries = story(STORY);
        let log = Log::open(dir.path()).unwrap();
        let view = log.view(entries.len()).unwrap();
        let kept = view.is_prefix(&entries, written);
        assert!(kept.is_some(), "{written} were reported written; {:?} are live", log.recovered.live.len());
    }
}

#[test]
fn a_process_killed_while_it_creates_the_log_leaves_none_or_a_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    for millis in 0..30 {
        let dir = dir.path().join(millis.to_string());
        let mut other = Other::start(child_command(), &dir);
        std::thread::sleep(Duration::from_millis(millis));
        other.kill();
        let log = Log::open(&dir).unwrap();
        log.append(1, &story(1));
        log.wait_written(7);
    }
}

#[test]
fn an_opener_in_another_process_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = Other::start(child_command(), dir.path());
    other.next("opened").unwrap();
    let error = rocks::open(dir.path(), NOW, rand::random).err().unwrap();
    assert!(error.to_string().contains("another coordinator"), "{error}");
    let mut third = Other::start(child_command(), dir.path());
    assert!(third.next("refused ").unwrap().contains("another coordinator"));
    other.kill();
    drop(Log::open(dir.path()).unwrap());
}

#[test]
fn a_write_that_fails_is_told_once_and_nothing_is_reported_after_it() {
    let dir = tempfile::tempdir().unwrap();
    // No file may grow beyond 256 KiB: the write then fails as it does on a full disk.
    let mut limited = Command::new("sh");
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 512; exec \"$@\"", "sh"])
        .arg(env::current_exe().unwrap())
        .args(ARGUMENTS);
    let mut other = Other::start(limited, dir.path());
    let mut written = 0;
    let error = loop {
        let line = other.next("").unwrap();
        if let Some(now) = line.strip_prefix("reported ").and_then(reported) {
            written = now;
        } else if let Some(error) = line.strip_prefix("fatal ") {
            break error.to_owned();
        }
    };
    assert!(error.contains("can't be written"), "{error}");
    assert!(written > 0);
    // It goes on appending for a while, and then waits for ever for a report.
    std::thread::sleep(Duration::from_millis(200));
    other.kill();
    assert_eq!(other.next("reported "), None);
    assert_eq!(other.next("fatal "), None);
    let entries = story(STORY);
    let log = Log::open(dir.path()).unwrap();
    assert!(log.view(entries.len()).unwrap().is_prefix(&entries, written).is_some());
}
