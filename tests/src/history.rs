//! What everybody said and did, held against the rules that make it one transaction system.
//!
//! Always true: it trusts nobody: what clients were told, what the coordinator shows in the end and what is in the
//! accounts are compared with each other.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

/// What a client was told of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Told {
    Committed,
    Aborted,
    /// There was no answer, or none that says how it ended.
    Unknown,
}

/// One amount on one account, by a transaction.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Move {
    pub account: String,
    pub cents: i64,
}

/// One transaction, from its client's side.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Attempt {
    pub transaction: String,
    /// What it does if it commits.
    pub moves: Vec<Move>,
    /// Every answer that a client got about it.
    pub told: Vec<Told>,
}

/// A rule that must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// All branches of a transaction end the same way, the decided one.
    Agreement,
    /// What a client was told never changes.
    ToldIsFinal,
    /// Everything ends.
    AllFinished,
    /// Every account holds what the committed transactions say, no more and no less.
    NoMoneyLost,
    /// No two decisions have the same place in the order of outcomes.
    OneOrder,
}

/// A rule that didn't hold.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Broken {
    pub rule: Rule,
    /// The transaction, or the account.
    pub by: String,
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is broken by {}: {}", self.rule, self.by, self.what)
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// What was tried.
    pub attempts: Vec<Attempt>,
    /// Each transaction, as the coordinator shows it in the end; none if it doesn't know it.
    pub shown: BTreeMap<String, Value>,
    /// The accounts before, and after: in cents.
    pub opening: BTreeMap<String, i64>,
    #[allow(missing_docs)]
    pub closing: BTreeMap<String, i64>,
}

impl History {
    /// Every rule that was broken, by whom.
    pub fn broken(&self) -> Vec<Broken> {
        let mut broken = vec![];
        let mut expected = self.opening.clone();
        let mut order: BTreeMap<u64, &str> = BTreeMap::new();
        for attempt in &self.attempts {
            let id = attempt.transaction.as_str();
            let mut found = |rule, what: String| broken.push(Broken { rule, by: id.to_owned(), what });
            let shown = self.shown.get(id);
            let decision = shown.and_then(|shown| shown["decision"].as_str());
            for told in &attempt.told {
                let contradicted = match told {
                    Told::Committed => decision != Some("commit"),
                    Told::Aborted => decision == Some("commit"),
                    Told::Unknown => false,
                };
                if contradicted {
                    found(Rule::ToldIsFinal, format!("a client was told {told:?}, and the decision is {decision:?}"));
                }
            }
            if let Some(shown) = shown {
                check_shown(shown, &mut found);
                if let Some(sequence) = shown["sequence"].as_u64()
                    && let Some(other) = order.insert(sequence, id)
                {
                    found(Rule::OneOrder, format!("its sequence {sequence} is that of {other}, too"));
                }
            }
            if decision == Some("commit") {
                for Move { account, cents } in &attempt.moves {
                    *expected.entry(account.clone()).or_default() += cents;
                }
            }
        }
        for (account, cents) in &expected {
            let found = self.closing.get(account);
            if found != Some(cents) {
                let what = format!("there should be {cents} cents in it, and there are {found:?}");
                broken.push(Broken { rule: Rule::NoMoneyLost, by: account.clone(), what });
            }
        }
        broken
    }

    /// Fails, and names all that is broken.
    pub fn assert_sound(&self) {
        let broken: Vec<String> = self.broken().iter().map(ToString::to_string).collect();
        assert!(broken.is_empty(), "of {} transactions:\n{}", self.attempts.len(), broken.join("\n"));
    }
}

/// Whether a transaction, as the coordinator shows it, has come to a clean end.
fn check_shown(shown: &Value, found: &mut impl FnMut(Rule, String)) {
    let state = shown["state"].as_str().unwrap_or_default();
    let decision = shown["decision"].as_str().unwrap_or_default();
    let (end, others): (_, &[&str]) = match (state, decision) {
        ("committed", "commit") => ("committed", &["read_only"]),
        // What was never told anything need not be told of an abort.
        ("aborted", "abort") => ("aborted", &["refused", "read_only"]),
        _ => return found(Rule::AllFinished, format!("it is {state}, and the decision is {decision}")),
    };
    for branch in shown["branches"].as_array().into_iter().flatten() {
        let at = branch["state"].as_str().unwrap_or_default();
        if at != end && !others.contains(&at) {
            found(Rule::Agreement, format!("it is {state}, and its branch {} is {at}", branch["branch"]));
        }
    }
    if shown["heuristic"] != false {
        found(Rule::Agreement, "a branch ended against the decision, or nobody knows how".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A transfer of 5 cents from a to b that went well.
    fn sound() -> History {
        let moves = vec![Move { account: "a".into(), cents: -5 }, Move { account: "b".into(), cents: 5 }];
        let branches = json!([{ "branch": "1", "state": "committed" }, { "branch": "2", "state": "committed" }]);
        let shown = json!({ "state": "committed", "decision": "commit", "sequence": 1, "heuristic": false, "branches": branches });
        let attempt = |id: &str, told| Attempt { transaction: id.into(), moves: moves.clone(), told: vec![told] };
        let accounts = |a, b| BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        History {
            attempts: vec![attempt("t", Told::Committed), attempt("never heard of", Told::Unknown)],
            shown: BTreeMap::from([("t".to_owned(), shown)]),
            opening: accounts(10, 10),
            closing: accounts(5, 15),
        }
    }

    fn rules(history: &History) -> Vec<Rule> {
        let mut rules: Vec<Rule> = history.broken().iter().map(|broken| broken.rule).collect();
        rules.dedup();
        rules
    }

    #[test]
    fn what_went_well_breaks_nothing() {
        assert_eq!(rules(&sound()), []);
    }

    #[test]
    fn a_branch_that_ended_otherwise_breaks_agreement() {
        let mut history = sound();
        history.shown.get_mut("t").unwrap()["branches"][1]["state"] = json!("aborted");
        assert_eq!(rules(&history), [Rule::Agreement]);
        let mut history = sound();
        history.shown.get_mut("t").unwrap()["heuristic"] = json!(true);
        assert_eq!(rules(&history), [Rule::Agreement]);
    }

    #[test]
    fn an_answer_that_is_contradicted_breaks_told_is_final() {
        let mut history = sound();
        history.attempts[0].told.push(Told::Aborted);
        assert_eq!(rules(&history), [Rule::ToldIsFinal]);
        let mut history = sound();
        history.attempts[1].told = vec![Told::Committed];
        assert_eq!(rules(&history), [Rule::ToldIsFinal]);
    }

    #[test]
    fn what_has_not_ended_breaks_all_finished() {
        let mut history = sound();
        history.shown.get_mut("t").unwrap()["state"] = json!("committing");
        assert_eq!(rules(&history), [Rule::AllFinished]);
    }

    #[test]
    fn a_cent_too_many_or_too_few_is_found_on_its_account() {
        for (account, cents) in [("a", 6), ("b", 14)] {
            let mut history = sound();
            history.closing.insert(account.to_owned(), cents);
            assert_eq!(rules(&history), [Rule::NoMoneyLost]);
            assert_eq!(history.broken()[0].by, account);
        }
    }

    #[test]
    fn a_place_in_the_order_belongs_to_one_transaction() {
        let mut history = sound();
        let shown = history.shown["t"].clone();
        history.shown.insert("never heard of".to_owned(), shown);
        history.closing = BTreeMap::from([("a".to_owned(), 0), ("b".to_owned(), 20)]);
        assert_eq!(rules(&history), [Rule::OneOrder]);
    }
}
