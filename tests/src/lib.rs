//! The harness of the tests that need more than one process: coordinators, banks and participants that are started,
//! killed, stopped and started again, clients that talk to them, and a checker of what all of them said and did.
//!
//! Always true: real files, sockets and processes, on loopback addresses and in temporary folders only; nothing is
//! asserted on a clock: conditions are waited for, with bounds that only a fault reaches; what was started is ended when
//! it is dropped.

pub mod api;
pub mod bank;
pub mod binaries;
pub mod coordinator;
pub mod fuzz;
pub mod history;
pub mod local;
pub mod openapi;
pub mod participant;
pub mod process;
pub mod proxy;
pub mod server;
pub mod tellers;
pub mod wait;
pub mod wire;
