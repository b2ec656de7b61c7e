//! How far a run of transfers is: a bar on a terminal, else a plain line halfway.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows how much of a number of things is done.
pub struct Progress {
    bar: ProgressBar,
    total: u64,
    done: u64,
    plain: bool,
}

impl Progress {
    /// Begins, with `total` things to do.
    pub fn new(total: usize) -> Self {
        let total = total as u64;
        let plain = !std::io::stdout().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stdout() };
        let style = ProgressStyle::with_template("   {bar:40} {pos}/{len} transfers, {elapsed}").ok();
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Some(style) = style {
            bar.set_style(style);
        }
        Self { bar, total, done: 0, plain }
    }

    /// One more is done.
    pub fn one_more(&mut self) {
        // What comes at the end is told by whoever counts.
        if self.plain && self.done + 1 == self.total.div_ceil(2) && self.total > 100 {
            println!("   {} of {} transfers", self.done + 1, self.total);
        }
        self.done += 1;
        self.bar.inc(1);
    }
}

/// The bar goes when what it showed is over.
impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
