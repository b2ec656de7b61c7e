//! What one participant of ten that hangs costs the transactions of the others.

use std::path::Path;

use super::{
    load::Loaded,
    numbers::median,
    options::{Bench, Hold},
    process::{self, free_address},
    stage::{coordinator, load_args, participant, words},
};

/// The transactions of nine participants, without and with others that wait for a tenth.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Hang {
    pub without_p99_us: f64,
    pub with_p99_us: f64,
}

/// How many clients have to do with the nine, and with the one that hangs.
pub const CLIENTS: usize = 32;
const HANGING: usize = 8;
/// Their transactions are aborted after this; then they make new ones.
const TIMEOUT_MS: &str = "500";

/// Measures it, on a coordinator of its own: what hangs would stay there.
pub async fn run(bench: &Bench, folder: &Path, seconds: f64, rounds: usize) -> Result<Hang, String> {
    let errors = folder.join("stderr");
    let log = folder.join("hang").display().to_string();
    let coordinator = coordinator(bench, &log, free_address()?, &errors).await?;
    let well = participant(free_address()?, true, Hold::Nothing, None, &errors).await?;
    let hung = participant(free_address()?, true, Hold::Everything, None, &errors).await?;
    let mut args = load_args(bench, &coordinator, CLIENTS, seconds);
    args.extend(words(&["--aborts", "0", "--branches", "2"]));
    args.extend((0..9).flat_map(|at| words(&["--participant", &format!("http://{}/{at}", well.address)])));
    let mut without = vec![];
    for _ in 0..rounds {
        without.push(process::run::<Loaded>("load", &args, &errors).await?);
    }
    // Warm-up and measuring of every round of the others lies within its time.
    let mut others = load_args(bench, &coordinator, HANGING, 600.0);
    others.extend(words(&["--aborts", "0", "--branches", "2", "--timeout-ms", TIMEOUT_MS]));
    others.extend(words(&["--participant", &format!("http://{}/0", well.address)]));
    others.extend(words(&["--participant", &format!("http://{}/hung", hung.address)]));
    let measured = async {
        let mut with = vec![];
        for _ in 0..rounds {
            with.push(process::run::<Loaded>("load", &args, &errors).await?);
        }
        Ok::<_, String>(with)
    };
    let with = tokio::select! {
        with = measured => with?,
        ended = process::run::<Loaded>("load", &others, &errors) => {
            return Err(ended.err().unwrap_or_else(|| "the load on the participant that hangs has ended too soon".to_owned()));
        }
    };
    let p99_us = |all: Vec<Loaded>| median(all.into_iter().map(|loaded| loaded.pace.p99_us).collect(), |p99| *p99);
    let both = p99_us(without).zip(p99_us(with));
    both.map(|(without_p99_us, with_p99_us)| Hang { without_p99_us, with_p99_us }).ok_or_else(|| "no rounds".to_owned())
}
