//! Logs that earlier releases wrote: every later version opens them and knows all of their transactions and keys.
//!
//! `N.tar.gz` is a data folder of format N, `N.json` what is in it. A new format adds a pair, and changes none.

use std::{path::Path, process::Command};

use serde_json::{Value, json};
use unanimous_tests::{coordinator::Coordinator, process::Setup};

/// Unpacks the data folder of a release, and returns what is in it.
fn unpack(format: u32, home: &Path) -> Value {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/log_format");
    let data = home.join("data");
    std::fs::create_dir(&data).expect("a folder can be made");
    let archive = here.join(format!("{format}.tar.gz"));
    let unpacked = Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(&data).status().expect("tar is there");
    assert!(unpacked.success());
    let text = std::fs::read_to_string(here.join(format!("{format}.json"))).expect("it is there");
    serde_json::from_str(&text).expect("it is JSON")
}

/// All transactions are as they were, and each key finds its transaction.
async fn all_is_known(coordinator: &Coordinator, known: &Value) {
    assert_eq!(coordinator.api.who().await["id"], known["coordinator"]);
    for transaction in known["transactions"].as_array().unwrap() {
        let seen = coordinator.api.transaction(transaction["id"].as_str().unwrap()).await;
        for member in ["id", "decision", "sequence", "metadata"] {
            assert_eq!(seen[member], transaction[member], "{member} of {seen}");
        }
    }
    for (key, call) in known["keys"].as_object().unwrap() {
        let again = coordinator.api.post_with("/v1/transactions", &[("idempotency-key", key)], &call["body"]).await;
        let transaction = if again.status == 409 { &again.body["transaction"] } else { &again.body };
        assert_eq!(transaction["id"], call["id"], "{key}: {}", again.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn first_release_s_log_opens_and_is_carried_on() {
    let home = tempfile::tempdir().unwrap();
    let known = unpack(1, home.path());
    // However old it is by now, nothing of it is dropped.
    let flags = ["--retain", "36500d"].map(str::to_owned).to_vec();
    let mut coordinator = Coordinator::spawn_in(home, Setup { flags, ..Setup::default() });
    coordinator.ready().await;
    all_is_known(&coordinator, &known).await;
    // What is written now stands beside it in the present format.
    let new = coordinator.api.begin(&json!({})).await;
    let _ = coordinator.api.abort(&new).await.expect(200);
    coordinator.kill();
    coordinator.restart().await;
    all_is_known(&coordinator, &known).await;
    assert!(coordinator.stop().await.success());
    coordinator.restart().await;
    all_is_known(&coordinator, &known).await;
}
