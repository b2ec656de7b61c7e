//! A coordinator as a process of its own, on a folder and a port that it keeps over restarts.

use std::{path::Path, process::ExitStatus};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{
    api::Api,
    binaries::binary,
    process::{Process, Setup},
    server::free_port,
    wait,
};

/// See the module.
pub struct Coordinator {
    /// The present process, or the last one.
    pub process: Process,
    home: TempDir,
    listen: String,
    setup: Setup,
    /// A client of it.
    pub api: Api,
}

impl Coordinator {
    /// Starts one on an empty folder, and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same, with a point at which it kills itself.
    pub async fn start_to_die_at(failpoint: &str) -> Self {
        Self::start_with(Some(failpoint)).await
    }

    async fn start_with(failpoint: Option<&str>) -> Self {
        let home = tempfile::tempdir().expect("a folder can be made");
        let mut this = Self::spawn_first(home, Setup::default(), failpoint);
        this.ready().await;
        this
    }

    /// Starts one on what is in the folder `data` in this home, with this setup now and each time it is started again;
    /// it may not be ready yet.
    pub fn spawn_in(home: TempDir, setup: Setup) -> Self {
        Self::spawn_first(home, setup, None)
    }

    fn spawn_first(home: TempDir, setup: Setup, failpoint: Option<&str>) -> Self {
        let listen = format!("127.0.0.1:{}", free_port());
        let process = spawn(home.path(), &listen, &setup, failpoint);
        let api = Api::new(&format!("http://{listen}"));
        Self { process, home, listen, setup, api }
    }

    /// The folder of its log.
    pub fn data(&self) -> std::path::PathBuf {
        self.home.path().join("data")
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Starts it again after its end, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.spawn_again(None);
        self.ready().await;
    }

    /// The same, with a point at which it kills itself.
    pub async fn restart_to_die_at(&mut self, failpoint: &str) {
        self.spawn_again(Some(failpoint));
        self.ready().await;
    }

    /// Starts it again after its end; it may not be ready yet.
    pub fn spawn_again(&mut self, failpoint: Option<&str>) {
        assert!(self.process.poll().is_some(), "it still runs");
        self.process = spawn(self.home.path(), &self.listen, &self.setup, failpoint);
    }

    /// The same, with further flags for this one time.
    pub fn spawn_again_with(&mut self, flags: &[&str]) {
        assert!(self.process.poll().is_some(), "it still runs");
        let mut setup = self.setup.clone();
        setup.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self.process = spawn(self.home.path(), &self.listen, &setup, None);
    }

    /// Starts it again after its end with further flags, and waits until it is ready.
    pub async fn restart_with(&mut self, flags: &[&str]) {
        self.spawn_again_with(flags);
        self.ready().await;
    }

    /// Another process on the same folder, at another port.
    pub fn spawn_second(&self) -> Process {
        let listen = format!("127.0.0.1:{}", free_port());
        let log = self.home.path().join("second.log");
        let data = self.data();
        let args = ["serve", "--listen", &listen, "--data-dir", data.to_str().expect("a path is text")];
        Process::start(&binary("unanimous"), &args, None, &log)
    }

    /// Waits until it serves.
    pub async fn ready(&mut self) {
        let (api, process) = (&self.api, &mut self.process);
        wait::until_so("the coordinator is ready", async || {
            let ended = process.poll();
            assert!(ended.is_none(), "the coordinator ended at its start: {ended:?}\n{}", process.log());
            api.try_get("/readyz").await.is_ok_and(|answer| answer.status == 200)
        })
        .await;
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end with SIGTERM, and waits until it has.
    pub async fn stop(&mut self) -> ExitStatus {
        self.process.signal(Signal::SIGTERM);
        self.process.ended().await
    }
}

fn spawn(home: &Path, listen: &str, setup: &Setup, failpoint: Option<&str>) -> Process {
    let program = binary(if failpoint.is_some() { "unanimous-failpoints" } else { "unanimous" });
    let data = home.join("data");
    let args = ["serve", "--listen", listen, "--data-dir", data.to_str().expect("a path is text")];
    Process::start_with(&program, &args, &setup.clone().to_die_at(failpoint), &home.join("coordinator.log"))
}
