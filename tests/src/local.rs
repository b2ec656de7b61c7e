//! A coordinator inside the test, which can be asked what its log has cost.

use clap::Parser;
use tempfile::TempDir;
use unanimous_coordinator::{
    config::{Cli, Command, Serve},
    serve::{self, Running},
};

use crate::api::Api;

/// See the module.
pub struct Local {
    running: Running,
    /// A client of it.
    pub api: Api,
    /// Last, so that it is there as long as the log is open.
    _home: TempDir,
}

impl Local {
    /// Starts one on an empty folder, at a free port.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with further flags.
    pub async fn start_with(flags: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a folder can be made");
        let running = serve::start(config(&home, flags)).await.expect("a coordinator starts");
        let api = Api::new(&format!("http://{}", running.address));
        Self { running, api, _home: home }
    }

    /// How many writes of the log were synced since the start.
    pub fn forced_writes(&self) -> u64 {
        self.running.log_stats().forced_writes
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // Its folder goes now, and a log whose files vanish ends its process.
        self.running.abandon();
    }
}

fn config(home: &TempDir, flags: &[&str]) -> Serve {
    let data = home.path().join("data");
    let args = ["unanimous", "serve", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().expect("a path is text")];
    let Command::Serve(config) = Cli::try_parse_from(args.iter().chain(flags)).expect("the flags are right").command
    else {
        panic!("serve was meant")
    };
    config
}
