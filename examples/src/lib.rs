//! A bank in three services: how services that each keep their own data take part in one transaction.
//!
//! Start with [`bank`], a whole participant; [`fees`] is another. [`teller`] is the application that moves money between
//! them. [`service`] is what any HTTP service has, and the rest helps the programs in `src/bin`.
//!
//! Always true: money is whole cents; no account is ever below zero; the sum over all banks and the fee ledger never
//! changes, whatever is killed.

pub mod bank;
pub mod fees;
pub mod last_resort;
pub mod money;
pub mod progress;
pub mod service;
pub mod teller;
