//! Checks that everything can finish: from each state that can be reached, a finished one can be. (The checker's own
//! `eventually` asks for more, and can miss a loop; this is a backward pass over the whole graph.)

use std::{
    collections::{HashMap, VecDeque},
    fmt::Display,
    hash::{DefaultHasher, Hash, Hasher},
};

use stateright::Model;

/// A model that can finish.
pub trait Finishes: Model {
    /// Returns whether everything has ended, for good if nothing dies any more.
    fn is_done(&self, state: &Self::State) -> bool;
}

/// Every state that can be reached, by number, and from where.
pub struct Graph<A> {
    /// For each state the ones that lead to it; the first is how it was found.
    before: Vec<Vec<u32>>,
    done: Vec<bool>,
    /// What led from the first of those to it.
    by: Vec<Option<A>>,
}

/// Explores all of it.
pub fn explore<M: Finishes>(world: &M) -> Graph<M::Action>
where
    M::State: Hash,
    M::Action: Clone,
{
    let mut numbers: HashMap<u64, u32> = HashMap::new();
    let mut graph = Graph { before: vec![], done: vec![], by: vec![] };
    let mut queue = VecDeque::new();
    let fingerprint = |state: &M::State| {
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        hasher.finish()
    };
    for state in world.init_states() {
        numbers.insert(fingerprint(&state), graph.add(world.is_done(&state), None, None));
        queue.push_back((graph.last(), state));
    }
    let mut actions = vec![];
    while let Some((from, state)) = queue.pop_front() {
        world.actions(&state, &mut actions);
        for action in actions.drain(..) {
            let Some(next) = world.next_state(&state, action.clone()) else { continue };
            match numbers.entry(fingerprint(&next)) {
                std::collections::hash_map::Entry::Occupied(known) => graph.before[*known.get() as usize].push(from),
                std::collections::hash_map::Entry::Vacant(new) => {
                    let number = graph.add(world.is_done(&next), Some(from), Some(action));
                    new.insert(number);
                    queue.push_back((number, next));
                }
            }
        }
    }
    graph
}

impl<A> Graph<A> {
    fn add(&mut self, done: bool, from: Option<u32>, by: Option<A>) -> u32 {
        self.before.push(from.into_iter().collect());
        self.done.push(done);
        self.by.push(by);
        self.last()
    }

    fn last(&self) -> u32 {
        u32::try_from(self.before.len() - 1).expect("there are fewer states")
    }

    pub fn states(&self) -> usize {
        self.before.len()
    }

    /// How a state is reached from which no finished one can be; None if there is no such state.
    pub fn stuck(&self) -> Option<String>
    where
        A: Display,
    {
        let mut can = self.done.clone();
        let mut queue: Vec<u32> = (0u32..).zip(&can).filter(|(_, done)| **done).map(|(number, _)| number).collect();
        while let Some(number) = queue.pop() {
            for before in &self.before[number as usize] {
                if !can[*before as usize] {
                    can[*before as usize] = true;
                    queue.push(*before);
                }
            }
        }
        let mut number = can.iter().position(|can| !can)?;
        let mut path = vec![];
        while let Some(before) = self.before[number].first() {
            path.extend(self.by[number].as_ref().map(A::to_string));
            number = *before as usize;
        }
        path.reverse();
        Some(path.join("\n"))
    }
}
