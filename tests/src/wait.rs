//! Waiting for what must come, however slow the machine is.
//!
//! Always true: a wait that ends without its condition fails the test and says what was waited for.

use std::time::{Duration, Instant};

/// Nothing that works takes this long.
pub const BOUND: Duration = Duration::from_mins(2);

/// How often a condition is looked at.
pub const PAUSE: Duration = Duration::from_millis(10);

/// Waits until there is something, and gives it.
pub async fn until<T>(what: &str, mut there: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + BOUND;
    while Instant::now() < end {
        if let Some(found) = there().await {
            return found;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("waited {} s in vain until {what}", BOUND.as_secs());
}

/// Waits until something is so.
pub async fn until_so(what: &str, mut so: impl AsyncFnMut() -> bool) {
    until(what, async || so().await.then_some(())).await;
}

/// Time for what must not happen. A test may end in green too early by it, never in red.
pub async fn a_while() {
    tokio::time::sleep(Duration::from_millis(400)).await;
}
