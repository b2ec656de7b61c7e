//! The load: so many clients, each with one connection and one transaction at a time, the same for every coordinator.
//!
//! Always true: all that could be written beforehand was; what is measured began after the warm-up and ended before the
//! end; an answer that isn't expected ends the whole load.

use std::{
    rc::Rc,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::LocalSet;

use super::{
    connection::{Answer, Connection, post},
    numbers::Pace,
    options,
    participant::REFUSE,
    process,
};

/// How a load went.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Loaded {
    /// Transactions, those of the warm-up included.
    pub transactions: u64,
    /// Of these, the aborted ones.
    pub aborted: u64,
    /// What was measured.
    pub pace: Pace,
    /// The processor time of the load, in microseconds, for all transactions.
    pub cpu_us: f64,
}

/// What all clients share.
struct Shared {
    options: options::Load,
    began: Instant,
    given_out: AtomicU64,
    over: AtomicBool,
    /// What the clients send, for each place in the list of participants; the second of a pair is refused.
    scripts: Vec<[Script; 2]>,
}

/// The calls of a transaction; the first begins it.
struct Script {
    first: Vec<u8>,
    /// Path, after the transaction's own, and body.
    then: Vec<(&'static str, String)>,
}

#[derive(Default)]
struct Seen {
    transactions: u64,
    aborted: u64,
    took_us: Vec<u32>,
}

/// Runs the load.
pub async fn run(options: options::Load) -> Result<Loaded, String> {
    let scripts = (0..options.participants.len()).map(|at| [script(&options, at, false), script(&options, at, true)]);
    let scripts = scripts.collect();
    let clients = options.clients;
    let seconds = options.seconds;
    let mut connections = Vec::with_capacity(clients);
    for _ in 0..clients {
        connections.push(Connection::open(options.target).await?);
    }
    let began = Instant::now();
    let shared =
        Rc::new(Shared { options, began, given_out: AtomicU64::new(0), over: AtomicBool::new(false), scripts });
    let local = LocalSet::new();
    let tasks: Vec<_> = connections
        .into_iter()
        .enumerate()
        .map(|(at, connection)| local.spawn_local(client(Rc::clone(&shared), at, connection)))
        .collect();
    let mut seen = Seen::default();
    let mut failed = None;
    local.await;
    for task in tasks {
        match task.await.map_err(|error| error.to_string())? {
            Ok(mut one) => {
                seen.transactions += one.transactions;
                seen.aborted += one.aborted;
                seen.took_us.append(&mut one.took_us);
            }
            Err(why) => failed = Some(why),
        }
    }
    if let Some(why) = failed {
        return Err(why);
    }
    // A load that ends by its number has taken as long as it took.
    let pace = Pace::of(seen.took_us, seconds.min(began.elapsed().as_secs_f64()));
    let cpu_us = process::cpu_us("self")?;
    Ok(Loaded { transactions: seen.transactions, aborted: seen.aborted, pace, cpu_us })
}

async fn client(shared: Rc<Shared>, number: usize, mut connection: Connection) -> Result<Seen, String> {
    let options = &shared.options;
    let warm_up = Duration::from_secs_f64(options.warm_up);
    let end = warm_up + Duration::from_secs_f64(options.seconds);
    let mut seen = Seen::default();
    // Not all clients refuse at the same moment.
    let mut refusals = u32::try_from(number * 37 % 100).unwrap_or_default();
    let mut place = number;
    while shared.began.elapsed() < end && !shared.over.load(Relaxed) {
        if options.transactions.is_some_and(|most| shared.given_out.fetch_add(1, Relaxed) >= most) {
            break;
        }
        refusals += options.aborts;
        let refuse = refusals >= 100;
        refusals %= 100;
        let script = &shared.scripts[place % shared.scripts.len()][usize::from(refuse)];
        place += options.branches;
        let began = Instant::now();
        match transaction(&shared, &mut connection, script).await {
            Ok(committed) => {
                seen.transactions += 1;
                seen.aborted += u64::from(!committed);
            }
            Err(why) => {
                shared.over.store(true, Relaxed);
                return Err(why);
            }
        }
        let now = shared.began.elapsed();
        if now >= warm_up && now < end {
            seen.took_us.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }
    Ok(seen)
}

/// Whether it was committed.
async fn transaction(shared: &Shared, connection: &mut Connection, script: &Script) -> Result<bool, String> {
    let mut answer = connection.call(&script.first).await?;
    if !script.then.is_empty() {
        let id = answer.location.take().filter(|_| answer.status == 201);
        let id = id.ok_or_else(|| unexpected(&answer, connection))?;
        let (commit, enlistments) = script.then.split_last().ok_or("there is nothing to commit")?;
        for (path, body) in enlistments {
            let answer = connection.call(&to(shared, &id, path, body)).await?;
            if answer.status != 201 {
                return Err(unexpected(&answer, connection));
            }
        }
        answer = connection.call(&to(shared, &id, commit.0, &commit.1)).await?;
    }
    match answer.status {
        200 => Ok(true),
        409 => Ok(false),
        _ => Err(unexpected(&answer, connection)),
    }
}

fn to(shared: &Shared, id: &str, path: &str, body: &str) -> Vec<u8> {
    post(shared.options.target, &format!("/v1/transactions/{id}/{path}"), body)
}

fn unexpected(answer: &Answer, connection: &Connection) -> String {
    let text: String = connection.last().chars().filter(|c| !c.is_control()).take(600).collect();
    format!("an answer that was not expected, {}: {text}", answer.status)
}

fn script(options: &options::Load, first: usize, refuse: bool) -> Script {
    let participants = options.participants.iter().cycle().skip(first).take(options.branches);
    let branches: Vec<Value> = participants
        .enumerate()
        .map(|(at, participant)| {
            // One of them refuses.
            json!({ "participant": participant, "payload": payload(options.payload, refuse && at == 0) })
        })
        .collect();
    let respond = options.respond.name();
    let mut begin = json!({});
    if let Some(timeout_ms) = options.timeout_ms {
        begin["timeout_ms"] = timeout_ms.into();
    }
    let mut then = Vec::new();
    if options.interactive {
        then.extend(branches.iter().map(|branch| ("branches", branch.to_string())));
        then.push(("commit", json!({ "respond": respond }).to_string()));
    } else {
        begin["branches"] = branches.into();
        begin["commit"] = true.into();
        begin["respond"] = respond.into();
    }
    Script { first: post(options.target, "/v1/transactions", &begin.to_string()), then }
}

/// A payload of this size, or the least it takes.
fn payload(size: usize, refuse: bool) -> Value {
    let mark = if refuse { REFUSE } else { "" };
    let comma = if refuse { "," } else { "" };
    let least = format!("{{{mark}{comma}\"pad\":\"\"}}").len();
    let text = match size.checked_sub(least) {
        Some(more) => format!("{{{mark}{comma}\"pad\":\"{}\"}}", "x".repeat(more)),
        None => format!("{{{mark}}}"),
    };
    serde_json::from_str(&text).unwrap_or_default()
}
