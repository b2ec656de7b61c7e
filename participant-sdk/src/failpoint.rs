//! Named points at which a test kills or holds the process. Without the feature `failpoints` they are nothing.
//!
//! `UNANIMOUS_FAILPOINT=NAME` kills the process with SIGKILL when it comes to the point NAME; `NAME@3` when it comes there
//! the third time; `NAME@3=hold` stops it there (SIGSTOP) instead.

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

    static SET: LazyLock<Option<(String, u64, Signal)>> = LazyLock::new(|| {
        let text = std::env::var("UNANIMOUS_FAILPOINT").ok()?;
        let (text, signal) = match text.strip_suffix("=hold") {
            Some(text) => (text, Signal::SIGSTOP),
            None => (&*text, Signal::SIGKILL),
        };
        let (name, count) = text.split_once('@').unwrap_or((text, "1"));
        Some((name.to_owned(), count.parse().ok()?, signal))
    });
    static HITS: AtomicU64 = AtomicU64::new(0);

    if let Some((wanted, count, signal)) = &*SET
        && wanted == name
        && HITS.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        let _ = kill(Pid::this(), *signal);
        if *signal == Signal::SIGKILL {
            loop {
                std::thread::park();
            }
        }
    }
}
