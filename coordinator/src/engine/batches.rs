//! What is known of a participant's batches: how many calls, and how many bytes, it takes in one request.
//!
//! The participant says the number of calls with a header on any answer, and the latest counts. A batch that is refused
//! stops batches for a minute or until the next header. If the first batch after that is refused as well, only the end of
//! a minute starts them again. Everything is judged when a request is made or an answer comes; there is no timer.

use super::Instant;
use crate::transport::BatchContext;

/// For so long no batch is sent after one was refused, and a bound that was learned from a 413 counts.
const PAUSE_MS: u64 = 60_000;

/// See the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batches {
    /// The latest header; None: there was none yet.
    offered: Option<usize>,
    standing: Standing,
    /// How often batches were started again: a batch of before says nothing of now.
    generation: u32,
    /// Calls of so many bytes together pass, as far as is known, and until when that counts.
    learned: Option<(usize, Instant)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// No batch was refused since one was taken.
    #[default]
    Open,
    /// Batches were started again, and none was taken yet.
    OnTrial,
    /// No batch is sent until then; a header ends it unless it is strict.
    Refused { until: Instant, strict: bool },
}

impl Batches {
    /// Returns how many calls a request may hold now; 1: no batches.
    pub(super) fn max_calls(&mut self, now: Instant) -> usize {
        match self.standing {
            Standing::Refused { until, .. } if now < until => return 1,
            Standing::Refused { .. } => self.start_again(),
            Standing::Open | Standing::OnTrial => {}
        }
        self.offered.unwrap_or(1).max(1)
    }

    /// Returns how many bytes the calls of a batch may take together, if a 413 has shown a bound lately.
    pub(super) fn learned_bytes(&mut self, now: Instant) -> Option<usize> {
        self.learned = self.learned.filter(|(_, until)| now < *until);
        self.learned.map(|(bytes, _)| bytes)
    }

    /// Returns what has to come back with a batch of so many bytes that is sent now.
    pub(super) fn context(&self, bytes: usize) -> BatchContext {
        BatchContext { bytes, generation: self.generation }
    }

    /// Takes a header: the participant takes so many calls in one request.
    pub(super) fn offered(&mut self, max: usize) {
        self.offered = Some(max);
        if let Standing::Refused { strict: false, .. } = self.standing {
            self.start_again();
        }
    }

    /// A batch was answered as something that does not exist here.
    pub(super) fn refused(&mut self, now: Instant, batch: BatchContext) {
        let strict = match self.standing {
            _ if batch.generation != self.generation => return,
            // One more that was under way.
            Standing::Refused { .. } => return,
            Standing::Open => false,
            Standing::OnTrial => true,
        };
        self.standing = Standing::Refused { until: now + PAUSE_MS, strict };
    }

    /// A batch was taken.
    pub(super) fn taken(&mut self, batch: BatchContext) {
        if self.standing == Standing::OnTrial && batch.generation == self.generation {
            self.standing = Standing::Open;
        }
    }

    /// A batch was too large: further ones are smaller for a while.
    pub(super) fn too_large(&mut self, now: Instant, batch: BatchContext) {
        let half = batch.bytes / 2;
        let known = self.learned_bytes(now).unwrap_or(usize::MAX);
        self.learned = Some((half.min(known), now + PAUSE_MS));
    }

    fn start_again(&mut self) {
        self.standing = Standing::OnTrial;
        self.generation = self.generation.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Instant = 60_000;

    /// Batches of at most ten, one of which was refused at 0.
    fn refused() -> Batches {
        let mut batches = Batches::default();
        batches.offered(10);
        batches.refused(0, batches.context(1));
        batches
    }

    #[test]
    fn latest_header_counts_and_below_two_means_single_calls() {
        let mut batches = Batches::default();
        assert_eq!(batches.max_calls(0), 1);
        for (header, calls) in [(100, 100), (3, 3), (1, 1), (0, 1), (7, 7)] {
            batches.offered(header);
            assert_eq!(batches.max_calls(0), calls, "{header}");
        }
    }

    #[test]
    fn refusal_ends_after_a_minute() {
        let mut batches = refused();
        assert_eq!(batches.max_calls(MINUTE - 1), 1);
        assert_eq!(batches.max_calls(MINUTE), 10);
    }

    #[test]
    fn refusal_ends_with_the_next_header() {
        let mut batches = refused();
        batches.offered(5);
        assert_eq!(batches.max_calls(1), 5);
    }

    #[test]
    fn second_refusal_in_a_row_outlasts_headers() {
        let mut batches = refused();
        batches.offered(5);
        batches.refused(10, batches.context(1));
        batches.offered(5);
        assert_eq!(batches.max_calls(9 + MINUTE), 1);
        assert_eq!(batches.max_calls(10 + MINUTE), 5);
        // The first after the minute is on trial, too.
        batches.refused(10 + MINUTE, batches.context(1));
        batches.offered(5);
        assert_eq!(batches.max_calls(11 + MINUTE), 1);
    }

    #[test]
    fn refusal_after_a_taken_batch_is_a_first_one() {
        let mut batches = refused();
        batches.offered(5);
        batches.taken(batches.context(1));
        batches.refused(10, batches.context(1));
        batches.offered(5);
        assert_eq!(batches.max_calls(11), 5);
    }

    #[test]
    fn refusal_of_an_earlier_batch_says_nothing_new() {
        let mut batches = Batches::default();
        batches.offered(10);
        let both = batches.context(1);
        batches.refused(0, both);
        batches.offered(10);
        batches.refused(1, both);
        assert_eq!(batches.max_calls(2), 10, "both were sent before the header came");
    }

    #[test]
    fn learned_bound_halves_and_is_forgotten() {
        let mut batches = Batches::default();
        assert_eq!(batches.learned_bytes(0), None);
        batches.too_large(0, batches.context(800));
        batches.too_large(0, batches.context(400));
        batches.too_large(1, batches.context(800));
        assert_eq!(batches.learned_bytes(MINUTE), Some(200), "the smallest counts");
        assert_eq!(batches.learned_bytes(1 + MINUTE), None);
    }
}
