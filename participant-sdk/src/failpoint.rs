//! Named points at which a test kills or holds the process. Without the feature `failpoints` they are nothing.
//!
//! `UNANIMOUS_FAILPOINT=NAME` kills the process with SIGKILL when it comes to the point NAME; `NAME@3` when it comes there
//! the third time; `NAME@3=hold` stops it there (SIGSTOP) instead; `NAME@3=pause` parks the thread that comes there for
//! ever, and all others run on.

/// The process has come to this point.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &str) {}

/// The process has come to this point.
#[cfg(feature = "failpoints")]
pub fn hit(name: &str) {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    static SET: LazyLock<Option<(String, u64, Option<Signal>)>> = LazyLock::new(|| {
        let text = std::env::var("UNANIMOUS_FAILPOINT").ok()?;
        let (place, signal) = match text.split_once('=') {
            Some((place, "pause")) => (place, None),
            Some((place, "hold")) => (place, Some(Signal::SIGSTOP)),
            None => (&*text, Some(Signal::SIGKILL)),
            Some((_, other)) => panic!("UNANIMOUS_FAILPOINT: {other} is no action"),
        };
        let (name, count) = place.split_once('@').unwrap_or((place, "1"));
        Some((name.to_owned(), count.parse().ok()?, signal))
    });
    static HITS: AtomicU64 = AtomicU64::new(0);

    if let Some((wanted, count, signal)) = &*SET
        && wanted == name
        && HITS.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        if let Some(signal) = signal {
            let _ = kill(Pid::this(), *signal);
        }
        if *signal != Some(Signal::SIGSTOP) {
            loop {
                std::thread::park();
            }
        }
    }
}
