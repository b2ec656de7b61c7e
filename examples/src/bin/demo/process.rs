//! A process that the demo starts, stops, kills and starts again.
//!
//! Always true: it is gone when its [`Process`] is dropped, on whatever path that happens.

use std::{
    fs::File,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use rand::RngExt;
use unanimous_examples::service::Error;

/// How long anything may take before the demo gives up.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// What to run.
#[derive(Debug)]
pub struct Program {
    /// What people call it.
    pub name: &'static str,
    /// The binary.
    pub path: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where its standard output and error go, one run after the other.
    pub log: PathBuf,
}

/// A running process.
pub struct Process {
    program: Program,
    child: Child,
}

fn spawn(program: &Program) -> Result<Child, Error> {
    let log = File::options().create(true).append(true).open(&program.log)?;
    let mut command = Command::new(&program.path);
    command.args(&program.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // What is set for a coordinator of the user's own isn't meant for this one.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("UNANIMOUS_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.spawn().map_err(|error| format!("{} can't be started: {error}", program.path.display()).into())
}

impl Process {
    /// Starts it.
    pub fn start(program: Program) -> Result<Self, Error> {
        Ok(Self { child: spawn(&program)?, program })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) -> Result<Pid, Error> {
        // A child that wasn't waited for keeps its id, so nobody else can be hit.
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal).map_err(|error| format!("{} can't be sent {signal}: {error}", self.program.name))?;
        Ok(pid)
    }

    /// Stops it where it is (SIGSTOP): it does nothing more, and doesn't know it. Returns when it has stopped.
    pub fn freeze(&self) -> Result<(), Error> {
        let pid = self.signal(Signal::SIGSTOP)?;
        match waitpid(pid, Some(WaitPidFlag::WUNTRACED))? {
            WaitStatus::Stopped(..) => Ok(()),
            ended => Err(format!("{} has ended by itself: {ended:?}", self.program.name).into()),
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<(), Error> {
        self.signal(Signal::SIGCONT).map(|_| ())
    }

    /// `kill -9`, also of a stopped one. Returns when it is gone.
    pub fn kill(&mut self) -> Result<(), Error> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again, after it was killed, with the same arguments and data.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.child = spawn(&self.program)?;
        Ok(())
    }

    /// Returns when `url` answers 200, with the time that took.
    pub async fn ready(&mut self, http: &reqwest::Client, url: &str) -> Result<Duration, Error> {
        let began = Instant::now();
        loop {
            if http.get(url).send().await.is_ok_and(|response| response.status().is_success()) {
                return Ok(began.elapsed());
            }
            let name = self.program.name;
            if let Some(status) = self.child.try_wait()? {
                let log = std::fs::read_to_string(&self.program.log).unwrap_or_default();
                let last = log.lines().last().unwrap_or("it has said nothing");
                return Err(format!("the {name} has ended ({status}): {last}").into());
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("the {name} didn't get ready: {url} doesn't answer").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A free port. Below those that systems hand out to outgoing connections: a port of those could be taken by somebody
/// while its process is dead.
pub fn free_port() -> Result<u16, Error> {
    let mut rng = rand::rng();
    for _ in 0..1000 {
        let port = rng.random_range(20_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err("there is no free port between 20000 and 30000 on 127.0.0.1".into())
}
