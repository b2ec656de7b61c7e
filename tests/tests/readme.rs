//! The README's first transaction, as it stands there: its code blocks are run, at free ports.

use std::{fs, path::Path, process::Command};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use unanimous_tests::{
    api::{Answer, Api},
    binaries::binary,
    process::Process,
    server::free_port,
    wait,
};

/// The README's section with the tutorial.
fn tutorial() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(path).expect("there is a README");
    let (_, rest) = readme.split_once("\n## A first transaction\n").expect("the README has a first transaction");
    rest.split("\n## ").next().unwrap_or_default().to_owned()
}

/// The code blocks of a language, in their order.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let parts: Vec<&str> = text.split(&*fence).skip(1).collect();
    parts.into_iter().map(|part| part.split("```").next().unwrap_or_default()).collect()
}

/// The tutorial, being followed.
struct Reader {
    home: TempDir,
    /// What stands in the text, and what is taken in its stead.
    ports: [(&'static str, String); 2],
    text: String,
}

impl Reader {
    fn new() -> Self {
        let ports = ["7070", "8081"].map(|port| (port, free_port().to_string()));
        Self { home: tempfile::tempdir().expect("a folder can be made"), ports, text: tutorial() }
    }

    /// The block, at the ports that are free.
    fn block(&self, language: &str, at: usize) -> String {
        let block = blocks(&self.text, language).get(at).copied().unwrap_or_else(|| panic!("no {language} block {at}"));
        self.ports.iter().fold(block.to_owned(), |text, (documented, free)| {
            assert!(!text.contains(free.as_str()), "port {free} stands in the text");
            text.replace(&format!("127.0.0.1:{documented}"), &format!("127.0.0.1:{free}"))
                .replace(&format!("\"127.0.0.1\", {documented}"), &format!("\"127.0.0.1\", {free}"))
        })
    }

    fn start(&self, program: &Path, args: &[&str], log: &str) -> Process {
        Process::start(program, args, None, &self.home.path().join(log))
    }

    fn coordinator(&self) -> Process {
        let line = self.block("sh", 0);
        let data = self.home.path().join("unanimous-data");
        let line = line.replace("./unanimous-data", data.to_str().expect("a path is text"));
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[0], "unanimous");
        self.start(&binary("unanimous"), &words[1..], "coordinator.log")
    }

    fn participant(&self) -> Process {
        let script = self.home.path().join("participant.py");
        fs::write(&script, self.block("python", 0)).expect("a file can be written");
        self.start(Path::new("python3"), &[script.to_str().expect("a path is text")], "participant.log")
    }

    /// What the `curl` sends: where to, and what.
    fn curl(&self) -> (String, Value) {
        let command = self.block("sh", 1);
        let head = format!("curl -s http://127.0.0.1:{}", self.ports[0].1);
        let rest = command.strip_prefix(&head).expect("it calls the coordinator");
        let (path, body) = rest
            .split_once(" -H 'Content-Type: application/json' -d '")
            .expect("it says what it sends, and the body in quotes");
        let body = body.trim_end().strip_suffix('\'').expect("the quotes end");
        (path.to_owned(), serde_json::from_str(body).expect("the body is JSON"))
    }
}

async fn post(api: &Api, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    api.post_with(path, headers, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_transaction_of_the_readme_goes_as_it_says() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no python3, in which the README's participant is written");
        return;
    }
    let reader = Reader::new();
    let _coordinator = reader.coordinator();
    let mut participant = reader.participant();
    let api = Api::new(&format!("http://127.0.0.1:{}", reader.ports[0].1));
    let ready = async || api.try_get("/readyz").await.is_ok_and(|answer| answer.status == 200);
    wait::until_so("the coordinator is ready", ready).await;
    let at = Api::new(&format!("http://127.0.0.1:{}", reader.ports[1].1));
    wait::until_so("the participant listens", async || at.try_get("/").await.is_ok()).await;

    // The answer is 200 only if the decision is commit, and shows every branch.
    let (path, body) = reader.curl();
    let committed = post(&api, &path, &[], &body).await.expect(200).body;
    assert_eq!((&committed["decision"], &committed["state"]), (&json!("commit"), &json!("committed")), "{committed}");
    let branches = committed["branches"].as_array().expect("it shows every branch");
    assert_eq!(branches.len(), body["branches"].as_array().map_or(0, Vec::len));
    assert!(branches.len() == 2 && branches.iter().all(|branch| branch["state"] == "committed"), "{committed}");
    let id = committed["id"].as_str().expect("it has an id");
    let log = participant.log();
    for call in ["/north/prepare", "/south/prepare", "/north/commit", "/south/commit"] {
        assert!(log.contains(&format!("{call} {id}")), "{log}");
    }
    // GET shows it whenever you like.
    assert_eq!(api.transaction(id).await, committed);

    step_by_step(&api, &body).await;

    // Stop the participant and try again: it is aborted at its deadline, and the answer says which branch it was.
    participant.kill();
    let mut hurried = body.clone();
    hurried["timeout_ms"] = json!(2000);
    // That would wait until the participant has been told.
    hurried["respond"] = json!("decided");
    let aborted = post(&api, &path, &[], &hurried).await.expect(409);
    assert_eq!(aborted.problem(), "aborted");
    let reason = &aborted.body["transaction"]["reason"];
    assert_eq!((&reason["code"], &reason["branch"]), (&json!("unreachable"), &json!("1")), "{aborted:?}");

    // The list has those that wait for somebody: here, nobody.
    let waiting = api.get("/v1/transactions?state=committing").await.expect(200).body;
    assert_eq!(waiting["items"], json!([]));
}

/// Step by step instead of in one call, each with an Idempotency-Key.
async fn step_by_step(api: &Api, body: &Value) {
    let begun = post(api, "/v1/transactions", &[("idempotency-key", "begin")], &json!({})).await.expect(201);
    let again = post(api, "/v1/transactions", &[("idempotency-key", "begin")], &json!({})).await.expect(201);
    assert_eq!(begun.text("id"), again.text("id"), "a retry is always safe");
    let path = |what: &str| format!("/v1/transactions/{}/{what}", begun.text("id"));
    for (at, branch) in body["branches"].as_array().into_iter().flatten().enumerate() {
        let key = format!("enlist-{at}");
        for _ in 0..2 {
            let _ = post(api, &path("branches"), &[("idempotency-key", &key)], branch).await.expect(201);
        }
    }
    for _ in 0..2 {
        let committed = post(api, &path("commit"), &[("idempotency-key", "commit")], &json!({})).await.expect(200).body;
        assert_eq!(committed["branches"].as_array().map(Vec::len), Some(2), "{committed}");
    }
    let too_late = api.call(Method::POST, &path("abort"), &[], None).await.expect("a POST is answered").expect(409);
    assert_eq!(too_late.problem(), "committed");
}
