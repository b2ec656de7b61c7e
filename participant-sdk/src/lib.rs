//! Take part in two-phase commit transactions over plain HTTP and JSON, and start them.
//!
//! # A service that takes part
//!
//! It says how its work is done; votes, locks, restarts and questions to the coordinator are the SDK's. What was staged
//! in `work` appears when the transaction commits, in every service or in none.
//!
//! ```no_run
//! # #[cfg(feature = "store")] mod service {
//! use unanimous_sdk::prelude::*;
//!
//! struct Accounts;
//!
//! impl Participant for Accounts {
//!     type Store = KvStore;
//!     async fn prepare(&self, branch: &BranchContext, work: &mut Work) -> Result<Vote, Refusal> {
//!         let (account, cents): (String, i64) = branch.payload()?;
//!         let balance = work.get_for_update::<i64>(&account).await?.ok_or("there is no such account")? + cents;
//!         if balance < 0 {
//!             return Err("overdrawn".into());
//!         }
//!         work.put(&account, &balance).await?;
//!         Ok(Vote::Prepared)
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let service = Service::start(Accounts, KvStore::open("./accounts")?, ServiceOptions::default())?;
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:8081").await?;
//!     Ok(axum::serve(listener, service.router()).await?)
//! }
//! # }
//! # fn main() {}
//! ```
//!
//! # An application that starts transactions
//!
//! ```no_run
//! # #[cfg(feature = "participant")] mod application {
//! use unanimous_sdk::client::{Client, Outcome};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let client = Client::new("http://127.0.0.1:7070")?;
//!     let outcome = client
//!         .begin()
//!         .branch("http://127.0.0.1:8081", &("alice", -500))
//!         .branch("http://127.0.0.1:8082", &("bob", 500))
//!         .commit()
//!         .await?;
//!     match outcome {
//!         Outcome::Committed(committed) => println!("paid, as outcome number {:?}", committed.info.sequence),
//!         Outcome::Aborted(aborted) => println!("not paid: {aborted}"),
//!         Outcome::Undecided(pending) => println!("not known yet: {pending}"),
//!     }
//!     Ok(())
//! }
//! # }
//! # fn main() {}
//! ```
//!
//! # Features
//!
//! `participant` (default): all but the built-in store. `store` (default): [`KvStore`](store::KvStore), on `RocksDB`.
//! Without them: [`protocol`] and [`branch`], which do no I/O.

pub mod branch;
#[doc(hidden)]
pub mod failpoint;
pub mod protocol;

#[cfg(feature = "participant")]
mod acknowledge;
#[cfg(feature = "participant")]
pub mod client;
#[cfg(feature = "participant")]
pub mod extract;
#[cfg(feature = "participant")]
mod http;
#[cfg(feature = "participant")]
mod inquiry;
#[cfg(feature = "participant")]
pub mod participant;
#[cfg(feature = "participant")]
pub mod server;
#[cfg(feature = "participant")]
pub mod store;

/// What most services need.
///
/// ```
/// use unanimous_sdk::prelude::*;
/// let vote = Vote::Prepared;
/// assert_ne!(vote, Vote::ReadOnly);
/// ```
#[cfg(feature = "participant")]
pub mod prelude {
    #[cfg(feature = "store")]
    pub use crate::store::{KvStore, Work};
    pub use crate::{
        client::{Client, Outcome},
        extract::InTransaction,
        participant::{BranchContext, Participant, Refusal, Retry},
        protocol::Vote,
        server::{Service, ServiceOptions},
    };
}
