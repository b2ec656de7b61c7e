//! A real process under test.
//!
//! Always true: it is dead when this is dropped, even if it was stopped; what it wrote is kept in a file, and shown when
//! the test fails.

use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait;

/// What a program is started with beside what it always needs, again each time.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Setup {
    pub flags: Vec<String>,
    pub environment: Vec<(String, String)>,
}

impl Setup {
    /// The same, with a point at which the program kills itself.
    #[must_use]
    pub fn to_die_at(mut self, failpoint: Option<&str>) -> Self {
        self.environment.extend(failpoint.map(|point| ("UNANIMOUS_FAILPOINT".to_owned(), point.to_owned())));
        self
    }
}

/// See the module.
pub struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    log: PathBuf,
}

impl Process {
    /// Starts a program. What it writes is added to the file `log`; `failpoint` is where it is to die, if it can.
    pub fn start(program: &Path, args: &[&str], failpoint: Option<&str>, log: &Path) -> Self {
        Self::start_with(program, args, &Setup::default().to_die_at(failpoint), log)
    }

    /// The same, with a setup.
    pub fn start_with(program: &Path, args: &[&str], setup: &Setup, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log file can be opened");
        let mut command = Command::new(program);
        for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("UNANIMOUS_")) {
            command.env_remove(variable);
        }
        let child = command
            .args(args)
            .args(&setup.flags)
            .envs(setup.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file can be shared"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{} can't be started: {error}", program.display()));
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, child, ended: None, log: log.to_owned() }
    }

    /// What it, and those before it with the same file, wrote.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How many bytes of memory it has.
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("Linux tells how it is");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process that runs has memory");
        let kib = line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
        kib.expect("it is given in KiB") * 1024
    }

    /// Sends it a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.poll().is_none() {
            let pid = i32::try_from(self.child.id()).expect("a process id fits");
            kill(Pid::from_raw(pid), signal).expect("a child can be sent signals");
        }
    }

    /// Stops all of it where it is (SIGSTOP), until [`Process::go_on`]. Nothing of it moves any more when this returns.
    pub async fn pause(&mut self) {
        self.signal(Signal::SIGSTOP);
        let threads = format!("/proc/{}/task", self.child.id());
        wait::until_so("every thread is stopped", async || {
            let mut threads = fs::read_dir(&threads).expect("Linux lists its threads").flatten();
            threads.all(|thread| {
                let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
                status.is_empty() || status.contains("State:\tT")
            })
        })
        .await;
    }

    /// Lets it go on.
    pub fn go_on(&mut self) {
        self.signal(Signal::SIGCONT);
    }

    /// Kills it, so that nothing of it is left when this returns.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended = Some(self.child.wait().expect("a child can be waited for"));
    }

    /// How it ended, if it has.
    pub fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child can be asked for");
        }
        self.ended
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("{} ends by itself", self.name);
        wait::until(&what, async || self.poll()).await
    }

    /// Waits until it has died of SIGKILL at its failpoint.
    pub async fn killed(&mut self) {
        let ended = self.ended().await;
        assert_eq!(
            ended.signal(),
            Some(Signal::SIGKILL as i32),
            "{} ended otherwise: {ended}\n{}",
            self.name,
            self.log()
        );
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- the end of what {} wrote:\n{}",
                self.name,
                lines[lines.len().saturating_sub(40)..].join("\n")
            );
        }
    }
}
