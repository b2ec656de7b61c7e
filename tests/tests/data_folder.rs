//! The data folder in wrong hands: opened twice, or replaced by an older copy.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::sys::signal::Signal;
use serde_json::json;
use unanimous_tests::{
    bank::{Bank, OPENING, account, transfer},
    binaries::{clone_folder, copy_folder},
    coordinator::Coordinator,
    participant::{Act, Call, Participant},
    proxy::Proxy,
    wait,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_coordinator_on_the_same_folder_is_refused_and_the_first_serves_on() {
    let mut coordinator = Coordinator::start().await;
    let participant = Participant::start();
    let branches = json!([{ "participant": participant.url(), "payload": {} }]);
    let id = coordinator.api.run(&branches).await.expect(200).text("id").to_owned();
    for _ in 0..2 {
        let mut second = coordinator.spawn_second();
        let ended = second.ended().await;
        assert_eq!(ended.code(), Some(1), "{}", second.log());
        let log = second.log();
        assert!(log.contains(coordinator.data().to_str().unwrap()), "it names the folder: {log}");
        assert!(log.contains("another coordinator has"), "it says why: {log}");
        assert!(!log.contains("panicked"), "{log}");
    }
    assert_eq!(coordinator.api.finished(&id).await["state"], "committed");
    let _ = coordinator.api.run(&branches).await.expect(200);
    coordinator.kill();
    coordinator.restart().await;
    assert_eq!(coordinator.api.transaction(&id).await["state"], "committed");
    participant.assert_respected();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_in_place_of_the_folder_presumes_nothing_about_what_it_never_knew() {
    let mut coordinator = Coordinator::start().await;
    let first = coordinator.api.who().await;
    assert!(coordinator.stop().await.success());
    let backup = tempfile::tempdir().unwrap();
    clone_folder(&coordinator.data(), backup.path());

    // Under the next epoch: decided, told to the client and to one bank, and not to the other.
    coordinator.restart().await;
    let second = coordinator.api.who().await;
    let (mut bank, other) = (Bank::start().await, Bank::start().await);
    let mut proxy = Proxy::start(&bank.url());
    let last = Participant::scripted(|received| match received.call {
        Call::Prepare => Act::Hold,
        Call::Commit | Call::Abort => Act::Obey,
    });
    let mut branches = transfer(&proxy.url(), &other.url(), 30);
    branches.as_array_mut().unwrap().push(json!({ "participant": last.url(), "payload": {} }));
    let id = coordinator.api.begin(&json!({ "branches": branches, "timeout_ms": 120_000 })).await;
    let commit = coordinator.api.commit_in_background(&id);
    wait::until_so("the bank has voted", async || {
        coordinator.api.transaction(&id).await["branches"][0]["vote"] == "prepared"
    })
    .await;
    bank.kill();
    proxy.down();
    last.release();
    let _ = commit.await.unwrap().unwrap().expect(200);
    other.comes_to_hold(&account(1), OPENING + 30).await;
    coordinator.kill();

    let newest = tempfile::tempdir().unwrap();
    clone_folder(&coordinator.data(), newest.path());
    fs::remove_dir_all(coordinator.data()).unwrap();
    clone_folder(backup.path(), &coordinator.data());
    coordinator.restart().await;
    assert_eq!(coordinator.api.who().await["id"], first["id"], "it is the same log, only older");
    let told = coordinator.api.inquire(&id, &second, "debit").await.unwrap().expect(409);
    assert_eq!(told.problem(), "not-my-log");
    let presumed = coordinator.api.inquire(&id, &first, "debit").await.unwrap().expect(200);
    assert_eq!(presumed.body["decision"], "abort", "an epoch that it had");
    bank.restart().await;
    wait::a_while().await;
    assert_eq!(bank.in_doubt().await, 1, "a bank in doubt took a guess for an answer");
    assert_eq!(bank.balance(&account(1)).await, OPENING);

    // Its own log put back, it ends well.
    coordinator.kill();
    fs::remove_dir_all(coordinator.data()).unwrap();
    clone_folder(newest.path(), &coordinator.data());
    coordinator.restart().await;
    bank.comes_to_hold(&account(1), OPENING - 30).await;
    assert_eq!(bank.in_doubt().await, 0);
    proxy.up();
    assert_eq!(coordinator.api.finished(&id).await["heuristic"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_before_its_mark_is_refused_by_name() {
    let mut coordinator = Coordinator::start().await;
    let participant = Participant::start();
    let branches = json!([{ "participant": participant.url(), "payload": {} }]);
    let _ = coordinator.api.run(&branches).await.expect(200);
    coordinator.kill();
    let backup = tempfile::tempdir().unwrap();
    copy_folder(&coordinator.data(), backup.path());
    coordinator.restart().await;
    let _ = coordinator.api.run(&branches).await.expect(200);
    coordinator.kill();
    // The database of before, under the mark of now: as if what was confirmed had never reached the disk.
    let database = coordinator.data().join("log/db");
    fs::remove_dir_all(&database).unwrap();
    copy_folder(&backup.path().join("log/db"), &database);
    coordinator.spawn_again(None);
    let ended = coordinator.process.ended().await;
    assert_eq!(ended.code(), Some(1));
    let log = coordinator.log();
    let message = log.lines().last().unwrap_or_default();
    assert!(message.contains("reported durable") && message.contains("missing"), "it says what is missing: {message}");
    assert!(!log.contains("panicked"), "{log}");
}

/// Copies a folder as an operator does.
fn cp_a(from: &Path, to: &Path) {
    let ended = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().expect("there is cp");
    assert!(ended.success(), "{ended}");
}

/// A coordinator that has committed something, was stopped with SIGTERM, and the transaction.
async fn stopped() -> (Coordinator, Participant, String) {
    let mut coordinator = Coordinator::start().await;
    let participant = Participant::start();
    let branches = json!([{ "participant": participant.url(), "payload": {} }]);
    let id = coordinator.api.run(&branches).await.expect(200).text("id").to_owned();
    coordinator.api.finished(&id).await;
    assert!(coordinator.stop().await.success());
    (coordinator, participant, id)
}

/// Starts it, and it refuses. What it says then.
async fn refused(coordinator: &mut Coordinator) -> String {
    let before = coordinator.log().len();
    coordinator.spawn_again(None);
    let ended = coordinator.process.ended().await;
    let said = coordinator.log()[before..].to_owned();
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_in_place_of_the_original_is_refused() {
    let (mut coordinator, _participant, id) = stopped().await;
    let aside = coordinator.data().with_extension("aside");
    fs::rename(coordinator.data(), &aside).unwrap();
    cp_a(&aside, &coordinator.data());
    let said = refused(&mut coordinator).await;
    assert!(said.contains("is a copy") && said.contains("serve --moved"), "{said}");
    // The original, back in its place, is still the original.
    fs::remove_dir_all(coordinator.data()).unwrap();
    fs::rename(&aside, coordinator.data()).unwrap();
    coordinator.restart().await;
    assert_eq!(coordinator.api.transaction(&id).await["state"], "committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_without_its_record_is_refused() {
    let (mut coordinator, _participant, _) = stopped().await;
    fs::remove_file(coordinator.data().join("log/PLACE")).unwrap();
    let said = refused(&mut coordinator).await;
    assert!(said.contains("PLACE is missing") && said.contains("copy"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn earlier_copy_put_over_the_original_s_files_is_refused() {
    let (mut coordinator, participant, _) = stopped().await;
    let earlier = coordinator.data().with_extension("earlier");
    cp_a(&coordinator.data(), &earlier);
    coordinator.restart().await;
    let branches = json!([{ "participant": participant.url(), "payload": {} }]);
    let _ = coordinator.api.run(&branches).await.expect(200);
    coordinator.kill();
    // Each file is written over, and keeps its inode.
    cp_a(&earlier.join("."), &coordinator.data());
    let said = refused(&mut coordinator).await;
    assert!(said.contains("is a copy"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn folder_moved_after_a_clean_stop_starts_once_with_moved() {
    let (mut coordinator, _participant, id) = stopped().await;
    let original = coordinator.data().with_extension("original");
    fs::rename(coordinator.data(), &original).unwrap();
    cp_a(&original, &coordinator.data());
    assert!(refused(&mut coordinator).await.contains("serve --moved"));
    coordinator.restart_with(&["--moved"]).await;
    let log = coordinator.log();
    assert!(log.contains("WARN") && log.contains("assumes that the folder was moved"), "{log}");
    assert_eq!(coordinator.api.transaction(&id).await["state"], "committed");
    coordinator.kill();
    // It is at its place from now on.
    coordinator.restart().await;
    coordinator.kill();
    coordinator.spawn_again_with(&["--moved"]);
    assert_eq!(coordinator.process.ended().await.code(), Some(1));
    assert!(coordinator.log().contains("start without --moved"), "{}", coordinator.log());
    // The original is one no more, but nothing can tell that: it is at its own place.
    fs::remove_dir_all(original).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn folder_moved_from_a_killed_process_is_refused_with_moved() {
    let (mut coordinator, _participant, _) = stopped().await;
    coordinator.restart().await;
    coordinator.kill();
    let original = coordinator.data().with_extension("original");
    fs::rename(coordinator.data(), &original).unwrap();
    cp_a(&original, &coordinator.data());
    coordinator.spawn_again_with(&["--moved"]);
    assert_eq!(coordinator.process.ended().await.code(), Some(1));
    assert!(coordinator.log().contains("clean stop"), "{}", coordinator.log());
}

/// The files of the database's newest writes; the last is the one that it writes to.
fn newest_writes(data: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data.join("log/db")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn truncate(path: &Path, to: u64) {
    File::options().write(true).open(path).unwrap().set_len(to).unwrap();
}

/// Another file with the same content under the same name.
fn replace(path: &Path) {
    let copy = path.with_extension("copy");
    fs::copy(path, &copy).unwrap();
    fs::rename(copy, path).unwrap();
}

/// Does something to the files of the log in this data folder.
type Fault = fn(&Path);

/// What may happen to the files of a log, and to which it happens.
const FAULTS: [(&str, Fault); 12] = [
    (".log", |data| newest_writes(data).iter().for_each(|path| fs::remove_file(path).unwrap())),
    (".log", |data| newest_writes(data).iter().for_each(|path| truncate(path, 0))),
    (".log", |data| {
        let path = newest_writes(data).pop().unwrap();
        let length = fs::metadata(&path).unwrap().len();
        truncate(&path, 0);
        truncate(&path, length);
    }),
    (".log", |data| newest_writes(data).iter().for_each(|path| replace(path))),
    (".log", |data| {
        let path = newest_writes(data).pop().unwrap();
        fs::rename(&path, path.with_extension("log.1")).unwrap();
    }),
    ("MARK", |data| fs::remove_file(data.join("log/MARK")).unwrap()),
    ("MARK", |data| replace(&data.join("log/MARK"))),
    ("LOCK", |data| fs::remove_file(data.join("LOCK")).unwrap()),
    ("db/LOCK", |data| fs::remove_file(data.join("log/db/LOCK")).unwrap()),
    ("FORMAT", |data| fs::remove_file(data.join("log/FORMAT")).unwrap()),
    ("PLACE", |data| fs::remove_file(data.join("log/PLACE")).unwrap()),
    ("LOCK", |data| fs::rename(data, data.with_extension("aside")).unwrap()),
];

/// It ends by itself, by an abort, and says which file it was.
async fn ends_because_of(coordinator: &mut Coordinator, file: &str) {
    let ended = coordinator.process.ended().await;
    let log = coordinator.log();
    assert_eq!(ended.signal(), Some(Signal::SIGABRT as i32), "{file}: {ended}: {log}");
    let said = log.lines().rev().find(|line| line.starts_with("unanimous:")).unwrap_or_default();
    assert!(said.contains(file) && said.contains("while this process had it open"), "{file}: {log}");
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_file_under_an_idle_process_ends_it() {
    for (file, fault) in FAULTS {
        let mut coordinator = Coordinator::start().await;
        let participant = Participant::start();
        let branches = json!([{ "participant": participant.url(), "payload": {} }]);
        let id = coordinator.api.run(&branches).await.expect(200).text("id").to_owned();
        coordinator.api.finished(&id).await;
        fault(&coordinator.data());
        ends_because_of(&mut coordinator, file).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_file_under_load_ends_the_process() {
    for (file, fault) in FAULTS {
        let mut coordinator = Coordinator::start().await;
        let participant = Participant::start();
        let load = Load::start(&coordinator, &participant);
        load.has_committed(5).await;
        fault(&coordinator.data());
        ends_because_of(&mut coordinator, file).await;
        load.end().await;
    }
}

/// Commits, one after the other, until it is told to end or gets no answer.
struct Load {
    ended: Arc<AtomicBool>,
    committed: Arc<std::sync::Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Load {
    fn start(coordinator: &Coordinator, participant: &Participant) -> Self {
        let (ended, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::Mutex::new(vec![])));
        let api = coordinator.api.clone();
        let branches = json!([{ "participant": participant.url(), "payload": {} }]);
        let (end, to) = (Arc::clone(&ended), Arc::clone(&committed));
        let task = tokio::spawn(async move {
            let body = json!({ "commit": true, "branches": branches });
            while !end.load(Ordering::Acquire) {
                let Ok(answer) = api.try_post("/v1/transactions", &body).await else { return };
                if answer.status == 200 {
                    to.lock().unwrap().push(answer.text("id").to_owned());
                }
            }
        });
        Self { ended, committed, task }
    }

    async fn has_committed(&self, many: usize) {
        wait::until_so("there are commits", async || self.committed.lock().unwrap().len() >= many).await;
    }

    /// All that were answered 200.
    async fn end(self) -> Vec<String> {
        self.ended.store(true, Ordering::Release);
        self.task.await.unwrap();
        let committed = self.committed.lock().unwrap();
        committed.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_told_before_a_second_coordinator_are_all_there() {
    let mut coordinator = Coordinator::start().await;
    let participant = Participant::start();
    let load = Load::start(&coordinator, &participant);
    load.has_committed(20).await;
    // As somebody does who takes the locks for left over, and starts it again at once.
    for lock in ["LOCK", "log/db/LOCK"] {
        fs::remove_file(coordinator.data().join(lock)).unwrap();
    }
    let second = coordinator.spawn_second();
    ends_because_of(&mut coordinator, "LOCK").await;
    let committed = load.end().await;
    drop(second);
    coordinator.restart().await;
    for id in committed {
        assert_eq!(coordinator.api.transaction(&id).await["decision"], "commit", "{id}");
    }
}
