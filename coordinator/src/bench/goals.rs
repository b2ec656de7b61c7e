//! What this coordinator is held to, and which figure meets it. Pure.
//!
//! Always true: a goal is held against the figure it was set for and no other; one whose figure wasn't measured isn't met.

use serde::Serialize;

/// What is compared with a floor, or with nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What, with its unit.
    pub figure: String,
    /// None where it is about no number of clients.
    pub clients: Option<usize>,
    /// None if it wasn't measured.
    pub value: Option<f64>,
    /// What it is compared with.
    pub floor: Option<f64>,
    /// Value by floor.
    pub ratio: Option<f64>,
    /// For the ratio, or for the value where there is no floor.
    pub goal: Option<f64>,
    /// What would be better still.
    pub stretch: Option<f64>,
    /// None where there is no goal.
    pub met: Option<bool>,
    /// Whether less is better.
    #[serde(skip)]
    pub at_most: bool,
}

/// A goal.
struct Goal {
    figure: &'static str,
    clients: Option<usize>,
    least_or_most: f64,
    stretch: Option<f64>,
    at_most: bool,
}

pub const SINGLE_TO_NULL: &str = "tx/s, single calls : null coordinator";
pub const BATCHING_TO_NULL: &str = "tx/s, batching : null coordinator";
pub const BATCHING_TO_BATCHING: &str = "tx/s, batching : batching null coordinator";
pub const INTERACTIVE_TO_NULL: &str = "tx/s, interactive, batching : null coordinator";
pub const ALONE: &str = "p50 in µs, single calls : null coordinator + one forced write";
pub const FORCED: &str = "forced writes a transaction, batching";
pub const HANG: &str = "p99 in µs, one participant of ten hangs : none does";
pub const READY: &str = "seconds until ready, all in doubt at SIGKILL : scan and decode";
pub const FINISH: &str = "tx/s, finishing those in doubt after SIGKILL : batching";
pub const MEMORY: &str = "bytes a live transaction of two branches";

const fn least(figure: &'static str, clients: Option<usize>, least_or_most: f64, stretch: Option<f64>) -> Goal {
    Goal { figure, clients, least_or_most, stretch, at_most: false }
}

const fn most(figure: &'static str, clients: Option<usize>, least_or_most: f64, stretch: Option<f64>) -> Goal {
    Goal { figure, clients, least_or_most, stretch, at_most: true }
}

const GOALS: &[Goal] = &[
    least(SINGLE_TO_NULL, Some(32), 0.9, Some(1.3)),
    least(SINGLE_TO_NULL, Some(128), 0.9, Some(1.3)),
    least(BATCHING_TO_NULL, Some(32), 3.5, None),
    least(BATCHING_TO_BATCHING, Some(32), 0.6, Some(0.75)),
    least(BATCHING_TO_NULL, Some(128), 5.0, None),
    least(BATCHING_TO_BATCHING, Some(128), 0.6, Some(0.75)),
    least(BATCHING_TO_NULL, Some(512), 6.0, None),
    least(BATCHING_TO_BATCHING, Some(512), 0.6, Some(0.75)),
    least(INTERACTIVE_TO_NULL, Some(32), 1.0, Some(1.5)),
    least(INTERACTIVE_TO_NULL, Some(128), 1.0, Some(1.5)),
    most(ALONE, Some(1), 1.1, None),
    most(FORCED, Some(128), 0.1, None),
    most(HANG, Some(super::hang::CLIENTS), 1.2, None),
    most(READY, None, 1.5, None),
    least(FINISH, None, 0.8, None),
    most(MEMORY, None, 1536.0, Some(600.0)),
];

impl Row {
    /// A value, and what it is compared with.
    pub fn new(figure: impl Into<String>, clients: Option<usize>, value: f64, floor: Option<f64>) -> Self {
        let ratio = floor.and_then(|floor| super::numbers::ratio(value, floor));
        let figure = figure.into();
        Self { figure, clients, value: Some(value), floor, ratio, goal: None, stretch: None, met: None, at_most: false }
    }

    fn judge(&mut self, goal: &Goal) {
        (self.goal, self.stretch, self.at_most) = (Some(goal.least_or_most), goal.stretch, goal.at_most);
        let wanted = goal.least_or_most;
        self.met = Some(self.held().is_some_and(|held| if goal.at_most { held <= wanted } else { held >= wanted }));
    }

    /// What the goal is about.
    pub fn held(&self) -> Option<f64> {
        self.ratio.or(self.value.filter(|_| self.floor.is_none()))
    }
}

/// Adds to each row its goal, and a row for each goal whose figure wasn't measured. Those with goals come first.
pub fn judge(mut rows: Vec<Row>) -> Vec<Row> {
    let mut judged = vec![];
    for goal in GOALS {
        let place = rows.iter().position(|row| row.figure == goal.figure && row.clients == goal.clients);
        let mut row = place.map_or_else(
            || Row { value: None, ..Row::new(goal.figure, goal.clients, 0.0, None) },
            |place| rows.remove(place),
        );
        row.judge(goal);
        judged.push(row);
    }
    judged.extend(rows);
    judged
}
