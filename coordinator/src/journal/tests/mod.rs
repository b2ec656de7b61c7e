//! The log's tests: the rules of its contract, on real files, with real kills and real damage.

mod damage;
mod folder;
mod killed;
mod many;
mod memory;
mod place;
mod retention;
mod rules;
mod story;
mod values;
