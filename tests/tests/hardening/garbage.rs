//! Bad input of every kind: bytes that are no HTTP, requests that are no calls, bodies that are no JSON, and JSON that
//! says what can't be.

use serde_json::{Value, json};

pub const UNKNOWN: &str = "01890a5d-1111-7000-8000-000000000001";

/// A request, and what its refusal must name.
pub struct Bad {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(&'static str, Vec<u8>)>,
    pub body: Vec<u8>,
    pub names: &'static str,
}

impl Bad {
    fn get(path: impl Into<String>, names: &'static str) -> Self {
        Self { method: "GET", path: path.into(), headers: vec![], body: vec![], names }
    }

    fn post(path: &str, body: impl Into<Vec<u8>>, names: &'static str) -> Self {
        let headers = vec![("Content-Type", b"application/json".to_vec())];
        Self { method: "POST", path: path.to_owned(), headers, body: body.into(), names }
    }

    fn with(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// As it goes over the wire, on a connection of its own.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes =
            format!("{} {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", self.method, self.path).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        if self.method == "POST" {
            bytes.extend(format!("Content-Length: {}\r\n", self.body.len()).bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(&self.body);
        bytes
    }
}

/// What is wrong below the level of HTTP, or at it.
pub fn below_http() -> Vec<(&'static str, Vec<u8>)> {
    let post = |rest: &str| format!("POST /v1/transactions HTTP/1.1\r\nHost: x\r\n{rest}").into_bytes();
    vec![
        ("nothing", vec![]),
        ("zeros", vec![0; 4096]),
        ("all bytes", (0..=255).cycle().take(10_000).collect()),
        ("a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(40)),
        ("an SSH greeting", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("a line of its own", b"hello\r\n\r\n".to_vec()),
        ("a version that isn't", b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n".to_vec()),
        ("a method that isn't", b"G\0T /healthz HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a path with a space", b"GET /v1/ transactions HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("a path too long", format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(1 << 20)).into_bytes()),
        ("a header without a colon", post("nonsense\r\n\r\n")),
        ("a header's name with a space", post("a b: c\r\n\r\n")),
        ("a header with a zero", post("a: b\0c\r\n\r\n")),
        ("a header too long", post(&format!("a: {}\r\n\r\n", "x".repeat(1 << 20)))),
        ("headers too many", post(&format!("{}\r\n", "a: b\r\n".repeat(1000)))),
        ("headers without an end", post(&"a: b\r\n".repeat(50))),
        ("a length that isn't a number", post("Content-Length: many\r\n\r\n{}")),
        ("a length below zero", post("Content-Length: -1\r\n\r\n{}")),
        ("a length beyond all", post("Content-Length: 99999999999999999999999\r\n\r\n{}")),
        ("two lengths", post("Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}")),
        ("less than its length", post("Content-Length: 100\r\n\r\n{}")),
        ("far less than its length", post("Content-Length: 1000000000000\r\n\r\n{}")),
        ("chunks that aren't", post("Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")),
        ("chunks without an end", post("Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")),
        ("a chunk beyond all", post("Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}")),
        ("an encoding that isn't", post("Transfer-Encoding: gzip\r\n\r\n{}")),
    ]
}

/// What is no JSON object, whatever the call.
fn no_object() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        " ",
        "[]",
        "null",
        "true",
        "1",
        "\"x\"",
        "{",
        "}",
        "{}{}",
        "{} x",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":1,}",
        "{a: 1}",
        "{'a': 1}",
        "\u{feff}{}",
        "// {}",
        "<xml/>",
        "a=b&c=d",
        "{\"reason\": NaN}",
        "{\"reason\": \"\\x\"}",
        "{\"reason\": \"\\ud800\"}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    all.extend([
        b"{\"reason\": \"\xff\xfe\"}".to_vec(),
        b"{\"reason\": \"\xc0\xaf\"}".to_vec(),
        b"\0\0\0\0".to_vec(),
        b"{\"reason\": \"a\0b\"}".to_vec(),
        b"[".repeat(100_000),
        b"{\"a\":".repeat(50_000),
    ]);
    all
}

/// Bad requests to every call. `id` is an active transaction, with the branch `1`.
pub fn requests(id: &str) -> Vec<Bad> {
    let transaction = format!("/v1/transactions/{id}");
    let path = |what: &str| format!("{transaction}/{what}");
    let posts = ["/v1/transactions", &path("commit"), &path("abort"), &path("branches"), &path("branches/1/vote")];
    let mut all = vec![];
    for post in posts {
        all.extend(no_object().into_iter().map(|body| Bad::post(post, body, "")));
        all.extend(headers(post));
        all.push(Bad::post(post, r#"{"colour": "red"}"#, "colour"));
        all.push(Bad::post(post, format!(r#"{{"reason": "{}"}}"#, "x".repeat(1 << 20)), "1048576"));
    }
    all.extend(begins().into_iter().map(|(body, names)| Bad::post("/v1/transactions", body, names)));
    all.extend(branch_bodies().into_iter().map(|(body, names)| Bad::post(&path("branches"), body, names)));
    all.extend(votes().into_iter().map(|(body, names)| Bad::post(&path("branches/1/vote"), body, names)));
    for respond in ["7", "\"never\"", "[]", "{}", "\"DECIDED\""] {
        all.push(Bad::post(&path("commit"), format!(r#"{{"respond": {respond}}}"#), "respond"));
    }
    for reason in ["7", "[]", "{\"code\": \"operator\"}", "true"] {
        all.push(Bad::post(&path("abort"), format!(r#"{{"reason": {reason}}}"#), "reason"));
    }
    all.push(Bad::post(&path("abort"), json!({ "reason": "é".repeat(600) }).to_string(), "reason"));
    all.push(Bad::post(&path("abort"), r#"{"reason": "a", "reason": "b"}"#, "reason"));
    all.extend(paths(&transaction));
    all.extend(queries(&path("decision")));
    all
}

/// Headers that no POST takes.
fn headers(path: &str) -> Vec<Bad> {
    let key = |value: &[u8]| Bad::post(path, "{}", "Idempotency-Key").with("Idempotency-Key", value);
    vec![
        key(b""),
        key(b"two words"),
        key("k".repeat(256).as_bytes()),
        key("ключ".as_bytes()),
        key(b"\xff\xff"),
        key(b"a").with("Idempotency-Key", "b"),
        Bad { headers: vec![("Content-Type", b"text/plain".to_vec())], ..Bad::post(path, "{}", "Content-Type") },
        Bad { headers: vec![("Content-Type", b"\xff".to_vec())], ..Bad::post(path, "[]", "") },
        Bad::post(path, "{}", "Content-Encoding").with("Content-Encoding", "gzip"),
    ]
}

fn begins() -> Vec<(String, &'static str)> {
    let mut all: Vec<(String, &str)> = vec![];
    for value in ["\"soon\"", "-1", "0", "1.5", "1e400", "86400001", "18446744073709551616", "true", "[]", "{}"] {
        all.push((format!(r#"{{"timeout_ms": {value}}}"#), "timeout_ms"));
    }
    all.push((format!(r#"{{"timeout_ms": 1{}}}"#, "0".repeat(100_000)), "timeout_ms"));
    let metadata = [
        json!([]),
        json!("a"),
        json!({ "a": 1 }),
        json!({ "a": null }),
        json!({ "a": ["b"] }),
        json!({ "k".repeat(129): "v" }),
        json!({ "k": "v".repeat(1025) }),
        (0..17).map(|n| (n.to_string(), json!("v"))).collect::<serde_json::Map<_, _>>().into(),
    ];
    all.extend(metadata.map(|value| (json!({ "metadata": value }).to_string(), "metadata")));
    all.push((r#"{"metadata": {"a": "1", "a": "2"}}"#.to_owned(), "metadata"));
    for value in ["7", "{}", "\"x\"", "[7]", "[null]", "[[]]"] {
        all.push((format!(r#"{{"branches": {value}}}"#), "branches"));
    }
    let many: Vec<Value> = (0..257).map(|_| json!({ "participant": "http://127.0.0.1:9" })).collect();
    all.push((json!({ "branches": many }).to_string(), "branches"));
    for (name, value) in [("commit", "1"), ("commit", "\"true\""), ("respond", "7"), ("respond", "\"later\"")] {
        all.push((format!(r#"{{"{name}": {value}}}"#), name));
    }
    all.push((r#"{"commit": true, "commit": true}"#.to_owned(), "commit"));
    let of_branches = branch_bodies().into_iter().filter(|(_, names)| *names != "coordinator");
    all.extend(of_branches.map(|(body, names)| (format!(r#"{{"commit": true, "branches": [{body}]}}"#), names)));
    all
}

fn branch_bodies() -> Vec<(String, &'static str)> {
    let mut all: Vec<(String, &str)> = vec![("{}".to_owned(), "participant")];
    let long = format!("http://127.0.0.1:9/{}", "x".repeat(3000));
    let participants = [
        "",
        "x",
        "127.0.0.1:9",
        "//127.0.0.1",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://me@127.0.0.1",
        "http://me:word@127.0.0.1",
        "http://@127.0.0.1",
        "http://127.0.0.1?a=b",
        "http://127.0.0.1#a",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:x",
        "http://[::1",
        "http://a b",
        "http://127.0.0.1/../x",
        "http://127.0.0.1/%2e%2E/x",
        "http://127.0.0.1/a%2fb",
        "http://127.0.0.1\\@evil.example",
        "http://127.0.0.1\t.evil.example",
        "http://10.0.0.1",
        "http://localhost.evil.example",
        "http://evil.example#127.0.0.1",
        "http://[::ffff:10.0.0.1]",
        "http://0.0.0.0",
        "http://[::]",
        "http://169.254.169.254/latest",
        "javascript:alert(1)",
        "\u{0}",
        &long,
    ];
    all.extend(participants.map(|text| (json!({ "participant": text }).to_string(), "participant")));
    for value in ["7", "null", "[]", "{}", "true"] {
        all.push((format!(r#"{{"participant": {value}}}"#), "participant"));
    }
    let names = ["", " ", "a b", ".a", "-", "a/b", "é", "a\n", &"a".repeat(65)];
    let on = "http://127.0.0.1:9";
    all.extend(names.map(|name| (json!({ "participant": on, "branch": name }).to_string(), "branch")));
    for (name, value) in
        [("branch", "7"), ("branch", "[]"), ("vote", "\"maybe\""), ("vote", "7"), ("vote", "\"abort\"")]
    {
        all.push((format!(r#"{{"participant": "{on}", "{name}": {value}}}"#), name));
    }
    all.push((format!(r#"{{"participant": "{on}", "participant": "{on}"}}"#), "participant"));
    all.push((format!(r#"{{"participant": "{on}", "payload": {{"a": 1, "a": 2}}}}"#), "payload"));
    all.push((format!(r#"{{"participant": "{on}", "payload": [{{"a": {{"b": 1, "\u0062": 2}}}}]}}"#), "payload"));
    all.push((format!(r#"{{"participant": "{on}", "payload": {}1{}}}"#, "[".repeat(500), "]".repeat(500)), "nested"));
    all.push((format!(r#"{{"participant": "{on}", "vote": "prepared", "branch": "a"}}"#), "coordinator"));
    all
}

fn votes() -> Vec<(String, &'static str)> {
    let coordinators = ["{}", "7", "\"x\"", r#"{"id": "x", "epoch": "y"}"#, r#"{"id": 7, "epoch": 7}"#];
    let mut all: Vec<(String, &str)> =
        coordinators.map(|value| (format!(r#"{{"vote": "prepared", "coordinator": {value}}}"#), "coordinator")).into();
    for vote in ["\"abort\"", "\"PREPARED\"", "7", "null", "[]"] {
        let who = json!({ "id": UNKNOWN, "epoch": UNKNOWN });
        all.push((format!(r#"{{"vote": {vote}, "coordinator": {who}}}"#), "vote"));
    }
    all.push((r#"{"vote": "prepared"}"#.to_owned(), "coordinator"));
    all
}

/// Paths that lead nowhere.
fn paths(transaction: &str) -> Vec<Bad> {
    let upper = UNKNOWN.to_uppercase();
    let ids = [
        "17",
        "%00",
        "%ff",
        "%F0%9F%92%A9",
        &upper,
        &UNKNOWN.replace('-', ""),
        &format!("%7B{UNKNOWN}%7D"),
        "urn:uuid:0",
        "67e55044-10b1-426f-9247-bb680e5fe0c8",
        "00000000-0000-7000-8000-00000000000g",
        "..%2f..%2fetc%2fpasswd",
    ]
    .map(str::to_owned);
    let mut all = vec![Bad::get("/v1/nothing", "/v1/nothing"), Bad::get("//v1//transactions", "")];
    for id in ids.into_iter().chain(["x".repeat(4000)]) {
        let names = if id == "%ff" { "path" } else { "id" };
        all.push(Bad::get(format!("/v1/transactions/{id}"), names));
        all.push(Bad::get(format!("/v1/transactions/{id}/decision"), names));
        for call in ["commit", "abort", "branches", "branches/1/vote"] {
            all.push(Bad::post(&format!("/v1/transactions/{id}/{call}"), "{}", names));
        }
    }
    for branch in ["a%20b", "%00", "..", ".a", &"a".repeat(65)] {
        all.push(Bad::post(&format!("{transaction}/branches/{branch}/vote"), "{}", "branch"));
    }
    for (method, path) in
        [("DELETE", transaction), ("PUT", transaction), ("PATCH", "/v1/transactions"), ("BREW", "/healthz")]
    {
        all.push(Bad { method, ..Bad::get(path, method) });
    }
    all
}

/// Queries that nobody can answer.
fn queries(decision: &str) -> Vec<Bad> {
    let list = [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=", "limit"),
        ("limit=1e3", "limit"),
        ("limit=99999999999999999999999999", "limit"),
        ("limit=%D9%A3", "limit"),
        ("limit=1&limit=2", "limit"),
        ("state=", "state"),
        ("state=asleep", "state"),
        ("state=active,,aborted", "state"),
        ("heuristic=maybe", "heuristic"),
        ("participant=x", "participant"),
        ("since=yesterday", "since"),
        ("until=1700000000", "until"),
        ("since=2026-13-45T99:99:99Z", "since"),
        ("cursor=x", "cursor"),
        ("cursor=%00", "cursor"),
        ("colour=red", "colour"),
        ("%ff=%fe", ""),
        ("metadata=a", "metadata"),
    ];
    let mut all: Vec<Bad> = list.map(|(query, names)| Bad::get(format!("/v1/transactions?{query}"), names)).into();
    let inquiries = [
        ("coordinator=x", "coordinator"),
        ("epoch=", "epoch"),
        ("branch=a%20b", "branch"),
        (&format!("epoch={UNKNOWN}&epoch={UNKNOWN}"), "epoch"),
    ];
    all.extend(inquiries.map(|(query, names)| Bad::get(format!("{decision}?{query}"), names)));
    all
}
